"""Settling: the only door out of `active`, under the token of the claim."""

from __future__ import annotations

import asyncio
import json

import pytest

from conformance.given import (
    INTERVAL_MS,
    LOCK_MS,
    QUEUE,
    added,
    advance,
    claim,
    claim_all,
    claim_one,
    complete,
    count_of,
    fail,
    found,
    given,
    given_active,
    given_completed,
    given_flow,
    given_many,
    given_settings,
    history_of,
    known,
    names_told,
    new_job,
    now_ms,
    record_of,
    ref_of,
    refs,
    retry_after,
    settle,
    stall,
    state_of,
    told,
    wanted,
)
from toril.errors import Unrecoverable, WrongState
from toril.model import (
    Attempt,
    AwaitingChildren,
    Claim,
    Completed,
    Delayed,
    Failed,
    JobRef,
    Outcome,
    Released,
    Retried,
    Settled,
    Settlement,
    Throttled,
    Unit,
)
from toril.options import ChildPolicy, Keep
from toril.states import State
from toril.store import Store

OUTCOMES: list[Outcome] = [
    Completed('"done"'),
    Failed("no"),
    Retried(0, "no"),
    Retried(5_000, "no"),
    Delayed(1_800_000_000_000),
    Throttled(5_000),
    Released(),
]


def _name(outcome: Outcome) -> str:
    return type(outcome).__name__.lower()


async def attempts_of(store: Store, one: Claim) -> tuple[int, int]:
    record = await record_of(store, one.ref)
    return record.attempts_made, record.attempts_started


# ------------------------------------------------------------------ completed and failed


async def test_a_completed_job_has_its_result(store: Store) -> None:
    one = await given_active(store)
    await advance(store, 1_500)

    await complete(store, one, '{"sent":true}')

    record = await record_of(store, one.ref)
    assert record.state is State.COMPLETED
    assert record.result == '{"sent":true}'
    assert record.reason is None
    assert record.processed_at_ms == one.claimed_at_ms
    assert record.finished_at_ms == now_ms(store)
    assert record.locked_until_ms is None
    assert (record.attempts_made, record.attempts_started) == (1, 1)


async def test_a_failed_job_has_its_reason(store: Store) -> None:
    one = await given_active(store)
    await advance(store, 1_500)

    await settle(store, one, Failed("no such user", "Traceback …"))

    record = await record_of(store, one.ref)
    assert record.state is State.FAILED
    assert record.reason == "no such user"
    assert record.result is None
    assert record.finished_at_ms == now_ms(store)
    assert record.locked_until_ms is None
    assert (record.attempts_made, record.attempts_started) == (1, 1)


async def test_a_failed_job_is_not_handed_out_again(store: Store) -> None:
    one = await given_active(store, attempts=5)

    await fail(store, one)

    assert (await claim(store)).claims == ()


async def test_a_deferred_failure_counts_as_an_attempt(store: Store) -> None:
    one = await given_active(store)

    await settle(store, one, Failed("job stalled more than allowable limit"))

    record = await record_of(store, one.ref)
    assert record.state is State.FAILED
    assert (record.attempts_made, record.attempts_started) == (1, 1)


async def test_a_job_that_completes_after_a_failed_attempt_has_no_reason(store: Store) -> None:
    one = await given_active(store, attempts=2, backoff=0)
    await retry_after(store, one)

    await complete(store, await claim_one(store), "1")

    record = await record_of(store, one.ref)
    assert record.state is State.COMPLETED
    assert record.result == "1"
    assert record.attempts_made == 2


async def test_many_outcomes_are_recorded_in_one_call(store: Store) -> None:
    await given_many(store, 3)
    a, b, c = await claim_all(store)

    settled = await store.settle(
        [Settlement(a, Completed("1")), Settlement(b, Failed("no")), Settlement(c, Retried(0, "no"))]
    )

    assert settled == Settled()
    assert [await state_of(store, one.ref) for one in (a, b, c)] == [State.COMPLETED, State.FAILED, State.WAITING]


async def test_nothing_to_settle_is_settled(store: Store) -> None:
    assert await store.settle([]) == Settled()


# ------------------------------------------------------------------ back into the queue


async def test_a_retried_job_waits_behind_the_others(store: Store) -> None:
    one = await given_active(store, attempts=2, backoff=0)
    other = await given(store)

    await retry_after(store, one)

    assert await state_of(store, one.ref) is State.WAITING
    assert await attempts_of(store, one) == (1, 1)
    assert refs(await claim_all(store)) == [other, one.ref]


