"""Putting a schedule: what it is, and its run to come in the place of one that is pending."""

from __future__ import annotations

from dataclasses import replace

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
    found,
    given,
    known,
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
from toril.model import Claim, Placed, Schedule, ScheduleRecord, Superseded, Update
from toril.options import HOUR_MS, JobOptions
from toril.states import State
from toril.store import Store
from toril.timing import Missed, Overlap, Timing

# ------------------------------------------------------------------ the first run


async def test_a_new_schedule_has_its_first_run_at_the_time_given(store: Store) -> None:
    at_ms = now_ms(store) + HOUR_MS

    assert await store.put_schedule(schedule(store), None, at_ms) is Placed.DONE

    record = await schedule_of(store)
    assert (record.next_at_ms, record.iterations, record.count) == (at_ms, 1, 1)
    assert (record.state, record.running) == (State.DELAYED, None)
    assert record.iteration == run_at(at_ms)
    assert await found(store, State.DELAYED) == [run_at(at_ms)]


async def test_a_run_has_the_name_the_data_and_the_options_of_its_schedule(store: Store) -> None:
    wanted = in_every_detail(store)
    await store.put_schedule(wanted, None, now_ms(store) + HOUR_MS)

    run = await run_of(store, await schedule_of(store))

    assert (run.name, run.data, run.priority) == ("digest", '{"to":"ada"}', 7)
    assert replace(run.options, delay_ms=0) == wanted.options
    assert run.schedule == REPORT


async def test_a_run_is_made_now_and_delayed_until_its_time(store: Store) -> None:
    seen = await given_schedule(store, in_ms=5_000)

    run = await run_of(store, seen)

    assert (run.created_at_ms, run.due_at_ms) == (now_ms(store), now_ms(store) + 5_000)
    assert (await claim(store)).claims == ()
    await advance(store, 4_999)
    assert (await claim(store)).claims == ()
    await advance(store, 1)
    assert refs(await claim_all(store)) == [seen.iteration]


@pytest.mark.parametrize("in_ms", [0, -HOUR_MS])
async def test_a_run_whose_time_is_now_or_past_waits_for_a_worker(store: Store, in_ms: int) -> None:
    seen = await given_schedule(store, in_ms=in_ms)

    assert (seen.state, seen.next_at_ms) == (State.WAITING, now_ms(store) + in_ms)
    assert seen.iteration == run_at(now_ms(store) + in_ms)
    assert refs(await claim_all(store)) == [seen.iteration]


async def test_a_run_with_a_priority_waits_among_its_like(store: Store) -> None:
    plain, urgent = await given(store), await given(store, priority=1)

    seen = await given_schedule(store, in_ms=0, options=JobOptions(priority=5))

    assert seen.state is State.PRIORITIZED
    assert refs(await claim_all(store)) == [plain, urgent, seen.iteration]


async def test_a_run_goes_behind_what_waits_and_with_lifo_in_front(store: Store) -> None:
    waiting = await given(store)

    behind = await given_schedule(store, "behind", in_ms=0)
    front = await given_schedule(store, "front", in_ms=0, options=JobOptions(lifo=True))

    assert refs(await claim_all(store)) == [front.iteration, waiting, behind.iteration]


async def test_a_run_that_is_delayed_tells_of_it(store: Store) -> None:
    seen = await given_schedule(store, in_ms=5_000)

    assert await told(store) == [
        ("added", {"name": "digest"}),
        ("delayed", {"due_at_ms": str(seen.next_at_ms)}),
    ]
    assert {event.job_id for event in await events_of(store)} == {seen.iteration.id}


async def test_a_run_that_waits_tells_of_it(store: Store) -> None:
    await given_schedule(store, in_ms=0)

    assert await names_told(store) == ["added", "waiting"]


@pytest.mark.parametrize("in_ms", [0, 5_000])
async def test_a_run_wakes_a_worker(store: Store, in_ms: int) -> None:
    await claim(store)
    await rest(store)

    await given_schedule(store, in_ms=in_ms)

    assert (await wait(store)).queues == {QUEUE}


