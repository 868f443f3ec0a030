"""Functions that work on jobs: what they are given (`Context`, `inject`), and how they are found by name."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, Union, Unpack, cast, get_args, get_origin, overload

from toril.errors import ConfigError
from toril.job import Call, Job, results_of
from toril.model import Child, Claim, JobRef
from toril.options import JobOptions, Strategy
from toril.parameters import Parameters, parameters_of
from toril.schedule import JobScheduler
from toril.timing import Timing
from toril.wirejson import Json, decode, encode
from toril.wishes import Wish

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")


# -------------------------------------------------------------------- what a handler is given


class Reporter(Protocol):
    """Takes what a running job says of itself."""

    def report(self, claim: Claim, *, progress: str | None = None, line: str | None = None) -> Awaitable[None]:
        """Record progress or a line of log soon; the awaitable says when it is."""
        ...

    async def children(self, ref: JobRef) -> list[Child]:
        """The children of a job."""
        ...

    async def add_children(self, ref: JobRef, calls: Sequence[Call]) -> list[Job[Any]]:
        """Add children to a job."""
        ...


class Recorded:
    """Something said with `ctx.progress` or `ctx.log`. It is recorded soon; await it to know that it is."""

    def __init__(self, recorded: Awaitable[None]) -> None:
        self._recorded = recorded

    def __await__(self) -> Generator[Any, None, None]:
        return self._recorded.__await__()


class Context:
    """What a running handler holds of its job. Its methods may be called from threads too."""

    __slots__ = ("_claim", "_reporter", "cancel_reason")

    def __init__(self, claim: Claim, reporter: Reporter) -> None:
        self._claim = claim
        self._reporter = reporter
        self.cancel_reason: str | None = None

    @property
    def job_id(self) -> str:
        """The id of the job."""
        return self._claim.ref.id

    @property
    def queue(self) -> str:
        """The name of its queue."""
        return self._claim.ref.queue

    @property
    def name(self) -> str:
        """The name of the job, by which its handler was found."""
        return self._claim.name

    @property
    def attempt(self) -> int:
        """The number of this run, from 1. Stalls and hand-backs do not count."""
        return self._claim.attempt

    @property
    def attempts(self) -> int:
        """How many runs the job is allowed."""
        return self._claim.options.attempts

    @property
    def stalled(self) -> int:
        """How often a worker has vanished while it worked on this job."""
        return self._claim.stalled

    @property
    def data(self) -> Json:
        """The job's data, as it came."""
        return decode(self._claim.data)

    @property
    def claim(self) -> Claim:
        """All that the worker knows of the job."""
        return self._claim

    @property
    def cancelled(self) -> bool:
        """Whether the job is no longer wanted: its lock was lost, or its worker ends. `cancel_reason` says why."""
        return self.cancel_reason is not None

    def progress(self, value: Json) -> Recorded:
        """Say how far the job is: any JSON, most often a number up to 100."""
        return Recorded(self._reporter.report(self._claim, progress=encode(value, "progress")))

    def log(self, line: str) -> Recorded:
        """Add a line to the job's log."""
        line = line.encode("utf-8", "backslashreplace").decode()  # half a surrogate is no text to a store
        return Recorded(self._reporter.report(self._claim, line=line))

    async def children(self) -> list[Child]:
        """The children of this job and what became of them."""
        return await self._reporter.children(self._claim.ref)

    async def child_results(self) -> dict[JobRef, Any]:
        """What the children of this job have returned, those that have completed."""
        return results_of(await self.children())

    async def add_children(self, *calls: Call) -> list[Job[Any]]:
        """Add jobs, with what they wait for themselves, as children of this one; then wish `AwaitChildren()`, and this job
        runs again when they have ended. A child that fails fails it, unless its option `parent_on_failure` says otherwise.

        A run that is repeated adds them again: give them a `job_id`, and there will be one of each.

        Raises: as `App.flow`.
        """
        return await self._reporter.add_children(self._claim.ref, calls)


class Injected:
    """The default of a parameter that the worker fills in; made by `inject`."""

    __slots__ = ("factory",)

    def __init__(self, factory: Callable[[], Any]) -> None:
        self.factory = factory


@overload
def inject(factory: Callable[[], Coroutine[Any, Any, T]]) -> T: ...
@overload
def inject(factory: Callable[[], T]) -> T: ...
def inject(factory: Callable[[], Any]) -> Any:
    """As a parameter's default: let the worker fill it in with what `factory` returns, asked anew for each job."""
    return Injected(factory)


# -------------------------------------------------------------------- a handler as the worker sees it


@dataclass(frozen=True, slots=True)
class Registered:
    """A handler as the worker sees it: untyped."""

    name: str
    function: Callable[..., Any]
    parameters: Parameters
    is_async: bool
    returns: Any = Any  # what its result is read as: its return type without wishes
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    give_up_on: tuple[type[BaseException], ...] = ()


@dataclass(slots=True)
class HandlerTable:
    """The handlers of one queue, by job name, and its backoff strategies."""

    by_name: dict[str, Registered] = field(default_factory=dict[str, Registered])
    catch_all: Registered | None = None
    strategies: dict[str, Strategy] = field(default_factory=dict[str, Strategy])

    def find(self, name: str) -> Registered | None:
        """The handler of a name, else the catch-all, else None."""
        return self.by_name.get(name, self.catch_all)

    def put(self, handler: Registered, *, catch_all: bool = False) -> None:
        """Register a handler.

        Raises:
            ConfigError: another function has this name already.
        """
        other = self.catch_all if catch_all else self.by_name.get(handler.name)
        if other is not None and other.function is not handler.function:
            what = "the catch-all" if catch_all else f"the name {handler.name!r}"
            raise ConfigError(
                f"{what} is taken by {_path(other.function)}: give {_path(handler.function)} another name"
            )
        if catch_all:
            self.catch_all = handler
        else:
            self.by_name[handler.name] = handler


