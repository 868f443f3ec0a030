"""The store goes away for a while: nothing is lost, nothing is run twice, and it is said once."""

from __future__ import annotations

import pytest

from conformance.given import soon
from toril import Context, Queue
from toril.errors import StoreUnavailable
from toril.states import State
from toril.store import Store
from worker.stage import Gate, WatchedStore, at_work, clock_of, count, quiet, turn

AWAY = "the store cannot be reached, trying again until it can: the line is cut"


def said(caplog: pytest.LogCaptureFixture, sentence: str) -> int:
    return sum(message.startswith(sentence) for message in caplog.messages)


async def test_an_outcome_that_cannot_be_recorded_is_kept_until_it_can(
    queue: Queue, store: Store, watched: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    runs: list[int] = []

    async def work(ctx: Context) -> str:
        runs.append(ctx.attempt)
        await gate.passed()
        return "done"

    async with at_work(watched.as_store, work):
        job = await queue.add("work", attempts=3)
        await gate.arrivals()
        watched.fail("settle", "claim")
        gate.open()
        await watched.until_refused("settle")
        for times in range(2, 6):
            await turn(store, 1000)
            await watched.until_refused("settle", times)
        assert await job.state() is State.ACTIVE

        watched.mend()
        await turn(store, 1000)

        assert await soon(job.result()) == "done"

    record = await job.record()
    assert (runs, record.attempts_made, record.stalled) == ([1], 1, 0)
    assert said(caplog, AWAY) == 1
    assert said(caplog, "the store is back after ") == 1


async def test_the_lock_of_an_outcome_that_waits_is_renewed(queue: Queue, store: Store, watched: WatchedStore) -> None:
    async def work() -> str:
        return "done"

    async with at_work(watched.as_store, work, lock=30, stalled_interval=30):
        watched.fail("settle")
        job = await queue.add("work")
        await watched.until_refused("settle")
        await turn(store, 120_000)

        watched.mend()
        await turn(store, 1000)

        assert await soon(job.result()) == "done"
    assert (await job.record()).stalled == 0


async def test_a_failure_that_cannot_be_recorded_spends_one_attempt_only(
    queue: Queue, store: Store, watched: WatchedStore
) -> None:
    async def work(ctx: Context) -> int:
        if ctx.attempt == 1:
            raise ValueError("no")
        return ctx.attempt

    async with at_work(watched.as_store, work):
        watched.fail("settle")
        job = await queue.add("work", attempts=3, backoff=0)
        await watched.until_refused("settle")
        await turn(store, 3000)
        watched.mend()
        await turn(store, 1000)

        assert await soon(job.result()) == 2


@pytest.mark.parametrize("verb", ["claim", "settle", "report", "recover", "announce", "wait"])
async def test_a_worker_outlives_an_outage_of_every_verb(
    queue: Queue, store: Store, watched: WatchedStore, verb: str
) -> None:
    async def work(ctx: Context) -> str:
        ctx.log("a line")
        return "done"

    watched.fail(verb)
    async with at_work(watched.as_store, work, stalled_interval=1):
        jobs = [await queue.add("work") for _ in range(3)]
        await watched.until_refused(verb)
        await turn(store, 5_000)
        watched.mend()
        await turn(store, 5_000)

        for job in jobs:
            assert await soon(job.result()) == "done"
        assert [(await job.record()).attempts_started for job in jobs] == [1, 1, 1]


async def test_an_outage_of_everything_is_told_once_and_its_end_once(
    queue: Queue, store: Store, watched: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()

    async def work(ctx: Context) -> str:
        await gate.passed()
        ctx.progress(50)
        return "done"

    async with at_work(watched.as_store, work, concurrency=2, stalled_interval=5):
        jobs = [await queue.add("work") for _ in range(4)]
        await gate.arrivals(2)
        for _ in range(2):
            watched.fail("claim", "settle", "report", "recover", "announce", "wait")
            gate.open()
            await turn(store, 12_000)
            watched.mend()
            await turn(store, 2_000)
        for job in jobs:
            assert await soon(job.result()) == "done"

    assert said(caplog, AWAY) == 2
    assert said(caplog, "the store is back after ") == 2


async def test_a_worker_may_start_before_its_store(queue: Queue, store: Store, watched: WatchedStore) -> None:
    async def work() -> str:
        return "done"

    watched.fail("claim", "recover", "announce", "wait")
    async with at_work(watched.as_store, work):
        await turn(store, 3_000)
        job = await queue.add("work")
        watched.mend()
        await turn(store, 2_000)

        assert await soon(job.result()) == "done"


async def test_tries_come_at_least_each_second_and_not_at_once(store: Store, watched: WatchedStore) -> None:
    async def work() -> None: ...

    watched.fail("claim")
    async with at_work(watched.as_store, work):
        await watched.until_refused("claim")
        await turn(store, 60_000)

    assert 60 <= len(watched.calls("claim")) <= 150


async def test_jobs_that_ended_during_an_outage_are_all_recorded_after_it(
    queue: Queue, store: Store, watched: WatchedStore
) -> None:
    gate = Gate()

    async def work(n: int) -> int:
        await gate.passed()
        return n

    async with at_work(watched.as_store, work, concurrency=20):
        jobs = await queue.add_many([("work", {"n": n}) for n in range(20)])
        await gate.arrivals(20)
        watched.fail("settle")
        gate.open()
        await watched.until_refused("settle")
        await turn(store, 2_000)
        watched.mend()
        await turn(store, 2_000)

        assert [await soon(job.result()) for job in jobs] == list(range(20))


async def test_an_answer_that_was_lost_on_its_way_runs_no_job_twice(
    queue: Queue, store: Store, watched: WatchedStore
) -> None:
    runs: list[int] = []

    async def work(n: int) -> int:
        runs.append(n)
        return n

    async with at_work(watched.as_store, work, concurrency=1):
        held = watched.hold("settle")
        job = await queue.add("work", {"n": 1})
        await watched.until(lambda: len(watched.calls("settle")) == 1)
        await quiet(store)  # the store has recorded it; the answer is not here yet
        watched.fail("settle")
        held.set()
        await watched.until_refused("settle")
        watched.mend()
        await turn(store, 2_000)

        assert await soon(job.result()) == 1
        assert await soon((await queue.add("work", {"n": 2})).result()) == 2

    assert runs == [1, 2]
    assert (await job.record()).attempts_made == 1


async def test_claims_whose_answer_was_lost_run_when_their_lock_has_lapsed(
    queue: Queue, store: Store, watched: WatchedStore
) -> None:
    """The wish is repeated under the same token or the jobs are recovered; either way they run, and once."""
    runs: list[int] = []

    async def work(n: int) -> int:
        runs.append(n)
        return n

    held = watched.hold("claim")
    jobs = await queue.add_many([("work", {"n": n}) for n in range(3)])
    async with at_work(watched.as_store, work, lock=30, stalled_interval=30, max_stalled=1):
        await watched.until(lambda: len(watched.calls("claim")) == 1)
        await quiet(store)
        assert await count(store, State.ACTIVE) == 3
        watched.fail("claim")
        held.set()
        await watched.until_refused("claim")
        watched.mend()
        await turn(store, 120_000)

        assert [await soon(job.result()) for job in jobs] == [0, 1, 2]

    assert sorted(runs) == [0, 1, 2]


async def test_the_outage_lasts_as_long_as_the_log_says(
    queue: Queue, store: Store, watched: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None: ...

    watched.fail("claim", error=StoreUnavailable("the line is cut"))
    began_ms = clock_of(store).now_ms()
    async with at_work(watched.as_store, work):
        await watched.until_refused("claim")
        await turn(store, 10_000)
        watched.mend()
        answered = len(watched.calls("claim", watched.answered))
        while len(watched.calls("claim", watched.answered)) == answered:
            await turn(store, 100)
        lasted_s = (clock_of(store).now_ms() - began_ms) / 1000

    [message] = [message for message in caplog.messages if message.startswith("the store is back")]
    assert abs(float(message.split()[-2]) - lasted_s) <= 0.2
