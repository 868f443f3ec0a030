"""Deduplicating: an add finds the owner of its deduplication id, and makes no second job."""

from __future__ import annotations

from dataclasses import replace
from typing import TypedDict, Unpack

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
    fail,
    found,
    given,
    given_active,
    given_flow,
    given_settings,
    known,
    names_told,
    new_job,
    now_ms,
    record_of,
    ref_of,
    refs,
    retry_after,
    stall,
    state_of,
    told,
)
from toril.errors import QueueFull
from toril.model import Added, Claim, JobRef, NewJob, Unit
from toril.options import Deduplication
from toril.states import State
from toril.store import Store

SIMPLE = Deduplication.simple("d")
THROTTLE = Deduplication.throttle("d", 60)
SLIDING = Deduplication.throttle("d", 60, extend=True)
DEBOUNCE = Deduplication.debounce("d")
TIMED_DEBOUNCE = Deduplication.debounce("d", 60)
KEEP_LAST = Deduplication.keep_last("d")
RESCHEDULE = Deduplication("d", reschedule=True)
ANY = pytest.mark.parametrize(
    "by",
    [SIMPLE, THROTTLE, SLIDING, DEBOUNCE, TIMED_DEBOUNCE, KEEP_LAST, RESCHEDULE],
    ids=["simple", "throttle", "sliding", "debounce", "timed-debounce", "keep-last", "reschedule"],
)


class Wishes(TypedDict, total=False):
    """Options of a job besides its deduplication."""

    job_id: str
    delay: float
    attempts: int
    keep_completed: bool


async def put(store: Store, *jobs: NewJob) -> list[Added]:
    """Add one unit that must not be refused; its members may find others in their place."""
    receipt = await add(store, *jobs)
    assert receipt.refusal is None
    return list(receipt.added)


async def put_one(
    store: Store, by: Deduplication = SIMPLE, *, data: str = "{}", queue: str = QUEUE, **options: Unpack[Wishes]
) -> tuple[NewJob, Added]:
    """Add a job under a deduplication; what was added and what was answered."""
    job = new_job(store, queue=queue, data=data, deduplication=by, **options)
    [answer] = await put(store, job)
    return job, answer


async def given_owner(
    store: Store, by: Deduplication = SIMPLE, *, data: str = "{}", **options: Unpack[Wishes]
) -> JobRef:
    """A job that owns the id."""
    job, answer = await put_one(store, by, data=data, **options)
    assert answer == Added(ref_of(job))
    return ref_of(job)


async def given_running_owner(store: Store, by: Deduplication = KEEP_LAST, **options: Unpack[Wishes]) -> Claim:
    """A job that owns the id, and runs."""
    owner = await given_owner(store, by, **options)
    one = await claim_one(store)
    assert one.ref == owner
    return one


async def since(store: Store, event: str | None, queue: str = QUEUE) -> list[tuple[str, str | None, dict[str, str]]]:
    """Events after this one: name, job, fields."""
    return [(one.name, one.job_id, dict(one.fields)) for one in await store.read(queue, event)]


# ------------------------------------------------------------------ what all have in common


@ANY
async def test_the_first_add_under_an_id_makes_a_job_that_owns_it(store: Store, by: Deduplication) -> None:
    job, answer = await put_one(store, by)

    assert answer == Added(ref_of(job))
    assert await state_of(store, ref_of(job)) is State.WAITING
    assert await store.owner(QUEUE, "d") == ref_of(job)


@ANY
async def test_what_was_asked_for_is_kept_with_the_job(store: Store, by: Deduplication) -> None:
    owner = await given_owner(store, by)

    assert (await record_of(store, owner)).options.deduplication == by
    assert (await claim_one(store)).options.deduplication == by


@ANY
async def test_an_add_whose_owner_waits_makes_no_job(store: Store, by: Deduplication) -> None:
    owner = await given_owner(store, by, data='{"n":1}')

    job, answer = await put_one(store, by, data='{"n":2}')

    assert (answer.ref, answer.duplicate) == (owner, True)
    assert await known(store, ref_of(job)) is None
    assert (await record_of(store, owner)).data == '{"n":1}'
    assert refs(await claim_all(store)) == [owner]


@pytest.mark.parametrize(
    ("by", "rule"),
    [
        (SIMPLE, "simple"),
        (THROTTLE, "throttle"),
        (SLIDING, "throttle"),
        (DEBOUNCE, "debounce"),
        (TIMED_DEBOUNCE, "debounce"),
        (KEEP_LAST, "keep-last"),
        (RESCHEDULE, "simple"),
    ],
    ids=["simple", "throttle", "sliding", "debounce", "timed-debounce", "keep-last", "reschedule"],
)
async def test_the_answer_says_by_which_rule_the_owner_was_found(store: Store, by: Deduplication, rule: str) -> None:
    await given_owner(store, by)

    _, answer = await put_one(store, by)

    assert answer.rule == rule


