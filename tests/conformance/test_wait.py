"""Waiting: a worker sleeps until one of its queues rings, or until a moment."""

from __future__ import annotations

import asyncio

from conformance.given import (
    QUEUE,
    advance,
    claim_one,
    complete,
    given,
    given_active,
    given_flow,
    given_many,
    now_ms,
    rest,
    soon,
    wait,
)
from toril.model import Released, Settlement, Woken
from toril.store import Store


def parked(store: Store, *queues: str, worker: str = "w1", until_ms: int | None = None) -> asyncio.Task[Woken]:
    """A wait that has begun, or will have before its signal is lost: a ring before a wait ends it too."""
    return asyncio.ensure_future(store.wait(worker, queues or (QUEUE,), until_ms))


async def test_a_wait_returns_at_once_when_the_queue_rang_before_it(store: Store) -> None:
    await rest(store)
    await given(store)

    assert (await wait(store)).queues == {QUEUE}


async def test_a_ring_is_heard_once(store: Store) -> None:
    await rest(store)
    await given(store)
    await rest(store)

    woken = await soon(store.wait("w1", [QUEUE], now_ms(store)))

    assert woken == Woken()


async def test_a_wait_ends_when_its_moment_has_come(store: Store) -> None:
    await rest(store)
    waiting = parked(store, until_ms=now_ms(store) + 5_000)

    await advance(store, 5_000)

    assert await soon(waiting) == Woken()


async def test_a_wait_whose_moment_has_passed_returns_at_once(store: Store) -> None:
    await rest(store)

    assert await soon(store.wait("w1", [QUEUE], now_ms(store) - 1)) == Woken()


async def test_an_add_wakes_a_wait(store: Store) -> None:
    await rest(store)
    waiting = parked(store)

    await given(store)

    assert (await soon(waiting)).queues == {QUEUE}


async def test_an_add_from_another_store_on_the_same_place_wakes_a_wait(store: Store, neighbour: Store) -> None:
    await rest(store)
    waiting = parked(store)

    await given(neighbour)

    assert (await soon(waiting)).queues == {QUEUE}


async def test_an_add_from_another_store_before_the_wait_is_heard(store: Store, neighbour: Store) -> None:
    await rest(store)
    await given(neighbour)

    assert (await wait(store)).queues == {QUEUE}


async def test_a_prioritized_add_wakes_a_wait(store: Store) -> None:
    await rest(store)
    waiting = parked(store)

    await given(store, priority=3)

    assert (await soon(waiting)).queues == {QUEUE}


async def test_a_delayed_add_wakes_a_wait_so_that_it_learns_the_moment(store: Store) -> None:
    await rest(store)
    waiting = parked(store)

    await given(store, delay=60)

    assert (await soon(waiting)).queues == {QUEUE}


async def test_only_the_queue_that_rang_is_named(store: Store) -> None:
    await rest(store, QUEUE, "images")
    waiting = parked(store, QUEUE, "images")

    await given(store, queue="images")

    assert (await soon(waiting)).queues == {"images"}


async def test_an_add_to_another_queue_does_not_end_a_wait(store: Store) -> None:
    await rest(store)
    waiting = parked(store, until_ms=now_ms(store) + 5_000)

    await given(store, queue="images")
    await advance(store, 5_000)

    assert (await soon(waiting)).queues == frozenset()


async def test_two_jobs_wake_two_workers(store: Store) -> None:
    await rest(store, worker="w1")
    await rest(store, worker="w2")
    first, second = parked(store, worker="w1"), parked(store, worker="w2")

    await given_many(store, 2)
    # Whoever wakes and claims passes the ring on, on a store whose ring wakes one worker at a time.
    done, _ = await asyncio.wait({first, second}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    assert done
    await claim_one(store)

    assert (await soon(first)).queues == {QUEUE}
    assert (await soon(second)).queues == {QUEUE}


async def test_resuming_a_queue_wakes_a_wait(store: Store) -> None:
    await store.pause(QUEUE)
    await given(store)
    await rest(store)
    waiting = parked(store)

    await store.resume(QUEUE)

    assert (await soon(waiting)).queues == {QUEUE}


async def test_promoting_a_job_wakes_a_wait(store: Store) -> None:
    ref = await given(store, delay=60)
    await rest(store)
    waiting = parked(store)

    await store.promote([ref])

    assert (await soon(waiting)).queues == {QUEUE}


async def test_retrying_a_finished_job_wakes_a_wait(store: Store) -> None:
    one = await given_active(store)
    await complete(store, one)
    await rest(store)
    waiting = parked(store)

    await store.retry([one.ref])

    assert (await soon(waiting)).queues == {QUEUE}


async def test_a_job_handed_back_wakes_a_wait(store: Store) -> None:
    one = await given_active(store)
    await rest(store, worker="w2")
    waiting = parked(store, worker="w2")

    await store.settle([Settlement(one, Released())])

    assert (await soon(waiting)).queues == {QUEUE}


async def test_a_parent_that_is_released_wakes_a_wait(store: Store) -> None:
    await given_flow(store)
    child = await claim_one(store, "images")
    await rest(store)
    waiting = parked(store)

    await complete(store, child)

    assert (await soon(waiting)).queues == {QUEUE}


async def test_a_wait_that_is_cancelled_loses_no_ring(store: Store) -> None:
    await rest(store)
    waiting = parked(store)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})

    await given(store)

    assert (await wait(store)).queues == {QUEUE}