async def test_a_retried_lifo_job_goes_in_front(store: Store) -> None:
    one = await given_active(store, lifo=True, attempts=2, backoff=0)
    other = await given(store)

    await retry_after(store, one)

    assert refs(await claim_all(store)) == [one.ref, other]


async def test_a_retried_prioritized_job_waits_behind_its_equals(store: Store) -> None:
    one = await given_active(store, priority=5, attempts=2, backoff=0)
    equal, lower = await given(store, priority=5), await given(store, priority=6)

    await retry_after(store, one)

    assert await state_of(store, one.ref) is State.PRIORITIZED
    assert refs(await claim_all(store)) == [equal, one.ref, lower]


async def test_a_job_retried_later_is_delayed_until_then(store: Store) -> None:
    one = await given_active(store, attempts=2, backoff=5)

    await retry_after(store, one, 5_000, "no answer")

    record = await record_of(store, one.ref)
    assert record.state is State.DELAYED
    assert record.due_at_ms == now_ms(store) + 5_000
    assert record.locked_until_ms is None
    assert (record.attempts_made, record.attempts_started) == (1, 1)
    await advance(store, 5_000)
    assert (await claim_one(store)).attempt == 2


async def test_a_handlers_delay_costs_no_attempt(store: Store) -> None:
    one = await given_active(store)
    until_ms = now_ms(store) + 7_000

    await settle(store, one, Delayed(until_ms))

    record = await record_of(store, one.ref)
    assert record.state is State.DELAYED
    assert record.due_at_ms == until_ms
    assert (record.attempts_made, record.attempts_started) == (0, 1)
    await advance(store, 7_000)
    again = await claim_one(store)
    assert (again.attempt, again.started) == (1, 2)


async def test_a_released_job_goes_in_front_and_costs_no_attempt(store: Store) -> None:
    one = await given_active(store)
    other = await given(store)

    await settle(store, one, Released())

    assert await state_of(store, one.ref) is State.WAITING
    assert await attempts_of(store, one) == (0, 1)
    again, next_one = await claim_all(store)
    assert [again.ref, next_one.ref] == [one.ref, other]
    assert (again.attempt, again.started) == (1, 2)


async def test_a_released_prioritized_job_goes_in_front_of_its_equals(store: Store) -> None:
    one = await given_active(store, priority=5)
    equal, higher = await given(store, priority=5), await given(store, priority=4)

    await settle(store, one, Released())

    assert await state_of(store, one.ref) is State.PRIORITIZED
    assert refs(await claim_all(store)) == [higher, one.ref, equal]


async def test_a_throttled_job_goes_in_front_and_its_queue_is_limited(store: Store) -> None:
    one = await given_active(store)
    other = await given(store)

    await settle(store, one, Throttled(60_000))

    assert await state_of(store, one.ref) is State.WAITING
    assert await attempts_of(store, one) == (0, 1)
    assert (await claim(store)).idle[QUEUE].reason == "limited"
    await advance(store, 60_000)
    assert refs(await claim_all(store)) == [one.ref, other]


async def test_a_throttled_prioritized_job_goes_in_front_of_its_equals(store: Store) -> None:
    one = await given_active(store, priority=5)
    equal = await given(store, priority=5)

    await settle(store, one, Throttled(60_000))

    assert await state_of(store, one.ref) is State.PRIORITIZED
    await advance(store, 60_000)
    assert refs(await claim_all(store)) == [one.ref, equal]


async def test_throttling_one_queue_leaves_the_others_alone(store: Store) -> None:
    one = await given_active(store)
    image = await given(store, queue="images")

    await settle(store, one, Throttled(60_000))

    assert (await claim_one(store, "images")).ref == image


@pytest.mark.parametrize(
    "text",
    ["Zoë 🐂", 'two\nlines, "quoted" \\', "nul \x00 inside", "", "12.50", "null"],
    ids=["beyond ASCII", "quoted", "nul", "empty", "number", "null"],
)
async def test_reasons_and_results_keep_what_they_say(store: Store, text: str) -> None:
    failed, completed = await given_active(store), await given_active(store)

    await settle(store, failed, Failed(text, text))
    await complete(store, completed, json.dumps(text, ensure_ascii=False))

    assert (await record_of(store, failed.ref)).reason == text
    assert (await history_of(store, failed.ref))[-1].stack == text
    assert (await record_of(store, completed.ref)).result == json.dumps(text, ensure_ascii=False)


# ------------------------------------------------------------------ history


