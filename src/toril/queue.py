"""A queue: adding to it, looking into it, and changing it."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Unpack, cast

from toril.clock import Clock
from toril.errors import ConfigError, InvalidJob, TooManyAdds
from toril.ids import IdSource, check_job_id, check_job_name, check_queue_name, check_schedule_id, draw_id
from toril.job import Call, Job, jobs_of
from toril.model import (
    Answer,
    Event,
    JobRecord,
    JobRef,
    NewJob,
    Page,
    Parent,
    QueueSettings,
    QueueSummary,
    Receipt,
    Schedule,
    ScheduleRecord,
    Unit,
    WorkerInfo,
)
from toril.options import (
    AnyJob,
    ChildPolicy,
    Confirm,
    Deduplication,
    Duration,
    JobOptions,
    RateLimit,
    confirm_of,
    merged,
    policy_of,
    resolve,
    to_ms,
)
from toril.schedule import JobScheduler, put
from toril.shapes import to_json
from toril.states import State
from toril.store import MAX_UNIT_BYTES, MAX_UNIT_JOBS, Producer, Store
from toril.timing import Timing
from toril.wirejson import Json, encode

Addable = Call | tuple[str, Json] | tuple[str, Json, JobOptions]
"""What `add_many` takes: a `Call`, or a name with data, or with data and options."""

PAGE: Final = 500


class Flight:
    """Adds to one store from one loop. One that stands alone leaves at once; those that come meanwhile leave together."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._flying = False
        self._units: list[Unit] = []
        self._futures: list[asyncio.Future[Receipt]] = []
        self._task: asyncio.Task[None] | None = None

    async def add(self, unit: Unit) -> Receipt:
        """Add a unit; it arrives though the caller be cancelled."""
        if self._flying:
            future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            self._units.append(unit)
            self._futures.append(future)
            return await future
        self._flying = True
        try:
            (receipt,) = await self._producer.add((unit,))
        finally:
            self._land()
        return receipt

    def _land(self) -> None:
        """Send off what has gathered, if anything has."""
        if self._units:
            self._task = asyncio.get_running_loop().create_task(self._fly_gathered())
        else:
            self._flying = False

    async def _fly_gathered(self) -> None:
        units, self._units = self._units, []
        futures, self._futures = self._futures, []
        try:
            await asyncio.gather(*(self._fly(units[start:end], futures[start:end]) for start, end in _flights(units)))
        finally:
            self._land()

    async def _fly(self, units: list[Unit], futures: list[asyncio.Future[Receipt]]) -> None:
        try:
            receipts = await self._producer.add(units)
        except BaseException as error:
            for future in futures:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for future, receipt in zip(futures, receipts, strict=True):
            if not future.done():
                future.set_result(receipt)


def _flights(units: Sequence[Unit]) -> Iterable[tuple[int, int]]:
    """Where to cut what leaves together, so that no flight is longer than 1,000 jobs or larger than 1 MiB."""
    start = jobs = size = 0
    for n, unit in enumerate(units):
        its_jobs, its_size = len(unit.jobs), sum(len(job.data) for job in unit.jobs)
        if n > start and (jobs + its_jobs > MAX_UNIT_JOBS or size + its_size > MAX_UNIT_BYTES // 4):
            yield start, n
            start, jobs, size = n, 0, 0
        jobs, size = jobs + its_jobs, size + its_size
    yield start, len(units)


_flights_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, Flight]] = weakref.WeakKeyDictionary()


def flight_of(store: Store) -> Flight:
    """The flight of a store on the running loop."""
    flights = _flights_by_loop.setdefault(asyncio.get_running_loop(), {})
    flight = flights.get(id(store))
    if flight is None:
        flight = flights[id(store)] = Flight(store)  # which keeps the store, so that its id stays its own
    return flight