@pytest.mark.parametrize("by", [SIMPLE, THROTTLE, DEBOUNCE], ids=["simple", "throttle", "debounce"])
async def test_an_add_whose_owner_runs_makes_no_job(store: Store, by: Deduplication) -> None:
    one = await given_running_owner(store, by)

    _, answer = await put_one(store, by)

    assert (answer.ref, answer.duplicate) == (one.ref, True)
    await complete(store, one)
    assert (await claim(store)).claims == ()


async def test_ids_of_queues_do_not_mix(store: Store) -> None:
    await given_owner(store)

    job, answer = await put_one(store, queue="images")

    assert answer == Added(ref_of(job))
    assert await store.owner("images", "d") == ref_of(job)


async def test_different_ids_are_different_owners(store: Store) -> None:
    first = await given_owner(store)

    second, answer = await put_one(store, Deduplication.simple("e"))

    assert not answer.duplicate
    assert refs(await claim_all(store)) == [first, ref_of(second)]


@pytest.mark.parametrize("id", ["order:7", "ä ö", "'; --", "{x}*?", "d" * 500], ids=str)
async def test_an_id_is_any_text(store: Store, id: str) -> None:
    owner = await given_owner(store, Deduplication.simple(id))

    _, answer = await put_one(store, Deduplication.simple(id))

    assert answer.ref == owner
    assert await store.owner(QUEUE, id) == owner


async def test_a_job_without_deduplication_is_not_held_up_by_owners(store: Store) -> None:
    owner = await given_owner(store)

    plain = await given(store)

    assert refs(await claim_all(store)) == [owner, plain]


async def test_the_rule_of_the_new_add_counts_and_not_the_owners(store: Store) -> None:
    owner = await given_owner(store, SIMPLE, delay=60)

    job, answer = await put_one(store, DEBOUNCE, delay=60)

    assert answer == Added(ref_of(job), False, "debounce")
    assert await known(store, owner) is None


async def test_units_of_one_call_are_judged_one_after_another(store: Store) -> None:
    first, second, third = (new_job(store, deduplication=SIMPLE) for _ in range(3))

    receipts = await store.add([Unit((first,)), Unit((second,)), Unit((third,))])

    assert [receipt.added for receipt in receipts] == [
        (Added(ref_of(first)),),
        (Added(ref_of(first), True, "simple"),),
        (Added(ref_of(first), True, "simple"),),
    ]
    assert await found(store, State.WAITING) == [ref_of(first)]


async def test_members_of_a_unit_are_judged_one_after_another(store: Store) -> None:
    first, plain, second = new_job(store, deduplication=SIMPLE), new_job(store), new_job(store, deduplication=SIMPLE)

    assert await put(store, first, plain, second) == [
        Added(ref_of(first)),
        Added(ref_of(plain)),
        Added(ref_of(first), True, "simple"),
    ]
    assert refs(await claim_all(store)) == [ref_of(first), ref_of(plain)]


async def test_a_member_of_a_unit_may_take_the_place_of_one_before_it(store: Store) -> None:
    first, second = (new_job(store, deduplication=DEBOUNCE, delay=60) for _ in range(2))

    assert await put(store, first, second) == [Added(ref_of(first)), Added(ref_of(second), False, "debounce")]
    assert await found(store, State.DELAYED) == [ref_of(second)]


async def test_a_member_may_bring_the_id_of_a_job_that_one_before_it_has_replaced(store: Store) -> None:
    await given_owner(store, DEBOUNCE, job_id="order-7", delay=60)
    first, second = new_job(store, deduplication=DEBOUNCE, delay=60), new_job(store, job_id="order-7")

    assert await put(store, first, second) == [Added(ref_of(first), False, "debounce"), Added(ref_of(second))]
    assert await state_of(store, ref_of(second)) is State.WAITING


async def test_a_deduplicated_add_is_told(store: Store) -> None:
    owner = await given_owner(store)
    last = await store.last_event(QUEUE)

    job, _ = await put_one(store)

    assert await since(store, last) == [
        ("deduplicated", owner.id, {"deduplication_id": "d", "deduplicated_job_id": job.id})
    ]


async def test_a_job_that_owns_an_id_is_told_as_any_other(store: Store) -> None:
    await given_owner(store)

    assert await names_told(store) == ["added", "waiting"]


# ------------------------------------------------------------------ ids of jobs


async def test_a_chosen_id_that_exists_is_found_before_the_owner_of_the_deduplication_id(store: Store) -> None:
    standing = await given(store, job_id="order-7")
    await given_owner(store)

    _, answer = await put_one(store, job_id="order-7")

    assert answer == Added(standing, True, "id")


async def test_a_chosen_id_that_exists_does_not_come_to_own_a_deduplication_id(store: Store) -> None:
    await given(store, job_id="order-7")

    await put_one(store, job_id="order-7")

    assert await store.owner(QUEUE, "d") is None