async def test_each_run_that_is_over_is_remembered(store: Store) -> None:
    one = await given_active(store, worker="w1", attempts=2, backoff=5)
    started_at_ms = now_ms(store)
    await advance(store, 100)
    await settle(store, one, Retried(5_000, "no answer", "Traceback 1"))
    ended_at_ms = now_ms(store)

    assert await history_of(store, one.ref) == [
        Attempt(1, "w1", started_at_ms, ended_at_ms, "retried", "no answer", "Traceback 1")
    ]


async def test_a_finished_job_remembers_its_last_run_too(store: Store) -> None:
    one = await given_active(store, attempts=2, backoff=0)
    await retry_after(store, one, 0, "no answer")
    await advance(store, 50)
    again = await claim_one(store, worker="w2")
    await advance(store, 70)
    await settle(store, again, Failed("no answer again", "Traceback 2"))

    first, last = await history_of(store, one.ref)

    assert (first.number, first.worker, first.outcome, first.reason) == (1, "w1", "retried", "no answer")
    assert last == Attempt(2, "w2", again.claimed_at_ms, now_ms(store), "failed", "no answer again", "Traceback 2")


async def test_a_completed_job_remembers_its_run(store: Store) -> None:
    one = await given_active(store)
    await advance(store, 70)
    await complete(store, one)

    assert await history_of(store, one.ref) == [Attempt(1, "w1", one.claimed_at_ms, now_ms(store), "completed")]


async def test_runs_that_cost_no_attempt_are_remembered_under_its_number(store: Store) -> None:
    one = await given_active(store)
    await settle(store, one, Delayed(now_ms(store) + 1_000))
    await advance(store, 1_000)
    await settle(store, await claim_one(store), Released())
    await settle(store, await claim_one(store), Throttled(1_000))
    await advance(store, 1_000)
    await complete(store, await claim_one(store))

    history = await history_of(store, one.ref)

    assert [(attempt.number, attempt.outcome) for attempt in history] == [
        (1, "delayed"),
        (1, "released"),
        (1, "throttled"),
        (1, "completed"),
    ]


async def test_the_last_ten_runs_are_remembered(store: Store) -> None:
    one = await given_active(store, attempts=20, backoff=0)
    for n in range(1, 13):
        await retry_after(store, one, 0, f"no {n}")
        one = await claim_one(store)

    history = await history_of(store, one.ref)

    assert [attempt.number for attempt in history] == list(range(3, 13))
    assert history[-1].reason == "no 12"


# ------------------------------------------------------------------ too late, or twice


@pytest.mark.parametrize("outcome", OUTCOMES, ids=_name)
async def test_an_outcome_under_a_stale_token_is_lost_and_changes_nothing(store: Store, outcome: Outcome) -> None:
    stale = await given_active(store)
    await stall(store)
    fresh = await claim_one(store, worker="w2")
    before, told_before = await record_of(store, stale.ref), await told(store)

    settled = await store.settle([Settlement(stale, outcome)])

    assert settled.lost == (stale.ref,)
    assert await record_of(store, stale.ref) == before
    assert await told(store) == told_before
    await complete(store, fresh, '"by w2"')
    assert (await record_of(store, stale.ref)).result == '"by w2"'


async def test_an_outcome_of_a_job_that_was_taken_back_is_lost(store: Store) -> None:
    stale = await given_active(store)
    await stall(store)

    settled = await store.settle([Settlement(stale, Completed())])

    assert settled.lost == (stale.ref,)
    assert await state_of(store, stale.ref) is State.WAITING


async def test_a_lost_outcome_does_not_touch_the_others_of_its_batch(store: Store) -> None:
    stale = await given_active(store)
    await stall(store)
    await claim_one(store, worker="w2")
    good = await given_active(store)

    settled = await store.settle([Settlement(stale, Completed()), Settlement(good, Completed("1"))])

    assert settled.lost == (stale.ref,)
    assert await state_of(store, good.ref) is State.COMPLETED


async def test_an_outcome_of_a_job_that_is_not_there_is_lost(store: Store) -> None:
    one = await given_active(store)
    await store.pause(QUEUE)
    await store.obliterate(QUEUE, force=True)

    assert (await store.settle([Settlement(one, Completed())])).lost == (one.ref,)
    assert await known(store, one.ref) is None


@pytest.mark.parametrize("outcome", OUTCOMES, ids=_name)
async def test_settling_twice_is_settling_once(store: Store, outcome: Outcome) -> None:
    one = await given_active(store, attempts=3, backoff=0)
    await settle(store, one, outcome)
    before, told_before = await record_of(store, one.ref), await told(store)

    settled = await store.settle([Settlement(one, outcome)])

    assert settled.lost == ()
    assert await record_of(store, one.ref) == before
    assert await told(store) == told_before


