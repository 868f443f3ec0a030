"""Run the examples of one page, top to bottom, in one namespace: `python -m docs.run_page PAGE`.

The working directory is the reader's: blocks that begin with `# name.py` are written there and imported, and those that
begin with `// name.mjs` are written there for Node. A worker that a page starts, of either, runs until the page ends.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import inspect
import io
import shlex
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

from docs.pages import Block, blocks


class Page:
    """A page while it runs."""

    def __init__(self, path: Path, runner: asyncio.Runner) -> None:
        self._path = path
        self._runner = runner
        self._namespace: dict[str, Any] = {"__name__": "__main__"}
        self._scripts: dict[str, Block] = {}
        self.workers: list[subprocess.Popen[str]] = []

    def run(self) -> None:
        """Run all blocks."""
        for block in blocks(self._path):
            if block.info == "python":
                self._python(block)
            elif block.info == "python no-run":
                self._compiled(block)
            elif block.info == "js" and block.script is not None:
                self._scripts[block.script] = block
                Path(block.script).write_text(block.text, encoding="utf-8")
            elif block.info == "console":
                for command in block.commands:
                    self._command(command)

    def _python(self, block: Block) -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            if block.module is None:
                self._execute(block)
            else:
                self._import(block, block.module)
        self._compared(block, said.getvalue())

    def _compared(self, block: Block, said: str) -> None:
        lines = [line.rstrip() for line in said.splitlines()]
        if block.says and lines != block.says:
            raise AssertionError(f"{self._path}:{block.line} prints\n{lines}\nand its comments say\n{block.says}")

    def _import(self, block: Block, name: str) -> None:
        Path(f"{name}.py").write_text(block.text, encoding="utf-8")
        module = importlib.import_module(name)
        self._namespace |= {key: value for key, value in vars(module).items() if not key.startswith("__")}

    def _execute(self, block: Block) -> None:
        waiting = eval(self._compiled(block), self._namespace)
        if inspect.isawaitable(waiting):

            async def awaited() -> None:
                await waiting

            self._runner.run(awaited())

    def _compiled(self, block: Block) -> Any:
        """The block's code, with the lines of the page, and `await` allowed outside of functions."""
        text = "\n" * (block.line - 1) + block.text
        return compile(text, str(self._path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)

    def _command(self, command: str) -> None:
        words = shlex.split(command)
        if words[:2] == ["toril", "worker"]:
            self.workers.append(_worker(words))
        elif words[0] == "toril":
            _finished(words)
        elif words[0] == "python":
            _finished([sys.executable, *words[1:]])
        elif words[0] == "node":
            script = self._scripts[words[1]]
            if " serves " in script.text:
                self.workers.append(_worker(words))
            else:
                self._compared(script, _finished(words))


def _finished(words: list[str]) -> str:
    """What a command prints that ends well."""
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise AssertionError(f"{shlex.join(words)} ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    return ran.stdout


def _worker(words: list[str]) -> subprocess.Popen[str]:
    """A worker that has said that it serves."""
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        if " serves " in line:
            return process
    raise AssertionError(f"{shlex.join(words)} ended with {process.wait()}:\n{''.join(said)}")


@contextlib.contextmanager
def _ended(workers: list[subprocess.Popen[str]]) -> Generator[None, None, None]:
    """Stop the workers of a page, and see that each ends well."""
    try:
        yield
    finally:
        for process in workers:
            process.terminate()
        told = [(process.communicate()[1], process.returncode) for process in workers]
    for said, code in told:
        if code:
            raise AssertionError(f"a worker of the page ended with {code}:\n{said}")


def main(path: Path) -> None:
    """Run one page."""
    with asyncio.Runner() as runner:
        page = Page(path, runner)
        with _ended(page.workers):
            page.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
