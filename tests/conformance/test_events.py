"""Events: what happened in a queue, in its order, for readers that come back."""

from __future__ import annotations

import asyncio

import pytest

from conformance.given import (
    INTERVAL_MS,
    LOCK_MS,
    QUEUE,
    added,
    advance,
    claim_one,
    complete,
    events_of,
    fail,
    given,
    given_active,
    given_many,
    given_settings,
    names_told,
    new_job,
    now_ms,
    ref_of,
    retry_after,
    settle,
    soon,
    told,
)
from toril.errors import ConfigError
from toril.model import Event, Failed, Report
from toril.states import State
from toril.store import Store


async def test_an_event_says_what_happened_to_whom_and_when(store: Store) -> None:
    await advance(store, 123)
    ref = await given(store, name="digest")

    first, second = await events_of(store)

    assert (first.queue, first.name, first.job_id, first.at_ms) == (QUEUE, "added", ref.id, now_ms(store))
    assert first.fields == {"name": "digest"}
    assert (second.name, second.job_id) == ("waiting", ref.id)
    assert first.id != second.id


async def test_the_life_of_a_job_is_told_in_its_order(store: Store) -> None:
    ref = await given(store, name="digest", delay=5, attempts=2, backoff=1)
    due_at_ms = now_ms(store) + 5_000
    await advance(store, 5_000)
    one = await claim_one(store)
    await store.report([Report(one, progress="50")])
    await retry_after(store, one, 1_000)
    again_at_ms = now_ms(store) + 1_000
    await advance(store, 1_000)
    await fail(store, await claim_one(store), "no")
    await store.retry([ref])
    await complete(store, await claim_one(store), '"ok"')
    await store.remove([ref])

    assert await told(store) == [
        ("added", {"name": "digest"}),
        ("delayed", {"due_at_ms": str(due_at_ms)}),
        ("waiting", {"prev": "delayed"}),
        ("active", {"prev": "waiting"}),
        ("progress", {"data": "50"}),
        ("delayed", {"due_at_ms": str(again_at_ms)}),
        ("waiting", {"prev": "delayed"}),
        ("active", {"prev": "waiting"}),
        ("failed", {"reason": "no", "prev": "active"}),
        ("retries-exhausted", {"attempts_made": "2"}),
        ("drained", {}),
        ("waiting", {"prev": "failed"}),
        ("active", {"prev": "waiting"}),
        ("completed", {"result": '"ok"', "prev": "active"}),
        ("drained", {}),
        ("removed", {"prev": "completed"}),
    ]


async def test_a_stall_is_told_in_its_order(store: Store) -> None:
    await given_active(store)
    await store.recover([QUEUE], max_stalled=0, interval_ms=INTERVAL_MS)
    await advance(store, LOCK_MS + INTERVAL_MS)
    await store.recover([QUEUE], max_stalled=0, interval_ms=INTERVAL_MS)
    marked = await claim_one(store)
    assert marked.deferred is not None
    await settle(store, marked, Failed(marked.deferred))

    names = (await names_told(store))[3:]

    assert names[:4] == ["waiting", "stalled", "active", "failed"]


async def test_a_flow_is_told_in_the_queues_of_its_jobs(store: Store) -> None:
    parent = new_job(store, queue="albums", has_children=True)
    child = new_job(store, parent=ref_of(parent))
    await added(store, parent, child)
    await complete(store, await claim_one(store))

    assert await names_told(store, "albums") == ["added", "waiting-children", "waiting"]
    assert await names_told(store) == ["added", "waiting", "active", "completed", "drained"]


async def test_events_of_the_queue_itself_name_no_job(store: Store) -> None:
    await store.pause(QUEUE)
    await store.clean(QUEUE, State.COMPLETED, grace_ms=0, limit=10)

    assert [(event.name, event.job_id) for event in await events_of(store)] == [("paused", None), ("cleaned", None)]


async def test_the_events_of_a_queue_are_its_own(store: Store) -> None:
    await given(store, queue="images")

    assert await events_of(store) == []


# ------------------------------------------------------------------ reading


async def everything_told(store: Store) -> list[Event]:
    """All events that are kept, taken a page at a time."""
    seen: list[Event] = []
    while page := await store.read(QUEUE, seen[-1].id if seen else None):
        seen += page
    return seen


async def test_a_reader_resumes_after_the_last_event_it_has_seen(store: Store) -> None:
    await given_many(store, 3)
    everything = await events_of(store)

    for n, seen in enumerate(everything):
        assert await events_of(store, after=seen.id) == everything[n + 1 :]


async def test_a_reader_that_takes_a_few_at_a_time_misses_nothing(store: Store) -> None:
    await given_many(store, 5)
    everything = await events_of(store)

    seen: list[Event] = []
    while page := await store.read(QUEUE, seen[-1].id if seen else None, limit=3):
        assert len(page) <= 3
        seen += page

    assert seen == everything


async def test_a_unit_of_many_jobs_can_be_read_in_parts(store: Store) -> None:
    await added(store, *[new_job(store) for _ in range(10)])

    first = await store.read(QUEUE, None, limit=7)
    others = await store.read(QUEUE, first[-1].id)

    assert (len(first), len(others)) == (7, 13)
    assert [event.name for event in first + others] == ["added", "waiting"] * 10


async def test_a_reader_that_wants_only_what_comes_next_begins_at_the_last_event(store: Store) -> None:
    await given(store)
    last = await store.last_event(QUEUE)
    assert await events_of(store, after=last) == []

    await given(store, priority=2)

    assert await names_told(store, after=last) == ["added", "waiting"]


