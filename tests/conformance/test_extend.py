"""Extending: a lock lives as long as its holder renews it."""

from __future__ import annotations

from conformance.given import (
    INTERVAL_MS,
    LOCK_MS,
    QUEUE,
    advance,
    claim_one,
    complete,
    given_active,
    now_ms,
    record_of,
    stall,
    state_of,
)
from toril.states import State
from toril.store import Store


async def test_a_lock_is_renewed_from_now(store: Store) -> None:
    one = await given_active(store)
    await advance(store, 10_000)

    assert await store.extend([one], LOCK_MS) == []

    until_ms = (await record_of(store, one.ref)).locked_until_ms
    assert until_ms is not None
    slack_ms = LOCK_MS - 10_000 if store.kind == "redis" else 0  # a lock's time to live runs on the server's own clock
    assert now_ms(store) + LOCK_MS - slack_ms <= until_ms <= now_ms(store) + LOCK_MS


async def test_a_lock_may_be_renewed_for_longer(store: Store) -> None:
    one = await given_active(store)

    await store.extend([one], 10 * LOCK_MS)
    await advance(store, 9 * LOCK_MS)
    await store.recover([QUEUE], max_stalled=1, interval_ms=INTERVAL_MS)
    await advance(store, INTERVAL_MS - 1_000)
    recovered = await store.recover([QUEUE], max_stalled=1, interval_ms=1)

    assert recovered.requeued == ()
    assert await state_of(store, one.ref) is State.ACTIVE


async def test_a_lock_renewed_in_time_is_not_recovered(store: Store) -> None:
    one = await given_active(store)
    for _ in range(5):
        await advance(store, LOCK_MS - 1_000)
        assert await store.extend([one], LOCK_MS) == []
        assert (await store.recover([QUEUE], max_stalled=1, interval_ms=1)).requeued == ()

    assert await state_of(store, one.ref) is State.ACTIVE
    await complete(store, one)


async def test_a_lock_that_another_worker_holds_is_lost(store: Store) -> None:
    stale = await given_active(store)
    await stall(store)
    fresh = await claim_one(store, worker="w2")
    before = await record_of(store, stale.ref)

    assert await store.extend([stale], 10 * LOCK_MS) == [stale.ref]

    assert await record_of(store, stale.ref) == before
    await complete(store, fresh)


async def test_a_lock_of_a_job_that_was_taken_back_is_lost(store: Store) -> None:
    stale = await given_active(store)
    await stall(store)

    assert await store.extend([stale], LOCK_MS) == [stale.ref]
    assert await state_of(store, stale.ref) is State.WAITING


async def test_a_lock_of_a_finished_job_is_lost(store: Store) -> None:
    one = await given_active(store)
    await complete(store, one)

    assert await store.extend([one], LOCK_MS) == [one.ref]
    assert await state_of(store, one.ref) is State.COMPLETED


async def test_only_the_lost_are_named(store: Store) -> None:
    gone, held = await given_active(store), await given_active(store)
    await complete(store, gone)
    await advance(store, 5_000)

    assert await store.extend([gone, held], LOCK_MS) == [gone.ref]
    await advance(store, LOCK_MS - 1_000)
    assert await store.extend([held], LOCK_MS) == []


async def test_nothing_to_renew_loses_nothing(store: Store) -> None:
    assert await store.extend([], LOCK_MS) == []
