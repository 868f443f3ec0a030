"""Jobs that people change by hand stand as Node leaves them."""

from __future__ import annotations

import itertools

from interop.golden.replay import Replay, recording, ref
from toril.model import Answer, Completed, Failed, Outcome, Update
from toril.options import JobOptions


async def change(replay: Replay, update: Update) -> None:
    assert await replay.store.update([update]) == [Answer.DONE]


@recording("19")
async def test_jobs_that_are_promoted_and_moved(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("d", delay=5)))
    await replay.step(replay.add(replay.job("d", delay=6)))
    await replay.step(replay.add(replay.job("d", delay=7, priority=4)))
    await replay.step(replay.add(replay.job("n")))
    assert await replay.step(replay.store.promote([ref("1")])) == [Answer.DONE]
    await replay.step(change(replay, Update(ref("2"), delay_ms=9_000)))
    await replay.step(change(replay, Update(ref("4"), priority=7)))
    await replay.step(change(replay, Update(ref("1"), priority=7, lifo=True)))
    await replay.step(change(replay, Update(ref("4"), priority=0, lifo=True)))
    assert await replay.step(replay.store.promote([ref("3"), ref("2")])) == [Answer.DONE, Answer.DONE]
    assert await replay.step(replay.store.promote([ref("3")])) == [Answer.WRONG_STATE]


@recording("20")
async def test_jobs_whose_data_progress_and_logs_are_written(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("n", '{"a":1}', keep_logs=2)))
    await replay.step(change(replay, Update(ref("1"), data='{"b":2}')))
    await replay.step(change(replay, Update(ref("1"), progress="42")))
    await replay.step(change(replay, Update(ref("1"), progress='{"step":"x"}')))
    for line in ("one", "two", "three"):
        await replay.step(change(replay, Update(ref("1"), logs=(line,))))
    await replay.step(replay.add(replay.job("n")))
    await replay.step(change(replay, Update(ref("2"), logs=("row",))))


@recording("40")
async def test_finished_jobs_that_run_again(replay: Replay) -> None:
    async def run(outcome: Outcome, priority: int = 0) -> None:
        options: JobOptions = {"priority": priority} if priority else {}
        await replay.add(replay.job("n", **options))
        await replay.settle(await replay.claim_one(f"token-{replay.now_ms()}"), outcome)

    async def fail_all() -> None:
        for n in itertools.count():
            claim = await replay.claim(f"again-{n}")
            if claim is None:
                return
            await replay.settle(claim, Failed("y", "<stack of Error: y>"))

    await replay.step(run(Failed("x", "<stack of Error: x>")))
    await replay.step(run(Completed('"v"'), priority=5))
    assert await replay.step(replay.store.retry([ref("1")])) == [Answer.DONE]
    assert await replay.step(replay.store.retry([ref("2")], reset_attempts=True)) == [Answer.DONE]
    await replay.step(fail_all())
    assert await replay.step(replay.store.retry([ref("1"), ref("2")])) == [Answer.DONE, Answer.DONE]