async def test_one_claim_twice_in_a_batch_is_settled_once(store: Store) -> None:
    one = await given_active(store)

    settled = await store.settle([Settlement(one, Completed('"first"')), Settlement(one, Completed('"second"'))])

    assert settled.lost == ()
    assert (await record_of(store, one.ref)).result == '"first"'
    assert (await record_of(store, one.ref)).attempts_made == 1
    assert await count_of(store, State.ACTIVE) == 0
    assert await count_of(store, State.COMPLETED) == 1
    assert (await names_told(store)).count("completed") == 1


async def test_two_outcomes_of_one_claim_in_a_batch_are_the_first(store: Store) -> None:
    one = await given_active(store)

    await store.settle([Settlement(one, Retried(5_000, "no")), Settlement(one, Completed())])

    assert await state_of(store, one.ref) is State.DELAYED
    assert [await count_of(store, state) for state in (State.ACTIVE, State.DELAYED, State.COMPLETED)] == [0, 1, 0]


async def test_the_first_outcome_of_a_claim_stands(store: Store) -> None:
    one = await given_active(store)
    await complete(store, one, '"first"')

    await store.settle([Settlement(one, Failed("second"))])

    record = await record_of(store, one.ref)
    assert record.state is State.COMPLETED
    assert record.result == '"first"'
    assert record.reason is None


async def test_settling_twice_a_job_that_was_removed_at_once_is_settling_once(store: Store) -> None:
    one = await given_active(store, keep_completed=False)
    await complete(store, one, '"done"')

    settled = await store.settle([Settlement(one, Completed('"done"'))])

    assert settled.lost == ()
    assert await state_of(store, one.ref) is None


# ------------------------------------------------------------------ keep rules


@pytest.mark.parametrize("outcome", [Completed('"done"'), Failed("no")], ids=_name)
async def test_a_job_that_is_not_kept_is_gone_and_its_end_readable_for_a_while(store: Store, outcome: Outcome) -> None:
    one = await given_active(store, keep_completed=False, keep_failed=False, keep_result=60)
    await settle(store, one, outcome)

    receipt = await record_of(store, one.ref)
    assert not receipt.kept
    if isinstance(outcome, Completed):
        assert (receipt.state, receipt.result) == (State.COMPLETED, '"done"')
    else:
        assert (receipt.state, receipt.reason) == (State.FAILED, "no")
    assert await found(store, receipt.state) == []
    assert await count_of(store, receipt.state) == 0

    await advance(store, 59_000)
    assert await known(store, one.ref) is not None
    await advance(store, 1_001)
    assert await known(store, one.ref) is None


async def test_the_newest_so_many_completed_jobs_are_kept(store: Store) -> None:
    jobs: list[JobRef] = []
    for _ in range(4):
        jobs.append(await given_completed(store, keep_completed=2))
        await advance(store, 1)

    assert await found(store, State.COMPLETED) == jobs[2:]
    assert await state_of(store, jobs[0]) is None


async def test_jobs_older_than_the_rule_go_when_the_next_one_ends(store: Store) -> None:
    keep = Keep(age_ms=10_000)
    old = await given_completed(store, keep_completed=keep)
    await advance(store, 6_000)
    young = await given_completed(store, keep_completed=keep)
    await advance(store, 5_000)
    assert await state_of(store, old) is State.COMPLETED

    newest = await given_completed(store, keep_completed=keep)

    assert await found(store, State.COMPLETED) == [young, newest]


async def test_count_and_age_hold_together(store: Store) -> None:
    keep = Keep(count=2, age_ms=10_000)
    await given_completed(store, keep_completed=keep)
    await advance(store, 9_000)
    await given_completed(store, keep_completed=keep)
    await advance(store, 9_000)
    last = [await given_completed(store, keep_completed=keep)]
    await advance(store, 1)
    last.append(await given_completed(store, keep_completed=keep))

    assert await found(store, State.COMPLETED) == last


async def test_failed_jobs_are_kept_by_a_rule_of_their_own(store: Store) -> None:
    jobs: list[JobRef] = []
    for _ in range(3):
        one = await given_active(store, keep_completed=False, keep_failed=1)
        await fail(store, one)
        await advance(store, 1)
        jobs.append(one.ref)

    assert await found(store, State.FAILED) == jobs[2:]


# ------------------------------------------------------------------ and the next, in the same call


