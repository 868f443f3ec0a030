"""Jobs whose worker has vanished: they run again, and one that kills every worker is stopped."""

from __future__ import annotations

import asyncio

import pytest

from conformance.given import soon
from toril import Context, Queue
from toril.model import Slots, Wanted
from toril.states import State
from toril.store import Store
from worker.stage import at_work, clock_of, finished, quiet, turn


async def killed(store: Store, n: int) -> None:
    """A worker claims a job and dies with it; the next one that looks for stalled jobs finds it."""
    claimed = await store.claim(Wanted(f"dead {n}", f"dead {n}:1", 30_000, (Slots("email", 1),)))
    assert len(claimed.claims) == 1
    for _ in range(2):
        clock_of(store).advance(31_000)
        await store.recover(["email"], max_stalled=1, interval_ms=30_000)


async def test_a_job_whose_worker_was_killed_runs_again_and_no_attempt_is_spent(queue: Queue, store: Store) -> None:
    async def work(ctx: Context) -> list[int]:
        return [ctx.attempt, ctx.stalled]

    job = await queue.add("work", attempts=1)
    await killed(store, 1)
    async with at_work(store, work):
        assert await soon(job.result()) == [1, 1]


async def test_a_job_that_kills_every_worker_is_failed_and_its_handler_is_not_run(queue: Queue, store: Store) -> None:
    runs: list[str] = []

    async def work(ctx: Context) -> None:
        runs.append(ctx.job_id)

    job = await queue.add("work", attempts=10)
    await killed(store, 1)
    await killed(store, 2)
    async with at_work(store, work):
        record = await finished(store, job.ref)

    assert (record.state, record.reason) == (State.FAILED, "job stalled more than allowable limit")
    assert runs == []
    assert record.stalled == 2


async def test_a_worker_finds_the_jobs_of_another_that_has_vanished(
    queue: Queue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(ctx: Context) -> int:
        return ctx.stalled

    job = await queue.add("work")
    await store.claim(Wanted("dead", "dead:1", 30_000, (Slots("email", 1),)))
    async with at_work(store, work, stalled_interval=30):
        await turn(store, 61_000)
        assert await soon(job.result()) == 1

    assert f"{job.ref} stalled: its worker stopped renewing its lock; it will run again" in caplog.messages


async def test_a_worker_that_finds_a_job_stalled_too_often_says_so_and_fails_it(
    queue: Queue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None: ...

    job = await queue.add("work")
    await store.claim(Wanted("dead", "dead:1", 30_000, (Slots("email", 1),)))
    async with at_work(store, work, stalled_interval=30, max_stalled=0):
        await turn(store, 61_000)
        record = await finished(store, job.ref)

    assert record.reason == "job stalled more than allowable limit"
    assert f"{job.ref} stalled more than 0 times: it will be failed" in caplog.messages


async def test_a_handler_that_runs_long_is_never_taken_for_stalled(queue: Queue, store: Store) -> None:
    release = asyncio.Event()
    runs: list[int] = []

    async def work(ctx: Context) -> None:
        runs.append(ctx.stalled)
        await release.wait()

    async with at_work(store, work, lock=30, stalled_interval=5), at_work(store, work, lock=30, stalled_interval=5):
        job = await queue.add("work")
        await turn(store, 300_000)
        release.set()
        await soon(job.result())

    assert runs == [0]


# ------------------------------------------------------------------ long times


async def test_a_job_of_eight_hours_runs_once(queue: Queue, store: Store) -> None:
    release = asyncio.Event()
    runs: list[int] = []

    async def work(ctx: Context) -> str:
        runs.append(ctx.attempt)
        await release.wait()
        return "done"

    async with at_work(store, work, lock=120, stalled_interval=240), at_work(store, work, lock=120):
        job = await queue.add("work")
        await turn(store, 8 * 3_600_000)
        assert await job.state() is State.ACTIVE
        release.set()
        assert await soon(job.result()) == "done"

    record = await job.record()
    assert (runs, record.stalled, record.attempts_started) == ([1], 0, 1)


async def test_a_job_that_is_delayed_for_thirty_days_runs_once_and_on_time(queue: Queue, store: Store) -> None:
    runs: list[int] = []

    async def work() -> None:
        runs.append(clock_of(store).now_ms())

    month_ms = 30 * 24 * 3_600_000
    due_ms = clock_of(store).now_ms() + month_ms
    async with at_work(store, work):
        job = await queue.add("work", delay=month_ms / 1000)
        await quiet(store)
        clock_of(store).advance(month_ms - 1)
        await quiet(store)
        assert runs == []
        clock_of(store).advance(1)
        await soon(job.result())
        await quiet(store)

    assert runs == [due_ms]
