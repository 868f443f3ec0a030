"""How many more jobs a worker has room for, and which of its queues may have some."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from toril.model import Claimed, Slots, Wanted
from toril.options import RateLimit


@dataclass(slots=True)
class _Queue:
    """A queue as the worker's capacity sees it."""

    name: str
    limiter: RateLimit | None
    free: int
    ripe: bool = True  # whether asking it may bring something
    rings: int = 0  # how often the bell has rung
    until_ms: int | None = None  # when it becomes ripe by itself


class Capacity:
    """Free slots per queue. A wish reserves them until its answer comes, so that two round trips never ask for the same."""

    def __init__(self, worker: str, lock_ms: int, queues: Sequence[tuple[str, int, RateLimit | None]]) -> None:
        self._worker = worker
        self._lock_ms = lock_ms
        self._tokens = itertools.count()
        self._heard: dict[str, dict[str, int]] = {}  # the rings before each wish that is under way
        self._queues = {name: _Queue(name, limiter, free) for name, free, limiter in queues}
        self.closed = False
        self.changed = asyncio.Event()  # set when the claimer has something to do, or another moment to wait for

    def wanted(self, share: int = 1) -> Wanted | None:
        """A wish for what there is room for in queues that may have something, or one part of `share`; None for nothing."""
        if self.closed:
            return None
        slots: list[Slots] = []
        for queue in self._queues.values():
            if queue.ripe and queue.free > 0:
                part = -(-queue.free // share)
                slots.append(Slots(queue.name, part, queue.limiter))
                queue.free -= part
        if not slots:
            return None
        token = f"{self._worker}:{next(self._tokens)}"
        self._heard[token] = {queue.queue: self._queues[queue.queue].rings for queue in slots}
        return Wanted(self._worker, token, self._lock_ms, tuple(slots))

    def brought(self, wanted: Wanted, claimed: Claimed) -> None:
        """Note the answer to a wish."""
        heard = self._heard.pop(wanted.token)
        taken: dict[str, int] = {}
        for claim in claimed.claims:
            taken[claim.ref.queue] = taken.get(claim.ref.queue, 0) + 1
        for slots in wanted.slots:
            queue = self._queues[slots.queue]
            queue.free += slots.free - taken.get(slots.queue, 0)
            idle = claimed.idle.get(slots.queue)
            if idle is not None:  # what rang while the question was under way may have come after the look
                queue.ripe, queue.until_ms = queue.rings != heard[slots.queue], idle.until_ms
            if queue.ripe or idle is not None:
                self.changed.set()

    def freed(self, name: str) -> None:
        """A job's slot is free again."""
        queue = self._queues[name]
        queue.free += 1
        if queue.ripe:
            self.changed.set()

    def awaited(self) -> list[str]:
        """The queues that have slots free and had nothing when they were asked: a ring of these is worth something."""
        return [queue.name for queue in self._queues.values() if not queue.ripe]

    def rung(self, names: Iterable[str]) -> None:
        """Something may have come into these queues."""
        for name in names:
            queue = self._queues[name]
            queue.ripe = True
            queue.rings += 1
        self.changed.set()

    def ripen(self, now_ms: int) -> int | None:
        """Let queues be asked whose moment has come; return the next such moment."""
        moments: list[int] = []
        for queue in self._queues.values():
            if queue.until_ms is not None and not queue.ripe:
                if queue.until_ms <= now_ms:
                    queue.ripe, queue.until_ms = True, None
                else:
                    moments.append(queue.until_ms)
        return min(moments, default=None)

    def close(self) -> None:
        """Want no more jobs."""
        self.closed = True
        self.changed.set()
