"""A test of the model test: a store with a bug planted in it does not pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from model.machine import run_histories
from sizes import size
from toril.states import State
from toril.stores.sqlite.transaction import SQL, QueueRow
from toril.stores.sqlite.verbs import claim

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


BUGS: dict[str, Plant] = {
    "settle does not check the token": _replace("settle.verify", " AND job.token = b.value ->> 1", ""),
    "a requeued job is still counted as active": _a_requeued_job_is_still_counted_as_active,
    "claim takes no notice of a pause": _claim_takes_no_notice_of_a_pause,
    "claim serves the newest first": _replace("claim.pick", "ORDER BY rank, place", "ORDER BY rank, place DESC"),
    "a lapsed lock is recovered on sight": _replace("recover.lapsed", "AND suspect = 1 ", ""),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_model_finds_a_planted_bug(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[bug](monkeypatch)

    with pytest.raises(AssertionError):
        run_histories(examples=size("planted_bug_examples"), steps=size("model_steps"), shrink=False)
