"""Obliterating: a paused queue goes with everything in it."""

from __future__ import annotations

import pytest

from conformance.given import (
    QUEUE,
    added,
    claim,
    claim_all,
    claim_one,
    complete,
    given,
    given_active,
    given_completed,
    given_failed,
    given_flow,
    given_many,
    given_settings,
    known,
    new_job,
    refs,
    state_of,
    summary_of,
)
from toril.errors import QueueBusy, QueueNotPaused
from toril.model import QueueSettings
from toril.states import State
from toril.store import Store


async def test_a_paused_queue_goes_with_everything_in_it(store: Store) -> None:
    jobs = [
        await given_completed(store),
        await given_failed(store),
        await given(store),
        await given(store, priority=3),
        await given(store, delay=60),
        (await given_flow(store))[0],
    ]
    await store.pause(QUEUE)

    assert await store.obliterate(QUEUE) == 6

    assert [await known(store, ref) for ref in jobs] == [None] * 6
    assert QUEUE not in [summary.name for summary in await store.summaries()]


async def test_a_queue_that_is_not_paused_stays(store: Store) -> None:
    ref = await given(store)

    with pytest.raises(QueueNotPaused) as refused:
        await store.obliterate(QUEUE, force=True)

    assert refused.value.queue == QUEUE
    assert await state_of(store, ref) is State.WAITING


async def test_a_queue_with_running_jobs_stays(store: Store) -> None:
    one = await given_active(store)
    waiting = await given(store)
    await store.pause(QUEUE)

    with pytest.raises(QueueBusy) as refused:
        await store.obliterate(QUEUE)

    assert (refused.value.queue, refused.value.active) == (QUEUE, 1)
    assert await state_of(store, one.ref) is State.ACTIVE
    assert await state_of(store, waiting) is State.WAITING


async def test_running_jobs_go_too_by_force(store: Store) -> None:
    one = await given_active(store)
    await store.pause(QUEUE)

    assert await store.obliterate(QUEUE, force=True) == 1

    assert await state_of(store, one.ref) is None


async def test_results_that_outlived_their_job_go_too(store: Store) -> None:
    ref = await given_completed(store, keep_completed=False)
    assert await known(store, ref) is not None
    await store.pause(QUEUE)

    await store.obliterate(QUEUE)

    assert await known(store, ref) is None


async def test_the_settings_and_events_of_the_queue_go_too(store: Store) -> None:
    await given_settings(store, paused=True, concurrency=3)
    await given(store)

    await store.obliterate(QUEUE)

    assert await store.settings(QUEUE) == QueueSettings()
    assert await store.read(QUEUE, None) == []


async def test_the_queue_begins_anew(store: Store) -> None:
    await given_many(store, 3)
    await store.pause(QUEUE)
    await store.obliterate(QUEUE)

    [member] = await added(store, new_job(store, job_id="order-7"))

    assert refs(await claim_all(store)) == [member.ref]
    assert (await summary_of(store)).counts[State.ACTIVE] == 1


async def test_a_throttle_goes_with_its_queue(store: Store) -> None:
    await store.throttle(QUEUE, 60_000)
    await store.pause(QUEUE)
    await store.obliterate(QUEUE)

    await given(store)

    assert len((await claim(store)).claims) == 1


async def test_the_other_queues_stay(store: Store) -> None:
    image = await given(store, queue="images")
    await store.pause(QUEUE)

    assert await store.obliterate(QUEUE) == 0

    assert await state_of(store, image) is State.WAITING


async def test_a_parent_elsewhere_is_released_and_children_elsewhere_go_on_alone(store: Store) -> None:
    parent, _ = await given_flow(store, queue="albums", child_queue=QUEUE)
    _, [child] = await given_flow(store, child_queue="images")
    await store.pause(QUEUE)

    assert await store.obliterate(QUEUE) == 2

    assert await state_of(store, parent) is State.WAITING
    await complete(store, await claim_one(store, "images"))
    assert await state_of(store, child) is State.COMPLETED
