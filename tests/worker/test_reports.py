"""What running jobs say of themselves."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from conformance.given import soon
from toril import Context, InvalidJob, Queue
from toril.states import State
from toril.store import Store
from worker.stage import Gate, WatchedStore, at_work, finished, handlers


@pytest.mark.parametrize("how", ["async", "thread"])
async def test_progress_and_log_lines_are_recorded_before_the_job_ends(queue: Queue, store: Store, how: str) -> None:
    def say(ctx: Context) -> None:
        ctx.progress(50)
        ctx.log("half")
        ctx.progress({"percent": 100})
        ctx.log("done")

    async def work(ctx: Context) -> None:
        say(ctx)

    def work_in_thread(ctx: Context) -> None:
        say(ctx)

    async with at_work(store, handlers(work, work_in_thread)):
        job = await queue.add("work" if how == "async" else "work_in_thread")
        await finished(store, job.ref)

    assert await job.progress() == {"percent": 100}
    logs = await job.logs()
    assert (logs.lines, logs.total) == (("half", "done"), 2)


async def test_a_handler_may_wait_until_what_it_said_is_recorded(queue: Queue, store: Store) -> None:
    async def work(ctx: Context) -> list[Any]:
        await ctx.log("first")
        logs = await store.logs(ctx.claim.ref)
        await ctx.progress(10)
        [record] = await store.get([ctx.claim.ref])
        return [list(logs.lines), record and record.progress]

    async with at_work(store, handlers(work)):
        assert await soon((await queue.add("work")).result()) == [["first"], "10"]


async def test_lines_keep_their_order_from_one_thread(queue: Queue, store: Store) -> None:
    def work(ctx: Context) -> None:
        for n in range(500):
            ctx.log(f"line {n}")

    async with at_work(store, handlers(work)):
        job = await queue.add("work")
        await soon(job.result())

    assert (await job.logs()).lines == tuple(f"line {n}" for n in range(500))


async def test_lines_of_threads_that_speak_at_once_all_arrive(queue: Queue, store: Store) -> None:
    together = threading.Barrier(4)

    def work(ctx: Context) -> None:
        together.wait(20)
        for n in range(100):
            ctx.log(f"line {n}")

    async with at_work(store, handlers(work), concurrency=4):
        jobs = [await queue.add("work") for _ in range(4)]
        for job in jobs:
            await soon(job.result())

    for job in jobs:
        assert (await job.logs()).lines == tuple(f"line {n}" for n in range(100))


async def test_a_flood_of_progress_costs_few_round_trips_and_ends_with_the_last(
    queue: Queue, watched: WatchedStore
) -> None:
    async def work(ctx: Context) -> None:
        for n in range(10_000):
            ctx.progress(n)

    async with at_work(watched.as_store, handlers(work)):
        job = await queue.add("work")
        await soon(job.result())

    assert await job.progress() == 9_999
    assert len(watched.calls("report")) <= 3


async def test_a_flood_from_a_thread_is_gathered_while_a_round_trip_is_under_way(
    queue: Queue, watched: WatchedStore
) -> None:
    held = watched.hold("report")
    said = threading.Event()

    def work(ctx: Context) -> None:
        for n in range(1_000):
            ctx.progress(n)
        said.set()

    async with at_work(watched.as_store, handlers(work)):
        job = await queue.add("work")
        assert await asyncio.to_thread(said.wait, 20)
        held.set()
        await soon(job.result())

    assert await job.progress() == 999
    assert len(watched.calls("report")) <= 3


async def test_only_the_newest_lines_of_a_log_are_kept(queue: Queue, store: Store) -> None:
    async def work(ctx: Context) -> None:
        for n in range(12):
            ctx.log(f"line {n}")

    async with at_work(store, handlers(work)):
        job = await queue.add("work", keep_logs=5)
        await soon(job.result())

    logs = await job.logs()
    assert logs.lines == tuple(f"line {n}" for n in range(7, 12))


@pytest.mark.parametrize("how", ["async", "thread"])
async def test_progress_that_is_no_json_is_the_handlers_own_error(queue: Queue, store: Store, how: str) -> None:
    async def work(ctx: Context) -> str:
        try:
            ctx.progress(object())
        except InvalidJob as error:
            return str(error)
        return ""

    def work_in_thread(ctx: Context) -> str:
        try:
            ctx.progress(float("nan"))
        except InvalidJob as error:
            return str(error)
        return ""

    async with at_work(store, handlers(work, work_in_thread)):
        said = await soon((await queue.add("work" if how == "async" else "work_in_thread")).result())

    assert said.startswith("progress is ")


@pytest.mark.parametrize("line", ["half a pair: \ud800", "a\x00b", "ünïcode 🐂", "two\nlines", ""])
async def test_no_line_of_text_harms_the_worker(queue: Queue, store: Store, line: str) -> None:
    async def work(ctx: Context) -> None:
        ctx.log(line)

    async with at_work(store, handlers(work)):
        job = await queue.add("work")
        record = await finished(store, job.ref)

    assert record.state is State.COMPLETED
    assert len((await job.logs()).lines) == 1


@pytest.mark.parametrize("line", [None, 5, b"bytes", object()])
async def test_a_line_that_is_no_text_is_refused_where_it_is_said_or_written_as_text(
    queue: Queue, store: Store, line: Any
) -> None:
    async def work(ctx: Context) -> None:
        ctx.log(line)

    async def welcome() -> str:
        return "alive"

    async with at_work(store, handlers(work, welcome), concurrency=1):
        await finished(store, (await queue.add("work")).ref)

        assert await soon((await queue.add("welcome")).result()) == "alive"


async def test_what_is_said_after_the_job_has_ended_is_not_recorded_and_harms_nobody(
    queue: Queue, store: Store
) -> None:
    contexts: list[Context] = []

    async def work(ctx: Context) -> None:
        contexts.append(ctx)

    async with at_work(store, handlers(work)):
        job = await queue.add("work")
        await soon(job.result())
        await soon(asyncio.ensure_future(_awaited(contexts[0].log("too late"))))

        assert await soon((await queue.add("work")).result()) is None

    assert (await job.logs()).total == 0


async def _awaited(recorded: Any) -> None:
    await recorded


async def test_an_outcome_waits_for_what_was_said_before_it(queue: Queue, watched: WatchedStore) -> None:
    held = watched.hold("report")
    gate = Gate()

    async def work(ctx: Context) -> None:
        ctx.log("before the end")
        gate.open()
        await gate.passed()

    async with at_work(watched.as_store, handlers(work)):
        job = await queue.add("work")
        await gate.arrivals()
        await watched.until(lambda: len(watched.calls("report")) == 1)
        assert not watched.calls("settle")

        held.set()

        await soon(job.result())
