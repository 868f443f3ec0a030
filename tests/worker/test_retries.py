"""Trying again: when, how often, and when no more."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from conformance.given import soon
from toril import Backoff, Context, Queue
from toril.model import JobRecord
from toril.options import JobOptions
from toril.states import State
from toril.store import Store
from worker.stage import at_work, clock_of, finished, handlers, known, quiet, told


async def fail(ctx: Context) -> None:
    raise ValueError(f"attempt {ctx.attempt}")


async def waits_of(queue: Queue, store: Store, options: JobOptions, work: Any = fail, **worker: Any) -> list[int]:
    """The waits between the attempts of a job that fails each time, turning the clock by just as much."""
    waits: list[int] = []
    async with at_work(store, work, **worker):
        job = await queue.add("fail", **options)
        for times in range(1, options.get("attempts", 1)):
            await told(store, "delayed", job_id=job.id, times=times)
            await quiet(store)  # the worker sleeps until then
            due_at_ms = (await known(store, job.ref)).due_at_ms
            assert due_at_ms is not None
            waits.append(due_at_ms - clock_of(store).now_ms())
            clock_of(store).advance(waits[-1])
        record = await finished(store, job.ref)
    assert record.state is State.FAILED
    assert [attempt.outcome for attempt in record.history] == ["retried"] * len(waits) + ["failed"]
    return waits


async def test_exponential_backoff_doubles_each_wait(queue: Queue, store: Store) -> None:
    assert await waits_of(queue, store, {"attempts": 5, "backoff": Backoff.exponential(1)}) == [1000, 2000, 4000, 8000]


async def test_fixed_backoff_waits_alike(queue: Queue, store: Store) -> None:
    assert await waits_of(queue, store, {"attempts": 3, "backoff": Backoff.fixed(5)}) == [5000, 5000]


async def test_a_cap_bounds_each_wait(queue: Queue, store: Store) -> None:
    backoff = Backoff.exponential(1, max_delay=3)

    assert await waits_of(queue, store, {"attempts": 5, "backoff": backoff}) == [1000, 2000, 3000, 3000]


async def test_jitter_is_drawn_from_the_workers_random_source(queue: Queue, store: Store) -> None:
    backoff = Backoff.exponential(10, jitter=0.5)
    source = random.Random(7)

    waits = await waits_of(queue, store, {"attempts": 3, "backoff": backoff}, rng=random.Random(7))

    assert waits == [backoff.draw_ms(1, source), backoff.draw_ms(2, source)]


async def test_the_default_backoff_waits_between_half_a_second_and_a_second(queue: Queue, store: Store) -> None:
    [wait] = await waits_of(queue, store, {"attempts": 2})

    assert 500 <= wait <= 1000


async def test_a_job_that_waits_for_nothing_runs_again_at_once(queue: Queue, store: Store) -> None:
    async with at_work(store, fail):
        record = await finished(store, (await queue.add("fail", attempts=3, backoff=0)).ref)

    assert record.attempts_made == 3
    assert [attempt.reason for attempt in record.history] == ["attempt 1", "attempt 2", "attempt 3"]


async def test_a_job_that_succeeds_at_last_completes(queue: Queue, store: Store) -> None:
    async def welcome(ctx: Context) -> int:
        if ctx.attempt < 3:
            raise ValueError("not yet")
        return ctx.attempt

    async with at_work(store, handlers(welcome)):
        job = await queue.add("welcome", attempts=5, backoff=0)
        assert await soon(job.result()) == 3

    assert (await job.record()).attempts_made == 3


# ------------------------------------------------------------------ strategies


class Crash(BaseException):
    """Stands for KeyboardInterrupt and SystemExit, which would end the test run too if they got out."""


async def ended(store: Store, queue: Queue, strategy: Any, *, attempts: int = 3) -> JobRecord:
    """How a job ends that fails each time under a strategy."""
    async with at_work(store, handlers(fail, strategies={"mine": strategy})):
        return await finished(store, (await queue.add("fail", attempts=attempts, backoff=Backoff.custom("mine"))).ref)


async def test_a_strategy_is_asked_with_the_attempt_and_the_error(queue: Queue, store: Store) -> None:
    asked: list[tuple[int, str]] = []

    def mine(attempt: int, error: BaseException) -> float:
        asked.append((attempt, str(error)))
        return 0

    record = await ended(store, queue, mine)

    assert record.state is State.FAILED
    assert asked == [(1, "attempt 1"), (2, "attempt 2")]


async def test_a_strategy_may_be_async(queue: Queue, store: Store) -> None:
    async def mine(attempt: int, error: BaseException) -> float:
        await asyncio.sleep(0)
        return 3.5 * attempt

    waits = await waits_of(
        queue,
        store,
        {"attempts": 3, "backoff": Backoff.custom("mine")},
        handlers(fail, strategies={"mine": mine}),
    )

    assert waits == [3500, 7000]


@pytest.mark.parametrize("answer", [None, -1, -0.5])
async def test_a_strategy_may_give_up(queue: Queue, store: Store, answer: float | None) -> None:
    def gives(attempt: int, error: BaseException) -> float | None:
        return answer

    record = await ended(store, queue, gives, attempts=10)

    assert (record.state, record.reason, record.attempts_made) == (State.FAILED, "attempt 1", 1)


@pytest.mark.parametrize("answer", ["soon", float("nan"), float("inf"), object(), True])
async def test_a_strategy_whose_answer_is_no_duration_is_replaced_by_the_default(
    queue: Queue, store: Store, answer: Any
) -> None:
    def mine(attempt: int, error: BaseException) -> Any:
        return answer

    options: JobOptions = {"attempts": 2, "backoff": Backoff.custom("mine")}

    [wait] = await waits_of(queue, store, options, handlers(fail, strategies={"mine": mine}))

    assert 500 <= wait <= 1000


async def test_a_strategy_that_raises_is_replaced_by_the_default_and_told_in_the_stack(
    queue: Queue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def mine(attempt: int, error: BaseException) -> float:
        raise ZeroDivisionError("my strategy")

    async with at_work(store, handlers(fail, strategies={"mine": mine})):
        job = await queue.add("fail", attempts=2, backoff=Backoff.custom("mine"))
        await told(store, "delayed", job_id=job.id)

    [attempt] = (await job.record()).history
    assert attempt.reason == "attempt 1"
    assert "its backoff failed too: ZeroDivisionError('my strategy')" in attempt.stack
    assert f"the backoff of {job.ref} failed: the default one is taken" in [r.getMessage() for r in caplog.records]


async def test_a_strategy_that_nobody_registered_is_replaced_by_the_default_and_named(
    queue: Queue, store: Store
) -> None:
    async with at_work(store, handlers(fail)):
        job = await queue.add("fail", attempts=2, backoff=Backoff.custom("nobodys"))
        await told(store, "delayed", job_id=job.id)

    [attempt] = (await job.record()).history
    assert "no backoff strategy is called 'nobodys': register it with queue.backoff('nobodys')" in attempt.stack


@pytest.mark.parametrize("error", [asyncio.CancelledError, Crash])
async def test_nothing_that_a_strategy_raises_ends_the_worker(
    queue: Queue, store: Store, error: type[BaseException]
) -> None:
    async def welcome() -> str:
        return "alive"

    def mine(attempt: int, raised: BaseException) -> float:
        raise error

    async with at_work(store, handlers(fail, welcome, strategies={"mine": mine}), concurrency=1):
        job = await queue.add("fail", attempts=2, backoff=Backoff.custom("mine"))
        await told(store, "delayed", job_id=job.id)

        assert await soon((await queue.add("welcome")).result()) == "alive"


# ------------------------------------------------------------------ which errors


class Temporary(Exception):
    pass


class Permanent(Temporary):
    pass


@pytest.mark.parametrize(
    ("error", "runs"),
    [(Temporary, 3), (Permanent, 1), (ValueError, 1), (SystemExit, 3)],
)
async def test_a_handler_says_which_errors_are_worth_another_try(
    queue: Queue, store: Store, error: type[BaseException], runs: int
) -> None:
    async def raises() -> None:
        raise error("no")

    async with at_work(store, handlers(raises, retry_on=[Temporary], give_up_on=[Permanent])):
        record = await finished(store, (await queue.add("raises", attempts=3, backoff=0)).ref)

    assert record.state is State.FAILED
    assert record.attempts_made == runs


async def test_every_exception_is_worth_another_try_unless_the_handler_says_otherwise(
    queue: Queue, store: Store
) -> None:
    async def raises() -> None:
        raise ValueError("no")

    async with at_work(store, handlers(raises, give_up_on=[KeyError])):
        record = await finished(store, (await queue.add("raises", attempts=3, backoff=0)).ref)

    assert record.attempts_made == 3


async def test_an_unknown_job_is_tried_again_for_a_worker_that_knows_it(queue: Queue, store: Store) -> None:
    async def welcome() -> str:
        return "known"

    async with at_work(store, handlers(fail)):
        job = await queue.add("welcome", attempts=2, backoff=5)
        await told(store, "delayed", job_id=job.id)
    clock_of(store).advance(5000)
    async with at_work(store, handlers(welcome)):
        assert await soon(job.result()) == "known"
