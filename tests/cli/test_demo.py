"""`toril demo`: a flow over the files of a folder, a recurring report, and every job accounted for."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.running import run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three Python files, of which one cannot be parsed."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "one.py").write_text("def one():\n    return 1\n")
    (folder / "two.py").write_text("import os\n\n\nclass Two:\n    pass\n")
    (folder / "broken.py").write_text("def (:\n")
    return folder


def test_the_demo_adds_up_what_its_children_counted_and_accounts_for_every_job(tmp_path: Path, folder: Path) -> None:
    answer = run(tmp_path, "demo", str(folder), "--json")

    summary = answer.json
    assert answer.code == 0, answer
    assert summary["problems"] == []
    size = sum((folder / name).stat().st_size for name in ("one.py", "two.py"))
    assert summary["figures"] == {
        "files": 2, "lines": 7, "functions": 1, "classes": 1, "imports": 1, "bytes": size
    }  # fmt: skip
    assert summary["counts"]["completed"] == 5  # two files, their sum, the job that fails twice, the delayed one
    assert [text.split(":")[0].split("/")[0] for text in summary["failed"]] == ["demo-files", "demo-cases"]
    assert summary["reports"] >= 2


def test_the_demo_begins_anew_once_it_has_ended(tmp_path: Path, folder: Path) -> None:
    run(tmp_path, "demo", str(folder), "--once")

    answer = run(tmp_path, "demo", str(folder), "--once")

    assert answer.code == 0, answer
    assert "2 files parsed" in answer.out
    assert "Every job is accounted for." in answer.out


def test_the_flow_of_the_demo_can_be_drawn(tmp_path: Path, folder: Path) -> None:
    flow = run(tmp_path, "demo", str(folder), "--json").json["flow"]

    drawn = run(tmp_path, "--url", "sqlite:///toril-demo.db", "flow", flow).out

    assert "add-up" in drawn
    assert drawn.count("parse-file") == 3