async def test_in_a_paused_queue_a_run_waits_for_the_end_of_the_pause(store: Store) -> None:
    await store.pause(QUEUE)
    seen = await given_schedule(store, in_ms=0)
    assert (await claim(store)).claims == ()

    await store.resume(QUEUE)

    assert refs(await claim_all(store)) == [seen.iteration]


async def test_queues_may_have_schedules_of_the_same_id(store: Store) -> None:
    mine, theirs = await given_schedule(store), await given_schedule(store, queue="images")

    await store.put_schedule(schedule(store, name="other"), mine, mine.next_at_ms + 1)

    assert await schedule_of(store, queue="images") == theirs
    assert (await schedule_of(store)).schedule.name == "other"


async def test_that_the_first_run_is_now_is_not_remembered(store: Store) -> None:
    timing = Timing(pattern="0 * * * *", immediately=True)

    seen = await given_schedule(store, timing=timing, in_ms=0)

    assert seen.schedule.timing == Timing(pattern="0 * * * *")


# ------------------------------------------------------------------ in the place of another


async def test_a_pending_run_is_replaced(store: Store) -> None:
    seen = await given_schedule(store, in_ms=5_000)
    wanted = schedule(store, name="weekly", data='{"to":"bob"}', options=JobOptions(attempts=4))

    assert await store.put_schedule(wanted, seen, now_ms(store) + 9_000) is Placed.DONE

    after = await schedule_of(store)
    assert (after.schedule, after.next_at_ms, after.state) == (wanted, now_ms(store) + 9_000, State.DELAYED)
    assert await known(store, seen.iteration) is None
    assert await found(store, State.DELAYED) == [after.iteration]
    run = await run_of(store, after)
    assert (run.name, run.data, run.options.attempts) == ("weekly", '{"to":"bob"}', 4)


async def test_a_pending_run_is_replaced_by_one_of_the_same_time(store: Store) -> None:
    seen = await given_schedule(store)
    await store.update([Update(seen.iteration, data='{"changed":1}', logs=("a line",))])

    assert await store.put_schedule(schedule(store, name="weekly"), seen, seen.next_at_ms) is Placed.DONE

    run = await run_of(store, await schedule_of(store))
    assert (run.name, run.data, run.state) == ("weekly", '{"to":"ada"}', State.DELAYED)
    assert (await store.logs(run.ref)).total == 0
    assert await count_of(store, State.DELAYED) == 1


@pytest.mark.parametrize("priority", [0, 3])
async def test_a_run_that_waits_for_a_worker_is_replaced(store: Store, priority: int) -> None:
    seen = await given_schedule(store, in_ms=0, options=JobOptions(priority=priority))

    assert await store.put_schedule(seen.schedule, seen, now_ms(store) + HOUR_MS) is Placed.DONE

    after = await schedule_of(store)
    assert await known(store, seen.iteration) is None
    assert (await claim(store)).claims == ()
    assert [await count_of(store, state) for state in (State.WAITING, State.PRIORITIZED, State.DELAYED)] == [0, 0, 1]
    assert refs([await claim_run(store, after)]) == [after.iteration]


@pytest.mark.parametrize("in_ms", [0, HOUR_MS])
async def test_in_a_paused_queue_a_pending_run_is_replaced_too(store: Store, in_ms: int) -> None:
    await store.pause(QUEUE)
    seen = await given_schedule(store, in_ms=in_ms)

    await store.put_schedule(seen.schedule, seen, seen.next_at_ms + 1_000)

    await store.resume(QUEUE)
    await advance(store, 2 * HOUR_MS)
    assert refs(await claim_all(store)) == [run_at(seen.next_at_ms + 1_000)]


async def test_a_run_that_is_replaced_is_not_told_as_removed(store: Store) -> None:
    seen = await given_schedule(store)
    last = await store.last_event(QUEUE)

    await store.put_schedule(seen.schedule, seen, seen.next_at_ms + 1_000)

    assert await names_told(store, after=last) == ["added", "delayed"]


