"""The examples of the documentation run, on each store on which what they say is so."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.pages import PAGES, REDIS_PAGES, ROOT, blocks, name_of

RUNNING = [page for page in PAGES if any(block.info in ("python", "console") for block in blocks(page))]
ON_ANY_STORE = [page for page in RUNNING if page not in REDIS_PAGES]
NODE_MODULES = ROOT / "tests" / "interop" / "node" / "node_modules"

_databases = itertools.cycle(range(1, 16))


@pytest.fixture
def redis_database(redis_url: str) -> str:
    """A database of Redis in which nobody has been before."""
    return f"{redis_url.rpartition('/')[0]}/{next(_databases)}"


@pytest.mark.parametrize("page", ON_ANY_STORE, ids=name_of)
def test_the_examples_of_a_page_run_and_print_what_they_say(page: Path, tmp_path: Path) -> None:
    run(page, tmp_path, TORIL_URL=f"sqlite:///{tmp_path / 'toril.db'}")


@pytest.mark.parametrize("page", ON_ANY_STORE, ids=name_of)
def test_the_same_examples_run_on_redis(page: Path, tmp_path: Path, redis_database: str) -> None:
    run(page, tmp_path, TORIL_URL=redis_database)


@pytest.mark.parametrize("page", REDIS_PAGES, ids=name_of)
def test_the_examples_about_redis_run_with_toril_and_node(page: Path, tmp_path: Path, redis_database: str) -> None:
    if any(block.info == "js" for block in blocks(page)):
        _give_bullmq(tmp_path)

    run(page, tmp_path, REDIS_URL=redis_database)


def _give_bullmq(directory: Path) -> None:
    """Let scripts in a directory import the real BullMQ."""
    if shutil.which("node") is None or not (NODE_MODULES / "bullmq").is_dir():
        sentence = "the real BullMQ is not installed: `tools/setup.sh test` installs it"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    (directory / "node_modules").symlink_to(NODE_MODULES)


def run(page: Path, directory: Path, **store: str) -> None:
    """Run a page in a process of its own, which is told by its environment where jobs are."""
    environment = {
        "HOME": str(directory),
        "LANG": "C.UTF-8",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT / "tests"),
        **store,
    }

    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "docs.run_page", page],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_what_many_examples_print_is_compared() -> None:
    saying = [block for page in PAGES for block in blocks(page) if block.says]

    assert len(saying) > 30


def test_few_examples_are_left_unrun() -> None:
    unrun = [name_of(page) for page in PAGES for block in blocks(page) if "no-run" in block.info]

    assert len(unrun) <= 2, unrun


def test_every_block_says_what_it_is() -> None:
    known = {"python", "python no-run", "console", "bash", "text", "toml", "js", ""}

    strange = {(name_of(page), block.line): block.info for page in PAGES for block in blocks(page)}

    assert {where: info for where, info in strange.items() if info not in known} == {}
