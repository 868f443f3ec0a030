"""Adding jobs: what is stored, what is refused, and how often the store is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from conformance.given import soon
from toril import App, Backoff, Call, ConfigError, InvalidJob, Keep, PayloadTooLarge, Queue, QueueFull, StoreUnavailable
from toril.states import State
from toril.store import MAX_UNIT_JOBS, Store
from worker.stage import WatchedStore, clock_of


async def test_an_added_job_waits_with_its_data(queue: Queue, store: Store) -> None:
    job = await queue.add("welcome", {"name": "Ada"})

    record = await job.record()
    assert (record.ref, record.name, record.data) == (job.ref, "welcome", '{"name":"Ada"}')
    assert record.state is State.WAITING
    assert record.created_at_ms == clock_of(store).now_ms()
    assert (job.queue, job.store, job.duplicate) == ("email", "sqlite", False)


async def test_a_job_without_data_has_none(queue: Queue) -> None:
    assert (await (await queue.add("welcome")).record()).data == "null"


@pytest.mark.parametrize(
    ("options", "state"),
    [
        ({}, State.WAITING),
        ({"priority": 5}, State.PRIORITIZED),
        ({"delay": 10}, State.DELAYED),
        ({"delay": timedelta(hours=1), "priority": 5}, State.DELAYED),
    ],
)
async def test_options_say_where_a_job_begins(queue: Queue, options: Any, state: State) -> None:
    assert await (await queue.add("welcome", **options)).state() is state


async def test_what_cannot_be_a_job_is_refused_and_nothing_is_stored(queue: Queue) -> None:
    refused: list[tuple[Any, Any, dict[str, Any], type[Exception]]] = [
        ("", None, {}, InvalidJob),
        ("welcome", object(), {}, InvalidJob),
        ("welcome", float("nan"), {}, InvalidJob),
        ("welcome", "x" * 100, {"size_limit": 50}, PayloadTooLarge),
        ("welcome", None, {"job_id": "42"}, InvalidJob),
        ("welcome", None, {"priority": -1}, ConfigError),
        ("welcome", None, {"nonsense": 1}, ConfigError),
        (5, None, {}, InvalidJob),
        ("\ud800", None, {}, InvalidJob),
    ]
    for name, data, options, error in refused:
        with pytest.raises(error):
            await queue.add(name, data, **options)

    assert sum((await queue.counts()).values()) == 0


# ------------------------------------------------------------------ ids


async def test_a_drawn_id_comes_from_the_source_that_was_given(store: Store) -> None:
    ids = iter(["a", "b"])
    queue = Queue("email", store, ids=lambda: next(ids))

    assert [(await queue.add("welcome")).id for _ in range(2)] == ["a", "b"]


async def test_a_second_job_with_a_chosen_id_is_the_first(queue: Queue) -> None:
    first = await queue.add("welcome", {"n": 1}, job_id="ada")
    second = await queue.add("welcome", {"n": 2}, job_id="ada")

    assert (first.duplicate, second.duplicate) == (False, True)
    assert first.ref == second.ref
    assert (await second.record()).data == '{"n":1}'
    assert (await queue.counts())[State.WAITING] == 1


# ------------------------------------------------------------------ defaults


async def test_a_queues_defaults_hold_unless_an_add_says_otherwise(store: Store) -> None:
    queue = Queue("email", store, defaults={"attempts": 3, "priority": 7, "keep_completed": 5})

    plain = (await (await queue.add("welcome")).record()).options
    changed = (await (await queue.add("welcome", None, priority=1, keep_failed=False)).record()).options

    assert (plain.attempts, plain.priority, plain.keep_completed) == (3, 7, Keep(5))
    assert (changed.attempts, changed.priority, changed.keep_completed) == (3, 1, Keep(5))
    assert changed.keep_failed == Keep(0)


async def test_an_apps_defaults_hold_unless_its_queue_says_otherwise(app_on: Callable[..., App]) -> None:
    app = app_on(attempts=3, backoff=Backoff.fixed(1))
    email, images = app.queue("email", attempts=5), app.queue("images")

    five, three = (await (await email.add("a")).record()).options, (await (await images.add("a")).record()).options

    assert (five.attempts, three.attempts) == (5, 3)
    assert five.backoff == three.backoff == Backoff("fixed", 1000)


@pytest.mark.parametrize(
    ("defaults", "given", "attempts", "delay_ms"),
    [
        ({"attempts": 3}, {"retries": 0}, 1, 0),
        ({"retries": 4}, {"attempts": 2}, 2, 0),
        ({"delay": 10}, {"delay": 0}, 1, 0),
    ],
)
async def test_what_an_add_says_replaces_a_default_also_by_its_other_name(
    store: Store, defaults: Any, given: Any, attempts: int, delay_ms: int
) -> None:
    options = (await (await Queue("email", store, defaults=defaults).add("a", None, **given)).record()).options

    assert (options.attempts, options.delay_ms) == (attempts, delay_ms)


async def test_a_moment_replaces_a_default_delay(store: Store) -> None:
    moment = datetime.fromtimestamp(clock_of(store).now_ms() / 1000, UTC) + timedelta(hours=1)

    job = await Queue("email", store, defaults={"delay": 10}).add("a", None, at=moment)

    assert (await job.record()).due_at_ms == clock_of(store).now_ms() + 3_600_000


def test_defaults_that_cannot_be_are_refused_where_they_are_declared(store: Store) -> None:
    with pytest.raises(ConfigError, match="attempts must be a whole number"):
        Queue("email", store, defaults={"attempts": 0})


# ------------------------------------------------------------------ many at once


async def test_many_jobs_are_added_in_order(queue: Queue) -> None:
    jobs = await queue.add_many(
        [("a", 1), ("b", 2, {"job_id": "two"}), Call("c", 3, {"attempts": 4}), Call("d")],
    )

    found = (await queue.find("waiting")).items
    assert [record.ref for record in found] == [job.ref for job in jobs]
    assert [(record.name, record.data, record.options.attempts) for record in found] == [
        ("a", "1", 1),
        ("b", "2", 1),
        ("c", "3", 4),
        ("d", "null", 1),
    ]
    assert jobs[1].id == "two"


async def test_adding_none_asks_nobody(watched: WatchedStore) -> None:
    assert await Queue("email", watched.as_store).add_many([]) == []
    assert watched.asked == []


async def test_up_to_a_thousand_jobs_are_one_unit_and_more_are_cut_in_order(watched: WatchedStore) -> None:
    queue = Queue("email", watched.as_store)

    jobs = await queue.add_many(("a", n) for n in range(2 * MAX_UNIT_JOBS + 1))

    units = [unit for call in watched.calls("add") for unit in call.arguments[0]]
    assert [len(unit.jobs) for unit in units] == [1000, 1000, 1]
    assert [job.data for unit in units for job in unit.jobs] == [str(n) for n in range(2001)]
    assert [job.id for job in jobs] == [job.id for unit in units for job in unit.jobs]


async def test_a_unit_holds_at_most_four_mebibytes(watched: WatchedStore) -> None:
    queue = Queue("email", watched.as_store)

    await queue.add_many(("a", "x" * 1_000_000) for _ in range(9))

    units = [unit for call in watched.calls("add") for unit in call.arguments[0]]
    assert [len(unit.jobs) for unit in units] == [4, 4, 1]


async def test_an_atomic_add_of_more_than_a_unit_is_refused_whole(queue: Queue) -> None:
    with pytest.raises(InvalidJob, match=r"^1,001 jobs are more than one atomic unit holds \(1,000 jobs or 4 MiB\)"):
        await queue.add_many([("a", None)] * 1001, atomic=True)

    assert sum((await queue.counts()).values()) == 0
    assert len(await queue.add_many([("a", None)] * 1000, atomic=True)) == 1000


async def test_one_member_that_cannot_be_refuses_all(queue: Queue) -> None:
    with pytest.raises(InvalidJob):
        await queue.add_many([("a", 1), ("b", object()), ("c", 3)])

    assert sum((await queue.counts()).values()) == 0


@pytest.mark.parametrize("wrong", ["welcome", ("a",), ("a", 1, {}, 4), 5, None])
async def test_what_add_many_does_not_take_is_refused_with_what_it_does(queue: Queue, wrong: Any) -> None:
    with pytest.raises(InvalidJob, match=r"add_many takes calls, \(name, data\) or \(name, data, options\), not "):
        await queue.add_many([wrong])


# ------------------------------------------------------------------ a queue that is full


async def test_a_queue_that_is_full_refuses_with_the_next_step(app_on: Callable[..., App]) -> None:
    email = app_on().queue("email", max_waiting=2)
    await email.add("a")
    await email.add("a")

    with pytest.raises(QueueFull) as refused:
        await email.add("a")

    assert (refused.value.queue, refused.value.max_waiting) == ("email", 2)
    assert str(refused.value) == (
        "queue 'email' holds 2 waiting jobs and admits 2: add again later, add workers, or raise `max_waiting`"
    )
    assert (await email.counts())[State.WAITING] == 2


async def test_a_unit_that_would_overfill_a_queue_is_refused_whole(app_on: Callable[..., App]) -> None:
    email = app_on().queue("email", max_waiting=2)

    with pytest.raises(QueueFull):
        await email.add_many([("a", None)] * 3)

    assert sum((await email.counts()).values()) == 0


async def test_adds_that_come_together_obey_the_limit_from_the_first(app_on: Callable[..., App]) -> None:
    email = app_on().queue("email", max_waiting=3)

    answers = await asyncio.gather(*(email.add("a") for _ in range(20)), return_exceptions=True)

    assert sum(isinstance(answer, QueueFull) for answer in answers) == 17
    assert (await email.counts())[State.WAITING] == 3


async def test_the_limit_is_set_also_when_the_first_try_could_not_reach_the_store(watched: WatchedStore) -> None:
    email = App(store=watched.as_store, clock=watched.as_store.clock).queue("email", max_waiting=1)
    watched.fail("settings", "configure", "add")
    with pytest.raises(StoreUnavailable):
        await email.add("a")
    watched.mend()

    await email.add("a")
    with pytest.raises(QueueFull):
        await email.add("a")


async def test_a_limit_that_is_declared_keeps_what_else_is_set(app_on: Callable[..., App], queue: Queue) -> None:
    await queue.pause()

    await app_on().queue("email", max_waiting=9).add("a")

    settings = await queue.settings()
    assert (settings.paused, settings.max_waiting) == (True, 9)


# ------------------------------------------------------------------ adds that travel together


async def test_a_hundred_adds_at_once_leave_in_few_calls_and_in_order(watched: WatchedStore) -> None:
    queue = Queue("email", watched.as_store)

    jobs = await asyncio.gather(*(queue.add("a", n) for n in range(100)))

    assert len(watched.calls("add")) <= 3
    found = (await queue.find("waiting", limit=200)).items
    assert [record.ref for record in found] == [job.ref for job in jobs]
    assert [record.data for record in found] == [str(n) for n in range(100)]


async def test_an_add_that_stands_alone_leaves_at_once(watched: WatchedStore) -> None:
    queue = Queue("email", watched.as_store)
    held = watched.hold("add")

    adding = asyncio.ensure_future(queue.add("a"))
    for _ in range(3):
        await asyncio.sleep(0)

    assert len(watched.calls("add")) == 1
    held.set()
    await soon(adding)


async def test_one_callers_refusal_is_not_anothers(store: Store) -> None:
    app = App(store=store, clock=store.clock)
    full, free = app.queue("full", max_waiting=1), app.queue("free")
    await full.add("a")

    answers = await asyncio.gather(
        free.add("a", 1), full.add("b"), free.add("a", 2), full.add("b"), free.add("a", 3), return_exceptions=True
    )

    assert [type(answer).__name__ for answer in answers] == ["Job", "QueueFull", "Job", "QueueFull", "Job"]
    assert [record.data for record in (await free.find("waiting")).items] == ["1", "2", "3"]


async def test_one_callers_mistake_is_not_anothers(queue: Queue) -> None:
    answers = await asyncio.gather(
        queue.add("a", 1), queue.add("a\ud800", 2), queue.add("a", 3), return_exceptions=True
    )

    assert [type(answer).__name__ for answer in answers] == ["Job", "InvalidJob", "Job"]


async def test_a_caller_who_is_cancelled_does_not_take_the_others_along(watched: WatchedStore) -> None:
    queue = Queue("email", watched.as_store)
    held = watched.hold("add")
    adds = [asyncio.ensure_future(queue.add("a", n)) for n in range(5)]
    for _ in range(5):
        await asyncio.sleep(0)

    adds[0].cancel()
    adds[2].cancel()
    held.set()
    answers = await asyncio.gather(*adds, return_exceptions=True)

    assert [type(answer).__name__ for answer in answers] == ["CancelledError", "Job", "CancelledError", "Job", "Job"]
    last = await soon(queue.add("a", 5))
    assert await last.state() is State.WAITING
    stored = [record.data for record in (await queue.find("waiting")).items]
    assert [data for data in stored if data in ("1", "3", "4", "5")] == ["1", "3", "4", "5"]


async def test_an_outage_reaches_everyone_whose_job_was_under_way(watched: WatchedStore) -> None:
    queue = Queue("email", watched.as_store)
    watched.fail("add")

    answers = await asyncio.gather(*(queue.add("a", n) for n in range(5)), return_exceptions=True)

    assert [type(answer).__name__ for answer in answers] == ["StoreUnavailable"] * 5
    watched.mend()
    assert await (await queue.add("a")).state() is State.WAITING


async def test_a_flood_is_cut_into_flights_of_a_thousand(watched: WatchedStore) -> None:
    queue = Queue("email", watched.as_store)

    await asyncio.gather(*(queue.add("a", n) for n in range(2500)))

    flights = [sum(len(unit.jobs) for unit in call.arguments[0]) for call in watched.calls("add")]
    assert max(flights) <= 1000
    assert sum(flights) == 2500
    assert len(flights) <= 5