async def test_a_run_that_is_active_goes_on_beside_the_new_one(store: Store) -> None:
    seen = await given_schedule(store)
    one = await claim_run(store, seen)
    seen = await schedule_of(store)

    assert await store.put_schedule(seen.schedule, seen, seen.next_at_ms + HOUR_MS) is Placed.DONE

    assert await state_of(store, one.ref) is State.ACTIVE
    assert (await schedule_of(store)).state is State.DELAYED
    await complete(store, one)
    assert await state_of(store, one.ref) is State.COMPLETED


async def test_a_run_that_has_vanished_is_no_hindrance(store: Store) -> None:
    seen = await given_schedule(store, options=JobOptions(keep_completed=0))
    await complete(store, await claim_run(store, seen))
    seen = await schedule_of(store)

    assert await store.put_schedule(seen.schedule, seen, seen.next_at_ms) is Placed.DONE

    assert await state_of(store, seen.iteration) is State.WAITING


async def test_iterations_go_on_being_counted_and_the_count_begins_anew(store: Store) -> None:
    seen = await given_schedule(store)
    for _ in range(2):
        await complete(store, await claim_run(store, seen))
        seen = await advanced(store, seen)
    assert (seen.iterations, seen.count) == (3, 3)

    await store.put_schedule(seen.schedule, seen, seen.next_at_ms + 1_000)

    after = await schedule_of(store)
    assert (after.iterations, after.count) == (3, 1)


async def test_the_count_goes_on_where_it_is_told_to(store: Store) -> None:
    seen = await given_schedule(store)

    await store.put_schedule(seen.schedule, seen, seen.next_at_ms + 1_000, count=7)

    seen = await schedule_of(store)
    assert (seen.iterations, seen.count) == (1, 7)
    assert (await advanced(store, seen)).count == 8


async def test_settings_that_are_not_put_again_are_gone(store: Store) -> None:
    await store.put_schedule(in_every_detail(store), None, now_ms(store) + HOUR_MS)
    seen, plain = await schedule_of(store), Schedule(QUEUE, REPORT, Timing(pattern="* * * * *"), "digest")

    await store.put_schedule(plain, seen, seen.next_at_ms)

    assert (await schedule_of(store)).schedule == plain


async def test_the_run_that_was_last_let_run_stays_known(store: Store) -> None:
    seen = await given_schedule(store)
    one = await claim_run(store, seen)
    seen = await advanced(store, seen, running=one.ref.id)

    await store.put_schedule(seen.schedule, seen, seen.next_at_ms + 1_000)

    assert (await schedule_of(store)).running == one.ref.id


# ------------------------------------------------------------------ a pause


async def test_a_schedule_that_is_paused_has_no_run_to_come(store: Store) -> None:
    seen = await given_schedule(store)

    assert await store.put_schedule(replace(seen.schedule, paused=True), seen, None) is Placed.DONE

    record = await schedule_of(store)
    assert record.schedule.paused
    assert (record.next_at_ms, record.iterations, record.state) == (seen.next_at_ms, 1, None)
    assert await known(store, seen.iteration) is None
    assert await count_of(store, State.DELAYED) == 0


async def test_a_schedule_keeps_its_count_while_it_is_paused(store: Store) -> None:
    seen = await given_schedule(store)
    await store.put_schedule(replace(seen.schedule, paused=True), seen, None, count=4)
    paused = await schedule_of(store)
    assert paused.count == 4

    await store.put_schedule(seen.schedule, paused, paused.next_at_ms, count=5)

    assert (await schedule_of(store)).count == 5


async def test_pausing_a_schedule_tells_nothing(store: Store) -> None:
    seen = await given_schedule(store)
    last = await store.last_event(QUEUE)

    await store.put_schedule(replace(seen.schedule, paused=True), seen, None)

    assert await names_told(store, after=last) == []


async def test_pausing_takes_back_a_run_that_waits_for_a_worker(store: Store) -> None:
    seen = await given_schedule(store, in_ms=0)

    await store.put_schedule(replace(seen.schedule, paused=True), seen, None)

    assert (await claim(store)).claims == ()
    assert await count_of(store, State.WAITING) == 0


