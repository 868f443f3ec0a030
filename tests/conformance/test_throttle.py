"""Throttling: a queue gives nothing for so long."""

from __future__ import annotations

from conformance.given import (
    QUEUE,
    advance,
    claim,
    claim_one,
    complete,
    given,
    given_active,
    given_many,
    given_settings,
    now_ms,
    rest,
    state_of,
    wait,
)
from toril.model import Idle
from toril.options import RateLimit
from toril.states import State
from toril.store import Store


async def test_a_throttled_queue_gives_nothing_and_says_until_when(store: Store) -> None:
    await given(store)

    await store.throttle(QUEUE, 60_000)

    claimed = await claim(store)
    assert claimed.claims == ()
    assert claimed.idle == {QUEUE: Idle("limited", now_ms(store) + 60_000)}


async def test_a_throttle_ends_by_itself(store: Store) -> None:
    ref = await given(store)
    await store.throttle(QUEUE, 60_000)
    await advance(store, 59_999)
    assert (await claim(store)).claims == ()

    await advance(store, 1)

    assert (await claim_one(store)).ref == ref


async def test_a_throttle_of_nothing_lifts_it(store: Store) -> None:
    ref = await given(store)
    await store.throttle(QUEUE, 60_000)

    await store.throttle(QUEUE, 0)

    assert (await claim_one(store)).ref == ref
    assert (await store.settings(QUEUE)).limited_until_ms is None


async def test_lifting_a_throttle_wakes_the_workers(store: Store) -> None:
    await given(store)
    await store.throttle(QUEUE, 60_000)
    await rest(store)

    await store.throttle(QUEUE, 0)

    assert (await wait(store, for_ms=0)).queues == {QUEUE}


async def test_a_throttle_of_nothing_lifts_a_limit_that_was_reached(store: Store) -> None:
    limiter = RateLimit(1, per=60)
    for _ in range(2):
        await given(store)
    await claim(store, limiter=limiter)
    assert (await claim(store, limiter=limiter)).idle[QUEUE].reason == "limited"

    await store.throttle(QUEUE, 0)

    assert len((await claim(store, limiter=limiter)).claims) == 1


async def test_a_throttle_holds_for_workers_with_a_limit_of_their_own(store: Store) -> None:
    await given(store)
    await store.throttle(QUEUE, 60_000)

    assert (await claim(store, limiter=RateLimit(10, per=1))).idle == {QUEUE: Idle("limited", now_ms(store) + 60_000)}


async def test_a_running_job_goes_on_while_its_queue_is_throttled(store: Store) -> None:
    one = await given_active(store)
    await store.throttle(QUEUE, 60_000)

    await complete(store, one)

    assert await state_of(store, one.ref) is State.COMPLETED


async def test_throttling_one_queue_leaves_the_others_alone(store: Store) -> None:
    image = await given(store, queue="images")

    await store.throttle(QUEUE, 60_000)

    assert (await claim_one(store, "images")).ref == image


async def test_a_throttle_can_be_seen_among_the_settings(store: Store) -> None:
    await store.throttle(QUEUE, 60_000)

    assert (await store.settings(QUEUE)).limited_until_ms == now_ms(store) + 60_000


async def test_a_throttle_takes_the_place_of_the_one_before(store: Store) -> None:
    await given(store)
    await store.throttle(QUEUE, 60_000)

    await store.throttle(QUEUE, 1_000)

    assert (await claim(store)).idle == {QUEUE: Idle("limited", now_ms(store) + 1_000)}


async def test_a_shorter_throttle_takes_the_place_of_a_longer_one_where_a_limit_is_set(store: Store) -> None:
    await given_settings(store, rate_limit=RateLimit(10, per=60))
    ref = await given(store)
    await store.throttle(QUEUE, 60_000)

    await store.throttle(QUEUE, 1_000)
    await advance(store, 1_000)

    assert (await claim_one(store)).ref == ref


async def test_a_throttle_does_not_cut_short_a_limit_that_was_reached(store: Store) -> None:
    await given_settings(store, rate_limit=RateLimit(1, per=60))
    await given_many(store, 2)
    await claim_one(store)
    until_ms = now_ms(store) + 60_000

    await store.throttle(QUEUE, 1_000)
    await advance(store, 1_000)

    assert (await claim(store)).idle == {QUEUE: Idle("limited", until_ms)}
