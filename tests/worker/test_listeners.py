"""What is told in the worker that ran a job, and what a handler may ask of its queue from deep within."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from conformance import given
from conformance.given import soon
from toril import App, Context, Queue, QueueEvents, Throttle
from toril.events import Completed, Drained, Failed, FinalFailure, JobEvent, Retrying
from toril.states import State
from toril.store import Store
from worker.stage import (
    Gate,
    Heard,
    WatchedStore,
    at_work,
    clock_of,
    count,
    finished,
    handlers,
    quiet,
    running,
    told,
    turn,
)


@pytest.fixture
def app(store: Store) -> App:
    """An app whose jobs fail as often as their data says."""
    app = App(store=store, clock=store.clock, attempts=2, backoff=5)
    email = app.queue("email")

    @email.handler()
    async def welcome(ctx: Context, failures: int) -> str:
        if ctx.attempt <= failures:
            raise ValueError(f"failure {ctx.attempt}")
        return "sent"

    return app


# ------------------------------------------------------------------ AppQueue.on


async def test_what_becomes_of_a_job_is_told_where_it_ran(app: App, store: Store) -> None:
    email, heard = app.queues["email"], Heard()
    email.on(JobEvent)(heard)

    async with running(app.worker()):
        good = await email.add("welcome", {"failures": 0})
        assert await heard.next() == [Completed(good.ref, given.now_ms(store), "sent")]

        again = await email.add("welcome", {"failures": 1})
        assert await heard.next() == [Retrying(again.ref, given.now_ms(store), "failure 1", 1)]
        await turn(store, 5_000)
        assert await heard.next() == [Completed(again.ref, given.now_ms(store), "sent")]

        bad = await email.add("welcome", {"failures": 2}, attempts=1)
        assert await heard.next() == [FinalFailure(bad.ref, given.now_ms(store), "failure 1", 1)]
        assert heard.silent


@pytest.mark.claim("C-54")
@pytest.mark.parametrize(
    ("kind", "told_kinds"),
    [
        (Completed, [Completed]),
        (Retrying, [Retrying]),
        (FinalFailure, [FinalFailure]),
        (Failed, [Retrying, FinalFailure]),
        (JobEvent, [Completed, Retrying, FinalFailure]),
    ],
)
async def test_a_listener_is_told_of_the_kind_that_it_wants(
    app: App, store: Store, kind: type[JobEvent], told_kinds: list[type[JobEvent]]
) -> None:
    email, heard = app.queues["email"], Heard()
    email.on(kind)(heard)

    async with running(app.worker()):
        await finished(store, (await email.add("welcome", {"failures": 0})).ref)
        bad = await email.add("welcome", {"failures": 2})
        await told(store, "delayed", job_id=bad.id)
        await turn(store, 5_000)
        await finished(store, bad.ref)
        assert [type(event) for event in await heard.next(len(told_kinds))] == told_kinds

    assert heard.silent


async def test_a_slow_listener_is_told_of_things_in_the_order_in_which_they_happened(app: App, store: Store) -> None:
    email, heard, gate = app.queues["email"], Heard(), Gate()

    @email.on(JobEvent)
    async def slowly(event: JobEvent) -> None:
        if isinstance(event, Retrying):
            await gate.passed()
        heard(event)

    async with running(app.worker()):
        job = await email.add("welcome", {"failures": 1})
        await gate.arrivals()
        await turn(store, 5_000)
        await finished(store, job.ref)
        assert heard.silent
        gate.open()

        assert [type(event) for event in await heard.next(2)] == [Retrying, Completed]


async def test_listeners_are_called_in_the_order_in_which_they_were_declared(app: App) -> None:
    email, heard = app.queues["email"], Heard()
    called: list[str] = []

    @email.on(Completed)
    async def first(event: Completed) -> None:
        await asyncio.sleep(0)
        called.append("first")

    @email.on(Completed)
    def second(event: Completed) -> None:
        called.append("second")
        heard(event)

    async with running(app.worker()):
        await email.add("welcome", {"failures": 0})
        await heard.next()

    assert called == ["first", "second"]


async def test_a_listener_that_raises_harms_neither_the_job_nor_other_listeners(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    email, heard = app.queues["email"], Heard()

    @email.on(Completed)
    async def broken(event: Completed) -> None:
        raise ValueError("no line")

    email.on(Completed)(heard)

    async with running(app.worker()):
        job = await email.add("welcome", {"failures": 0})
        await heard.next()
        assert await soon(job.result()) == "sent"
        assert await soon(email.add_and_wait("welcome", {"failures": 0})) == "sent"

    assert f"a listener for Completed of {job.ref} failed" in caplog.messages


async def test_a_listener_that_is_slow_does_not_hold_back_the_worker(app: App) -> None:
    email, gate = app.queues["email"], Gate()

    @email.on(Completed)
    async def slow(event: Completed) -> None:
        await gate.passed()

    async with running(app.worker(concurrency=1)):
        for _ in range(3):
            assert await soon(email.add_and_wait("welcome", {"failures": 0})) == "sent"
        await gate.arrivals()
        gate.open()


async def test_a_listener_that_is_under_way_is_waited_for_when_the_worker_stops(app: App) -> None:
    email, gate = app.queues["email"], Gate()
    heard: list[JobEvent] = []

    @email.on(Completed)
    async def slow(event: Completed) -> None:
        await gate.passed()
        heard.append(event)

    worker = app.worker()
    async with running(worker) as run:
        await email.add("welcome", {"failures": 0})
        await gate.arrivals()
        worker.stop()
        gate.open()
        await soon(run)

    assert len(heard) == 1


async def test_an_outcome_is_told_only_once_it_is_recorded(app: App, store: Store, watched: WatchedStore) -> None:
    email, heard = app.queues["email"], Heard()
    email.on(Completed)(heard)
    recorded = watched.hold("settle")

    on_watched = App(store=watched.as_store, clock=store.clock)
    on_watched.queues["email"] = email
    async with running(on_watched.worker()):
        await email.add("welcome", {"failures": 0})
        await watched.until(lambda: len(watched.calls("settle")) == 1)
        await quiet(store)
        assert heard.silent

        recorded.set()
        assert len(await heard.next()) == 1


async def test_a_run_that_was_lost_is_not_told(app: App, store: Store) -> None:
    email, heard, gate = app.queues["email"], Heard(), Gate()
    email.on(JobEvent)(heard)

    @email.handler()
    async def slow() -> None:
        await gate.passed()

    async with running(app.worker()):
        job = await slow.add()
        await gate.arrivals()
        await store.pause("email")
        await store.obliterate("email", force=True)
        await store.resume("email")
        gate.open()
        await email.add_and_wait("welcome", {"failures": 0})
        [event] = await heard.next()

    assert event.job != job.ref


async def test_a_worker_tells_of_its_own_queue_only(app_on_two: App) -> None:
    email, images = app_on_two.queues["email"], app_on_two.queues["images"]
    heard = Heard()
    email.on(JobEvent)(heard)

    async with running(app_on_two.worker()):
        await soon(images.add_and_wait("work"))
        job = await email.add("work")
        assert [event.job for event in await heard.next()] == [job.ref]


@pytest.fixture
def app_on_two(store: Store) -> App:
    app = App(store=store, clock=store.clock)
    for name in ("email", "images"):

        @app.queue(name).catch_all
        async def work() -> None: ...

    return app


async def test_a_listener_stays_the_function_it_was(app: App) -> None:
    def listener(event: Completed) -> str:
        return "as it was"

    assert app.queues["email"].on(Completed)(listener) is listener


async def test_what_a_worker_does_is_told_to_other_processes(app: App, store: Store) -> None:
    email, heard = app.queues["email"], Heard()
    events = QueueEvents("email", store)
    events.on(JobEvent)(heard)

    async with events, running(app.worker()):
        job = await email.add("welcome", {"failures": 1})
        assert await heard.next() == [Retrying(job.ref, given.now_ms(store), "failure 1", 1)]
        await turn(store, 5_000)
        assert await heard.next(2) == [
            Completed(job.ref, given.now_ms(store), "sent"),
            Drained(type(job.ref)("email", ""), given.now_ms(store)),
        ]


# ------------------------------------------------------------------ a wish from deep within


class Api:
    """The other side, which asks for patience once."""

    def __init__(self) -> None:
        self.calls = 0

    def get(self) -> str:
        self.calls += 1
        return self._ask()

    def _ask(self) -> str:
        try:
            return self._answer()
        except Exception:  # what a careful caller does with errors; a wish is none
            return "swallowed"

    def _answer(self) -> str:
        if self.calls == 1:
            raise Throttle(30)
        return "answered"


def by_coroutine(api: Api) -> Callable[[], object]:
    async def ask() -> str:
        return api.get()

    return ask


def by_thread(api: Api) -> Callable[[], object]:
    def ask() -> str:
        return api.get()

    return ask


@pytest.mark.parametrize("made", [by_coroutine, by_thread])
async def test_a_throttle_that_is_raised_three_calls_deep_holds_back_the_whole_queue(
    queue: Queue, store: Store, made: Callable[[Api], Callable[[], object]]
) -> None:
    api = Api()
    async with at_work(store, handlers(made(api)), concurrency=1):
        first, second = await queue.add("ask"), await queue.add("ask")
        await told(store, "waiting", job_id=first.id, times=2)
        await turn(store, 29_999)
        assert (api.calls, await count(store, State.WAITING)) == (1, 2)

        await turn(store, 1)
        assert [await soon(job.result()) for job in (first, second)] == ["answered", "answered"]

    record = await first.record()
    assert (record.attempts_made, [attempt.outcome for attempt in record.history]) == (1, ["throttled", "completed"])
    assert clock_of(store).now_ms() == record.finished_at_ms