async def test_a_plain_duplicate_says_that_its_id_was_there(store: Store) -> None:
    standing = await given(store, job_id="order-7")

    [answer] = await put(store, new_job(store, job_id="order-7"))

    assert answer == Added(standing, True, "id")


async def test_repeating_the_add_of_an_owner_answers_as_the_first_time(store: Store) -> None:
    job = new_job(store, deduplication=SIMPLE)

    assert await put(store, job) == await put(store, job) == [Added(ref_of(job))]
    assert await found(store, State.WAITING) == [ref_of(job)]


async def test_repeating_an_add_that_met_an_owner_answers_as_the_first_time(store: Store) -> None:
    owner = await given_owner(store)
    job = new_job(store, deduplication=SIMPLE)

    assert await put(store, job) == await put(store, job) == [Added(owner, True, "simple")]


async def test_repeating_an_add_that_took_a_place_makes_no_other_job(store: Store) -> None:
    await given_owner(store, DEBOUNCE, delay=60)
    job = new_job(store, deduplication=DEBOUNCE, delay=60)
    await put(store, job)

    [answer] = await put(store, job)

    assert (answer.ref, answer.duplicate) == (ref_of(job), False)
    assert await found(store, State.DELAYED) == [ref_of(job)]


async def test_repeating_a_unit_answers_for_each_member_as_the_first_time(store: Store) -> None:
    owner = await given_owner(store)
    plain, other = new_job(store), new_job(store, deduplication=SIMPLE)

    assert await put(store, plain, other) == [Added(ref_of(plain)), Added(owner, True, "simple")]
    assert await put(store, plain, other) == [Added(ref_of(plain)), Added(owner, True, "simple")]
    assert await found(store, State.WAITING) == [owner, ref_of(plain)]


async def test_a_unit_that_is_repeated_tells_nothing_again(store: Store) -> None:
    await given(store, job_id="order-7")
    await given_owner(store)
    unit = (new_job(store), new_job(store, job_id="order-7"), new_job(store, deduplication=SIMPLE))
    answers = await put(store, *unit)
    before = await told(store)

    assert await put(store, *unit) == answers

    assert await told(store) == before


async def test_a_unit_that_is_repeated_does_not_begin_the_time_of_an_id_anew(store: Store) -> None:
    await given_owner(store, SLIDING)
    unit = (new_job(store), new_job(store, deduplication=SLIDING))
    await put(store, *unit)
    await advance(store, 30_000)
    await put(store, *unit)

    await advance(store, 30_000)

    assert await store.owner(QUEUE, "d") is None


async def test_repeating_an_add_that_was_kept_for_later_tells_it_once(store: Store) -> None:
    one = await given_running_owner(store)
    job = new_job(store, deduplication=KEEP_LAST)
    await put(store, job)
    before = await told(store)

    assert await put(store, job) == [Added(one.ref, True, "keep-last")]

    assert await told(store) == before


async def test_repeating_a_unit_of_which_one_was_kept_for_later_answers_as_the_first_time(store: Store) -> None:
    one = await given_running_owner(store)
    unit = (new_job(store), new_job(store, deduplication=KEEP_LAST))
    assert (await put(store, *unit))[1] == Added(one.ref, True, "keep-last")

    assert (await put(store, *unit))[1] == Added(one.ref, True, "keep-last")

    await complete(store, one)
    assert await found(store, State.WAITING) == [ref_of(job) for job in unit]


# ------------------------------------------------------------------ room


async def test_a_deduplicated_add_needs_no_room(store: Store) -> None:
    await given_settings(store, max_waiting=1)
    owner = await given_owner(store)

    _, answer = await put_one(store)

    assert answer.ref == owner


async def test_a_member_that_meets_one_before_it_needs_no_room(store: Store) -> None:
    await given_settings(store, max_waiting=1)

    answers = await put(store, new_job(store, deduplication=SIMPLE), new_job(store, deduplication=SIMPLE))

    assert [answer.duplicate for answer in answers] == [False, True]


async def test_the_owner_of_an_id_needs_room_as_any_job(store: Store) -> None:
    await given_settings(store, max_waiting=1)
    await given(store)

    receipt = await add(store, new_job(store, deduplication=SIMPLE))

    assert receipt.refusal is not None
    assert isinstance(receipt.refusal.error, QueueFull)
    assert await store.owner(QUEUE, "d") is None


async def test_a_refused_unit_leaves_owners_as_they_are(store: Store) -> None:
    await given_settings(store, max_waiting=1)
    owner = await given_owner(store, DEBOUNCE, delay=60)
    await given(store)

    receipt = await add(store, new_job(store, deduplication=DEBOUNCE, delay=60), new_job(store))

    assert receipt.refusal is not None
    assert await store.owner(QUEUE, "d") == owner
    assert await state_of(store, owner) is State.DELAYED


