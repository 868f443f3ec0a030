"""Removing a schedule: it goes with its delayed run; a run that waits for a worker still runs."""

from __future__ import annotations

import pytest

from conformance.given import (
    QUEUE,
    advance,
    claim,
    claim_all,
    claim_one,
    complete,
    count_of,
    events_of,
    given,
    known,
    names_told,
    refs,
    state_of,
    told,
)
from conformance.given_schedules import REPORT, advanced, claim_run, given_paused, given_schedule, schedule_of
from toril.model import Answer, Placed
from toril.options import HOUR_MS, JobOptions
from toril.states import State
from toril.store import Store


async def test_a_schedule_goes_with_its_delayed_run(store: Store) -> None:
    seen = await given_schedule(store)

    assert await store.remove_schedule(QUEUE, REPORT) is True

    assert await store.schedules() == []
    assert await known(store, seen.iteration) is None
    assert await count_of(store, State.DELAYED) == 0
    await advance(store, 2 * HOUR_MS)
    assert (await claim(store)).claims == ()


async def test_the_delayed_run_is_told_as_removed(store: Store) -> None:
    seen = await given_schedule(store)
    last = await store.last_event(QUEUE)

    await store.remove_schedule(QUEUE, REPORT)

    assert await told(store, after=last) == [("removed", {"prev": "delayed"})]
    assert [event.job_id for event in await events_of(store, after=last)] == [seen.iteration.id]


@pytest.mark.parametrize("priority", [0, 3])
async def test_a_run_that_waits_for_a_worker_still_runs(store: Store, priority: int) -> None:
    seen = await given_schedule(store, in_ms=0, options=JobOptions(priority=priority))
    last = await store.last_event(QUEUE)

    assert await store.remove_schedule(QUEUE, REPORT) is True

    assert await names_told(store, after=last) == []
    one = await claim_one(store)
    assert (one.ref, one.schedule) == (seen.iteration, REPORT)


async def test_a_run_that_is_active_goes_on(store: Store) -> None:
    seen = await given_schedule(store)
    one = await claim_run(store, seen)

    assert await store.remove_schedule(QUEUE, REPORT) is True

    await complete(store, one)
    assert await state_of(store, one.ref) is State.COMPLETED


async def test_runs_that_have_ended_stay(store: Store) -> None:
    first = await given_schedule(store)
    await complete(store, await claim_run(store, first))
    second = await advanced(store, first)

    await store.remove_schedule(QUEUE, REPORT)

    assert await state_of(store, first.iteration) is State.COMPLETED
    assert await state_of(store, second.iteration) is None


async def test_a_schedule_that_is_paused_goes_too(store: Store) -> None:
    await given_paused(store)

    assert await store.remove_schedule(QUEUE, REPORT) is True

    assert await store.schedules() == []


async def test_a_schedule_that_is_not_there_is_answered_with_no(store: Store) -> None:
    await given_schedule(store)
    await store.remove_schedule(QUEUE, REPORT)

    assert await store.remove_schedule(QUEUE, REPORT) is False
    assert await store.remove_schedule(QUEUE, "other") is False


async def test_removing_a_schedule_from_a_queue_that_nobody_has_used_leaves_no_trace(store: Store) -> None:
    assert await store.remove_schedule(QUEUE, REPORT) is False

    assert await store.summaries() == []


async def test_other_schedules_stay(store: Store) -> None:
    others = [
        await given_schedule(store, "reports", in_ms=1_000),
        await given_schedule(store, queue="images", in_ms=2_000),
    ]
    await given_schedule(store)

    await store.remove_schedule(QUEUE, REPORT)

    assert await store.schedules() == others


async def test_a_run_of_no_schedule_any_more_is_a_job_like_any_other(store: Store) -> None:
    first = await given_schedule(store, "first", in_ms=0)
    second = await given_schedule(store, "second", in_ms=0)
    await given(store)
    for id in ("first", "second"):
        await store.remove_schedule(QUEUE, id)

    assert await store.remove([first.iteration]) == [Answer.DONE]
    assert await store.drain(QUEUE) == 2

    assert await known(store, second.iteration) is None


async def test_a_schedule_that_comes_back_begins_anew(store: Store) -> None:
    seen = await given_schedule(store)
    one = await claim_run(store, seen)
    await advanced(store, seen, running=one.ref.id)
    await store.remove_schedule(QUEUE, REPORT)

    assert await store.put_schedule(seen.schedule, None, seen.next_at_ms + 2 * HOUR_MS) is Placed.DONE

    record = await schedule_of(store)
    assert (record.iterations, record.count, record.running) == (1, 1, None)
    await complete(store, one)
    await advance(store, 3 * HOUR_MS)
    assert refs(await claim_all(store)) == [record.iteration]
