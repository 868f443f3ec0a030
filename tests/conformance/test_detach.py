"""Detaching: a job is a child no longer, and its parent does not wait for it."""

from __future__ import annotations

import pytest

from conformance.given import (
    QUEUE,
    advance,
    claim_all,
    claim_one,
    complete,
    fail,
    given,
    given_active,
    given_flow,
    names_told,
    now_ms,
    record_of,
    refs,
    settle,
    state_of,
    told,
)
from toril.model import Answer, AwaitingChildren, JobRef
from toril.options import ChildPolicy
from toril.states import State
from toril.store import Store


async def test_a_parent_that_waited_for_nothing_else_is_released(store: Store) -> None:
    parent, [child] = await given_flow(store)

    assert await store.detach([child]) == [Answer.DONE]

    assert await state_of(store, parent) is State.WAITING
    assert (await claim_one(store)).ref == parent


async def test_a_detached_job_has_no_parent(store: Store) -> None:
    parent, [child] = await given_flow(store)

    await store.detach([child])

    assert (await record_of(store, child)).parent is None
    assert (await record_of(store, parent)).pending_children == 0
    assert await store.children(parent) == []


async def test_a_detached_job_runs_on_its_own(store: Store) -> None:
    parent, [child] = await given_flow(store)
    await store.detach([child])

    one = await claim_one(store, "images")

    assert (one.ref, one.parent) == (child, None)
    await complete(store, one)
    assert await state_of(store, child) is State.COMPLETED
    assert await store.children(parent) == []


async def test_a_parent_waits_on_for_its_other_children(store: Store) -> None:
    parent, [first, second] = await given_flow(store, children=2)

    await store.detach([first])
    assert await state_of(store, parent) is State.WAITING_CHILDREN
    assert [child.ref for child in await store.children(parent)] == [second]
    await store.detach([second])

    assert await state_of(store, parent) is State.WAITING


async def test_the_failure_of_a_detached_job_does_not_reach_the_parent_it_had(store: Store) -> None:
    parent, [child, _] = await given_flow(store, children=2, policy=ChildPolicy.FAIL)
    await store.detach([child])

    await fail(store, await claim_one(store, "images"))

    record = await record_of(store, parent)
    assert (record.state, record.deferred) == (State.WAITING_CHILDREN, None)


async def test_the_removal_of_a_parent_leaves_the_job_that_was_detached(store: Store) -> None:
    parent, [child] = await given_flow(store)
    await store.detach([child])

    assert await store.remove([parent]) == [Answer.DONE]

    assert await state_of(store, child) is State.WAITING


async def test_a_running_child_may_be_detached(store: Store) -> None:
    parent, [child] = await given_flow(store)
    one = await claim_one(store, "images")

    assert await store.detach([child]) == [Answer.DONE]
    assert await state_of(store, parent) is State.WAITING
    await complete(store, one, '"thumb.png"')

    assert await state_of(store, child) is State.COMPLETED
    assert await store.children(parent) == []


async def test_a_child_whose_failure_holds_up_its_parent_may_be_detached(store: Store) -> None:
    parent, [child] = await given_flow(store, policy=ChildPolicy.WAIT)
    await fail(store, await claim_one(store, "images"))
    assert await state_of(store, parent) is State.WAITING_CHILDREN

    assert await store.detach([child]) == [Answer.DONE]

    assert await state_of(store, parent) is State.WAITING
    assert await state_of(store, child) is State.FAILED


async def test_the_children_of_a_running_parent_may_be_detached(store: Store) -> None:
    parent = await given_active(store)
    child = await given(store, queue="images", parent=parent.ref)

    await store.detach([child])

    assert await state_of(store, parent.ref) is State.ACTIVE
    await complete(store, parent)
    assert await state_of(store, parent.ref) is State.COMPLETED


async def test_a_released_parent_keeps_its_priority(store: Store) -> None:
    parent, [child] = await given_flow(store, priority=5)

    await store.detach([child])

    assert await state_of(store, parent) is State.PRIORITIZED


async def test_a_released_parent_serves_its_delay(store: Store) -> None:
    parent, [child] = await given_flow(store, delay=60)
    await advance(store, 10_000)

    await store.detach([child])

    assert (await record_of(store, parent)).due_at_ms == now_ms(store) + 60_000


async def test_a_parent_released_by_detaching_is_told_as_one_that_waited(store: Store) -> None:
    _, [child] = await given_flow(store)
    told_before = await names_told(store, "images")

    await store.detach([child])

    assert (await told(store))[-1] == ("waiting", {"prev": "waiting-children"})
    assert await names_told(store, "images") == told_before


async def test_a_job_in_the_middle_keeps_its_own_children(store: Store) -> None:
    parent, [middle] = await given_flow(store)
    one = await claim_one(store, "images")
    leaf = await given(store, queue="pixels", parent=middle)
    await settle(store, one, AwaitingChildren())

    assert await store.detach([middle]) == [Answer.DONE]

    assert await state_of(store, parent) is State.WAITING
    assert await state_of(store, middle) is State.WAITING_CHILDREN
    assert [child.ref for child in await store.children(middle)] == [leaf]


async def test_detach_answers_for_each_job(store: Store) -> None:
    _, [child, other] = await given_flow(store, children=2)
    plain = await given(store, queue="sms")

    answers = await store.detach([plain, child, JobRef(QUEUE, "nobody"), other])

    assert answers == [Answer.WRONG_STATE, Answer.DONE, Answer.MISSING, Answer.DONE]


async def test_detaching_again_finds_no_parent(store: Store) -> None:
    parent, [child] = await given_flow(store)
    await store.detach([child])

    assert await store.detach([child]) == [Answer.WRONG_STATE]
    assert refs(await claim_all(store)) == [parent]


async def test_a_job_named_twice_is_detached_once(store: Store) -> None:
    _, [child] = await given_flow(store)

    assert await store.detach([child, child]) == [Answer.DONE, Answer.WRONG_STATE]


@pytest.mark.parametrize("policy", [ChildPolicy.WAIT, ChildPolicy.IGNORE], ids=["completed", "ignored"])
async def test_a_child_that_has_ended_for_its_parent_cannot_be_detached(store: Store, policy: ChildPolicy) -> None:
    parent, [child] = await given_flow(store, policy=policy)
    one = await claim_one(store, "images")
    await (complete(store, one) if policy is ChildPolicy.WAIT else fail(store, one))

    assert await store.detach([child]) == [Answer.WRONG_STATE]

    assert [seen.ref for seen in await store.children(parent)] == [child]


async def test_a_child_whose_parent_is_gone_cannot_be_detached(store: Store) -> None:
    parent = await given_active(store)
    child = await given(store, queue="images", parent=parent.ref)
    await fail(store, parent)
    await store.clean(QUEUE, State.FAILED, grace_ms=0, limit=10)
    assert await state_of(store, parent.ref) is None

    assert await store.detach([child]) == [Answer.WRONG_STATE]


async def test_a_detached_child_that_is_retried_is_not_waited_for_again(store: Store) -> None:
    parent, [child] = await given_flow(store)
    await fail(store, await claim_one(store, "images"))
    await store.detach([child])

    await store.retry([child])

    assert await state_of(store, child) is State.WAITING
    assert await state_of(store, parent) is State.WAITING
    assert (await record_of(store, parent)).pending_children == 0


async def test_detaching_nothing_answers_nothing(store: Store) -> None:
    assert await store.detach([]) == []
