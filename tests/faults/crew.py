"""Child processes on one store file, the history they write, and the faults that are done to them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from faults.history import Kill, Line, Pen, lines_of

PATIENCE_S = 60.0
TESTS = Path(__file__).resolve().parent.parent
PYTHONPATH = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])


class Crew:
    """Programs of `faults.programs`, each in a process of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store_path = directory / "toril.db"
        self.history_path = directory / "history"
        self.history_path.touch()
        self.kills: list[Kill] = []
        self.lines: list[Line] = []
        self.children: list[subprocess.Popen[bytes]] = []
        self._ear, self._bell = os.pipe()
        self._unread = 0
        self._counts: Counter[tuple[str, int | None]] = Counter()

    # ---------------------------------------------------------------- starting and ending

    def start(
        self,
        program: str,
        *,
        environment: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
        **settings: Any,
    ) -> subprocess.Popen[bytes]:
        """Start a program, by the command `within` if given; what it prints goes to a file."""
        given = {"path": str(self.store_path), "history": str(self.history_path), "bell": self._bell, **settings}
        with (self.directory / f"{program}-{len(self.children)}.err").open("wb") as err:
            child = subprocess.Popen(
                [*within, sys.executable, "-m", "faults.programs", program, json.dumps(given)],
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": PYTHONPATH, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=err,
                stderr=err,
                pass_fds=(self._bell,),
            )
        self.children.append(child)
        return child

    def kill(self, child: subprocess.Popen[bytes]) -> None:
        """End a child without a last word."""
        self.kills.append(Kill(child.pid, time.monotonic()))
        child.kill()
        child.wait()

    def kill_when_ready(self, child: subprocess.Popen[bytes]) -> None:
        """Kill a child as soon as it says that it is ready."""
        self.until(lambda: self.count("ready", child.pid) > 0)
        self.kill(child)

    def stop(self, child: subprocess.Popen[bytes]) -> int:
        """Ask a child to end; its status."""
        child.send_signal(signal.SIGTERM)
        return child.wait(PATIENCE_S)

    def close(self) -> None:
        """End whoever is left."""
        for child in self.children:
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(signal.SIGCONT)
                child.kill()
            child.wait()
        os.close(self._ear)
        os.close(self._bell)

    # ---------------------------------------------------------------- waiting and reading

    def until(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Return once what the children have said so far makes the condition true."""
        deadline_s = time.monotonic() + patience_s
        self.listen()
        while not condition():
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, (
                f"nothing came of it in {patience_s:g} s; the last words: {self.lines[-5:]}\n{self.errors()}"
            )
            if select.select([self._ear], [], [], min(left_s, 1.0))[0]:
                os.read(self._ear, 65536)
            self.listen()

    def listen(self) -> None:
        """Read on in the history."""
        with self.history_path.open("rb") as history:
            history.seek(self._unread)
            text = history.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._unread += len(whole)
        for line in lines_of(whole.decode()):
            self.lines.append(line)
            self._counts[line.what, None] += 1
            self._counts[line.what, line.pid] += 1

    def pen(self) -> Pen:
        """To write into the history oneself."""
        return Pen(self.history_path, self._bell)

    def forget(self) -> None:
        """Begin a new history, when no child writes any more."""
        os.truncate(self.history_path, 0)
        self.lines.clear()
        self._counts.clear()
        self._unread = 0

    def count(self, what: str, pid: int | None = None) -> int:
        """How often something was said, by one child or by all."""
        return self._counts[what, pid]

    def last(self, what: str) -> Line:
        """The line that said it last."""
        return next(line for line in reversed(self.lines) if line.what == what)

    def child_of(self, line: Line) -> subprocess.Popen[bytes]:
        """Who said it."""
        return next(child for child in self.children if child.pid == line.pid)

    def errors(self) -> str:
        """What the children have printed."""
        return "".join(path.read_text(encoding="utf-8") for path in sorted(self.directory.glob("*.err")))


@contextlib.contextmanager
def crew(directory: Path) -> Generator[Crew]:
    """A crew whose processes end with the block."""
    directory.mkdir(parents=True, exist_ok=True)
    hired = Crew(directory)
    try:
        yield hired
    finally:
        hired.close()


def moment(seconds: float) -> None:
    """Let a moment pass. Only for faults, whose moment is drawn, or whose length is the fault: never to wait for something."""
    select.select([], [], [], seconds)
