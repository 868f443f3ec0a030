"""A machine that leads random lives of jobs through a store, beside a model that knows what must become of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from conformance.given import advance
from model.expected import INTERVAL_MS, LOCK_MS, MAX_STALLED, PENDING, QUEUE, STALLED_TOO_OFTEN, Job, Model
from toril.clock import TurnedClock
from toril.errors import Unrecoverable, WrongState
from toril.model import (
    Answer,
    AwaitingChildren,
    Claim,
    Completed,
    Delayed,
    Failed,
    JobRecord,
    JobRef,
    NewJob,
    Outcome,
    Parent,
    QueueSettings,
    Released,
    Retried,
    Settlement,
    Slots,
    Throttled,
    Unit,
    Wanted,
)
from toril.options import JobOptions, resolve
from toril.states import FINISHED, MOVES, Move, State
from toril.store import Store

T = TypeVar("T")

picks = st.integers(0, 1_000)
delays = st.sampled_from([0, 0, 1, 60])
priorities = st.sampled_from([0, 0, 1, 5])
ends = st.sampled_from(["completed", "failed"])
outcomes = ends | st.sampled_from(["retried", "retried later", "delayed", "throttled", "released", "awaiting-children"])
workers = st.sampled_from(["w1", "w2"])
verbs = st.sampled_from(["promote", "retry", "retry anew", "remove", "cancel"])


class Machine(RuleBasedStateMachine):
    """Rules do one thing to the store and the same to the model; the invariants compare them."""

    def __init__(self, store: Store, clock: TurnedClock) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = clock
        self.store = store
        self.model = Model(clock)
        self.model.idle_checks_count = store.kind == "redis"  # as BullMQ has it: the interval begins all the same
        self.news: list[NewJob] = []  # adds that may be repeated
        self.claims: list[Claim] = []
        self.wish: tuple[Wanted, tuple[Claim, ...]] | None = None
        self.known: set[str] = set()  # ids of all jobs that ever were
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

    def any_job(self, pick: int) -> Job:
        jobs = list(self.model.jobs.values())
        return jobs[pick % len(jobs)]

    def may_be_a_parent(self, job: Job) -> bool:
        """Not where another job may come under its id: whether children pass over to that is nobody's promise."""
        return job.new.nonce is None and job.schedule is None

    def forget_claims_of(self, job_id: str) -> None:
        """What a claim is worth after somebody changed its job by hand is nobody's promise."""
        self.claims = [claim for claim in self.claims if claim.ref.id != job_id]

    # ---------------------------------------------------------------- adding

    @initialize(count=st.integers(0, 4))
    def begin(self, count: int) -> None:
        for _ in range(count):
            self.add(chosen=0, delay=0, priority=0, lifo=False, kept=True)

    @rule(
        chosen=st.sampled_from([0, 0, 0, 1, 2, 3]),
        delay=delays,
        priority=priorities,
        lifo=st.booleans(),
        kept=st.booleans(),
    )
    def add(self, chosen: int, delay: int, priority: int, lifo: bool, kept: bool) -> None:
        options = JobOptions(
            delay=delay, priority=priority, lifo=lifo, keep_completed=kept, keep_failed=kept or not chosen
        )
        new = self.new_job(options)
        if chosen:
            new = replace(new, id=f"chosen-{chosen}", nonce=self.draw("nonce"))
        exists = new.id in self.model.jobs
        self.check_added(new, duplicate=exists)
        self.operations = {"add"}
        if not exists:
            self.news.append(new)
            self.forget_claims_of(new.id)
            self.model.add(new)

    def new_job(self, options: JobOptions, *, parent: Parent | None = None, has_children: bool = False) -> NewJob:
        """A job on its way, under an id of its own."""
        now_ms = self.clock.now_ms()
        kept = resolve(options, now_ms)
        return NewJob(QUEUE, "welcome", self.draw("job"), "{}", kept, now_ms, None, parent, has_children)

    @precondition(lambda self: self.news)
    @rule(pick=picks)
    def repeat_an_add(self, pick: int) -> None:
        new = self.news[pick % len(self.news)]
        job = self.model.jobs.get(new.id)
        known, _, until_ms = self.model.receipts.get(new.id, (None, "", 0))
        if (job is not None and job.new is new) or (known is new and until_ms > self.clock.now_ms()):
            self.check_added(new, duplicate=False)

    def check_added(self, new: NewJob, *, duplicate: bool) -> None:
        [receipt] = self.run(self.store.add([Unit((new,))]))
        assert receipt.refusal is None
        assert [(added.ref.id, added.duplicate) for added in receipt.added] == [(new.id, duplicate)]

    # ---------------------------------------------------------------- claiming

    @rule(worker=workers, free=st.integers(1, 3))
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
    @rule(worker=workers, pick=picks)
    def claim_by_name(self, worker: str, pick: int) -> None:
        if self.model.room(1):  # whether a person may take a job of a paused queue is nobody's promise
            self.take_by_name(worker, self.any_job(pick))

    def take_by_name(self, worker: str, job: Job) -> None:
        wish = Wanted(worker, self.draw("token"), LOCK_MS, (Slots(QUEUE, 1, ids=(job.id,)),))
        claimed = self.run(self.store.claim(wish))
        self.operations = {"claim", "promote"}

        self._check_claims(claimed.claims, [job] if job.state in PENDING else [], wish)
        if self._due_were_promoted():
            self.model.promote_due()

    def _check_claims(self, claims: tuple[Claim, ...], expected: list[Job], wish: Wanted) -> None:
        assert [claim.ref.id for claim in claims] == [job.id for job in expected]
        self.model.take(expected, wish.token)
        for claim, job in zip(claims, expected, strict=True):
            assert claim.token == wish.token
            assert claim.worker == wish.worker
            assert claim.data == job.new.data
            assert claim.options == job.new.options
            assert (claim.attempt, claim.started, claim.stalled) == (job.made + 1, job.started, job.stalled)
            assert (claim.deferred is None) == (not job.deferred)
            assert claim.deferred == STALLED_TOO_OFTEN or job.deferred != {"stalled"}
            assert claim.schedule == job.schedule
            if job.parent in self.model.jobs or job.parent is None:
                assert (None if claim.parent is None else claim.parent.ref.id) == job.parent
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
            if self._due_were_promoted():
                self.model.promote_due()

    def _due_were_promoted(self) -> bool:
        """Whether a repeated wish, or one for a job by its name, lets due jobs go forward is nobody's promise."""
        delayed = self.run(self.store.summaries([QUEUE]))[0].counts[State.DELAYED]
        return delayed != len(self.model.of(State.DELAYED))

    # ---------------------------------------------------------------- settling

    @precondition(lambda self: self.claims)
    @rule(pick=picks, kind=outcomes)
    def settle(self, pick: int, kind: str) -> None:
        self.settle_all([(self.claims[-1 - pick % len(self.claims)], kind)])

    def settle_all(self, ends: Sequence[tuple[Claim, str]]) -> None:
        """Settle claims in one call. One after the other, what becomes of one decides what may become of the next."""
        settlements = [Settlement(claim, self._outcome(kind)) for claim, kind in ends]
        worth = [self.model.judge(claim) for claim, _ in ends]

        settled = self.run(self.store.settle(settlements))

        assert (
            set(settled.lost) == {one.claim.ref for one, its in zip(settlements, worth, strict=True) if its == "lost"}
            or "old" in worth
        )
        refused = {refusal.ref: type(refusal.error) for refusal in settled.refused}
        staying = set[JobRef]()
        for one, its in zip(settlements, worth, strict=True):
            job = self.model.jobs[one.claim.ref.id] if its == "held" else None
            refusals = set[type[Exception]]() if job is None else self._refusals(job, one.outcome)
            assert (one.claim.ref in refused) == bool(refusals)
            assert not refusals or refused[one.claim.ref] in refusals
            if job is None or refusals:
                continue
            if isinstance(one.outcome, AwaitingChildren) and not job.pending:
                staying.add(one.claim.ref)
            else:
                self.model.settle(job, one.outcome)
        assert set(settled.staying) == staying
        self.operations = {kind.split()[0] for _, kind in ends} | {
            "promote"
        }  # before a job that is tried again at once

    def _refusals(self, job: Job, outcome: Outcome) -> set[type[Exception]]:
        """With what a job's children may forbid its outcome."""
        if not isinstance(outcome, Completed | AwaitingChildren):
            return set()
        refusals: set[type[Exception]] = {Unrecoverable} if job.has_failed_child else set()
        if job.pending and isinstance(outcome, Completed):
            refusals.add(WrongState)
        return refusals

    def _outcome(self, kind: str) -> Outcome:
        match kind:
            case "completed":
                return Completed(f'"{self.draw("result")}"')
            case "failed":
                return Failed(self.draw("reason"), "Traceback")
            case "retried":
                return Retried(0, "no")
            case "retried later":
                return Retried(1_000, "no")
            case "delayed":
                return Delayed(self.clock.now_ms() + 2_000)
            case "throttled":
                return Throttled(1_000)
            case "awaiting-children":
                return AwaitingChildren()
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

    @rule(ms=st.sampled_from([1, 999, 1_000, LOCK_MS - 1, 2 * LOCK_MS, 600_000]), looked=st.booleans())
    def advance(self, ms: int, looked: bool) -> None:
        """Time passes; perhaps somebody looks for lapsed locks then."""
        self.run(advance(self.store, ms))
        if looked:
            self.recover()

    def recover(self) -> None:
        recovered = self.run(self.store.recover([QUEUE], max_stalled=MAX_STALLED, interval_ms=INTERVAL_MS))
        self.operations = {"recover"}

        moved = {job.id: "stalled" in job.deferred for job in self.model.recover()}
        assert {ref.id for ref in recovered.requeued + recovered.deferred} == set(moved)
        assert {ref.id for ref in recovered.deferred} == {job_id for job_id, deferred in moved.items() if deferred}

    # ---------------------------------------------------------------- steps that seldom meet in a short history

    @rule(kinds=st.lists(outcomes, min_size=1, max_size=4))
    def work(self, kinds: list[str]) -> None:
        """A worker takes one job after the other and settles each."""
        for kind in kinds:
            held = len(self.claims)
            self.claim("w1", 1)
            self.every_job_is_what_it_must_be()
            if len(self.claims) > held:
                self.settle(0, kind)
                self.every_job_is_what_it_must_be()

    @rule(passed_on=st.booleans())
    def vanish(self, passed_on: bool) -> None:
        """A worker takes a job and is not heard of again; perhaps another takes it over."""
        self.claim("w1", 1)
        for _ in range(2):
            self.every_job_is_what_it_must_be()
            self.advance(2 * LOCK_MS, looked=True)
        self.every_job_is_what_it_must_be()
        if passed_on:
            self.claim("w2", 3)

    # ---------------------------------------------------------------- by hand

    @precondition(lambda self: self.model.jobs)
    @rule(verb=verbs, pick=picks)
    def change(self, verb: str, pick: int) -> None:
        """Somebody changes one job, mostly one that can be changed so."""
        jobs = [job for job in self.model.jobs.values() if self._suits(verb, job)] or [*self.model.jobs.values()]
        job = jobs[pick % len(jobs)]
        self.operations = {verb.split()[0]}
        match verb:
            case "promote":
                self._promote(job)
            case "retry":
                self.retry(job, reset=False)
            case "retry anew":
                self.retry(job, reset=True)
            case "remove":
                self._remove(job)
            case _:
                self._cancel(job)

    def _suits(self, verb: str, job: Job) -> bool:
        match verb:
            case "promote":
                return job.state is State.DELAYED
            case "retry" | "retry anew":
                return job.state in FINISHED
            case "remove":
                return True
            case _:
                return job.state not in FINISHED

    def _promote(self, job: Job) -> None:
        delayed = job.state is State.DELAYED

        answer = self.run(self.store.promote([self.ref(job.id)]))

        assert answer == [Answer.DONE if delayed else Answer.WRONG_STATE]
        if delayed:
            self.forget_claims_of(job.id)
            self.model.stand(job)

    def retry(self, job: Job, *, reset: bool) -> None:
        finished = job.state in FINISHED

        answer = self.run(self.store.retry([self.ref(job.id)], reset_attempts=reset))

        assert answer == [Answer.DONE if finished else Answer.WRONG_STATE]
        if finished:
            self.forget_claims_of(job.id)
            self.model.retry(job, reset=reset)

    def _remove(self, job: Job) -> None:
        family = self.model.family(job)
        locked = any(one.state is State.ACTIVE and one.locked_until_ms > self.clock.now_ms() for one in family)
        awaited = self.model.is_awaited(job)

        answer = self.run(self.store.remove([self.ref(job.id)]))

        assert answer == [Answer.WRONG_STATE if awaited else Answer.LOCKED if locked else Answer.DONE]
        if answer == [Answer.DONE]:
            self._gone(reversed(family))

    def _cancel(self, job: Job) -> None:
        reason = self.draw("reason")
        expected = Answer.LOCKED if job.state is State.ACTIVE else Answer.DONE
        if job.state in FINISHED or self.model.is_awaited(job):
            expected = Answer.WRONG_STATE

        answer = self.run(self.store.cancel([self.ref(job.id)], reason))

        assert answer == [expected]
        if expected is Answer.DONE:
            self.forget_claims_of(job.id)
            self.model.finish(job, State.FAILED, reason)

    @rule(paused=st.sampled_from([False, False, False, True]), concurrency=st.sampled_from([None, None, 1, 2]))
    def configure(self, paused: bool, concurrency: int | None) -> None:
        """Somebody pauses or resumes the queue, or sets how many may run; and a worker asks for more than that."""
        if paused != self.model.paused:
            self.run(self.store.pause(QUEUE) if paused else self.store.resume(QUEUE))
        else:
            self.run(self.store.configure(QUEUE, QueueSettings(paused=paused, concurrency=concurrency)))
            self.model.concurrency = concurrency
        self.model.paused = paused
        self.claim("w1", 3)

    @rule(
        state=st.sampled_from([State.WAITING, State.DELAYED, State.COMPLETED, State.FAILED, State.ACTIVE]),
        limit=st.integers(1, 3),
    )
    def sweep(self, state: State, limit: int) -> None:
        """Somebody removes many jobs at once: all that wait, or a few of those that run or have ended."""
        self.operations = {"remove"}
        if state in PENDING:
            self._drain(delayed=state is State.DELAYED)
        else:
            self._clean(state, limit)

    def _drain(self, *, delayed: bool) -> None:
        states = (State.WAITING, State.PRIORITIZED, *((State.DELAYED,) if delayed else ()))
        expected = [job for job in self.model.of(*states) if not self.model.is_awaited(job)]

        drained = self.run(self.store.drain(QUEUE, delayed=delayed))

        self._gone(expected)
        assert drained == len(expected) + self._released_and_gone()

    def _released_and_gone(self) -> int:
        """How many parents have gone with their children. Whether those go too that a drain releases is nobody's promise."""
        count = 0
        for parent in self.model.released:  # which grows meanwhile
            [record] = self.run(self.store.get([self.ref(parent.id)]))
            if record is None and parent.id in self.model.jobs:
                self._gone([parent])
                count += 1
        return count

    def _clean(self, state: State, limit: int) -> None:
        cleaned = self.run(self.store.clean(QUEUE, state, grace_ms=0, limit=limit))

        candidates = [
            job
            for job in self.model.of(state)
            if (state is not State.ACTIVE or job.locked_until_ms <= self.clock.now_ms())
            and not self.model.is_awaited(job)
        ]
        gone = [job for job in candidates if job.id in cleaned]
        assert len(gone) == len(cleaned) == min(limit, len(candidates))
        assert [job.rank[0] for job in gone] == [job.rank[0] for job in candidates[:limit]]
        self._gone(gone)

    def _gone(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self.model.remove(job)
            self.forget_claims_of(job.id)

    # ---------------------------------------------------------------- comparing

    @invariant()
    def every_job_is_what_it_must_be(self) -> None:
        self.known |= self.model.jobs.keys()
        ids = sorted(self.known)
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
        self.seen, self.operations, self.model.besides = there, set(), set()
        self.model.released.clear()

    def _check_record(self, record: JobRecord, job: Job) -> None:
        assert record.kept
        assert record.state is job.state
        assert (record.attempts_made, record.attempts_started, record.stalled) == (job.made, job.started, job.stalled)
        assert record.data == job.new.data
        assert record.schedule == job.schedule
        assert record.pending_children == job.pending
        if job.parent in self.model.jobs or job.parent is None:
            assert (None if record.parent is None else record.parent.ref.id) == job.parent
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
        operations = self.operations | self.model.besides
        legal = before == after or any(Move(operation, before, after) in MOVES for operation in operations)
        assert legal, f"{sorted(operations)} took a job from {before} to {after}"

    @invariant()
    def each_job_stands_once_and_in_its_order(self) -> None:
        [*summaries] = self.run(self.store.summaries([QUEUE]))
        counts = dict(summaries[0].counts) if summaries else {}
        for state in State:
            expected = [job.id for job in self.model.of(state)]
            assert counts.get(state, 0) == len(expected), f"{state}: counted {counts.get(state, 0)} of {len(expected)}"
            found = self._found(state)
            if state in (State.WAITING_CHILDREN, *FINISHED):
                assert self._timed(found) == self._timed(expected)
            else:
                assert found == expected, f"{state}: {found}, and not {expected}"

    def _timed(self, ids: list[str]) -> list[tuple[int, list[str]]]:
        """Jobs that wait or have ended, by time. Their order within a millisecond is nobody's promise."""
        by_time = itertools.groupby(ids, lambda job_id: self.model.jobs[job_id].finished_at_ms)
        return [(at_ms, sorted(some)) for at_ms, some in by_time]

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
