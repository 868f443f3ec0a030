"""Advancing a schedule: the run that comes after the one that was seen is made once, whoever asks."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from conformance.given import (
    QUEUE,
    advance,
    claim,
    claim_one,
    complete,
    count_of,
    events_of,
    found,
    names_told,
    now_ms,
    record_of,
    refs,
    rest,
    state_of,
    told,
    wait,
)
from conformance.given_schedules import (
    REPORT,
    advanced,
    claim_run,
    given_paused,
    given_schedule,
    in_every_detail,
    run_at,
    run_of,
    schedule,
    schedule_of,
)
from toril.model import Placed, Schedule, ScheduleRecord, Superseded
from toril.options import HOUR_MS, JobOptions
from toril.states import State
from toril.store import Store
from toril.timing import Missed, Overlap, Timing


async def given_vanished(store: Store) -> ScheduleRecord:
    """A schedule whose run to come is not there."""
    seen = await given_schedule(store, options=JobOptions(keep_completed=0))
    await complete(store, await claim_run(store, seen))
    return await schedule_of(store)


async def test_the_next_run_comes_in_the_place_of_the_one_that_was_claimed(store: Store) -> None:
    seen = await given_schedule(store)
    one = await claim_run(store, seen)

    assert await store.advance_schedule(seen, seen.next_at_ms + HOUR_MS) is Placed.DONE

    record = await schedule_of(store)
    assert (record.next_at_ms, record.iterations, record.count) == (seen.next_at_ms + HOUR_MS, 2, 2)
    assert (record.schedule, record.state) == (seen.schedule, State.DELAYED)
    assert await found(store, State.DELAYED) == [run_at(seen.next_at_ms + HOUR_MS)]
    assert await state_of(store, one.ref) is State.ACTIVE


async def test_the_next_run_has_the_name_the_data_and_the_options_of_the_schedule(store: Store) -> None:
    wanted = in_every_detail(store)
    await store.put_schedule(wanted, None, now_ms(store) + HOUR_MS)
    seen = await schedule_of(store)
    await claim_run(store, seen)

    run = await run_of(store, await advanced(store, seen))

    assert (run.name, run.data, run.priority, run.schedule) == ("digest", '{"to":"ada"}', 7, REPORT)
    assert replace(run.options, delay_ms=0) == wanted.options
    assert (run.created_at_ms, run.due_at_ms) == (now_ms(store), seen.next_at_ms + HOUR_MS)


async def test_the_next_run_is_claimed_at_its_time(store: Store) -> None:
    seen = await given_schedule(store)
    await claim_run(store, seen)
    after = await advanced(store, seen, by_ms=1_000)

    await advance(store, 999)
    assert (await claim(store)).claims == ()
    await advance(store, 1)

    one = await claim_one(store)
    assert (one.ref, one.schedule, one.attempt) == (after.iteration, REPORT, 1)


@pytest.mark.parametrize(("priority", "state"), [(0, State.WAITING), (3, State.PRIORITIZED)])
async def test_a_next_run_whose_time_has_passed_waits_for_a_worker(store: Store, priority: int, state: State) -> None:
    seen = await given_schedule(store, options=JobOptions(priority=priority))
    await claim_run(store, seen)
    await advance(store, 3 * HOUR_MS)
    last = await store.last_event(QUEUE)

    after = await advanced(store, seen)

    assert after.state is state
    assert await names_told(store, after=last) == ["added", "waiting"]
    assert refs([await claim_one(store)]) == [after.iteration]


async def test_the_next_run_is_told(store: Store) -> None:
    seen = await given_schedule(store)
    await claim_run(store, seen)
    last = await store.last_event(QUEUE)

    after = await advanced(store, seen)

    assert await told(store, after=last) == [
        ("added", {"name": "digest"}),
        ("delayed", {"due_at_ms": str(after.next_at_ms)}),
    ]
    assert {event.job_id for event in await events_of(store, after=last)} == {after.iteration.id}


async def test_the_next_run_wakes_a_worker(store: Store) -> None:
    seen = await given_schedule(store)
    await claim_run(store, seen)
    await claim(store)
    await rest(store)

    await advanced(store, seen)

    assert (await wait(store)).queues == {QUEUE}


async def test_a_day_of_hourly_runs_is_a_run_each_hour(store: Store) -> None:
    seen = await given_schedule(store)
    first_ms, ran = seen.next_at_ms, list[str]()

    for _ in range(24):
        one = await claim_run(store, seen)
        seen = await advanced(store, seen)
        await complete(store, one)
        ran.append(one.ref.id)

    assert ran == [run_at(first_ms + n * HOUR_MS).id for n in range(24)]
    assert (seen.iterations, seen.count) == (25, 25)
    assert [await count_of(store, state) for state in (State.COMPLETED, State.DELAYED)] == [24, 1]


async def test_a_schedule_is_advanced_after_its_run_has_completed_and_gone(store: Store) -> None:
    seen = await given_vanished(store)

    after = await advanced(store, seen)

    assert (after.next_at_ms, after.state) == (seen.next_at_ms + HOUR_MS, State.DELAYED)
    assert after.iterations == 2


# ------------------------------------------------------------------ the run that was let run


async def test_the_run_that_was_let_run_is_remembered(store: Store) -> None:
    seen = await given_schedule(store)
    one = await claim_run(store, seen)

    assert (await advanced(store, seen, running=one.ref.id)).running == one.ref.id


async def test_the_run_that_was_let_run_stays_until_another_one_is(store: Store) -> None:
    seen = await given_schedule(store)
    for running in ("one", None, "two"):
        await complete(store, await claim_run(store, seen))
        seen = await advanced(store, seen, running=running)
        assert seen.running == ("two" if running == "two" else "one")


# ------------------------------------------------------------------ the same run again


async def test_a_run_that_has_vanished_is_made_again_and_not_counted_twice(store: Store) -> None:
    seen = await given_vanished(store)

    assert await store.advance_schedule(seen, seen.next_at_ms) is Placed.DONE

    record = await schedule_of(store)
    assert (record.next_at_ms, record.iterations) == (seen.next_at_ms, seen.iterations)
    assert record.state is State.WAITING
    assert refs([await claim_one(store)]) == [seen.iteration]


async def test_a_run_that_is_there_is_not_made_again(store: Store) -> None:
    seen = await given_schedule(store)

    assert await store.advance_schedule(seen, seen.next_at_ms) is Placed.CHANGED
    one = await claim_run(store, seen)
    assert await store.advance_schedule(seen, seen.next_at_ms) is Placed.CHANGED
    await complete(store, one)
    assert await store.advance_schedule(seen, seen.next_at_ms) is Placed.CHANGED

    assert await state_of(store, seen.iteration) is State.COMPLETED
    assert (await schedule_of(store)).iterations == 1


# ------------------------------------------------------------------ what is not as it was seen


async def test_a_schedule_is_advanced_once_however_often_it_is_asked(store: Store) -> None:
    seen = await given_schedule(store)
    await claim_run(store, seen)
    after = await advanced(store, seen)

    assert await store.advance_schedule(seen, seen.next_at_ms + HOUR_MS) is Placed.CHANGED

    assert await schedule_of(store) == after
    assert await count_of(store, State.DELAYED) == 1


async def test_of_many_who_advance_a_schedule_one_does(store: Store) -> None:
    seen = await given_schedule(store)
    await claim_run(store, seen)

    placed = await asyncio.gather(*(store.advance_schedule(seen, seen.next_at_ms + n * HOUR_MS) for n in range(1, 9)))

    assert sorted(placed) == [*[Placed.CHANGED] * 7, Placed.DONE]
    assert await count_of(store, State.DELAYED) == 1


async def test_a_schedule_that_is_gone_is_not_advanced(store: Store) -> None:
    seen = await given_schedule(store)
    await claim_run(store, seen)
    await store.remove_schedule(QUEUE, REPORT)

    assert await store.advance_schedule(seen, seen.next_at_ms + HOUR_MS) is Placed.CHANGED

    assert await store.schedules() == []
    assert await count_of(store, State.DELAYED) == 0


async def test_a_schedule_that_was_put_again_is_not_advanced_by_who_saw_the_old_one(store: Store) -> None:
    seen = await given_schedule(store)
    await store.put_schedule(seen.schedule, seen, seen.next_at_ms + 1_000)
    before = await schedule_of(store)

    assert await store.advance_schedule(seen, seen.next_at_ms + HOUR_MS) is Placed.CHANGED

    assert await schedule_of(store) == before
    assert await found(store, State.DELAYED) == [before.iteration]


async def test_a_paused_schedule_is_not_advanced(store: Store) -> None:
    paused = await given_paused(store)

    assert await store.advance_schedule(paused, paused.next_at_ms + HOUR_MS) is Placed.CHANGED
    assert await store.advance_schedule(paused, paused.next_at_ms) is Placed.CHANGED

    assert await schedule_of(store) == paused
    assert await count_of(store, State.DELAYED) == 0


CHANGES = [
    {"declared": "other"},
    {"superseded": (Superseded("other", 1_000),)},
    {"timing": Timing(pattern="0 * * * *", tz="UTC", missed=Missed.ALL)},
    {"timing": Timing(pattern="0 * * * *", tz="UTC", overlap=Overlap.SKIP)},
]


@pytest.mark.parametrize("change", CHANGES, ids=["declared", "superseded", "missed", "overlap"])
async def test_a_schedule_that_somebody_has_set_otherwise_is_not_advanced(
    store: Store, change: dict[str, object]
) -> None:
    seen = await given_schedule(store)
    changed: Schedule = replace(seen.schedule, **change)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await store.put_schedule(changed, seen, seen.next_at_ms)
    before = await schedule_of(store)

    assert await store.advance_schedule(seen, seen.next_at_ms + HOUR_MS) is Placed.CHANGED

    assert await schedule_of(store) == before


async def test_a_name_and_data_that_were_put_since_are_those_of_the_next_run(store: Store) -> None:
    seen = await given_schedule(store)
    await store.put_schedule(schedule(store, name="weekly", data='{"to":"bob"}'), seen, seen.next_at_ms)

    run = await run_of(store, await advanced(store, seen))

    assert (run.name, run.data) == ("weekly", '{"to":"bob"}')


# ------------------------------------------------------------------ a time that is taken


async def test_a_time_that_has_a_job_already_is_taken(store: Store) -> None:
    first = await given_schedule(store)
    await complete(store, await claim_run(store, first))
    seen = await advanced(store, first)
    await complete(store, await claim_run(store, seen))
    seen, last = await schedule_of(store), await store.last_event(QUEUE)

    assert await store.advance_schedule(seen, first.next_at_ms, running="other") is Placed.TAKEN

    assert await schedule_of(store) == seen
    assert await names_told(store, after=last) == []
    assert (await record_of(store, first.iteration)).state is State.COMPLETED


async def test_after_a_time_that_is_taken_the_next_one_is_free(store: Store) -> None:
    first = await given_schedule(store)
    await complete(store, await claim_run(store, first))
    seen = await advanced(store, first)
    await claim_run(store, seen)
    assert await store.advance_schedule(seen, first.next_at_ms) is Placed.TAKEN

    assert await store.advance_schedule(seen, seen.next_at_ms + HOUR_MS) is Placed.DONE
