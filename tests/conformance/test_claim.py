"""Claiming: who comes first, what due jobs do, and why a queue gives nothing."""

from __future__ import annotations

import asyncio

import pytest

from conformance.given import (
    LOCK_MS,
    QUEUE,
    advance,
    claim,
    claim_all,
    claim_one,
    complete,
    count_of,
    fail,
    given,
    given_active,
    given_flow,
    given_many,
    given_settings,
    now_ms,
    record_of,
    refs,
    retry_after,
    stall,
    state_of,
    told,
    wanted,
)
from toril.model import Idle, JobRef, Parent, Slots, Wanted
from toril.options import ChildPolicy, RateLimit
from toril.states import State
from toril.store import Store

LIMIT = RateLimit(2, per=60)


async def test_a_claim_makes_a_job_active_under_its_token(store: Store) -> None:
    ref = await given(store)

    claimed = await claim(store, worker="w7", token="t-1")

    [one] = claimed.claims
    assert one.ref == ref
    assert one.token == "t-1"
    assert one.worker == "w7"
    record = await record_of(store, ref)
    assert record.state is State.ACTIVE
    assert record.worker == "w7"
    assert record.locked_until_ms == now_ms(store) + LOCK_MS
    assert record.processed_at_ms == now_ms(store)
    assert record.attempts_started == 1
    assert record.attempts_made == 0


async def test_a_claim_carries_the_whole_job(store: Store) -> None:
    parent = await given(store, queue="albums")
    ref = await given(store, name="digest", data='{"a":[1]}', parent=parent, priority=4, attempts=3, backoff=5)
    added_at_ms = now_ms(store)
    await advance(store, 1_000)

    one = await claim_one(store)

    assert one.ref == ref
    assert one.name == "digest"
    assert one.data == '{"a":[1]}'
    assert one.options == (await record_of(store, ref)).options
    assert (one.attempt, one.started, one.stalled) == (1, 1, 0)
    assert one.priority == 4
    assert one.created_at_ms == added_at_ms
    assert one.claimed_at_ms == now_ms(store)
    assert one.deferred is None
    assert one.parent == Parent(parent)


async def test_claims_made_at_the_same_time_share_the_jobs_out(store: Store) -> None:
    jobs = await given_many(store, 20)

    answers = await asyncio.gather(*[claim(store, free=3, worker=f"w{n}") for n in range(10)])

    assert sorted(ref for claimed in answers for ref in refs(claimed.claims)) == sorted(jobs)


async def test_each_job_is_handed_out_once(store: Store) -> None:
    jobs = await given_many(store, 3)

    assert refs((await claim(store, free=2)).claims) == jobs[:2]
    assert refs((await claim(store, free=2, worker="w2")).claims) == jobs[2:]
    assert (await claim(store)).claims == ()


# ------------------------------------------------------------------ order


async def test_who_came_first_is_served_first(store: Store) -> None:
    jobs = await given_many(store, 12)

    assert refs(await claim_all(store)) == jobs


async def test_a_lifo_job_goes_in_front(store: Store) -> None:
    first, second = await given_many(store, 2)
    newer, newest = await given(store, lifo=True), await given(store, lifo=True)

    assert refs(await claim_all(store)) == [newest, newer, first, second]


async def test_a_lower_number_is_served_first_and_equals_in_turn(store: Store) -> None:
    low, high, also_high, middle = [await given(store, priority=p) for p in (9, 1, 1, 5)]

    assert refs(await claim_all(store)) == [high, also_high, middle, low]


async def test_prioritized_jobs_come_after_all_plain_ones(store: Store) -> None:
    prioritized, plain = await given(store, priority=1), await given(store)

    assert refs(await claim_all(store)) == [plain, prioritized]


async def test_the_highest_number_of_priority_is_kept_in_order(store: Store) -> None:
    last, first = await given(store, priority=2_097_151), await given(store, priority=2_097_150)

    assert refs(await claim_all(store)) == [first, last]


