"""Retrying: finished jobs run again by hand."""

from __future__ import annotations

from conformance.given import (
    advance,
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
    history_of,
    record_of,
    refs,
    stall,
    state_of,
    told,
)
from toril.model import Answer, JobRef
from toril.options import ChildPolicy
from toril.states import State
from toril.store import Store


async def test_retry_lets_a_failed_job_run_again(store: Store) -> None:
    ref = await given_failed(store, "no such user")

    assert await store.retry([ref]) == [Answer.DONE]

    record = await record_of(store, ref)
    assert record.state is State.WAITING
    assert record.reason is None
    assert record.finished_at_ms is None
    assert (await claim_one(store)).ref == ref


async def test_retry_lets_a_completed_job_run_again(store: Store) -> None:
    ref = await given_completed(store, '"sent"')

    assert await store.retry([ref]) == [Answer.DONE]

    record = await record_of(store, ref)
    assert record.state is State.WAITING
    assert record.result is None
    assert record.finished_at_ms is None


async def test_a_retried_job_leaves_the_finished_ones(store: Store) -> None:
    ref = await given_failed(store)

    await store.retry([ref])

    assert await count_of(store, State.FAILED) == 0
    assert await count_of(store, State.WAITING) == 1


async def test_retry_gives_a_job_with_a_priority_its_place(store: Store) -> None:
    ref = await given_failed(store, priority=3)
    behind, before = await given(store, priority=5), await given(store, priority=1)

    await store.retry([ref])

    assert await state_of(store, ref) is State.PRIORITIZED
    assert refs(await claim_all(store)) == [before, ref, behind]


async def test_a_retried_job_goes_behind_those_that_wait(store: Store) -> None:
    ref = await given_failed(store)
    waiting = await given(store)

    await store.retry([ref])

    assert refs(await claim_all(store)) == [waiting, ref]


async def test_retry_does_not_serve_the_first_delay_again(store: Store) -> None:
    ref = await given(store, delay=5)
    await advance(store, 5_000)
    await fail(store, await claim_one(store))

    await store.retry([ref])

    assert await state_of(store, ref) is State.WAITING


async def test_retry_keeps_the_count_of_attempts(store: Store) -> None:
    ref = await given_failed(store)

    await store.retry([ref])

    one = await claim_one(store)
    assert (one.attempt, one.started) == (2, 2)


async def test_retry_may_begin_the_count_of_attempts_anew(store: Store) -> None:
    ref = await given_failed(store)

    await store.retry([ref], reset_attempts=True)

    assert (await record_of(store, ref)).attempts_made == 0
    assert (await claim_one(store)).attempt == 1


async def test_retry_may_bring_other_data(store: Store) -> None:
    ref = await given_failed(store, data='{"to":"ada@exmaple.org"}')

    await store.retry([ref], data='{"to":"ada@example.org"}')

    assert (await claim_one(store)).data == '{"to":"ada@example.org"}'


async def test_retry_leaves_the_data_as_it_is_without_other(store: Store) -> None:
    ref = await given_failed(store, data='{"n":1}')

    await store.retry([ref])

    assert (await claim_one(store)).data == '{"n":1}'


async def test_the_runs_before_a_retry_are_remembered(store: Store) -> None:
    ref = await given_failed(store, "no such user")

    await store.retry([ref])
    await complete(store, await claim_one(store))

    assert [(attempt.outcome, attempt.reason) for attempt in await history_of(store, ref)] == [
        ("failed", "no such user"),
        ("completed", ""),
    ]


async def test_retry_answers_for_each_job(store: Store) -> None:
    failed = await given_failed(store)
    running = await given_active(store)
    waiting, delayed = await given(store), await given(store, delay=60)

    answers = await store.retry([waiting, failed, JobRef("email", "nobody"), delayed, running.ref])

    assert answers == [
        Answer.WRONG_STATE,
        Answer.DONE,
        Answer.MISSING,
        Answer.WRONG_STATE,
        Answer.WRONG_STATE,
    ]


