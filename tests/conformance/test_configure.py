"""Configuring: the settings of a queue, all of them at once."""

from __future__ import annotations

from dataclasses import replace

from conformance.given import (
    QUEUE,
    claim,
    given,
    given_active,
    given_completed,
    given_many,
    given_settings,
    names_told,
    now_ms,
    rest,
    state_of,
    told,
    wait,
)
from toril.model import QueueSettings
from toril.options import RateLimit
from toril.states import State
from toril.store import Store


async def test_a_queue_that_nobody_configured_has_the_defaults(store: Store) -> None:
    assert await store.settings(QUEUE) == QueueSettings()


async def test_settings_are_kept_as_they_were_set(store: Store) -> None:
    settings = QueueSettings(
        paused=True,
        concurrency=7,
        rate_limit=RateLimit(100, per=60),
        max_waiting=500,
        events=True,
        max_events=2_000,
    )

    await store.configure(QUEUE, settings)

    assert await store.settings(QUEUE) == settings


async def test_settings_left_at_their_default_go_back_to_it(store: Store) -> None:
    await given_settings(store, concurrency=7, rate_limit=RateLimit(100, per=60), max_waiting=5, max_events=50)

    await store.configure(QUEUE, QueueSettings())

    assert await store.settings(QUEUE) == QueueSettings()


async def test_the_settings_of_a_queue_are_its_own(store: Store) -> None:
    await given_settings(store, concurrency=7)

    assert await store.settings("images") == QueueSettings()


async def test_configuring_pauses_and_resumes(store: Store) -> None:
    await given(store)

    await given_settings(store, paused=True)
    assert (await claim(store)).idle[QUEUE].reason == "paused"

    await given_settings(store, paused=False)
    assert len((await claim(store)).claims) == 1


async def test_configuring_tells_paused_and_resumed_when_that_changes(store: Store) -> None:
    await given_settings(store, concurrency=1)
    await given_settings(store, paused=True)
    await given_settings(store, paused=True, concurrency=2)
    await given_settings(store, paused=False)

    assert await told(store) == [("paused", {}), ("resumed", {})]


async def test_configuring_a_queue_awake_wakes_its_workers(store: Store) -> None:
    await given_settings(store, paused=True)
    await given(store)
    await rest(store)

    await given_settings(store, paused=False)

    assert (await wait(store)).queues == {QUEUE}


async def test_more_room_wakes_the_workers_of_a_queue(store: Store) -> None:
    await given_settings(store, concurrency=1)
    await given_active(store)
    await given(store)
    await rest(store)

    await given_settings(store, concurrency=2)

    assert (await wait(store, for_ms=0)).queues == {QUEUE}


async def test_a_queue_holds_to_a_new_concurrency(store: Store) -> None:
    await given_many(store, 3)
    await given_settings(store, concurrency=1)
    assert len((await claim(store, free=3)).claims) == 1

    await given_settings(store, concurrency=None)

    assert len((await claim(store, free=3)).claims) == 2


async def test_configuring_does_not_lift_a_throttle(store: Store) -> None:
    await given(store)
    await store.throttle(QUEUE, 60_000)

    await store.configure(QUEUE, replace(QueueSettings(), concurrency=3, limited_until_ms=None))

    assert (await claim(store)).idle[QUEUE].reason == "limited"
    assert (await store.settings(QUEUE)).limited_until_ms == now_ms(store) + 60_000


async def test_configuring_cannot_set_what_is_read_only(store: Store) -> None:
    await given(store)

    await store.configure(QUEUE, QueueSettings(limited_until_ms=now_ms(store) + 60_000))

    assert (await store.settings(QUEUE)).limited_until_ms is None
    assert len((await claim(store)).claims) == 1


async def test_a_queue_without_events_writes_none(store: Store) -> None:
    await given_settings(store, events=False)

    ref = await given_completed(store)

    assert await state_of(store, ref) is State.COMPLETED
    assert await names_told(store) == []


async def test_events_switched_on_again_are_written(store: Store) -> None:
    await given_settings(store, events=False)
    await given(store)
    await given_settings(store, events=True)

    await given(store)

    assert await names_told(store) == ["added", "waiting"]
