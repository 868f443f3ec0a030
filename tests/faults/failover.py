"""Adds and a worker while a master dies under them, and what became of each add."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from conformance.given import soon
from faults.history import unasked
from faults.proof import Stopwatch, shown
from toril.errors import StoreUnavailable, Unconfirmed
from toril.handlers import Context, HandlerTable, registered
from toril.queue import Queue
from toril.states import State
from toril.store import Store
from toril.wirejson import Json
from toril.worker import Served
from worker.stage import at_work

R = TypeVar("R")

LANES = 50
CONCURRENCY = 50
LOCK_S = 2.0
WAIT_S = 0.2
ENDED = (State.COMPLETED, State.FAILED)
LOOK_MS = 1_000


@dataclass
class Told:
    """What adds have answered. Any other answer than these ends the test."""

    acknowledged: set[str] = field(default_factory=set[str])
    unconfirmed: set[str] = field(default_factory=set[str])
    unknown: set[str] = field(default_factory=set[str])

    @property
    def asked(self) -> set[str]:
        return self.acknowledged | self.unconfirmed | self.unknown

    async def add(self, queue: Queue, job_id: str, data: Json = None, *, replicas: int = 0) -> None:
        """Add a job once, and note what was said of it."""
        try:
            await queue.add("job", data, job_id=job_id, wait_replicas=replicas, wait_timeout=WAIT_S)
            self.acknowledged.add(job_id)
        except Unconfirmed:
            self.unconfirmed.add(job_id)
        except StoreUnavailable:
            self.unknown.add(job_id)


async def insist(ask: Callable[[], Awaitable[R]]) -> R:
    """The answer, once there is one."""
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            continue


async def add_through(queue: Queue, count: int, fault: Callable[[], Any], replicas: int) -> Told:
    """Add at least so many jobs, and until the fault, which begins after some of them, is over."""
    told, numbers, begun = Told(), itertools.count(), asyncio.Event()

    async def lane() -> None:
        while (number := next(numbers)) < count or not faulty.done():
            if number >= count // 4:
                begun.set()
            await told.add(queue, f"{queue.name}-{number}", replicas=replicas)

    async def fail() -> None:
        await begun.wait()
        await asyncio.to_thread(fault)

    faulty = asyncio.ensure_future(fail())
    async with asyncio.TaskGroup() as lanes:
        for _ in range(LANES):
            lanes.create_task(lane())
    await faulty
    return told


async def all_ended(store: Store, queue: str) -> None:
    """Return once no job of a queue is left to run."""
    while True:
        [summary] = await insist(lambda: store.summaries([queue]))
        if not sum(count for state, count in summary.counts.items() if state not in ENDED):
            return
        last = await insist(lambda: store.last_event(queue))
        await soon(insist(lambda: store.read(queue, last, until_ms=store.clock.now_ms() + LOOK_MS)))  # noqa: B023


async def ids_in(queue: Queue, state: State) -> set[str]:
    """The jobs of a state."""
    return {record.ref.id async for record in queue.iterate(state)}


def served(process: Callable[..., Any], *names: str) -> list[Served]:
    """Queues whose jobs are all handled alike."""
    return [Served(name, HandlerTable(catch_all=registered(None, process)), CONCURRENCY) for name in names]


async def work_through(
    store: Store, name: str, count: int, fault: Callable[[], Any], what: str, *, replicas: int
) -> int:
    """Add to a queue and work on it through a fault; how many jobs were acknowledged that the store has lost."""
    watch, runs, queue = Stopwatch(), Counter[str](), Queue(name, store, defaults={"keep_completed": True})

    async def process(ctx: Context) -> None:
        runs[ctx.job_id] += 1

    async with at_work(store, served(process, name), lock=LOCK_S, stalled_interval=LOCK_S / 2, max_stalled=1_000):
        told = await add_through(queue, count, fault, replicas)
        await all_ended(store, name)
    there = await ids_in(queue, State.COMPLETED)

    assert await ids_in(queue, State.FAILED) == set()
    assert unasked(told.asked, there) == []
    assert there <= runs.keys()
    lost = told.acknowledged - there
    size = f"{len(told.asked):,} adds ({len(told.unknown)} unknown, {len(told.unconfirmed)} unconfirmed)"
    shown(what, size, f"{len(lost)} acknowledged ones lost, all others completed", watch)
    return len(lost)
