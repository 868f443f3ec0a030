"""The seam: what every store can do, in small protocols.

A caller asks for the smallest part that will do: a worker's loop takes a `Consumer`, a dashboard an `Inspector`.
Verbs take and return the frozen data of `toril.model`. Rules that hold for all of them:

- A unit is all or nothing; units are independent of each other.
- Every verb is safe to repeat: asking again after a lost answer changes nothing more and answers the same.
- Time is the store's clock, in milliseconds; `until_ms` is a moment, `lock_ms` a duration.
- `settle` is the only door out of `active`; whatever finishes, renews or reports checks the claim's token.
- Any verb may raise `StoreUnavailable`; nothing else is raised for what a job or a queue is like, except where said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from toril.clock import Clock
from toril.model import (
    Answer,
    Child,
    Claim,
    Claimed,
    Event,
    Finding,
    JobRecord,
    JobRef,
    LogPage,
    Page,
    Placed,
    QueueSettings,
    QueueSummary,
    Receipt,
    Recovered,
    Report,
    Schedule,
    ScheduleRecord,
    Series,
    Settled,
    Settlement,
    Unit,
    Update,
    Wanted,
    Woken,
    WorkerInfo,
)
from toril.states import State

MAX_UNIT_JOBS = 1000
MAX_UNIT_BYTES = 4 * 1024 * 1024


class Producer(Protocol):
    """Takes jobs in."""

    async def add(self, units: Sequence[Unit]) -> list[Receipt]:
        """Store units, each all or nothing, in order; one receipt each.

        A refusal (`QueueFull`, an unknown parent) is in the receipt. A job whose id exists stands as it is, and so does
        one whose deduplication id is owned by another, unless it takes that one's place.
        """
        ...


class Consumer(Protocol):
    """Hands jobs out and takes their outcomes."""

    async def claim(self, wanted: Wanted) -> Claimed:
        """Hand out what may run now, due delayed jobs promoted first; say of each queue left wanting why, and until when."""
        ...

    async def settle(self, settled: Sequence[Settlement], then: Wanted | None = None) -> Settled:
        """Record outcomes, and claim the next jobs in the same round trip."""
        ...

    async def report(self, reports: Sequence[Report]) -> list[JobRef]:
        """Record progress and logs of running jobs; return those that are no longer the reporter's."""
        ...

    async def extend(self, claims: Sequence[Claim], lock_ms: int) -> list[JobRef]:
        """Renew locks for `lock_ms` from now; return those that are no longer the caller's."""
        ...

    async def recover(self, queues: Sequence[str], *, max_stalled: int, interval_ms: int) -> Recovered:
        """Put jobs whose lock has lapsed back in front; at most one effective check per queue and `interval_ms`.

        The answer is for the log: a repeated call may find the check done. A job is moved when one check saw it active and a later one finds its lock lapsed. One that has stalled more
        than `max_stalled` times is put back with a deferred failure.
        """
        ...

    async def advance_schedule(self, seen: ScheduleRecord, next_at_ms: int, *, running: str | None = None) -> Placed:
        """Make the run of a schedule that comes after the one in `seen`, or that very one where it has vanished.

        `running` says which run was let run last. CHANGED when the schedule is no longer as it was seen: the answer of a
        repeated call, too, and of all but one of several callers.
        """
        ...

    async def wait(self, worker: str, queues: Sequence[str], until_ms: int | None) -> Woken:
        """Return when one of the queues rang since this worker last waited, an order came, or it is `until_ms`.

        A ring wakes those who wait, not those who are owed a job: it may be too early or name a queue that is empty by
        now, and where one wakes one worker only, a ring can die with that worker. Look again every few seconds.
        """
        ...

    async def announce(self, worker: WorkerInfo) -> None:
        """Say that a worker lives; with state "stopped", that it no longer does."""
        ...


