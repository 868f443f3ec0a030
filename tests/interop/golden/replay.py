"""Takes the steps of BullMQ's own recordings through the seam, and compares what both leave in Redis."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, Unpack, cast

import pytest
from redis.asyncio import Redis

from interop.golden.documented import DIFFERENCES, UNORDERED, Difference
from interop.golden.keyspace import FAR_MS, T0, Dump, deviations, expected, taken, with_moments
from toril.clock import TurnedClock
from toril.model import Claim, JobRef, NewJob, Outcome, Settlement, Slots, Unit, Wanted
from toril.options import JobOptions, RateLimit, resolve
from toril.stores.redis.store import RedisStore

T = TypeVar("T")
Scenario = Callable[["Replay"], Awaitable[None]]

DUMPS = Path(__file__).parent / "dumps"
STEP_MS = 10
LOCK_MS = 30_000

SCENARIOS: dict[tuple[str, str], Scenario] = {}
"""Every test that replays a recording, by the recording's number and the test's name."""


def recording(number: str) -> Callable[[Scenario], Scenario]:
    """Replay the recording of this number in a test; the fixture `replay` sees that every step of it is taken."""

    def mark(scenario: Scenario) -> Scenario:
        SCENARIOS[number, cast("Any", scenario).__name__] = scenario
        return pytest.mark.parametrize("replay", [number], indirect=True)(scenario)

    return mark


def dump_of(number: str) -> Dump:
    [path] = DUMPS.glob(f"{number}-*.json")
    golden: Dump = json.loads(path.read_text(encoding="utf-8"))
    return golden


class Replay:
    """Takes steps through the seam; the clock moves 10 ms after each, as in the recordings."""

    def __init__(self, number: str, store: RedisStore, clock: TurnedClock, redis: Any) -> None:
        self.number = number
        self.golden = dump_of(number)
        self.store = store
        self.redis = redis
        self.used: set[Difference] = set()
        self._clock = clock
        self._added: Counter[str] = Counter()
        self._steps = 0
        self._compared: set[int] = set()

    # ---------------------------------------------------------------- steps

    async def step(self, call: Awaitable[T]) -> T:
        """Take a step that is one call."""
        answer = await call
        await self.end_step()
        return answer

    async def end_step(self) -> None:
        """End a step whose calls have been made: compare, and let the clock move."""
        told_at = self.golden["steps"][self._steps].partition("]")[0]
        assert with_moments(told_at) == f"[{self.now_ms()}", "the clock stands otherwise than in the recording"
        self._steps += 1
        await self._compare()
        self.pass_ms(STEP_MS)

    def pass_ms(self, ms: int) -> None:
        self._clock.advance(ms)

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def finish(self) -> None:
        """Every step was taken, and every dump compared."""
        assert self._compared == {dump["after_step"] for dump in self._dumps()}, "steps or dumps were left out"

    async def _compare(self) -> None:
        """Compare with the dumps of this step, if there are any."""
        for dump in self._dumps():
            if dump["after_step"] == self._steps:
                self._compare_with(dump, await taken(self.redis.execute_command, self.now_ms()))
                self._compared.add(self._steps)

    def _dumps(self) -> list[Dump]:
        """The snapshots, and what is there at the end."""
        return [*self.golden.get("snapshots", ()), {**self.golden, "after_step": len(self.golden["steps"])}]

    def _compare_with(self, dump: Dump, ours: tuple[Dump, list[Dump]]) -> None:
        where = f"recording {self.number} after step {self._steps}: {self.golden['steps'][self._steps - 1]}"
        keys, events = expected(dump)
        unknown: list[str] = []
        for found in deviations(ours[0], keys):
            covering = [row for row in DIFFERENCES if row.covers(self.number, found)]
            self.used.update(covering)
            if not covering:
                unknown.append(str(found))
        assert not unknown, "\n".join([where, *unknown])
        told, wanted = _lines(ours[1]), _lines(events)
        assert told == wanted, "\n".join([where, "ours:", *told, "theirs:", *wanted])

    # ---------------------------------------------------------------- verbs

    def job(self, name: str, data: str = "{}", *, queue: str = "golden", **options: Unpack[JobOptions]) -> NewJob:
        """A job on its way. A drawn id is the number of the add to its queue, as Node's counter has it."""
        self._added[queue] += 1
        number = str(self._added[queue])
        chosen = options.get("job_id")
        return NewJob(
            queue=queue,
            name=name,
            id=number if chosen is None else chosen,
            data=data,
            options=resolve(options, self.now_ms()),
            created_at_ms=self.now_ms(),
            nonce=None if chosen is None else f"nonce-{number}",
        )

    async def add(self, *jobs: NewJob) -> list[bool]:
        """Add one unit; say of each job whether its id was there already."""
        [receipt] = await self.store.add([Unit(jobs)])
        assert receipt.refusal is None
        return [added.duplicate for added in receipt.added]

    async def add_each(self, *jobs: NewJob) -> None:
        """Add units of one job, one after another."""
        for job in jobs:
            await self.add(job)

    async def claim(
        self, token: str, *, queue: str = "golden", worker: str = "", limiter: RateLimit | None = None
    ) -> Claim | None:
        claimed = await self.store.claim(Wanted(worker, token, LOCK_MS, (Slots(queue, 1, limiter),)))
        return claimed.claims[0] if claimed.claims else None

    async def claim_one(self, token: str, *, queue: str = "golden", limiter: RateLimit | None = None) -> Claim:
        """The next job, which must be there."""
        claim = await self.claim(token, queue=queue, limiter=limiter)
        assert claim is not None
        return claim

    async def settle(self, claim: Claim, outcome: Outcome) -> bool:
        """Record an outcome; False when the claim is lost."""
        settled = await self.store.settle([Settlement(claim, outcome)])
        assert settled.refused == ()
        return settled.lost == ()

    async def recover(self) -> list[str]:
        recovered = await self.store.recover(["golden"], max_stalled=1, interval_ms=30_000)
        return [ref.id for ref in (*recovered.requeued, *recovered.deferred)]

    async def expire(self, key: str) -> None:
        assert await self.redis.delete(f"bull:golden:{key}") == 1

    async def plant(self, *names: str) -> None:
        """Write keys of the queue as the first snapshot has them, as if Node had done so."""
        for key in (f"bull:golden:{name}" for name in names):
            entry = next(entry for text, entry in self._dumps()[0]["keys"].items() if with_moments(text) == key)
            value = json.loads(with_moments(json.dumps(entry["value"])))
            if entry["type"] == "hash":
                await self.redis.hset(key, mapping=value)
            elif entry["type"] == "zset":
                await self.redis.zadd(key, dict(value))
            else:
                await self.redis.set(key, value)
            if "ttl" in entry:
                ttl_ms = int(entry["ttl"].removeprefix("<= "))
                await self.redis.pexpireat(key, FAR_MS + self.now_ms() + ttl_ms)


def ref(job_id: str, queue: str = "golden") -> JobRef:
    return JobRef(queue, job_id)


def _lines(events: list[Dump]) -> list[str]:
    """Events as lines, those whose order says nothing sorted where they follow each other."""
    lines = [
        " ".join([event["stream"], *(f"{name}={text}" for name, text in event["fields"].items())]) for event in events
    ]
    return [
        line
        for unordered, run in itertools.groupby(lines, lambda line: UNORDERED.fullmatch(line) is not None)
        for line in (sorted(run) if unordered else run)
    ]


@asynccontextmanager
async def replaying(number: str, redis_url: str) -> AsyncGenerator[Replay]:
    """A replay of a recording, on an empty database; once it is over, nothing of the recording may be left out."""
    url = redis_url.rpartition("/")[0] + "/15"
    clock = TurnedClock(T0)
    redis: Any = cast("Any", Redis).from_url(url, decode_responses=True)
    await redis.flushdb()
    prefix = next(iter(dump_of(number)["keys"])).partition(":")[0]
    store = RedisStore(url, prefix=prefix, clock=clock)
    try:
        replay = Replay(number, store, clock, redis)
        yield replay
        replay.finish()
    finally:
        await store.close()
        await redis.aclose()
