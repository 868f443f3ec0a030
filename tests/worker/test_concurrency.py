"""How many jobs run at once, and of which queue."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conformance.given import soon
from toril import ConfigError, Queue, RateLimit, Served, Worker
from toril.handlers import HandlerTable, registered
from toril.states import State
from toril.store import Store
from worker.stage import Gate, at_work, clock_of, count, no_work, quiet


def table(process: Any) -> HandlerTable:
    return HandlerTable(catch_all=registered(None, process))


async def test_no_more_jobs_run_at_once_than_the_concurrency(queue: Queue, store: Store) -> None:
    gate = Gate()

    async def work() -> None:
        await gate.passed()

    async with at_work(store, work, concurrency=3):
        jobs = await queue.add_many([("work", None)] * 12)
        await gate.arrivals(3)
        await quiet(store)
        assert (gate.inside, await count(store, State.ACTIVE), await count(store, State.WAITING)) == (3, 3, 9)

        gate.open()
        await asyncio.gather(*(soon(job.result()) for job in jobs))

    assert gate.most == 3


async def test_every_queue_has_its_own_concurrency(store: Store) -> None:
    limits = {"email": 1, "images": 2, "reports": 4}
    gates = {name: Gate() for name in limits}

    def process(name: str) -> Any:
        async def work() -> None:
            await gates[name].passed()

        return work

    served = [Served(name, table(process(name)), limit) for name, limit in limits.items()]
    async with at_work(store, served):
        jobs = [job for name in limits for job in await Queue(name, store).add_many([("work", None)] * 8)]
        for name, limit in limits.items():
            await gates[name].arrivals(limit)
        await quiet(store)
        assert {name: gate.inside for name, gate in gates.items()} == limits

        for gate in gates.values():
            gate.open()
        await asyncio.gather(*(soon(job.result()) for job in jobs))

    assert {name: gate.most for name, gate in gates.items()} == limits


async def test_a_queue_that_is_full_does_not_hold_up_another(store: Store) -> None:
    gate = Gate()

    async def stuck() -> None:
        await gate.passed()

    async def fast() -> str:
        return "done"

    async with at_work(store, [Served("slow", table(stuck), 1), Served("fast", table(fast), 1)]):
        await Queue("slow", store).add_many([("work", None)] * 5)
        await gate.arrivals()
        for _ in range(5):
            assert await soon((await Queue("fast", store).add("work")).result()) == "done"
        gate.open()


async def test_hundreds_of_jobs_run_once_each_and_never_too_many(queue: Queue, store: Store) -> None:
    inside, most, runs = 0, 0, list[int]()

    async def work(n: int) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        runs.append(n)
        inside -= 1
        return n

    async with at_work(store, work, concurrency=7):
        jobs = await queue.add_many([("work", {"n": n}) for n in range(500)])
        assert [await soon(job.result()) for job in jobs] == list(range(500))

    assert sorted(runs) == list(range(500))
    assert most == 7


async def test_two_workers_share_a_queue_and_run_each_job_once(queue: Queue, store: Store) -> None:
    runs: list[int] = []

    async def work(n: int) -> None:
        runs.append(n)
        await asyncio.sleep(0)

    async with at_work(store, work, concurrency=3), at_work(store, work, concurrency=3):
        jobs = await queue.add_many([("work", {"n": n}) for n in range(200)])
        for job in jobs:
            await soon(job.result())

    assert sorted(runs) == list(range(200))


async def test_one_at_a_time_runs_in_the_order_of_adding(queue: Queue, store: Store) -> None:
    runs: list[int] = []

    async def work(n: int) -> None:
        runs.append(n)

    async with at_work(store, work, concurrency=1):
        jobs = await queue.add_many([("work", {"n": n}) for n in range(50)])
        await soon(jobs[-1].result())

    assert runs == list(range(50))


async def test_the_limiter_of_a_worker_lets_so_many_start_per_window(queue: Queue, store: Store) -> None:
    started: list[int] = []

    async def work() -> None:
        started.append(clock_of(store).now_ms())

    begin_ms = clock_of(store).now_ms()
    async with at_work(store, [Served("email", table(work), 10, RateLimit(3, per=1))]):
        await queue.add_many([("work", None)] * 7)
        for windows in (3, 6, 7):
            await quiet(store)
            assert len(started) == windows
            clock_of(store).advance(1000)

    assert [at - begin_ms for at in started] == [0, 0, 0, 1000, 1000, 1000, 2000]


async def test_a_paused_queue_is_worked_on_again_when_it_is_resumed(queue: Queue, store: Store) -> None:
    async def work() -> str:
        return "done"

    await queue.pause()
    async with at_work(store, work):
        job = await queue.add("work")
        await quiet(store)
        assert await job.state() is State.WAITING

        await queue.resume()

        assert await soon(job.result()) == "done"


async def test_a_delayed_job_runs_when_its_time_has_come(queue: Queue, store: Store) -> None:
    async def work() -> int:
        return clock_of(store).now_ms()

    due_ms = clock_of(store).now_ms() + 5000
    async with at_work(store, work):
        job = await queue.add("work", delay=5)
        await quiet(store)
        clock_of(store).advance(4999)
        await quiet(store)
        assert await job.state() is State.DELAYED

        clock_of(store).advance(1)

        assert await soon(job.result()) == due_ms


async def test_a_job_that_is_due_sooner_than_the_one_waited_for_is_not_late(queue: Queue, store: Store) -> None:
    async def work() -> int:
        return clock_of(store).now_ms()

    start_ms = clock_of(store).now_ms()
    async with at_work(store, work):
        late = await queue.add("work", delay=60)
        await quiet(store)
        early = await queue.add("work", delay=5)
        await quiet(store)

        clock_of(store).advance(5000)
        assert await soon(early.result()) == start_ms + 5000
        clock_of(store).advance(55_000)
        assert await soon(late.result()) == start_ms + 60_000


@pytest.mark.parametrize("concurrency", [0, -1, True, 100_001])
def test_a_concurrency_that_cannot_be_is_refused(store: Store, concurrency: int) -> None:
    with pytest.raises(ConfigError, match=r"^the concurrency of queue 'email' must be at least 1, not "):
        Worker("email", no_work, store, concurrency=concurrency)


def test_a_worker_says_what_it_lacks(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"^a worker needs a store: Worker\('email', process, connect"):
        Worker("email", no_work)
    with pytest.raises(ConfigError, match=r"^a worker of queue 'email' needs a process function$"):
        Worker("email", store=store)
    with pytest.raises(ConfigError, match=r"^a worker needs at least one queue$"):
        Worker([], store=store)
    with pytest.raises(ConfigError, match=r"not both$"):
        Worker([Served("email")], no_work, store)
    with pytest.raises(ConfigError, match=r"^lock must be at least 0\.1 s, not 0\.05: renewing it takes time$"):
        Worker("email", no_work, store, lock=0.05)
    with pytest.raises(ConfigError, match=r"^max_stalled must be a whole number from 0, not -1$"):
        Worker("email", no_work, store, max_stalled=-1)
