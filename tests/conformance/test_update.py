"""Updating: what may be changed about a job without finishing it."""

from __future__ import annotations

from conformance.given import (
    advance,
    claim_all,
    claim_one,
    given,
    given_active,
    given_completed,
    given_many,
    now_ms,
    record_of,
    refs,
    retry_after,
    state_of,
    told,
)
from toril.model import Answer, JobRef, Report, Update
from toril.states import State
from toril.store import Store


async def update(store: Store, change: Update) -> Answer:
    [answer] = await store.update([change])
    return answer


async def test_data_is_changed(store: Store) -> None:
    ref = await given(store, data='{"n":1}')

    assert await update(store, Update(ref, data='{"n":2}')) is Answer.DONE

    assert (await record_of(store, ref)).data == '{"n":2}'
    assert (await claim_one(store)).data == '{"n":2}'


async def test_data_of_a_running_or_finished_job_is_changed(store: Store) -> None:
    done = await given_completed(store)
    running = await given_active(store)

    answers = await store.update([Update(done, data="1"), Update(running.ref, data="2")])

    assert answers == [Answer.DONE, Answer.DONE]
    assert (await record_of(store, done)).data == "1"
    assert (await record_of(store, running.ref)).data == "2"


async def test_what_is_left_unsaid_stays(store: Store) -> None:
    ref = await given(store, data='{"n":1}', delay=60, priority=3)
    before = await record_of(store, ref)

    assert await update(store, Update(ref)) is Answer.DONE

    assert await record_of(store, ref) == before


async def test_a_waiting_job_with_a_new_priority_is_prioritized(store: Store) -> None:
    first, second = await given_many(store, 2)
    rival = await given(store, priority=3)

    assert await update(store, Update(first, priority=2)) is Answer.DONE

    record = await record_of(store, first)
    assert (record.state, record.priority) == (State.PRIORITIZED, 2)
    assert refs(await claim_all(store)) == [second, first, rival]


async def test_a_prioritized_job_without_priority_waits_behind_the_others(store: Store) -> None:
    ref = await given(store, priority=3)
    waiting = await given(store)

    await update(store, Update(ref, priority=0))

    assert await state_of(store, ref) is State.WAITING
    assert refs(await claim_all(store)) == [waiting, ref]


async def test_a_changed_priority_goes_behind_its_equals(store: Store) -> None:
    ref, equal = await given(store, priority=1), await given(store, priority=5)

    await update(store, Update(ref, priority=5))

    assert refs(await claim_all(store)) == [equal, ref]


async def test_a_changed_priority_may_go_in_front_of_its_equals(store: Store) -> None:
    equal, ref = await given(store, priority=5), await given(store, priority=9)

    await update(store, Update(ref, priority=5, lifo=True))

    assert refs(await claim_all(store)) == [ref, equal]


async def test_a_job_without_priority_may_go_in_front(store: Store) -> None:
    waiting, ref = await given(store), await given(store, priority=9)

    await update(store, Update(ref, priority=0, lifo=True))

    assert refs(await claim_all(store)) == [ref, waiting]


async def test_the_priority_of_a_delayed_job_counts_when_it_is_due(store: Store) -> None:
    ref, rival = await given(store, delay=5), await given(store, priority=3)

    assert await update(store, Update(ref, priority=1)) is Answer.DONE
    assert await state_of(store, ref) is State.DELAYED
    await advance(store, 5_000)

    assert refs(await claim_all(store)) == [ref, rival]


async def test_the_delay_of_a_delayed_job_counts_anew_from_now(store: Store) -> None:
    ref = await given(store, delay=60)
    await advance(store, 30_000)

    assert await update(store, Update(ref, delay_ms=50_000)) is Answer.DONE

    record = await record_of(store, ref)
    assert record.state is State.DELAYED
    assert record.due_at_ms == now_ms(store) + 50_000


async def test_a_job_that_is_not_delayed_has_no_delay_to_change(store: Store) -> None:
    ref = await given(store)

    assert await update(store, Update(ref, delay_ms=50_000)) is Answer.WRONG_STATE

    assert await state_of(store, ref) is State.WAITING


async def test_progress_is_changed_by_hand(store: Store) -> None:
    ref = await given(store)

    await update(store, Update(ref, progress='{"done":40}'))

    assert (await record_of(store, ref)).progress == '{"done":40}'


async def test_lines_are_appended_to_the_log_by_hand(store: Store) -> None:
    one = await given_active(store)
    await store.report([Report(one, logs=("by the worker",))])

    await update(store, Update(one.ref, logs=("by hand", "and again")))

    assert (await store.logs(one.ref)).lines == ("by the worker", "by hand", "and again")


async def test_a_log_is_cleared(store: Store) -> None:
    ref = await given(store)
    await update(store, Update(ref, logs=("one", "two", "three")))

    await update(store, Update(ref, clear_logs=0))

    page = await store.logs(ref)
    assert (page.lines, page.total) == ((), 0)


async def test_a_log_is_cleared_but_for_its_last_lines(store: Store) -> None:
    ref = await given(store)
    await update(store, Update(ref, logs=("one", "two", "three")))

    await update(store, Update(ref, clear_logs=2))

    assert (await store.logs(ref)).lines == ("two", "three")


async def test_update_answers_for_each_job(store: Store) -> None:
    delayed, waiting = await given(store, delay=60), await given(store)

    answers = await store.update(
        [
            Update(waiting, delay_ms=1_000),
            Update(JobRef("email", "nobody"), data="1"),
            Update(delayed, delay_ms=1_000),
        ]
    )

    assert answers == [Answer.WRONG_STATE, Answer.MISSING, Answer.DONE]


async def test_a_new_delay_and_new_progress_are_told_and_the_rest_is_not(store: Store) -> None:
    ref, other = await given(store, delay=60), await given(store)
    before = len(await told(store))

    await update(store, Update(ref, delay_ms=5_000))
    await update(store, Update(ref, progress="1"))
    await update(store, Update(other, data="2", priority=5, logs=("line",)))

    assert (await told(store))[before:] == [
        ("delayed", {"due_at_ms": str(now_ms(store) + 5_000)}),
        ("progress", {"data": "1"}),
    ]


async def test_the_priority_of_a_running_job_counts_when_it_waits_again(store: Store) -> None:
    one = await given_active(store, attempts=2, backoff=0)
    assert await update(store, Update(one.ref, priority=5)) is Answer.DONE

    await retry_after(store, one)

    record = await record_of(store, one.ref)
    assert (record.state, record.priority) == (State.PRIORITIZED, 5)


async def test_a_log_that_is_cleared_and_written_at_once_has_the_new_lines(store: Store) -> None:
    ref = await given(store)
    await update(store, Update(ref, logs=("one", "two")))

    await update(store, Update(ref, clear_logs=1, logs=("three",)))

    assert (await store.logs(ref)).lines == ("two", "three")


async def test_many_jobs_are_changed_at_once_each_in_its_way(store: Store) -> None:
    first, second = await given_many(store, 2)

    await store.update([Update(second, priority=1, logs=("moved",)), Update(first, data="1")])

    assert [(record.state, record.data) for record in [await record_of(store, ref) for ref in (first, second)]] == [
        (State.WAITING, "1"),
        (State.PRIORITIZED, "{}"),
    ]
    assert ((await store.logs(first)).lines, (await store.logs(second)).lines) == ((), ("moved",))
