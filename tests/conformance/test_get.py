"""Getting: what is known of jobs."""

from __future__ import annotations

from conformance.given import (
    LOCK_MS,
    advance,
    given,
    given_active,
    given_completed,
    given_failed,
    given_flow,
    known,
    now_ms,
    record_of,
)
from toril.model import JobRef, Parent
from toril.options import ChildPolicy
from toril.states import State
from toril.store import Store


async def test_records_come_in_the_order_in_which_they_were_asked_for(store: Store) -> None:
    first, second = await given(store), await given(store, queue="images")

    records = await store.get([second, JobRef("email", "nobody"), first])

    assert [None if record is None else record.ref for record in records] == [second, None, first]


async def test_a_job_asked_for_twice_is_answered_twice(store: Store) -> None:
    ref = await given(store)

    one, other = await store.get([ref, ref])

    assert one is not None
    assert one == other


async def test_nothing_asked_is_nothing_answered(store: Store) -> None:
    assert await store.get([]) == []


async def test_a_running_job_shows_who_works_on_it_and_until_when(store: Store) -> None:
    one = await given_active(store, worker="w7")

    record = await record_of(store, one.ref)

    assert record.state is State.ACTIVE
    assert record.worker == "w7"
    assert record.locked_until_ms == now_ms(store) + LOCK_MS
    assert record.processed_at_ms == one.claimed_at_ms


async def test_a_job_that_was_not_kept_shows_how_it_ended(store: Store) -> None:
    ref = await given_completed(store, '{"sent":true}', keep_completed=False, keep_result=60)

    record = await record_of(store, ref)

    assert not record.kept
    assert record.ref == ref
    assert record.state is State.COMPLETED
    assert record.result == '{"sent":true}'
    assert record.finished_at_ms == now_ms(store)


async def test_a_job_that_failed_and_was_not_kept_shows_why(store: Store) -> None:
    ref = await given_failed(store, "no such user", keep_failed=False, keep_result=60)

    record = await record_of(store, ref)

    assert (record.kept, record.state, record.reason) == (False, State.FAILED, "no such user")


async def test_what_was_not_kept_is_forgotten_after_its_time(store: Store) -> None:
    ref = await given_completed(store, keep_completed=False, keep_result=60)

    await advance(store, 60_001)

    assert await known(store, ref) is None


async def test_a_parent_shows_how_many_children_are_pending(store: Store) -> None:
    parent, [first, _] = await given_flow(store, children=2, policy=ChildPolicy.IGNORE)

    assert (await record_of(store, parent)).pending_children == 2
    assert (await record_of(store, first)).parent == Parent(parent, ChildPolicy.IGNORE)


async def test_looking_changes_nothing(store: Store) -> None:
    ref = await given(store, delay=5)
    await advance(store, 10_000)

    before = await record_of(store, ref)

    assert await record_of(store, ref) == before
    assert before.state is State.DELAYED
