"""Added jobs stand in Redis as Node's do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from interop.golden.keyspace import T0
from interop.golden.replay import STEP_MS, Replay, recording
from toril.errors import ConfigError, InvalidJob
from toril.options import Backoff, Keep, resolve
from toril.queue import Queue


@recording("01")
async def test_plain_jobs(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("paint", '{"color":"red"}')))
    await replay.step(replay.add(replay.job("paint", '{"color":"é"}')))


@recording("02")
async def test_every_ordinary_option(replay: Replay) -> None:
    job = replay.job(
        "opts",
        '{"a":1}',
        attempts=3,
        backoff=Backoff.exponential(1, jitter=0.5),
        keep_completed=Keep(count=100, age_ms=3_600_000),
        keep_failed=50,
        keep_logs=10,
        size_limit=1_000,
    )
    await replay.step(replay.add(replace(job, options=replace(job.options, trace='{"traceparent":"00-x"}'))))
    # Of a policy that has no parent to hold for, nothing is kept.
    await replay.step(replay.add(replay.job("opts", attempts=2, backoff=0.5)))
    await replay.step(replay.add(replace(replay.job("opts"), created_at_ms=T0 - 5_000)))
    await replay.step(replay.add(replay.job("opts", "null")))
    await replay.step(replay.add(replay.job("opts", '{"list":[],"x":1.5}')))


@recording("03")
async def test_chosen_ids(replay: Replay) -> None:
    queue = Queue("golden", replay.store)

    async def refuses(job_id: str) -> None:
        with pytest.raises(InvalidJob, match=f"'{job_id}'"):
            await queue.add("n", job_id=job_id)

    assert await replay.step(replay.add(replay.job("n", '{"v":1}', job_id="a-1"))) == [False]
    assert await replay.step(replay.add(replay.job("n", '{"v":2}', job_id="a-1"))) == [True]
    await replay.step(replay.add(replay.job("n", '{"v":3}')))
    await replay.step(refuses("12"))
    await replay.step(refuses("a:b"))
    # Our queues refuse this one too, since a flow cannot hold it; the store takes whatever a peer may have chosen.
    await refuses("a:b:c")
    await replay.step(replay.add(replay.job("n", job_id="a:b:c")))
    await replay.step(refuses("0"))
    await replay.step(refuses("0:1"))


@recording("04")
async def test_delayed_jobs(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("d", delay=5)))
    replay.pass_ms(-STEP_MS)
    await replay.step(replay.add(replay.job("d", delay=5)))
    replay.pass_ms(-STEP_MS)
    await replay.step(replay.add(replay.job("d", delay=1)))
    await replay.step(replay.add(replay.job("d", delay=2, priority=3)))


@recording("05")
async def test_prioritized_jobs(replay: Replay) -> None:
    for priority in (5, 1, 5, 2_097_151):
        await replay.step(replay.add(replay.job("p", priority=priority)))
    with pytest.raises(ConfigError, match="2,097,151"):
        resolve({"priority": 2_097_152}, T0)
    await replay.end_step()
    await replay.step(replay.add(replay.job("p", priority=0)))


@recording("06")
async def test_lifo_jobs_and_several_at_once(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("n", '{"k":"first"}')))
    await replay.step(replay.add(replay.job("n", '{"k":"lifo"}', lifo=True)))
    await replay.step(
        replay.add(
            replay.job("b", '{"i":0}'), replay.job("b", '{"i":1}', delay=1), replay.job("b", '{"i":2}', priority=2)
        )
    )
