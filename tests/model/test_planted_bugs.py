"""A test of the model test: a store with a bug planted in it does not pass the rules of its theme."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from model.families import Families
from model.histories import run_histories
from model.machine import Machine
from model.schedules import Schedules
from model.windows import Windows
from sizes import size
from toril.model import ScheduleRecord
from toril.states import State
from toril.stores.sqlite.transaction import SQL, QueueRow
from toril.stores.sqlite.verbs import claim, schedules

Plant = Callable[[pytest.MonkeyPatch], None]


def _replace(statement: str, old: str, new: str) -> Plant:
    """Plant a bug in the text of a statement."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        assert old in SQL[statement], f"{statement} has changed: plant the bug anew"
        patch.setitem(SQL, statement, SQL[statement].replace(old, new))

    return plant


def _a_requeued_job_is_still_counted_as_active(patch: pytest.MonkeyPatch) -> None:
    moved = QueueRow.moved

    def forgetful(queue: QueueRow, before: str | None, after: str | None, count: int = 1) -> None:
        requeued = before == State.ACTIVE and after not in (State.COMPLETED, State.FAILED, None)
        moved(queue, None if requeued else before, after, count)

    patch.setattr(QueueRow, "moved", forgetful)


def _claim_takes_no_notice_of_a_pause(patch: pytest.MonkeyPatch) -> None:
    claim_queue: Any = vars(claim)["_claim_queue"]

    def heedless(tx: Any, queue: QueueRow, *rest: Any) -> Any:
        paused, queue.paused = queue.paused, 0
        try:
            return claim_queue(tx, queue, *rest)
        finally:
            queue.paused = paused

    patch.setattr(claim, "_claim_queue", heedless)


def _an_iteration_is_made_by_whoever_asks(patch: pytest.MonkeyPatch) -> None:
    traits = vars(schedules)["_traits"]

    def forgetful(record: ScheduleRecord) -> tuple[Any, ...]:
        return tuple(trait for trait in traits(record) if trait != record.next_at_ms)

    patch.setattr(schedules, "_traits", forgetful)


BUGS: dict[str, tuple[type[Machine], Plant]] = {
    "settle does not check the token": (Machine, _replace("settle.verify", " AND job.token = b.value ->> 1", "")),
    "a requeued job is still counted as active": (Machine, _a_requeued_job_is_still_counted_as_active),
    "claim takes no notice of a pause": (Machine, _claim_takes_no_notice_of_a_pause),
    "claim serves the newest first": (
        Machine,
        _replace("claim.pick", "ORDER BY rank, place", "ORDER BY rank, place DESC"),
    ),
    "a lapsed lock is recovered on sight": (Machine, _replace("recover.lapsed", "AND suspect = 1 ", "")),
    "a parent is released by its first child": (
        Families,
        _replace("settle.parent", "pending = pending - 1", "pending = 0"),
    ),
    "a retried child is not waited for again": (
        Families,
        _replace("job.reattach", "state <> 'pending'", "state = 'ended'"),
    ),
    "a deduplication id outlives its time": (
        Windows,
        _replace("deduplication.owner", "d.until_ms > :now", "d.until_ms > 0"),
    ),
    "what was kept for later is forgotten": (
        Windows,
        _replace("deduplication.keep", "INSERT OR REPLACE", "INSERT OR IGNORE"),
    ),
    "an iteration is made by whoever asks": (Schedules, _an_iteration_is_made_by_whoever_asks),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_model_finds_a_planted_bug(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, plant = BUGS[bug]
    plant(monkeypatch)

    with pytest.raises(AssertionError):
        run_histories(examples=size("planted_bug_examples"), steps=size("model_steps"), shrink=False, machine=machine)