async def test_pausing_leaves_a_run_that_is_active(store: Store) -> None:
    seen = await given_schedule(store)
    one = await claim_run(store, seen)
    seen = await schedule_of(store)

    await store.put_schedule(replace(seen.schedule, paused=True), seen, None)

    assert (await schedule_of(store)).state is State.ACTIVE
    await complete(store, one)


async def test_a_paused_schedule_goes_on_with_the_run_that_is_put(store: Store) -> None:
    paused = await given_paused(store)
    at_ms = paused.next_at_ms + HOUR_MS

    assert await store.put_schedule(replace(paused.schedule, paused=False), paused, at_ms) is Placed.DONE

    record = await schedule_of(store)
    assert not record.schedule.paused
    assert (record.next_at_ms, record.iterations, record.state) == (at_ms, 1, State.DELAYED)


async def test_a_paused_schedule_may_go_on_with_the_run_that_it_had(store: Store) -> None:
    paused = await given_paused(store)

    await store.put_schedule(replace(paused.schedule, paused=False), paused, paused.next_at_ms)

    assert refs([await claim_run(store, paused)]) == [paused.iteration]


async def test_a_schedule_may_be_paused_from_the_start(store: Store) -> None:
    assert await store.put_schedule(schedule(store, paused=True), None, None) is Placed.DONE

    record = await schedule_of(store)
    assert (record.next_at_ms, record.state) == (now_ms(store), None)
    assert await count_of(store, State.WAITING) == await count_of(store, State.DELAYED) == 0


async def test_a_schedule_that_was_paused_from_the_start_has_made_no_run_until_it_goes_on(store: Store) -> None:
    await store.put_schedule(schedule(store, paused=True), None, None)
    paused = await schedule_of(store)

    await store.put_schedule(schedule(store), paused, now_ms(store) + HOUR_MS)

    assert (paused.iterations, (await schedule_of(store)).iterations) == (0, 1)


# ------------------------------------------------------------------ what is not as it was seen


async def untouched(store: Store, before: ScheduleRecord) -> bool:
    """Whether a schedule and its run are as they were."""
    return await store.schedules(QUEUE) == [before] and await found(store, State.DELAYED) == [before.iteration]


async def test_a_schedule_that_was_taken_for_new_and_is_there_stays_as_it_is(store: Store) -> None:
    before = await given_schedule(store)

    placed = await store.put_schedule(schedule(store, name="other"), None, before.next_at_ms + 1)

    assert placed is Placed.CHANGED
    assert await untouched(store, before)


async def test_a_schedule_that_was_seen_and_is_gone_is_not_made(store: Store) -> None:
    seen = await given_schedule(store)
    await store.remove_schedule(QUEUE, REPORT)

    assert await store.put_schedule(seen.schedule, seen, seen.next_at_ms) is Placed.CHANGED
    assert await store.put_schedule(seen.schedule, seen, None) is Placed.CHANGED

    assert await store.schedules() == []
    assert await count_of(store, State.DELAYED) == 0


async def test_a_schedule_of_another_time_than_was_seen_stays_as_it_is(store: Store) -> None:
    seen = await given_schedule(store)
    await store.put_schedule(seen.schedule, seen, seen.next_at_ms + 1_000)
    before = await schedule_of(store)

    assert await store.put_schedule(schedule(store, name="other"), seen, seen.next_at_ms) is Placed.CHANGED
    assert await store.put_schedule(schedule(store, paused=True), seen, None) is Placed.CHANGED

    assert await untouched(store, before)


async def test_a_put_that_is_repeated_finds_the_schedule_changed(store: Store) -> None:
    seen = await given_schedule(store)
    assert await store.put_schedule(seen.schedule, seen, seen.next_at_ms + 1_000) is Placed.DONE
    before = await schedule_of(store)

    assert await store.put_schedule(seen.schedule, seen, seen.next_at_ms + 1_000) is Placed.CHANGED

    assert await untouched(store, before)


async def test_of_two_who_put_the_same_schedule_one_does(store: Store) -> None:
    first = await store.put_schedule(schedule(store, name="mine"), None, now_ms(store) + 1_000)
    second = await store.put_schedule(schedule(store, name="yours"), None, now_ms(store) + 2_000)

    assert (first, second) == (Placed.DONE, Placed.CHANGED)
    assert (await schedule_of(store)).schedule.name == "mine"
    assert await count_of(store, State.DELAYED) == 1