async def test_the_last_event_of_a_queue_without_any_is_a_place_to_begin(store: Store) -> None:
    last = await store.last_event(QUEUE)

    await given(store)

    assert await names_told(store, after=last) == ["added", "waiting"]


async def test_a_reader_waits_for_the_first_event(store: Store) -> None:
    await given(store)
    last = await store.last_event(QUEUE)
    reading = asyncio.ensure_future(store.read(QUEUE, last, until_ms=now_ms(store) + 60_000))

    ref = await given(store)

    events = await soon(reading)
    assert events[0].name == "added"
    assert {event.job_id for event in events} == {ref.id}


async def test_a_reader_hears_of_events_from_another_store_on_the_same_place(store: Store, neighbour: Store) -> None:
    last = await store.last_event(QUEUE)
    reading = asyncio.ensure_future(store.read(QUEUE, last, until_ms=now_ms(store) + 60_000))

    ref = await given(neighbour)

    assert (await soon(reading))[0].job_id == ref.id


async def test_a_reader_waits_no_longer_than_it_wants(store: Store) -> None:
    last = await store.last_event(QUEUE)
    reading = asyncio.ensure_future(store.read(QUEUE, last, until_ms=now_ms(store) + 5_000))

    await advance(store, 5_000)

    assert await soon(reading) == []


async def test_a_reader_that_does_not_want_to_wait_does_not(store: Store) -> None:
    assert await soon(store.read(QUEUE, None)) == []


async def test_many_readers_hear_of_the_same_event(store: Store) -> None:
    last = await store.last_event(QUEUE)
    readings = [asyncio.ensure_future(store.read(QUEUE, last, until_ms=now_ms(store) + 60_000)) for _ in range(20)]

    ref = await given(store)

    assert {events[0].job_id for events in await soon(asyncio.gather(*readings))} == {ref.id}


async def test_a_reader_that_gives_up_does_not_disturb_another(store: Store) -> None:
    last = await store.last_event(QUEUE)
    first, second = [asyncio.ensure_future(store.read(QUEUE, last, until_ms=now_ms(store) + 60_000)) for _ in "ab"]
    await store.read(QUEUE, last)  # by now both have begun
    first.cancel()
    await asyncio.wait((first,))

    ref = await given(store)

    assert (await soon(second))[0].job_id == ref.id


async def test_a_reader_of_one_queue_is_not_woken_by_another(store: Store) -> None:
    reading = asyncio.ensure_future(store.read(QUEUE, None, until_ms=now_ms(store) + 60_000))

    await given(store, queue="images")
    ref = await given(store)

    assert (await soon(reading))[0].job_id == ref.id


@pytest.mark.parametrize("after", ["", "the last", "-1", "1-2-3"])
async def test_a_reader_cannot_begin_behind_what_is_no_event(store: Store, after: str) -> None:
    with pytest.raises(ConfigError, match="is not the id of an event of this store"):
        await store.read(QUEUE, after)


# ------------------------------------------------------------------ publishing and trimming


async def test_events_of_ones_own_stand_among_the_others(store: Store) -> None:
    await given(store)

    event_id = await store.publish(QUEUE, "invoice-seen", {"by": "ada", "total": "12.50"})
    await given(store)

    event = (await events_of(store))[2]
    assert (event.id, event.name, event.job_id) == (event_id, "invoice-seen", None)
    assert event.fields == {"by": "ada", "total": "12.50"}
    assert await store.last_event(QUEUE) != event_id


async def test_trimming_drops_all_but_about_the_newest(store: Store) -> None:
    for _ in range(30):
        await store.publish(QUEUE, "tick", {})
    everything = await events_of(store)

    dropped = await store.trim(QUEUE, 10)

    kept = await events_of(store)
    assert 10 <= len(kept) <= 30
    assert dropped == 30 - len(kept)
    assert kept == everything[dropped:]


async def test_trimming_to_nothing_leaves_a_place_to_go_on_from(store: Store) -> None:
    await given_many(store, 3)
    last = await store.last_event(QUEUE)
    await store.trim(QUEUE, 0)

    await given(store)

    assert await names_told(store, after=last) == ["added", "waiting"]


async def test_a_queue_keeps_about_as_many_events_as_it_is_set_to(store: Store) -> None:
    await given_settings(store, max_events=100)
    for _ in range(8):
        await added(store, *[new_job(store) for _ in range(300)])

    await store.pause(QUEUE)

    last = await store.last_event(QUEUE)
    kept = await everything_told(store)
    assert 100 <= len(kept) < 2_400  # of the 4,801 that were written
    assert (kept[-1].id, kept[-1].name) == (last, "paused")


async def test_a_queue_without_events_tells_nothing_of_its_jobs(store: Store) -> None:
    await given_settings(store, events=False)

    await complete(store, await given_active(store))
    await store.pause(QUEUE)

    assert await events_of(store) == []


async def test_an_event_of_ones_own_may_be_about_a_job(store: Store) -> None:
    ref = await given(store)

    await store.publish(QUEUE, "invoice-seen", {"job_id": ref.id, "by": "ada"})

    event = (await events_of(store))[-1]
    assert (event.job_id, event.fields) == (ref.id, {"by": "ada"})


async def test_a_queue_without_events_takes_none_of_ones_own(store: Store) -> None:
    await given(store)
    await given_settings(store, events=False)

    event_id = await store.publish(QUEUE, "invoice-seen", {})

    assert "invoice-seen" not in await names_told(store)
    assert event_id == await store.last_event(QUEUE)
