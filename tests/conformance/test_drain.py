"""Draining: what waits is removed, what runs or has ended stays."""

from __future__ import annotations

from conformance.given import (
    QUEUE,
    claim,
    complete,
    count_of,
    given,
    given_active,
    given_completed,
    given_flow,
    given_many,
    names_told,
    state_of,
)
from toril.states import State
from toril.store import Store


async def test_drain_removes_what_waits_and_says_how_many(store: Store) -> None:
    jobs = [*await given_many(store, 2), await given(store, priority=3)]

    assert await store.drain(QUEUE) == 3

    assert [await state_of(store, ref) for ref in jobs] == [None, None, None]
    assert (await claim(store)).claims == ()


async def test_drain_leaves_delayed_jobs_unless_asked(store: Store) -> None:
    ref = await given(store, delay=60)

    assert await store.drain(QUEUE) == 0
    assert await state_of(store, ref) is State.DELAYED

    assert await store.drain(QUEUE, delayed=True) == 1
    assert await state_of(store, ref) is None


async def test_drain_leaves_what_runs_has_ended_or_waits_for_children(store: Store) -> None:
    done = await given_completed(store)
    running = await given_active(store)
    parent, _ = await given_flow(store)

    assert await store.drain(QUEUE, delayed=True) == 0

    assert await state_of(store, done) is State.COMPLETED
    assert await state_of(store, running.ref) is State.ACTIVE
    assert await state_of(store, parent) is State.WAITING_CHILDREN
    await complete(store, running)


async def test_drain_leaves_the_other_queues_alone(store: Store) -> None:
    image = await given(store, queue="images")

    await store.drain(QUEUE)

    assert await state_of(store, image) is State.WAITING


async def test_drained_jobs_release_the_parent_that_waited_for_them(store: Store) -> None:
    parent, _ = await given_flow(store, children=2)

    assert await store.drain("images") == 2

    assert await state_of(store, parent) is State.WAITING


async def test_drained_jobs_are_not_counted_any_more(store: Store) -> None:
    await given_many(store, 3)

    await store.drain(QUEUE)

    assert await count_of(store, State.WAITING) == 0


async def test_draining_again_finds_nothing(store: Store) -> None:
    await given_many(store, 3)
    await store.drain(QUEUE)

    assert await store.drain(QUEUE) == 0


async def test_draining_tells_no_removed(store: Store) -> None:
    await given(store)

    await store.drain(QUEUE)

    assert "removed" not in await names_told(store)


async def test_a_parent_in_the_same_queue_that_waited_for_nothing_else_goes_too(store: Store) -> None:
    parent, children = await given_flow(store, children=2, child_queue=QUEUE)

    assert await store.drain(QUEUE) == 3

    assert [await state_of(store, ref) for ref in (parent, *children)] == [None, None, None]


async def test_draining_a_queue_that_nobody_has_used_leaves_no_trace(store: Store) -> None:
    assert await store.drain(QUEUE, delayed=True) == 0

    assert await store.summaries() == []