CHANGES = [
    {"paused": True},
    {"declared": "other"},
    {"superseded": (Superseded("other", 1_000),)},
    {"timing": Timing(pattern="0 * * * *", tz="UTC", missed=Missed.ALL)},
    {"timing": Timing(pattern="0 * * * *", tz="UTC", overlap=Overlap.SKIP)},
]


@pytest.mark.parametrize("change", CHANGES, ids=["paused", "declared", "superseded", "missed", "overlap"])
async def test_a_schedule_that_somebody_has_set_otherwise_stays_as_it_is(
    store: Store, change: dict[str, object]
) -> None:
    seen = await given_schedule(store)
    changed: Schedule = replace(seen.schedule, **change)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await store.put_schedule(changed, seen, seen.next_at_ms)
    before = await schedule_of(store)

    assert await store.put_schedule(seen.schedule, seen, seen.next_at_ms + 1_000) is Placed.CHANGED

    assert await untouched(store, before)


async def test_a_schedule_whose_run_was_let_run_since_stays_as_it_is(store: Store) -> None:
    old = await given_schedule(store, options=JobOptions(keep_completed=0))
    one = await claim_run(store, old)
    await complete(store, one)
    seen = await schedule_of(store)
    assert await store.advance_schedule(seen, seen.next_at_ms, running="another") is Placed.DONE
    assert (await schedule_of(store)).running == "another"
    await complete(store, await claim_one(store))

    assert await store.put_schedule(seen.schedule, seen, seen.next_at_ms + 1_000) is Placed.CHANGED


async def test_a_run_that_was_claimed_since_is_seen(store: Store) -> None:
    seen = await given_schedule(store)
    one: Claim = await claim_run(store, seen)

    assert await store.put_schedule(seen.schedule, seen, seen.next_at_ms + HOUR_MS) is Placed.CHANGED
    assert await store.put_schedule(replace(seen.schedule, paused=True), seen, None) is Placed.CHANGED

    assert await state_of(store, one.ref) is State.ACTIVE
    assert await count_of(store, State.DELAYED) == 0


async def test_a_run_that_was_promoted_since_is_pending_all_the_same(store: Store) -> None:
    seen = await given_schedule(store)
    await store.promote([seen.iteration])

    assert await store.put_schedule(seen.schedule, seen, seen.next_at_ms + 1_000) is Placed.DONE

    assert await found(store, State.WAITING) == []
    assert await found(store, State.DELAYED) == [run_at(seen.next_at_ms + 1_000)]


# ------------------------------------------------------------------ a time that is taken


async def test_a_time_whose_job_runs_is_taken(store: Store) -> None:
    seen = await given_schedule(store)
    one = await claim_run(store, seen)
    seen = await schedule_of(store)

    assert await store.put_schedule(schedule(store, name="other"), seen, seen.next_at_ms) is Placed.TAKEN

    assert await schedule_of(store) == seen
    assert (await record_of(store, one.ref)).state is State.ACTIVE


async def test_a_time_whose_job_has_ended_is_taken_and_the_pending_run_stays(store: Store) -> None:
    first = await given_schedule(store)
    await complete(store, await claim_run(store, first))
    seen = await advanced(store, first)
    last = await store.last_event(QUEUE)

    assert await store.put_schedule(schedule(store, name="other"), seen, first.next_at_ms) is Placed.TAKEN

    assert await untouched(store, seen)
    assert await names_told(store, after=last) == []


async def test_a_schedule_that_was_removed_and_comes_back_finds_its_old_time_taken(store: Store) -> None:
    seen = await given_schedule(store)
    await complete(store, await claim_run(store, seen))
    await store.remove_schedule(QUEUE, REPORT)

    assert await store.put_schedule(seen.schedule, None, seen.next_at_ms) is Placed.TAKEN
    assert await store.schedules() == []

    assert await store.put_schedule(seen.schedule, None, seen.next_at_ms + HOUR_MS) is Placed.DONE
