"""Deduplicated adds leave what Node's leave."""

from __future__ import annotations

from typing import Unpack

from interop.golden.replay import Replay, recording
from toril.model import Added, Completed, JobRef, Unit
from toril.options import Deduplication, JobOptions, Rule


async def add(replay: Replay, version: int, **options: Unpack[JobOptions]) -> Added:
    """Add a job with this data under a deduplication; what was answered."""
    job = replay.job("n", f'{{"v":{version}}}', **options)
    [receipt] = await replay.store.add([Unit((job,))])
    assert receipt.refusal is None
    return receipt.added[0]


def stored(job_id: str, rule: Rule | None = None) -> Added:
    return Added(JobRef("golden", job_id), False, rule)


def met(job_id: str, rule: Rule) -> Added:
    return Added(JobRef("golden", job_id), True, rule)


@recording("31")
async def test_until_the_owner_has_ended_or_for_a_time(replay: Replay) -> None:
    simple, throttle = Deduplication.simple("d"), Deduplication.throttle("t", 60)
    assert await replay.step(add(replay, 1, deduplication=simple)) == stored("1")
    assert await replay.step(add(replay, 2, deduplication=simple)) == met("1", "simple")
    assert await replay.step(add(replay, 3, deduplication=throttle)) == stored("3")
    assert await replay.step(add(replay, 4, deduplication=throttle)) == met("3", "throttle")
    first = await replay.step(replay.claim_one("t1"))
    await replay.step(replay.settle(first, Completed("1")))
    second = await replay.step(replay.claim_one("t2"))
    await replay.step(replay.settle(second, Completed("1")))


@recording("32")
async def test_the_last_add_wins_and_the_time_begins_anew(replay: Replay) -> None:
    debounce, sliding = Deduplication.debounce("d", 60), Deduplication.throttle("e", 60, extend=True)
    assert await replay.step(add(replay, 1, deduplication=debounce, delay=60)) == stored("1")
    assert await replay.step(add(replay, 2, deduplication=debounce, delay=60)) == stored("2", "debounce")
    assert await replay.step(add(replay, 3, deduplication=sliding)) == stored("3")
    assert await replay.step(add(replay, 4, deduplication=sliding)) == met("3", "throttle")
    assert await replay.step(replay.store.forget("golden", "e"))


@recording("33")
async def test_the_last_add_while_the_owner_runs(replay: Replay) -> None:
    keep_last = Deduplication.keep_last("d")

    async def add_late() -> None:
        late = replay.job("late", '{"v":4}', deduplication=keep_last, priority=2)
        [receipt] = await replay.store.add([Unit((late,))])
        assert receipt.added == (met("1", "keep-last"),)

    assert await replay.step(add(replay, 1, deduplication=keep_last)) == stored("1")
    assert await replay.step(add(replay, 2, deduplication=keep_last)) == met("1", "keep-last")
    claim = await replay.step(replay.claim_one("t1"))
    assert await replay.step(add(replay, 3, deduplication=keep_last)) == met("1", "keep-last")
    await replay.step(add_late())
    await replay.step(replay.settle(claim, Completed("1")))


@recording("34")
async def test_a_delayed_owner_gets_a_new_time(replay: Replay) -> None:
    reschedule = Deduplication("d", reschedule=True)
    assert await replay.step(add(replay, 1, deduplication=reschedule, delay=5)) == stored("1")
    assert await replay.step(add(replay, 2, deduplication=reschedule, delay=9)) == met("1", "simple")
