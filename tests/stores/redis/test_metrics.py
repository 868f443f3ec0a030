"""Finished jobs by the minute, in BullMQ's own keys: what its workers would leave is what we leave, and what we read."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from toril.clock import TurnedClock
from toril.model import QueueSettings, Series
from toril.states import State
from toril.stores.redis.store import RedisStore

T0 = 1_700_000_000_000  # 20 seconds of its minute have passed
MINUTE_MS = 60_000
QUEUE = "email"

LIBRARIES = resources.files("toril.stores.redis") / "lua" / "lib"
COUNT = "\n".join(
    [
        "local K = { queues = KEYS }",
        *((LIBRARIES / f"{name}.lua").read_text(encoding="utf-8") for name in ("queue", "metrics")),
        "local Q = queue_at(1)",
        "settings(Q).metrics = tonumber(ARGV[1])",
        "count_finished(Q, ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]))",
    ]
)
"""Count ARGV[3] jobs that ended in the state ARGV[2] at ARGV[4], where ARGV[1] minutes are kept."""


@dataclass
class Counts:
    """The keys of one state of a queue, as they are in Redis."""

    hash: dict[str, str] = field(default_factory=dict[str, str])
    list: list[str] = field(default_factory=list[str])


@dataclass
class Place:
    """A queue of this test, and the store and the client that look at it."""

    store: RedisStore
    redis: Any
    base: str
    clock: TurnedClock

    async def count(self, jobs: int, now_ms: int, *, state: str = "completed", kept: int = 1440) -> None:
        await self.redis.eval(COUNT, 1, self.base, kept, state, jobs, now_ms)

    async def counts(self, state: str = "completed") -> Counts:
        key = f"{self.base}metrics:{state}"
        return Counts(await self.redis.hgetall(key), await self.redis.lrange(f"{key}:data", 0, -1))

    async def given(self, *earlier: int, count: int, begun_ms: int, before: int) -> None:
        """What Node has counted."""
        key = f"{self.base}metrics:completed"
        await self.redis.hset(key, mapping={"count": count, "prevTS": begun_ms, "prevCount": before})
        if earlier:
            await self.redis.rpush(f"{key}:data", *earlier)

    async def series(self, minutes: int = 6) -> Series:
        return await self.store.series(QUEUE, State.COMPLETED, limit=minutes)


@pytest.fixture
async def place(redis_url: str, clock: TurnedClock) -> AsyncIterator[Place]:
    prefix = f"test-{uuid.uuid4().hex}"
    store = RedisStore(redis_url, prefix=prefix, clock=clock)
    redis = cast("Any", Redis).from_url(redis_url, decode_responses=True)
    yield Place(store, redis, f"{prefix}:{QUEUE}:", clock)
    await redis.aclose()
    await store.close()


# ------------------------------------------------------------------ counting


async def test_the_keys_are_those_of_bullmqs_own_recording(place: Place) -> None:
    for after_ms in (0, 10):
        await place.count(1, T0 + after_ms, kept=5)
    assert await place.counts() == Counts({"count": "2", "prevTS": str(T0), "prevCount": "0"})

    await place.count(1, T0 + 60_020, kept=5)
    assert await place.counts() == Counts({"count": "3", "prevTS": str(T0 + 60_020), "prevCount": "2"}, ["2"])

    await place.count(1, T0 + 240_030, kept=5)
    assert await place.counts() == Counts(
        {"count": "4", "prevTS": str(T0 + 240_030), "prevCount": "3"}, ["0", "0", "1", "2"]
    )


class Counted:
    """The rule by which BullMQ counts one job after the other."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._count = 0
        self._begun_ms: int | None = None
        self._before = 0
        self._earlier: list[int] = []

    def one(self, now_ms: int) -> None:
        already, self._count = self._count, self._count + 1
        if self._begun_ms is None:
            self._begun_ms = now_ms
            return
        passed = min(now_ms // MINUTE_MS - self._begun_ms // MINUTE_MS, self._kept)
        if passed <= 0:
            return
        self._earlier = [*[0] * (passed - 1), already - self._before, *self._earlier][: self._kept]
        self._begun_ms, self._before = now_ms, already

    def as_kept(self) -> Counts:
        return Counts(
            {"count": str(self._count), "prevTS": str(self._begun_ms), "prevCount": str(self._before)},
            [str(count) for count in self._earlier],
        )


@pytest.mark.parametrize("kept", [1, 2, 5, 1440])
async def test_a_batch_leaves_what_its_jobs_would_one_by_one(place: Place, kept: int) -> None:
    chance, now_ms, expected = random.Random(kept), T0, Counted(kept)
    for _ in range(60):
        jobs = chance.choice([1, 1, 2, 7])
        now_ms += chance.choice([-2_000, 0, 10, 20_000, 60_000, 150_000, 400_000, kept * MINUTE_MS])

        await place.count(jobs, now_ms, kept=kept)

        for _ in range(jobs):
            expected.one(now_ms)
        assert await place.counts() == expected.as_kept()


async def test_a_queue_that_rested_for_weeks_begins_anew_with_zeros(place: Place) -> None:
    await place.count(3, T0, kept=44_640)

    await place.count(1, T0 + 50_000 * MINUTE_MS, kept=44_640)

    assert (await place.counts()).list == ["0"] * 44_639 + ["3"]


async def test_each_state_has_keys_of_its_own(place: Place) -> None:
    await place.count(1, T0, state="completed")
    await place.count(2, T0, state="failed")

    assert [(await place.counts(state)).hash["count"] for state in ("completed", "failed")] == ["1", "2"]


@pytest.mark.parametrize(("kept", "jobs"), [(0, 1), (1440, 0)])
async def test_where_nothing_is_to_be_counted_nothing_is_written(place: Place, kept: int, jobs: int) -> None:
    await place.count(jobs, T0, kept=kept)

    assert await place.redis.keys(f"{place.base}*") == []


async def test_a_batch_costs_two_commands_and_two_more_for_the_first_of_a_minute(place: Place) -> None:
    await place.count(5, T0)

    assert await commands_of(place, 5, T0 + 10) == {"hmget": 1, "hincrby": 1}
    assert await commands_of(place, 5, T0 + 60_010) == {"hmget": 1, "hset": 1, "lpush": 1, "ltrim": 1}


async def commands_of(place: Place, jobs: int, now_ms: int) -> dict[str, int]:
    """How often counting calls each command, besides the look at the queue's settings."""
    looking = await calls_of(place, jobs, now_ms, kept=0)
    return await calls_of(place, jobs, now_ms, kept=1440) - looking


async def calls_of(place: Place, jobs: int, now_ms: int, *, kept: int) -> Counter[str]:
    await place.redis.config_resetstat()
    await place.count(jobs, now_ms, kept=kept)
    stats: dict[str, dict[str, int]] = await place.redis.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()})