class Admin(Protocol):
    """Changes jobs and queues by hand. Verbs on many jobs answer for each, in order."""

    async def promote(self, refs: Sequence[JobRef]) -> list[Answer]:
        """Let delayed jobs run now."""
        ...

    async def retry(
        self, refs: Sequence[JobRef], *, reset_attempts: bool = False, data: str | None = None
    ) -> list[Answer]:
        """Run finished jobs again, with other data if given; one that has pending children, when they have ended. Children that
        have failed and are not retried before it hold it back no longer.
        """
        ...

    async def remove(self, refs: Sequence[JobRef]) -> list[Answer]:
        """Remove jobs with all that belongs to them; never one under a live lock. A pending parent is released."""
        ...

    async def cancel(self, refs: Sequence[JobRef], reason: str) -> list[Answer]:
        """Fail jobs that wait, are delayed or wait for children; never tried again. LOCKED for one that runs."""
        ...

    async def detach(self, refs: Sequence[JobRef]) -> list[Answer]:
        """Let jobs be children no longer; a parent that waited for nothing else is released. WRONG_STATE for one that is none."""
        ...

    async def update(self, updates: Sequence[Update]) -> list[Answer]:
        """Change data, priority, delay, progress or logs."""
        ...

    async def configure(self, queue: str, settings: QueueSettings) -> None:
        """Set a queue's settings, all of them. Emits `paused` or `resumed` when that changes."""
        ...

    async def pause(self, queue: str) -> None:
        """Hand out no jobs of a queue until it is resumed. Running ones go on."""
        ...

    async def resume(self, queue: str) -> None:
        """Hand out jobs again."""
        ...

    async def throttle(self, queue: str, for_ms: int) -> None:
        """Hand out no jobs of a queue for so long; 0 lifts it."""
        ...

    async def drain(self, queue: str, *, delayed: bool = False) -> int:
        """Remove what waits, and delayed jobs if asked; return how many."""
        ...

    async def clean(self, queue: str, state: State, *, grace_ms: int, limit: int) -> list[str]:
        """Remove at most `limit` jobs of a state that are older than `grace_ms`; return their ids. Never a locked one."""
        ...

    async def obliterate(self, queue: str, *, force: bool = False) -> int:
        """Remove a paused queue with everything in it; return how many jobs.

        Raises:
            QueueNotPaused: it is not paused.
            QueueBusy: jobs are running and `force` is not given.
        """
        ...

    async def forget(self, queue: str, deduplication_id: str) -> bool:
        """Let the next add under a deduplication id make a job, though its owner stands; False when it has none."""
        ...

    async def put_schedule(
        self, schedule: Schedule, seen: ScheduleRecord | None, next_at_ms: int | None, *, count: int = 1
    ) -> Placed:
        """Set what a schedule is, and put the run at `next_at_ms`, its `count`th, in the place of one that is pending.

        Without `next_at_ms` there is no run to come: it is paused. `seen` is what the caller has looked at, None for no such
        schedule; CHANGED when that is so no longer. Nothing is done unless DONE. Iterations go on being counted.
        """
        ...

    async def remove_schedule(self, queue: str, id: str) -> bool:
        """Remove a schedule, and its run to come if that is delayed; one that waits for a worker still runs. False: none was there."""
        ...

    async def repair(self) -> list[Finding]:
        """Mend whatever `check` calls mendable, a bounded piece at a time, beside running workers; say what was done."""
        ...


class Inspector(Protocol):
    """Looks, and changes nothing."""

    async def get(self, refs: Sequence[JobRef]) -> list[JobRecord | None]:
        """What is known of jobs, None for those that are not; those removed by their keep rule for as long as their result is kept."""
        ...

    async def find(
        self, queue: str, state: State, *, after: str | None = None, limit: int = 50, newest_first: bool = False
    ) -> Page[JobRecord]:
        """Jobs of a state in the order in which they will run, or have ended; `after` is the last page's `next`."""
        ...

    async def summaries(self, queues: Sequence[str] | None = None) -> list[QueueSummary]:
        """Counts by state and settings, of the queues named or of all."""
        ...

    async def series(self, queue: str, state: State, *, limit: int = 1440) -> Series:
        """How many jobs have completed, or failed, in each of the newest `limit` minutes, the running one included.

        Raises:
            ConfigError: `state` is neither completed nor failed, or `limit` is not from 1 to `MAX_METRICS_MINUTES`.
        """
        ...

    async def children(self, ref: JobRef) -> list[Child]:
        """The children of a job and what became of them."""
        ...

    async def owner(self, queue: str, deduplication_id: str) -> JobRef | None:
        """The job that owns a deduplication id; it may be gone, where the id is kept for a time."""
        ...

    async def schedules(self, queue: str | None = None, id: str | None = None) -> list[ScheduleRecord]:
        """The schedules of a queue, or of all, the next run first; or the one with this id."""
        ...

    async def logs(self, ref: JobRef, *, first: int = 0, limit: int = 1000) -> LogPage:
        """Lines of a job's log."""
        ...

    async def settings(self, queue: str) -> QueueSettings:
        """What is set on a queue."""
        ...

    async def workers(self) -> list[WorkerInfo]:
        """Workers seen lately."""
        ...

    async def preflight(self) -> list[Finding]:
        """Look at how the store is set up, and at nothing that grows with what is in it: quick enough for every start."""
        ...

    async def check(self) -> list[Finding]:
        """Look at everything: how the store is set up, and all that is in it, for damage. Running workers do no harm."""
        ...


class EventLog(Protocol):
    """What happened, in the order of commits."""

    async def publish(self, queue: str, name: str, fields: dict[str, str]) -> str:
        """Append an event of the caller's own; return its id."""
        ...

    async def read(
        self, queue: str, after: str | None, *, limit: int = 1000, until_ms: int | None = None
    ) -> list[Event]:
        """Events after an id (None: from the first that is kept), waiting until `until_ms` for the first of them."""
        ...

    async def last_event(self, queue: str) -> str:
        """The id of the newest event, from which a reader that wants only what comes next begins."""
        ...

    async def trim(self, queue: str, keep: int) -> int:
        """Drop all but about the newest `keep` events; return how many went."""
        ...


@runtime_checkable
class Store(Producer, Consumer, Admin, Inspector, EventLog, Protocol):
    """A whole store. Opening does no I/O; the first verb connects."""

    @property
    def kind(self) -> str:
        """sqlite, redis or postgres."""
        ...

    @property
    def place(self) -> str:
        """Where it is, for people to read, without secrets."""
        ...

    @property
    def prefix(self) -> str:
        """What keeps its queues apart from others in the same place."""
        ...

    @property
    def clock(self) -> Clock:
        """What tells it the time."""
        ...

    @property
    def lanes(self) -> int:
        """How many settlements of one worker are worth having under way at once."""
        ...

    async def close(self) -> None:
        """Give back connections and threads. The store opens again when it is used again."""
        ...
