"""How often the store is asked, and that no ring of its bell is missed."""

from __future__ import annotations

import asyncio

from conformance.given import soon
from toril import Context, Queue
from toril.model import Wanted
from toril.states import State
from toril.store import Store
from worker.stage import Gate, WatchedStore, at_work, clock_of, count, quiet


async def test_jobs_that_finish_together_are_settled_together_and_the_next_are_claimed_with_them(
    queue: Queue, watched: WatchedStore
) -> None:
    gates = {"first": Gate(), "second": Gate()}

    async def work(ctx: Context) -> None:
        await gates[ctx.name].passed()

    async with at_work(watched.as_store, work, concurrency=10):
        jobs = await queue.add_many([("first", None)] * 10 + [("second", None)] * 10)
        await gates["first"].arrivals(10)
        claims = len(watched.calls("claim"))

        gates["first"].open()
        await gates["second"].arrivals(10)
        settle = watched.calls("settle")[0]

        assert len(settle.arguments[0]) == 10
        wanted: Wanted = settle.arguments[1]
        assert [slots.free for slots in wanted.slots] == [10]
        assert len(watched.calls("claim")) == claims
        gates["second"].open()
        for job in jobs:
            await soon(job.result())

    assert sum(len(call.arguments[0]) for call in watched.calls("settle")) == 20
    assert len(watched.calls("settle")) <= 4


async def test_what_finishes_while_a_round_trip_is_under_way_leaves_with_the_next(
    queue: Queue, watched: WatchedStore
) -> None:
    held = watched.hold("settle")

    async def work() -> None: ...

    async with at_work(watched.as_store, work, concurrency=50):
        first = await queue.add("work")
        await watched.until(lambda: len(watched.calls("settle")) == 1)
        jobs = await queue.add_many([("work", None)] * 40)
        await quiet(watched.as_store)
        assert len(watched.calls("settle")) == 1

        held.set()
        for job in (first, *jobs):
            await soon(job.result())

    assert [len(call.arguments[0]) for call in watched.calls("settle")] == [1, 40]


async def test_a_long_queue_is_worked_off_in_few_round_trips(queue: Queue, watched: WatchedStore) -> None:
    async def work() -> None: ...

    jobs = await queue.add_many([("work", None)] * 1000)
    async with at_work(watched.as_store, work, concurrency=100):
        for job in jobs:
            await soon(job.result())

    assert len(watched.calls("settle")) + len(watched.calls("claim")) <= 30


async def test_an_idle_worker_does_not_ask_again_and_again(queue: Queue, watched: WatchedStore) -> None:
    async def work() -> None: ...

    async with at_work(watched.as_store, work):
        await soon((await queue.add("work")).result())
        await quiet(watched.as_store, 50)
        asked = len(watched.calls("claim"))
        await quiet(watched.as_store, 50)

        assert len(watched.calls("claim")) == asked
        assert asked <= 4


async def test_a_job_that_comes_while_a_claim_is_under_way_is_not_forgotten(
    queue: Queue, store: Store, watched: WatchedStore
) -> None:
    async def work(n: int) -> int:
        return n

    async with at_work(watched.as_store, work):
        assert await soon((await queue.add("work", {"n": 1})).result()) == 1
        await quiet(store)  # the worker listens
        held = watched.hold("claim")
        claims = len(watched.calls("claim"))
        second = await queue.add("work", {"n": 2})
        await watched.until(lambda: len(watched.calls("claim")) > claims)
        await quiet(store)  # the store has answered with the second job and nothing more, and the answer is on its way
        third = await queue.add("work", {"n": 3})
        await quiet(store)  # the bell has rung for the third

        held.set()

        assert await soon(second.result()) == 2
        assert await soon(third.result()) == 3


async def test_a_job_that_comes_while_a_settlement_is_under_way_is_not_forgotten(
    queue: Queue, store: Store, watched: WatchedStore
) -> None:
    async def work(n: int) -> int:
        return n

    async with at_work(watched.as_store, work):
        assert await soon((await queue.add("work", {"n": 1})).result()) == 1
        await quiet(store)
        held = watched.hold("settle")
        settled = len(watched.calls("settle"))
        gate_at_claim = watched.hold("claim")
        gate_at_claim.set()
        second = await queue.add("work", {"n": 2})
        await watched.until(lambda: len(watched.calls("settle")) > settled)
        await quiet(store)  # recorded, and nothing claimed with it: the answer is on its way
        third = await queue.add("work", {"n": 3})
        await quiet(store)

        held.set()

        assert await soon(second.result()) == 2
        assert await soon(third.result()) == 3


async def test_a_full_answer_beside_an_empty_one_is_asked_after_again(
    queue: Queue, store: Store, watched: WatchedStore
) -> None:
    gates = {1: Gate(), 2: Gate(), 3: Gate(), 4: Gate()}

    async def work(n: int) -> int:
        await gates[n].passed()
        return n

    async with at_work(watched.as_store, work, concurrency=2):
        first, second = await queue.add("work", {"n": 1}), await queue.add("work", {"n": 2})
        await gates[1].arrivals()
        await gates[2].arrivals()
        await quiet(store)
        held = watched.hold("settle")
        gates[1].open()
        await watched.until(lambda: len(watched.calls("settle")) == 1)
        await quiet(store)  # recorded, and the store had no more: the answer is on its way
        third, fourth = await queue.add("work", {"n": 3}), await queue.add("work", {"n": 4})
        await quiet(store)
        gates[2].open()
        await gates[3].arrivals()  # claimed alone, for the one slot that was free

        held.set()
        await gates[4].arrivals()

        gates[3].open()
        gates[4].open()
        assert [await soon(job.result()) for job in (first, second, third, fourth)] == [1, 2, 3, 4]


async def test_the_moment_of_a_delayed_job_is_not_forgotten_for_an_older_answer(
    queue: Queue, store: Store, watched: WatchedStore
) -> None:
    gates = {1: Gate(), 2: Gate(), 3: Gate()}

    async def work(n: int) -> int:
        await gates[n].passed()
        return n

    async with at_work(watched.as_store, work, concurrency=2):
        jobs = [await queue.add("work", {"n": 1}), await queue.add("work", {"n": 2})]
        await gates[1].arrivals()
        await gates[2].arrivals()
        await quiet(store)
        held = watched.hold("settle")
        gates[1].open()
        await watched.until(lambda: len(watched.calls("settle")) == 1)
        await quiet(store)  # recorded, and the store had nothing else: the answer is on its way
        jobs.append(await queue.add("work", {"n": 3}, delay=5))
        await quiet(store)
        gates[2].open()
        await quiet(store)  # asked for the slot that was free: nothing before the delayed job's moment

        held.set()
        await quiet(store)
        clock_of(store).advance(5_000)
        await gates[3].arrivals()

        gates[3].open()
        assert [await soon(job.result()) for job in jobs] == [1, 2, 3]


async def test_adds_that_race_with_claims_are_all_worked_on(queue: Queue, store: Store) -> None:
    async def work(n: int) -> int:
        return n

    async with at_work(store, work, concurrency=1000):
        for start in range(0, 300, 3):
            jobs = [asyncio.ensure_future(queue.add("work", {"n": start + n})) for n in range(3)]
            for n, job in enumerate(jobs):
                assert await soon((await soon(job)).result()) == start + n

    assert await count(store, State.COMPLETED) == 300
