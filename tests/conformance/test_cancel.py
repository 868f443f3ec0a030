"""Cancelling: jobs that have not been run fail by hand, and are not tried again."""

from __future__ import annotations

import pytest

from conformance.given import (
    QUEUE,
    add,
    added,
    advance,
    claim,
    claim_all,
    claim_one,
    complete,
    count_of,
    given,
    given_active,
    given_completed,
    given_failed,
    given_flow,
    history_of,
    known,
    new_job,
    now_ms,
    record_of,
    ref_of,
    refs,
    retry_after,
    state_of,
    told,
)
from conformance.given_schedules import advanced, given_schedule, schedule_of
from toril.model import Answer, JobRef
from toril.options import HOUR_MS, ChildPolicy, Deduplication, Keep
from toril.states import State
from toril.store import Store

WAITING = pytest.mark.parametrize(
    ("delay", "priority", "state"),
    [(0, 0, State.WAITING), (0, 5, State.PRIORITIZED), (60, 0, State.DELAYED), (60, 5, State.DELAYED)],
    ids=["waiting", "prioritized", "delayed", "delayed with a priority"],
)


@WAITING
async def test_a_job_that_has_not_run_fails(store: Store, delay: int, priority: int, state: State) -> None:
    ref = await given(store, delay=delay, priority=priority)
    await advance(store, 1_000)

    assert await store.cancel([ref], "not wanted any more") == [Answer.DONE]

    record = await record_of(store, ref)
    assert (record.state, record.reason) == (State.FAILED, "not wanted any more")
    assert record.finished_at_ms == now_ms(store)
    assert await count_of(store, state) == 0
    assert await count_of(store, State.FAILED) == 1


@WAITING
async def test_a_cancelled_job_does_not_run(store: Store, delay: int, priority: int, state: State) -> None:
    ref = await given(store, delay=delay, priority=priority, attempts=5)
    assert await state_of(store, ref) is state

    await store.cancel([ref], "no")

    await advance(store, 60_000)
    assert (await claim(store)).claims == ()


async def test_the_other_jobs_run_on(store: Store) -> None:
    first, second, third = await given(store), await given(store), await given(store)

    await store.cancel([second], "no")

    assert refs(await claim_all(store)) == [first, third]


async def test_a_parent_that_waits_for_its_children_is_cancelled(store: Store) -> None:
    parent, [child] = await given_flow(store)

    assert await store.cancel([parent], "no") == [Answer.DONE]

    assert await state_of(store, parent) is State.FAILED
    assert await count_of(store, State.WAITING_CHILDREN) == 0
    assert await state_of(store, child) is State.WAITING


async def test_the_children_of_a_cancelled_parent_end_for_nobody(store: Store) -> None:
    parent, _ = await given_flow(store)
    await store.cancel([parent], "no")

    await complete(store, await claim_one(store, "images"))

    record = await record_of(store, parent)
    assert (record.state, record.reason) == (State.FAILED, "no")
    assert (await claim(store)).claims == ()


async def test_a_paused_queue_cancels_too(store: Store) -> None:
    await store.pause(QUEUE)
    ref = await given(store)

    assert await store.cancel([ref], "no") == [Answer.DONE]

    assert await state_of(store, ref) is State.FAILED


async def test_cancel_costs_no_attempt(store: Store) -> None:
    ref = await given(store, attempts=3)

    await store.cancel([ref], "no")

    record = await record_of(store, ref)
    assert (record.attempts_made, record.attempts_started) == (0, 0)
    assert await history_of(store, ref) == []


async def test_the_attempts_that_were_made_stay_known(store: Store) -> None:
    one = await given_active(store, attempts=3)
    await retry_after(store, one, 60_000, "timeout")

    await store.cancel([one.ref], "enough")

    record = await record_of(store, one.ref)
    assert (record.attempts_made, record.reason) == (1, "enough")
    assert [attempt.reason for attempt in record.history] == ["timeout"]


async def test_a_running_job_is_not_cancelled(store: Store) -> None:
    one = await given_active(store)

    assert await store.cancel([one.ref], "no") == [Answer.LOCKED]

    assert await state_of(store, one.ref) is State.ACTIVE
    await complete(store, one)
    assert await state_of(store, one.ref) is State.COMPLETED


async def test_cancel_answers_for_each_job(store: Store) -> None:
    running = await given_active(store, queue="images")
    failed = await given_failed(store, queue="sms")
    completed = await given_completed(store, queue="push")
    waiting, delayed = await given(store), await given(store, delay=60)

    answers = await store.cancel([waiting, JobRef(QUEUE, "nobody"), running.ref, failed, completed, delayed], "no")

    assert answers == [
        Answer.DONE,
        Answer.MISSING,
        Answer.LOCKED,
        Answer.WRONG_STATE,
        Answer.WRONG_STATE,
        Answer.DONE,
    ]
    assert (await record_of(store, failed)).reason == "no"
    assert await state_of(store, completed) is State.COMPLETED