def _path(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', function)}"


def registered(
    name: str | None,
    function: Callable[..., Any],
    *,
    keys: str = "snake",
    extra: str = "ignore",
    retry_on: Sequence[type[BaseException]] | None = None,
    give_up_on: Sequence[type[BaseException]] = (),
) -> Registered:
    """Inspect a function and make it a handler. Its name is the function's when none is given."""
    if keys not in ("snake", "camel"):
        raise ConfigError(f"keys is 'snake' or 'camel', not {keys!r}")
    if extra not in ("ignore", "forbid"):
        raise ConfigError(f"extra is 'ignore' or 'forbid', not {extra!r}")
    parameters = parameters_of(
        function,
        context_type=Context,
        injected_type=Injected,
        extra=cast(Any, extra),
        keys=cast(Any, keys),
    )
    return Registered(
        name=name or str(getattr(function, "__name__", type(function).__name__)),
        function=function,
        parameters=parameters,
        is_async=inspect.iscoroutinefunction(function)
        or inspect.iscoroutinefunction(getattr(function, "__call__", None)),  # noqa: B004
        returns=_without_wishes(parameters.returns),
        retry_on=(Exception,) if retry_on is None else tuple(retry_on),
        give_up_on=tuple(give_up_on),
    )


def _without_wishes(annotation: Any) -> Any:
    """A return type less the wishes in it, which are never a result."""
    if _is_wish(annotation):
        return None
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    results: list[Any] = [member for member in get_args(annotation) if not _is_wish(member)]
    return Union[tuple(results)] if results else None  # noqa: UP007 - made from a list


def _is_wish(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Wish)


# -------------------------------------------------------------------- a handler as people see it


class Target(Protocol):
    """Where a handler's jobs go."""

    @property
    def name(self) -> str:
        """The name of the queue."""
        ...

    async def add_call(self, call: Call, returns: Any) -> Job[Any]:
        """Add one job."""
        ...

    async def schedule_call(self, id: str, timing: Timing, call: Call) -> JobScheduler:
        """Add it again and again."""
        ...

    def declare_schedule(self, id: str, timing: Timing, call: Call) -> None:
        """Have it added again and again from the start of a worker on."""
        ...


class Handler(Generic[P, R]):
    """A function that works on jobs of one name. `add` takes the function's own parameters, less context and injections."""

    def __init__(self, handler: Registered, queue: Target) -> None:
        self._handler = handler
        self._queue = queue

    @property
    def name(self) -> str:
        """The name of its jobs."""
        return self._handler.name

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself."""
        return self._handler.function

    async def add(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Add a job that calls the function with these arguments.

        Raises:
            InvalidData: the arguments do not fit the function, or JSON has no form for one.
            QueueFull: the queue admits no more.
            StoreUnavailable: the store cannot be reached. The job may be stored all the same: with the option `job_id`,
                adding it again makes no second one.
        """
        return await self._queue.add_call(self.call(*args, **kwargs), self._handler.returns)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """The same job, to be added later with others by `add_many`."""
        return Call(self.name, self._handler.parameters.write(args, kwargs), queue=self._queue.name)

    async def schedule(self, id: str, timing: Timing, /, *args: P.args, **kwargs: P.kwargs) -> JobScheduler:
        """Add such a job again and again, at the times of `cron(…)` or `every(…)`. Raises as `Queue.schedule`."""
        return await self._queue.schedule_call(id, timing, self.call(*args, **kwargs))

    def declare_schedule(self, id: str, timing: Timing, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """The same, said in code: workers put the schedule when they start, and changes of it when the code has changed.

        Raises:
            ConfigError: the queue has another schedule of this id, or it cannot be.
            InvalidData: the arguments do not fit the function.
        """
        self._queue.declare_schedule(id, timing, self.call(*args, **kwargs))

    def options(self, **options: Unpack[JobOptions]) -> WithOptions[P, R]:
        """The handler with options for what is added through it: `handler.options(delay=60).add(…)`."""
        return WithOptions(self._handler, self._queue, options)


class WithOptions(Generic[P, R]):
    """A handler together with options for its jobs."""

    def __init__(self, handler: Registered, queue: Target, options: JobOptions) -> None:
        self._handler = handler
        self._queue = queue
        self._options = options

    async def add(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """As `Handler.add`, with the options."""
        return await self._queue.add_call(self.call(*args, **kwargs), self._handler.returns)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """As `Handler.call`, with the options."""
        return Call(self._handler.name, self._handler.parameters.write(args, kwargs), self._options, self._queue.name)

    async def schedule(self, id: str, timing: Timing, /, *args: P.args, **kwargs: P.kwargs) -> JobScheduler:
        """As `Handler.schedule`, with the options."""
        return await self._queue.schedule_call(id, timing, self.call(*args, **kwargs))

    def declare_schedule(self, id: str, timing: Timing, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """As `Handler.declare_schedule`, with the options."""
        self._queue.declare_schedule(id, timing, self.call(*args, **kwargs))


class AsyncHandler(Handler[P, R], Generic[Q, P, R]):
    """A handler that is an `async def`: calling it is calling the function."""

    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> Coroutine[Any, Any, R]:
        return cast("Coroutine[Any, Any, R]", self._handler.function(*args, **kwargs))


class SyncHandler(Handler[P, R], Generic[Q, P, R]):
    """A handler that is a plain `def`, run in a thread: calling it is calling the function."""

    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> R:
        return cast(R, self._handler.function(*args, **kwargs))
