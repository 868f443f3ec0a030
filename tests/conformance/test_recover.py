"""Recovering: a job whose worker has vanished runs again, on evidence of two checks."""

from __future__ import annotations

from conformance.given import (
    INTERVAL_MS,
    LOCK_MS,
    QUEUE,
    advance,
    claim_all,
    claim_one,
    given,
    given_active,
    history_of,
    record_of,
    refs,
    settle,
    state_of,
    told,
)
from conformance.given_schedules import claim_run, given_schedule
from toril.model import Completed, Failed, Recovered
from toril.states import State
from toril.store import Store


async def check(store: Store, *queues: str, max_stalled: int = 1) -> Recovered:
    return await store.recover(queues or (QUEUE,), max_stalled=max_stalled, interval_ms=INTERVAL_MS)


async def lapse(store: Store, *queues: str, max_stalled: int = 1) -> Recovered:
    """One check that sees the running jobs, and the next, which finds their locks lapsed."""
    await advance(store, INTERVAL_MS)
    await check(store, *queues, max_stalled=max_stalled)
    await advance(store, LOCK_MS + INTERVAL_MS)
    return await check(store, *queues, max_stalled=max_stalled)


async def test_a_job_whose_lock_lapsed_between_two_checks_is_put_back(store: Store) -> None:
    one = await given_active(store)
    assert await check(store) == Recovered()
    await advance(store, LOCK_MS + 1)

    assert await check(store) == Recovered(requeued=(one.ref,))

    record = await record_of(store, one.ref)
    assert record.state is State.WAITING
    assert record.stalled == 1
    assert (record.attempts_made, record.attempts_started) == (0, 1)
    assert record.locked_until_ms is None


async def test_the_first_check_moves_nothing(store: Store) -> None:
    one = await given_active(store)
    await advance(store, 10 * LOCK_MS)

    assert await check(store) == Recovered()
    assert await state_of(store, one.ref) is State.ACTIVE


async def test_a_job_whose_lock_holds_is_not_moved(store: Store) -> None:
    one = await given_active(store)
    await check(store)
    await advance(store, INTERVAL_MS - 1)
    await store.extend([one], LOCK_MS)
    await advance(store, 1)

    assert await check(store) == Recovered()
    assert await state_of(store, one.ref) is State.ACTIVE


async def test_one_check_of_an_interval_is_effective(store: Store) -> None:
    one = await given_active(store)
    await check(store)
    await advance(store, LOCK_MS + 1)
    await check(store)
    again = await claim_one(store, worker="w2")
    assert again.ref == one.ref

    await advance(store, INTERVAL_MS - 1_000)

    assert await check(store) == Recovered()
    assert await check(store) == Recovered()
    assert await state_of(store, one.ref) is State.ACTIVE


async def test_two_checks_in_one_interval_are_one(store: Store) -> None:
    one = await given_active(store)
    await advance(store, LOCK_MS + 1)

    await check(store)
    assert await check(store) == Recovered()

    assert await state_of(store, one.ref) is State.ACTIVE


async def test_a_job_put_back_is_served_first(store: Store) -> None:
    one = await given_active(store)
    waiting, lifo = await given(store), await given(store, lifo=True)

    await lapse(store)

    assert refs(await claim_all(store)) == [one.ref, lifo, waiting]


async def test_a_prioritized_job_put_back_waits_in_front_of_all(store: Store) -> None:
    one = await given_active(store, priority=9)
    waiting, prioritized = await given(store), await given(store, priority=1)

    await lapse(store)

    assert await state_of(store, one.ref) is State.WAITING
    assert refs(await claim_all(store)) == [one.ref, waiting, prioritized]


async def test_the_run_that_stalled_is_remembered(store: Store) -> None:
    one = await given_active(store)
    await lapse(store)
    again = await claim_one(store, worker="w2")
    assert (again.attempt, again.started, again.stalled) == (1, 2, 1)
    await settle(store, again, Completed())

    history = await history_of(store, one.ref)

    assert [(attempt.number, attempt.worker, attempt.outcome) for attempt in history] == [
        (1, "w1", "stalled"),
        (1, "w2", "completed"),
    ]


async def test_a_job_that_stalled_as_often_as_allowed_runs_again(store: Store) -> None:
    await given_active(store)
    for n in (1, 2):
        await lapse(store, max_stalled=2)
        again = await claim_one(store)
        assert again.stalled == n
        assert again.deferred is None


async def test_the_run_of_a_schedule_is_tried_again_however_often_it_stalls(store: Store) -> None:
    seen = await given_schedule(store)
    one = await claim_run(store, seen)

    for _ in range(3):
        assert await lapse(store, max_stalled=0) == Recovered(requeued=(one.ref,))
        one = await claim_one(store)
        assert one.deferred is None


async def test_a_job_that_stalled_too_often_is_put_back_to_be_failed(store: Store) -> None:
    one = await given_active(store)
    await lapse(store)
    await claim_one(store, worker="w2")

    recovered = await lapse(store)

    assert recovered == Recovered(deferred=(one.ref,))
    record = await record_of(store, one.ref)
    assert record.state is State.WAITING
    assert record.stalled == 2
    marked = await claim_one(store, worker="w3")
    assert marked.deferred == "job stalled more than allowable limit"
    await settle(store, marked, Failed(marked.deferred))
    assert (await record_of(store, one.ref)).reason == "job stalled more than allowable limit"


async def test_without_an_allowance_the_first_stall_defers_a_failure(store: Store) -> None:
    one = await given_active(store)

    assert await lapse(store, max_stalled=0) == Recovered(deferred=(one.ref,))
    assert (await claim_one(store)).deferred == "job stalled more than allowable limit"


async def test_only_the_queues_named_are_checked(store: Store) -> None:
    mail, image = await given_active(store), await given_active(store, "images")

    recovered = await lapse(store, "images")

    assert recovered.requeued == (image.ref,)
    assert await state_of(store, mail.ref) is State.ACTIVE


async def test_several_queues_are_checked_in_one_call(store: Store) -> None:
    mail, image = await given_active(store), await given_active(store, "images")

    recovered = await lapse(store, QUEUE, "images")

    assert set(recovered.requeued) == {mail.ref, image.ref}


async def test_a_paused_queue_is_recovered_too(store: Store) -> None:
    one = await given_active(store)
    await store.pause(QUEUE)

    assert (await lapse(store)).requeued == (one.ref,)


async def test_recovery_tells_waiting_and_stalled(store: Store) -> None:
    await given_active(store)
    await lapse(store)

    assert (await told(store))[3:] == [("waiting", {"prev": "active"}), ("stalled", {})]


async def test_nothing_to_recover_is_nothing(store: Store) -> None:
    await given(store)

    assert await lapse(store) == Recovered()
    assert await store.recover([], max_stalled=1, interval_ms=INTERVAL_MS) == Recovered()
