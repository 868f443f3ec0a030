"""The app: a store, the queues declared on it with their handlers, and the worker that serves them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, Unpack, overload

from toril.clock import SYSTEM_CLOCK, Clock
from toril.errors import ConfigError
from toril.handlers import AsyncHandler, Context, HandlerTable, SyncHandler, registered
from toril.ids import IdSource, draw_id
from toril.options import Backoff, Duration, JobOptions, RateLimit, Strategy, merged
from toril.places import connect
from toril.queue import Queue
from toril.settings import Settings
from toril.store import Store
from toril.wishes import AwaitChildren, Delay, Throttle

if TYPE_CHECKING:
    from toril.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

log = logging.getLogger("toril")


class Register(Protocol):
    """The decorator that `AppQueue.handler` returns."""

    # A coroutine is also "some R" of a plain function; the order of the overloads is what tells them apart.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R | Delay | Throttle | AwaitChildren]], /
    ) -> AsyncHandler[Concatenate[Context, P], P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R | Delay | Throttle | AwaitChildren]], /
    ) -> AsyncHandler[P, P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, P], R | Delay | Throttle | AwaitChildren], /
    ) -> SyncHandler[Concatenate[Context, P], P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R | Delay | Throttle | AwaitChildren], /) -> SyncHandler[P, P, R]: ...


class AppQueue(Queue):
    """A queue declared by an app: with handlers, a concurrency, and settings that the code owns."""

    def __init__(
        self,
        name: str,
        app: App,
        *,
        concurrency: int,
        limiter: RateLimit | None,
        max_waiting: int | None,
        keys: str,
        defaults: JobOptions,
    ) -> None:
        super().__init__(name, app.store, ids=app.ids, defaults=defaults)
        self.handlers = HandlerTable()
        self.concurrency = concurrency
        self.limiter = limiter
        self.max_waiting = max_waiting
        self._app = app
        self._keys = keys
        self._settings_sent = max_waiting is None
        backoff = defaults.get("backoff")
        if isinstance(backoff, Backoff) and backoff.strategy is not None:
            self.handlers.strategies[backoff.kind] = backoff.strategy

    def handler(
        self,
        name: str | None = None,
        *,
        extra: str = "ignore",
        retry_on: Sequence[type[BaseException]] | None = None,
        give_up_on: Sequence[type[BaseException]] = (),
    ) -> Register:
        """Declare the function that works on jobs of a name (the function's own, when none is given).

        Its parameters are the members of the job's data, validated by their types; one positional-only parameter is
        the whole of it. A first parameter of type `Context` is the job's context; parameters with `inject(…)` as
        default are filled in. An `async def` runs on the worker's loop, a plain `def` in a thread.

        `retry_on`: only errors of these types are tried again. `give_up_on`: errors of these types are not.
        `extra="forbid"`: data with members that no parameter takes fails.

        Raises:
            ConfigError: the name is taken, or a parameter's type cannot be read from JSON.
        """

        def register(function: Callable[..., Any]) -> Any:
            found = registered(name, function, keys=self._keys, extra=extra, retry_on=retry_on, give_up_on=give_up_on)
            self.handlers.put(found)
            kind: Any = AsyncHandler if found.is_async else SyncHandler
            return kind(found, self)

        return register

    def catch_all(self, function: F) -> F:
        """Declare the function that works on jobs of every other name; it finds the name in its context."""
        self.handlers.put(registered("*", function, keys=self._keys), catch_all=True)
        return function

    def backoff(self, name: str) -> Callable[[Strategy], Strategy]:
        """Declare the strategy that `Backoff.custom(name)` asks."""

        def register(strategy: Strategy) -> Strategy:
            self.handlers.strategies[name] = strategy
            return strategy

        return register

    async def _before_add(self) -> None:
        self._app.say_where()
        if not self._settings_sent:
            settings = await self.store.settings(self.name)
            if settings.max_waiting != self.max_waiting:
                await self.store.configure(self.name, replace(settings, max_waiting=self.max_waiting))
            self._settings_sent = True


class App:
    """A store and the queues declared on it.

    The store is the URL given, else TORIL_URL, else REDIS_URL and its like, else `[tool.toril]` of pyproject.toml, else
    the file `toril.db` beside it. Making an app opens nothing.

    `keys="camel"`: members of job data are spelled `userId` on the wire and `user_id` in Python. `strict`: workers refuse to
    start on a store that is set up in a way that may lose jobs; else TORIL_STRICT says so.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        prefix: str | None = None,
        keys: str = "snake",
        strict: bool | None = None,
        store: Store | None = None,
        clock: Clock = SYSTEM_CLOCK,
        ids: IdSource = draw_id,
        **defaults: Unpack[JobOptions],
    ) -> None:
        self.settings = Settings.load(url=url, prefix=prefix, strict=strict)
        self.queues: dict[str, AppQueue] = {}
        self.ids = ids
        self._clock = clock
        self._store = store
        self._implicit = self.settings.implicit and store is None
        self._keys = keys
        self._defaults = defaults
        self._said_where = False
        self._embedded: asyncio.Task[int] | None = None
        self._worker: Worker | None = None

    @property
    def store(self) -> Store:
        """The store; made at first use, and opened at its first use.

        Raises:
            ConfigError: no place was named, and this is production.
        """
        if self._store is None:
            self._store = connect(self.settings.require_url(), prefix=self.settings.prefix, clock=self._clock)
        return self._store

    def queue(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        concurrency_variable: str | None = None,
        limiter: RateLimit | None = None,
        max_waiting: int | None = None,
        **defaults: Unpack[JobOptions],
    ) -> AppQueue:
        """Declare a queue, or get one that is declared.

        Options given here are the defaults of its jobs. `concurrency` counts per worker; the environment variable
        `<NAME>_WORKER_CONCURRENCY`, and the one that `concurrency_variable` names, override it. `max_waiting`: beyond
        so many waiting jobs, adds are refused with `QueueFull`.

        Raises:
            ConfigError: a queue of this name is declared otherwise, or an option cannot be.
        """
        declared = bool(concurrency or concurrency_variable or limiter or max_waiting or defaults)
        known = self.queues.get(name)
        if known is not None:
            if declared:
                raise ConfigError(
                    f"queue {name!r} is declared already: declare it once, and get it by app.queue({name!r})"
                )
            return known
        if max_waiting is not None and max_waiting < 1:
            raise ConfigError(f"max_waiting of queue {name!r} must be at least 1, not {max_waiting!r}")
        value, _ = self.settings.concurrency(name, concurrency, concurrency_variable)
        queue = AppQueue(
            name,
            self,
            concurrency=value,
            limiter=limiter,
            max_waiting=max_waiting,
            keys=self._keys,
            defaults=merged(self._defaults, defaults),
        )
        self.queues[name] = queue
        return queue

    def worker(
        self,
        queues: Sequence[str] | None = None,
        *,
        concurrency: int | None = None,
        lock: Duration = 30,
        stalled_interval: Duration = 30,
        max_stalled: int = 1,
        grace: Duration = 30,
        name: str = "",
    ) -> Worker:
        """A worker for the queues named, or for all that have handlers.

        Raises:
            ConfigError: a queue is not declared, or has no handler.
        """
        from toril.worker import Served, Worker  # a process that only adds jobs does not load it

        wanted = [queue for queue in self.queues if _has_handlers(self.queues[queue])] if queues is None else queues
        if not wanted:
            raise ConfigError("no queue of this app has a handler: declare one with @queue.handler()")
        served: list[Served] = []
        for queue_name in wanted:
            queue = self.queues.get(queue_name)
            if queue is None:
                raise ConfigError(
                    f"queue {queue_name!r} is not declared: declared are {', '.join(sorted(self.queues))}"
                )
            if not _has_handlers(queue):
                raise ConfigError(f"queue {queue_name!r} has no handler: its jobs would all fail as unknown")
            at_once = queue.concurrency if concurrency is None else concurrency
            served.append(Served(queue_name, queue.handlers, at_once, queue.limiter))
        return Worker(
            served,
            store=self.store,
            lock=lock,
            stalled_interval=stalled_interval,
            max_stalled=max_stalled,
            grace=grace,
            name=name,
            strict=self.settings.strict,
        )

    def say_where(self) -> None:
        """Say once where jobs go, and whether anybody here works on them."""
        if self._said_where:
            return
        self._said_where = True
        if self._implicit and self._store is not None:
            # A warning, so that a plain script shows it: nobody has chosen this place.
            log.warning("jobs are kept in %s (set TORIL_URL for another place)", self._store.place)
        if not self.settings.enable_workers:
            origin = self.settings.origins["enable_workers"]
            log.warning(
                "jobs are stored, and workers are switched off here by %s: another process must run them", origin
            )

    # ---------------------------------------------------------------- life

    async def __aenter__(self) -> App:
        """Open the app. In development a worker runs inside it, unless workers are switched off."""
        if self.settings.environment != "production" and self.settings.enable_workers and self._served_queues():
            self._worker = self.worker()
            self._embedded = asyncio.create_task(self._worker.run())
            self._embedded.add_done_callback(_say_why_it_ended)
            await asyncio.sleep(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        worker, embedded, self._worker, self._embedded = self._worker, self._embedded, None, None
        try:
            if worker is not None and embedded is not None:
                worker.stop()
                await embedded
        finally:
            await self.close()

    @contextlib.asynccontextmanager
    async def lifespan(self, _: object = None) -> AsyncGenerator[None, None]:
        """For frameworks that take a lifespan: `FastAPI(lifespan=app.lifespan)`."""
        async with self:
            yield

    async def close(self) -> None:
        """Give back the store's connections and threads. The app opens again when it is used again."""
        if self._store is not None:
            await self._store.close()

    def _served_queues(self) -> Mapping[str, AppQueue]:
        return {name: queue for name, queue in self.queues.items() if _has_handlers(queue)}


def _say_why_it_ended(worker: asyncio.Task[int]) -> None:
    """A worker inside an app that ends by an error must be heard of before the app is closed."""
    error = None if worker.cancelled() else worker.exception()
    if error is not None:
        log.error("the worker inside the app has ended, and jobs are only stored from now on: %s", error)


def _has_handlers(queue: AppQueue) -> bool:
    return bool(queue.handlers.by_name) or queue.handlers.catch_all is not None
