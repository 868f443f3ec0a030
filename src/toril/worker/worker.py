"""The worker: serves queues until it is stopped, then drains."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import random
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any, Literal

from toril.clock import reached
from toril.errors import ConfigError, StoreUnavailable
from toril.flow import QueueOf
from toril.handlers import HandlerTable, registered
from toril.model import JobRef, WorkerInfo
from toril.options import Duration, RateLimit, to_ms
from toril.posix import signals_to
from toril.queue import Queue
from toril.store import Store
from toril.version import VERSION
from toril.worker import preflight
from toril.worker.announcer import TTL_MS
from toril.worker.loops import Loops, Served, Terms
from toril.worker.outage import Outage
from toril.worker.renewer import SideThread
from toril.worker.running import Running

log = logging.getLogger("toril.worker")

LAST_WORD_MS = 2_000

_numbers = itertools.count()


class Worker:
    """Works on the jobs of one queue, or of many.

    `Worker("email", process, store)` gives every job of the queue to `process`; several queues with handlers by name
    are given as `Served`. Durations are seconds or timedeltas:

    - `lock`: how long a job stays this worker's without renewal; renewed from a thread of its own.
    - `stalled_interval`, `max_stalled`: how often lapsed locks are looked for, and how often a job may lose its worker.
    - `grace`: how long running jobs may go on when the worker stops; then they are handed back, at no attempt's cost.

    `scheduler`: put the schedules that its queues declare, and heal those that stand still; runs that it takes are followed
    by the next ones in any case. In `production`, what a newer version of the code has lately declared is let alone.
    `queue_of` gives queues by their names, for children that handlers add.

    Once at its start it looks at how the store is set up, and logs what is wrong. A `strict` worker looks first, and refuses
    a store by whose settings jobs may be lost. What Node's workers on its queues do not honour is logged, too.
    """

    def __init__(
        self,
        queues: str | Sequence[Served],
        process: Callable[..., Any] | None = None,
        store: Store | None = None,
        *,
        concurrency: int = 10,
        limiter: RateLimit | None = None,
        lock: Duration = 30,
        stalled_interval: Duration = 30,
        max_stalled: int = 1,
        grace: Duration = 30,
        name: str = "",
        strict: bool = False,
        scheduler: bool = True,
        production: bool = False,
        queue_of: QueueOf | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if store is None:
            raise ConfigError("a worker needs a store: Worker('email', process, connect('sqlite:///jobs.db'))")
        lock_ms = to_ms(lock, "lock")
        if lock_ms < 100:
            raise ConfigError(f"lock must be at least 0.1 s, not {lock!r}: renewing it takes time")
        if isinstance(max_stalled, bool) or max_stalled < 0:
            raise ConfigError(f"max_stalled must be a whole number from 0, not {max_stalled!r}")
        self.id = f"{socket.gethostname()}.{os.getpid()}.{next(_numbers)}.{os.urandom(4).hex()}"
        self._store = store
        self._terms = Terms(
            worker=self.id,
            store=store,
            served=_served(queues, process, concurrency, limiter),
            lock_ms=lock_ms,
            stalled_interval_ms=to_ms(stalled_interval, "stalled_interval"),
            max_stalled=max_stalled,
            grace_ms=to_ms(grace, "grace"),
            rng=rng or random.Random(),
            scheduler=scheduler,
            production=production,
            queue_of=queue_of or functools.partial(Queue, store=store),
        )
        self.name = name
        self._strict = strict
        self._started_at_ms = 0
        self._state: Literal["running", "draining", "stopped"] = "stopped"
        self._stopping: asyncio.Event | None = None
        self._hurrying: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: Running | None = None
        self._signalled = False

    # ---------------------------------------------------------------- life

    async def run(self, *, handle_signals: bool = False) -> int:
        """Work until `stop`, then drain; return how many jobs were handed back unfinished.

        With `handle_signals`, SIGTERM and SIGINT stop it, and a second one hands back at once what is running.

        Raises:
            ConfigError: it is strict, and something is wrong with how the store is set up; the message says what.
        """
        self._loop = asyncio.get_running_loop()
        self._stopping, self._hurrying = asyncio.Event(), asyncio.Event()
        self._started_at_ms = self._store.clock.now_ms()
        self._signalled = False
        with signals_to(self._on_signal) if handle_signals else contextlib.nullcontext():
            if self._strict:
                outage = Outage(self._store.clock, self._terms.rng)
                await preflight.refuse_unfit(self._store, outage, self._stopping)
            self._state = "running"
            loops = Loops(self._terms, self.info)
            self._running = loops.running
            side = None if self._store.clock.turned else SideThread(loops.renewer)
            try:
                async with asyncio.TaskGroup() as loops_group:
                    tasks = loops.start(loops_group, renew=side is None)
                    if side is not None:
                        side.start()
                    self._say_start()
                    queues = [served.name for served in self._terms.served]
                    looks = [preflight.tell_peers(self._store, queues, loops.outage)]
                    if not self._strict:
                        looks.append(preflight.tell(self._store, loops.outage))
                    tasks += [loops_group.create_task(look) for look in looks]
                    try:
                        await self._stopping.wait()
                    except asyncio.CancelledError:  # who cancels it does not want to wait, and loses no job by it
                        self._hurrying.set()
                        await self._drain(loops, tasks)
                        raise
                    handed_back = await self._drain(loops, tasks)
                    for task in tasks:
                        task.cancel()
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from group
            finally:
                loops.executor.close()
                if side is not None:
                    await side.stop()
                await loops.teller.close(LAST_WORD_MS / 1000)
                self._state = "stopped"
                with contextlib.suppress(StoreUnavailable):
                    await self._store.announce(self.info())
        log.info("worker %s has stopped", self.id)
        return handed_back

    def stop(self) -> None:
        """Claim no more jobs, let running ones finish within the grace, then end. Safe from any thread."""
        if self._loop is not None and self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    def hurry(self) -> None:
        """Do not wait for running jobs any longer."""
        if self._loop is not None and self._hurrying is not None:
            self._loop.call_soon_threadsafe(self._hurrying.set)

    async def __aenter__(self) -> Worker:
        self._task = asyncio.create_task(self.run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        await self._task

    # ---------------------------------------------------------------- looking

    def info(self) -> WorkerInfo:
        """What the worker says of itself."""
        return WorkerInfo(
            id=self.id,
            name=self.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            queues={served.name: served.concurrency for served in self._terms.served},
            started_at_ms=self._started_at_ms,
            seen_at_ms=self._store.clock.now_ms(),
            ttl_ms=TTL_MS,
            running=0 if self._running is None else len(self._running),
            state=self._state,
            version=VERSION,
        )

    @property
    def running(self) -> list[JobRef]:
        """The jobs in its hands."""
        return [] if self._running is None else [run.claim.ref for run in self._running.runs()]

    # ---------------------------------------------------------------- start and end

    def _on_signal(self, number: int) -> None:
        """The first signal stops the worker, a second one hurries it."""
        name = signal.Signals(number).name
        if self._signalled:
            log.warning("%s again: handing back what runs", name)
            self.hurry()
            return
        self._signalled = True
        log.info("%s: finishing what runs, for at most %g s", name, self._terms.grace_ms / 1000)
        self.stop()

    def _say_start(self) -> None:
        queues = ", ".join(f"{served.name} ({served.concurrency})" for served in self._terms.served)
        log.info("worker %s serves %s on %s %s", self.id, queues, self._store.kind, self._store.place)

    async def _drain(self, loops: Loops, tasks: Sequence[asyncio.Task[None]]) -> int:
        """Stop claiming, wait for running jobs, hand back those that do not end in time."""
        assert self._hurrying is not None
        self._state = "draining"
        loops.capacity.close()
        with contextlib.suppress(StoreUnavailable):
            await self._store.announce(self.info())
        claiming = tasks[0]
        claiming.cancel()
        await asyncio.wait([claiming])
        await self._emptied(loops.running, self._terms.grace_ms, self._hurrying)
        handed_back = loops.hand_back()
        if handed_back:
            log.warning("%d jobs did not end within the grace and are handed back", handed_back)
            await self._emptied(loops.running, LAST_WORD_MS)
            loops.abandon()
        await self._emptied(loops.running, LAST_WORD_MS)
        return handed_back

    async def _emptied(self, running: Running, within_ms: int, *sooner: asyncio.Event) -> None:
        """Return when nothing runs any more, the time is up, or one of `sooner` is set."""
        clock = self._store.clock
        ended = asyncio.ensure_future(_first(running.empty, *sooner))
        await reached(clock, ended, clock.now_ms() + within_ms)
        ended.cancel()


async def _first(*events: asyncio.Event) -> None:
    """Return when one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _served(
    queues: str | Sequence[Served], process: Callable[..., Any] | None, concurrency: int, limiter: RateLimit | None
) -> tuple[Served, ...]:
    if not isinstance(queues, str):
        if process is not None:
            raise ConfigError("give a process function with one queue name, or Served queues with handlers, not both")
        if not queues:
            raise ConfigError("a worker needs at least one queue")
        return tuple(queues)
    if process is None:
        raise ConfigError(f"a worker of queue {queues!r} needs a process function")
    table = HandlerTable(catch_all=registered(None, process))
    return (Served(queues, table, concurrency, limiter),)
