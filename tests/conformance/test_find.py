"""Finding: jobs of a state, in their order, page by page while jobs come and go."""

from __future__ import annotations

import pytest

from conformance.given import (
    QUEUE,
    advance,
    claim_one,
    complete,
    found,
    given,
    given_active,
    given_completed,
    given_failed,
    given_flow,
    given_many,
    record_of,
    retry_after,
)
from toril.errors import ConfigError
from toril.model import JobRecord, JobRef, Page, Update
from toril.states import State
from toril.store import Store


def jobs_of(page: Page[JobRecord]) -> list[JobRef]:
    return [record.ref for record in page.items]


async def test_waiting_jobs_come_in_the_order_in_which_they_will_run(store: Store) -> None:
    first, second = await given_many(store, 2)
    lifo = await given(store, lifo=True)

    assert await found(store, State.WAITING) == [lifo, first, second]


async def test_prioritized_jobs_come_by_priority_and_then_in_turn(store: Store) -> None:
    low, high, also_high = [await given(store, priority=p) for p in (9, 1, 1)]

    assert await found(store, State.PRIORITIZED) == [high, also_high, low]


async def test_delayed_jobs_come_by_their_moment_and_then_in_turn(store: Store) -> None:
    late, early, also_early = [await given(store, delay=s) for s in (9, 1, 1)]

    assert await found(store, State.DELAYED) == [early, also_early, late]


async def test_finished_jobs_come_in_the_order_in_which_they_ended(store: Store) -> None:
    first, second, third = [await given_active(store) for _ in range(3)]
    for one in (second, third, first):
        await complete(store, one)
        await advance(store, 1)

    assert await found(store, State.COMPLETED) == [second.ref, third.ref, first.ref]


async def test_failed_jobs_come_in_the_order_in_which_they_ended(store: Store) -> None:
    jobs: list[JobRef] = []
    for _ in range(3):
        jobs.append(await given_failed(store))
        await advance(store, 1)

    assert await found(store, State.FAILED) == jobs


async def test_running_jobs_and_parents_are_found(store: Store) -> None:
    one = await given_active(store)
    parent, _ = await given_flow(store)

    assert await found(store, State.ACTIVE) == [one.ref]
    assert await found(store, State.WAITING_CHILDREN) == [parent]


@pytest.mark.parametrize("state", [State.WAITING, State.PRIORITIZED, State.DELAYED])
async def test_the_order_can_be_turned_round(store: Store, state: State) -> None:
    options = {State.WAITING: (0, 0), State.PRIORITIZED: (0, 4), State.DELAYED: (60, 0)}
    delay, priority = options[state]
    jobs = await given_many(store, 5, delay=delay, priority=priority)

    assert await found(store, state, newest_first=True) == jobs[::-1]


async def test_the_newest_finished_job_comes_first_when_asked(store: Store) -> None:
    jobs: list[JobRef] = []
    for _ in range(5):
        jobs.append(await given_completed(store))
        await advance(store, 1)

    assert await found(store, State.COMPLETED, newest_first=True) == jobs[::-1]


async def test_jobs_that_ended_in_the_same_millisecond_are_each_found_once(store: Store) -> None:
    jobs = [await given_completed(store) for _ in range(7)]

    assert sorted(await found(store, State.COMPLETED)) == sorted(jobs)


async def test_what_is_found_is_the_whole_record(store: Store) -> None:
    ref = await given(store, name="digest", data='{"n":1}', priority=3)

    page = await store.find(QUEUE, State.PRIORITIZED)

    assert page.items == (await record_of(store, ref),)
    assert page.next is None


async def test_a_state_without_jobs_is_an_empty_page(store: Store) -> None:
    assert await store.find(QUEUE, State.WAITING) == Page((), None)


async def test_jobs_of_other_queues_and_states_are_not_found(store: Store) -> None:
    await given(store, queue="images")
    await given(store, delay=60)

    assert await found(store, State.WAITING) == []


async def test_a_page_that_holds_all_has_no_next(store: Store) -> None:
    jobs = await given_many(store, 3)

    page = await store.find(QUEUE, State.WAITING, limit=3)

    assert jobs_of(page) == jobs
    assert page.next is None


@pytest.mark.parametrize("priority", [0, 5], ids=["waiting", "prioritized"])
async def test_a_list_stays_right_while_jobs_come_and_go(store: Store, priority: int) -> None:
    state = State.PRIORITIZED if priority else State.WAITING
    jobs = await given_many(store, 6, priority=priority)
    first = await store.find(QUEUE, state, limit=2)
    assert jobs_of(first) == jobs[:2]

    await complete(store, await claim_one(store))  # from the page that was seen
    await store.remove([jobs[1], jobs[3]])  # the very one where the page ended, and one ahead
    newer = await given(store, priority=priority)
    rest = await store.find(QUEUE, state, after=first.next, limit=10)

    assert jobs_of(rest) == [jobs[2], jobs[4], jobs[5], newer]


async def test_a_list_of_delayed_jobs_stays_right_while_jobs_come_and_go(store: Store) -> None:
    jobs = await given_many(store, 5, delay=60)
    first = await store.find(QUEUE, State.DELAYED, limit=2)

    await store.promote([jobs[1], jobs[2]])
    early, late = await given(store, delay=1), await given(store, delay=90)
    rest = await store.find(QUEUE, State.DELAYED, after=first.next, limit=10)

    assert jobs_of(rest) == [jobs[3], jobs[4], late]
    assert early in await found(store, State.DELAYED)


async def test_a_list_of_the_newest_stays_right_while_jobs_end(store: Store) -> None:
    jobs: list[JobRef] = []
    for _ in range(4):
        jobs.append(await given_completed(store))
        await advance(store, 1)
    first = await store.find(QUEUE, State.COMPLETED, limit=2, newest_first=True)
    assert jobs_of(first) == [jobs[3], jobs[2]]

    await given_completed(store)
    await store.remove([jobs[2]])
    rest = await store.find(QUEUE, State.COMPLETED, after=first.next, limit=10, newest_first=True)

    assert jobs_of(rest) == [jobs[1], jobs[0]]


async def test_a_job_put_back_is_found_where_it_will_run(store: Store) -> None:
    one = await given_active(store, attempts=2, backoff=0)
    other = await given(store)

    await retry_after(store, one)

    assert await found(store, State.WAITING) == [other, one.ref]


async def test_a_page_without_room_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match="limit must be at least 1, not 0"):
        await store.find(QUEUE, State.WAITING, limit=0)


@pytest.mark.parametrize("after", ["", "somewhere", "1:2", "[1]"])
async def test_a_page_behind_nothing_that_was_one_is_refused(store: Store, after: str) -> None:
    await given(store)

    with pytest.raises(ConfigError, match="is not where a page ended"):
        await store.find(QUEUE, State.WAITING, after=after)


async def test_a_page_that_has_gone_whole_does_not_hide_the_next(store: Store) -> None:
    jobs = await given_many(store, 5)
    first = await store.find(QUEUE, State.WAITING, limit=2)

    await store.remove(jobs[:2])
    rest = await store.find(QUEUE, State.WAITING, after=first.next)

    assert jobs_of(rest) == jobs[2:]


async def test_a_job_that_was_moved_to_the_end_does_not_hide_those_before(store: Store) -> None:
    jobs = await given_many(store, 5)
    first = await store.find(QUEUE, State.WAITING, limit=2)

    await store.update([Update(jobs[1], priority=0)])
    rest = await store.find(QUEUE, State.WAITING, after=first.next)

    assert jobs_of(rest) == [*jobs[2:], jobs[1]]
