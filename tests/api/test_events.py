"""What happens to jobs, told anywhere; results that are waited for; and what holds adds and runs back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from conformance import given
from conformance.given import soon
from toril import App, ConfigError, Context, JobFailed, Queue, QueueEvents, RateLimit, ResultTimeout, TooManyAdds
from toril.events import Completed, Drained, Failed, FinalFailure, JobEvent, Progress, Retrying, Stalled
from toril.model import Delayed, Released, Report
from toril.states import State
from toril.store import Store
from worker.stage import Heard, WatchedStore, at_work, clock_of, count, quiet, told, turn

# ------------------------------------------------------------------ told anywhere


@contextlib.asynccontextmanager
async def listening(store: Store, *kinds: type[JobEvent], after: str | None = None) -> AsyncGenerator[Heard]:
    """A reader of the queue's events, as another process would have it."""
    heard, events = Heard(), QueueEvents("email", store, after=after)
    for kind in kinds or (JobEvent,):
        events.on(kind)(heard)
    async with events:
        yield heard


async def test_every_kind_of_event_is_told_typed_and_in_order(queue: Queue, store: Store) -> None:
    begun_at_ms = given.now_ms(store)
    async with listening(store) as heard:
        good, bad = await queue.add("good"), await queue.add("bad", attempts=2)
        one, other = await given.claim_all(store)
        await store.report([Report(one, '{"done":1}')])
        await given.complete(store, one, '{"sent":true}')
        await given.retry_after(store, other, 5_000, reason="no line")
        await given.advance(store, 5_000)
        await given.fail(store, await given.claim_one(store), "no line again")

        assert await heard.next(5) == [
            Progress(good.ref, begun_at_ms, {"done": 1}),
            Completed(good.ref, begun_at_ms, {"sent": True}),
            Retrying(bad.ref, begun_at_ms, "no line", 1),
            FinalFailure(bad.ref, begun_at_ms + 5_000, "no line again", 2),
            Drained(replace(bad.ref, id=""), begun_at_ms + 5_000),
        ]
        assert heard.silent


async def test_a_job_that_stalls_is_told(queue: Queue, store: Store) -> None:
    async with listening(store, Stalled) as heard:
        job = await queue.add("welcome")
        await given.claim_one(store)
        await given.stall(store)

        assert await heard.next() == [Stalled(job.ref, given.now_ms(store))]


async def test_who_wants_failures_is_told_of_both_kinds(queue: Queue, store: Store) -> None:
    async with listening(store, Failed) as heard:
        await queue.add("bad", attempts=2)
        await given.retry_after(store, await given.claim_one(store), reason="first")
        await given.fail(store, await given.claim_one(store), "second")

        assert [(type(event), event.reason) for event in await heard.next(2) if isinstance(event, Failed)] == [
            (Retrying, "first"),
            (FinalFailure, "second"),
        ]


async def test_a_retry_is_told_though_the_job_has_gone_on_since(queue: Queue, store: Store) -> None:
    after = await store.last_event("email")
    job = await queue.add("bad", attempts=9)
    for attempt in range(1, 4):
        await given.retry_after(store, await given.claim_one(store), 1_000, reason=f"failure {attempt}")
        await given.advance(store, 1_000)
    await given.complete(store, await given.claim_one(store))

    async with listening(store, Retrying, after=after) as heard:
        told = await heard.next(3)

    assert [(event.job, event.reason, event.attempt) for event in told if isinstance(event, Retrying)] == [
        (job.ref, "failure 1", 1),
        (job.ref, "failure 2", 2),
        (job.ref, "failure 3", 3),
    ]


async def test_what_is_put_back_for_other_reasons_is_no_retry(queue: Queue, store: Store) -> None:
    async with listening(store, Failed, Completed) as heard:
        await queue.add("welcome", delay=5)
        await given.advance(store, 5_000)
        wished = await given.claim_one(store)
        await given.settle(store, wished, Delayed(given.now_ms(store) + 5_000))
        await given.advance(store, 5_000)
        await given.settle(store, await given.claim_one(store), Released())
        await given.complete(store, await given.claim_one(store))

        assert [type(event) for event in await heard.next()] == [Completed]
        assert heard.silent


