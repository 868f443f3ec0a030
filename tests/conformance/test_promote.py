"""Promoting: delayed jobs run now."""

from __future__ import annotations

from conformance.given import (
    advance,
    claim,
    claim_all,
    given,
    given_active,
    given_completed,
    record_of,
    refs,
    state_of,
    told,
)
from toril.model import Answer, JobRef
from toril.states import State
from toril.store import Store


async def test_promote_lets_a_delayed_job_run_now(store: Store) -> None:
    job = await given(store, delay=60)

    assert await store.promote([job]) == [Answer.DONE]

    record = await record_of(store, job)
    assert record.state is State.WAITING
    assert record.due_at_ms is None


async def test_promote_gives_a_job_with_a_priority_its_place(store: Store) -> None:
    behind, before = await given(store, priority=5), await given(store, priority=1)
    job = await given(store, delay=60, priority=3)

    await store.promote([job])

    assert await state_of(store, job) is State.PRIORITIZED
    assert refs(await claim_all(store)) == [before, job, behind]


async def test_a_promoted_job_goes_behind_those_that_wait(store: Store) -> None:
    job, waiting = await given(store, delay=60), await given(store)

    await store.promote([job])

    assert refs(await claim_all(store)) == [waiting, job]


async def test_promoted_jobs_go_in_the_order_in_which_they_were_named(store: Store) -> None:
    early, late = await given(store, delay=10), await given(store, delay=20)

    await store.promote([late, early])

    assert refs(await claim_all(store)) == [late, early]


async def test_a_promoted_job_runs_once(store: Store) -> None:
    job = await given(store, delay=60)
    await store.promote([job])
    assert refs(await claim_all(store)) == [job]

    await advance(store, 60_000)

    assert (await claim(store)).claims == ()


async def test_promote_answers_for_each_job(store: Store) -> None:
    delayed, waiting = await given(store, delay=60), await given(store)
    running = await given_active(store, queue="images")
    done = await given_completed(store, queue="sms")

    answers = await store.promote([waiting, delayed, JobRef("email", "nobody"), running.ref, done])

    assert answers == [
        Answer.WRONG_STATE,
        Answer.DONE,
        Answer.MISSING,
        Answer.WRONG_STATE,
        Answer.WRONG_STATE,
    ]
    assert await state_of(store, done) is State.COMPLETED
    assert await state_of(store, running.ref) is State.ACTIVE


async def test_promoting_again_changes_nothing(store: Store) -> None:
    job = await given(store, delay=60)
    await store.promote([job])
    told_before = await told(store)

    assert await store.promote([job]) == [Answer.WRONG_STATE]
    assert await told(store) == told_before


async def test_promote_tells_waiting(store: Store) -> None:
    job = await given(store, delay=60, priority=3)

    await store.promote([job])

    assert (await told(store))[2:] == [("waiting", {"prev": "delayed"})]


async def test_promoting_nothing_answers_nothing(store: Store) -> None:
    assert await store.promote([]) == []