async def test_settling_claims_the_next_in_the_same_call(store: Store) -> None:
    one = await given_active(store)
    following = await given_many(store, 2)

    settled = await store.settle([Settlement(one, Completed())], then=wanted(worker="w1"))

    assert settled.claimed is not None
    assert refs(settled.claimed.claims) == following[:1]
    assert await state_of(store, following[0]) is State.ACTIVE


async def test_a_job_put_back_can_be_claimed_in_the_same_call(store: Store) -> None:
    one = await given_active(store, attempts=2, backoff=0)

    settled = await store.settle([Settlement(one, Retried(0, "no"))], then=wanted(worker="w1"))

    assert settled.claimed is not None
    [again] = settled.claimed.claims
    assert again.ref == one.ref
    assert again.attempt == 2


async def test_settling_frees_a_place_for_the_claim_of_the_same_call(store: Store) -> None:
    await given_settings(store, concurrency=1)
    one = await given_active(store)
    following = await given(store)

    settled = await store.settle([Settlement(one, Completed())], then=wanted())

    assert settled.claimed is not None
    assert refs(settled.claimed.claims) == [following]


async def test_settling_says_why_there_is_no_next(store: Store) -> None:
    one = await given_active(store)

    settled = await store.settle([Settlement(one, Completed())], then=wanted())

    assert settled.claimed is not None
    assert settled.claimed.claims == ()
    assert settled.claimed.idle[QUEUE].reason == "empty"


async def test_a_call_repeated_brings_the_same_next_claims(store: Store) -> None:
    one = await given_active(store)
    following, _ = await given_many(store, 2)
    wish = wanted()
    first = await store.settle([Settlement(one, Completed())], then=wish)

    again = await store.settle([Settlement(one, Completed())], then=wish)

    assert again == first
    assert again.claimed is not None
    assert refs(again.claimed.claims) == [following]


# ------------------------------------------------------------------ flows


async def test_the_last_child_to_complete_releases_its_parent(store: Store) -> None:
    parent, [_, _] = await given_flow(store, children=2)

    await complete(store, await claim_one(store, "images"))
    assert await state_of(store, parent) is State.WAITING_CHILDREN
    assert (await record_of(store, parent)).pending_children == 1

    await complete(store, await claim_one(store, "images"))
    assert await state_of(store, parent) is State.WAITING
    assert (await record_of(store, parent)).pending_children == 0


async def test_a_released_parent_is_served_before_those_that_wait(store: Store) -> None:
    parent, _ = await given_flow(store)
    waiting = await given(store)

    await complete(store, await claim_one(store, "images"))

    assert refs(await claim_all(store)) == [parent, waiting]


async def test_a_released_parent_with_a_priority_is_prioritized(store: Store) -> None:
    parent, _ = await given_flow(store, priority=5)

    await complete(store, await claim_one(store, "images"))

    assert await state_of(store, parent) is State.PRIORITIZED


async def test_a_released_parent_with_a_delay_serves_it_from_then(store: Store) -> None:
    parent, _ = await given_flow(store, delay=60)
    await advance(store, 100_000)

    await complete(store, await claim_one(store, "images"))

    record = await record_of(store, parent)
    assert record.state is State.DELAYED
    assert record.due_at_ms == now_ms(store) + 60_000


async def test_children_that_complete_in_one_call_release_their_parent(store: Store) -> None:
    parent, _ = await given_flow(store, children=3)
    claims = await claim_all(store, "images")

    await store.settle([Settlement(one, Completed()) for one in claims])

    assert await state_of(store, parent) is State.WAITING


async def test_a_child_that_is_not_kept_releases_its_parent_all_the_same(store: Store) -> None:
    parent = new_job(store, has_children=True)
    await added(store, parent, new_job(store, queue="images", parent=ref_of(parent), keep_completed=False))

    await complete(store, await claim_one(store, "images"), '"thumb"')

    assert await state_of(store, ref_of(parent)) is State.WAITING
    [child] = await store.children(ref_of(parent))
    assert (child.state, child.result) == ("completed", '"thumb"')


async def test_children_that_complete_at_the_same_time_release_their_parent_once(store: Store) -> None:
    parent, _ = await given_flow(store, children=8)
    claims = await claim_all(store, "images")

    await asyncio.gather(*[complete(store, one) for one in claims])

    assert await state_of(store, parent) is State.WAITING
    assert (await names_told(store)).count("waiting") == 1


async def test_a_failed_child_that_is_not_kept_does_not_hold_its_parent(store: Store) -> None:
    parent = new_job(store, has_children=True)
    await added(store, parent, new_job(store, queue="images", parent=ref_of(parent), keep_failed=False))

    await fail(store, await claim_one(store, "images"))

    assert await state_of(store, ref_of(parent)) is State.WAITING


