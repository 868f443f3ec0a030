"""Removing: jobs go with all that belongs to them, unless somebody works on them."""

from __future__ import annotations

import pytest

from conformance.given import (
    LOCK_MS,
    added,
    advance,
    claim,
    claim_all,
    claim_one,
    complete,
    count_of,
    fail,
    given,
    given_active,
    given_completed,
    given_failed,
    given_flow,
    known,
    new_job,
    now_ms,
    record_of,
    ref_of,
    refs,
    state_of,
    told,
)
from toril.model import Answer, JobRef, Report
from toril.options import ChildPolicy
from toril.states import State
from toril.store import Store


@pytest.mark.parametrize(("delay", "priority"), [(0, 0), (0, 5), (60, 0)], ids=["waiting", "prioritized", "delayed"])
async def test_a_job_that_has_not_run_is_removed(store: Store, delay: int, priority: int) -> None:
    ref = await given(store, delay=delay, priority=priority)

    assert await store.remove([ref]) == [Answer.DONE]

    assert await known(store, ref) is None
    await advance(store, 60_000)
    assert (await claim(store)).claims == ()


async def test_a_completed_job_is_removed_with_its_result(store: Store) -> None:
    ref = await given_completed(store, '"sent"')

    assert await store.remove([ref]) == [Answer.DONE]

    assert await known(store, ref) is None
    assert await count_of(store, State.COMPLETED) == 0


async def test_a_failed_job_is_removed(store: Store) -> None:
    ref = await given_failed(store)

    assert await store.remove([ref]) == [Answer.DONE]

    assert await state_of(store, ref) is None


async def test_a_running_job_is_not_removed(store: Store) -> None:
    one = await given_active(store)

    assert await store.remove([one.ref]) == [Answer.LOCKED]

    assert await state_of(store, one.ref) is State.ACTIVE
    await complete(store, one)


async def test_a_job_whose_lock_has_lapsed_is_removed(store: Store) -> None:
    one = await given_active(store)
    await advance(store, LOCK_MS + 1)

    assert await store.remove([one.ref]) == [Answer.DONE]

    assert await state_of(store, one.ref) is None
    assert await count_of(store, State.ACTIVE) == 0


async def test_the_logs_go_with_the_job(store: Store) -> None:
    one = await given_active(store, job_id="order-7")
    await store.report([Report(one, progress="1", logs=("line",))])
    await complete(store, one)
    await store.remove([one.ref])

    await given(store, job_id="order-7")

    assert (await store.logs(one.ref)).lines == ()


async def test_remove_answers_for_each_job(store: Store) -> None:
    running = await given_active(store)
    first, second = await given(store), await given(store)

    answers = await store.remove([first, JobRef("email", "nobody"), running.ref, second])

    assert answers == [Answer.DONE, Answer.MISSING, Answer.LOCKED, Answer.DONE]


async def test_removing_again_finds_nothing(store: Store) -> None:
    ref = await given(store)
    await store.remove([ref])

    assert await store.remove([ref]) == [Answer.MISSING]


async def test_the_id_of_a_removed_job_is_free(store: Store) -> None:
    ref = await given(store, job_id="order-7")
    await store.remove([ref])

    assert [member.duplicate for member in await added(store, new_job(store, job_id="order-7"))] == [False]
    assert refs(await claim_all(store)) == [ref]


async def test_removing_the_last_pending_child_releases_its_parent(store: Store) -> None:
    parent, [first, second] = await given_flow(store, children=2)
    await store.remove([first])
    assert await state_of(store, parent) is State.WAITING_CHILDREN

    await store.remove([second])

    assert await state_of(store, parent) is State.WAITING


async def test_removing_a_failed_child_that_its_parent_waited_for_releases_the_parent(store: Store) -> None:
    parent, [child] = await given_flow(store, policy=ChildPolicy.WAIT)
    await fail(store, await claim_one(store, "images"))

    await store.remove([child])

    assert await state_of(store, parent) is State.WAITING


async def test_a_parent_goes_with_its_children(store: Store) -> None:
    parent, children = await given_flow(store, children=2)
    await complete(store, await claim_one(store, "images"))

    assert await store.remove([parent]) == [Answer.DONE]

    assert [await state_of(store, ref) for ref in (parent, *children)] == [None, None, None]
    assert (await claim(store, "images")).claims == ()