async def test_a_due_job_is_promoted_behind_those_that_wait(store: Store) -> None:
    due, waiting = await given(store, delay=60), await given(store)
    await advance(store, 60_000)

    assert refs(await claim_all(store)) == [waiting, due]


async def test_a_job_is_not_handed_out_before_it_is_due(store: Store) -> None:
    ref = await given(store, delay=60)
    await advance(store, 59_999)
    assert (await claim(store)).claims == ()

    await advance(store, 1)

    assert (await claim_one(store)).ref == ref


async def test_due_jobs_come_in_the_order_of_their_moment(store: Store) -> None:
    late, early, middle = [await given(store, delay=s) for s in (3, 1, 2)]
    await advance(store, 5_000)

    assert refs(await claim_all(store)) == [early, middle, late]


async def test_jobs_due_at_the_same_moment_come_in_the_order_of_their_adding(store: Store) -> None:
    jobs = await given_many(store, 12, delay=5)
    await advance(store, 5_000)

    assert refs(await claim_all(store)) == jobs


async def test_a_due_job_with_a_priority_takes_its_place_among_the_prioritized(store: Store) -> None:
    due = await given(store, delay=5, priority=2)
    behind, before = await given(store, priority=3), await given(store, priority=1)
    await advance(store, 5_000)

    assert refs(await claim_all(store)) == [before, due, behind]


async def test_a_promoted_job_is_due_no_more(store: Store) -> None:
    ref = await given(store, delay=5)
    await given(store)
    await advance(store, 5_000)

    await claim_one(store)

    record = await record_of(store, ref)
    assert record.state is State.WAITING
    assert record.due_at_ms is None


# ------------------------------------------------------------------ several queues


async def test_one_wish_brings_jobs_of_several_queues(store: Store) -> None:
    mail, image = await given(store), await given(store, queue="images")

    claimed = await store.claim(Wanted("w1", "t-1", LOCK_MS, (Slots(QUEUE, 2), Slots("images", 1))))

    assert set(refs(claimed.claims)) == {mail, image}
    assert claimed.idle[QUEUE].reason == "empty"
    assert "images" not in claimed.idle


# ------------------------------------------------------------------ nothing, and why


async def test_an_empty_queue_says_so(store: Store) -> None:
    assert (await claim(store)).idle == {QUEUE: Idle("empty")}


async def test_an_empty_queue_says_when_its_next_job_is_due(store: Store) -> None:
    await given(store, delay=90)
    await given(store, delay=60)

    assert (await claim(store)).idle == {QUEUE: Idle("empty", now_ms(store) + 60_000)}


async def test_a_queue_that_had_less_than_was_wanted_says_so(store: Store) -> None:
    ref = await given(store)

    claimed = await claim(store, free=2)

    assert refs(claimed.claims) == [ref]
    assert claimed.idle == {QUEUE: Idle("empty")}


async def test_a_queue_that_had_enough_has_nothing_to_say(store: Store) -> None:
    await given_many(store, 3)

    assert (await claim(store, free=2)).idle == {}


async def test_a_paused_queue_gives_nothing_and_says_so(store: Store) -> None:
    await given(store)
    await store.pause(QUEUE)

    claimed = await claim(store)

    assert claimed.claims == ()
    assert claimed.idle[QUEUE].reason == "paused"


async def test_a_queue_at_its_concurrency_is_full(store: Store) -> None:
    await given_settings(store, concurrency=2)
    jobs = await given_many(store, 3)

    claimed = await claim(store, free=3)
    assert refs(claimed.claims) == jobs[:2]
    assert claimed.idle[QUEUE].reason == "full"
    assert (await claim(store, worker="w2")).idle[QUEUE].reason == "full"

    await complete(store, claimed.claims[0])

    assert refs((await claim(store, free=3, worker="w2")).claims) == jobs[2:]


async def test_the_concurrency_of_a_queue_is_its_own(store: Store) -> None:
    await given_settings(store, concurrency=1)
    await given_many(store, 2, queue="images")

    assert len((await claim(store, "images", free=2)).claims) == 2


