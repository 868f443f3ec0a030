"""The small vocabulary of the worker's tests: a worker at work, a store that can be watched, and signals to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from conformance.given import soon
from toril import Queue, Served, Worker
from toril.clock import TurnedClock
from toril.errors import StoreUnavailable
from toril.events import JobEvent
from toril.handlers import HandlerTable, registered
from toril.model import Event, JobRecord, JobRef
from toril.options import Strategy
from toril.states import State
from toril.store import Store

QUEUE = "email"
FAR_MS = 4_000_000_000_000


def handlers(
    *functions: Callable[..., Any], strategies: Mapping[str, Strategy] | None = None, **options: Any
) -> HandlerTable:
    """Functions as handlers of jobs of their names."""
    table = HandlerTable(strategies=dict(strategies or {}))
    for function in functions:
        table.put(registered(None, function, **options))
    return table


@contextlib.asynccontextmanager
async def at_work(
    store: Store,
    work: Callable[..., Any] | HandlerTable | Sequence[Served],
    *,
    concurrency: int = 10,
    **options: Any,
) -> AsyncGenerator[Worker]:
    """A worker that runs, and at the end is stopped in a hurry."""
    worker = Worker(_served(work, concurrency), store=store, **options)
    task = asyncio.create_task(worker.run())
    await asyncio.sleep(0)  # its first step: from here on it can be stopped
    try:
        yield worker
    finally:
        worker.stop()
        worker.hurry()
        await soon(task)


@contextlib.asynccontextmanager
async def running(worker: Worker) -> AsyncGenerator[asyncio.Task[int]]:
    """The run of a worker that the test itself stops; one that it leaves behind is cancelled."""
    task = asyncio.create_task(worker.run())
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


def _served(work: Callable[..., Any] | HandlerTable | Sequence[Served], concurrency: int) -> Sequence[Served]:
    if isinstance(work, HandlerTable):
        return [Served(QUEUE, work, concurrency)]
    if callable(work):
        return [Served(QUEUE, HandlerTable(catch_all=registered(None, work)), concurrency)]
    return work


# ------------------------------------------------------------------ a store between the worker and the real one


@dataclass(frozen=True)
class StoreCall:
    """A verb that the store was asked, and what it was given."""

    verb: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


class WatchedStore:
    """Passes every verb on to a store; counts them, can hold back their answers, and can be unreachable."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._failing: dict[str, Exception] = {}
        self._held: dict[str, asyncio.Event] = {}
        self._waiting: list[tuple[Callable[[], bool], asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self.asked: list[StoreCall] = []
        self.answered: list[StoreCall] = []
        self.refused: list[StoreCall] = []

    @property
    def as_store(self) -> Store:
        """This, seen as what it stands in for."""
        return cast(Store, self)

    def fail(self, *verbs: str, error: Exception | None = None) -> None:
        """From now on these verbs cannot be reached."""
        for verb in verbs:
            self._failing[verb] = error or StoreUnavailable("the line is cut")

    def mend(self) -> None:
        """Everything can be reached again."""
        self._failing.clear()

    def hold(self, verb: str) -> asyncio.Event:
        """Let a verb reach the store and keep its answers until the event is set."""
        self._held[verb] = asyncio.Event()
        return self._held[verb]

    def calls(self, verb: str, among: list[StoreCall] | None = None) -> list[StoreCall]:
        """The calls of a verb so far."""
        return [call for call in list(self.asked if among is None else among) if call.verb == verb]

    async def until(self, so: Callable[[], bool]) -> None:
        """Return when it is so; looked at with every call."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append((so, asyncio.get_running_loop(), future))
        self._look()
        await soon(future)

    async def until_answered(self, verb: str, times: int = 1) -> None:
        """Return when a verb has been answered so often."""
        await self.until(lambda: len(self.calls(verb, self.answered)) >= times)

    async def until_refused(self, verb: str, times: int = 1) -> None:
        """Return when a verb could not be reached so often."""
        await self.until(lambda: len(self.calls(verb, self.refused)) >= times)

    def _look(self) -> None:
        with self._lock:
            ripe = [waiter for waiter in self._waiting if waiter[0]()]
            self._waiting = [waiter for waiter in self._waiting if waiter not in ripe]
        for _, loop, future in ripe:
            loop.call_soon_threadsafe(lambda f=future: f.done() or f.set_result(None))  # type: ignore[misc]

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._store, name)
        if not inspect.iscoroutinefunction(verb):
            return verb

        async def passed_on(*arguments: Any, **keywords: Any) -> Any:
            call = StoreCall(name, arguments, keywords)
            self.asked.append(call)
            self._look()
            held = self._held.get(name)
            answer = None
            if name not in self._failing:
                answer = await verb(*arguments, **keywords)
            if held is not None:
                await held.wait()
            if name in self._failing:
                self.refused.append(call)
                self._look()
                raise self._failing[name]
            self.answered.append(call)
            self._look()
            return answer

        return passed_on


# ------------------------------------------------------------------ waiting


async def told(store: Store, name: str, *, job_id: str | None = None, queue: str = QUEUE, times: int = 1) -> Event:
    """The nth event of a name in a queue's log, which is waited for."""
    after, seen = "0", 0
    while True:
        for event in await soon(store.read(queue, after, until_ms=FAR_MS)):
            after = event.id
            seen += event.name == name and job_id in (None, event.job_id)
            if seen == times:
                return event


async def quiet(store: Store, rounds: int = 8) -> None:
    """Let everything happen that can happen at this moment of a turned clock.

    A store's writer answers in order, so what was asked before is answered when this is.
    """
    for _ in range(rounds):
        await asyncio.sleep(0)
        await soon(store.settings("another-queue"))
        await asyncio.sleep(0)


async def turn(store: Store, ms: int) -> None:
    """Turn the clock forward, stopping wherever somebody wants to wake."""
    clock = clock_of(store)
    end_ms = clock.now_ms() + ms
    await quiet(store)
    while (next_ms := clock.next_ms()) is not None and next_ms <= end_ms:
        clock.advance(max(1, -(-int(next_ms - clock.now_ms()) // 1)))
        await quiet(store, 4)
    clock.advance(end_ms - clock.now_ms())
    await quiet(store)


def clock_of(store: Store) -> TurnedClock:
    assert isinstance(store.clock, TurnedClock)
    return store.clock


# ------------------------------------------------------------------ looking


async def known(store: Store, ref: JobRef) -> JobRecord:
    (found,) = await store.get([ref])
    assert found is not None, f"{ref} is gone"
    return found


async def finished(store: Store, ref: JobRef) -> JobRecord:
    """The record of a job that will end without the clock being turned."""
    after = "0"
    while True:
        record = await known(store, ref)
        if record.state in (State.COMPLETED, State.FAILED):
            return record
        events = await soon(store.read(ref.queue, after, until_ms=FAR_MS))
        after = events[-1].id


async def count(store: Store, state: State, queue: str = QUEUE) -> int:
    return (await Queue(queue, store).counts()).get(state, 0)


class Gate:
    """Handlers wait at it, and the test sees who has come."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[str] = asyncio.Queue()
        self._open = asyncio.Event()
        self.inside = 0
        self.most = 0

    async def passed(self, who: str = "") -> None:
        """Come to the gate, and go on when it is open."""
        self.inside += 1
        self.most = max(self.most, self.inside)
        self._arrived.put_nowait(who)
        try:
            await self._open.wait()
        finally:
            self.inside -= 1

    async def arrivals(self, times: int = 1) -> list[str]:
        """The next so many who come."""
        return [await soon(self._arrived.get()) for _ in range(times)]

    def open(self) -> None:
        self._open.set()


class Heard:
    """What somebody was told of jobs, to wait for."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[JobEvent] = asyncio.Queue()

    def __call__(self, event: JobEvent) -> None:
        self._told.put_nowait(event)

    async def next(self, times: int = 1) -> list[JobEvent]:
        """The next so many things."""
        return [await soon(self._told.get()) for _ in range(times)]

    @property
    def silent(self) -> bool:
        """Whether there is nothing more."""
        return self._told.empty()


async def no_work() -> None:
    """A handler for tests in which no job runs."""
