"""The states of a job, and every legal move between them."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """Where a job stands. Paused is a flag of the queue, not a state of its jobs."""

    WAITING = "waiting"
    PRIORITIZED = "prioritized"
    DELAYED = "delayed"
    ACTIVE = "active"
    WAITING_CHILDREN = "waiting-children"
    COMPLETED = "completed"
    FAILED = "failed"


CLAIMABLE = (State.WAITING, State.PRIORITIZED)
FINISHED = (State.COMPLETED, State.FAILED)


class Move(NamedTuple):
    """One legal step of a job: `None` before it exists and after it is gone."""

    operation: str
    before: State | None
    after: State | None


def _moves() -> frozenset[Move]:
    waiting, prioritized, delayed, active, children, completed, failed = State
    ready = (waiting, prioritized)
    table: list[tuple[str, tuple[State | None, ...], tuple[State | None, ...]]] = [
        ("add", (None,), (waiting, prioritized, delayed, children)),
        ("claim", (waiting, prioritized, delayed), (active,)),
        ("completed", (active,), (completed, None)),
        ("failed", (active,), (failed, None)),
        ("retried", (active,), (delayed, *ready)),
        ("delayed", (active,), (delayed,)),
        ("throttled", (active,), ready),
        ("released", (active,), ready),
        ("awaiting-children", (active,), (children, active)),
        ("child-settled", (children,), (*ready, delayed)),
        ("recover", (active,), (waiting,)),
        ("promote", (delayed,), ready),
        ("retry", (completed, failed), (*ready, children)),
        ("cancel", (*ready, delayed, children), (failed,)),
        ("expire", (*ready, delayed, children), (failed,)),
        ("prioritize", ready, ready),
        ("remove", (*ready, delayed, active, children, completed, failed), (None,)),
    ]
    return frozenset(Move(name, a, b) for name, before, after in table for a in before for b in after)


MOVES: frozenset[Move] = _moves()
"""Every legal move. Documentation, messages and the model test are made from it."""


def legal(before: State | None, after: State | None) -> bool:
    """Say whether any operation may take a job from `before` to `after`."""
    return before == after or any(move.before == before and move.after == after for move in MOVES)