class Admission:
    """How many jobs this process may add to a queue: a bucket that holds `limit.max`, and fills within `limit.per_ms`."""

    def __init__(self, queue: str, limit: RateLimit, clock: Clock) -> None:
        self._queue = queue
        self._limit = limit
        self._clock = clock
        self._room = float(limit.max)
        self._at_ms = clock.now_ms()

    def admit(self, jobs: int) -> None:
        """Count so many adds; more than the bucket holds are let through when it is full.

        Raises:
            TooManyAdds: there is no room for them now.
        """
        limit, now_ms = self._limit, self._clock.now_ms()
        self._room = min(limit.max, self._room + (now_ms - self._at_ms) * limit.max / limit.per_ms)
        self._at_ms = now_ms
        wanted = min(jobs, limit.max)
        if self._room < wanted:
            said = f"{limit.max:,} jobs per {limit.per_ms / 1000:g} s"
            raise TooManyAdds(self._queue, said, (wanted - self._room) * limit.per_ms / limit.max / 1000)
        self._room -= jobs


class Queue:
    """A queue of a store. `defaults` are options for all jobs added through it.

    `max_adds`: how many jobs may be added through it in a time; it counts for this object alone, so for one process.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        *,
        ids: IdSource = draw_id,
        defaults: JobOptions | None = None,
        max_adds: RateLimit | None = None,
    ) -> None:
        self.name = check_queue_name(name)
        self.store = store
        self.defaults: JobOptions = defaults or {}
        self._ids = ids
        self._default_options = resolve(self.defaults, store.clock.now_ms())
        self._default_confirm = confirm_of(self.defaults)
        self._admission = None if max_adds is None else Admission(name, max_adds, store.clock)

    def __repr__(self) -> str:
        return f"<Queue {self.name!r} on {self.store.kind}>"

    # ---------------------------------------------------------------- adding

    async def add(self, name: str, data: Json = None, /, **options: Unpack[JobOptions]) -> Job[Any]:
        """Add a job.

        Raises:
            InvalidJob: its name, id or data cannot be; the message says what.
            ConfigError: an option cannot be; the message names it.
            QueueFull: the queue admits no more.
            TooManyAdds: this process adds more often than `max_adds` allows.
            JobNotFound: its `parent` is not there.
            StoreUnavailable: the store cannot be reached. The job may be stored all the same: give it a `job_id`, and
                adding it again makes no second one.
            Unconfirmed: it is stored, but not on as many replicas, or not yet on disk, as `wait_replicas` and `wait_aof` ask.
        """
        return await self.add_call(Call(name, data, options))

    async def add_call(self, call: Call, returns: Any = Any) -> Job[Any]:
        """Add the job of a call, whose result is read as `returns` says."""
        job = self.new_job(call)
        await self.before_add()
        self.admit(1)
        receipt = await flight_of(self.store).add(Unit((job,), self.confirm(call)))
        return jobs_of(receipt, self.store, returns)[0]

    async def add_and_wait(
        self, name: str, data: Json = None, /, *, timeout: Duration | None = None, **options: Unpack[JobOptions]
    ) -> Any:
        """Add a job, and return what its handler returns, as `Job.result` does. Raises as both."""
        return await (await self.add(name, data, **options)).result(timeout)

    async def add_many(self, calls: Iterable[Addable], *, atomic: bool = False) -> list[Job[Any]]:
        """Add jobs in order: up to 1,000 (or 4 MiB) all or none, more in such units one after the other.

        With `atomic`, more than one unit is refused instead. Raises as `add`; units before the refused one are stored.
        """
        called = [_call(call) for call in calls]
        jobs = [self.new_job(call) for call in called]
        if not jobs:
            return []
        confirm = functools.reduce(stronger, map(self.confirm, called))
        units = list(_units(jobs, confirm))
        if atomic and len(units) > 1:
            raise InvalidJob(
                f"{len(jobs):,} jobs are more than one atomic unit holds ({MAX_UNIT_JOBS:,} jobs or "
                f"{MAX_UNIT_BYTES // 2**20} MiB): add them in parts, or without atomic=True"
            )
        await self.before_add()
        self.admit(len(jobs))
        added: list[Job[Any]] = []
        for unit in units:
            (receipt,) = await self.store.add([unit])
            added += jobs_of(receipt, self.store)
        return added

    def admit(self, jobs: int) -> None:
        """Count so many adds towards `max_adds`. Raises TooManyAdds."""
        if self._admission is not None:
            self._admission.admit(jobs)

    def new_job(
        self,
        call: Call,
        parent: JobRef | None = None,
        *,
        policy: ChildPolicy = ChildPolicy.FAIL,
        has_children: bool = False,
    ) -> NewJob:
        """The job that a call will be, checked; the child of `parent`, or of the one that its options name."""
        if call.queue not in (None, self.name):
            raise InvalidJob(
                f"the job {call.name!r} is meant for queue {call.queue!r}: add it there, not to {self.name!r}"
            )
        if call.children and not has_children:
            raise InvalidJob(f"the job {call.name!r} waits for others, which a flow alone adds: give it to App.flow")
        now_ms = self.store.clock.now_ms()
        options, given = self._default_options, call.options
        job_id, nonce = None, None
        if given:
            job_id = given.get("job_id")
            options = resolve(merged(self.defaults, given), now_ms)
        if job_id is None:
            job_id = self._ids()
        else:
            check_job_id(job_id)
            nonce = self._ids()
        check_job_name(call.name)
        data = encode(to_json(call.data), "data", options.size_limit)
        family = self._parent(given, parent, policy) if given or parent else None
        if family is not None and family.ref == JobRef(self.name, job_id):
            raise InvalidJob(f"the job {job_id!r} cannot be its own child: give the child another id")
        if options.deduplication is not None:
            _check_deduplication(call.name, options.deduplication, family, has_children)
        return NewJob(self.name, call.name, job_id, data, options, now_ms, nonce, family, has_children)

    def _parent(self, given: JobOptions, parent: JobRef | None, policy: ChildPolicy) -> Parent | None:
        named = given.get("parent")
        if parent is None and named is not None:
            parent = ref_of(named)
        if parent is None:
            if "parent_on_failure" in given:
                raise InvalidJob("parent_on_failure is for a job that has a parent: give it one, or leave it out")
            return None
        return Parent(parent, policy_of(merged(self.defaults, given), policy))

    def confirm(self, call: Call) -> Confirm | None:
        """What the add of a call is to wait for besides the store's own word."""
        return confirm_of(merged(self.defaults, call.options)) if call.options else self._default_confirm

    async def before_add(self) -> None:
        """What has to be so before the first job is added; an app's queue sets its declared settings here."""

    # ---------------------------------------------------------------- looking

    async def counts(self) -> Mapping[State, int]:
        """How many jobs are in each state."""
        return (await self.summary()).counts

    async def summary(self) -> QueueSummary:
        """Counts, settings and the oldest waiting job."""
        (summary,) = await self.store.summaries([self.name])
        return summary

    async def get(self, job_id: str) -> JobRecord | None:
        """What is known of a job; None when there is none."""
        return (await self.store.get([JobRef(self.name, job_id)]))[0]

    def job(self, job_id: str) -> Job[Any]:
        """A handle to a job of this queue, by its id."""
        return Job(JobRef(self.name, job_id), self.store)

    async def find(
        self, state: State | str, *, after: str | None = None, limit: int = 50, newest_first: bool = False
    ) -> Page[JobRecord]:
        """Jobs of a state; the page's `next`, given as `after`, brings the rest."""
        return await self.store.find(self.name, State(state), after=after, limit=limit, newest_first=newest_first)

    async def iterate(self, state: State | str, *, newest_first: bool = False) -> AsyncIterator[JobRecord]:
        """All jobs of a state, read page by page."""
        after: str | None = None
        while True:
            page = await self.find(state, after=after, limit=PAGE, newest_first=newest_first)
            for record in page.items:
                yield record
            after = page.next
            if after is None:
                return

    async def settings(self) -> QueueSettings:
        """What is set on it for all workers and producers."""
        return await self.store.settings(self.name)

    async def workers(self) -> list[WorkerInfo]:
        """Workers seen lately that serve it."""
        return [worker for worker in await self.store.workers() if self.name in worker.queues]

    async def events(self, after: str | None = None, *, until_ms: int | None = None) -> AsyncIterator[Event]:
        """What happens in it, from now on, or after the id of an event: a reader that resumes misses nothing.

        Ends at `until_ms` of the store's clock; never, when None.
        """
        clock = self.store.clock
        last = await self.store.last_event(self.name) if after is None else after
        while until_ms is None or clock.now_ms() < until_ms:
            net_ms = clock.now_ms() + 60_000
            wait_ms = net_ms if until_ms is None else min(until_ms, net_ms)
            for event in await self.store.read(self.name, last, until_ms=wait_ms):
                last = event.id
                yield event

    async def deduplicated(self, deduplication_id: str) -> Job[Any] | None:
        """The job that owns a deduplication id; None when an add under it would make one."""
        ref = await self.store.owner(self.name, deduplication_id)
        return None if ref is None else Job(ref, self.store)

    async def schedules(self) -> list[ScheduleRecord]:
        """Its schedules, the next run first."""
        return await self.store.schedules(self.name)

    def scheduler(self, id: str) -> JobScheduler:
        """A handle to one of its schedules, by its id."""
        return JobScheduler(self.name, id, self.store)

    # ---------------------------------------------------------------- changing

    async def schedule(
        self, id: str, timing: Timing, name: str | None = None, data: Json = None, /, **options: Unpack[JobOptions]
    ) -> JobScheduler:
        """Add a job again and again, at the times of `cron(…)` or `every(…)`. Put again, it takes the place of what it was.

        The job is called as its schedule when no `name` is given.

        Raises:
            ConfigError: the id, the times or an option cannot be; the message says why.
            InvalidJob: the name or the data cannot be.
        """
        return await self.schedule_call(id, timing, Call(name or id, data, options))

    async def schedule_call(self, id: str, timing: Timing, call: Call) -> JobScheduler:
        """Add the job of a call again and again."""
        schedule = self.new_schedule(id, timing, call)
        await self.before_add()
        await put(self.store, schedule)
        return self.scheduler(id)

    def new_schedule(self, id: str, timing: Timing, call: Call) -> Schedule:
        """The schedule that adds the job of a call, checked."""
        if not isinstance(timing, Timing):
            raise ConfigError(f"the times of a schedule are made by cron(…) or every(…), not {timing!r}")
        job = self.new_job(call)
        for option in ("job_id", "parent", "delay", "at", "deduplication"):
            if option in call.options:
                raise ConfigError(
                    f"the schedule {id!r} cannot have the option {option}: each of its runs is a job of its own"
                )
        return Schedule(
            self.name, check_schedule_id(id), timing, job.name, job.data, replace(job.options, deduplication=None)
        )

    async def forget(self, deduplication_id: str) -> bool:
        """Let the next add under a deduplication id make a job, though its owner stands; False when it has none."""
        return await self.store.forget(self.name, deduplication_id)

    async def limit(self, *, rate: RateLimit | None = None, concurrency: int | None = None) -> None:
        """Set how many jobs may start in a time, and run at once, over all workers; None lifts the limit."""
        settings = await self.settings()
        await self.configure(replace(settings, rate_limit=rate, concurrency=concurrency))

    async def pause(self) -> None:
        """Hand out no jobs until `resume`. Running ones go on."""
        await self.store.pause(self.name)

    async def resume(self) -> None:
        """Hand out jobs again."""
        await self.store.resume(self.name)

    async def throttle(self, duration: Duration) -> None:
        """Hand out no jobs for a while; 0 lifts it."""
        await self.store.throttle(self.name, to_ms(duration, "duration"))

    async def configure(self, settings: QueueSettings) -> None:
        """Set all of its settings."""
        await self.store.configure(self.name, settings)

    async def remove(self, job_id: str) -> bool:
        """Remove a job; False when it is running or gone."""
        return await self.job(job_id).remove()

    async def retry_all(self, state: State | str = State.FAILED, *, reset_attempts: bool = False) -> int:
        """Run all jobs again that are failed (or completed) now; return how many."""

        async def retry(refs: Sequence[JobRef]) -> list[Answer]:
            return await self.store.retry(refs, reset_attempts=reset_attempts)

        return await self._each(State(state), retry)

    async def promote_all(self) -> int:
        """Let all delayed jobs run now; return how many."""
        return await self._each(State.DELAYED, self.store.promote)

    async def _each(self, state: State, verb: Callable[[Sequence[JobRef]], Awaitable[list[Answer]]]) -> int:
        """Apply a verb to the jobs that are in a state now, page by page."""
        done = 0
        refs = [record.ref async for record in self.iterate(state)]
        for start in range(0, len(refs), PAGE):
            answers = await verb(refs[start : start + PAGE])
            done += answers.count(Answer.DONE)
        return done

    async def drain(self, *, delayed: bool = False) -> int:
        """Remove what waits, and delayed jobs if asked; return how many."""
        return await self.store.drain(self.name, delayed=delayed)

    async def clean(self, state: State | str, *, older_than: Duration = 0, limit: int = 1_000_000) -> int:
        """Remove jobs of a state that are older; return how many. A running job under its lock stays."""
        removed, grace_ms = 0, to_ms(older_than, "older_than")
        while removed < limit:
            wanted = min(PAGE * 2, limit - removed)
            count = len(await self.store.clean(self.name, State(state), grace_ms=grace_ms, limit=wanted))
            removed += count
            if count < wanted:
                break
        return removed

    async def obliterate(self, *, force: bool = False) -> int:
        """Remove the queue, which must be paused, with everything in it; return how many jobs.

        Raises:
            QueueNotPaused: it is not paused.
            QueueBusy: jobs are running, and `force` is not given.
        """
        return await self.store.obliterate(self.name, force=force)