# ------------------------------------------------------------------ until the owner has ended


@pytest.mark.parametrize("by", [SIMPLE, DEBOUNCE, KEEP_LAST], ids=["simple", "debounce", "keep-last"])
@pytest.mark.parametrize("end", [complete, fail], ids=["completed", "failed"])
async def test_the_id_is_free_when_its_owner_has_ended(store: Store, by: Deduplication, end: object) -> None:
    one = await given_running_owner(store, by)
    await (complete(store, one) if end is complete else fail(store, one))

    assert await store.owner(QUEUE, "d") is None
    job, answer = await put_one(store, by)
    assert answer == Added(ref_of(job))


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "removed at once"])
async def test_the_id_is_free_however_long_its_owner_is_kept(store: Store, keep: bool) -> None:
    one = await given_running_owner(store, SIMPLE, keep_completed=keep)
    await complete(store, one)

    job, answer = await put_one(store)

    assert answer == Added(ref_of(job))


async def test_the_owner_stands_while_it_is_tried_again(store: Store) -> None:
    one = await given_running_owner(store, SIMPLE, attempts=2)
    await retry_after(store, one, 5_000)

    _, answer = await put_one(store)

    assert answer.ref == one.ref


async def test_the_owner_stands_when_its_worker_has_vanished(store: Store) -> None:
    one = await given_running_owner(store, SIMPLE)
    await stall(store)

    _, answer = await put_one(store)

    assert answer.ref == one.ref


async def test_an_owner_that_is_retried_by_hand_has_lost_the_id_to_its_successor(store: Store) -> None:
    first = await given_running_owner(store, SIMPLE)
    await fail(store, first)
    second = await given_owner(store)

    await store.retry([first.ref])
    [again, _] = await claim_all(store)
    await complete(store, again)

    assert await store.owner(QUEUE, "d") == (second if again.ref == first.ref else None)


@ANY
@pytest.mark.parametrize("how", ["remove", "drain", "clean", "obliterate"])
async def test_the_id_is_free_when_its_owner_was_removed_by_hand(store: Store, by: Deduplication, how: str) -> None:
    owner = await given_owner(store, by)

    match how:
        case "remove":
            await store.remove([owner])
        case "drain":
            await store.drain(QUEUE)
        case "clean":
            await store.clean(QUEUE, State.WAITING, grace_ms=0, limit=10)
        case _:
            await store.pause(QUEUE)
            await store.obliterate(QUEUE)

    assert await store.owner(QUEUE, "d") is None
    job, answer = await put_one(store, by)
    assert answer == Added(ref_of(job))


async def test_removing_another_job_leaves_the_id_with_its_owner(store: Store) -> None:
    first = await given_running_owner(store, SIMPLE)
    await complete(store, first)
    second = await given_owner(store)

    await store.remove([first.ref])

    assert await store.owner(QUEUE, "d") == second


async def test_a_throttled_id_is_free_when_its_ended_owner_was_removed_by_hand(store: Store) -> None:
    one = await given_running_owner(store, THROTTLE)
    await complete(store, one)

    await store.remove([one.ref])

    assert await store.owner(QUEUE, "d") is None


async def test_what_was_kept_goes_with_an_owner_that_was_removed_by_hand(store: Store) -> None:
    one = await given_running_owner(store, attempts=2)
    job, _ = await put_one(store, KEEP_LAST)
    await retry_after(store, one, 60_000)

    await store.remove([one.ref])

    assert await store.owner(QUEUE, "d") is None
    assert await known(store, ref_of(job)) is None
    await complete(store, await given_running_owner(store))
    assert (await claim(store)).claims == ()


# ------------------------------------------------------------------ for a time


@pytest.mark.parametrize("by", [THROTTLE, SLIDING, TIMED_DEBOUNCE], ids=["throttle", "sliding", "timed-debounce"])
async def test_a_throttled_id_outlives_its_owner(store: Store, by: Deduplication) -> None:
    one = await given_running_owner(store, by)
    await complete(store, one)

    _, answer = await put_one(store, by)

    assert (answer.ref, answer.duplicate) == (one.ref, True)
    assert (await claim(store)).claims == ()


async def test_a_throttled_id_outlives_an_owner_that_is_not_kept(store: Store) -> None:
    one = await given_running_owner(store, THROTTLE, keep_completed=False)
    await complete(store, one)

    _, answer = await put_one(store, THROTTLE)

    assert answer == Added(one.ref, True, "throttle")
    assert await store.owner(QUEUE, "d") == one.ref


async def test_an_id_does_not_lose_its_time_to_an_owner_that_has_ended(store: Store) -> None:
    await complete(store, await given_running_owner(store, THROTTLE))
    by = Deduplication("d", ttl_ms=60_000, extend=True, keep_last_if_active=True)
    assert (await put_one(store, by))[1].duplicate

    await advance(store, 60_000)

    assert not (await put_one(store, by))[1].duplicate


