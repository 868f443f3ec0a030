"""Tests of the checkers: each finds the violation that was planted for it, and is silent without one."""

from __future__ import annotations

from pathlib import Path

from faults.history import (
    Kill,
    Line,
    Pen,
    finished_twice,
    lines_of,
    lost,
    miscounted,
    never_run,
    read_lines,
    said,
    unasked,
    unexplained_repeats,
)

SOUND = [
    Line(1.0, 10, "added", "a"),
    Line(1.1, 10, "added", "b"),
    Line(1.2, 20, "started", "a"),
    Line(1.3, 20, "finished", "a"),
    Line(1.4, 20, "started", "b"),
    Line(3.0, 21, "started", "b"),
    Line(3.1, 21, "finished", "b"),
]
KILLS = [Kill(20, 1.5)]


def test_a_sound_history_has_no_complaint() -> None:
    assert lost(SOUND, ["a", "b"]) == []
    assert unasked(["a", "b", "c"], ["a", "b"]) == []
    assert finished_twice(["a", "b"], {"a": 1, "b": 1}) == []
    assert never_run(SOUND, ["a", "b"]) == []
    assert unexplained_repeats(SOUND, KILLS) == []
    assert miscounted({"completed": 2, "failed": 0}, {"completed": 2}) == []


def test_a_dropped_job_is_found() -> None:
    assert lost(SOUND, ["a"]) == ["b was acknowledged and has not completed"]


def test_a_job_that_nobody_added_is_found() -> None:
    assert unasked(["a"], ["a", "b"]) == ["b is there, and nobody added it"]


def test_a_doubled_finish_is_found() -> None:
    assert finished_twice(["a", "b", "a"], {"a": 1, "b": 1}) == ["a ended 2 times in the event log"]


def test_a_dropped_event_is_found() -> None:
    assert finished_twice(["a"], {"a": 1, "b": 1}) == ["b has ended without an event"]


def test_an_attempt_too_many_is_found() -> None:
    assert finished_twice(["a"], {"a": 2}) == ["a counts 2 attempts"]


def test_a_completion_without_a_run_is_found() -> None:
    cut_short = [line for line in SOUND if (line.what, line.job_id) != ("finished", "b")]

    assert never_run(cut_short, ["a", "b"]) == ["b has completed without a run"]


def test_a_repeat_without_a_kill_is_found() -> None:
    assert len(unexplained_repeats(SOUND, [])) == 1


def test_a_repeat_before_the_kill_is_found() -> None:
    assert len(unexplained_repeats(SOUND, [Kill(20, 3.5)])) == 1


def test_a_repeat_after_the_kill_of_another_process_is_found() -> None:
    assert len(unexplained_repeats(SOUND, [Kill(21, 1.5)])) == 1


def test_a_count_that_is_off_is_found() -> None:
    assert miscounted({"active": 1}, {"active": 0}) == ["1 jobs are counted as active, and 0 are there"]


def test_a_line_that_is_cut_off_was_not_said() -> None:
    assert lines_of("1.0 10 added a\n1.1 10 add") == [Line(1.0, 10, "added", "a")]


def test_what_a_pen_tells_can_be_read(tmp_path: Path) -> None:
    Pen(tmp_path / "history").tell("added", "a")
    Pen(tmp_path / "history").tell("added", "b")

    assert said(read_lines(tmp_path / "history"), "added") == ["a", "b"]