async def test_cancelling_again_changes_nothing(store: Store) -> None:
    ref = await given(store)
    await store.cancel([ref], "first")
    before = await told(store)

    assert await store.cancel([ref], "second") == [Answer.WRONG_STATE]

    assert (await record_of(store, ref)).reason == "first"
    assert await told(store) == before


async def test_a_job_named_twice_is_cancelled_once(store: Store) -> None:
    ref = await given(store)

    assert await store.cancel([ref, ref], "no") == [Answer.DONE, Answer.WRONG_STATE]


@pytest.mark.parametrize("in_ms", [0, HOUR_MS], ids=["waiting", "delayed"])
async def test_a_run_that_its_schedule_waits_for_is_not_cancelled(store: Store, in_ms: int) -> None:
    seen = await given_schedule(store, in_ms=in_ms)

    assert await store.cancel([seen.iteration], "no") == [Answer.WRONG_STATE]

    assert await schedule_of(store) == seen


async def test_a_run_that_its_schedule_waits_for_no_longer_is_cancelled_as_any_job(store: Store) -> None:
    seen = await given_schedule(store, in_ms=0)
    await advanced(store, seen)

    assert await store.cancel([seen.iteration], "no") == [Answer.DONE]

    assert await state_of(store, seen.iteration) is State.FAILED


async def test_many_jobs_are_cancelled_in_one_call(store: Store) -> None:
    jobs = [new_job(store) for _ in range(1000)]
    await added(store, *jobs)
    more = [new_job(store, priority=1) for _ in range(500)]
    await added(store, *more)

    answers = await store.cancel([ref_of(job) for job in (*jobs, *more)], "no")

    assert answers == [Answer.DONE] * 1500
    assert await count_of(store, State.FAILED) == 1500
    assert await count_of(store, State.WAITING) == await count_of(store, State.PRIORITIZED) == 0


async def test_cancelling_nothing_answers_nothing(store: Store) -> None:
    assert await store.cancel([], "no") == []


