"""Series: how many jobs have completed or failed, minute by minute."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conformance.given import (
    LOCK_MS,
    QUEUE,
    advance,
    claim_all,
    claim_one,
    complete,
    fail,
    given,
    given_active,
    given_completed,
    given_failed,
    given_flow,
    given_many,
    given_settings,
    now_ms,
    retry_after,
    settle,
    stall,
)
from toril.errors import ConfigError
from toril.model import MAX_METRICS_MINUTES, Completed, Failed, Outcome, QueueSettings, Released, Settlement, Throttled
from toril.states import State
from toril.store import Inspector, Store

MINUTE_MS = 60_000


async def counts_of(
    store: Inspector, state: State = State.COMPLETED, *, queue: str = QUEUE, minutes: int = 5
) -> list[int]:
    """The newest minutes, the oldest of them first."""
    series = await store.series(queue, state, limit=minutes)
    assert len(series.counts) == minutes
    return list(series.counts)


async def total_of(store: Inspector, state: State = State.COMPLETED, *, queue: str = QUEUE) -> int:
    return (await store.series(queue, state)).total


async def given_minutes(store: Store, *completed: int) -> None:
    """So many jobs completed in one minute after the other; the last of them is still running."""
    for minute, count in enumerate(completed):
        await advance(store, MINUTE_MS if minute else 0)
        for _ in range(count):
            await given_completed(store)


# ------------------------------------------------------------------ minutes


async def test_jobs_are_counted_in_the_minute_in_which_they_complete(store: Store) -> None:
    await given_minutes(store, 2, 1, 3)

    assert await counts_of(store) == [0, 0, 2, 1, 3]
    assert await total_of(store) == 6


async def test_jobs_are_counted_by_the_minutes_of_the_clock(store: Store) -> None:
    await advance(store, MINUTE_MS - now_ms(store) % MINUTE_MS - 1)
    await given_completed(store)

    await advance(store, 1)
    await given_completed(store)
    await advance(store, MINUTE_MS - 1)
    await given_completed(store)

    assert await counts_of(store, minutes=2) == [1, 2]


async def test_a_minute_in_which_nothing_ended_is_zero(store: Store) -> None:
    await given_minutes(store, 1, 0, 0, 2)

    assert await counts_of(store) == [0, 1, 0, 0, 2]


async def test_minutes_go_on_while_nothing_ends(store: Store) -> None:
    await given_minutes(store, 1, 2)
    await advance(store, 2 * MINUTE_MS)

    assert await counts_of(store) == [0, 1, 2, 0, 0]


async def test_the_last_minute_is_the_running_one(store: Store) -> None:
    await given_completed(store)

    until_ms = (await store.series(QUEUE, State.COMPLETED)).until_ms

    assert until_ms % MINUTE_MS == 0
    assert until_ms - MINUTE_MS <= now_ms(store) < until_ms


async def test_a_day_is_told_unless_asked_otherwise(store: Store) -> None:
    await given_completed(store)
    await advance(store, 1439 * MINUTE_MS)
    await given_completed(store)

    assert (await store.series(QUEUE, State.COMPLETED)).counts == (1, *[0] * 1438, 1)


async def test_only_the_newest_minutes_asked_for_are_told(store: Store) -> None:
    await given_minutes(store, 1, 2, 3, 4)

    assert await counts_of(store, minutes=2) == [3, 4]
    assert await counts_of(store, minutes=1) == [4]


async def test_the_count_of_a_minute_is_kept_for_as_many_minutes_as_are_set(store: Store) -> None:
    await given_settings(store, metrics_minutes=3)

    await given_minutes(store, 1, 2, 3, 4, 5, 6)

    assert await counts_of(store, minutes=8) == [0, 0, 0, 0, 3, 4, 5, 6]
    assert await total_of(store) == 21


async def test_fewer_minutes_are_kept_from_the_next_job_on(store: Store) -> None:
    await given_minutes(store, 1, 2, 3, 4)
    await given_settings(store, metrics_minutes=1)
    await advance(store, MINUTE_MS)

    await given_completed(store)

    assert await counts_of(store) == [0, 0, 0, 4, 1]


# ------------------------------------------------------------------ what counts


async def test_failed_jobs_are_counted_apart(store: Store) -> None:
    await given_completed(store)
    await given_failed(store)
    await given_failed(store)

    assert await counts_of(store, State.COMPLETED, minutes=1) == [1]
    assert await counts_of(store, State.FAILED, minutes=1) == [2]
    assert [await total_of(store, state) for state in (State.COMPLETED, State.FAILED)] == [1, 2]


async def test_each_job_of_a_batch_counts(store: Store) -> None:
    await given_completed(store)
    await advance(store, MINUTE_MS)
    await given_many(store, 5)
    outcomes: list[Outcome] = [Completed(), Failed("no"), Completed(), Failed("no"), Completed()]
    claims = await claim_all(store)

    await store.settle([Settlement(one, outcome) for one, outcome in zip(claims, outcomes, strict=True)])

    assert await counts_of(store, State.COMPLETED, minutes=2) == [1, 3]
    assert await counts_of(store, State.FAILED, minutes=2) == [0, 2]


async def test_each_queue_of_a_batch_has_its_own_counts(store: Store) -> None:
    here, there = await given_active(store), await given_active(store, "images")

    await store.settle([Settlement(here, Completed()), Settlement(there, Completed())])

    assert [await counts_of(store, queue=queue, minutes=1) for queue in (QUEUE, "images", "sms")] == [[1], [1], [0]]


async def test_a_job_that_was_retried_counts_once_in_the_minute_in_which_it_completes(store: Store) -> None:
    await retry_after(store, await given_active(store, attempts=3))
    await advance(store, MINUTE_MS)
    await retry_after(store, await claim_one(store))
    await advance(store, MINUTE_MS)

    await complete(store, await claim_one(store))

    assert await counts_of(store) == [0, 0, 0, 0, 1]
    assert await total_of(store, State.FAILED) == 0


@pytest.mark.parametrize("outcome", [Released(), Throttled(0)])
async def test_a_job_that_goes_back_is_not_counted(store: Store, outcome: Outcome) -> None:
    await settle(store, await given_active(store), outcome)

    assert [await total_of(store, state) for state in (State.COMPLETED, State.FAILED)] == [0, 0]


async def test_a_job_whose_worker_has_vanished_counts_when_it_is_failed_for_it(store: Store) -> None:
    await given_active(store)
    await stall(store, max_stalled=0)
    assert await total_of(store, State.FAILED) == 0

    deferred = await claim_one(store)
    await fail(store, deferred, deferred.deferred or "")

    assert await total_of(store, State.FAILED) == 1


async def test_children_and_their_parent_count_in_their_queues(store: Store) -> None:
    await given_flow(store, children=2)
    for one in await claim_all(store, "images"):
        await complete(store, one)

    await complete(store, await claim_one(store))

    assert (await total_of(store, queue="images"), await total_of(store)) == (2, 1)


async def test_a_job_that_its_keep_rule_removes_at_once_is_counted(store: Store) -> None:
    await given_completed(store, keep_completed=False)
    await given_failed(store, keep_failed=False)

    assert [await counts_of(store, state, minutes=1) for state in (State.COMPLETED, State.FAILED)] == [[1], [1]]


async def test_jobs_that_were_removed_later_stay_counted(store: Store) -> None:
    await given_completed(store, keep_completed=1)
    gone = await given_completed(store, keep_completed=1)

    await store.remove([gone])

    assert await counts_of(store, minutes=1) == [2]


async def test_a_settlement_that_is_repeated_counts_once(store: Store) -> None:
    one = await given_active(store)

    for _ in range(2):
        assert (await store.settle([Settlement(one, Completed())])).lost == ()

    assert await total_of(store) == 1


async def test_a_settlement_that_came_too_late_does_not_count(store: Store) -> None:
    late = await given_active(store)
    await advance(store, LOCK_MS + 1)

    assert (await store.settle([Settlement(late, Completed())])).lost == (late.ref,)

    assert await total_of(store) == 0


async def test_a_job_that_is_run_again_by_hand_counts_again(store: Store) -> None:
    ref = await given_failed(store)
    await store.retry([ref])

    await complete(store, await claim_one(store))

    assert [await total_of(store, state) for state in (State.COMPLETED, State.FAILED)] == [1, 1]


# ------------------------------------------------------------------ the setting


async def test_minutes_are_a_setting_of_the_queue(store: Store) -> None:
    await given_settings(store, metrics_minutes=60)
    assert (await store.settings(QUEUE)).metrics_minutes == 60

    await store.configure(QUEUE, QueueSettings())

    assert await store.settings(QUEUE) == QueueSettings()


async def test_a_queue_that_keeps_no_minutes_counts_nothing(store: Store) -> None:
    await given_settings(store, metrics_minutes=0)

    await given_minutes(store, 1, 1)
    await given_failed(store)

    assert await counts_of(store) == [0, 0, 0, 0, 0]
    assert [await total_of(store, state) for state in (State.COMPLETED, State.FAILED)] == [0, 0]


async def test_counting_goes_on_where_it_was_switched_off(store: Store) -> None:
    await given_minutes(store, 1, 2)
    settings = await store.settings(QUEUE)
    await store.configure(QUEUE, replace(settings, metrics_minutes=0))
    await given_completed(store)
    await store.configure(QUEUE, settings)

    await given_completed(store)

    assert await counts_of(store) == [0, 0, 0, 1, 3]
    assert await total_of(store) == 4


async def test_the_setting_and_the_counts_outlive_the_store_that_made_them(store: Store, neighbour: Store) -> None:
    await given_settings(store, metrics_minutes=2)
    await given_minutes(store, 1, 2)
    await store.close()

    assert (await neighbour.settings(QUEUE)).metrics_minutes == 2
    assert await counts_of(neighbour) == [0, 0, 0, 1, 2]


async def test_all_workers_of_a_queue_count_together(store: Store, neighbour: Store) -> None:
    await given_settings(store, metrics_minutes=2)
    await given_many(store, 2)

    for worker in (store, neighbour):
        await complete(worker, await claim_one(worker))
    await given_minutes(neighbour, 0, 1, 1, 1)

    assert await counts_of(store) == await counts_of(neighbour) == [0, 0, 1, 1, 1]
    assert await total_of(store) == 5


@pytest.mark.parametrize("minutes", [-1, MAX_METRICS_MINUTES + 1])
def test_minutes_that_cannot_be_kept_are_named(minutes: int) -> None:
    with pytest.raises(ConfigError, match=f"metrics_minutes must be from 0.* to 44,640.* not {minutes}"):
        QueueSettings(metrics_minutes=minutes)


# ------------------------------------------------------------------ looking


async def test_a_queue_that_nobody_has_used_has_no_counts(store: Store) -> None:
    assert await counts_of(store) == [0, 0, 0, 0, 0]
    assert await total_of(store) == 0
    assert await store.summaries() == []


async def test_looking_counts_nothing(store: Store) -> None:
    await given_completed(store)

    first = await store.series(QUEUE, State.COMPLETED)

    assert await store.series(QUEUE, State.COMPLETED) == first


async def test_an_obliterated_queue_forgets_its_counts(store: Store) -> None:
    await given_settings(store, metrics_minutes=7, paused=False)
    await given_minutes(store, 1, 1)
    await given_failed(store)
    await store.pause(QUEUE)
    await store.obliterate(QUEUE)

    await given(store)

    assert [await counts_of(store, state) for state in (State.COMPLETED, State.FAILED)] == [[0] * 5, [0] * 5]
    assert [await total_of(store, state) for state in (State.COMPLETED, State.FAILED)] == [0, 0]
    assert (await store.settings(QUEUE)).metrics_minutes == QueueSettings().metrics_minutes


async def test_the_first_queue_after_an_obliterated_one_begins_at_zero(store: Store) -> None:
    await given_completed(store)
    await store.pause(QUEUE)
    await store.obliterate(QUEUE)

    await given_completed(store, queue="images")

    assert await counts_of(store, queue="images", minutes=1) == [1]


@pytest.mark.parametrize("state", [state for state in State if state not in (State.COMPLETED, State.FAILED)])
async def test_only_states_in_which_jobs_end_have_counts(store: Store, state: State) -> None:
    with pytest.raises(
        ValueError, match=f"only completed and failed jobs are counted by the minute, not '{state}' ones"
    ):
        await store.series(QUEUE, state)


@pytest.mark.parametrize("limit", [0, -1, MAX_METRICS_MINUTES + 1])
async def test_minutes_that_cannot_be_told_are_named(store: Store, limit: int) -> None:
    with pytest.raises(ConfigError, match=f"limit must be from 1 to 44,640 minutes, not {limit}"):
        await store.series(QUEUE, State.COMPLETED, limit=limit)
