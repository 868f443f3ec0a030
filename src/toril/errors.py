"""Every error of Toril, on one screen.

TorilError
├── ConfigError            settings or a declaration cannot be right
├── InvalidJob             what was given to `add` cannot be a job
│   ├── PayloadTooLarge    its data is larger than the limit
│   ├── ParentTaken        the child that exists belongs to another parent
│   └── InvalidData        its data does not fit the handler's parameters
├── QueueError
│   ├── QueueFull          the queue admits no more jobs for now
│   ├── CrossSlot          jobs of one unit lie in several slots of a cluster
│   ├── QueueNotPaused     obliterate wants a paused queue
│   ├── TooManyAdds        this process adds more often than its `max_adds` allows
│   ├── ScheduleNotFound   there is no such schedule
│   └── QueueBusy          obliterate wants a queue without running jobs, or force
├── JobError
│   ├── JobNotFound        there is no such job
│   ├── WrongState         the job's state does not allow it
│   ├── LockLost           another worker owns the job now
│   ├── JobFailed          the job whose result was awaited has failed
│   ├── ResultTimeout      the job has not finished in the time given
│   ├── UnknownJob         no handler has this name
│   └── Unrecoverable      raise it in a handler: trying again is useless
└── StoreError
    ├── StoreUnavailable   the store cannot be reached or written right now
    ├── Unconfirmed        the job is stored, and not yet as safely as was asked
    ├── StoreDamaged       the store's data is not what it should be
    └── UnsupportedStore   this store cannot be used: wrong place, version or schema
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toril.model import JobRef


class TorilError(Exception):
    """The base of all errors that Toril raises."""


class ConfigError(TorilError, ValueError):
    """Settings or a declaration cannot be right."""


class InvalidJob(TorilError, ValueError):
    """What was given to `add` cannot be a job. Nothing was stored."""


class PayloadTooLarge(InvalidJob):
    """The job's data is larger than its limit."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the job's data is {size:,} bytes of JSON, more than the limit of {limit:,}: "
            "store it elsewhere and pass a reference, or raise `size_limit`"
        )
        self.size = size
        self.limit = limit


class ParentTaken(InvalidJob):
    """A job that exists is the child of another parent, and cannot become this one's."""

    def __init__(self, ref: JobRef, parent: JobRef) -> None:
        super().__init__(f"{ref} exists and is a child of {parent} already: give the new child another id")
        self.ref = ref
        self.parent = parent


class InvalidData(InvalidJob):
    """A member of the data is missing or does not fit the handler's parameter."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}" if where else problem)
        self.where = where
        self.problem = problem


class QueueError(TorilError):
    """The queue does not allow it."""


class QueueFull(QueueError):
    """The queue holds as many waiting jobs as its `max_waiting` admits."""

    def __init__(self, queue: str, waiting: int, max_waiting: int) -> None:
        super().__init__(
            f"queue {queue!r} holds {waiting:,} waiting jobs and admits {max_waiting:,}: "
            "add again later, add workers, or raise `max_waiting`"
        )
        self.queue = queue
        self.waiting = waiting
        self.max_waiting = max_waiting


class TooManyAdds(QueueError):
    """This process adds more jobs to the queue than its `max_adds` allows. `retry_after` is in seconds."""

    def __init__(self, queue: str, limit: str, retry_after: float) -> None:
        super().__init__(
            f"queue {queue!r} takes {limit} from one process: add again in {retry_after:.3g} s, or raise `max_adds`"
        )
        self.queue = queue
        self.retry_after = retry_after


class ScheduleNotFound(QueueError):
    """There is no such schedule."""

    def __init__(self, queue: str, id: str) -> None:
        super().__init__(f"queue {queue!r} has no schedule {id!r}: `toril schedules` lists those there are")
        self.queue = queue
        self.id = id


class CrossSlot(QueueError):
    """Jobs that are stored together lie in several slots of a Redis Cluster. Nothing was stored."""

    def __init__(self, queue: str, other: str) -> None:
        super().__init__(
            f"queues {queue!r} and {other!r} lie in different slots of the cluster, where nothing is stored together: "
            "leave out shard=queue to keep all queues in one slot"
        )


class QueueNotPaused(QueueError):
    """Only a paused queue can be obliterated."""

    def __init__(self, queue: str) -> None:
        super().__init__(f"queue {queue!r} is not paused: pause it before you obliterate it")
        self.queue = queue


class QueueBusy(QueueError):
    """Jobs of the queue are running."""

    def __init__(self, queue: str, active: int) -> None:
        super().__init__(f"queue {queue!r} has {active:,} running jobs: wait for them, or pass force=True")
        self.queue = queue
        self.active = active


class JobError(TorilError):
    """Something about one job."""


class JobNotFound(JobError):
    """There is no such job."""

    def __init__(self, ref: JobRef) -> None:
        super().__init__(f"there is no job {ref}: it was never added, or its keep rule has removed it")
        self.ref = ref


class WrongState(JobError):
    """The job's state does not allow the operation."""

    def __init__(self, ref: JobRef, operation: str, state: str, wanted: str) -> None:
        super().__init__(f"cannot {operation} {ref}: it is {state}, and must be {wanted}")
        self.ref = ref
        self.state = state


class LockLost(JobError):
    """Another worker owns the job now."""

    def __init__(self, ref: JobRef) -> None:
        super().__init__(f"{ref} is no longer ours: its lock expired while the handler ran")
        self.ref = ref


class JobFailed(JobError):
    """The job whose result was awaited has failed for good."""

    def __init__(self, ref: JobRef, reason: str) -> None:
        super().__init__(f"{ref} failed: {reason}")
        self.ref = ref
        self.reason = reason


class ResultTimeout(JobError, TimeoutError):
    """The job has not finished in the time given; it goes on."""

    def __init__(self, ref: JobRef, state: str, timeout_ms: int) -> None:
        super().__init__(f"{ref} has not finished after {timeout_ms / 1000:g} s: it is {state}")
        self.ref = ref
        self.state = state


class UnknownJob(JobError):
    """No handler of the queue has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Unknown job: {name}")
        self.name = name


class Unrecoverable(JobError):
    """Raise it in a handler when trying again is useless: the job fails at once, whatever attempts are left."""


class StoreError(TorilError):
    """Something about the store."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or written right now. What was asked may not have happened; asking again is safe."""

    def __init__(self, message: str, *, retry_after_ms: int = 1000) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class Unconfirmed(StoreError):
    """The job is stored, and not as safely as was asked: the server may lose it.

    Adding it again makes no second one, if it has a `job_id` of the caller's.
    """

    def __init__(self, ref: JobRef, reason: str) -> None:
        super().__init__(f"{ref} is stored, but {reason}")
        self.ref = ref


class StoreDamaged(StoreError):
    """The store's data is not what it should be; nothing works on it until it is repaired or restored."""


class UnsupportedStore(StoreError):
    """This store cannot be used as it is: its place, its version or its schema."""
