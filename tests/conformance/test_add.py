"""Adding: units are all or nothing, a chosen id stands, a repeated add makes no second job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conformance.given import (
    QUEUE,
    add,
    added,
    advance,
    claim_all,
    claim_one,
    complete,
    count_of,
    found,
    given,
    given_active,
    given_completed,
    given_failed,
    given_many,
    given_settings,
    known,
    names_told,
    new_job,
    now_ms,
    record_of,
    ref_of,
    refs,
    state_of,
    told,
)
from toril.errors import JobNotFound, ParentTaken, QueueFull
from toril.model import Added, JobRef, Parent, Unit
from toril.options import Backoff, ChildPolicy, Keep
from toril.states import State
from toril.store import MAX_UNIT_JOBS, Store


async def test_a_job_without_options_waits(store: Store) -> None:
    ref = await given(store)

    assert await state_of(store, ref) is State.WAITING


async def test_a_job_with_a_priority_is_prioritized(store: Store) -> None:
    ref = await given(store, priority=3)

    assert await state_of(store, ref) is State.PRIORITIZED
    assert (await record_of(store, ref)).priority == 3


async def test_a_job_with_a_delay_is_delayed_until_then(store: Store) -> None:
    ref = await given(store, delay=60)

    record = await record_of(store, ref)
    assert record.state is State.DELAYED
    assert record.due_at_ms == now_ms(store) + 60_000


async def test_a_job_with_a_delay_and_a_priority_is_delayed(store: Store) -> None:
    ref = await given(store, delay=60, priority=3)

    assert await state_of(store, ref) is State.DELAYED


async def test_a_delay_counts_from_when_the_job_was_made(store: Store) -> None:
    job = new_job(store, delay=60)
    await advance(store, 10_000)

    await added(store, job)

    assert (await record_of(store, ref_of(job))).due_at_ms == job.created_at_ms + 60_000


async def test_a_parent_waits_for_its_children(store: Store) -> None:
    parent = new_job(store, has_children=True)
    child = new_job(store, parent=ref_of(parent))

    await added(store, parent, child)

    assert await state_of(store, ref_of(parent)) is State.WAITING_CHILDREN
    assert await state_of(store, ref_of(child)) is State.WAITING


async def test_a_job_keeps_what_it_was_given(store: Store) -> None:
    parent = await given(store, queue="albums")
    job = new_job(
        store,
        name="digest",
        data='{"user":"Zoë","n":[1,2.5,null]}',
        parent=parent,
        policy=ChildPolicy.IGNORE,
        priority=7,
        attempts=4,
        backoff=Backoff.exponential(2, jitter=0.25, max_delay=60),
        keep_completed=Keep(count=5, age_ms=9_000),
        keep_failed=True,
        keep_result=30,
        keep_logs=17,
        size_limit=4_096,
    )

    await added(store, job)

    record = await record_of(store, ref_of(job))
    assert record.ref == ref_of(job)
    assert record.name == "digest"
    assert record.data == '{"user":"Zoë","n":[1,2.5,null]}'
    assert record.options == job.options
    assert record.created_at_ms == job.created_at_ms
    assert record.parent == Parent(parent, ChildPolicy.IGNORE)


async def test_a_fresh_job_has_not_been_worked_on(store: Store) -> None:
    record = await record_of(store, await given(store))

    assert (record.attempts_made, record.attempts_started, record.stalled) == (0, 0, 0)
    assert record.processed_at_ms is None
    assert record.finished_at_ms is None
    assert record.worker is None
    assert record.locked_until_ms is None
    assert record.progress is None
    assert record.result is None
    assert record.reason is None
    assert record.deferred is None
    assert record.history == ()
    assert record.kept


async def test_options_of_later_features_are_carried(store: Store) -> None:
    job = new_job(store)
    carried = replace(
        job.options, group="g", expires_at_ms=1, deadline_at_ms=2, timeout_ms=3, trace="t", origin="o", codec="c"
    )
    job = replace(job, options=carried)

    await added(store, job)

    assert (await record_of(store, ref_of(job))).options == carried


async def test_the_receipt_names_the_members_in_order(store: Store) -> None:
    jobs = [new_job(store) for _ in range(3)]

    receipt = await add(store, *jobs)

    assert receipt.added == tuple(Added(ref_of(job)) for job in jobs)
    assert receipt.refusal is None


async def test_each_unit_has_a_receipt_of_its_own(store: Store) -> None:
    first, second = new_job(store), new_job(store, queue="images")

    receipts = await store.add([Unit((first,)), Unit((second,))])

    assert [[member.ref for member in receipt.added] for receipt in receipts] == [[ref_of(first)], [ref_of(second)]]


async def test_no_units_have_no_receipts(store: Store) -> None:
    assert await store.add([]) == []


async def test_a_unit_holds_a_thousand_jobs(store: Store) -> None:
    jobs = [new_job(store) for _ in range(MAX_UNIT_JOBS)]

    await added(store, *jobs)

    assert await count_of(store, State.WAITING) == MAX_UNIT_JOBS


async def test_jobs_of_units_are_claimed_in_the_order_in_which_they_were_added(store: Store) -> None:
    jobs = [new_job(store) for _ in range(12)]

    await store.add([Unit(tuple(jobs[:5])), Unit(tuple(jobs[5:6])), Unit(tuple(jobs[6:]))])

    assert refs(await claim_all(store)) == [ref_of(job) for job in jobs]


async def test_queues_do_not_mix(store: Store) -> None:
    mine, theirs = new_job(store, job_id="same"), new_job(store, queue="images", job_id="same")

    await added(store, mine, theirs)

    assert refs(await claim_all(store)) == [ref_of(mine)]
    assert await state_of(store, ref_of(theirs)) is State.WAITING


# ------------------------------------------------------------------ refusals


async def test_a_child_of_an_unknown_parent_is_refused(store: Store) -> None:
    nobody = JobRef(QUEUE, "nobody")
    child = new_job(store, parent=nobody)

    receipt = await add(store, child)

    assert receipt.added == ()
    assert receipt.refusal is not None
    assert receipt.refusal.ref == ref_of(child)
    assert isinstance(receipt.refusal.error, JobNotFound)
    assert receipt.refusal.error.ref == nobody


async def test_a_refused_unit_leaves_nothing_behind(store: Store) -> None:
    good, bad = new_job(store), new_job(store, parent=JobRef(QUEUE, "nobody"))

    receipt = await add(store, good, bad, new_job(store))

    assert receipt.refusal is not None
    assert receipt.refusal.ref == ref_of(bad)
    assert await known(store, ref_of(good)) is None
    assert await claim_all(store) == []


async def test_a_refused_unit_does_not_touch_the_units_beside_it(store: Store) -> None:
    before, bad, after = new_job(store), new_job(store, parent=JobRef(QUEUE, "nobody")), new_job(store)

    receipts = await store.add([Unit((before,)), Unit((bad,)), Unit((after,))])

    assert [receipt.refusal is None for receipt in receipts] == [True, False, True]
    assert refs(await claim_all(store)) == [ref_of(before), ref_of(after)]


async def test_a_unit_may_bring_children_of_a_parent_that_another_unit_of_the_call_brought(store: Store) -> None:
    parent = new_job(store)
    child = new_job(store, parent=ref_of(parent))

    receipts = await store.add([Unit((parent,)), Unit((child,))])

    assert [receipt.refusal for receipt in receipts] == [None, None]
    assert (await record_of(store, ref_of(parent))).pending_children == 1


async def test_a_full_queue_refuses_a_unit_and_says_how_full_it_is(store: Store) -> None:
    await given_settings(store, max_waiting=2)
    await given_many(store, 2)
    job = new_job(store)

    receipt = await add(store, job)

    assert receipt.refusal is not None
    assert receipt.refusal.ref == ref_of(job)
    error = receipt.refusal.error
    assert isinstance(error, QueueFull)
    assert (error.queue, error.waiting, error.max_waiting) == (QUEUE, 2, 2)
    assert await state_of(store, ref_of(job)) is None


async def test_prioritized_jobs_fill_a_queue_too(store: Store) -> None:
    await given_settings(store, max_waiting=2)
    await given(store)
    await given(store, priority=1)

    assert (await add(store, new_job(store, priority=9))).refusal is not None


async def test_a_unit_that_would_overfill_a_queue_is_refused_whole(store: Store) -> None:
    await given_settings(store, max_waiting=2)
    await given(store)

    receipt = await add(store, new_job(store), new_job(store))

    assert receipt.refusal is not None
    assert isinstance(receipt.refusal.error, QueueFull)
    assert await count_of(store, State.WAITING) == 1


async def test_units_fill_a_queue_one_after_another(store: Store) -> None:
    await given_settings(store, max_waiting=2)
    large, small = (new_job(store), new_job(store), new_job(store)), (new_job(store), new_job(store))

    receipts = await store.add([Unit(large), Unit(small), Unit((new_job(store),))])

    assert [receipt.refusal is None for receipt in receipts] == [False, True, False]
    assert await found(store, State.WAITING) == [ref_of(job) for job in small]


async def test_delayed_jobs_and_parents_do_not_fill_a_queue(store: Store) -> None:
    await given_settings(store, max_waiting=1)
    parent = new_job(store, has_children=True)

    await added(store, new_job(store, delay=60), parent, new_job(store, queue="images", parent=ref_of(parent)))
    await added(store, new_job(store))

    assert await count_of(store, State.WAITING) == 1


async def test_a_full_queue_admits_again_once_a_job_was_claimed(store: Store) -> None:
    await given_settings(store, max_waiting=1)
    await given(store)
    assert (await add(store, new_job(store))).refusal is not None

    await claim_one(store)

    assert (await add(store, new_job(store))).refusal is None


async def test_repeating_the_add_that_filled_a_queue_is_not_refused(store: Store) -> None:
    await given_settings(store, max_waiting=1)
    job = new_job(store)
    await added(store, job)

    assert await added(store, job) == [Added(ref_of(job), duplicate=False)]
    assert await count_of(store, State.WAITING) == 1


async def test_a_flow_is_refused_whole_when_the_queue_of_its_children_is_full(store: Store) -> None:
    await given_settings(store, "images", max_waiting=1)
    parent = new_job(store, has_children=True)
    children = [new_job(store, queue="images", parent=ref_of(parent)) for _ in range(2)]

    receipt = await add(store, parent, *children)

    assert receipt.refusal is not None
    assert isinstance(receipt.refusal.error, QueueFull)
    assert receipt.refusal.ref.queue == "images"
    assert [await known(store, ref_of(job)) for job in (parent, *children)] == [None, None, None]


async def test_a_duplicate_takes_no_room_in_a_full_queue(store: Store) -> None:
    await given_settings(store, max_waiting=1)
    ref = await given(store, job_id="order-7")

    assert await added(store, new_job(store, job_id="order-7")) == [Added(ref, True, "id")]


# ------------------------------------------------------------------ ids that exist


async def test_a_chosen_id_that_exists_stands_as_it_is(store: Store) -> None:
    ref = await given(store, job_id="order-7", data='{"n":1}')

    answer = await added(store, new_job(store, job_id="order-7", data='{"n":2}', delay=60))

    assert answer == [Added(ref, True, "id")]
    record = await record_of(store, ref)
    assert record.state is State.WAITING
    assert record.data == '{"n":1}'
    assert refs(await claim_all(store)) == [ref]


async def test_a_chosen_id_that_has_finished_stands_as_long_as_it_is_kept(store: Store) -> None:
    ref = await given_completed(store, '"sent"', job_id="order-7")

    assert await added(store, new_job(store, job_id="order-7")) == [Added(ref, True, "id")]
    assert await state_of(store, ref) is State.COMPLETED
    assert (await record_of(store, ref)).result == '"sent"'


async def test_a_duplicate_beside_new_jobs_of_its_unit_does_not_refuse_them(store: Store) -> None:
    ref = await given(store, job_id="order-7")
    fresh = new_job(store)

    answer = await added(store, new_job(store, job_id="order-7"), fresh)

    assert answer == [Added(ref, True, "id"), Added(ref_of(fresh))]


async def test_a_parent_waits_for_a_child_that_was_there_before(store: Store) -> None:
    child = await given(store, job_id="thumb-7")
    parent = new_job(store, queue="albums", has_children=True)

    await added(store, parent, new_job(store, job_id="thumb-7", parent=ref_of(parent)))
    assert await state_of(store, ref_of(parent)) is State.WAITING_CHILDREN

    one = await claim_one(store)
    assert one.ref == child
    await complete(store, one)
    assert await state_of(store, ref_of(parent)) is State.WAITING


async def test_a_parent_does_not_wait_for_a_child_that_had_completed_before(store: Store) -> None:
    await given_completed(store, '"thumb.png"', job_id="thumb-7")
    parent = new_job(store, queue="albums", has_children=True)

    await added(store, parent, new_job(store, job_id="thumb-7", parent=ref_of(parent)))

    assert await state_of(store, ref_of(parent)) is State.WAITING


@pytest.mark.parametrize(
    ("policy", "deferred"),
    [
        (ChildPolicy.FAIL, True),
        (ChildPolicy.CONTINUE, False),
        (ChildPolicy.IGNORE, False),
        (ChildPolicy.REMOVE, False),
    ],
)
async def test_a_child_that_had_failed_before_it_was_added_again_holds_up_no_parent(
    store: Store, policy: ChildPolicy, deferred: bool
) -> None:
    failed = await given_failed(store, "no such user", job_id="order-7")
    parent = new_job(store, queue="albums", has_children=True)

    await added(store, parent, new_job(store, job_id="order-7", parent=ref_of(parent), policy=policy))

    record = await record_of(store, ref_of(parent))
    assert (record.state, record.deferred is not None, record.pending_children) == (State.WAITING, deferred, 0)
    kept = [] if policy is ChildPolicy.REMOVE else [failed]
    assert [child.ref for child in await store.children(record.ref)] == kept


async def test_a_parent_waits_for_a_child_that_had_failed_before_if_that_is_its_policy(store: Store) -> None:
    child = await given_failed(store, job_id="order-7")
    parent = new_job(store, queue="albums", has_children=True)

    await added(store, parent, new_job(store, job_id="order-7", parent=ref_of(parent)))

    assert await state_of(store, ref_of(parent)) is State.WAITING_CHILDREN
    await store.retry([child])
    await complete(store, await claim_one(store))
    assert await state_of(store, ref_of(parent)) is State.WAITING


async def test_a_child_that_had_failed_before_lets_its_parent_wait_for_the_others(store: Store) -> None:
    await given_failed(store, job_id="order-7")
    parent = new_job(store, queue="albums", has_children=True)
    old = new_job(store, job_id="order-7", parent=ref_of(parent), policy=ChildPolicy.REMOVE)
    await added(store, parent, old, new_job(store, parent=ref_of(parent)))
    assert await state_of(store, ref_of(parent)) is State.WAITING_CHILDREN

    await complete(store, await claim_one(store))

    assert await state_of(store, ref_of(parent)) is State.WAITING


async def test_a_running_parent_hears_of_a_child_that_had_failed_before(store: Store) -> None:
    await given_failed(store, "no such user", job_id="order-7")
    one = await given_active(store, queue="albums")

    await added(store, new_job(store, job_id="order-7", parent=one.ref, policy=ChildPolicy.IGNORE))

    [child] = await store.children(one.ref)
    assert (child.state, child.reason) == ("ignored", "no such user")
    await complete(store, one)


async def test_a_parent_waits_for_a_child_that_comes_back_after_it_was_removed(store: Store) -> None:
    one = await given_active(store, queue="albums")
    job = new_job(store, job_id="order-7", parent=one.ref, keep_completed=False)
    await added(store, job)
    await complete(store, await claim_one(store))

    await added(store, new_job(store, job_id="order-7", parent=one.ref))

    assert (await record_of(store, one.ref)).pending_children == 1


async def test_of_two_units_of_one_call_the_first_becomes_the_parent_of_a_job_that_was_there(store: Store) -> None:
    child = await given(store, job_id="thumb-7")
    parents = [new_job(store, queue="albums", has_children=True) for _ in range(2)]
    units = [Unit((parent, new_job(store, job_id="thumb-7", parent=ref_of(parent)))) for parent in parents]

    first, second = await store.add(units)

    assert [member.ref for member in first.added] == [ref_of(parents[0]), child]
    assert second.refusal is not None
    assert isinstance(second.refusal.error, ParentTaken)
    assert await known(store, ref_of(parents[1])) is None


async def test_one_id_twice_in_a_unit_is_one_job(store: Store) -> None:
    first, second = new_job(store, job_id="order-7", data="1"), new_job(store, job_id="order-7", data="2")

    answer = await added(store, first, second)

    assert [member.duplicate for member in answer] == [False, True]
    assert (await record_of(store, ref_of(first))).data == "1"
    assert await count_of(store, State.WAITING) == 1


async def test_a_duplicate_is_told_as_one(store: Store) -> None:
    await given(store, job_id="order-7")
    await given(store, job_id="order-7")

    assert await names_told(store) == ["added", "waiting", "duplicated"]


# ------------------------------------------------------------------ repeating an add


@pytest.mark.parametrize("chosen", [False, True], ids=["drawn id", "chosen id"])
async def test_repeating_an_add_makes_one_job(store: Store, chosen: bool) -> None:
    job = new_job(store, job_id="order-7") if chosen else new_job(store)
    await added(store, job)

    assert await added(store, job) == [Added(ref_of(job), duplicate=False)]

    assert await count_of(store, State.WAITING) == 1
    assert await names_told(store) == ["added", "waiting"]


@pytest.mark.parametrize("chosen", [False, True], ids=["drawn id", "chosen id"])
async def test_repeating_an_add_after_the_job_was_claimed_makes_one_job(store: Store, chosen: bool) -> None:
    job = new_job(store, job_id="order-7") if chosen else new_job(store)
    await added(store, job)
    await claim_one(store)

    assert await added(store, job) == [Added(ref_of(job), duplicate=False)]

    assert await state_of(store, ref_of(job)) is State.ACTIVE
    assert await claim_all(store) == []


@pytest.mark.parametrize("chosen", [False, True], ids=["drawn id", "chosen id"])
async def test_repeating_an_add_after_the_job_was_removed_by_its_keep_rule_makes_no_job(
    store: Store, chosen: bool
) -> None:
    keep = Keep(count=0)
    job = new_job(store, job_id="order-7", keep_completed=keep) if chosen else new_job(store, keep_completed=keep)
    await added(store, job)
    await complete(store, await claim_one(store))
    assert await state_of(store, ref_of(job)) is None

    assert await added(store, job) == [Added(ref_of(job), duplicate=False)]

    assert await state_of(store, ref_of(job)) is None
    assert await claim_all(store) == []


async def test_a_chosen_id_is_free_again_once_its_job_was_removed(store: Store) -> None:
    ref = await given_completed(store, job_id="order-7", keep_completed=False)

    assert await added(store, new_job(store, job_id="order-7", data='{"n":2}')) == [Added(ref)]

    record = await record_of(store, ref)
    assert record.kept
    assert record.state is State.WAITING
    assert record.data == '{"n":2}'
    assert record.result is None


async def test_repeating_a_flow_makes_one_flow(store: Store) -> None:
    parent = new_job(store, has_children=True)
    child = new_job(store, parent=ref_of(parent))
    await added(store, parent, child)

    await added(store, parent, child)

    assert (await record_of(store, ref_of(parent))).pending_children == 1
    assert refs(await claim_all(store)) == [ref_of(child)]


async def test_repeating_a_flow_whose_child_has_completed_does_not_make_its_parent_wait_again(store: Store) -> None:
    parent = new_job(store, queue="albums", has_children=True)
    child = new_job(store, parent=ref_of(parent))
    await added(store, parent, child)
    await complete(store, await claim_one(store))

    await added(store, parent, child)

    assert await state_of(store, ref_of(parent)) is State.WAITING
    assert (await record_of(store, ref_of(parent))).pending_children == 0


async def test_repeating_a_flow_does_not_bring_back_a_child_that_was_detached(store: Store) -> None:
    parent = new_job(store, queue="albums", has_children=True)
    child, other = new_job(store, parent=ref_of(parent)), new_job(store, parent=ref_of(parent))
    await added(store, parent, child, other)
    await store.detach([ref_of(child)])

    await added(store, parent, child, other)

    assert (await record_of(store, ref_of(child))).parent is None
    assert [each.ref for each in await store.children(ref_of(parent))] == [ref_of(other)]


async def test_a_unit_that_is_repeated_tells_no_duplicate_again(store: Store) -> None:
    await given(store, job_id="order-7")
    unit = (new_job(store, job_id="order-7"), new_job(store))
    answers = await added(store, *unit)

    assert await added(store, *unit) == answers

    assert (await names_told(store)).count("duplicated") == 1


# ------------------------------------------------------------------ events


async def test_adding_tells_added_and_waiting(store: Store) -> None:
    await given(store, name="digest")

    assert await told(store) == [("added", {"name": "digest"}), ("waiting", {})]


async def test_adding_a_prioritized_job_tells_waiting(store: Store) -> None:
    await given(store, priority=1)

    assert await names_told(store) == ["added", "waiting"]


async def test_adding_a_delayed_job_tells_when_it_is_due(store: Store) -> None:
    await given(store, name="digest", delay=60)

    assert await told(store) == [("added", {"name": "digest"}), ("delayed", {"due_at_ms": str(now_ms(store) + 60_000)})]


async def test_adding_a_parent_tells_waiting_children(store: Store) -> None:
    parent = new_job(store, has_children=True)
    await added(store, parent, new_job(store, queue="images", parent=ref_of(parent)))

    assert await names_told(store) == ["added", "waiting-children"]
    assert await names_told(store, "images") == ["added", "waiting"]


async def test_a_refused_unit_tells_nothing(store: Store) -> None:
    await add(store, new_job(store), new_job(store, parent=JobRef(QUEUE, "nobody")))

    assert await names_told(store) == []


async def test_a_unit_that_gives_one_job_two_parents_is_refused_whole(store: Store) -> None:
    first, second = new_job(store, has_children=True), new_job(store, has_children=True)
    children = [new_job(store, job_id="child", parent=ref_of(parent)) for parent in (first, second)]

    receipt = await add(store, first, second, *children)

    assert receipt.refusal is not None
    assert isinstance(receipt.refusal.error, ParentTaken)
    assert receipt.refusal.error.parent == ref_of(first)
    assert await count_of(store, State.WAITING_CHILDREN) == 0
