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
from toril.errors import ConfigError, InvalidData, InvalidJob
from toril.events import Drained, JobEvent, Listen, Listeners, Progress, Stalled
from toril.flow import Flow, Group, add_flows, flow_of
from toril.handlers import AsyncHandler, Context, HandlerTable, SyncHandler, registered
from toril.ids import IdSource, draw_id
from toril.job import Call
from toril.model import Schedule
from toril.options import AnyJob, Backoff, Duration, JobOptions, RateLimit, Strategy, merged
from toril.places import connect
from toril.queue import Queue, ref_of
from toril.settings import DEFAULT, Settings
from toril.store import Store
from toril.timing import Timing
from toril.wishes import AwaitChildren, Delay, Throttle

if TYPE_CHECKING:
    from toril.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
E = TypeVar("E", bound=JobEvent)

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
        max_adds: RateLimit | None,
        keys: str,
        defaults: JobOptions,
    ) -> None:
        super().__init__(name, app.store, ids=app.ids, defaults=defaults, max_adds=max_adds)
        self.handlers = HandlerTable()
        self.listeners = Listeners()
        self.concurrency = concurrency
        self.limiter = limiter
        self.max_waiting = max_waiting
        self.declared: dict[str, Schedule] = {}
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
        schedule: Timing | None = None,
    ) -> Register:
        """Declare the function that works on jobs of a name (the function's own, when none is given).

        Its parameters are the members of the job's data, validated by their types; one positional-only parameter is
        the whole of it. A first parameter of type `Context` is the job's context; parameters with `inject(…)` as
        default are filled in. An `async def` runs on the worker's loop, a plain `def` in a thread.

        `retry_on`: only errors of these types are tried again. `give_up_on`: errors of these types are not.
        `extra="forbid"`: data with members that no parameter takes fails. `schedule`, made by `cron(…)` or `every(…)`, adds such
        a job again and again, for a handler that needs no data; `Handler.declare_schedule` does for one that does.

        Raises:
            ConfigError: the name is taken, a parameter's type cannot be read from JSON, or a handler with a schedule needs
                data.
        """

        def register(function: Callable[..., Any]) -> Any:
            found = registered(name, function, keys=self._keys, extra=extra, retry_on=retry_on, give_up_on=give_up_on)
            self.handlers.put(found)
            if schedule is not None:
                try:
                    call = Call(found.name, found.parameters.write((), {}))
                except InvalidData as error:
                    raise ConfigError(
                        f"the handler {found.name!r} needs data, which a schedule in its declaration cannot give ({error}): "
                        "use its declare_schedule(…)"
                    ) from None
                self.declare_schedule(found.name, schedule, call)
            kind: Any = AsyncHandler if found.is_async else SyncHandler
            return kind(found, self)

        return register

    def catch_all(self, function: F) -> F:
        """Declare the function that works on jobs of every other name; it finds the name in its context."""
        self.handlers.put(registered("*", function, keys=self._keys), catch_all=True)
        return function

    def on(self, kind: type[E]) -> Listen[E]:
        """Declare a function to be called in each worker for what becomes of the jobs that it runs, once that is recorded.

        `kind` is a class of `toril.events`: `@email.on(FinalFailure)`. What workers elsewhere do, `QueueEvents` tells.
        """
        if kind in (Progress, Stalled, Drained):
            raise ConfigError(
                f"{kind.__name__} is not known where jobs run: QueueEvents({self.name!r}, store).on(…) tells of it"
            )
        return self.listeners.on(kind)

    def backoff(self, name: str) -> Callable[[Strategy], Strategy]:
        """Declare the strategy that `Backoff.custom(name)` asks."""

        def register(strategy: Strategy) -> Strategy:
            self.handlers.strategies[name] = strategy
            return strategy

        return register

    def declare_schedule(self, id: str, timing: Timing, call: Call) -> None:
        """Have the job of a call added again and again; workers put the schedule when they start.

        Raises:
            ConfigError: another schedule of this id is declared, or it cannot be.
        """
        schedule = self.new_schedule(id, timing, call)
        if self.declared.setdefault(id, schedule) != schedule:
            raise ConfigError(f"queue {self.name!r} has another schedule {id!r} already: give this one another id")

    async def before_add(self) -> None:
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
        self._undeclared: dict[str, Queue] = {}
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
        max_adds: RateLimit | None = None,
        **defaults: Unpack[JobOptions],
    ) -> AppQueue:
        """Declare a queue, or get one that is declared.

        Options given here are the defaults of its jobs. `concurrency` counts per worker; the environment variable
        `<NAME>_WORKER_CONCURRENCY`, and the one that `concurrency_variable` names, override it. `max_waiting`: beyond
        so many waiting jobs, adds are refused with `QueueFull`. `max_adds`: how many jobs one process may add in a time; more
        are refused with `TooManyAdds`.

        Raises:
            ConfigError: a queue of this name is declared otherwise, or an option cannot be.
        """
        declared = bool(concurrency or concurrency_variable or limiter or max_waiting or max_adds or defaults)
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
            max_adds=max_adds,
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
            if queue.declared and not self.settings.enable_scheduler:
                chosen = self.settings.origins.get("enable_scheduler", DEFAULT) != DEFAULT
                said = "the schedules of queue %s are not put here: %s (set ENABLE_SCHEDULER=true)"
                log.log(
                    logging.WARNING if chosen else logging.INFO, said, queue_name, ", ".join(sorted(queue.declared))
                )
            at_once = queue.concurrency if concurrency is None else concurrency
            served.append(
                Served(
                    queue_name, queue.handlers, at_once, queue.limiter, tuple(queue.declared.values()), queue.listeners
                )
            )
        return Worker(
            served,
            store=self.store,
            lock=lock,
            stalled_interval=stalled_interval,
            max_stalled=max_stalled,
            grace=grace,
            name=name,
            strict=self.settings.strict,
            scheduler=self.settings.enable_scheduler,
            production=self.settings.environment == "production",
            queue_of=self._queue_of,
        )

    async def flow(self, flow: Call | Group) -> Flow:
        """Add a tree of jobs over any queues, whole or not at all: `report.call(…).after(page.call(1), page.call(2))`, a `chain`
        or a `group`. A child that fails fails its parent, unless its option `parent_on_failure` says otherwise.

        Raises:
            InvalidJob: a call names no queue, or cannot be a job; or they are more than a unit holds.
            ConfigError: an option cannot be.
            CrossSlot: their queues lie in different slots of a cluster.
            QueueFull, TooManyAdds: a queue admits no more.
            StoreUnavailable: the store cannot be reached. They may be stored all the same.
        """
        if not isinstance(flow, Call | Group):
            raise InvalidJob(f"a flow is a call, such as handler.call(…), a chain or a group, not {flow!r}")
        roots = flow.calls if isinstance(flow, Group) else (flow,)
        if not roots:
            raise InvalidJob("the group has no jobs")
        jobs = await add_flows(self.store, self._queue_of, roots)
        return Flow(jobs, self.store, is_group=isinstance(flow, Group))

    def get_flow(self, ref: AnyJob) -> Flow:
        """A handle to the flow under a job."""
        return flow_of(ref_of(ref), self.store)

    def _queue_of(self, name: str) -> Queue:
        """A queue by its name; one that is not declared has no defaults of its own."""
        known: Queue | None = self.queues.get(name) or self._undeclared.get(name)
        if known is None:
            log.warning("queue %r is not declared: its jobs get the defaults of the app", name)
            known = self._undeclared[name] = Queue(name, self.store, ids=self.ids, defaults=self._defaults)
        return known

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
