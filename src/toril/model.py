"""What crosses the seam: frozen data, no behaviour. `data`, `result` and `progress` are JSON text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Literal, TypeVar

from toril.errors import ConfigError, TorilError
from toril.options import DEFAULT_OPTIONS, ChildPolicy, Confirm, Options, RateLimit, Rule
from toril.states import State
from toril.timing import Timing

T = TypeVar("T")

DEFAULT_METRICS_MINUTES = 1440
MAX_METRICS_MINUTES = 44_640


@dataclass(frozen=True, slots=True, order=True)
class JobRef:
    """The name of a job, written `queue/id`."""

    queue: str
    id: str

    def __str__(self) -> str:
        return f"{self.queue}/{self.id}"

    def __hash__(self) -> int:
        return hash(self.id)  # ids hardly ever meet across queues, and this is asked several times for each job


@dataclass(frozen=True, slots=True)
class Parent:
    """The job that waits for this one, and what becomes of it when this one fails."""

    ref: JobRef
    policy: ChildPolicy = ChildPolicy.WAIT


# ------------------------------------------------------------------ adding


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job on its way to a store.

    `nonce` is drawn for an id that the caller chose, so that the repeat of a lost add can be told from a second add.
    An id that was drawn needs none.
    """

    queue: str
    name: str
    id: str
    data: str
    options: Options
    created_at_ms: int
    nonce: str | None = None
    parent: Parent | None = None
    has_children: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """Jobs that are stored together or not at all: one job, an `add_many`, or a flow with parents before children."""

    jobs: tuple[NewJob, ...]
    confirm: Confirm | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """One job of a stored unit.

    `duplicate`: it was not stored, and `ref` is the job that stands in its place, found by `rule`. With "keep-last" it
    will be added when that one, which runs, has ended. Not a duplicate, "debounce" says that it took the place of a
    delayed job, which is gone.
    """

    ref: JobRef
    duplicate: bool = False
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The member for which a whole unit was refused, and why."""

    ref: JobRef
    error: TorilError


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to one unit: all of its members, or the refusal. `store` says where they are."""

    store: str
    added: tuple[Added, ...] = ()
    refusal: Refusal | None = None


# ------------------------------------------------------------------ claiming


