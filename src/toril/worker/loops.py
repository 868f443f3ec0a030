"""The loops of one run of a worker, and what they share."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from toril.errors import ConfigError
from toril.events import Listeners
from toril.flow import QueueOf
from toril.handlers import HandlerTable
from toril.ids import check_queue_name
from toril.model import Claim, JobRef, Released, Schedule, Settlement, WorkerInfo
from toril.options import RateLimit
from toril.store import Store
from toril.worker.announcer import Announcer
from toril.worker.capacity import Capacity
from toril.worker.claimer import Claimer
from toril.worker.executor import Executor
from toril.worker.outage import Outage
from toril.worker.recoverer import Recoverer
from toril.worker.renewer import Renewer
from toril.worker.reporter import Reports
from toril.worker.running import Running
from toril.worker.scheduler import Scheduler, taken
from toril.worker.settler import Settler
from toril.worker.teller import Teller

log = logging.getLogger(__name__)

MAX_THREADS = 64


@dataclass(frozen=True, slots=True)
class Served:
    """A queue that a worker serves: its handlers, how many at once, its rate, its schedules, and who is told of its jobs."""

    name: str
    handlers: HandlerTable = field(default_factory=HandlerTable)
    concurrency: int = 10
    limiter: RateLimit | None = None
    schedules: tuple[Schedule, ...] = ()  # that code declares
    listeners: Listeners = field(default_factory=Listeners)

    def __post_init__(self) -> None:
        check_queue_name(self.name)
        if isinstance(self.concurrency, bool) or not 1 <= self.concurrency <= 100_000:
            raise ConfigError(f"the concurrency of queue {self.name!r} must be at least 1, not {self.concurrency!r}")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a worker was asked for."""

    worker: str
    store: Store
    served: tuple[Served, ...]
    lock_ms: int
    stalled_interval_ms: int
    max_stalled: int
    grace_ms: int
    rng: random.Random
    scheduler: bool
    production: bool
    queue_of: QueueOf


class Loops:
    """The loops of one run of a worker, and what they share."""

    def __init__(self, terms: Terms, info: Callable[[], WorkerInfo]) -> None:
        store, clock, served = terms.store, terms.store.clock, terms.served
        names = [queue.name for queue in served]
        self.outage = Outage(clock, terms.rng)
        self.capacity = Capacity(terms.worker, terms.lock_ms, [(q.name, q.concurrency, q.limiter) for q in served])
        self.running = Running()
        self.reports = Reports(store, self.outage, terms.queue_of)
        self.scheduler = (
            Scheduler(
                store,
                names,
                [schedule for queue in served for schedule in queue.schedules],
                self.outage,
                guarded=terms.production,
            )
            if terms.scheduler
            else None
        )
        self.executor = Executor(
            {queue.name: queue.handlers for queue in served},
            clock,
            terms.rng,
            self.running,
            self.reports,
            functools.partial(taken, store, self.outage),
            self._give,
            self.capacity.freed,
            min(MAX_THREADS, sum(queue.concurrency for queue in served)),
        )
        start = self.executor.start
        listeners = {queue.name: queue.listeners for queue in served if queue.listeners}
        self.teller = Teller(clock, listeners)
        self.settler = Settler(store, self.capacity, self.running, start, self._give_back, self.teller, self.outage)
        self.claimer = Claimer(store, clock, terms.worker, self.capacity, start, self._give_back, self.outage)
        self.recoverer = Recoverer(
            store, clock, names, self.outage, max_stalled=terms.max_stalled, interval_ms=terms.stalled_interval_ms
        )
        self.announcer = Announcer(store, clock, info, self.outage)
        self._main = asyncio.get_running_loop()
        self._lanes = store.lanes
        self.renewer = Renewer(store, clock, self.running, lock_ms=terms.lock_ms, lose=self._lose_from_any_thread)

    def start(self, group: asyncio.TaskGroup, *, renew: bool) -> list[asyncio.Task[None]]:
        """Start the loops; the claimer's task comes first."""
        runs = [self.claimer.run(), self.reports.run(), self.recoverer.run(), self.announcer.run()]
        runs += [self.settler.run() for _ in range(self._lanes)]
        if renew:
            runs.append(self.renewer.run())
        if self.scheduler is not None:
            runs.append(self.scheduler.run())
        return [group.create_task(run) for run in runs]

    def hand_back(self) -> int:
        """Cancel what runs and give it back to the queue; how many."""
        runs = [run for run in self.running.runs() if not run.settling and not run.lost]
        for run in runs:
            run.handed_back = True
            self.running.cancel(run, "the worker ends")
        return len(runs)

    def abandon(self) -> None:
        """Give back jobs whose handlers refuse to be cancelled; how those end no longer counts."""
        for run in self.running.runs():
            if not run.settling and not run.lost:
                run.lost = True
                self._give(Settlement(run.claim, Released()))

    def _give(self, settlement: Settlement) -> None:
        self.settler.give(settlement)

    def _give_back(self, claims: Sequence[Claim]) -> None:
        """Jobs that came when the worker was already ending."""
        for claim in claims:
            self._give(Settlement(claim, Released()))

    def _lose_from_any_thread(self, refs: Sequence[JobRef]) -> None:
        if refs:
            self._main.call_soon_threadsafe(self._lose, refs)

    def _lose(self, refs: Sequence[JobRef]) -> None:
        for run in self.running.lose(refs):
            log.warning("%s lost its lock: another worker may have it; its handler is cancelled", run.claim.ref)
            self.running.cancel(run, "its lock expired")
