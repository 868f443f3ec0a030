"""Stopping: what runs may finish, what does not is handed back, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from conformance.given import soon
from toril import Context, Queue, Served, Worker
from toril.errors import StoreUnavailable
from toril.model import JobRecord
from toril.states import State
from toril.store import Store
from toril.stores.sqlite.store import SqliteStore
from worker.stage import Gate, WatchedStore, at_work, count, handlers, quiet, running, turn


def untouched(record: JobRecord) -> bool:
    """Whether a job waits as if it had never run: no attempt is spent, and no stall is counted."""
    return (record.state, record.attempts_made, record.stalled) == (State.WAITING, 0, 0)


async def test_running_jobs_finish_within_the_grace(queue: Queue, store: Store) -> None:
    gate = Gate()

    async def work() -> str:
        await gate.passed()
        return "done"

    worker = Worker("email", work, store, grace=30)
    async with running(worker) as run:
        job = await queue.add("work")
        await gate.arrivals()
        worker.stop()
        await turn(store, 20_000)
        assert not run.done()

        gate.open()

        assert await soon(run) == 0
    assert await soon(job.result()) == "done"


async def test_a_stopping_worker_claims_no_more(queue: Queue, store: Store) -> None:
    gate = Gate()

    async def work() -> str:
        await gate.passed()
        return "done"

    worker = Worker("email", work, store, concurrency=1)
    async with running(worker) as run:
        first, second = await queue.add_many([("work", None)] * 2)
        await gate.arrivals()
        worker.stop()
        await quiet(store)
        third = await queue.add("work")
        gate.open()
        await soon(run)

    assert await soon(first.result()) == "done"
    assert untouched(await second.record())
    assert untouched(await third.record())


async def test_jobs_that_outlive_the_grace_are_handed_back_without_an_attempt_spent(
    queue: Queue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    reasons: list[str | None] = []

    async def work(ctx: Context) -> None:
        try:
            await gate.passed()
        finally:
            reasons.append(ctx.cancel_reason)

    worker = Worker("email", work, store, concurrency=3, grace=30)
    async with running(worker) as run:
        jobs = await queue.add_many([("work", None)] * 3)
        await gate.arrivals(3)
        worker.stop()
        await turn(store, 30_000)

        assert await soon(run) == 3

    assert [untouched(await job.record()) for job in jobs] == [True] * 3
    assert reasons == ["the worker ends"] * 3
    assert "3 jobs did not end within the grace and are handed back" in caplog.messages
    assert [record.ref for record in (await queue.find("waiting")).items] == [job.ref for job in jobs]


async def test_a_job_that_was_handed_back_is_run_by_the_next_worker_as_its_first_attempt(
    queue: Queue, store: Store
) -> None:
    gate = Gate()

    async def stuck() -> None:
        await gate.passed()

    async def work(ctx: Context) -> int:
        return ctx.attempt

    async with at_work(store, stuck):
        job = await queue.add("work")
        await gate.arrivals()
    async with at_work(store, work):
        assert await soon(job.result()) == 1


async def test_a_stubborn_handler_that_swallows_its_cancellation_is_handed_back_too(queue: Queue, store: Store) -> None:
    gate, cancelled = Gate(), asyncio.Event()

    async def work() -> str:
        while True:
            try:
                await gate.passed()
                return "too late"
            except asyncio.CancelledError:
                cancelled.set()

    worker = Worker("email", work, store, concurrency=1, grace=30)
    async with running(worker) as run:
        job = await queue.add("work")
        await gate.arrivals()
        worker.stop()
        worker.hurry()
        await soon(cancelled.wait())
        await turn(store, 2_000)
        await turn(store, 2_000)

        assert await soon(run) == 1
        assert untouched(await job.record())
        gate.open()
        await quiet(store)

    assert untouched(await job.record())


async def test_a_handler_that_answers_its_cancellation_with_a_result_is_not_run_for_nothing(
    queue: Queue, store: Store
) -> None:
    """What it returned in time is recorded, or it is handed back; it is never failed, and no attempt is spent in vain."""
    gate = Gate()

    async def work() -> str:
        try:
            await gate.passed()
        except asyncio.CancelledError:
            return "saved"
        return "done"

    worker = Worker("email", work, store, concurrency=1)
    async with running(worker) as run:
        job = await queue.add("work", attempts=1)
        await gate.arrivals()
        worker.stop()
        worker.hurry()
        await soon(run)

    record = await job.record()
    assert untouched(record) or (record.state, record.result) == (State.COMPLETED, '"saved"')


async def test_a_handler_that_fails_on_its_cancellation_is_handed_back(queue: Queue, store: Store) -> None:
    gate = Gate()

    async def work() -> None:
        try:
            await gate.passed()
        except asyncio.CancelledError:
            raise RuntimeError("interrupted") from None

    worker = Worker("email", work, store, concurrency=1)
    async with running(worker) as run:
        job = await queue.add("work", attempts=1)
        await gate.arrivals()
        worker.stop()
        worker.hurry()
        await soon(run)

    assert untouched(await job.record())


async def test_a_thread_that_goes_on_is_handed_back_and_what_it_returns_is_not_recorded(
    queue: Queue, store: Store
) -> None:
    begun, go_on, ended = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> str:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(20)
        ended.set()
        return "too late"

    worker = Worker([Served("email", handlers(work), 1)], store=store)
    async with running(worker) as run:
        job = await queue.add("work")
        await soon(begun.wait())
        worker.stop()
        worker.hurry()
        await soon(run)
        assert untouched(await job.record())
        go_on.set()
        assert await asyncio.to_thread(ended.wait, 20)
        await quiet(store)

    assert untouched(await job.record())


async def test_jobs_whose_claim_was_under_way_are_handed_back(
    queue: Queue, store: Store, watched: WatchedStore
) -> None:
    runs: list[str] = []

    async def work(ctx: Context) -> None:
        runs.append(ctx.job_id)

    held = watched.hold("claim")
    jobs = await queue.add_many([("work", None)] * 3)
    worker = Worker("email", work, watched.as_store)
    async with running(worker) as run:
        await watched.until(lambda: len(watched.calls("claim")) == 1)
        await quiet(store)
        assert await count(store, State.ACTIVE) == 3
        worker.stop()
        await quiet(store)

        held.set()

        await soon(run)

    assert runs == []
    assert [untouched(await job.record()) for job in jobs] == [True] * 3


async def test_jobs_that_come_with_a_settlement_after_the_grace_are_handed_back(
    queue: Queue, store: Store, watched: WatchedStore
) -> None:
    gate = Gate()

    async def work(n: int) -> int:
        if n == 2:
            await gate.passed()
        return n

    held = watched.hold("settle")
    worker = Worker("email", work, watched.as_store, concurrency=1, grace=0)
    async with running(worker) as run:
        first = await queue.add("work", {"n": 1})
        second = await queue.add("work", {"n": 2})
        await watched.until(lambda: len(watched.calls("settle")) == 1)
        await quiet(store)
        assert await second.state() is State.ACTIVE  # claimed with the settlement whose answer is on its way
        worker.stop()
        await quiet(store)

        held.set()
        await quiet(store)
        await turn(store, 2_000)
        await turn(store, 2_000)
        await soon(run)

    assert await soon(first.result()) == 1
    assert untouched(await second.record())


async def test_an_outage_at_the_stop_does_not_break_it(queue: Queue, store: Store, watched: WatchedStore) -> None:
    """The claim under way fails; the jobs that run are handed back all the same."""
    gate = Gate()

    async def work() -> None:
        await gate.passed()

    worker = Worker("email", work, watched.as_store, concurrency=2, grace=30)
    async with running(worker) as run:
        job = await queue.add("work")
        await gate.arrivals()
        await quiet(store)
        held = watched.hold("claim")
        await store.pause("email")
        await store.resume("email")
        calls = len(watched.calls("claim"))
        await watched.until(lambda: len(watched.calls("claim")) >= calls)
        await queue.add("work")
        await watched.until(lambda: len(watched.calls("claim")) > len(watched.calls("claim", watched.answered)))
        worker.stop()
        await quiet(store)
        watched.fail("claim", error=StoreUnavailable("the line is cut"))
        held.set()
        await quiet(store)
        watched.mend()
        gate.open()
        await turn(store, 40_000)

        await soon(run)

    assert await soon(job.result()) is None


async def test_a_settlement_that_cannot_be_recorded_at_the_stop_does_not_break_it(
    queue: Queue, store: Store, watched: WatchedStore
) -> None:
    async def work() -> str:
        return "done"

    worker = Worker("email", work, watched.as_store, grace=1)
    async with running(worker) as run:
        watched.fail("settle")
        job = await queue.add("work")
        await watched.until_refused("settle")
        worker.stop()
        await quiet(store)
        held = watched.hold("settle")
        for _ in range(6):
            await turn(store, 1_000)
        held.set()
        await turn(store, 5_000)

        await soon(run)

    assert await job.state() in (State.ACTIVE, State.COMPLETED)  # recovered later; never failed, never lost


async def test_a_stop_in_a_hurry_does_not_wait_for_the_grace(queue: Queue, store: Store) -> None:
    gate = Gate()

    async def work() -> None:
        await gate.passed()

    worker = Worker("email", work, store, grace=3600)
    async with running(worker) as run:
        job = await queue.add("work")
        await gate.arrivals()
        worker.stop()
        await quiet(store)
        assert not run.done()

        worker.hurry()

        assert await soon(run) == 1
    assert untouched(await job.record())


async def test_a_worker_without_jobs_ends_at_once(store: Store) -> None:
    async def work() -> None: ...

    worker = Worker("email", work, store)
    async with running(worker) as run:
        worker.stop()

        assert await soon(run) == 0


async def test_a_worker_may_be_stopped_from_another_thread_and_more_than_once(store: Store) -> None:
    async def work() -> None: ...

    worker = Worker("email", work, store)
    async with running(worker) as run:
        await asyncio.to_thread(worker.stop)
        worker.stop()

        assert await soon(run) == 0
    worker.stop()


async def test_a_worker_that_was_stopped_may_run_again(queue: Queue, store: Store) -> None:
    async def work() -> str:
        return "done"

    worker = Worker("email", work, store)
    for _ in range(3):
        async with running(worker) as run:
            assert await soon((await queue.add("work")).result()) == "done"
            worker.stop()
            await soon(run)


async def test_a_stopped_worker_no_longer_counts_as_seen(queue: Queue, store: Store) -> None:
    async def work() -> None: ...

    async with at_work(store, work, name="first") as worker:
        await quiet(store)
        [info] = await queue.workers()
        assert (info.id, info.name, info.state, info.queues) == (worker.id, "first", "running", {"email": 10})

    assert await queue.workers() == []


async def test_a_draining_worker_says_so(queue: Queue, store: Store) -> None:
    gate = Gate()

    async def work() -> None:
        await gate.passed()

    worker = Worker("email", work, store, grace=3600)
    async with running(worker) as run:
        await queue.add("work")
        await gate.arrivals()
        worker.stop()
        await quiet(store)
        await turn(store, 10_000)

        [info] = await queue.workers()
        assert (info.state, info.running) == ("draining", 1)
        gate.open()
        await soon(run)


async def test_no_thread_is_left_behind(live_store: Store, live_queue: Queue) -> None:
    def work() -> str:
        return "done"

    before = set(threading.enumerate())
    async with at_work(live_store, handlers(work)):
        assert await soon((await live_queue.add("work")).result()) == "done"
    await live_store.close()

    left = [t for t in threading.enumerate() if t not in before and t.name.startswith("toril")]
    for thread in left:
        await asyncio.to_thread(thread.join, 20)
    assert not [thread for thread in left if thread.is_alive()]


# ------------------------------------------------------------------ signals

SCRIPT = """
    import asyncio, sys
    from toril import Queue, Worker, connect

    async def main(url):
        store = connect(url)
        begun = asyncio.Event()

        async def work(finish: bool) -> str:
            print("running", flush=True)
            if finish:
                await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
                return "done"
            await asyncio.Event().wait()
            return "never"

        worker = Worker("email", work, store, grace=3600)
        code = await worker.run(handle_signals=True)
        print("ended", code, flush=True)
        await store.close()

    asyncio.run(main(sys.argv[1]))
