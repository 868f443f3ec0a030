"""Children: what became of them, as their parent sees it."""

from __future__ import annotations

import pytest

from conformance.given import claim_one, complete, fail, given, given_active, given_flow
from toril.model import Child, JobRef
from toril.options import ChildPolicy
from toril.store import Store


async def children_of(store: Store, parent: JobRef) -> dict[JobRef, Child]:
    return {child.ref: child for child in await store.children(parent)}


async def test_a_job_without_children_has_none(store: Store) -> None:
    assert await store.children(await given(store)) == []


async def test_an_unknown_job_has_no_children(store: Store) -> None:
    assert await store.children(JobRef("email", "nobody")) == []


async def test_children_that_have_not_ended_are_pending(store: Store) -> None:
    parent, children = await given_flow(store, children=3)

    assert await children_of(store, parent) == {ref: Child(ref, "pending") for ref in children}


async def test_a_completed_child_has_its_result(store: Store) -> None:
    parent, [first, second] = await given_flow(store, children=2)

    await complete(store, await claim_one(store, "images"), '"thumb.png"')

    assert await children_of(store, parent) == {
        first: Child(first, "completed", '"thumb.png"'),
        second: Child(second, "pending"),
    }


async def test_a_failed_child_without_a_policy_is_pending(store: Store) -> None:
    parent, [child] = await given_flow(store, policy=ChildPolicy.WAIT)

    await fail(store, await claim_one(store, "images"))

    assert [(one.ref, one.state) for one in await store.children(parent)] == [(child, "pending")]


async def test_a_child_that_fails_its_parent_has_failed(store: Store) -> None:
    parent, [child] = await given_flow(store, policy=ChildPolicy.FAIL)

    await fail(store, await claim_one(store, "images"), "bad image")

    assert [(one.ref, one.state) for one in await store.children(parent)] == [(child, "failed")]


@pytest.mark.parametrize("policy", [ChildPolicy.IGNORE, ChildPolicy.CONTINUE])
async def test_a_failed_child_that_does_not_matter_is_ignored_with_its_reason(
    store: Store, policy: ChildPolicy
) -> None:
    parent, [child] = await given_flow(store, policy=policy)

    await fail(store, await claim_one(store, "images"), "bad image")

    assert await store.children(parent) == [Child(child, "ignored", reason="bad image")]


async def test_nothing_is_kept_of_a_failed_child_that_is_removed(store: Store) -> None:
    parent, _ = await given_flow(store, policy=ChildPolicy.REMOVE)

    await fail(store, await claim_one(store, "images"))

    assert await store.children(parent) == []


async def test_a_removed_child_is_no_child_any_more(store: Store) -> None:
    parent, [first, second] = await given_flow(store, children=2)

    await store.remove([first])

    assert await store.children(parent) == [Child(second, "pending")]


async def test_a_child_added_later_is_a_child_too(store: Store) -> None:
    parent = (await given_active(store)).ref

    child = await given(store, queue="images", parent=parent)

    assert await store.children(parent) == [Child(child, "pending")]


async def test_children_of_children_are_not_named(store: Store) -> None:
    parent, [child] = await given_flow(store)
    await given(store, queue="pixels", parent=child)

    assert [one.ref for one in await store.children(parent)] == [child]