async def test_flows_of_two_levels_are_released_from_below(store: Store) -> None:
    root = new_job(store, queue="roots", has_children=True)
    middle = new_job(store, queue="middles", parent=ref_of(root), has_children=True)
    leaf = new_job(store, queue="leaves", parent=ref_of(middle))
    await added(store, root, middle, leaf)

    await complete(store, await claim_one(store, "leaves"))
    assert await state_of(store, ref_of(middle)) is State.WAITING
    assert await state_of(store, ref_of(root)) is State.WAITING_CHILDREN

    await complete(store, await claim_one(store, "middles"))
    assert await state_of(store, ref_of(root)) is State.WAITING
    await complete(store, await claim_one(store, "roots"))
    assert await state_of(store, ref_of(root)) is State.COMPLETED


async def test_a_child_that_is_tried_again_keeps_its_parent_waiting(store: Store) -> None:
    parent, _ = await given_flow(store, policy=ChildPolicy.FAIL)

    await retry_after(store, await claim_one(store, "images"))

    assert await state_of(store, parent) is State.WAITING_CHILDREN


@pytest.mark.parametrize("outcome", [Completed(), AwaitingChildren()], ids=["complete", "wait"])
async def test_a_running_parent_whose_child_has_failed_can_only_fail(store: Store, outcome: Outcome) -> None:
    one = await given_active(store)
    await given(store, queue="images", parent=one.ref, policy=ChildPolicy.FAIL)
    await fail(store, await claim_one(store, "images"))

    settled = await store.settle([Settlement(one, outcome)])

    assert [(refusal.ref, type(refusal.error)) for refusal in settled.refused] == [(one.ref, Unrecoverable)]
    assert await state_of(store, one.ref) is State.ACTIVE
    await fail(store, one)


async def test_a_parent_waits_on_for_a_failed_child_without_a_policy(store: Store) -> None:
    parent, [child] = await given_flow(store, policy=ChildPolicy.WAIT)

    await fail(store, await claim_one(store, "images"))

    assert await state_of(store, child) is State.FAILED
    record = await record_of(store, parent)
    assert record.state is State.WAITING_CHILDREN
    assert record.pending_children == 1
    assert record.deferred is None


async def test_a_failed_child_may_fail_its_parent_at_once(store: Store) -> None:
    parent, [child, sibling] = await given_flow(store, children=2, policy=ChildPolicy.FAIL)

    await fail(store, await claim_one(store, "images"))

    record = await record_of(store, parent)
    assert record.state is State.WAITING
    assert record.deferred is not None
    assert child.id in record.deferred
    assert await state_of(store, sibling) is State.WAITING


async def test_a_failed_child_may_let_its_parent_run_at_once(store: Store) -> None:
    parent, [_, sibling] = await given_flow(store, children=2, policy=ChildPolicy.CONTINUE)

    await fail(store, await claim_one(store, "images"))

    record = await record_of(store, parent)
    assert record.state is State.WAITING
    assert record.deferred is None
    assert record.pending_children == 1
    assert await state_of(store, sibling) is State.WAITING


@pytest.mark.parametrize("policy", [ChildPolicy.IGNORE, ChildPolicy.REMOVE])
async def test_a_failed_child_may_count_as_done(store: Store, policy: ChildPolicy) -> None:
    parent, _ = await given_flow(store, children=2, policy=policy)

    await fail(store, await claim_one(store, "images"))
    assert await state_of(store, parent) is State.WAITING_CHILDREN
    assert (await record_of(store, parent)).pending_children == 1

    await fail(store, await claim_one(store, "images"))
    record = await record_of(store, parent)
    assert record.state is State.WAITING
    assert record.deferred is None


async def test_a_failure_climbs_two_levels(store: Store) -> None:
    root = new_job(store, queue="roots", has_children=True)
    middle = new_job(store, queue="middles", parent=ref_of(root), policy=ChildPolicy.FAIL, has_children=True)
    leaf = new_job(store, queue="leaves", parent=ref_of(middle), policy=ChildPolicy.FAIL)
    await added(store, root, middle, leaf)

    await fail(store, await claim_one(store, "leaves"))
    marked = await claim_one(store, "middles")
    assert marked.deferred is not None
    await settle(store, marked, Failed(marked.deferred))

    assert (await claim_one(store, "roots")).deferred is not None


async def test_a_failed_parent_that_is_run_again_is_not_marked_any_more(store: Store) -> None:
    parent, _ = await given_flow(store, policy=ChildPolicy.FAIL)
    await fail(store, await claim_one(store, "images"))
    marked = await claim_one(store)
    assert marked.deferred is not None
    await settle(store, marked, Failed(marked.deferred))

    await store.retry([parent])

    assert (await claim_one(store)).deferred is None


