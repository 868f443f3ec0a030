"""Summaries: a queue at a glance."""

from __future__ import annotations

from conformance.given import (
    QUEUE,
    advance,
    claim_one,
    count_of,
    given,
    given_active,
    given_completed,
    given_failed,
    given_flow,
    given_many,
    given_settings,
    now_ms,
    summary_of,
)
from toril.states import State
from toril.store import Store


async def test_a_store_with_nothing_in_it_has_no_queues(store: Store) -> None:
    assert await store.summaries() == []


async def test_jobs_are_counted_by_state(store: Store) -> None:
    await given_completed(store)
    await given_completed(store)
    await given_failed(store)
    await given_active(store)
    await given_many(store, 3)
    await given(store, priority=1)
    await given(store, delay=60)
    await given_flow(store)

    assert dict((await summary_of(store)).counts) == {
        State.WAITING: 3,
        State.PRIORITIZED: 1,
        State.DELAYED: 1,
        State.ACTIVE: 1,
        State.WAITING_CHILDREN: 1,
        State.COMPLETED: 2,
        State.FAILED: 1,
    }


async def test_every_state_has_a_count(store: Store) -> None:
    await given(store)

    assert set((await summary_of(store)).counts) == set(State)


async def test_all_queues_are_named_once(store: Store) -> None:
    await given_many(store, 2)
    await given(store, queue="images")
    await given_settings(store, "sms", concurrency=1)

    assert sorted(summary.name for summary in await store.summaries()) == ["email", "images", "sms"]


async def test_only_the_queues_asked_for_are_named(store: Store) -> None:
    for queue in ("email", "images", "sms"):
        await given(store, queue=queue)

    assert sorted(summary.name for summary in await store.summaries(["sms", "email"])) == ["email", "sms"]


async def test_a_queue_that_has_drained_is_still_known(store: Store) -> None:
    await given(store)
    await store.drain(QUEUE)

    assert [summary.name for summary in await store.summaries()] == [QUEUE]


async def test_a_summary_shows_the_settings(store: Store) -> None:
    settings = await given_settings(store, paused=True, concurrency=4, max_waiting=9)

    assert (await summary_of(store)).settings == settings


async def test_a_job_that_was_not_kept_is_not_counted(store: Store) -> None:
    await given_completed(store, keep_completed=False)

    assert await count_of(store, State.COMPLETED) == 0


async def test_a_summary_says_how_long_the_oldest_job_has_waited(store: Store) -> None:
    await given(store)
    oldest_at_ms = now_ms(store)
    await advance(store, 5_000)
    await given(store, priority=3)

    assert (await summary_of(store)).oldest_ready_at_ms == oldest_at_ms
    await claim_one(store)
    assert (await summary_of(store)).oldest_ready_at_ms == now_ms(store)


async def test_a_queue_in_which_nothing_waits_has_no_oldest(store: Store) -> None:
    await given_active(store)
    await given(store, delay=60)

    assert (await summary_of(store)).oldest_ready_at_ms is None
