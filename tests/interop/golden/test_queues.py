"""Queues are paused, limited and emptied as Node's are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from interop.golden.keyspace import T0
from interop.golden.replay import Replay, recording, ref
from toril.errors import QueueBusy
from toril.model import Answer, Completed, Outcome, QueueSettings, Released, Throttled, Update
from toril.options import Deduplication, RateLimit
from toril.states import State


async def run(replay: Replay, outcome: Outcome) -> None:
    """Add a job and let it run to its end."""
    await replay.add(replay.job("n"))
    await replay.settle(await replay.claim_one(f"token-{replay.now_ms()}"), outcome)


@recording("07")
async def test_a_queue_that_is_paused_and_resumed(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("n")))
    await replay.step(replay.store.pause("golden"))
    await replay.step(replay.add(replay.job("n")))
    await replay.step(replay.add(replay.job("n", priority=1)))
    await replay.step(replay.add(replay.job("n", delay=1)))
    assert await replay.step(replay.claim("t0")) is None
    await replay.step(replay.store.resume("golden"))


@recording("16")
async def test_a_queue_that_is_throttled(replay: Replay) -> None:
    limiter = RateLimit(1, per=0.5)
    await replay.step(replay.add_each(replay.job("n"), replay.job("n")))
    claim = await replay.step(replay.claim_one("t1", limiter=limiter))
    await replay.step(replay.store.throttle("golden", 60_000))
    await replay.step(replay.settle(claim, Released()))
    assert await replay.step(replay.claim("t2", limiter=limiter)) is None


@recording("16")
async def test_a_job_that_throttles_its_queue(replay: Replay) -> None:
    limiter = RateLimit(1, per=0.5)
    await replay.step(replay.add_each(replay.job("n"), replay.job("n")))
    claim = await replay.step(replay.claim_one("t1", limiter=limiter))
    # Node's two calls are one wish of ours, so that no job slips in between.
    await replay.step(replay.settle(claim, Throttled(60_000)))
    await replay.end_step()
    assert await replay.step(replay.claim("t2", limiter=limiter)) is None


@recording("17")
async def test_a_limit_of_workers(replay: Replay) -> None:
    limiter = RateLimit(2, per=60)
    await replay.step(replay.add_each(*(replay.job("n") for _ in range(3))))
    assert await replay.step(replay.claim("t1", limiter=limiter)) is not None
    assert await replay.step(replay.claim("t2", limiter=limiter)) is not None
    assert await replay.step(replay.claim("t3", limiter=limiter)) is None


@recording("18")
async def test_limits_of_a_queue(replay: Replay) -> None:
    async def configure(concurrency: int | None = None, rate_limit: RateLimit | None = None) -> None:
        await replay.store.configure("golden", QueueSettings(concurrency=concurrency, rate_limit=rate_limit))

    await replay.step(configure(1))
    await replay.step(replay.add_each(replay.job("n"), replay.job("n")))
    claim = await replay.step(replay.claim_one("t1"))
    assert await replay.step(replay.claim("t2")) is None
    await replay.step(replay.add(replay.job("n")))
    await replay.step(replay.settle(claim, Completed("1")))
    await replay.step(configure(1, RateLimit(1, per=60)))
    await replay.step(replay.claim_one("t3"))
    await replay.step(configure(None, RateLimit(1, per=60)))
    assert await replay.step(replay.claim("t4")) is None


@recording("38")
async def test_a_queue_that_is_cleaned_and_drained(replay: Replay) -> None:
    for n in (0, 1):
        await replay.step(run(replay, Completed(str(n))))
    await replay.step(replay.add_each(replay.job("n"), replay.job("n", priority=1), replay.job("n", delay=5)))
    replay.pass_ms(1_000)
    assert await replay.step(replay.store.clean("golden", State.COMPLETED, grace_ms=0, limit=1)) == ["1"]
    assert await replay.step(replay.store.clean("golden", State.WAITING, grace_ms=0, limit=1_000)) == ["3"]
    await replay.step(replay.add(replay.job("n")))
    assert await replay.step(replay.store.drain("golden")) == 2
    assert await replay.step(replay.store.drain("golden", delayed=True)) == 1


@recording("39")
async def test_a_queue_that_is_obliterated(replay: Replay) -> None:
    async def add() -> None:
        job = replay.job("n")
        once = Deduplication("x", ttl_ms=60_000)
        await replay.add(replace(job, options=replace(job.options, deduplication=once)))
        await replay.add(replay.job("n", delay=1))
        assert await replay.store.update([Update(ref("2"), logs=("hello",))]) == [Answer.DONE]
        await replay.add(replay.job("n", priority=1))
        # Deduplication and schedules are not ours yet: what Node keeps of them is put beside the rest.
        await replay.redis.hset("bull:golden:1", "deid", "x")
        await replay.plant("de:x", "repeat", "repeat:s", f"repeat:s:{T0}", "id")
        await replay.redis.lpush("bull:golden:wait", f"repeat:s:{T0}")
        await replay.store.publish("golden", "added", {"jobId": f"repeat:s:{T0}", "name": "s"})
        await replay.store.publish("golden", "waiting", {"jobId": f"repeat:s:{T0}"})

    async def obliterate_too_early() -> None:
        await replay.store.pause("golden")  # which is a call of its own here, and part of Node's
        with pytest.raises(QueueBusy):
            await replay.store.obliterate("golden")

    await replay.store.configure("golden", QueueSettings(metrics_minutes=10))
    await replay.step(add())
    claim = await replay.step(replay.claim_one("t", limiter=RateLimit(100, per=60)))
    await replay.step(obliterate_too_early())
    await replay.step(replay.settle(claim, Completed("1")))
    assert await replay.step(replay.store.obliterate("golden")) == 4


@recording("41")
async def test_a_queue_that_counts_what_it_finishes(replay: Replay) -> None:
    await replay.store.configure("golden", QueueSettings(metrics_minutes=5))
    await replay.step(run(replay, Completed("1")))
    await replay.step(run(replay, Completed("1")))
    replay.pass_ms(60_000)
    await replay.step(run(replay, Completed("1")))
    replay.pass_ms(180_000)
    await replay.step(run(replay, Completed("1")))
    await replay.end_step()


@recording("42")
async def test_an_event_of_the_callers_own(replay: Replay) -> None:
    # Node's queue writes its limit of events when it is constructed.
    await replay.store.configure("golden", QueueSettings(max_events=500))
    await replay.step(replay.add(replay.job("n")))
    await replay.step(replay.store.publish("golden", "mine", {"x": "1", "jobId": "j"}))