# ------------------------------------------------------------------ limits


async def test_a_limit_lets_so_many_jobs_start_and_says_when_it_ends(store: Store) -> None:
    jobs = await given_many(store, 3)

    claimed = await claim(store, free=3, limiter=LIMIT)

    assert refs(claimed.claims) == jobs[:2]
    assert claimed.idle[QUEUE].reason == "limited"
    until_ms = claimed.idle[QUEUE].until_ms
    assert until_ms is not None
    slack_ms = 30_000 if store.kind == "redis" else 0  # a key's time to live runs on the server's own clock
    assert now_ms(store) + 60_000 - slack_ms <= until_ms <= now_ms(store) + 60_000


async def test_a_limit_begins_anew_when_its_window_is_over(store: Store) -> None:
    jobs = await given_many(store, 5)
    await claim(store, free=3, limiter=LIMIT)

    await advance(store, 60_000)

    assert refs((await claim(store, free=3, limiter=LIMIT)).claims) == jobs[2:4]


async def test_the_window_of_a_limit_begins_with_its_first_job(store: Store) -> None:
    jobs = await given_many(store, 5)
    await claim(store, limiter=LIMIT)
    await advance(store, 40_000)
    assert refs((await claim(store, free=2, limiter=LIMIT)).claims) == [jobs[1]]

    await advance(store, 20_000)

    assert refs((await claim(store, free=2, limiter=LIMIT)).claims) == jobs[2:4]


async def test_the_window_of_a_limit_does_not_begin_while_the_queue_is_empty(store: Store) -> None:
    await given_settings(store)  # a queue that is there, with nothing in it
    await claim(store, limiter=LIMIT)
    await advance(store, 50_000)
    await given_many(store, 3)
    assert len((await claim(store, free=2, limiter=LIMIT)).claims) == 2

    await advance(store, 10_000)

    assert (await claim(store, limiter=LIMIT)).idle[QUEUE].reason == "limited"


async def test_a_limit_holds_over_all_workers(store: Store) -> None:
    await given_many(store, 3)
    assert len((await claim(store, free=2, limiter=LIMIT)).claims) == 2

    assert (await claim(store, worker="w2", limiter=LIMIT)).idle[QUEUE].reason == "limited"


async def test_a_limit_counts_jobs_that_have_ended(store: Store) -> None:
    await given_many(store, 3)
    for one in (await claim(store, free=2, limiter=LIMIT)).claims:
        await complete(store, one)

    assert (await claim(store, limiter=LIMIT)).idle[QUEUE].reason == "limited"


async def test_an_empty_queue_spends_nothing_of_a_limit(store: Store) -> None:
    for _ in range(5):
        await claim(store, limiter=LIMIT)
    jobs = await given_many(store, 2)

    assert refs((await claim(store, free=2, limiter=LIMIT)).claims) == jobs


async def test_the_limit_set_on_a_queue_holds_for_workers_without_one(store: Store) -> None:
    await given_settings(store, rate_limit=LIMIT)
    jobs = await given_many(store, 3)

    claimed = await claim(store, free=3)

    assert refs(claimed.claims) == jobs[:2]
    assert claimed.idle[QUEUE].reason == "limited"


async def test_the_limit_set_on_a_queue_goes_before_a_workers_own(store: Store) -> None:
    await given_settings(store, rate_limit=RateLimit(1, per=60))
    await given_many(store, 3)

    assert len((await claim(store, free=3, limiter=LIMIT)).claims) == 1


# ------------------------------------------------------------------ a wish repeated


async def test_a_wish_repeated_brings_the_same_claims(store: Store) -> None:
    jobs = await given_many(store, 3)
    wish = wanted(free=2)
    first = await store.claim(wish)

    again = await store.claim(wish)

    assert again.claims == first.claims
    assert refs(again.claims) == jobs[:2]
    assert await state_of(store, jobs[2]) is State.WAITING
    assert (await record_of(store, jobs[0])).attempts_started == 1


