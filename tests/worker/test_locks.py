"""Locks are kept as long as a handler runs, and a job whose lock was lost is left alone."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from conformance.given import soon
from toril import Backoff, Context, Queue
from toril.errors import StoreDamaged
from toril.model import Completed, Settlement, Slots, Wanted
from toril.states import State
from toril.store import Store
from worker.stage import Gate, WatchedStore, at_work, clock_of, handlers, known, quiet, told, turn

LOCK_S = 0.4


def block(seconds: float) -> None:
    """Hold up the thread as a computation would that lets other threads run."""
    threading.Event().wait(seconds)


async def test_a_handler_that_blocks_the_loop_for_four_times_its_lock_runs_once_and_completes(
    live_queue: Queue, live_store: Store
) -> None:
    runs: list[int] = []

    async def work(ctx: Context) -> str:
        runs.append(ctx.attempt)
        block(4 * LOCK_S)
        return "done"

    other = asyncio.ensure_future(_another_worker(live_store, runs))
    async with at_work(live_store, work, lock=LOCK_S, stalled_interval=LOCK_S / 4):
        job = await live_queue.add("work")
        assert await soon(job.result()) == "done"
    other.cancel()
    await asyncio.wait([other])

    record = await job.record()
    assert (runs, record.stalled, record.attempts_made) == ([1], 0, 1)


async def _another_worker(store: Store, runs: list[int]) -> None:
    """Somebody on a thread of its own who looks for stalled jobs all the time."""

    def look() -> None:
        asyncio.run(_recover())

    stop = threading.Event()

    async def _recover() -> None:
        while not stop.wait(0.05):
            recovered = await store.recover(["email"], max_stalled=1, interval_ms=10)
            runs.extend(-1 for _ in recovered.requeued)

    thread = asyncio.ensure_future(asyncio.to_thread(look))
    try:
        await asyncio.shield(thread)
    finally:
        stop.set()
        await thread


async def test_a_plain_function_that_runs_longer_than_its_lock_runs_once(live_queue: Queue, live_store: Store) -> None:
    runs: list[int] = []

    def work(ctx: Context) -> str:
        runs.append(ctx.attempt)
        block(2 * LOCK_S)
        return "done"

    async with at_work(live_store, handlers(work), lock=LOCK_S, stalled_interval=LOCK_S / 4):
        job = await live_queue.add("work")
        assert await soon(job.result()) == "done"

    assert (runs, (await job.record()).stalled) == ([1], 0)


async def test_a_blocked_loop_is_told_with_the_line_that_blocks_it(
    live_queue: Queue, live_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    told_of = threading.Event()

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "has been blocked" in record.getMessage():
                told_of.set()

    async def work() -> bool:
        return told_of.wait(20)  # blocks until somebody complains

    heard = Heard()
    logging.getLogger("toril").addHandler(heard)
    try:
        async with at_work(live_store, work):
            job = await live_queue.add("work")
            assert await asyncio.wait_for(job.result(), 40) is True
    finally:
        logging.getLogger("toril").removeHandler(heard)

    [message] = [r.getMessage() for r in caplog.records if "has been blocked" in r.getMessage()]
    assert "make the handler a plain def, which runs in a thread" in message
    assert "return told_of.wait(20)" in message
    assert "test_locks.py" in message


async def test_the_lock_of_a_running_job_is_renewed_in_good_time(queue: Queue, watched: WatchedStore) -> None:
    gate = Gate()

    async def work() -> None:
        await gate.passed()

    store = watched.as_store
    async with at_work(store, work, lock=30):
        job = await queue.add("work")
        await gate.arrivals()
        for _ in range(12):
            until_ms = (await job.record()).locked_until_ms
            assert until_ms is not None
            assert until_ms - clock_of(store).now_ms() >= 15_000
            await turn(store, 10_000)
        gate.open()
        await soon(job.result())


async def test_a_worker_without_jobs_renews_nothing(watched: WatchedStore) -> None:
    async def work() -> None: ...

    async with at_work(watched.as_store, work):
        await turn(watched.as_store, 120_000)

    assert not watched.calls("extend")


async def _stolen(store: Store) -> Wanted:
    """Let the locks lapse while nobody renews them, and hand the job to somebody else."""
    for _ in range(2):
        await store.recover(["email"], max_stalled=5, interval_ms=1)
        clock_of(store).advance(40_000)
        await store.recover(["email"], max_stalled=5, interval_ms=1)
    return Wanted("thief", "thief:1", 3_600_000, (Slots("email", 1),))


async def test_a_job_whose_lock_is_lost_is_cancelled_and_what_it_does_is_not_recorded(
    queue: Queue, store: Store, watched: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    gate, cancelled = Gate(), asyncio.Event()
    contexts: list[Context] = []

    async def work(ctx: Context) -> str:
        contexts.append(ctx)
        try:
            await gate.passed()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "ours"

    async with at_work(watched.as_store, work, concurrency=1):
        job = await queue.add("work")
        await gate.arrivals()
        watched.fail("extend", "claim")  # cut off: the lock lapses
        wanted = await _stolen(store)
        [stolen] = (await store.claim(wanted)).claims
        watched.mend()

        clock_of(store).advance(30_000)
        await soon(cancelled.wait())

        assert contexts[0].cancelled
        assert contexts[0].cancel_reason == "its lock expired"
        await quiet(store)
        record = await job.record()
        assert (record.state, record.worker, record.attempts_made) == (State.ACTIVE, "thief", 0)
        await store.settle([Settlement(stolen, Completed('"theirs"'))])
        assert await soon(job.result()) == "theirs"

        gate.open()
        assert await soon((await queue.add("work")).result()) == "ours"  # its slot is free again

    assert f"{job.ref} lost its lock: another worker may have it; its handler is cancelled" in caplog.messages


async def test_a_handler_that_ends_after_its_lock_was_lost_does_not_overwrite_the_other_end(
    queue: Queue, store: Store, watched: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()

    async def work() -> str:
        await gate.passed()
        return "ours"

    async with at_work(watched.as_store, work, concurrency=1):
        job = await queue.add("work")
        await gate.arrivals()
        watched.fail("extend", "claim")
        wanted = await _stolen(store)
        [stolen] = (await store.claim(wanted)).claims
        watched.mend()
        await store.settle([Settlement(stolen, Completed('"theirs"'))])

        gate.open()
        await watched.until_answered("settle")
        await quiet(store)

        assert await soon(job.result()) == "theirs"

    assert any(message.startswith(f"{job.ref} was not recorded: its lock expired") for message in caplog.messages)


async def test_a_thread_learns_that_its_lock_was_lost(queue: Queue, store: Store, watched: WatchedStore) -> None:
    begun, seen = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work(ctx: Context) -> None:
        loop.call_soon_threadsafe(begun.set)
        deadline = time.monotonic() + 20
        while not ctx.cancelled and time.monotonic() < deadline:
            threading.Event().wait(0.001)
        if ctx.cancelled:
            seen.set()

    async with at_work(watched.as_store, handlers(work), concurrency=1):
        await queue.add("work")
        await soon(begun.wait())
        watched.fail("extend", "claim")
        wanted = await _stolen(store)
        await store.claim(wanted)
        watched.mend()
        clock_of(store).advance(30_000)

        assert await asyncio.to_thread(seen.wait, 20)


async def test_a_slot_is_given_back_when_the_lock_is_lost_while_a_strategy_thinks(
    queue: Queue, store: Store, watched: WatchedStore
) -> None:
    thinking = Gate()

    async def mine(attempt: int, error: BaseException) -> float:
        await thinking.passed()
        return 0

    async def fail() -> None:
        raise ValueError("no")

    async def welcome() -> str:
        return "alive"

    async with at_work(watched.as_store, handlers(fail, welcome, strategies={"mine": mine}), concurrency=1) as worker:
        job = await queue.add("fail", attempts=2, backoff=Backoff.custom("mine"))
        await thinking.arrivals()
        watched.fail("extend", "claim")
        wanted = await _stolen(store)
        await store.claim(wanted)
        watched.mend()
        await turn(store, 30_000)

        assert await soon((await queue.add("welcome")).result()) == "alive"
        await quiet(store)
        assert job.ref not in worker.running


async def test_a_lock_that_cannot_be_renewed_is_tried_again(
    queue: Queue, store: Store, watched: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()

    async def work() -> str:
        await gate.passed()
        return "done"

    async with at_work(watched.as_store, work):
        job = await queue.add("work")
        await gate.arrivals()
        watched.fail("extend", error=StoreDamaged("a page is gone"))
        await turn(store, 12_000)
        watched.mend()
        await turn(store, 12_000)
        gate.open()

        assert await soon(job.result()) == "done"

    assert "1 locks could not be renewed, trying again: a page is gone" in caplog.messages
    assert (await known(store, job.ref)).stalled == 0
    await told(store, "completed", job_id=job.id)