async def test_an_id_gives_up_its_time_for_an_owner_that_is_still_to_end(store: Store) -> None:
    owner = await given_owner(store, THROTTLE)
    by = Deduplication("d", ttl_ms=60_000, extend=True, keep_last_if_active=True)
    assert (await put_one(store, by))[1].duplicate

    await advance(store, 60_000)

    assert await store.owner(QUEUE, "d") == owner


async def test_an_obliterated_queue_has_no_throttled_ids_left(store: Store) -> None:
    one = await given_running_owner(store, THROTTLE, keep_completed=False)
    await complete(store, one)
    await store.pause(QUEUE)

    await store.obliterate(QUEUE)

    assert await store.owner(QUEUE, "d") is None


async def test_a_throttled_id_is_free_after_its_time(store: Store) -> None:
    first = await given_owner(store, THROTTLE)
    await advance(store, 59_999)
    assert (await put_one(store, THROTTLE))[1].ref == first

    await advance(store, 1)

    assert await store.owner(QUEUE, "d") is None
    job, answer = await put_one(store, THROTTLE)
    assert answer == Added(ref_of(job))
    assert refs(await claim_all(store)) == [first, ref_of(job)]


async def test_the_time_of_a_throttled_id_counts_from_the_first_add(store: Store) -> None:
    await given_owner(store, THROTTLE)
    await advance(store, 40_000)
    await put_one(store, THROTTLE)
    await advance(store, 20_000)

    _, answer = await put_one(store, THROTTLE)

    assert not answer.duplicate


async def test_each_add_begins_the_time_anew_that_extends(store: Store) -> None:
    owner = await given_owner(store, SLIDING)
    for _ in range(3):
        await advance(store, 40_000)
        assert (await put_one(store, SLIDING))[1].ref == owner
    await advance(store, 60_000)

    _, answer = await put_one(store, SLIDING)

    assert not answer.duplicate


async def test_an_add_that_extends_is_told_as_deduplicated(store: Store) -> None:
    owner = await given_owner(store, SLIDING)
    last = await store.last_event(QUEUE)

    job, _ = await put_one(store, SLIDING)

    assert await since(store, last) == [
        ("deduplicated", owner.id, {"deduplication_id": "d", "deduplicated_job_id": job.id})
    ]


async def test_an_owner_whose_time_is_over_leaves_the_id_to_its_successor(store: Store) -> None:
    first = await given_running_owner(store, THROTTLE)
    await advance(store, 60_000)
    second = await given_owner(store, SIMPLE)

    await store.recover([QUEUE], max_stalled=1, interval_ms=30_000)
    await store.remove([first.ref])

    assert await store.owner(QUEUE, "d") == second


# ------------------------------------------------------------------ the last add wins


async def test_a_debounced_add_takes_the_place_of_the_delayed_owner(store: Store) -> None:
    first = await given_owner(store, DEBOUNCE, data='{"n":1}', delay=60)
    await advance(store, 10_000)

    job, answer = await put_one(store, DEBOUNCE, data='{"n":2}', delay=60)

    assert answer == Added(ref_of(job), False, "debounce")
    assert await known(store, first) is None
    assert await store.owner(QUEUE, "d") == ref_of(job)
    record = await record_of(store, ref_of(job))
    assert (record.data, record.due_at_ms) == ('{"n":2}', now_ms(store) + 60_000)
    assert await found(store, State.DELAYED) == [ref_of(job)]


async def test_only_the_last_of_debounced_adds_runs(store: Store) -> None:
    for number in range(3):
        await put_one(store, DEBOUNCE, data=f'{{"n":{number}}}', delay=5)
        await advance(store, 4_000)
    last, _ = await put_one(store, DEBOUNCE, data='{"n":3}', delay=5)
    await advance(store, 5_000)

    [one] = await claim_all(store)

    assert (one.ref, one.data) == (ref_of(last), '{"n":3}')


async def test_the_owner_that_is_due_and_has_been_promoted_stays(store: Store) -> None:
    owner = await given_owner(store, DEBOUNCE, delay=60)
    await store.promote([owner])

    _, answer = await put_one(store, DEBOUNCE, delay=60)

    assert answer == Added(owner, True, "debounce")


async def test_the_replaced_job_is_told_as_removed_and_as_deduplicated(store: Store) -> None:
    first = await given_owner(store, DEBOUNCE, delay=60)
    last = await store.last_event(QUEUE)

    job, _ = await put_one(store, DEBOUNCE, delay=60)

    assert await since(store, last) == [
        ("removed", first.id, {"prev": "delayed"}),
        ("deduplicated", job.id, {"deduplication_id": "d", "deduplicated_job_id": first.id}),
        ("added", job.id, {"name": "welcome"}),
        ("delayed", job.id, {"due_at_ms": str(now_ms(store) + 60_000)}),
    ]


