"""A machine that leads random lives of jobs through a store, beside a model that knows what must become of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar, Unpack, cast

from hypothesis import HealthCheck, Phase, settings, stateful
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from conformance.given import advance, new_job
from toril.clock import TurnedClock
from toril.model import (
    Answer,
    Claim,
    Completed,
    Delayed,
    Failed,
    JobRecord,
    JobRef,
    NewJob,
    Outcome,
    QueueSettings,
    Released,
    Retried,
    Settlement,
    Slots,
    Throttled,
    Unit,
    Wanted,
)
from toril.options import JobOptions
from toril.states import FINISHED, MOVES, Move, State
from toril.store import Store
from toril.stores.sqlite.store import SqliteStore

T = TypeVar("T")

QUEUE = "email"
LOCK_MS = 30_000
INTERVAL_MS = 30_000
MAX_STALLED = 1
KEEP_RESULT_MS = 600_000
STALLED_TOO_OFTEN = "job stalled more than allowable limit"


@dataclass
class Job:
    """What must be true of a job that is there."""

    new: NewJob
    state: State
    place: int = 0
    due_at_ms: int = 0
    finished_at_ms: int = 0
    made: int = 0
    started: int = 0
    stalled: int = 0
    deferred: bool = False
    token: str | None = None
    recorded: str | None = None
    locked_until_ms: int = 0
    suspect: bool = False

    @property
    def priority(self) -> int:
        return self.new.options.priority

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


class Model:
    """All that a queue must be like, in a dict and a few numbers."""

    def __init__(self, clock: TurnedClock) -> None:
        self.clock = clock
        self.jobs: dict[str, Job] = {}
        self.receipts: dict[str, tuple[NewJob, str, int]] = {}  # removed at once: the job, its token, until when known
        self.settled: set[str] = set()  # tokens of all runs that were recorded
        self.paused = False
        self.concurrency: int | None = None
        self.limited_until_ms = 0
        self.next_check_at_ms = 0
        self.idle_checks_count = False
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

    def stand(self, job: Job, *, front: bool = False) -> None:
        """Let a job run as soon as its turn comes."""
        job.state = State.PRIORITIZED if job.priority else State.WAITING
        job.place = self.front() if front else self.back()

    def delay(self, job: Job, due_at_ms: int) -> None:
        job.state, job.due_at_ms, job.place = State.DELAYED, due_at_ms, self.back()

    def add(self, new: NewJob) -> None:
        job = self.jobs[new.id] = Job(new, State.WAITING)
        if new.options.delay_ms:
            self.delay(job, new.created_at_ms + new.options.delay_ms)
        else:
            self.stand(job, front=new.options.lifo and not job.priority)

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

    def finish(self, job: Job, state: State) -> None:
        job.state, job.finished_at_ms, job.place = state, self.now_ms(), self.back()
        keep = job.new.options.keep_completed if state is State.COMPLETED else job.new.options.keep_failed
        if keep is not None and keep.count == 0:
            assert job.recorded is not None
            self.receipts[job.new.id] = (job.new, job.recorded, self.now_ms() + KEEP_RESULT_MS)
            del self.jobs[job.new.id]

    def settle(self, job: Job, outcome: Outcome) -> None:
        assert job.token is not None
        self.settled.add(job.token)
        job.recorded, job.token = job.token, None
        match outcome:
            case Completed():
                job.made += 1
                job.deferred = False
                self.finish(job, State.COMPLETED)
            case Failed():
                job.made += 1
                job.deferred = False
                self.finish(job, State.FAILED)
            case Retried(after_ms=after_ms):
                job.made += 1
                if after_ms:
                    self.delay(job, self.now_ms() + after_ms)
                else:
                    self.stand(job, front=job.new.options.lifo and not job.priority)
            case Delayed(until_ms=until_ms):
                self.delay(job, until_ms)
            case Throttled(for_ms=for_ms):
                self.stand(job, front=True)
                self.limited_until_ms = max(self.limited_until_ms, self.now_ms() + for_ms)
            case _:
                self.stand(job, front=True)

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
            job.deferred = job.deferred or job.stalled > MAX_STALLED
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


picks = st.integers(0, 1_000)
outcomes = st.sampled_from(["completed", "failed", "retried", "retried later", "delayed", "throttled", "released"])


def _in_memory(clock: TurnedClock) -> Store:
    return SqliteStore(":memory:", clock=clock)


def run_histories(
    *, examples: int, steps: int, shrink: bool = True, open_store: Callable[[TurnedClock], Store] = _in_memory
) -> None:
    """Lead this many random lives of so many steps, each in an empty store; the first that goes wrong is made short and
    raised."""
    run = cast("Callable[..., None]", vars(stateful)["run_state_machine_as_test"])
    run(
        lambda: QueueMachine(open_store),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
            deadline=None,
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )


class QueueMachine(RuleBasedStateMachine):
    """Rules do one thing to the store and the same to the model; the invariant compares them."""

    def __init__(self, open_store: Callable[[TurnedClock], Store] = _in_memory) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = TurnedClock()
        self.store = open_store(self.clock)
        self.model = Model(self.clock)
        self.model.idle_checks_count = self.store.kind == "redis"  # as BullMQ has it: the interval begins all the same
        self.news: list[NewJob] = []
        self.claims: list[Claim] = []
        self.wish: tuple[Wanted, tuple[Claim, ...]] | None = None
        self.seen: dict[str, State] = {}
        self.operations: set[str] = set()
        self.drawn = 0

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()

    def run(self, verb: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(verb)

    def draw(self, word: str) -> str:
        self.drawn += 1
        return f"{word}-{self.drawn}"

    def ref(self, job_id: str) -> JobRef:
        return JobRef(QUEUE, job_id)

    def any_job(self, pick: int) -> Job | None:
        jobs = list(self.model.jobs.values())
        return jobs[pick % len(jobs)] if jobs else None

    def forget_claims_of(self, job_id: str) -> None:
        """What a claim is worth after somebody changed its job by hand is nobody's promise."""
        self.claims = [claim for claim in self.claims if claim.ref.id != job_id]

    # ---------------------------------------------------------------- adding

    @initialize(count=st.integers(0, 4))
    def begin(self, count: int) -> None:
        for _ in range(count):
            self.add(delay=0, priority=0, lifo=False, kept=True)

    @rule(
        delay=st.sampled_from([0, 0, 1, 60]),
        priority=st.sampled_from([0, 0, 1, 5]),
        lifo=st.booleans(),
        kept=st.booleans(),
    )
    def add(self, delay: int, priority: int, lifo: bool, kept: bool) -> None:
        self._add(self.draw("job"), None, delay=delay, priority=priority, lifo=lifo, keep_completed=kept)

    @rule(number=st.integers(1, 3), kept=st.booleans())
    def add_under_a_chosen_id(self, number: int, kept: bool) -> None:
        self._add(f"chosen-{number}", self.draw("nonce"), keep_completed=kept, keep_failed=kept)

    def _add(self, chosen: str, nonce: str | None, **options: Unpack[JobOptions]) -> None:
        new = replace(new_job(self.store, queue=QUEUE, **options), id=chosen, nonce=nonce)
        exists = chosen in self.model.jobs
        self._check_added(new, duplicate=exists)
        self.operations = {"add"}
        if not exists:
            self.news.append(new)
            self.model.receipts.pop(chosen, None)
            self.forget_claims_of(chosen)
            self.model.add(new)

    @precondition(lambda self: self.news)
    @rule(pick=picks)
    def repeat_an_add(self, pick: int) -> None:
        new = self.news[pick % len(self.news)]
        job = self.model.jobs.get(new.id)
        known, _, until_ms = self.model.receipts.get(new.id, (None, "", 0))
        if (job is not None and job.new is new) or (known is new and until_ms > self.clock.now_ms()):
            self._check_added(new, duplicate=False)

    def _check_added(self, new: NewJob, *, duplicate: bool) -> None:
        [receipt] = self.run(self.store.add([Unit((new,))]))
        assert receipt.refusal is None
        assert [(added.ref.id, added.duplicate) for added in receipt.added] == [(new.id, duplicate)]

    # ---------------------------------------------------------------- claiming

    @rule(worker=st.sampled_from(["w1", "w2"]), free=st.integers(1, 3))
    def claim(self, worker: str, free: int) -> None:
        wish = Wanted(worker, self.draw("token"), LOCK_MS, (Slots(QUEUE, free),))
        claimed = self.run(self.store.claim(wish))
        self.operations = {"claim", "promote"}

        self.model.promote_due()
        room = self.model.room(free)
        expected = self.model.of(State.WAITING, State.PRIORITIZED)[:room]
        self._check_claims(claimed.claims, expected, wish)
        assert (QUEUE in claimed.idle) == (len(expected) < free)
        if self.model.paused:
            assert claimed.idle[QUEUE].reason == "paused"
        elif self.model.limited_until_ms > self.clock.now_ms():
            assert claimed.idle[QUEUE].reason == "limited"
            assert claimed.idle[QUEUE].until_ms == self.model.limited_until_ms
        elif room == free and len(expected) < free:
            delayed = self.model.of(State.DELAYED)
            assert claimed.idle[QUEUE].reason == "empty"
            assert claimed.idle[QUEUE].until_ms == (delayed[0].due_at_ms if delayed else None)

    @precondition(lambda self: self.model.jobs)
    @rule(worker=st.sampled_from(["w1", "w2"]), pick=picks)
    def claim_by_name(self, worker: str, pick: int) -> None:
        job = self.any_job(pick)
        assert job is not None
        wish = Wanted(worker, self.draw("token"), LOCK_MS, (Slots(QUEUE, 1, ids=(job.new.id,)),))
        if self.model.room(1) == 0:  # whether a person may take a job of a paused queue is nobody's promise
            return
        claimed = self.run(self.store.claim(wish))
        self.operations = {"claim", "promote"}

        self.model.promote_due()
        takeable = job.state in (State.WAITING, State.PRIORITIZED, State.DELAYED)
        self._check_claims(claimed.claims, [job] if takeable else [], wish)

    def _check_claims(self, claims: tuple[Claim, ...], expected: list[Job], wish: Wanted) -> None:
        assert [claim.ref.id for claim in claims] == [job.new.id for job in expected]
        self.model.take(expected, wish.token)
        for claim, job in zip(claims, expected, strict=True):
            assert claim.token == wish.token
            assert claim.worker == wish.worker
            assert claim.data == job.new.data
            assert claim.options == job.new.options
            assert (claim.attempt, claim.started, claim.stalled) == (job.made + 1, job.started, job.stalled)
            assert claim.deferred == (STALLED_TOO_OFTEN if job.deferred else None)
        self.claims += claims
        self.wish = (wish, claims) if claims else None

    @precondition(lambda self: self.wish is not None)
    @rule()
    def repeat_a_claim(self) -> None:
        assert self.wish is not None
        wish, claims = self.wish
        if all(self.model.judge(claim) == "held" for claim in claims):
            self.operations = {"promote"}
            again = self.run(self.store.claim(wish))
            assert {claim.ref for claim in again.claims} == {claim.ref for claim in claims}
            self.model.promote_due() if self._due_were_promoted() else None

    def _due_were_promoted(self) -> bool:
        """Whether a repeated wish lets due jobs go forward is nobody's promise."""
        delayed = self.run(self.store.summaries([QUEUE]))[0].counts[State.DELAYED]
        return delayed != len(self.model.of(State.DELAYED))

    # ---------------------------------------------------------------- settling

    @precondition(lambda self: self.claims)
    @rule(pick=picks, kind=outcomes)
    def settle(self, pick: int, kind: str) -> None:
        claim = self.claims[-1 - pick % len(self.claims)]
        outcome = self._outcome(kind)
        worth = self.model.judge(claim)

        settled = self.run(self.store.settle([Settlement(claim, outcome)]))

        assert settled.lost == ((claim.ref,) if worth == "lost" else ()) or worth == "old"
        assert settled.staying == ()
        if worth == "held":
            self.operations = {kind.split()[0]}
            self.model.settle(self.model.jobs[claim.ref.id], outcome)

    def _outcome(self, kind: str) -> Outcome:
        match kind:
            case "completed":
                return Completed('"done"')
            case "failed":
                return Failed("no", "Traceback")
            case "retried":
                return Retried(0, "no")
            case "retried later":
                return Retried(1_000, "no")
            case "delayed":
                return Delayed(self.clock.now_ms() + 2_000)
            case "throttled":
                return Throttled(1_000)
            case _:
                return Released()

    @precondition(lambda self: self._lost())
    @rule(pick=picks, kind=outcomes)
    def settle_too_late(self, pick: int, kind: str) -> None:
        lost = self._lost()
        claim = lost[pick % len(lost)]

        settled = self.run(self.store.settle([Settlement(claim, self._outcome(kind))]))

        assert settled.lost == (claim.ref,)

    def _lost(self) -> list[Claim]:
        return [claim for claim in self.claims if self.model.judge(claim) == "lost"]

    @precondition(lambda self: self.claims)
    @rule(pick=picks)
    def extend(self, pick: int) -> None:
        claim = self.claims[-1 - pick % len(self.claims)]
        held = self.model.judge(claim) == "held"

        lost = self.run(self.store.extend([claim], LOCK_MS))

        assert lost == ([] if held else [claim.ref])
        if held:
            job = self.model.jobs[claim.ref.id]
            job.locked_until_ms, job.suspect = self.clock.now_ms() + LOCK_MS, False

    # ---------------------------------------------------------------- time

    @rule(ms=st.sampled_from([1, 999, 1_000, 30_000, 60_000, 600_000]))
    def advance(self, ms: int) -> None:
        self.run(advance(self.store, ms))

    @rule()
    def recover(self) -> None:
        recovered = self.run(self.store.recover([QUEUE], max_stalled=MAX_STALLED, interval_ms=INTERVAL_MS))
        self.operations = {"recover"}

        moved = {job.new.id: job.deferred for job in self.model.recover()}
        assert {ref.id for ref in recovered.requeued + recovered.deferred} == set(moved)
        assert {ref.id for ref in recovered.deferred} == {job_id for job_id, deferred in moved.items() if deferred}

    # ---------------------------------------------------------------- steps that seldom meet in a short history

    @rule(kind=outcomes)
    def work(self, kind: str) -> None:
        """A worker takes a job and settles it."""
        self.claim("w1", 1)
        self.every_job_is_what_it_must_be()
        if self.claims:
            self.settle(0, kind)

    @rule(ms=st.sampled_from([LOCK_MS - 1, 2 * LOCK_MS]))
    def recover_later(self, ms: int) -> None:
        """Some time after the last claims, somebody looks."""
        self.advance(ms)
        self.recover()

    @rule(passed_on=st.booleans())
    def vanish(self, passed_on: bool) -> None:
        """A worker takes a job and is not heard of again; perhaps another takes it over."""
        self.claim("w1", 1)
        for _ in range(2):
            self.every_job_is_what_it_must_be()
            self.recover_later(2 * LOCK_MS)
        self.every_job_is_what_it_must_be()
        if passed_on:
            self.claim("w2", 3)

    # ---------------------------------------------------------------- by hand

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks)
    def promote(self, pick: int) -> None:
        job = self.any_job(pick)
        assert job is not None
        delayed = job.state is State.DELAYED

        answer = self.run(self.store.promote([self.ref(job.new.id)]))

        self.operations = {"promote"}
        assert answer == [Answer.DONE if delayed else Answer.WRONG_STATE]
        if delayed:
            self.forget_claims_of(job.new.id)
            self.model.stand(job)

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks, reset=st.booleans())
    def retry(self, pick: int, reset: bool) -> None:
        finished = self.model.of(*FINISHED)
        job = finished[pick % len(finished)] if finished else self.any_job(pick)
        assert job is not None

        answer = self.run(self.store.retry([self.ref(job.new.id)], reset_attempts=reset))

        self.operations = {"retry"}
        assert answer == [Answer.DONE if finished else Answer.WRONG_STATE]
        if finished:
            self.forget_claims_of(job.new.id)
            if reset:
                job.made = job.started = job.stalled = 0
            self.model.stand(job, front=job.new.options.lifo and not job.priority)

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks)
    def remove(self, pick: int) -> None:
        job = self.any_job(pick)
        assert job is not None
        locked = job.state is State.ACTIVE and job.locked_until_ms > self.clock.now_ms()

        answer = self.run(self.store.remove([self.ref(job.new.id)]))

        self.operations = {"remove"}
        assert answer == [Answer.LOCKED if locked else Answer.DONE]
        if not locked:
            self._gone([job])

    @rule()
    def pause(self) -> None:
        self.run(self.store.pause(QUEUE))
        self.model.paused = True

    @rule()
    def resume(self) -> None:
        self.run(self.store.resume(QUEUE))
        self.model.paused = False

    @rule(concurrency=st.sampled_from([None, None, 1, 2]))
    def configure(self, concurrency: int | None) -> None:
        self.run(self.store.configure(QUEUE, QueueSettings(paused=self.model.paused, concurrency=concurrency)))
        self.model.concurrency = concurrency

    @rule(delayed=st.booleans())
    def drain(self, delayed: bool) -> None:
        states = (State.WAITING, State.PRIORITIZED, *((State.DELAYED,) if delayed else ()))
        expected = self.model.of(*states)

        assert self.run(self.store.drain(QUEUE, delayed=delayed)) == len(expected)

        self.operations = {"remove"}
        self._gone(expected)

    @rule(state=st.sampled_from([State.COMPLETED, State.FAILED, State.ACTIVE]), limit=st.integers(1, 3))
    def clean(self, state: State, limit: int) -> None:
        cleaned = self.run(self.store.clean(QUEUE, state, grace_ms=0, limit=limit))

        self.operations = {"remove"}
        candidates = [
            job
            for job in self.model.of(state)
            if state is not State.ACTIVE or job.locked_until_ms <= self.clock.now_ms()
        ]
        assert len(cleaned) == min(limit, len(candidates))
        assert cleaned == [job.new.id for job in candidates[:limit]]
        self._gone([self.model.jobs[job_id] for job_id in cleaned])

    def _gone(self, jobs: list[Job]) -> None:
        for job in jobs:
            del self.model.jobs[job.new.id]
            self.forget_claims_of(job.new.id)

    # ---------------------------------------------------------------- comparing

    @invariant()
    def every_job_is_what_it_must_be(self) -> None:
        ids = sorted({new.id for new in self.news})
        records = self.run(self.store.get([self.ref(job_id) for job_id in ids]))
        there: dict[str, State] = {}
        for job_id, record in zip(ids, records, strict=True):
            job = self.model.jobs.get(job_id)
            if job is None:
                self._check_receipt(job_id, record)
            else:
                assert record is not None, f"{job_id} is lost"
                self._check_record(record, job)
                there[job_id] = record.state
        for job_id in ids:
            self._check_move(self.seen.get(job_id), there.get(job_id))
        self.seen, self.operations = there, set()

    def _check_record(self, record: JobRecord, job: Job) -> None:
        assert record.kept
        assert record.state is job.state
        assert (record.attempts_made, record.attempts_started, record.stalled) == (job.made, job.started, job.stalled)
        assert record.data == job.new.data
        if job.state is State.DELAYED:
            assert record.due_at_ms == job.due_at_ms
        if job.state is State.ACTIVE:
            lapsed = job.locked_until_ms <= self.clock.now_ms()  # Redis forgets a lock that is over
            assert record.locked_until_ms == job.locked_until_ms or (lapsed and record.locked_until_ms is None)
        else:
            assert record.locked_until_ms is None
        if job.state in FINISHED:
            assert record.finished_at_ms == job.finished_at_ms
        else:
            assert record.finished_at_ms is None

    def _check_receipt(self, job_id: str, record: JobRecord | None) -> None:
        _, _, until_ms = self.model.receipts.get(job_id, (None, "", 0))
        if until_ms > self.clock.now_ms():
            assert record is not None, f"the result of {job_id} is lost"
        assert record is None or not record.kept

    def _check_move(self, before: State | None, after: State | None) -> None:
        legal = before == after or any(Move(operation, before, after) in MOVES for operation in self.operations)
        assert legal, f"{sorted(self.operations)} took a job from {before} to {after}"

    @invariant()
    def each_job_stands_once_and_in_its_order(self) -> None:
        [*summaries] = self.run(self.store.summaries([QUEUE]))
        counts = dict(summaries[0].counts) if summaries else {}
        for state in State:
            expected = [job.new.id for job in self.model.of(state)]
            assert counts.get(state, 0) == len(expected), f"{state}: counted {counts.get(state, 0)} of {len(expected)}"
            assert self._found(state) == expected

    def _found(self, state: State) -> list[str]:
        ids: list[str] = []
        after: str | None = None
        while True:
            page = self.run(self.store.find(QUEUE, state, after=after, limit=4))
            assert all(record.state is state for record in page.items)
            ids += [record.ref.id for record in page.items]
            if page.next is None:
                return ids
            after = page.next