# ------------------------------------------------------------------ waiting for children


async def test_a_running_job_may_wait_for_children_that_it_added(store: Store) -> None:
    one = await given_active(store)
    child = await given(store, queue="images", parent=one.ref)

    await settle(store, one, AwaitingChildren())
    record = await record_of(store, one.ref)
    assert record.state is State.WAITING_CHILDREN
    assert record.locked_until_ms is None
    assert (record.attempts_made, record.attempts_started) == (0, 1)

    taken = await claim_one(store, "images")
    assert taken.ref == child
    await complete(store, taken)
    again = await claim_one(store)
    assert again.ref == one.ref
    assert (again.attempt, again.started) == (1, 2)


async def test_a_job_with_no_pending_children_stays_with_its_worker(store: Store) -> None:
    one = await given_active(store)
    before = await record_of(store, one.ref)

    settled = await store.settle([Settlement(one, AwaitingChildren())])

    assert settled.staying == (one.ref,)
    assert settled.lost == ()
    assert await record_of(store, one.ref) == before
    await complete(store, one)
    assert await state_of(store, one.ref) is State.COMPLETED


async def test_a_job_whose_children_have_all_completed_stays_with_its_worker(store: Store) -> None:
    one = await given_active(store)
    await given(store, queue="images", parent=one.ref)
    await complete(store, await claim_one(store, "images"))

    assert (await store.settle([Settlement(one, AwaitingChildren())])).staying == (one.ref,)


async def test_a_job_with_pending_children_cannot_complete_and_stays_with_its_worker(store: Store) -> None:
    one = await given_active(store)
    await given(store, queue="images", parent=one.ref)
    before = await record_of(store, one.ref)

    settled = await store.settle([Settlement(one, Completed())])

    [refusal] = settled.refused
    assert refusal.ref == one.ref
    assert isinstance(refusal.error, WrongState)
    assert settled.lost == ()
    assert await record_of(store, one.ref) == before
    await fail(store, one, "its children are still pending")
    assert await state_of(store, one.ref) is State.FAILED


async def test_a_stale_wish_to_wait_for_children_is_lost(store: Store) -> None:
    stale = await given_active(store)
    await given(store, queue="images", parent=stale.ref)
    await stall(store)
    await claim_one(store, worker="w2")

    settled = await store.settle([Settlement(stale, AwaitingChildren())])

    assert settled.lost == (stale.ref,)
    assert settled.staying == ()
    assert await state_of(store, stale.ref) is State.ACTIVE


async def test_the_run_that_ended_in_waiting_for_children_is_remembered(store: Store) -> None:
    one = await given_active(store)
    await given(store, queue="images", parent=one.ref)
    await settle(store, one, AwaitingChildren())

    assert [attempt.outcome for attempt in await history_of(store, one.ref)] == ["awaiting-children"]


# ------------------------------------------------------------------ events


async def since_claim(store: Store) -> list[tuple[str, dict[str, str]]]:
    return (await told(store))[3:]


async def test_completing_tells_the_result_and_that_the_queue_has_drained(store: Store) -> None:
    await complete(store, await given_active(store), '{"sent":true}')

    assert await since_claim(store) == [
        ("completed", {"result": '{"sent":true}', "prev": "active"}),
        ("drained", {}),
    ]


async def test_a_queue_with_jobs_left_has_not_drained(store: Store) -> None:
    one = await given_active(store)
    await given(store)
    await complete(store, one)

    assert "drained" not in await names_told(store)


async def test_failing_tells_the_reason_and_that_the_attempts_are_spent(store: Store) -> None:
    one = await given_active(store)
    await given(store, queue="images")
    await fail(store, one, "no such user")

    assert await since_claim(store) == [
        ("failed", {"reason": "no such user", "prev": "active"}),
        ("retries-exhausted", {"attempts_made": "1"}),
        ("drained", {}),
    ]


async def test_failing_with_attempts_left_does_not_tell_that_they_are_spent(store: Store) -> None:
    await fail(store, await given_active(store, attempts=3))

    assert [name for name, _ in await since_claim(store)] == ["failed", "drained"]


async def test_retrying_at_once_tells_waiting(store: Store) -> None:
    await retry_after(store, await given_active(store, attempts=2, backoff=0))

    assert await since_claim(store) == [("waiting", {"prev": "active"})]


