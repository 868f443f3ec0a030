"""Cleaning: the old ones of a state go, the oldest first, never one that somebody works on."""

from __future__ import annotations

import pytest

from conformance.given import (
    LOCK_MS,
    QUEUE,
    added,
    advance,
    claim_one,
    complete,
    fail,
    found,
    given,
    given_active,
    given_completed,
    given_failed,
    given_flow,
    given_many,
    known,
    names_told,
    new_job,
    record_of,
    ref_of,
    retry_after,
    state_of,
    told,
)
from toril.model import JobRef
from toril.states import State
from toril.store import Store


async def clean(store: Store, state: State, *, grace_ms: int = 0, limit: int = 1000) -> list[str]:
    return await store.clean(QUEUE, state, grace_ms=grace_ms, limit=limit)


def ids(*jobs: JobRef) -> list[str]:
    return [ref.id for ref in jobs]


async def test_completed_jobs_older_than_the_grace_go(store: Store) -> None:
    old = await given_completed(store)
    await advance(store, 10_000)
    young = await given_completed(store)
    await advance(store, 1_000)

    assert await clean(store, State.COMPLETED, grace_ms=5_000) == ids(old)

    assert await known(store, old) is None
    assert await state_of(store, young) is State.COMPLETED


async def test_the_age_of_a_finished_job_counts_from_its_end(store: Store) -> None:
    one = await given_active(store)
    await advance(store, 20_000)
    await complete(store, one)
    await advance(store, 1_000)

    assert await clean(store, State.COMPLETED, grace_ms=5_000) == []


async def test_failed_jobs_go_by_themselves(store: Store) -> None:
    failed, completed = await given_failed(store), await given_completed(store)
    await advance(store, 1)

    assert await clean(store, State.FAILED) == ids(failed)

    assert await state_of(store, completed) is State.COMPLETED


async def test_at_most_so_many_go_the_oldest_first(store: Store) -> None:
    jobs: list[JobRef] = []
    for _ in range(4):
        jobs.append(await given_completed(store))
        await advance(store, 10)

    assert await clean(store, State.COMPLETED, limit=3) == ids(*jobs[:3])

    assert await found(store, State.COMPLETED) == jobs[3:]


@pytest.mark.parametrize(
    ("delay", "priority", "state"),
    [(0, 0, State.WAITING), (0, 5, State.PRIORITIZED), (600, 0, State.DELAYED)],
)
async def test_jobs_that_have_not_run_go_by_the_age_of_their_adding(
    store: Store, delay: int, priority: int, state: State
) -> None:
    old = await given(store, delay=delay, priority=priority)
    await advance(store, 10_000)
    young = await given(store, delay=delay, priority=priority)

    assert await clean(store, state, grace_ms=5_000) == ids(old)

    assert await found(store, state) == [young]


async def test_a_running_job_is_never_cleaned(store: Store) -> None:
    one = await given_active(store)
    await advance(store, LOCK_MS - 1_000)

    assert await clean(store, State.ACTIVE) == []

    assert await state_of(store, one.ref) is State.ACTIVE
    await fail(store, one)


async def test_a_job_whose_lock_has_lapsed_is_cleaned(store: Store) -> None:
    one = await given_active(store)
    await advance(store, LOCK_MS + 1)

    assert await clean(store, State.ACTIVE, grace_ms=1_000) == ids(one.ref)

    assert await state_of(store, one.ref) is None


async def test_cleaning_leaves_the_other_queues_alone(store: Store) -> None:
    image = await given(store, queue="images")
    await advance(store, 1)

    assert await clean(store, State.WAITING) == []

    assert await state_of(store, image) is State.WAITING


async def test_cleaning_tells_how_many(store: Store) -> None:
    await given_many(store, 3)
    await advance(store, 1)

    await clean(store, State.WAITING, limit=2)

    assert (await told(store))[-1] == ("cleaned", {"count": "2"})
    assert "removed" not in await names_told(store)


async def test_a_nested_flow_that_is_cleaned_leaves_nothing_counted(store: Store) -> None:
    root = new_job(store, has_children=True)
    middle = new_job(store, has_children=True, parent=ref_of(root))
    leaf = new_job(store, parent=ref_of(middle))
    await added(store, root, middle, leaf)

    await clean(store, State.WAITING_CHILDREN)

    [summary] = await store.summaries([QUEUE])
    assert {state: count for state, count in summary.counts.items() if count} == {State.WAITING: 1}
    assert await found(store, State.WAITING) == [ref_of(leaf)]


async def test_a_parent_and_its_child_that_are_cleaned_together_both_go_in_whatever_order(store: Store) -> None:
    root = new_job(store, job_id="b", has_children=True)
    middle = new_job(store, job_id="a", has_children=True, parent=ref_of(root))
    leaf = new_job(store, queue="images", parent=ref_of(middle))
    await added(store, root, middle, leaf)

    assert sorted(await clean(store, State.WAITING_CHILDREN)) == ["a", "b"]

    assert await store.get([ref_of(root), ref_of(middle)]) == [None, None]
    [summary] = await store.summaries([QUEUE])
    assert not any(summary.counts.values())


async def test_a_younger_job_in_front_does_not_hide_an_older_one(store: Store) -> None:
    old = await given_many(store, 2)
    await advance(store, 10_000)
    young = await given(store, lifo=True)

    assert await clean(store, State.WAITING, grace_ms=5_000) == ids(*old)

    assert await found(store, State.WAITING) == [young]


async def test_the_age_of_a_job_that_has_run_counts_from_its_last_run(store: Store) -> None:
    ref = await given(store, attempts=2, backoff=0)
    await advance(store, 10_000)
    await retry_after(store, await claim_one(store))

    assert await clean(store, State.WAITING, grace_ms=5_000) == []

    assert await state_of(store, ref) is State.WAITING


async def test_the_last_pending_child_that_is_cleaned_releases_its_parent(store: Store) -> None:
    parent, [child] = await given_flow(store, queue="albums", child_queue=QUEUE)

    assert await clean(store, State.WAITING) == ids(child)

    assert await state_of(store, parent) is State.WAITING


async def test_the_children_of_a_parent_that_was_cleaned_stay_and_have_none(store: Store) -> None:
    parent, [child] = await given_flow(store)

    assert await clean(store, State.WAITING_CHILDREN) == ids(parent)

    assert (await record_of(store, child)).parent is None
    await complete(store, await claim_one(store, "images"))
    assert await state_of(store, child) is State.COMPLETED


async def test_cleaning_a_queue_that_nobody_has_used_leaves_no_trace(store: Store) -> None:
    assert await clean(store, State.COMPLETED) == []

    assert await store.summaries() == []
