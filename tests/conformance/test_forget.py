"""Forgetting a deduplication id, and asking who owns it."""

from __future__ import annotations

from conformance.given import (
    QUEUE,
    add,
    claim_all,
    claim_one,
    complete,
    known,
    names_told,
    new_job,
    record_of,
    ref_of,
    refs,
    state_of,
)
from toril.model import Added, JobRef
from toril.options import Deduplication
from toril.states import State
from toril.store import Store

SIMPLE = Deduplication.simple("d")
THROTTLE = Deduplication.throttle("d", 60)
KEEP_LAST = Deduplication.keep_last("d")


async def put_one(store: Store, by: Deduplication = SIMPLE) -> Added:
    """Add a job under a deduplication."""
    receipt = await add(store, new_job(store, deduplication=by))
    assert receipt.refusal is None
    [answer] = receipt.added
    return answer


async def test_an_id_that_nobody_has_used_has_no_owner(store: Store) -> None:
    assert await store.owner(QUEUE, "d") is None


async def test_a_job_without_deduplication_owns_nothing(store: Store) -> None:
    await add(store, new_job(store, job_id="d"))

    assert await store.owner(QUEUE, "d") is None


async def test_forgetting_an_id_lets_the_next_add_make_a_job(store: Store) -> None:
    first = (await put_one(store)).ref

    assert await store.forget(QUEUE, "d") is True

    assert await store.owner(QUEUE, "d") is None
    second = await put_one(store)
    assert not second.duplicate
    assert refs(await claim_all(store)) == [first, second.ref]


async def test_a_throttled_id_is_forgotten_before_its_time(store: Store) -> None:
    await put_one(store, THROTTLE)

    assert await store.forget(QUEUE, "d") is True

    assert not (await put_one(store, THROTTLE)).duplicate


async def test_a_throttled_id_is_forgotten_though_its_owner_has_ended(store: Store) -> None:
    await put_one(store, THROTTLE)
    await complete(store, await claim_one(store))

    assert await store.forget(QUEUE, "d") is True

    assert not (await put_one(store, THROTTLE)).duplicate


async def test_the_job_stands_whose_id_is_forgotten(store: Store) -> None:
    ref = (await put_one(store)).ref
    told_before = await names_told(store)

    await store.forget(QUEUE, "d")

    assert await state_of(store, ref) is State.WAITING
    assert (await record_of(store, ref)).options.deduplication == SIMPLE
    assert await names_told(store) == told_before


async def test_an_id_without_an_owner_cannot_be_forgotten(store: Store) -> None:
    assert await store.forget(QUEUE, "d") is False

    await put_one(store)
    await complete(store, await claim_one(store))
    assert await store.forget(QUEUE, "d") is False


async def test_an_id_is_forgotten_once(store: Store) -> None:
    await put_one(store)

    assert await store.forget(QUEUE, "d") is True
    assert await store.forget(QUEUE, "d") is False


async def test_ids_of_other_queues_are_not_forgotten(store: Store) -> None:
    receipt = await add(store, new_job(store, queue="images", deduplication=SIMPLE))

    assert await store.forget(QUEUE, "d") is False

    assert await store.owner("images", "d") == receipt.added[0].ref


async def test_the_end_of_a_job_whose_id_was_forgotten_leaves_the_id_to_its_successor(store: Store) -> None:
    await put_one(store)
    first = await claim_one(store)
    await store.forget(QUEUE, "d")
    second = (await put_one(store)).ref

    await complete(store, first)

    assert await store.owner(QUEUE, "d") == second


async def test_the_removal_of_a_job_whose_id_was_forgotten_leaves_the_id_to_its_successor(store: Store) -> None:
    first = (await put_one(store)).ref
    await store.forget(QUEUE, "d")
    second = (await put_one(store)).ref

    await store.remove([first])

    assert await store.owner(QUEUE, "d") == second


async def test_what_was_kept_for_later_is_added_though_the_id_was_forgotten(store: Store) -> None:
    await put_one(store, KEEP_LAST)
    one = await claim_one(store)
    later = new_job(store, data='{"n":2}', deduplication=KEEP_LAST)
    await add(store, later)
    await store.forget(QUEUE, "d")

    await complete(store, one)

    assert (await record_of(store, ref_of(later))).data == '{"n":2}'
    assert await state_of(store, ref_of(later)) is State.WAITING
    assert await store.owner(QUEUE, "d") == ref_of(later)


async def test_the_owner_is_named_as_long_as_a_throttled_id_is_kept(store: Store) -> None:
    receipt = await add(store, new_job(store, deduplication=THROTTLE, keep_completed=False))
    await complete(store, await claim_one(store))
    [answer] = receipt.added
    record = await known(store, answer.ref)

    assert record is None or not record.kept
    assert await store.owner(QUEUE, "d") == JobRef(QUEUE, answer.ref.id)
