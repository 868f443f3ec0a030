"""The examples of the documentation run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from docs.pages import PAGES, ROOT, blocks, name_of

RUNNING = [page for page in PAGES if any(block.info in ("python", "console") for block in blocks(page))]


@pytest.mark.parametrize("page", RUNNING, ids=name_of)
def test_the_examples_of_a_page_run_and_print_what_they_say(page: Path, tmp_path: Path) -> None:
    environment = {
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT / "tests"),
        "TORIL_URL": f"sqlite:///{tmp_path / 'toril.db'}",
    }

    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "docs.run_page", page],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_few_examples_are_left_unrun() -> None:
    unrun = [name_of(page) for page in PAGES for block in blocks(page) if "no-run" in block.info]

    assert len(unrun) <= 2, unrun


def test_every_block_says_what_it_is() -> None:
    known = {"python", "python no-run", "console", "bash", "text", "toml", ""}

    strange = {(name_of(page), block.line): block.info for page in PAGES for block in blocks(page)}

    assert {where: info for where, info in strange.items() if info not in known} == {}
