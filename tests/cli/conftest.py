"""The command in this process, in a directory of its own, told nothing by the environment."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.running import JOBS, Answer, Toril, environment
from toril.cli.main import main


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the command."""
    clean = environment(tmp_path)
    for name in os.environ.keys() - clean.keys():
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def toril(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Toril:
    """Calls `main`; `given` is what it reads from its standard input, which may be a person's `terminal`."""

    def call(*arguments: str, given: str = "", terminal: bool = False) -> Answer:
        stdin = io.StringIO(given)
        monkeypatch.setattr(stdin, "isatty", lambda: terminal)
        monkeypatch.setattr(sys, "stdin", stdin)
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return call


@pytest.fixture
def jobs_py(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `jobs` with an app in the working directory."""
    path = home / "jobs.py"
    path.write_text(JOBS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "jobs", raising=False)
    yield path
    sys.modules.pop("jobs", None)


@pytest.fixture
def quiet_root() -> Iterator[None]:
    """Gives the root logger back as it was; a worker takes it over."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