async def test_a_debounced_add_whose_owner_is_not_delayed_is_not_told(store: Store) -> None:
    await given_owner(store, DEBOUNCE)
    before = await told(store)

    await put_one(store, DEBOUNCE)

    assert await told(store) == before


async def test_a_debounced_add_without_extend_keeps_the_time_of_the_first(store: Store) -> None:
    by = Deduplication("d", ttl_ms=60_000, replace=True)
    await given_owner(store, by, delay=300)
    await advance(store, 40_000)
    second, _ = await put_one(store, by, delay=300)
    assert await store.owner(QUEUE, "d") == ref_of(second)

    await advance(store, 20_000)

    assert await store.owner(QUEUE, "d") is None
    assert await state_of(store, ref_of(second)) is State.DELAYED


async def test_a_debounced_add_that_extends_begins_the_time_anew(store: Store) -> None:
    await given_owner(store, TIMED_DEBOUNCE, delay=300)
    await advance(store, 40_000)
    second, _ = await put_one(store, TIMED_DEBOUNCE, delay=300)

    await advance(store, 59_999)
    assert await store.owner(QUEUE, "d") == ref_of(second)
    await advance(store, 1)

    assert await store.owner(QUEUE, "d") is None


async def test_a_replaced_job_goes_with_its_logs(store: Store) -> None:
    await given_owner(store, DEBOUNCE, delay=60, job_id="order-7")
    one = await claim(store, ids=["order-7"])
    assert len(one.claims) == 1
    await retry_after(store, one.claims[0], 60_000)
    await put_one(store, DEBOUNCE, delay=60)

    await given(store, job_id="order-7")

    assert (await record_of(store, JobRef(QUEUE, "order-7"))).history == ()


async def test_an_owner_that_waits_to_be_tried_again_is_replaced(store: Store) -> None:
    one = await given_running_owner(store, DEBOUNCE, attempts=2)
    await retry_after(store, one, 60_000)

    job, answer = await put_one(store, DEBOUNCE)

    assert answer == Added(ref_of(job), False, "debounce")
    assert refs(await claim_all(store)) == [ref_of(job)]


async def test_the_parent_of_a_replaced_child_waits_for_it_no_longer(store: Store) -> None:
    parent = new_job(store, queue="albums", has_children=True)
    child = new_job(store, parent=ref_of(parent), deduplication=DEBOUNCE, delay=60)
    await put(store, parent, child)

    await put_one(store, DEBOUNCE, delay=60)

    assert await state_of(store, ref_of(parent)) is State.WAITING


async def test_a_child_that_takes_the_place_of_another_is_waited_for_in_its_place(store: Store) -> None:
    parent = new_job(store, queue="albums", has_children=True)
    first, second = (new_job(store, parent=ref_of(parent), deduplication=DEBOUNCE, delay=60) for _ in range(2))

    await put(store, parent, first, second)

    assert await state_of(store, ref_of(parent)) is State.WAITING_CHILDREN
    assert [child.ref for child in await store.children(ref_of(parent))] == [ref_of(second)]


async def test_a_job_with_children_replaces_nobody(store: Store) -> None:
    owner = await given_owner(store, DEBOUNCE, delay=60)
    parent = new_job(store, deduplication=DEBOUNCE, has_children=True)

    [answer] = await put(store, parent)

    assert answer == Added(owner, True, "debounce")
    assert await state_of(store, owner) is State.DELAYED


# ------------------------------------------------------------------ the last add while the owner runs


async def test_the_last_add_while_the_owner_runs_is_added_when_it_has_ended(store: Store) -> None:
    one = await given_running_owner(store)
    kept = [await put_one(store, KEEP_LAST, data=f'{{"n":{number}}}') for number in range(3)]
    assert [answer for _, answer in kept] == [Added(one.ref, True, "keep-last")] * 3
    assert [await known(store, ref_of(job)) for job, _ in kept] == [None] * 3
    await advance(store, 1_000)

    await complete(store, one)

    last = await record_of(store, ref_of(kept[-1][0]))
    assert (last.state, last.data, last.created_at_ms) == (State.WAITING, '{"n":2}', now_ms(store))
    assert last.options.deduplication == KEEP_LAST
    assert await store.owner(QUEUE, "d") == last.ref
    assert refs(await claim_all(store)) == [last.ref]


async def test_what_was_kept_is_added_when_the_owner_has_failed_too(store: Store) -> None:
    one = await given_running_owner(store)
    job, _ = await put_one(store, KEEP_LAST)

    await fail(store, one)

    assert await state_of(store, ref_of(job)) is State.WAITING


async def test_what_was_kept_waits_until_the_owner_is_tried_no_more(store: Store) -> None:
    one = await given_running_owner(store, attempts=2)
    job, _ = await put_one(store, KEEP_LAST)

    await retry_after(store, one)
    assert await known(store, ref_of(job)) is None
    await complete(store, await claim_one(store))

    assert await state_of(store, ref_of(job)) is State.WAITING