"""


def _process(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), f"sqlite:///{path.as_posix()}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


async def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return (await soon(asyncio.to_thread(process.stdout.readline))).strip()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of this kind are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_one_signal_lets_jobs_finish(tmp_path: Path, number: signal.Signals) -> None:
    store = SqliteStore(tmp_path / "jobs.db")
    job = await Queue("email", store).add("work", {"finish": True})
    process = _process(tmp_path / "jobs.db")
    try:
        assert await _line(process) == "running"
        os.kill(process.pid, number)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

        assert await _line(process) == "ended 0"
        assert await soon(asyncio.to_thread(process.wait)) == 0
        assert await soon(job.result()) == "done"
    finally:
        process.kill()
        process.communicate()
        await store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of this kind are POSIX's")
async def test_a_second_signal_hands_back_at_once_what_runs(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.db")
    job = await Queue("email", store).add("work", {"finish": False})
    process = _process(tmp_path / "jobs.db")
    try:
        assert await _line(process) == "running"
        os.kill(process.pid, signal.SIGTERM)
        os.kill(process.pid, signal.SIGINT)

        assert await _line(process) == "ended 1"
        assert await soon(asyncio.to_thread(process.wait)) == 0
        assert untouched(await job.record())
    finally:
        process.kill()
        process.communicate()
        await store.close()
