"""When a schedule is due, and what becomes of runs that were missed or that meet one another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

MISSED_AFTER_MS: Final = 60_000
"""A run that starts this long after its time counts as missed."""


class Missed(StrEnum):
    """What becomes of runs whose time passed while no worker was there."""

    SKIP = "skip"  # none of them runs
    ONCE = "once"  # one runs, late, for all of them
    ALL = "all"  # each runs, late, one after the other


class Overlap(StrEnum):
    """What becomes of a run whose time comes while the one before it has not ended."""

    ALLOW = "allow"  # they run side by side
    SKIP = "skip"  # it does not run
    QUEUE = "queue"  # it runs when the other has ended; the times that pass meanwhile count as missed


P = TypeVar("P", Missed, Overlap)


def policy_named(kind: type[P], text: object, default: P) -> P:
    """A policy by its word; the default for a word of a later Toril."""
    return next((policy for policy in kind if policy.value == text), default)


@dataclass(frozen=True, slots=True)
class Timing:
    """Made by `cron(…)` or `every(…)`: exactly one of `pattern` and `every_ms` is set.

    `offset_ms` moves the times of `every`, which else begin with the moment at which the schedule is put. With
    `immediately`, the first run of a pattern is now. After `limit` runs, or `end_at_ms`, there is none any more.
    """

    pattern: str | None = None
    tz: str | None = None
    every_ms: int | None = None
    offset_ms: int | None = None
    limit: int | None = None
    start_at_ms: int | None = None
    end_at_ms: int | None = None
    immediately: bool = False
    missed: Missed = Missed.ONCE
    overlap: Overlap = Overlap.ALLOW