async def test_what_was_kept_is_added_as_it_was_asked_for(store: Store) -> None:
    one = await given_running_owner(store)
    job = new_job(store, name="digest", data='{"n":1}', deduplication=KEEP_LAST, priority=3, attempts=5)
    await put(store, job)

    await complete(store, one)

    record = await record_of(store, ref_of(job))
    assert (record.name, record.data, record.state, record.priority) == ("digest", '{"n":1}', State.PRIORITIZED, 3)
    assert record.options == job.options


async def test_the_delay_of_what_was_kept_begins_when_the_owner_has_ended(store: Store) -> None:
    one = await given_running_owner(store)
    job, _ = await put_one(store, KEEP_LAST, delay=60)
    await advance(store, 10_000)

    await complete(store, one)

    record = await record_of(store, ref_of(job))
    assert (record.state, record.due_at_ms) == (State.DELAYED, now_ms(store) + 60_000)


async def test_what_was_kept_is_told_before_the_end_of_the_owner(store: Store) -> None:
    one = await given_running_owner(store)
    last = await store.last_event(QUEUE)
    job, _ = await put_one(store, KEEP_LAST)

    await complete(store, one)

    assert await since(store, last) == [
        ("deduplicated", one.ref.id, {"deduplication_id": "d", "deduplicated_job_id": job.id}),
        ("added", job.id, {"name": "welcome"}),
        ("waiting", job.id, {}),
        ("completed", one.ref.id, {"result": "null", "prev": "active"}),
    ]


async def test_what_was_kept_keeps_what_comes_after_it_in_turn(store: Store) -> None:
    first = await given_running_owner(store)
    second, _ = await put_one(store, KEEP_LAST)
    await complete(store, first)
    running = await claim_one(store)
    third, answer = await put_one(store, KEEP_LAST)
    assert answer == Added(ref_of(second), True, "keep-last")

    await complete(store, running)

    assert refs(await claim_all(store)) == [ref_of(third)]


async def test_an_add_whose_owner_does_not_run_is_not_kept(store: Store) -> None:
    await given_owner(store, KEEP_LAST)
    await put_one(store, KEEP_LAST)

    await complete(store, await claim_one(store))

    assert (await claim(store)).claims == ()
    assert await store.owner(QUEUE, "d") is None


@pytest.mark.parametrize("chosen", [False, True], ids=["drawn", "chosen"])
async def test_what_was_kept_is_its_own_repeat_once_it_was_added(store: Store, chosen: bool) -> None:
    one = await given_running_owner(store)
    job = new_job(store, deduplication=KEEP_LAST)
    job = replace(job, id="order-7", nonce="n1") if chosen else job
    await put(store, job)
    await complete(store, one)
    before = await told(store)

    [answer] = await put(store, job)

    assert answer.ref == ref_of(job)
    assert await found(store, State.WAITING) == [ref_of(job)]
    assert await told(store) == before


async def test_a_throttled_id_that_keeps_the_last_is_free_when_its_owner_has_ended(store: Store) -> None:
    by = Deduplication("d", ttl_ms=60_000, keep_last_if_active=True)
    one = await given_running_owner(store, by)
    await complete(store, one)

    job, answer = await put_one(store, by)

    assert answer == Added(ref_of(job))


async def test_an_id_that_keeps_the_last_has_no_time(store: Store) -> None:
    by = Deduplication("d", ttl_ms=60_000, keep_last_if_active=True)
    owner = await given_owner(store, by)
    await advance(store, 60_000)

    _, answer = await put_one(store, by)

    assert (answer.ref, answer.duplicate) == (owner, True)


async def test_a_throttled_id_for_which_something_was_kept_stands_until_its_owner_has_ended(store: Store) -> None:
    one = await given_running_owner(store, THROTTLE)
    job, answer = await put_one(store, KEEP_LAST)
    assert answer == Added(one.ref, True, "keep-last")
    assert await store.extend([one], 90_000) == []
    await advance(store, 60_000)

    assert await store.owner(QUEUE, "d") == one.ref
    await complete(store, one)

    assert await store.owner(QUEUE, "d") == ref_of(job)


async def test_a_debounced_add_may_keep_the_last_while_the_owner_runs(store: Store) -> None:
    by = Deduplication("d", replace=True, keep_last_if_active=True)
    one = await given_running_owner(store, by)
    job, answer = await put_one(store, by, delay=60)
    assert answer == Added(one.ref, True, "keep-last")

    await complete(store, one)

    assert await state_of(store, ref_of(job)) is State.DELAYED
    assert await count_of(store, State.DELAYED) == 1


