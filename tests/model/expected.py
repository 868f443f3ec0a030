"""What must be true of a queue, whatever is done to it: in dicts and a few numbers, without a store."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from toril.clock import TurnedClock
from toril.model import (
    Added,
    AwaitingChildren,
    Child,
    Claim,
    Completed,
    Delayed,
    Failed,
    JobRef,
    NewJob,
    Outcome,
    Retried,
    Schedule,
    ScheduleRecord,
    Throttled,
    iteration_id,
)
from toril.options import ChildPolicy, Deduplication, Rule
from toril.states import FINISHED, State

QUEUE = "email"
LOCK_MS = 30_000
INTERVAL_MS = 30_000
MAX_STALLED = 1
KEEP_RESULT_MS = 600_000
STALLED_TOO_OFTEN = "job stalled more than allowable limit"

PENDING = (State.WAITING, State.PRIORITIZED, State.DELAYED)


@dataclass(eq=False)
class Job:
    """What must be true of a job that is there."""

    new: NewJob
    state: State = State.WAITING
    place: int = 0
    due_at_ms: int = 0
    finished_at_ms: int = 0
    made: int = 0
    started: int = 0
    stalled: int = 0
    deferred: set[Literal["stalled", "child"]] = field(default_factory=set[Literal["stalled", "child"]])
    token: str | None = None
    recorded: str | None = None
    locked_until_ms: int = 0
    suspect: bool = False
    delay_ms: int = 0  # that it serves when it is released
    parent: str | None = None
    children: dict[str, Child] = field(default_factory=dict[str, Child])  # as far as it knows of them
    schedule: str | None = None

    @property
    def id(self) -> str:
        return self.new.id

    @property
    def priority(self) -> int:
        return self.new.options.priority

    @property
    def policy(self) -> ChildPolicy:
        return ChildPolicy.WAIT if self.new.parent is None else self.new.parent.policy

    @property
    def pending(self) -> int:
        """How many children it waits for."""
        return sum(child.state == "pending" for child in self.children.values())

    @property
    def has_failed_child(self) -> bool:
        """Whether one of its children has failed that it may not outlive."""
        return any(child.state == "failed" for child in self.children.values())

    @property
    def rank(self) -> tuple[int, int]:
        """Where it stands among the jobs of its state."""
        match self.state:
            case State.PRIORITIZED:
                return (self.priority, self.place)
            case State.DELAYED:
                return (self.due_at_ms, self.place)
            case State.COMPLETED | State.FAILED:
                return (self.finished_at_ms, self.place)
            case _:
                return (0, self.place)


@dataclass
class Owner:
    """Who owns a deduplication id, and until when; None: until it has ended."""

    job_id: str
    until_ms: int | None


class Model:
    """All that a queue must be like."""

    def __init__(self, clock: TurnedClock) -> None:
        self.clock = clock
        self.jobs: dict[str, Job] = {}
        self.receipts: dict[str, tuple[NewJob, str, int]] = {}  # removed at once: the job, its token, until when known
        self.settled: set[str] = set()  # tokens of all runs that were recorded
        self.owners: dict[str, Owner] = {}  # of deduplication ids
        self.kept: dict[str, NewJob] = {}  # until the owner of a deduplication id has ended
        self.schedules: dict[str, ScheduleRecord] = {}  # but for where their runs stand
        self.paused = False
        self.concurrency: int | None = None
        self.limited_until_ms = 0
        self.next_check_at_ms = 0
        self.idle_checks_count = False
        self.besides: set[str] = set()  # operations that came with the last one
        self.released: list[Job] = []  # parents that it released
        self._front = 0
        self._back = 0

    def now_ms(self) -> int:
        return self.clock.now_ms()

    def of(self, *states: State) -> list[Job]:
        """The jobs of some states, state by state, each in its order."""
        return [
            job
            for state in states
            for job in sorted((job for job in self.jobs.values() if job.state is state), key=lambda job: job.rank)
        ]

    def back(self) -> int:
        self._back += 1
        return self._back

    def front(self) -> int:
        self._front -= 1
        return self._front

    # ---------------------------------------------------------------- where jobs stand

    def stand(self, job: Job, *, front: bool = False) -> None:
        """Let a job run as soon as its turn comes."""
        job.state = State.PRIORITIZED if job.priority else State.WAITING
        job.place = self.front() if front else self.back()
        job.delay_ms = 0

    def stand_behind(self, job: Job) -> None:
        """The same, behind those that wait; or before them, if it is the last in that is to be the first out."""
        self.stand(job, front=job.new.options.lifo and not job.priority)

    def delay(self, job: Job, due_at_ms: int) -> None:
        job.state, job.due_at_ms, job.place = State.DELAYED, due_at_ms, self.back()
        job.delay_ms = due_at_ms - self.now_ms()

    def await_children(self, job: Job) -> None:
        job.state, job.place = State.WAITING_CHILDREN, self.back()

    def add(self, new: NewJob, *, schedule: str | None = None) -> Job:
        job = self.jobs[new.id] = Job(new, schedule=schedule)
        self.receipts.pop(new.id, None)
        if new.has_children:
            self.await_children(job)
            job.delay_ms = new.options.delay_ms
        elif new.options.delay_ms:
            self.delay(job, new.created_at_ms + new.options.delay_ms)
        else:
            self.stand_behind(job)
        if new.parent is not None:
            job.parent = new.parent.ref.id
            self.jobs[job.parent].children[job.id] = Child(JobRef(QUEUE, job.id), "pending")
        return job

    def promote_due(self) -> None:
        for job in self.of(State.DELAYED):
            if job.due_at_ms <= self.now_ms():
                self.stand(job)

    def room(self, free: int) -> int:
        """How many jobs may start now."""
        if self.paused or self.limited_until_ms > self.now_ms():
            return 0
        if self.concurrency is None:
            return free
        return max(0, min(free, self.concurrency - len(self.of(State.ACTIVE))))

    def take(self, jobs: list[Job], token: str) -> None:
        for job in jobs:
            job.state, job.token, job.recorded, job.suspect = State.ACTIVE, token, None, False
            job.started += 1
            job.place = self.back()
            job.locked_until_ms = self.now_ms() + LOCK_MS
            job.delay_ms = 0

    # ---------------------------------------------------------------- what becomes of a run

    def settle(self, job: Job, outcome: Outcome) -> None:
        assert job.token is not None
        self.settled.add(job.token)
        job.recorded, job.token = job.token, None
        match outcome:
            case Completed(result=result):
                job.made += 1
                self.finish(job, State.COMPLETED, result)
            case Failed(reason=reason):
                job.made += 1
                self.finish(job, State.FAILED, reason)
            case Retried(after_ms=after_ms):
                job.made += 1
                if after_ms:
                    self.delay(job, self.now_ms() + after_ms)
                else:
                    self.promote_due()
                    self.stand_behind(job)
            case Delayed(until_ms=until_ms):
                self.delay(job, until_ms)
            case AwaitingChildren():
                self.await_children(job)
            case Throttled(for_ms=for_ms):
                self.stand(job, front=True)
                self.limited_until_ms = max(self.limited_until_ms, self.now_ms() + for_ms)
            case _:
                self.stand(job, front=True)

    def finish(self, job: Job, state: State, text: str) -> None:
        """A job has ended: who waited for that is told, and its keep rule decides whether it stays."""
        self._disown_ended(job)
        self._tell_parent(job, state, text)
        job.state, job.finished_at_ms, job.place = state, self.now_ms(), self.back()
        job.deferred, job.delay_ms = set(), 0
        keep = job.new.options.keep_completed if state is State.COMPLETED else job.new.options.keep_failed
        if keep is not None and keep.count == 0:
            self.receipts[job.id] = (job.new, job.recorded or "", self.now_ms() + KEEP_RESULT_MS)
            self.besides.add("remove")
            del self.jobs[job.id]
            self.drop_child(job)

    def retry(self, job: Job, *, reset: bool) -> None:
        if reset:
            job.made = job.started = job.stalled = 0
        job.delay_ms = 0
        for child_id, child in job.children.items():
            if child.state == "failed":
                job.children[child_id] = replace(child, state="ignored")
        parent = self.parent_of(job)
        if parent is not None and job.id in parent.children:
            parent.children[job.id] = Child(JobRef(QUEUE, job.id), "pending")
        if job.pending:
            self.await_children(job)
        else:
            self.stand_behind(job)

    def recover(self) -> list[Job]:
        """What a check puts back."""
        active = self.of(State.ACTIVE)
        if not (active or self.idle_checks_count) or self.next_check_at_ms > self.now_ms():
            return []
        self.next_check_at_ms = self.now_ms() + INTERVAL_MS
        lapsed = [job for job in active if job.suspect and job.locked_until_ms <= self.now_ms()]
        for job in reversed(lapsed):
            job.state, job.place, job.token, job.suspect = State.WAITING, self.front(), None, False
            job.stalled += 1
            if job.stalled > MAX_STALLED and job.schedule not in self.schedules:
                job.deferred.add("stalled")
        for job in self.of(State.ACTIVE):
            job.suspect = True
        return lapsed

    def judge(self, claim: Claim) -> str:
        """What a claim is worth now: held, recorded or lost. Whether a store still knows that an earlier run was recorded,
        after the next one has ended too, is nobody's promise: such a claim is old."""
        job = self.jobs.get(claim.ref.id)
        if job is not None and job.token == claim.token:
            return "held" if job.locked_until_ms > self.now_ms() else "lost"
        if job is not None and job.recorded == claim.token:
            return "recorded"
        _, known, until_ms = self.receipts.get(claim.ref.id, (None, "", 0))
        if known == claim.token:
            return "recorded" if until_ms > self.now_ms() else "lost"
        return "old" if claim.token in self.settled else "lost"

    # ---------------------------------------------------------------- families

    def parent_of(self, job: Job) -> Job | None:
        return None if job.parent is None else self.jobs.get(job.parent)

    def family(self, job: Job) -> list[Job]:
        """A job and those below it that are still its own."""
        below = [self.jobs[child_id] for child_id in job.children if child_id in self.jobs]
        return [job, *(one for child in below if child.parent == job.id for one in self.family(child))]

    def drop_child(self, job: Job) -> None:
        """A child goes, for which its parent may have waited."""
        parent = self.parent_of(job)
        if parent is not None and job.id in parent.children and parent.children[job.id].state == "pending":
            del parent.children[job.id]
            self.release_if_done(parent)

    def release_if_done(self, parent: Job) -> None:
        if parent.state is State.WAITING_CHILDREN and not parent.pending:
            self._release(parent)

    def _release(self, parent: Job) -> None:
        """A parent that waited may run, or begins to serve its own delay."""
        self.besides.add("child-settled")
        self.released.append(parent)
        if parent.delay_ms:
            self.delay(parent, self.now_ms() + parent.delay_ms)
        else:
            self.stand(parent, front=not parent.priority)

    def _tell_parent(self, job: Job, state: State, text: str) -> None:
        parent = self.parent_of(job)
        if parent is None or job.id not in parent.children or parent.children[job.id].state != "pending":
            return
        ref = JobRef(QUEUE, job.id)
        if state is State.COMPLETED:
            parent.children[job.id] = Child(ref, "completed", result=text)
            self.release_if_done(parent)
            return
        match job.policy:
            case ChildPolicy.WAIT:
                return
            case ChildPolicy.REMOVE:
                self.drop_child(job)
            case ChildPolicy.IGNORE:
                parent.children[job.id] = Child(ref, "ignored", reason=text)
                self.release_if_done(parent)
            case ChildPolicy.CONTINUE:
                parent.children[job.id] = Child(ref, "ignored", reason=text)
                if parent.state is State.WAITING_CHILDREN:
                    self._release(parent)
            case ChildPolicy.FAIL:
                parent.children[job.id] = Child(ref, "failed", reason=text)
                self._fail(parent)

    def _fail(self, parent: Job) -> None:
        """A child has failed that its parent may not outlive: when it runs next, it fails too."""
        if parent.state in FINISHED:
            return
        parent.deferred.add("child")
        if parent.state is State.WAITING_CHILDREN:
            self._release(parent)
        elif parent.state is State.DELAYED:
            self.besides.add("promote")
            self.stand(parent, front=not parent.priority)

    # ---------------------------------------------------------------- deduplication

    def owner(self, deduplication_id: str) -> Owner | None:
        """Who owns an id now."""
        owner = self.owners.get(deduplication_id)
        if owner is None or (owner.until_ms is not None and owner.until_ms <= self.now_ms()):
            return None
        return owner

    def deduplicate(self, new: NewJob) -> Added:
        """Add a job under a deduplication id, if it is to be added."""
        asked = new.options.deduplication
        assert asked is not None
        ref, owner = JobRef(QUEUE, new.id), self.owner(asked.id)
        if owner is None:
            self._own(asked, new)
            self.add(new)
            return Added(ref)
        there = self.jobs.get(owner.job_id)
        if asked.replace and there is not None and there.state is State.DELAYED:
            return self._replace(asked, new, there, owner)
        met = JobRef(QUEUE, owner.job_id)
        if asked.keep_last_if_active and there is not None and there.state is State.ACTIVE:
            self.kept[asked.id] = new
            owner.until_ms = None
            return Added(met, True, "keep-last")
        if asked.replace:
            return Added(met, True, "debounce")
        if asked.extend and asked.ttl_ms:
            owner.until_ms = self.now_ms() + asked.ttl_ms
        if asked.reschedule and there is not None and there.state is State.DELAYED:
            self.delay(there, new.created_at_ms + new.options.delay_ms)
        rule: Rule = "throttle" if asked.ttl_ms else "keep-last" if asked.keep_last_if_active else "simple"
        return Added(met, True, rule)

    def _own(self, asked: Deduplication, new: NewJob, until_ms: int | None = None) -> None:
        if until_ms is None and asked.ttl_ms and not asked.keep_last_if_active:
            until_ms = self.now_ms() + asked.ttl_ms
        self.owners[asked.id] = Owner(new.id, until_ms)

    def _replace(self, asked: Deduplication, new: NewJob, there: Job, owner: Owner) -> Added:
        """Take the place of an owner that is delayed. Its parent waits for it no longer, but perhaps for the new one."""
        parent = self.parent_of(there)
        del self.jobs[there.id]
        self.besides.add("remove")
        self.kept.pop(asked.id, None)
        self._own(asked, new, owner.until_ms if asked.ttl_ms and not asked.extend else None)
        if parent is not None and parent.children.get(there.id) == Child(JobRef(QUEUE, there.id), "pending"):
            del parent.children[there.id]
        self.add(new)
        if parent is not None:
            self.release_if_done(parent)
        return Added(JobRef(QUEUE, new.id), False, "debounce")

    def _disown_ended(self, job: Job) -> None:
        """A job has ended: its deduplication id is free unless it is kept for a time, and what was kept is added."""
        asked = job.new.options.deduplication
        if asked is None:
            return
        owner = self.owner(asked.id)
        if owner is not None and owner.job_id == job.id and owner.until_ms is None:
            del self.owners[asked.id]
        there = None if owner is None else self.jobs.get(owner.job_id)
        if asked.id in self.kept and (there is None or there is job or there.state in FINISHED):
            kept = replace(self.kept.pop(asked.id), created_at_ms=self.now_ms())
            self.besides.add("add")
            assert kept.options.deduplication is not None
            self._own(kept.options.deduplication, kept)
            self.add(kept)

    # ---------------------------------------------------------------- schedules

    def record(self, schedule_id: str) -> ScheduleRecord | None:
        """What must be known of a schedule."""
        known = self.schedules.get(schedule_id)
        if known is None:
            return None
        run = self.jobs.get(known.iteration.id)
        return replace(known, state=None if run is None else run.state)

    def is_awaited(self, job: Job) -> bool:
        """Whether it is the run that a schedule waits for."""
        known = None if job.schedule is None else self.schedules.get(job.schedule)
        return known is not None and known.iteration.id == job.id

    def make_run(self, schedule: Schedule, at_ms: int) -> None:
        """Add the run of a schedule at a time."""
        options = replace(schedule.options, delay_ms=max(0, at_ms - self.now_ms()))
        run_id = iteration_id(schedule.id, at_ms)
        new = NewJob(QUEUE, schedule.name, run_id, schedule.data, options, created_at_ms=self.now_ms())
        self.add(new, schedule=schedule.id)

    # ---------------------------------------------------------------- by hand

    def remove(self, job: Job) -> None:
        """A job goes with all that belongs to it, but for those below it."""
        del self.jobs[job.id]
        asked = job.new.options.deduplication
        owner = None if asked is None else self.owner(asked.id)
        if asked is not None and owner is not None and owner.job_id == job.id:
            del self.owners[asked.id]
            self.kept.pop(asked.id, None)
        self.drop_child(job)
