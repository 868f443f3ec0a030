"""Wishes of a handler, returned or raised: the job runs again, and no attempt is spent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from conformance.given import soon
from toril import AwaitChildren, Context, Delay, Queue, Throttle
from toril.model import JobRef, NewJob, Parent, Unit
from toril.options import DEFAULT_OPTIONS
from toril.states import State
from toril.store import Store
from toril.wishes import Wish
from worker.stage import at_work, clock_of, count, finished, handlers, known, quiet, told


def wishing(wish: Wish, how: str) -> Callable[..., Any]:
    """A handler that wishes the first time and then completes with the number of its attempt."""
    runs: list[int] = []

    def first(ctx: Context) -> Any:
        runs.append(ctx.attempt)
        if len(runs) > 1:
            return ctx.attempt
        if how.startswith("raised"):
            raise wish
        return wish

    async def welcome(ctx: Context) -> Any:
        return first(ctx)

    def welcome_in_thread(ctx: Context) -> Any:
        return first(ctx)

    return welcome_in_thread if how.endswith("in a thread") else welcome


HOW = pytest.mark.parametrize("how", ["returned", "raised", "returned in a thread", "raised in a thread"])


@HOW
async def test_a_job_that_wishes_to_be_delayed_runs_again_later(queue: Queue, store: Store, how: str) -> None:
    async with at_work(store, wishing(Delay(60), how)):
        job = await queue.add("welcome")
        await told(store, "delayed", job_id=job.id)
        record = await job.record()
        assert (record.state, record.due_at_ms) == (State.DELAYED, clock_of(store).now_ms() + 60_000)
        assert record.attempts_made == 0

        await quiet(store)
        clock_of(store).advance(60_000)

        assert await soon(job.result()) == 1


async def test_a_job_may_be_delayed_until_a_moment(queue: Queue, store: Store) -> None:
    moment = datetime.fromtimestamp(clock_of(store).now_ms() / 1000, UTC) + timedelta(hours=1)

    async with at_work(store, wishing(Delay(moment), "raised")):
        job = await queue.add("welcome")
        await told(store, "delayed", job_id=job.id)

    assert (await job.record()).due_at_ms == clock_of(store).now_ms() + 3_600_000


@HOW
async def test_a_throttled_job_goes_to_the_front_and_its_queue_rests(queue: Queue, store: Store, how: str) -> None:
    async with at_work(store, wishing(Throttle(30), how), concurrency=1):
        first = await queue.add("welcome")
        second = await queue.add("welcome")
        await told(store, "waiting", job_id=first.id, times=2)
        await quiet(store)
        assert await count(store, State.WAITING) == 2
        assert [record.ref for record in (await queue.find("waiting")).items] == [first.ref, second.ref]

        clock_of(store).advance(30_000)

        assert await soon(first.result()) == 1
        assert await soon(second.result()) == 1


@HOW
async def test_a_job_that_waits_for_its_children_runs_again_when_they_have_ended(
    queue: Queue, store: Store, how: str
) -> None:
    parent, child = JobRef("email", "album"), JobRef("email", "picture")
    now_ms = clock_of(store).now_ms()
    await store.add(
        [
            Unit((NewJob("email", "album", "album", "{}", DEFAULT_OPTIONS, now_ms, "n1"),)),
            Unit((NewJob("email", "picture", "picture", "{}", DEFAULT_OPTIONS, now_ms, "n2", Parent(parent)),)),
        ]
    )
    runs: list[str] = []
    wish = wishing(AwaitChildren(), how)

    async def album(ctx: Context) -> Any:
        runs.append("album")
        value = wish(ctx)
        return await value if hasattr(value, "__await__") else value

    async def picture() -> None:
        runs.append("picture")

    async with at_work(store, handlers(album, picture), concurrency=1):
        record = await finished(store, parent)

    assert (record.state, record.result) == (State.COMPLETED, "1")
    assert runs == ["album", "picture", "album"]
    assert (await known(store, child)).state is State.COMPLETED


@HOW
async def test_a_job_without_children_that_waits_for_them_runs_again_at_once(
    queue: Queue, store: Store, how: str
) -> None:
    async with at_work(store, wishing(AwaitChildren(), how), concurrency=1):
        job = await queue.add("welcome")

        assert await soon(job.result()) == 1
        assert await soon((await queue.add("welcome")).result()) == 1  # its slot is free again


async def test_a_wish_is_granted_on_the_last_attempt_too(queue: Queue, store: Store) -> None:
    async with at_work(store, wishing(Delay(0), "raised")):
        job = await queue.add("welcome", attempts=1)

        assert await soon(job.result()) == 1


async def test_a_wish_that_cannot_be_is_the_handlers_own_error(queue: Queue, store: Store) -> None:
    async def welcome() -> None:
        raise Delay(-5)

    async with at_work(store, handlers(welcome)):
        record = await finished(store, (await queue.add("welcome")).ref)

    assert (record.state, record.reason) == (State.FAILED, "Delay must be between 0 s and 100 years, not -5")
