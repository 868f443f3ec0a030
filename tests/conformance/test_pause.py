"""Pausing: a queue gives nothing until it is resumed; what runs goes on."""

from __future__ import annotations

from conformance.given import (
    QUEUE,
    advance,
    claim,
    claim_all,
    complete,
    given,
    given_active,
    given_many,
    given_settings,
    refs,
    state_of,
    told,
)
from toril.states import State
from toril.store import Store


async def test_a_paused_queue_takes_jobs_and_gives_none(store: Store) -> None:
    before = await given(store)
    await store.pause(QUEUE)
    after = await given(store)

    assert (await claim(store, free=5)).claims == ()
    assert await state_of(store, before) is State.WAITING
    assert await state_of(store, after) is State.WAITING


async def test_a_resumed_queue_gives_its_jobs_in_their_order(store: Store) -> None:
    await store.pause(QUEUE)
    jobs = await given_many(store, 3)

    await store.resume(QUEUE)

    assert refs(await claim_all(store)) == jobs


async def test_a_running_job_goes_on_while_its_queue_is_paused(store: Store) -> None:
    one = await given_active(store)
    await store.pause(QUEUE)

    await complete(store, one)

    assert await state_of(store, one.ref) is State.COMPLETED


async def test_a_due_job_is_not_handed_out_while_its_queue_is_paused(store: Store) -> None:
    ref = await given(store, delay=5)
    await store.pause(QUEUE)
    await advance(store, 5_000)
    assert (await claim(store)).claims == ()

    await store.resume(QUEUE)

    assert refs(await claim_all(store)) == [ref]


async def test_pausing_one_queue_leaves_the_others_alone(store: Store) -> None:
    await store.pause(QUEUE)
    image = await given(store, queue="images")

    assert refs(await claim_all(store, "images")) == [image]


async def test_paused_is_a_setting_that_can_be_seen(store: Store) -> None:
    await store.pause(QUEUE)
    assert (await store.settings(QUEUE)).paused

    await store.resume(QUEUE)
    assert not (await store.settings(QUEUE)).paused


async def test_pausing_leaves_the_other_settings_as_they_are(store: Store) -> None:
    settings = await given_settings(store, concurrency=3, max_waiting=9)

    await store.pause(QUEUE)
    await store.resume(QUEUE)

    assert await store.settings(QUEUE) == settings


async def test_pausing_and_resuming_are_told(store: Store) -> None:
    await store.pause(QUEUE)
    await store.resume(QUEUE)

    assert await told(store) == [("paused", {}), ("resumed", {})]


async def test_pausing_again_and_resuming_again_are_not_told(store: Store) -> None:
    await store.resume(QUEUE)
    await store.pause(QUEUE)
    await store.pause(QUEUE)
    await store.resume(QUEUE)
    await store.resume(QUEUE)

    assert await told(store) == [("paused", {}), ("resumed", {})]