@pytest.mark.parametrize(
    ("options", "prev"),
    [({}, "waiting"), ({"priority": 5}, "prioritized"), ({"delay": 60}, "delayed")],
    ids=["waiting", "prioritized", "delayed"],
)
async def test_cancel_tells_failed_and_from_where(store: Store, options: dict[str, int], prev: str) -> None:
    ref = await given(store, **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    last = await store.last_event(QUEUE)

    await store.cancel([ref], "not wanted")

    assert await told(store, after=last) == [("failed", {"reason": "not wanted", "prev": prev})]


async def test_a_cancelled_parent_is_told_as_one_that_waited_for_children(store: Store) -> None:
    parent, _ = await given_flow(store)

    await store.cancel([parent], "no")

    assert (await told(store))[-1] == ("failed", {"reason": "no", "prev": "waiting-children"})


async def test_a_cancelled_job_may_be_retried(store: Store) -> None:
    ref = await given(store)
    await store.cancel([ref], "no")

    assert await store.retry([ref]) == [Answer.DONE]

    assert (await claim_one(store)).ref == ref


async def test_a_job_that_was_delayed_runs_at_once_when_it_is_retried(store: Store) -> None:
    ref = await given(store, delay=60)
    await store.cancel([ref], "no")

    await store.retry([ref])

    assert await state_of(store, ref) is State.WAITING
    assert (await claim_one(store)).ref == ref


async def test_cancelled_jobs_are_found_with_the_newest_of_the_failed(store: Store) -> None:
    failed = await given_failed(store)
    await advance(store, 1)
    ref = await given(store)
    await store.cancel([ref], "no")

    page = await store.find(QUEUE, State.FAILED, newest_first=True)

    assert [record.ref for record in page.items] == [ref, failed]


# ------------------------------------------------------------------ what becomes of it


async def test_a_job_whose_keep_rule_says_so_is_removed_at_once(store: Store) -> None:
    ref = await given(store, keep_failed=False)

    assert await store.cancel([ref], "no") == [Answer.DONE]

    assert await state_of(store, ref) is None
    assert await count_of(store, State.FAILED) == 0
    record = await known(store, ref)
    assert record is not None
    assert (record.kept, record.reason) == (False, "no")


async def test_a_cancelled_job_makes_room_by_its_keep_rule(store: Store) -> None:
    first, second, third = [await given(store, keep_failed=2) for _ in range(3)]
    for ref in (first, second, third):
        await store.cancel([ref], "no")
        await advance(store, 1)

    assert [await state_of(store, ref) for ref in (first, second, third)] == [None, State.FAILED, State.FAILED]


async def test_a_cancelled_job_drops_those_that_are_too_old_for_its_keep_rule(store: Store) -> None:
    keep = Keep(age_ms=5_000)
    old = await given_failed(store, keep_failed=keep)
    await advance(store, 5_000)
    ref = await given(store, keep_failed=keep)

    await store.cancel([ref], "no")

    assert await state_of(store, old) is None
    assert await state_of(store, ref) is State.FAILED


async def test_a_cancelled_job_counts_among_those_that_failed_this_minute(store: Store) -> None:
    ref = await given(store)

    await store.cancel([ref], "no")

    series = await store.series(QUEUE, State.FAILED, limit=2)
    assert (series.total, series.counts) == (1, (0, 1))


# ------------------------------------------------------------------ its parent


@pytest.mark.parametrize(
    ("policy", "state", "deferred"),
    [
        (ChildPolicy.WAIT, State.WAITING_CHILDREN, False),
        (ChildPolicy.FAIL, State.WAITING, True),
        (ChildPolicy.CONTINUE, State.WAITING, False),
        (ChildPolicy.IGNORE, State.WAITING, False),
        (ChildPolicy.REMOVE, State.WAITING, False),
    ],
    ids=["wait", "fail", "continue", "ignore", "remove"],
)
async def test_the_parent_of_a_cancelled_child_is_told_by_the_childs_policy(
    store: Store, policy: ChildPolicy, state: State, deferred: bool
) -> None:
    parent, [child] = await given_flow(store, policy=policy)

    await store.cancel([child], "no")

    record = await record_of(store, parent)
    assert (record.state, record.deferred is not None) == (state, deferred)


async def test_the_reason_of_a_cancelled_child_is_kept_with_its_parent(store: Store) -> None:
    parent, [child] = await given_flow(store, policy=ChildPolicy.IGNORE)

    await store.cancel([child], "not wanted")

    [seen] = await store.children(parent)
    assert (seen.ref, seen.state, seen.reason) == (child, "ignored", "not wanted")


async def test_a_cancelled_child_that_is_not_kept_is_waited_for_no_longer(store: Store) -> None:
    parent = new_job(store, has_children=True)
    child = new_job(store, queue="images", parent=ref_of(parent), keep_failed=False)
    await added(store, parent, child)

    await store.cancel([ref_of(child)], "no")

    assert await state_of(store, ref_of(parent)) is State.WAITING


async def test_a_cancelled_child_that_is_retried_is_waited_for_again(store: Store) -> None:
    parent, [child, _] = await given_flow(store, children=2, policy=ChildPolicy.IGNORE)
    await store.cancel([child], "no")
    assert (await record_of(store, parent)).pending_children == 1

    await store.retry([child])

    assert (await record_of(store, parent)).pending_children == 2


async def test_a_family_may_be_cancelled_in_one_call(store: Store) -> None:
    parent, children = await given_flow(store, children=2, policy=ChildPolicy.FAIL)

    assert await store.cancel([parent, *children], "no") == [Answer.DONE] * 3

    assert [await state_of(store, ref) for ref in (parent, *children)] == [State.FAILED] * 3
    assert (await record_of(store, parent)).reason == "no"
    assert (await claim(store)).claims == ()


async def test_a_parent_that_its_cancelled_child_releases_may_be_cancelled_with_it(store: Store) -> None:
    parent, [child] = await given_flow(store, policy=ChildPolicy.FAIL)

    assert await store.cancel([child, parent], "no") == [Answer.DONE, Answer.DONE]

    record = await record_of(store, parent)
    assert (record.state, record.reason, record.deferred) == (State.FAILED, "no", None)


# ------------------------------------------------------------------ its deduplication id


async def test_the_deduplication_id_of_a_cancelled_job_is_free(store: Store) -> None:
    ref = await given(store, deduplication=Deduplication.simple("d"))

    await store.cancel([ref], "no")

    assert await store.owner(QUEUE, "d") is None
    assert await given(store, deduplication=Deduplication.simple("d")) != ref


async def test_a_throttled_id_outlives_a_cancelled_job(store: Store) -> None:
    ref = await given(store, deduplication=Deduplication.throttle("d", 60))

    await store.cancel([ref], "no")

    assert await store.owner(QUEUE, "d") == ref


async def test_what_was_kept_for_later_is_added_when_the_owner_is_cancelled(store: Store) -> None:
    by = Deduplication.keep_last("d")
    one = await given_active(store, deduplication=by, attempts=2)
    later = new_job(store, deduplication=by)
    await add(store, later)
    await retry_after(store, one, 60_000)

    await store.cancel([one.ref], "no")

    assert await state_of(store, ref_of(later)) is State.WAITING
    assert await store.owner(QUEUE, "d") == ref_of(later)