async def test_a_parent_whose_child_runs_is_not_removed(store: Store) -> None:
    parent, [child] = await given_flow(store)
    one = await claim_one(store, "images")

    assert await store.remove([parent]) == [Answer.LOCKED]

    assert await state_of(store, parent) is State.WAITING_CHILDREN
    assert await state_of(store, child) is State.ACTIVE
    await complete(store, one)


async def test_removal_is_told_with_the_state_before(store: Store) -> None:
    ref = await given_completed(store)
    other = await given(store, queue="images", delay=60)

    await store.remove([ref, other])

    assert (await told(store))[-1] == ("removed", {"prev": "completed"})
    assert (await told(store, "images"))[-1] == ("removed", {"prev": "delayed"})


async def test_what_was_not_removed_is_not_told(store: Store) -> None:
    one = await given_active(store)
    told_before = await told(store)

    await store.remove([one.ref, JobRef("email", "nobody")])

    assert await told(store) == told_before


async def test_a_job_goes_with_all_that_is_below_it(store: Store) -> None:
    root = new_job(store, has_children=True)
    middle = new_job(store, queue="images", has_children=True, parent=ref_of(root))
    leaf = new_job(store, queue="pixels", parent=ref_of(middle))
    await added(store, root, middle, leaf)

    assert await store.remove([ref_of(root)]) == [Answer.DONE]

    assert await store.get([ref_of(root), ref_of(middle), ref_of(leaf)]) == [None, None, None]


async def test_a_job_under_whom_somebody_works_is_not_removed(store: Store) -> None:
    root = new_job(store, has_children=True)
    middle = new_job(store, queue="images", has_children=True, parent=ref_of(root))
    leaf = new_job(store, queue="pixels", parent=ref_of(middle))
    await added(store, root, middle, leaf)
    await claim_one(store, "pixels")

    assert await store.remove([ref_of(root), ref_of(middle)]) == [Answer.LOCKED, Answer.LOCKED]

    assert await count_of(store, State.WAITING_CHILDREN) == 1
    assert await count_of(store, State.WAITING_CHILDREN, "images") == 1


async def test_a_parent_with_a_priority_is_released_to_its_place(store: Store) -> None:
    parent, [child] = await given_flow(store, priority=2)
    behind, before = await given(store, priority=3), await given(store, priority=1)

    await store.remove([child])

    assert refs(await claim_all(store)) == [before, parent, behind]


async def test_a_parent_with_a_delay_begins_to_serve_it_once_its_last_child_has_gone(store: Store) -> None:
    parent, [child] = await given_flow(store, delay=60)
    await advance(store, 90_000)

    await store.remove([child])

    assert (await record_of(store, parent)).due_at_ms == now_ms(store) + 60_000


async def test_what_a_removed_child_had_completed_with_stays_with_its_parent(store: Store) -> None:
    parent, [child, _] = await given_flow(store, children=2)
    await complete(store, await claim_one(store, "images"), '"thumb.png"')

    assert await store.remove([child]) == [Answer.DONE]

    assert await state_of(store, parent) is State.WAITING_CHILDREN
    assert ("completed", '"thumb.png"') in [(one.state, one.result) for one in await store.children(parent)]


async def test_a_job_that_took_the_id_of_a_child_that_went_does_not_go_with_its_parent(store: Store) -> None:
    parent = new_job(store, queue="albums", has_children=True)
    await added(store, parent, new_job(store, job_id="cover", parent=ref_of(parent)))
    await complete(store, await claim_one(store))
    await store.remove([JobRef("email", "cover")])
    other = await given(store, job_id="cover")

    assert await store.remove([ref_of(parent)]) == [Answer.DONE]

    assert await state_of(store, other) is State.WAITING


async def test_a_parent_released_by_its_own_removal_was_waiting(store: Store) -> None:
    parent, _ = await given_flow(store)

    await store.remove([parent])

    assert (await told(store))[-2:] == [("waiting", {"prev": "waiting-children"}), ("removed", {"prev": "wait"})]
