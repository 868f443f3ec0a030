"""Schedules: what is known of them, and what becomes of their runs among the other jobs of a queue."""

from __future__ import annotations

import pytest

from conformance.given import (
    QUEUE,
    advance,
    claim_all,
    claim_one,
    complete,
    fail,
    found,
    given,
    known,
    now_ms,
    record_of,
    refs,
    state_of,
    wanted,
)
from conformance.given_schedules import (
    REPORT,
    advanced,
    claim_run,
    given_paused,
    given_schedule,
    in_every_detail,
    run_of,
    schedule,
    schedule_of,
)
from toril.model import Answer, Placed
from toril.options import HOUR_MS, JobOptions
from toril.states import State
from toril.store import Store
from toril.timing import Missed, Overlap, Timing

# ------------------------------------------------------------------ looking


async def test_where_nobody_has_put_a_schedule_there_is_none(store: Store) -> None:
    await given(store)

    assert await store.schedules() == []
    assert await store.schedules(QUEUE) == []
    assert await store.schedules(QUEUE, REPORT) == []


async def test_looking_for_schedules_in_a_queue_that_nobody_has_used_leaves_no_trace(store: Store) -> None:
    assert await store.schedules(QUEUE) == await store.schedules(QUEUE, REPORT) == []

    assert await store.summaries() == []


async def test_schedules_come_with_the_next_run_first_and_by_id_where_two_are_due_together(store: Store) -> None:
    for id, in_ms in [("late", 3), ("second", 2), ("first", 2), ("early", 1)]:
        await given_schedule(store, id, in_ms=in_ms * HOUR_MS)

    listed = await store.schedules(QUEUE)

    assert [record.schedule.id for record in listed] == ["early", "first", "second", "late"]


async def test_the_schedules_of_all_queues_come_in_one_order(store: Store) -> None:
    await given_schedule(store, "b", in_ms=2_000)
    await given_schedule(store, "a", in_ms=1_000, queue="images")
    await given_schedule(store, "c", in_ms=3_000, queue="images")

    listed = await store.schedules()

    assert [(record.schedule.queue, record.schedule.id) for record in listed] == [
        ("images", "a"),
        (QUEUE, "b"),
        ("images", "c"),
    ]


async def test_the_schedules_of_one_queue_leave_out_those_of_the_others(store: Store) -> None:
    await given_schedule(store, "mine")
    await given_schedule(store, "theirs", queue="images")

    assert [record.schedule.id for record in await store.schedules(QUEUE)] == ["mine"]


async def test_one_schedule_is_found_by_its_id(store: Store) -> None:
    for id in ("a", "b", "c"):
        await given_schedule(store, id)

    assert [record.schedule.id for record in await store.schedules(QUEUE, "b")] == ["b"]


async def test_a_schedule_is_read_as_it_was_put(store: Store) -> None:
    wanted, at_ms = in_every_detail(store), now_ms(store) + HOUR_MS
    await store.put_schedule(wanted, None, at_ms)

    record = await schedule_of(store)

    assert record.schedule == wanted
    assert (record.next_at_ms, record.iterations, record.count, record.running) == (at_ms, 1, 1, None)


async def test_a_schedule_by_intervals_is_read_as_it_was_put(store: Store) -> None:
    timing = Timing(every_ms=90_000, offset_ms=30_000, missed=Missed.SKIP, overlap=Overlap.SKIP)
    wanted = schedule(store, timing=timing)
    await store.put_schedule(wanted, None, now_ms(store) + 90_000)

    assert (await schedule_of(store)).schedule == wanted


async def test_a_schedule_may_make_jobs_without_data(store: Store) -> None:
    seen = await given_schedule(store, data="{}")

    assert seen.schedule.data == (await run_of(store, seen)).data == "{}"


async def test_an_id_may_hold_colons(store: Store) -> None:
    await given_schedule(store, "a")

    seen = await given_schedule(store, "a:b:12", in_ms=1_000)

    assert seen.schedule.id == "a:b:12"
    assert seen.iteration.id == f"repeat:a:b:12:{now_ms(store) + 1_000}"
    one = await claim_run(store, seen)
    assert one.schedule == "a:b:12"
    assert (await advanced(store, seen)).iteration.id == f"repeat:a:b:12:{seen.next_at_ms + HOUR_MS}"


async def test_a_record_says_where_the_run_to_come_stands(store: Store) -> None:
    seen = await given_schedule(store)
    assert (seen.state, seen.pending) == (State.DELAYED, True)

    await store.promote([seen.iteration])
    assert (await schedule_of(store)).state is State.WAITING

    one = await claim_one(store)
    assert one.ref == seen.iteration
    running = await schedule_of(store)
    assert (running.state, running.pending) == (State.ACTIVE, False)

    await complete(store, one)
    assert (await schedule_of(store)).state is State.COMPLETED


async def test_a_record_says_that_the_run_to_come_has_failed(store: Store) -> None:
    seen = await given_schedule(store)

    await fail(store, await claim_run(store, seen))

    assert (await schedule_of(store)).state is State.FAILED


async def test_a_record_says_that_the_run_to_come_is_not_there(store: Store) -> None:
    seen = await given_schedule(store, options=JobOptions(keep_completed=0))

    await complete(store, await claim_run(store, seen))

    record = await schedule_of(store)
    assert (record.state, record.pending) == (None, False)
    assert record.next_at_ms == seen.next_at_ms


# ------------------------------------------------------------------ their runs