async def test_a_parent_waits_for_a_child_that_was_kept(store: Store) -> None:
    one = await given_running_owner(store)
    holder = new_job(store, queue="albums", has_children=True)
    await added(store, holder, new_job(store, queue="images", parent=ref_of(holder)))
    job = new_job(store, parent=ref_of(holder), deduplication=KEEP_LAST)
    await put(store, job)

    await complete(store, one)

    kept = await record_of(store, ref_of(job))
    assert kept.parent is not None
    assert kept.parent.ref == ref_of(holder)
    await complete(store, await claim_one(store, "images"))
    assert await state_of(store, ref_of(holder)) is State.WAITING_CHILDREN
    await complete(store, await claim_one(store))
    assert await state_of(store, ref_of(holder)) is State.WAITING


# ------------------------------------------------------------------ a new time for the owner


async def test_an_add_that_reschedules_begins_the_delay_of_the_owner_anew(store: Store) -> None:
    owner = await given_owner(store, RESCHEDULE, data='{"n":1}', delay=60)
    created_at_ms = now_ms(store)
    await advance(store, 50_000)

    _, answer = await put_one(store, RESCHEDULE, data='{"n":2}', delay=90)

    assert answer == Added(owner, True, "simple")
    record = await record_of(store, owner)
    assert record.due_at_ms == now_ms(store) + 90_000
    assert (record.data, record.created_at_ms, record.state) == ('{"n":1}', created_at_ms, State.DELAYED)


async def test_a_rescheduled_owner_runs_at_its_new_time_only(store: Store) -> None:
    owner = await given_owner(store, RESCHEDULE, delay=60)
    await put_one(store, RESCHEDULE, delay=90)

    await advance(store, 89_999)
    assert (await claim(store)).claims == ()
    await advance(store, 1)

    assert refs(await claim_all(store)) == [owner]


async def test_an_owner_may_be_rescheduled_to_an_earlier_time(store: Store) -> None:
    owner = await given_owner(store, RESCHEDULE, delay=60)

    await put_one(store, RESCHEDULE, delay=5)

    await advance(store, 5_000)
    assert refs(await claim_all(store)) == [owner]


async def test_an_add_without_delay_lets_the_owner_that_it_reschedules_run_now(store: Store) -> None:
    owner = await given_owner(store, RESCHEDULE, delay=60)

    await put_one(store, RESCHEDULE)

    assert refs(await claim_all(store)) == [owner]


async def test_an_add_that_reschedules_is_told_as_deduplicated_and_then_as_delayed(store: Store) -> None:
    owner = await given_owner(store, RESCHEDULE, delay=60)
    last = await store.last_event(QUEUE)

    job, _ = await put_one(store, RESCHEDULE, delay=90)

    assert await since(store, last) == [
        ("deduplicated", owner.id, {"deduplication_id": "d", "deduplicated_job_id": job.id}),
        ("delayed", owner.id, {"due_at_ms": str(now_ms(store) + 90_000)}),
    ]


async def test_an_owner_that_is_not_delayed_is_not_rescheduled(store: Store) -> None:
    owner = await given_owner(store, RESCHEDULE)

    await put_one(store, RESCHEDULE, delay=60)

    assert await state_of(store, owner) is State.WAITING


async def test_a_throttled_add_may_reschedule_too(store: Store) -> None:
    by = Deduplication("d", ttl_ms=60_000, extend=True, reschedule=True)
    owner = await given_owner(store, by, delay=60)
    await advance(store, 50_000)

    _, answer = await put_one(store, by, delay=60)

    assert answer == Added(owner, True, "throttle")
    assert (await record_of(store, owner)).due_at_ms == now_ms(store) + 60_000


# ------------------------------------------------------------------ children


async def test_a_child_that_meets_an_owner_is_not_waited_for(store: Store) -> None:
    await given_owner(store)
    parent = new_job(store, queue="albums", has_children=True)
    child = new_job(store, parent=ref_of(parent), deduplication=SIMPLE)

    answers = await put(store, parent, child)

    assert [answer.duplicate for answer in answers] == [False, True]
    assert await state_of(store, ref_of(parent)) is State.WAITING


async def test_a_child_that_owns_an_id_is_waited_for(store: Store) -> None:
    parent = new_job(store, queue="albums", has_children=True)
    child = new_job(store, parent=ref_of(parent), deduplication=SIMPLE)
    await put(store, parent, child)
    assert await state_of(store, ref_of(parent)) is State.WAITING_CHILDREN

    await complete(store, await claim_one(store))

    assert await state_of(store, ref_of(parent)) is State.WAITING
    assert await store.owner(QUEUE, "d") is None


async def test_flows_go_on_beside_owners(store: Store) -> None:
    await given_owner(store)

    parent, _ = await given_flow(store, queue="albums")

    assert await state_of(store, parent) is State.WAITING_CHILDREN


async def test_what_runs_is_not_disturbed_by_owners(store: Store) -> None:
    one = await given_active(store)
    owner = await given_owner(store)

    await complete(store, one)

    assert await store.owner(QUEUE, "d") == owner