@dataclass(frozen=True, slots=True)
class Slots:
    """How many jobs of a queue a worker has room for, and its limiter; or the very jobs it wants."""

    queue: str
    free: int
    limiter: RateLimit | None = None
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A worker's wish for jobs. `token` is new for each wish; repeating a wish gives the same jobs again."""

    worker: str
    token: str
    lock_ms: int
    slots: tuple[Slots, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """A job plus the right to work on it, as long as the lock of its token is renewed."""

    ref: JobRef
    name: str
    data: str
    options: Options
    token: str
    attempt: int  # this run's number, from 1; stalls and hand-backs do not count
    started: int  # how often it was handed out, this time included
    stalled: int
    priority: int
    created_at_ms: int
    claimed_at_ms: int
    worker: str
    deferred: str | None = None  # a reason to fail it without running it
    parent: Parent | None = None
    schedule: str | None = None  # the id of the schedule whose run it is
    handle: object = field(default=None, compare=False, repr=False)  # the store's own


@dataclass(frozen=True, slots=True)
class Idle:
    """Why a queue gave no job, and when that may change by itself."""

    reason: Literal["empty", "paused", "limited", "full"]
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a wish brought: claims, and for each queue that had less than was wanted, why."""

    claims: tuple[Claim, ...] = ()
    idle: Mapping[str, Idle] = field(default_factory=dict[str, Idle])


# ------------------------------------------------------------------ settling


@dataclass(frozen=True, slots=True)
class Completed:
    """The handler returned."""

    result: str = "null"


@dataclass(frozen=True, slots=True)
class Failed:
    """The job has ended without success; it is not tried again."""

    reason: str
    stack: str = ""


@dataclass(frozen=True, slots=True)
class Retried:
    """The attempt failed and is spent; run the job again once `after_ms` has passed."""

    after_ms: int
    reason: str
    stack: str = ""


@dataclass(frozen=True, slots=True)
class Delayed:
    """The handler's wish: run the job again at `until_ms`. Costs no attempt."""

    until_ms: int


@dataclass(frozen=True, slots=True)
class Throttled:
    """The handler's wish: back in front of the queue, and none of its jobs for `for_ms`. Costs no attempt."""

    for_ms: int


@dataclass(frozen=True, slots=True)
class AwaitingChildren:
    """The handler's wish: run the job again when its children have ended."""


@dataclass(frozen=True, slots=True)
class Released:
    """Handed back unfinished, in front of the queue. Costs no attempt."""


Outcome = Completed | Failed | Retried | Delayed | Throttled | AwaitingChildren | Released


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a claimed job."""

    claim: Claim
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Settled:
    """The answer to a batch of settlements. Those not named in it are recorded."""

    lost: tuple[JobRef, ...] = ()  # another worker owns them now, or they are gone
    staying: tuple[JobRef, ...] = ()  # wanted to wait for children and have none pending: still ours, run them again
    # Could not complete because of their children, with `WrongState` for pending ones and `Unrecoverable` for a
    # failed one: still ours, to be settled as failed.
    refused: tuple[Refusal, ...] = ()
    claimed: Claimed | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a running job says of itself, under its token. None leaves it unsaid."""

    claim: Claim
    progress: str | None = None
    logs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recovered:
    """Jobs whose worker has vanished, and which are back in front of their queue."""

    requeued: tuple[JobRef, ...] = ()  # to run again
    deferred: tuple[JobRef, ...] = ()  # stalled too often: the next claim hands them out marked, to be failed


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody asks of a running worker: cancel a job, quiet, or stop."""

    kind: Literal["cancel", "quiet", "stop"]
    ref: JobRef | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Woken:
    """Why a wait has ended: queues that rang, orders, or neither when its time was up."""

    queues: frozenset[str] = frozenset()
    orders: tuple[Order, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says of itself to whoever looks. `ttl_ms` after `seen_at_ms` it counts as gone."""

    id: str
    name: str
    host: str
    pid: int
    queues: Mapping[str, int]  # name -> concurrency
    started_at_ms: int
    seen_at_ms: int
    ttl_ms: int
    running: int = 0
    state: Literal["running", "draining", "stopped"] = "running"
    version: str = ""


# ------------------------------------------------------------------ looking


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a job that is over."""

    number: int
    worker: str | None
    started_at_ms: int
    ended_at_ms: int
    outcome: str  # completed, failed, retried, delayed, throttled, released, stalled, awaiting-children
    reason: str = ""
    stack: str = ""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What a store knows of a job. `kept` is False for one that was removed and whose result can still be read."""

    ref: JobRef
    name: str
    data: str
    options: Options
    state: State
    priority: int = 0
    created_at_ms: int = 0
    due_at_ms: int | None = None
    processed_at_ms: int | None = None
    finished_at_ms: int | None = None
    attempts_made: int = 0
    attempts_started: int = 0
    stalled: int = 0
    worker: str | None = None
    locked_until_ms: int | None = None
    progress: str | None = None
    result: str | None = None
    reason: str | None = None
    deferred: str | None = None
    history: tuple[Attempt, ...] = ()
    parent: Parent | None = None
    pending_children: int = 0
    schedule: str | None = None
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Child:
    """A child of a job, as its parent sees it."""

    ref: JobRef
    state: Literal["pending", "completed", "failed", "ignored"]
    result: str | None = None
    reason: str | None = None


# ------------------------------------------------------------------ schedules


@dataclass(frozen=True, slots=True)
class Superseded:
    """A definition that another one has taken the place of, by its fingerprint, and when."""

    fingerprint: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it is to be: when, and the job that it makes each time.

    `declared`: code owns it, and puts it at the start of a worker; the fingerprint of what the code says. `paused` is the
    operators'.
    """

    queue: str
    id: str
    timing: Timing
    name: str
    data: str = "{}"
    options: Options = DEFAULT_OPTIONS
    declared: str | None = None
    paused: bool = False
    superseded: tuple[Superseded, ...] = ()  # the newest last


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """What a store knows of a schedule.

    Its run to come is the job `iteration`, of which `next_at_ms` is the time; a schedule that is paused or over has
    none, and keeps the time of the last one. `iterations` counts all runs it has made, `count` those since it was put.
    """

    schedule: Schedule
    next_at_ms: int
    iterations: int
    count: int
    state: State | None = None  # where the job `iteration` stands; None: it is not there
    running: str | None = None  # the id of the run that was last let run
    handle: object = field(default=None, compare=False, repr=False)  # the store's own

    @property
    def iteration(self) -> JobRef:
        """The job that is the run at `next_at_ms`. BullMQ names it so."""
        return JobRef(self.schedule.queue, iteration_id(self.schedule.id, self.next_at_ms))

    @property
    def pending(self) -> bool:
        """Whether the run to come waits for its time, or for a worker."""
        return self.state in (State.WAITING, State.PRIORITIZED, State.DELAYED)


def iteration_id(schedule: str, at_ms: int) -> str:
    """The id of the job that is a schedule's run at a time."""
    return f"repeat:{schedule}:{at_ms}"


class Placed(StrEnum):
    """What became of a run that a schedule was to have next."""

    DONE = "done"
    CHANGED = "changed"  # somebody else has changed or advanced the schedule: look again
    TAKEN = "taken"  # there is a job of that time already: try the time after it


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list. `next` is where the rest begins, None at the end; it stays right while jobs come and go."""

    items: tuple[T, ...]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class LogPage:
    """Lines of a job's log, oldest first, of `total` kept; `first` is the number of the first line, from 0."""

    lines: tuple[str, ...]
    first: int
    total: int


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What is set on a queue for all of its workers and producers."""

    paused: bool = False
    concurrency: int | None = None  # over all workers
    rate_limit: RateLimit | None = None  # over all workers
    max_waiting: int | None = None
    events: bool = True
    max_events: int = 10_000
    metrics_minutes: int = DEFAULT_METRICS_MINUTES  # that `series` keeps; 0: finished jobs are not counted
    limited_until_ms: int | None = None  # read only: set by `throttle` and by limits reached

    def __post_init__(self) -> None:
        if not 0 <= self.metrics_minutes <= MAX_METRICS_MINUTES:
            raise ConfigError(
                f"metrics_minutes must be from 0, which counts nothing, to {MAX_METRICS_MINUTES:,}, which is 31 days, "
                f"not {self.metrics_minutes!r}"
            )


@dataclass(frozen=True, slots=True)
class QueueSummary:
    """A queue at a glance."""

    name: str
    counts: Mapping[State, int]
    settings: QueueSettings
    oldest_ready_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """How many jobs of a queue have completed, or failed, in each of the newest minutes.

    `counts` is as long as was asked for, the oldest minute first; the last one is still running and ends at
    `until_ms`. A minute whose count is not kept is 0, as one in which nothing ended. `total` counts all since counting
    began, in whatever minute.
    """

    total: int
    counts: tuple[int, ...]
    until_ms: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a queue. Ids rise; a reader resumes after the last one it has seen."""

    queue: str
    id: str
    at_ms: int
    name: str
    job_id: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict[str, str])


class Answer(StrEnum):
    """What became of one job in an operation on many."""

    DONE = "done"
    MISSING = "missing"
    WRONG_STATE = "wrong-state"
    LOCKED = "locked"


@dataclass(frozen=True, slots=True)
class Update:
    """A change to a job that is not finished by it; None leaves a field as it is.

    `priority` moves a waiting job among the others, `delay_ms` counts anew from now for a delayed one.
    `clear_logs` keeps the last so many lines.
    """

    ref: JobRef
    data: str | None = None
    priority: int | None = None
    lifo: bool = False
    delay_ms: int | None = None
    progress: str | None = None
    logs: tuple[str, ...] = ()
    clear_logs: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that `doctor` says: how bad, about what, and the next step. `mendable`: the verb `repair` would mend it."""

    level: Literal["ok", "warning", "error"]
    about: str
    message: str
    repair: str | None = None
    mendable: bool = False
