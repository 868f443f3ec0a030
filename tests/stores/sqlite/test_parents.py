"""Parents whose children end, or never come, while they are somewhere else than in waiting-children."""

from __future__ import annotations

import pytest

from conformance.given import (
    QUEUE,
    add,
    advance,
    claim,
    claim_one,
    complete,
    fail,
    given,
    given_active,
    new_job,
    now_ms,
    record_of,
    ref_of,
    refs,
    settle,
    state_of,
)
from toril.clock import TurnedClock
from toril.model import Claim, Delayed, JobRef
from toril.options import ChildPolicy, Deduplication
from toril.states import State
from toril.stores.sqlite.store import SqliteStore


@pytest.fixture
def store(clock: TurnedClock) -> SqliteStore:
    return SqliteStore(":memory:", clock=clock)


async def given_delayed_parent(store: SqliteStore, policy: ChildPolicy) -> tuple[JobRef, Claim]:
    """A parent that has put itself off for a minute, and its child, which runs."""
    parent = await given_active(store, attempts=3)
    await given(store, queue="images", parent=parent.ref, policy=policy)
    child = await claim_one(store, "images")
    await settle(store, parent, Delayed(now_ms(store) + 60_000))
    return parent.ref, child


async def test_a_delayed_parent_whose_child_fails_runs_at_once_to_fail(store: SqliteStore) -> None:
    parent, child = await given_delayed_parent(store, ChildPolicy.FAIL)

    await fail(store, child)

    assert (await claim_one(store)).deferred == f"child {child.ref} failed"
    assert await state_of(store, parent) is State.ACTIVE
    await store.close()


async def test_a_delayed_parent_that_may_go_on_without_its_child_serves_its_delay(store: SqliteStore) -> None:
    parent, child = await given_delayed_parent(store, ChildPolicy.CONTINUE)
    due_at_ms = (await record_of(store, parent)).due_at_ms

    await advance(store, 10_000)
    await fail(store, child)

    record = await record_of(store, parent)
    assert (record.state, record.due_at_ms) == (State.DELAYED, due_at_ms)
    await store.close()


async def test_a_parent_waits_for_none_of_its_unit_that_was_replaced_by_another_job(store: SqliteStore) -> None:
    by = Deduplication.debounce("order")
    parent = new_job(store, has_children=True)
    child = new_job(store, queue="images", parent=ref_of(parent), delay=60, deduplication=by)
    other = new_job(store, queue="images", delay=60, deduplication=by)

    await add(store, parent, child, other)

    assert refs((await claim(store)).claims) == [ref_of(parent)]
    assert await store.owner("images", "order") == ref_of(other)
    assert await state_of(store, ref_of(child)) is None
    await store.close()


async def test_a_parent_waits_for_the_one_of_its_unit_that_replaced_another(store: SqliteStore) -> None:
    by = Deduplication.debounce("order")
    parent = new_job(store, has_children=True)
    first, second = (
        new_job(store, queue="images", parent=ref_of(parent), delay=60, deduplication=by) for _ in range(2)
    )

    await add(store, parent, first, second)

    assert await state_of(store, ref_of(parent)) is State.WAITING_CHILDREN
    assert [child.ref for child in await store.children(ref_of(parent))] == [ref_of(second)]
    assert [finding for finding in await store.check() if finding.level != "ok"] == []
    await store.close()


async def test_an_id_that_was_replaced_is_free_within_the_same_call(store: SqliteStore) -> None:
    by = Deduplication.debounce("order")
    jobs = [new_job(store, job_id=id, delay=60, deduplication=by) for id in ("a", "b", "a")]

    receipt = await add(store, *jobs)

    assert [(member.duplicate, member.rule) for member in receipt.added] == [
        (False, None),
        (False, "debounce"),
        (False, "debounce"),
    ]
    assert await store.owner(QUEUE, "order") == JobRef(QUEUE, "a")
    assert [finding for finding in await store.check() if finding.level != "ok"] == []
    await store.close()


async def test_a_child_whose_parent_is_gone_may_have_another(store: SqliteStore) -> None:
    gone, other = await given_active(store, keep_completed=0), await given_active(store)
    child = await given(store, queue="images", job_id="child", parent=gone.ref, policy=ChildPolicy.REMOVE)
    await fail(store, await claim_one(store, "images"))
    await complete(store, gone)

    receipt = await add(store, new_job(store, queue="images", job_id="child", parent=other.ref))

    assert receipt.refusal is None
    record = await record_of(store, child)
    assert record.parent is not None
    assert record.parent.ref == other.ref
    await store.close()