# ------------------------------------------------------------------ reading


async def test_what_node_has_counted_is_told(place: Place) -> None:
    await place.given(0, 0, 1, 2, count=4, begun_ms=T0 + 240_030, before=3)
    place.clock.advance(240_040)

    assert await place.series() == Series(4, (0, 2, 1, 0, 0, 1), T0 + 280_000)


async def test_minutes_that_have_passed_since_the_last_job_are_zero(place: Place) -> None:
    await place.given(5, 4, count=12, begun_ms=T0, before=9)
    place.clock.advance(2 * MINUTE_MS)

    assert (await place.series()).counts == (0, 4, 5, 3, 0, 0)
    assert (await place.series(2)).counts == (0, 0)


async def test_a_queue_that_rests_has_only_zeros_after_a_while(place: Place) -> None:
    await place.given(5, count=8, begun_ms=T0, before=5)
    place.clock.advance(10 * MINUTE_MS)

    assert (await place.series()).counts == (0, 0, 0, 0, 0, 0)
    assert (await place.series()).total == 8


async def test_the_minute_of_a_worker_whose_clock_is_ahead_is_told(place: Place) -> None:
    await place.given(5, count=8, begun_ms=T0 + MINUTE_MS, before=5)

    series = await place.series(3)

    assert series.counts == (0, 5, 3)
    assert T0 + MINUTE_MS < series.until_ms <= T0 + 2 * MINUTE_MS


@pytest.mark.parametrize("minutes", [1, 2])
async def test_only_the_newest_of_many_minutes_are_told(place: Place, minutes: int) -> None:
    await place.given(*range(1, 1000), count=8, begun_ms=T0, before=5)

    assert (await place.series(minutes)).counts == (1, 3)[-minutes:]


# ------------------------------------------------------------------ the setting


async def test_the_setting_is_written_only_where_it_is_not_the_default(place: Place) -> None:
    written: list[str | None] = []
    for minutes in (1440, 60, 0, 1440):
        await place.store.configure(QUEUE, QueueSettings(metrics_minutes=minutes))
        written.append(await place.redis.hget(f"{place.base}meta", "py:metrics"))

    assert written == [None, "60", "0", None]


@pytest.mark.parametrize(("text", "minutes"), [("-5", 0), ("999999999", 44_640), ("12", 12)])
async def test_a_setting_that_others_have_written_can_be_read(place: Place, text: str, minutes: int) -> None:
    await place.redis.hset(f"{place.base}meta", "py:metrics", text)

    assert (await place.store.settings(QUEUE)).metrics_minutes == minutes