async def test_a_result_that_is_no_json_is_told_as_it_is(queue: Queue, store: Store) -> None:
    """Somebody else may have written it."""
    async with listening(store, Progress) as heard:
        await queue.add("welcome")
        await store.report([Report(await given.claim_one(store), "{half")])

        [event] = await heard.next()
        assert isinstance(event, Progress)
        assert event.value == "{half"


async def test_a_listener_that_raises_harms_nobody(
    queue: Queue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    events, heard = QueueEvents("email", store), Heard()

    @events.on(Completed)
    def broken(event: Completed) -> None:
        raise ValueError("no line")

    @events.on(Completed)
    async def sound(event: Completed) -> None:
        heard(event)

    async with events:
        job = await queue.add("welcome")
        await queue.add("welcome")
        for one in await given.claim_all(store):
            await given.complete(store, one)
        assert len(await heard.next(2)) == 2

    assert caplog.messages[0] == f"a listener for Completed of {job.ref} failed"


async def test_a_listener_stays_the_function_it_was(store: Store) -> None:
    def listener(event: Completed) -> str:
        return "as it was"

    assert QueueEvents("email", store).on(Completed)(listener) is listener


async def test_events_can_be_gone_through_one_by_one_from_where_a_reader_stopped(queue: Queue, store: Store) -> None:
    after = await store.last_event("email")
    jobs = [await queue.add("welcome") for _ in range(2)]
    for one in await given.claim_all(store):
        await given.complete(store, one)

    seen: list[JobEvent] = []
    async for event in QueueEvents("email", store, after=after):
        seen.append(event)
        if isinstance(event, Drained):
            break

    assert [event.job for event in seen if isinstance(event, Completed)] == [job.ref for job in jobs]


async def test_a_reader_hears_nothing_of_before_and_nothing_of_other_queues(queue: Queue, store: Store) -> None:
    await queue.add("welcome")
    await given.complete(store, await given.claim_one(store))

    async with listening(store, Completed) as heard:
        await given.given(store, queue="images")
        await given.complete(store, await given.claim_one(store, "images"))
        mine = await queue.add("welcome")
        await given.complete(store, await given.claim_one(store))

        assert [event.job for event in await heard.next()] == [mine.ref]


async def test_a_reader_waits_out_an_outage_and_misses_nothing(
    queue: Queue, store: Store, watched: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(watched.as_store, Completed) as heard:
        watched.fail("read")
        job = await queue.add("welcome")
        await given.complete(store, await given.claim_one(store))
        await watched.until_refused("read")

        watched.mend()
        await turn(store, 1_000)

        assert [event.job for event in await heard.next()] == [job.ref]
    assert caplog.messages == ["events of queue email cannot be read, trying again: the line is cut"]


# ------------------------------------------------------------------ add and wait


async def test_what_a_handler_returns_can_be_waited_for_with_the_add(queue: Queue, store: Store) -> None:
    async def work(ctx: Context) -> int:
        return ctx.data["n"] * 2 if ctx.name == "double" else int("no number")

    async with at_work(store, work):
        assert await soon(queue.add_and_wait("double", {"n": 4})) == 8
        with pytest.raises(JobFailed, match="no number"):
            await soon(queue.add_and_wait("other"))


async def test_an_add_waits_no_longer_than_it_is_told(queue: Queue, store: Store) -> None:
    waiting = asyncio.ensure_future(queue.add_and_wait("welcome", timeout=5, priority=2))
    await quiet(store)
    await turn(store, 5_000)

    with pytest.raises(ResultTimeout):
        await soon(waiting)
    assert await count(store, State.PRIORITIZED) == 1


# ------------------------------------------------------------------ how many may be added


async def test_more_adds_than_a_process_may_make_are_refused_until_there_is_room(store: Store) -> None:
    queue = Queue("email", store, max_adds=RateLimit(2, per=10))
    for _ in range(2):
        await queue.add("welcome")

    with pytest.raises(TooManyAdds) as refused:
        await queue.add("welcome")
    assert (refused.value.queue, refused.value.retry_after) == ("email", 5)
    assert str(refused.value) == (
        "queue 'email' takes 2 jobs per 10 s from one process: add again in 5 s, or raise `max_adds`"
    )

    clock_of(store).advance(4_999)
    with pytest.raises(TooManyAdds):
        await queue.add("welcome")
    clock_of(store).advance(1)
    await queue.add("welcome")
    assert await count(store, State.WAITING) == 3


async def test_room_gathers_up_to_the_limit_and_no_further(store: Store) -> None:
    queue = Queue("email", store, max_adds=RateLimit(2, per=10))
    clock_of(store).advance(3_600_000)

    await queue.add_many([("welcome", 1), ("welcome", 2)])

    with pytest.raises(TooManyAdds):
        await queue.add("welcome")


async def test_more_jobs_at_once_than_the_limit_are_let_through_when_there_is_all_the_room(store: Store) -> None:
    queue = Queue("email", store, max_adds=RateLimit(2, per=10))

    await queue.add_many([("welcome", n) for n in range(5)])
    with pytest.raises(TooManyAdds) as refused:
        await queue.add_many([("welcome", n) for n in range(5)])

    assert refused.value.retry_after == 25  # what they took beyond the limit is waited for, too
    assert await count(store, State.WAITING) == 5


async def test_an_add_that_cannot_be_a_job_takes_no_room(store: Store) -> None:
    queue = Queue("email", store, max_adds=RateLimit(1, per=10))
    with pytest.raises(ValueError, match="priority"):
        await queue.add("welcome", priority=-1)

    await queue.add("welcome")


async def test_an_app_declares_how_many_adds_a_process_may_make(app_on: Callable[..., App]) -> None:
    email = app_on().queue("email", max_adds=RateLimit(1, per=10))

    @email.handler()
    async def welcome() -> None: ...

    await welcome.add()
    with pytest.raises(TooManyAdds):
        await welcome.add()


# ------------------------------------------------------------------ limits at run time


async def test_a_rate_that_is_set_while_workers_run_holds_them_back(queue: Queue, store: Store) -> None:
    async def work(ctx: Context) -> None: ...

    async with at_work(store, work):
        await queue.limit(rate=RateLimit(2, per=60))
        await queue.add_many([("welcome", {"n": n}) for n in range(5)])
        await told(store, "completed", times=2)
        await quiet(store)
        assert await count(store, State.COMPLETED) == 2

        await turn(store, 60_000)
        await told(store, "completed", times=4)
        assert await count(store, State.COMPLETED) == 4

        await queue.limit()
        await told(store, "completed", times=5)
    assert (await queue.settings()).rate_limit is None


async def test_a_limit_leaves_other_settings_as_they_are(queue: Queue) -> None:
    await queue.configure(replace(await queue.settings(), max_waiting=7))

    await queue.limit(concurrency=3)

    settings = await queue.settings()
    assert (settings.max_waiting, settings.concurrency, settings.rate_limit) == (7, 3, None)


@pytest.mark.parametrize("kind", ["failed", int, None])
def test_what_is_no_kind_of_event_is_refused(store: Store, kind: Any) -> None:
    with pytest.raises(ConfigError, match=r"^events are told by a class of toril.events, such as FinalFailure, not by"):
        QueueEvents("email", store).on(kind)


@pytest.mark.parametrize("kind", [Progress, Stalled, Drained])
def test_a_worker_tells_only_what_becomes_of_its_jobs(store: Store, kind: Any) -> None:
    with pytest.raises(
        ConfigError, match=rf"^{kind.__name__} is not known where jobs run: QueueEvents\('email', store\)"
    ):
        App(store=store).queue("email").on(kind)


def test_events_are_read_from_a_store() -> None:
    with pytest.raises(ConfigError, match=r"^QueueEvents reads a store"):
        QueueEvents("email", cast("Store", "sqlite:///jobs.db"))


async def test_a_job_that_is_added_with_a_delay_is_not_retrying(store: Store) -> None:
    queue = Queue("email", store)
    async with listening(store, Retrying) as heard:
        job = await queue.add("welcome", delay=60, attempts=2)
        await job.change_delay(30)
        clock_of(store).advance(30_000)
        claimed = await given.claim_one(store)
        await given.retry_after(store, claimed, 1_000, "no line")

        (event,) = await heard.next()
        assert (event.job, heard.silent) == (job.ref, True)