async def test_retrying_later_tells_when_it_is_due(store: Store) -> None:
    await retry_after(store, await given_active(store, attempts=2, backoff=5), 5_000)

    assert await since_claim(store) == [("delayed", {"due_at_ms": str(now_ms(store) + 5_000)})]


async def test_a_handlers_delay_tells_when_it_is_due(store: Store) -> None:
    await settle(store, await given_active(store), Delayed(now_ms(store) + 9_000))

    assert await since_claim(store) == [("delayed", {"due_at_ms": str(now_ms(store) + 9_000)})]


@pytest.mark.parametrize("outcome", [Throttled(1_000), Released()], ids=_name)
async def test_handing_back_tells_waiting(store: Store, outcome: Outcome) -> None:
    await settle(store, await given_active(store), outcome)

    assert await since_claim(store) == [("waiting", {"prev": "active"})]


async def test_waiting_for_children_tells_so_and_the_release_too(store: Store) -> None:
    one = await given_active(store)
    await given(store, queue="images", parent=one.ref)
    await settle(store, one, AwaitingChildren())
    await complete(store, await claim_one(store, "images"))

    assert await since_claim(store) == [
        ("waiting-children", {"prev": "active"}),
        ("waiting", {"prev": "waiting-children"}),
    ]


async def test_removal_by_a_keep_rule_tells_no_removed(store: Store) -> None:
    await complete(store, await given_active(store, keep_completed=False))

    assert "removed" not in await names_told(store)


# ------------------------------------------------------------------ the whole journey


async def test_a_lapsed_lock_that_nobody_has_taken_is_found_by_recovery_only(store: Store) -> None:
    one = await given_active(store)
    await advance(store, LOCK_MS + 1)

    assert (await claim(store, worker="w2")).claims == ()
    assert await state_of(store, one.ref) is State.ACTIVE
    await store.recover([QUEUE], max_stalled=1, interval_ms=INTERVAL_MS)
    assert await state_of(store, one.ref) is State.ACTIVE


async def test_an_add_of_many_units_and_their_settling_leave_nothing_behind(store: Store) -> None:
    await store.add([Unit((new_job(store, keep_completed=False),)) for _ in range(20)])
    claims = await claim_all(store)

    await store.settle([Settlement(one, Completed()) for one in claims])

    assert [await count_of(store, state) for state in State] == [0] * len(State)


# ------------------------------------------------------------------ a child and its parent in one call


async def given_parent_beside_its_child(store: Store) -> tuple[Claim, Claim]:
    """A parent that was let go by one child's failure, and its other child; both run."""
    parent = new_job(store, has_children=True)
    policies = (ChildPolicy.CONTINUE, ChildPolicy.FAIL)
    children = [new_job(store, queue="images", parent=ref_of(parent), policy=policy) for policy in policies]
    await added(store, parent, *children)
    await fail(store, await claim_one(store, "images"))
    return await claim_one(store), await claim_one(store, "images")


async def test_a_parent_that_wants_to_wait_has_nothing_to_wait_for_once_its_child_has_completed_in_the_same_call(
    store: Store,
) -> None:
    parent, child = await given_parent_beside_its_child(store)

    settled = await store.settle([Settlement(child, Completed()), Settlement(parent, AwaitingChildren())])

    assert settled.staying == (parent.ref,)
    assert await state_of(store, parent.ref) is State.ACTIVE


async def test_a_parent_completes_once_its_child_has_completed_in_the_same_call(store: Store) -> None:
    parent, child = await given_parent_beside_its_child(store)

    settled = await store.settle([Settlement(child, Completed()), Settlement(parent, Completed())])

    assert settled.refused == ()
    assert await state_of(store, parent.ref) is State.COMPLETED


@pytest.mark.parametrize("wish", [Completed(), AwaitingChildren()], ids=["complete", "wait"])
async def test_a_parent_can_neither_complete_nor_wait_once_its_child_has_failed_it_in_the_same_call(
    store: Store, wish: Outcome
) -> None:
    parent, child = await given_parent_beside_its_child(store)

    settled = await store.settle([Settlement(child, Failed("no")), Settlement(parent, wish)])

    assert [refusal.ref for refusal in settled.refused] == [parent.ref]
    assert await state_of(store, parent.ref) is State.ACTIVE


async def test_a_job_that_is_tried_again_at_once_stands_behind_those_that_were_due(store: Store) -> None:
    one = await given_active(store)
    due = await given(store, delay=1)
    await advance(store, 1_000)

    await retry_after(store, one, 0)

    assert await count_of(store, State.WAITING) == 2
    assert refs(await claim_all(store)) == [due, one.ref]