async def test_a_wish_repeated_spends_nothing_more_of_a_limit(store: Store) -> None:
    await given_many(store, 3)
    wish = wanted(limiter=LIMIT)
    await store.claim(wish)
    await store.claim(wish)

    assert len((await claim(store, free=2, limiter=LIMIT)).claims) == 1


# ------------------------------------------------------------------ named jobs


@pytest.mark.parametrize(("delay", "priority"), [(0, 0), (0, 5), (60, 0)], ids=["waiting", "prioritized", "delayed"])
async def test_a_named_job_is_taken_out_of_its_turn(store: Store, delay: int, priority: int) -> None:
    await given(store)
    ref = await given(store, delay=delay, priority=priority)

    claimed = await claim(store, ids=[ref.id])

    assert refs(claimed.claims) == [ref]
    assert await state_of(store, ref) is State.ACTIVE


async def test_only_the_named_jobs_are_taken(store: Store) -> None:
    first, second, third = await given_many(store, 3)

    claimed = await claim(store, free=5, ids=[third.id, first.id])

    assert set(refs(claimed.claims)) == {first, third}
    assert await state_of(store, second) is State.WAITING


async def test_a_job_named_twice_is_taken_once(store: Store) -> None:
    ref = await given(store)

    claimed = await claim(store, free=2, ids=[ref.id, ref.id])

    assert refs(claimed.claims) == [ref]
    assert await count_of(store, State.WAITING) == 0
    assert await count_of(store, State.ACTIVE) == 1


async def test_a_named_job_that_runs_or_is_not_there_is_not_taken(store: Store) -> None:
    running = await given_active(store)
    waiting = await given(store)

    claimed = await claim(store, free=5, worker="w2", ids=[running.ref.id, "nobody"])

    assert claimed.claims == ()
    assert await state_of(store, waiting) is State.WAITING
    assert (await record_of(store, running.ref)).worker == "w1"


# ------------------------------------------------------------------ counts and deferred failures


async def test_attempts_count_from_one_over_the_runs_of_a_job(store: Store) -> None:
    await given(store, attempts=3, backoff=0)
    for n in (1, 2, 3):
        one = await claim_one(store)
        assert (one.attempt, one.started) == (n, n)
        if n < 3:
            await retry_after(store, one)


async def test_a_job_that_stalled_too_often_is_handed_out_with_a_reason_to_fail(store: Store) -> None:
    one = await given_active(store)
    await stall(store, max_stalled=0)

    again = await claim_one(store, worker="w2")

    assert again.ref == one.ref
    assert again.deferred == "job stalled more than allowable limit"
    assert (again.attempt, again.started, again.stalled) == (1, 2, 1)


async def test_a_parent_whose_child_failed_is_handed_out_with_a_reason_to_fail(store: Store) -> None:
    parent, [child] = await given_flow(store, policy=ChildPolicy.FAIL)
    await fail(store, await claim_one(store, "images"))

    one = await claim_one(store)

    assert one.ref == parent
    assert one.deferred is not None
    assert child.id in one.deferred


# ------------------------------------------------------------------ events


async def test_a_claim_tells_active(store: Store) -> None:
    await given(store)
    await claim_one(store)

    assert (await told(store))[2:] == [("active", {"prev": "waiting"})]


async def test_a_claim_of_a_due_job_tells_waiting_before_active(store: Store) -> None:
    await given(store, delay=5, priority=1)
    await advance(store, 5_000)
    await claim_one(store)

    assert (await told(store))[2:] == [("waiting", {"prev": "delayed"}), ("active", {"prev": "waiting"})]


async def test_a_claim_that_brings_nothing_tells_nothing(store: Store) -> None:
    await claim(store)

    assert await told(store) == []


async def test_claims_of_unknown_queues_bring_nothing(store: Store) -> None:
    claimed = await claim(store, "never-seen")

    assert claimed.claims == ()
    assert claimed.idle == {"never-seen": Idle("empty")}
    assert await state_of(store, JobRef("never-seen", "1")) is None
