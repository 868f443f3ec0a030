"""A random life of a few queues: everything that producers, workers and people do to them, on two stores at once."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from toril.clock import TurnedClock
from toril.model import (
    AwaitingChildren,
    Claim,
    Completed,
    Delayed,
    Failed,
    JobRef,
    NewJob,
    Outcome,
    Parent,
    QueueSettings,
    Released,
    Report,
    Retried,
    Settlement,
    Slots,
    Throttled,
    Unit,
    Update,
    Wanted,
)
from toril.options import ChildPolicy, JobOptions, Keep, RateLimit, resolve
from toril.states import FINISHED, State
from toril.store import Store
from toril.stores.redis.store import RedisStore

QUEUES = ("mail", "images", "albums")
LOCK_MS = 30_000
INTERVAL_MS = 30_000
MAX_EVENTS = 100

KeepRule = Keep | bool | int
KEEPS: Sequence[KeepRule] = (False, 5, 10, Keep(count=10, age_ms=60_000))


class Workload:
    """Takes one random step after another; the same seed takes the same steps. Jobs have keep rules out of `keeps`."""

    def __init__(
        self,
        seed: int,
        stores: Sequence[RedisStore],
        clock: TurnedClock,
        redis: Any,
        *,
        keeps: Sequence[KeepRule] = KEEPS,
    ) -> None:
        self._random = random.Random(seed)
        self._keeps = keeps
        self._stores = stores
        self._clock = clock
        self._redis = redis
        self._prefix = stores[0].prefix
        self.parents: set[str] = set()
        self._drawn = 0
        self._refs: deque[JobRef] = deque(maxlen=60)
        self._claims: deque[Claim] = deque(maxlen=30)
        self._units: deque[Unit] = deque(maxlen=10)
        self._wishes: deque[Wanted] = deque(maxlen=10)
        self._settled: deque[Settlement] = deque(maxlen=10)
        self._steps: dict[Callable[[], Awaitable[object]], int] = {
            self._add: 20,
            self._add_flow: 8,
            self._add_child: 4,
            self._repeat_an_add: 1,
            self._claim: 18,
            self._claim_by_name: 2,
            self._repeat_a_claim: 1,
            self._settle: 24,
            self._settle_and_claim: 8,
            self._repeat_a_settle: 2,
            self._report: 4,
            self._extend: 3,
            self._lose_a_lock: 3,
            self._recover: 5,
            self._promote: 3,
            self._retry: 5,
            self._remove: 4,
            self._update: 6,
            self._pause: 1,
            self._resume: 3,
            self._configure: 2,
            self._throttle: 1,
            self._drain: 1,
            self._clean: 3,
            self._obliterate: 1,
            self._publish: 1,
            self._trim: 1,
            self._pass_time: 12,
        }

    async def step(self) -> None:
        [take] = self._random.choices(list(self._steps), list(self._steps.values()))
        await take()

    async def rest(self) -> None:
        """Nobody works any more: no job runs, no lock is left, and nothing is held back but one paused queue."""
        for queue in QUEUES:
            await self._store.configure(queue, QueueSettings(max_events=MAX_EVENTS))
            await self._store.throttle(queue, 0)
        for _ in range(3):
            await self._pass_ms(LOCK_MS + INTERVAL_MS)
            await self._store.recover(QUEUES, max_stalled=1, interval_ms=INTERVAL_MS)
        await self._store.pause(QUEUES[0])

    async def run_out(self) -> None:
        """Let everything run that can, until nothing is left to do."""
        await self._store.resume(QUEUES[0])
        idle_rounds = 0
        while idle_rounds < 2:
            slots = tuple(Slots(queue, 100) for queue in QUEUES)
            claims = (await self._store.claim(Wanted("last", self._draw("token"), LOCK_MS, slots))).claims
            settled = await self._store.settle([Settlement(claim, _ending(claim)) for claim in claims])
            refused = {refusal.ref for refusal in settled.refused}
            failed = [Settlement(claim, Failed("its children forbid it")) for claim in claims if claim.ref in refused]
            await self._store.settle(failed)
            await self._pass_ms(3_600_000)
            idle_rounds = 0 if claims else idle_rounds + 1

    # ---------------------------------------------------------------- choices

    @property
    def _store(self) -> Store:
        return self._random.choice(self._stores)

    @property
    def _queue(self) -> str:
        return self._random.choice(QUEUES)

    def _ref(self) -> JobRef:
        return self._random.choice(self._refs) if self._refs else JobRef("mail", "nobody")

    def _some_refs(self) -> list[JobRef]:
        return list({self._ref() for _ in range(self._random.randint(1, 3))})

    def _claim_held(self) -> Claim | None:
        return self._random.choice(self._claims) if self._claims else None

    def _odds(self, share: float) -> bool:
        return self._random.random() < share

    def _draw(self, word: str) -> str:
        self._drawn += 1
        return f"{word}-{self._drawn}"

    # ---------------------------------------------------------------- producers

    def _job(self, *, chosen: str | None = None, parent: Parent | None = None, has_children: bool = False) -> NewJob:
        queue = self._queue
        job = NewJob(
            queue=queue,
            name="job",
            id=chosen or self._draw("job"),
            data=self._random.choice(['{"to":"ada"}', "null", '["é"]']),
            options=resolve(self._options(), self._clock.now_ms()),
            created_at_ms=self._clock.now_ms(),
            nonce=self._draw("nonce") if chosen else None,
            parent=parent,
            has_children=has_children,
        )
        self._refs.append(JobRef(queue, job.id))
        return job

    def _choice_of_id(self) -> str | None:
        """An id that was most likely chosen before, now and then."""
        return self._random.choice("abcd") if self._odds(0.1) else None

    def _options(self) -> JobOptions:
        options: JobOptions = {"keep_logs": 3, "keep_result": 30}
        if self._odds(0.2):
            options["delay"] = self._random.choice([0.001, 1, 30])
        if self._odds(0.3):
            options["priority"] = self._random.choice([1, 2, 2_097_151])
        if self._odds(0.2):
            options["lifo"] = True
        options["attempts"] = self._random.choice([1, 1, 3])
        options["keep_completed"] = self._random.choice(self._keeps)
        options["keep_failed"] = self._random.choice(self._keeps)
        return options

    async def _add_units(self, *units: Unit) -> None:
        await self._store.add(units)  # a refusal is as good an answer as any
        if self._odds(0.1):
            await self._store.add(units)

    async def _add(self) -> None:
        sizes = self._random.choices([1, 3], [4, 1], k=self._random.choice([1, 1, 2]))
        units = [Unit(tuple(self._job(chosen=self._choice_of_id()) for _ in range(size))) for size in sizes]
        self._units.extend(units)
        await self._add_units(*units)

    async def _add_flow(self) -> None:
        top = self._job(has_children=True)
        children = [
            self._job(chosen=self._choice_of_id(), parent=self._parent(JobRef(top.queue, top.id)))
            for _ in range(self._random.randint(1, 3))
        ]
        await self._add_units(Unit((top, *children)))

    async def _add_child(self) -> None:
        """To a job that runs, mostly: it may wait for the child then."""
        claim = self._claim_held()
        parent = self._parent(claim.ref if claim is not None and self._odds(0.8) else self._ref())
        await self._add_units(Unit((self._job(parent=parent),)))

    def _parent(self, ref: JobRef) -> Parent:
        self.parents.add(f"{self._prefix}:{ref.queue}:{ref.id}")
        return Parent(ref, self._random.choice(list(ChildPolicy)))

    async def _repeat_an_add(self) -> None:
        if self._units:
            await self._store.add([self._random.choice(self._units)])

    # ---------------------------------------------------------------- workers

    def _wish(self) -> Wanted:
        limiter = RateLimit(3, per=10) if self._odds(0.2) else None
        queues = self._random.sample(QUEUES, self._random.randint(1, 3))
        slots = tuple(Slots(queue, self._random.choice([1, 2, 4, 10]), limiter) for queue in queues)
        wish = Wanted(self._random.choice(["w1", "w2", ""]), self._draw("token"), LOCK_MS, slots)
        self._wishes.append(wish)
        return wish

    async def _claim(self) -> None:
        self._claims.extend((await self._store.claim(self._wish())).claims)

    async def _claim_by_name(self) -> None:
        ref = self._ref()
        wish = Wanted("person", self._draw("token"), LOCK_MS, (Slots(ref.queue, 1, ids=(ref.id,)),))
        self._claims.extend((await self._store.claim(wish)).claims)

    async def _repeat_a_claim(self) -> None:
        if self._wishes:
            self._claims.extend((await self._store.claim(self._random.choice(self._wishes))).claims)

    def _outcome(self, claim: Claim) -> Outcome:
        if claim.deferred is not None:
            return Failed(claim.deferred, "no stack")
        outcomes: list[Outcome] = [
            Completed(self._random.choice(["null", '{"ok":true}'])),
            Completed(),
            Completed(),
            Failed("no", "Traceback"),
            Retried(0, "not yet", "Traceback"),
            Retried(self._random.choice([1, 5_000]), "not yet"),
            Delayed(self._clock.now_ms() + self._random.choice([1, 5_000])),
            Throttled(1_000),
            AwaitingChildren(),
            AwaitingChildren(),
            Released(),
        ]
        return self._random.choice(outcomes)

    def _settlements(self) -> list[Settlement]:
        """Of a few claims, most of them held, some lost or settled long ago."""
        count = min(len(self._claims), self._random.choice([1, 2, 3, 8]))
        chosen = [self._claims.pop() if self._odds(0.8) else self._claims[0] for _ in range(count) if self._claims]
        settled = [Settlement(claim, self._outcome(claim)) for claim in dict.fromkeys(chosen)]
        self._settled.extend(settled)
        return settled

    async def _settle(self) -> None:
        await self._store.settle(self._settlements())

    async def _settle_and_claim(self) -> None:
        settled = await self._store.settle(self._settlements(), self._wish())
        if settled.claimed is not None:
            self._claims.extend(settled.claimed.claims)

    async def _repeat_a_settle(self) -> None:
        if self._settled:
            await self._store.settle([self._random.choice(self._settled)])

    async def _report(self) -> None:
        claim = self._claim_held()
        if claim is not None:
            await self._store.report([Report(claim, self._random.choice([None, "42", '{"step":1}']), ("one", "two"))])

    async def _extend(self) -> None:
        await self._store.extend(list(self._claims), LOCK_MS)

    async def _lose_a_lock(self) -> None:
        claim = self._claim_held()
        if claim is not None:
            await self._redis.delete(f"{self._prefix}:{claim.ref.queue}:{claim.ref.id}:lock")

    async def _recover(self) -> None:
        await self._store.recover(QUEUES, max_stalled=1, interval_ms=INTERVAL_MS)
        await self._pass_ms(INTERVAL_MS)

    # ---------------------------------------------------------------- people

    async def _promote(self) -> None:
        await self._store.promote(self._some_refs())

    async def _retry(self) -> None:
        page = await self._store.find(self._queue, self._random.choice(FINISHED), limit=3)
        data = '{"again":true}' if self._odds(0.3) else None
        refs = [record.ref for record in page.items] or self._some_refs()
        await self._store.retry(refs, reset_attempts=self._odds(0.5), data=data)

    async def _remove(self) -> None:
        await self._store.remove(self._some_refs())

    async def _update(self) -> None:
        update = Update(self._ref())
        changes: list[dict[str, Any]] = [
            {"data": '{"other":1}'},
            {"priority": self._random.choice([0, 1, 7]), "lifo": self._odds(0.5)},
            {"delay_ms": self._random.choice([0, 1, 60_000])},
            {"progress": "7"},
            {"logs": ("by hand",)},
            {"clear_logs": 1},
        ]
        await self._store.update([replace(update, **self._random.choice(changes))])

    async def _pause(self) -> None:
        await self._store.pause(self._queue)

    async def _resume(self) -> None:
        await self._store.resume(self._queue)

    async def _configure(self) -> None:
        settings = QueueSettings(
            paused=self._odds(0.1),
            concurrency=self._random.choice([None, None, 2]),
            rate_limit=self._random.choice([None, None, RateLimit(5, per=5)]),
            max_waiting=self._random.choice([None, 20]),
            max_events=MAX_EVENTS,
            metrics_minutes=self._random.choice([0, 10]),
        )
        await self._store.configure(self._queue, settings)

    async def _throttle(self) -> None:
        await self._store.throttle(self._queue, self._random.choice([0, 1_000, 20_000]))

    async def _drain(self) -> None:
        await self._store.drain(self._queue, delayed=self._odds(0.5))

    async def _clean(self) -> None:
        grace_ms = self._random.choice([0, 60_000])
        await self._store.clean(self._queue, self._random.choice(list(State)), grace_ms=grace_ms, limit=5)

    async def _obliterate(self) -> None:
        queue = self._queue
        await self._store.pause(queue)
        await self._store.obliterate(queue, force=True)

    async def _publish(self) -> None:
        await self._store.publish(self._queue, "mine", {"x": "1"})

    async def _trim(self) -> None:
        await self._store.trim(self._queue, 10)

    # ---------------------------------------------------------------- time

    async def _pass_time(self) -> None:
        await self._pass_ms(self._random.choice([1, 1, 100, 5_000, 40_000]))

    async def _pass_ms(self, ms: int) -> None:
        self._clock.advance(ms)
        await self._stores[0].age(ms)


def _ending(claim: Claim) -> Outcome:
    return Completed("1") if claim.deferred is None else Failed(claim.deferred)
