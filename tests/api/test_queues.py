"""A queue: looking through it, changing it, and hearing what happens in it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conformance.given import soon
from toril import Event, Queue, QueueBusy, QueueNotPaused, QueueSettings
from toril.errors import ConfigError
from toril.model import Completed, Failed, Settlement, Slots, Wanted
from toril.states import State
from toril.store import Store
from worker.stage import at_work, clock_of, no_work, quiet

_tokens = iter(range(1_000_000))


async def settled(store: Store, outcome: Completed | Failed, times: int = 1) -> None:
    """Let the next so many jobs end."""
    wanted = Wanted("hand", f"hand:{next(_tokens)}", 30_000, (Slots("email", times),))
    claims = (await store.claim(wanted)).claims
    assert len(claims) == times
    await store.settle([Settlement(claim, outcome) for claim in claims])


async def test_counts_are_by_state(queue: Queue, store: Store) -> None:
    await queue.add_many([("a", None)] * 4)
    await queue.add("a", delay=60)
    await settled(store, Completed())
    await settled(store, Failed("no"))

    counts = await queue.counts()

    assert {state: count for state, count in counts.items() if count} == {
        State.WAITING: 2,
        State.DELAYED: 1,
        State.COMPLETED: 1,
        State.FAILED: 1,
    }
    assert (await queue.summary()).name == "email"


async def test_a_page_says_where_the_next_begins(queue: Queue) -> None:
    jobs = await queue.add_many([("a", n) for n in range(7)])

    first = await queue.find("waiting", limit=3)
    second = await queue.find(State.WAITING, limit=3, after=first.next)
    third = await queue.find("waiting", limit=3, after=second.next)

    pages = [[record.ref for record in page.items] for page in (first, second, third)]
    assert pages == [[job.ref for job in jobs[n : n + 3]] for n in (0, 3, 6)]
    assert third.next is None


async def test_a_page_may_begin_with_the_newest(queue: Queue) -> None:
    jobs = await queue.add_many([("a", n) for n in range(4)])

    page = await queue.find("waiting", limit=2, newest_first=True)

    assert [record.ref for record in page.items] == [jobs[3].ref, jobs[2].ref]


async def test_all_jobs_of_a_state_may_be_gone_through(queue: Queue) -> None:
    jobs = await queue.add_many([("a", n) for n in range(1201)])

    assert [record.ref async for record in queue.iterate("waiting")] == [job.ref for job in jobs]
    assert [record async for record in queue.iterate("failed")] == []


async def test_going_through_jobs_bears_that_they_come_and_go(queue: Queue) -> None:
    jobs = await queue.add_many([("a", n) for n in range(1100)])
    seen: list[Any] = []

    async for record in queue.iterate("waiting"):
        if len(seen) == 100:
            for job in jobs[:50]:
                await job.remove()
            await queue.add("late")
        seen.append(record.ref)

    assert seen[:1100] == [job.ref for job in jobs]
    assert len(seen) == len(set(seen)) == 1101


@pytest.mark.parametrize("state", ["paused", "wait", "", None])
async def test_a_state_that_is_none_is_refused(queue: Queue, state: Any) -> None:
    with pytest.raises(ValueError, match="is not a valid State"):
        await queue.find(state)


# ------------------------------------------------------------------ changing many


async def test_all_failed_jobs_may_be_run_again(queue: Queue, store: Store) -> None:
    await queue.add_many([("a", n) for n in range(1100)])
    for _ in range(2):
        await settled(store, Failed("no"), 550)

    assert await queue.retry_all() == 1100
    assert (await queue.counts())[State.WAITING] == 1100
    assert await queue.retry_all() == 0


async def test_all_completed_jobs_may_be_run_again(queue: Queue, store: Store) -> None:
    await queue.add_many([("a", None)] * 3)
    await settled(store, Completed(), 3)

    assert await queue.retry_all("completed", reset_attempts=True) == 3
    assert [record.attempts_made async for record in queue.iterate("waiting")] == [0, 0, 0]


async def test_all_delayed_jobs_may_be_promoted(queue: Queue) -> None:
    await queue.add_many([("a", n, {"delay": 60}) for n in range(600)])

    assert await queue.promote_all() == 600
    assert (await queue.counts())[State.WAITING] == 600


async def test_draining_removes_what_waits_and_delayed_jobs_when_asked(queue: Queue) -> None:
    await queue.add_many([("a", None)] * 3)
    await queue.add("a", priority=2)
    await queue.add("a", delay=60)

    assert await queue.drain() == 4
    assert (await queue.counts())[State.DELAYED] == 1
    assert await queue.drain(delayed=True) == 1


async def test_cleaning_removes_what_is_old(queue: Queue, store: Store) -> None:
    await queue.add_many([("a", None)] * 4)
    await settled(store, Completed(), 2)
    clock_of(store).advance(60_000)
    await settled(store, Completed(), 2)
    clock_of(store).advance(1)

    assert await queue.clean("completed", older_than=60) == 2
    assert await queue.clean("completed", limit=1) == 1
    assert await queue.clean("completed") == 1
    assert await queue.clean("completed") == 0


async def test_cleaning_more_than_a_page_removes_them_all(queue: Queue, store: Store) -> None:
    await queue.add_many([("a", None)] * 2500)

    clock_of(store).advance(1)
    assert await queue.clean("waiting") == 2500


async def test_only_a_paused_queue_without_running_jobs_is_obliterated_unless_forced(
    queue: Queue, store: Store
) -> None:
    await queue.add_many([("a", None)] * 3)
    with pytest.raises(QueueNotPaused):
        await queue.obliterate()
    await store.claim(Wanted("hand", "hand:o", 30_000, (Slots("email", 1),)))
    await queue.pause()
    with pytest.raises(QueueBusy):
        await queue.obliterate()

    assert await queue.obliterate(force=True) == 3
    assert sum((await queue.counts()).values()) == 0


async def test_settings_are_read_and_set(queue: Queue) -> None:
    assert await queue.settings() == QueueSettings()

    await queue.configure(QueueSettings(concurrency=3, max_waiting=10))
    await queue.pause()
    settings = await queue.settings()
    assert (settings.paused, settings.concurrency, settings.max_waiting) == (True, 3, 10)

    await queue.resume()
    assert not (await queue.settings()).paused


async def test_a_queue_may_rest_for_a_while(queue: Queue, store: Store) -> None:
    await queue.throttle(30)
    assert (await queue.settings()).limited_until_ms == clock_of(store).now_ms() + 30_000

    await queue.throttle(0)
    assert (await queue.settings()).limited_until_ms is None
    with pytest.raises(ConfigError):
        await queue.throttle(-1)


async def test_the_workers_of_a_queue_are_seen(queue: Queue, store: Store) -> None:
    async with at_work(store, no_work, name="ada"):
        await quiet(store)
        assert [worker.name for worker in await queue.workers()] == ["ada"]
        assert await Queue("images", store).workers() == []
    assert await queue.workers() == []


# ------------------------------------------------------------------ events


async def heard(queue: Queue, times: int, after: str | None = None) -> list[Event]:
    events: list[Event] = []
    async for event in queue.events(after):
        events.append(event)
        if len(events) == times:
            break
    return events


async def test_events_are_heard_from_now_on(queue: Queue, store: Store) -> None:
    await queue.add("before")
    hearing = asyncio.ensure_future(heard(queue, 2))
    await quiet(store)

    job = await queue.add("after")

    events = await soon(hearing)
    assert [(event.name, event.job_id) for event in events] == [("added", job.id), ("waiting", job.id)]


async def test_a_reader_that_resumes_misses_nothing(queue: Queue, store: Store) -> None:
    await queue.add("a")
    first = await soon(heard(queue, 1, after="0"))
    await queue.add("b")
    await settled(store, Completed(), 2)

    everything = await soon(heard(queue, 8, after="0"))
    rest = await soon(heard(queue, 7, after=first[-1].id))

    assert first + rest == everything
    assert [event.id for event in everything] == sorted((event.id for event in everything), key=int)


async def test_hearing_ends_when_it_was_to_end(queue: Queue, store: Store) -> None:
    until_ms = clock_of(store).now_ms() + 5_000

    async def listen() -> list[str]:
        return [event.name async for event in queue.events(until_ms=until_ms)]

    hearing = asyncio.ensure_future(listen())
    await quiet(store)
    await queue.add("a")
    await quiet(store)
    clock_of(store).advance(5_000)

    assert await soon(hearing) == ["added", "waiting"]


async def test_silence_of_hours_does_not_end_the_hearing(queue: Queue, store: Store) -> None:
    hearing = asyncio.ensure_future(heard(queue, 1))
    for _ in range(4):
        await quiet(store)
        clock_of(store).advance(3_600_000)
    await quiet(store)

    await queue.add("a")

    assert [event.name for event in await soon(hearing)] == ["added"]