async def test_a_run_knows_its_schedule_and_other_jobs_have_none(store: Store) -> None:
    seen, other = await given_schedule(store), await given(store)

    assert (await run_of(store, seen)).schedule == REPORT
    assert (await record_of(store, other)).schedule is None
    assert (await claim_one(store)).schedule is None
    one = await claim_run(store, seen)
    assert (one.schedule, one.name, one.data) == (REPORT, "digest", '{"to":"ada"}')


async def test_a_run_that_has_ended_still_knows_its_schedule(store: Store) -> None:
    seen = await given_schedule(store)

    await complete(store, await claim_run(store, seen))

    assert (await run_of(store, seen)).schedule == REPORT
    assert [record.schedule for record in (await store.find(QUEUE, State.COMPLETED)).items] == [REPORT]


async def test_the_same_wish_brings_the_run_of_a_schedule_again(store: Store) -> None:
    seen, wish = await given_schedule(store, in_ms=0), wanted()

    first, again = await store.claim(wish), await store.claim(wish)

    assert [one.schedule for one in (*first.claims, *again.claims)] == [REPORT, REPORT]
    assert refs(again.claims) == [seen.iteration]


async def test_a_run_that_was_retried_runs_again(store: Store) -> None:
    seen = await given_schedule(store)
    await fail(store, await claim_run(store, seen))

    assert await store.retry([seen.iteration]) == [Answer.DONE]

    again = await claim_one(store)
    assert (again.ref, again.schedule) == (seen.iteration, REPORT)


async def test_a_run_that_is_promoted_runs_before_its_time(store: Store) -> None:
    seen = await given_schedule(store)

    assert await store.promote([seen.iteration]) == [Answer.DONE]

    assert refs(await claim_all(store)) == [seen.iteration]


@pytest.mark.parametrize("priority", [0, 3])
async def test_the_run_to_come_cannot_be_removed_by_itself(store: Store, priority: int) -> None:
    seen = await given_schedule(store, options=JobOptions(priority=priority))

    assert await store.remove([seen.iteration]) == [Answer.WRONG_STATE]
    await store.promote([seen.iteration])
    assert await store.remove([seen.iteration]) == [Answer.WRONG_STATE]

    assert (await schedule_of(store)).pending


async def test_a_run_of_before_can_be_removed(store: Store) -> None:
    seen = await given_schedule(store)
    await complete(store, await claim_run(store, seen))
    after = await advanced(store, seen)

    assert await store.remove([seen.iteration]) == [Answer.DONE]

    assert await known(store, seen.iteration) is None
    assert await schedule_of(store) == after


@pytest.mark.parametrize("priority", [0, 3])
async def test_draining_spares_the_run_to_come(store: Store, priority: int) -> None:
    first = await given_schedule(store, "first", options=JobOptions(priority=priority))
    second = await given_schedule(store, "second")
    await store.promote([first.iteration])
    gone = [await given(store), await given(store, priority=3), await given(store, delay=60)]

    assert await store.drain(QUEUE, delayed=True) == 3

    assert [await known(store, ref) for ref in gone] == [None, None, None]
    assert (await schedule_of(store, "first")).pending
    assert await state_of(store, second.iteration) is State.DELAYED
    assert refs(await claim_all(store)) == [first.iteration]


async def test_cleaning_spares_the_run_to_come(store: Store) -> None:
    seen = await given_schedule(store, in_ms=2 * HOUR_MS)
    other = await given(store, delay=7200)
    await advance(store, HOUR_MS)

    assert await store.clean(QUEUE, State.DELAYED, grace_ms=1, limit=100) == [other.id]

    assert (await schedule_of(store)).state is State.DELAYED
    assert await found(store, State.DELAYED) == [seen.iteration]


async def test_cleaning_counts_only_what_it_removes_against_its_limit(store: Store) -> None:
    await given_schedule(store, in_ms=2 * HOUR_MS)
    others = [await given(store, delay=7201), await given(store, delay=7202)]
    await advance(store, HOUR_MS)

    assert await store.clean(QUEUE, State.DELAYED, grace_ms=1, limit=2) == [ref.id for ref in others]


async def test_cleaning_removes_runs_of_before(store: Store) -> None:
    seen = await given_schedule(store)
    await complete(store, await claim_run(store, seen))
    await advanced(store, seen)
    await advance(store, 1_000)

    assert await store.clean(QUEUE, State.COMPLETED, grace_ms=1, limit=100) == [seen.iteration.id]


async def test_a_queue_goes_with_its_schedules(store: Store) -> None:
    await given_schedule(store, "a")
    await given_paused(store, "b")
    other = await given_schedule(store, "c", queue="images")
    await store.pause(QUEUE)

    assert await store.obliterate(QUEUE) == 1

    assert await store.schedules() == [other]
    assert QUEUE not in [summary.name for summary in await store.summaries()]


async def test_a_queue_that_holds_nothing_but_a_paused_schedule_goes(store: Store) -> None:
    await given_paused(store)
    await store.pause(QUEUE)

    assert await store.obliterate(QUEUE) == 0

    assert await store.schedules() == []


async def test_a_schedule_can_be_put_again_where_a_queue_was_obliterated(store: Store) -> None:
    seen = await given_schedule(store)
    await store.pause(QUEUE)
    await store.obliterate(QUEUE)

    assert await store.put_schedule(seen.schedule, seen, seen.next_at_ms) is Placed.CHANGED
    assert await store.put_schedule(seen.schedule, None, seen.next_at_ms) is Placed.DONE