def ref_of(job: AnyJob) -> JobRef:
    """The name of a job.

    Raises:
        InvalidJob: it is no job.
    """
    if not (hasattr(job, "queue") and hasattr(job, "id")):
        raise InvalidJob(f"a job is named by a Job or a JobRef(queue, id), not by {job!r}")
    return JobRef(job.queue, job.id)


def _check_deduplication(name: str, rule: Deduplication, parent: Parent | None, has_children: bool) -> None:
    """BullMQ's rules: a flow's parent is never a duplicate, and a child is never kept for later."""
    if has_children:
        raise InvalidJob(
            f"the job {name!r} has children and cannot be deduplicated: deduplicate the children, or choose its id"
        )
    if parent is not None and rule.keep_last_if_active:
        raise InvalidJob(
            f"the job {name!r} has a parent and cannot be kept for later: its parent would not wait for it"
        )


def _call(given: Addable) -> Call:
    if isinstance(given, Call):
        return given
    if not isinstance(given, tuple | list) or not 2 <= len(given) <= 3:
        raise InvalidJob(f"add_many takes calls, (name, data) or (name, data, options), not {given!r}")
    return Call(*cast("tuple[str, Json, JobOptions]", given))


def _units(jobs: Sequence[NewJob], confirm: Confirm | None) -> Iterable[Unit]:
    """Cut jobs, in order, into units that a store takes."""
    start = size = 0
    for n, job in enumerate(jobs):
        if n > start and (n - start >= MAX_UNIT_JOBS or size + len(job.data) > MAX_UNIT_BYTES):
            yield Unit(tuple(jobs[start:n]), confirm)
            start, size = n, 0
        size += len(job.data)
    yield Unit(tuple(jobs[start:]), confirm)


def stronger(one: Confirm | None, other: Confirm | None) -> Confirm | None:
    """What both ask for."""
    return other if one is None else one.or_stronger(other)