async def test_a_job_that_is_not_kept_cannot_be_retried(store: Store) -> None:
    ref = await given_failed(store, keep_failed=False)

    assert await store.retry([ref]) == [Answer.MISSING]
    assert await state_of(store, ref) is None


async def test_retrying_again_changes_nothing(store: Store) -> None:
    ref = await given_failed(store)
    await store.retry([ref])

    assert await store.retry([ref]) == [Answer.WRONG_STATE]
    assert refs(await claim_all(store)) == [ref]


async def test_a_retried_child_that_completes_releases_the_parent_that_waited_on(store: Store) -> None:
    parent, [child] = await given_flow(store, policy=ChildPolicy.WAIT)
    await fail(store, await claim_one(store, "images"))

    await store.retry([child])
    assert await state_of(store, parent) is State.WAITING_CHILDREN
    await complete(store, await claim_one(store, "images"))

    assert await state_of(store, parent) is State.WAITING


async def test_a_retried_child_is_pending_again(store: Store) -> None:
    parent, [child, _] = await given_flow(store, children=2)
    await complete(store, await claim_one(store, "images"))
    assert (await record_of(store, parent)).pending_children == 1

    await store.retry([child])

    assert (await record_of(store, parent)).pending_children == 2
    assert [one.state for one in await store.children(parent)] == ["pending", "pending"]


async def test_a_failed_parent_that_is_retried_after_its_child_waits_for_it_again(store: Store) -> None:
    parent, [child] = await given_flow(store, policy=ChildPolicy.FAIL, delay=60)
    await fail(store, await claim_one(store, "images"))
    await advance(store, 60_000)
    await fail(store, await claim_one(store))

    await store.retry([child, parent])
    assert await state_of(store, parent) is State.WAITING_CHILDREN
    assert (await told(store))[-1] == ("waiting-children", {"prev": "failed"})
    await complete(store, await claim_one(store, "images"))

    assert await state_of(store, parent) is State.WAITING
    await complete(store, await claim_one(store))
    assert await state_of(store, parent) is State.COMPLETED


async def test_a_failed_parent_that_is_retried_alone_goes_on_without_the_child_that_failed(store: Store) -> None:
    parent, [child] = await given_flow(store, policy=ChildPolicy.FAIL)
    await fail(store, await claim_one(store, "images"), "no picture")
    await fail(store, await claim_one(store))

    await store.retry([parent])
    await complete(store, await claim_one(store))

    assert await state_of(store, parent) is State.COMPLETED
    [seen] = await store.children(parent)
    assert (seen.ref, seen.state, seen.reason) == (child, "ignored", "no picture")


async def test_a_completed_parent_that_is_retried_is_not_failed_by_what_was_mended_before(store: Store) -> None:
    parent, [child] = await given_flow(store, policy=ChildPolicy.FAIL)
    await fail(store, await claim_one(store, "images"))
    one = await claim_one(store)
    await store.retry([child])
    await complete(store, await claim_one(store, "images"))
    await complete(store, one)

    await store.retry([parent])

    assert (await claim_one(store)).deferred is None


async def test_retry_tells_waiting_and_from_where(store: Store) -> None:
    failed = await given_failed(store)
    completed = await given_completed(store, queue="images")

    await store.retry([failed, completed])

    assert (await told(store))[-1] == ("waiting", {"prev": "failed"})
    assert (await told(store, "images"))[-1] == ("waiting", {"prev": "completed"})


async def test_a_count_of_attempts_that_begins_anew_forgets_the_stalls(store: Store) -> None:
    await given_active(store)
    await stall(store)
    await fail(store, await claim_one(store))
    [ref] = [record.ref for record in (await store.find("email", State.FAILED)).items]

    await store.retry([ref], reset_attempts=True)

    assert (await claim_one(store)).stalled == 0
