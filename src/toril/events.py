"""What happens to jobs, typed: told in the worker that runs them (`AppQueue.on`), or anywhere (`QueueEvents`)."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from toril.errors import ConfigError, StoreUnavailable
from toril.ids import check_queue_name
from toril.model import Event, JobRecord, JobRef
from toril.store import Store
from toril.wirejson import Json, decode

log = logging.getLogger(__name__)

NET_MS: Final = 60_000
PAUSE_MS: Final = 1_000
SAME_MOMENT_MS: Final = 1_000
"""How far a run's end and its event may be apart: a worker and the server may tell the time differently."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job, at a moment of the store's clock."""

    job: JobRef
    at_ms: int


@dataclass(frozen=True, slots=True)
class Completed(JobEvent):
    """Its handler has returned."""

    result: Json


@dataclass(frozen=True, slots=True)
class Failed(JobEvent):
    """A run has failed. `attempt` is its number, from 1; either `Retrying` or `FinalFailure`."""

    reason: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Retrying(Failed):
    """A run has failed, and the job will be tried again."""


@dataclass(frozen=True, slots=True)
class FinalFailure(Failed):
    """The job has failed for good: nobody but a person tries it again."""


@dataclass(frozen=True, slots=True)
class Progress(JobEvent):
    """It said how far it is."""

    value: Json


@dataclass(frozen=True, slots=True)
class Stalled(JobEvent):
    """Its worker has vanished; it runs again, or fails when that has happened too often."""


@dataclass(frozen=True, slots=True)
class Drained(JobEvent):
    """The last job that waited in its queue has ended. `job` names the queue, and no job."""


E = TypeVar("E", bound=JobEvent)
Listener = Callable[[E], object]
"""A function that is told; may be a coroutine function."""


class Listen(Generic[E]):
    """The decorator that `on` returns; it leaves the function as it is."""

    def __init__(self, listeners: Listeners, kind: type[E]) -> None:
        self._listeners = listeners
        self._kind = kind

    def __call__(self, function: Listener[E]) -> Listener[E]:
        self._listeners.add(self._kind, function)
        return function


class Listeners:
    """Functions by the kind of event that they want; one that wants `Failed` is told of both its kinds."""

    def __init__(self) -> None:
        self._by_kind: list[tuple[type[JobEvent], Listener[Any]]] = []

    def __bool__(self) -> bool:
        return bool(self._by_kind)

    def on(self, kind: type[E]) -> Listen[E]:
        """Declare a function for events of a kind.

        Raises:
            ConfigError: it is no class of `toril.events`.
        """
        if not (isinstance(kind, type) and issubclass(kind, JobEvent)):
            raise ConfigError(f"events are told by a class of toril.events, such as FinalFailure, not by {kind!r}")
        return Listen(self, kind)

    def add(self, kind: type[JobEvent], function: Listener[Any]) -> None:
        """Tell a function of events of a kind."""
        self._by_kind.append((kind, function))

    async def tell(self, event: JobEvent) -> None:
        """Call those who want it, one after the other. One that raises is logged, and harms nobody."""
        for kind, function in self._by_kind:
            if not isinstance(event, kind):
                continue
            try:
                answer = function(event)
                if inspect.isawaitable(answer):
                    await answer
            except Exception:
                log.exception("a listener for %s of %s failed", type(event).__name__, event.job)


class QueueEvents:
    """Tells what happens to the jobs of a queue, whichever process runs them, Node's too.

    Used as `async with QueueEvents("email", store) as events:` it calls those declared by `events.on(…)` until the block
    ends; `async for event in events:` gives the events themselves. It begins with what happens from now on, or after the id of
    an event of the store.
    """

    def __init__(self, queue: str, store: Store, *, after: str | None = None) -> None:
        if not hasattr(store, "last_event"):
            raise ConfigError(f"QueueEvents reads a store, such as app.store or connect(…), not {store!r}")
        self.queue = check_queue_name(queue)
        self._store = store
        self._after = after
        self._listeners = Listeners()
        self._task: asyncio.Task[None] | None = None

    def on(self, kind: type[E]) -> Listen[E]:
        """Declare a function to be called for events of a kind, a class of this module; it may be a coroutine function."""
        return self._listeners.on(kind)

    @property
    def last(self) -> str | None:
        """The id of the last event that was told, after which another reader may begin; None before the first look."""
        return self._after

    async def __aiter__(self) -> AsyncGenerator[JobEvent, None]:
        """What happens, one by one, for ever. Raises StoreUnavailable."""
        store, clock = self._store, self._store.clock
        if self._after is None:
            self._after = await store.last_event(self.queue)
        while True:
            for event in await store.read(self.queue, self._after, until_ms=clock.now_ms() + NET_MS):
                typed = await self._typed(event)
                self._after = event.id
                if typed is not None:
                    yield typed

    async def run(self) -> None:
        """Call those declared for what happens, until cancelled; an outage of the store is waited out."""
        while True:
            try:
                async for event in self:
                    await self._listeners.tell(event)
            except StoreUnavailable as error:
                log.warning("events of queue %s cannot be read, trying again: %s", self.queue, error)
                await self._store.clock.sleep_ms(PAUSE_MS)

    async def __aenter__(self) -> QueueEvents:
        if self._after is None:
            self._after = await self._store.last_event(self.queue)
        self._task = asyncio.create_task(self.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _typed(self, event: Event) -> JobEvent | None:
        """The typed form of an event; None for one that has none. Of a run that has failed the stream says too little: the
        job is asked."""
        if event.job_id is None or not _tells_of_failure(event):
            return _plain(event)
        (record,) = await self._store.get([JobRef(self.queue, event.job_id)])
        if event.name == "failed":
            attempt = 0 if record is None else record.attempts_made
            return FinalFailure(JobRef(self.queue, event.job_id), event.at_ms, event.fields.get("reason", ""), attempt)
        return None if record is None else _retrying(record, event.at_ms)


def _plain(event: Event) -> JobEvent | None:
    """The typed form of an event, from what it says itself."""
    ref, fields = JobRef(event.queue, event.job_id or ""), event.fields
    match event.name:
        case "completed":
            return Completed(ref, event.at_ms, _json(fields.get("result", "null")))
        case "progress":
            return Progress(ref, event.at_ms, _json(fields.get("data", "null")))
        case "stalled":
            return Stalled(ref, event.at_ms)
        case "drained":
            return Drained(ref, event.at_ms)
        case _:
            return None


def _tells_of_failure(event: Event) -> bool:
    return event.name in ("failed", "delayed") or (event.name == "waiting" and event.fields.get("prev") == "active")


def _retrying(record: JobRecord, at_ms: int) -> Retrying | None:
    """The failure after which a job was put back at a moment, if that is why; it may have gone on since."""
    if not record.history:  # Node keeps none
        reason = record.reason
        return None if not reason else Retrying(record.ref, at_ms, reason, record.attempts_made)
    run = min(record.history, key=lambda attempt: abs(attempt.ended_at_ms - at_ms))
    if run.outcome != "retried" or abs(run.ended_at_ms - at_ms) > SAME_MOMENT_MS:
        return None  # it was added with a delay, or somebody changed that
    return Retrying(record.ref, at_ms, run.reason, run.number)


def _json(text: str) -> Json:
    try:
        return decode(text)
    except ValueError:  # somebody wrote it wrongly; it is what it says
        return text
