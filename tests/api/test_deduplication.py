"""At most one job per id, or per window: what an add that meets another is told, and how long that lasts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta

import pytest

from conformance import given
from conformance.given import soon
from toril import App, Call, ConfigError, Deduplication, Job, Queue
from toril.model import JobRef
from toril.options import HOUR_MS, MINUTE_MS, JobOptions
from toril.states import State
from toril.store import Store
from worker.stage import Gate, at_work, handlers, known, told


async def add(queue: Queue, rule: Deduplication | str, data: object = None, *, delay: float = 0) -> Job[object]:
    return await queue.add("welcome", data, deduplication=rule, delay=delay)


async def run_all(store: Store) -> None:
    """Complete whatever waits."""
    for one in await given.claim_all(store):
        await given.complete(store, one)


def told_of(job: Job[object]) -> tuple[str, bool, str | None]:
    """What an add was told: the job that stands, whether that was there already, and by which rule."""
    return job.id, job.duplicate, job.rule


@pytest.fixture
def queue(store: Store) -> Queue:
    """A queue whose jobs are called 1, 2, 3."""
    return Queue("email", store, ids=map(str, itertools.count(1)).__next__)


# ------------------------------------------------------------------ simple


@pytest.mark.parametrize("rule", ["ada", Deduplication.simple("ada")])
async def test_no_second_job_until_the_first_has_ended(queue: Queue, store: Store, rule: Deduplication | str) -> None:
    first = await add(queue, rule)

    assert told_of(first) == ("1", False, None)
    assert told_of(await add(queue, rule)) == ("1", True, "simple")
    active = await given.claim_one(store)
    assert told_of(await add(queue, rule)) == ("1", True, "simple")
    await given.complete(store, active)
    assert told_of(await add(queue, rule)) == ("4", False, None)


async def test_a_job_that_has_failed_is_no_hindrance(queue: Queue, store: Store) -> None:
    await add(queue, "ada")
    await given.fail(store, await given.claim_one(store))

    assert not (await add(queue, "ada")).duplicate


async def test_a_job_that_is_tried_again_is_one(queue: Queue, store: Store) -> None:
    await queue.add("welcome", deduplication="ada", attempts=2)
    await given.retry_after(store, await given.claim_one(store), 60_000)

    assert told_of(await add(queue, "ada")) == ("1", True, "simple")


async def test_others_are_not_affected(queue: Queue, store: Store) -> None:
    await add(queue, "ada")

    assert not (await add(queue, "bob")).duplicate
    assert not (await add(Queue("images", store), "ada")).duplicate
    assert not (await queue.add("welcome")).duplicate


async def test_the_duplicate_is_a_handle_to_the_job_that_stands(queue: Queue, store: Store) -> None:
    await add(queue, "ada", {"n": 1})

    async def welcome(n: int) -> int:
        return n

    duplicate = await add(queue, "ada", {"n": 2})

    async with at_work(store, handlers(welcome)):
        assert await soon(duplicate.result()) == 1


# ------------------------------------------------------------------ throttle


async def test_no_second_job_within_a_time_whatever_becomes_of_the_first(queue: Queue, store: Store) -> None:
    rule = Deduplication.throttle("ada", 60)
    await add(queue, rule)
    await run_all(store)

    await given.advance(store, 59_999)
    assert told_of(await add(queue, rule)) == ("1", True, "throttle")
    await given.advance(store, 1)
    assert told_of(await add(queue, rule)) == ("3", False, None)


async def test_a_time_that_is_extended_begins_anew_with_each_add(queue: Queue, store: Store) -> None:
    rule = Deduplication.throttle("ada", timedelta(minutes=1), extend=True)
    await add(queue, rule)

    for _ in range(3):
        await given.advance(store, 40_000)
        assert told_of(await add(queue, rule)) == ("1", True, "throttle")
    await given.advance(store, 60_000)
    assert not (await add(queue, rule)).duplicate


# ------------------------------------------------------------------ debounce


async def test_the_last_of_several_adds_wins(queue: Queue, store: Store) -> None:
    rule = Deduplication.debounce("ada", 5)
    first = await add(queue, rule, {"n": 1}, delay=5)
    await given.advance(store, 3_000)

    second = await add(queue, rule, {"n": 2}, delay=5)

    assert told_of(second) == ("2", False, "debounce")
    assert await queue.get(first.id) is None
    assert (await second.record()).due_at_ms == given.now_ms(store) + 5_000
    await given.advance(store, 5_000)
    assert [one.data for one in await given.claim_all(store)] == ['{"n":2}']


async def test_a_job_that_runs_is_not_replaced(queue: Queue, store: Store) -> None:
    rule = Deduplication.debounce("ada")
    await add(queue, rule, delay=5)
    await given.advance(store, 5_000)
    active = await given.claim_one(store)

    assert told_of(await add(queue, rule, delay=5)) == ("1", True, "debounce")
    await given.complete(store, active)
    assert told_of(await add(queue, rule, delay=5)) == ("3", False, None)


# ------------------------------------------------------------------ keep the last


async def test_the_last_of_those_added_while_one_runs_is_added_when_that_has_ended(queue: Queue, store: Store) -> None:
    gate = Gate()
    rule = Deduplication.keep_last("ada")
    ran: list[int] = []

    async def welcome(n: int) -> None:
        ran.append(n)
        if n == 1:
            await gate.passed()

    async with at_work(store, handlers(welcome)):
        await add(queue, rule, {"n": 1})
        await gate.arrivals()
        told_twice = [told_of(await add(queue, rule, {"n": n})) for n in (2, 3)]
        gate.open()
        await told(store, "completed", times=2)

    assert told_twice == [("1", True, "keep-last"), ("1", True, "keep-last")]
    assert ran == [1, 3]
    assert (await known(store, JobRef("email", "3"))).state is State.COMPLETED


async def test_one_that_waits_is_enough(queue: Queue, store: Store) -> None:
    rule = Deduplication.keep_last("ada")
    await add(queue, rule, {"n": 1})
    assert told_of(await add(queue, rule, {"n": 2})) == ("1", True, "keep-last")

    await run_all(store)

    assert await given.claim_all(store) == []


# ------------------------------------------------------------------ through a handler, and many at once


async def test_a_handlers_options_deduplicate(app_on: Callable[..., App], store: Store) -> None:
    email = app_on(ids=given.draw).queue("email")

    @email.handler()
    async def welcome(user: str) -> str:
        return user

    once = welcome.options(deduplication=Deduplication.simple("ada"))
    first, second = await once.add("ada"), await once.add("bob")

    assert (second.id, second.duplicate, second.rule) == (first.id, True, "simple")
    async with at_work(store, email.handlers):
        assert await soon(second.result()) == "ada"


async def test_duplicates_among_jobs_added_together_are_told(queue: Queue) -> None:
    options = JobOptions(deduplication="ada")

    jobs = await queue.add_many([("welcome", 1, options), ("welcome", 2, options), ("welcome", 3)])

    assert [told_of(job) for job in jobs] == [("1", False, None), ("1", True, "simple"), ("3", False, None)]


async def test_a_child_that_is_a_duplicate_is_not_waited_for_twice(app_on: Callable[..., App], store: Store) -> None:
    app = app_on(ids=given.draw)
    email = app.queue("email")

    @email.catch_all
    async def work() -> None: ...

    await email.add("page", deduplication="one")
    flow = await app.flow(Call("book", queue="email").after(Call("page", None, {"deduplication": "one"}, "email")))

    async with at_work(store, email.handlers):
        await soon(flow.result())


async def test_a_job_that_was_stored_has_no_rule(queue: Queue) -> None:
    assert told_of(await queue.add("welcome")) == ("1", False, None)


# ------------------------------------------------------------------ who owns an id


async def test_the_owner_of_an_id_is_told_and_can_be_forgotten(queue: Queue) -> None:
    job = await add(queue, "ada")

    owner = await queue.deduplicated("ada")
    assert owner is not None
    assert owner.ref == job.ref
    assert await queue.forget("ada")
    assert not await queue.forget("ada")
    assert await queue.deduplicated("ada") is None
    assert not (await add(queue, "ada")).duplicate


async def test_removing_a_job_lets_go_of_its_id(queue: Queue) -> None:
    await (await add(queue, Deduplication.throttle("ada", 60))).remove()

    assert not (await add(queue, Deduplication.throttle("ada", 60))).duplicate


async def test_cancelling_a_job_lets_go_of_its_id(queue: Queue) -> None:
    await (await add(queue, "ada")).cancel()

    assert not (await add(queue, "ada")).duplicate


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Deduplication.simple(""), "a deduplication id is text that is not empty, not ''"),
        (lambda: Deduplication.keep_last(7), "a deduplication id is text that is not empty, not 7"),  # type: ignore[arg-type]
        (
            lambda: Deduplication.throttle("ada", 0),
            "the ttl of a deduplication must be more than 0 s: Deduplication.simple(…) needs none",
        ),
        (
            lambda: Deduplication.debounce("ada", -1),
            "the ttl of a deduplication must be between 0 s and 100 years, not -1",
        ),
    ],
)
def test_what_cannot_be_a_rule_is_refused(make: Callable[[], Deduplication], sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make()

    assert str(refused.value) == sentence


async def test_an_id_that_is_empty_is_refused_with_the_add(queue: Queue) -> None:
    with pytest.raises(ConfigError, match=r"^a deduplication id is text that is not empty, not ''$"):
        await queue.add("welcome", deduplication="")


# ------------------------------------------------------------------ the windows of the seeds


@pytest.mark.claim("C-89", "C-90", "C-91", "C-92")
@pytest.mark.parametrize(
    ("name", "key", "window_ms"),
    [
        ("process-document", "doc:42", HOUR_MS),
        ("send-email", "email:ada:order-confirmation:5f2b", 24 * HOUR_MS),
        ("deliver-webhook", "webhook:evt_1", HOUR_MS),
        ("generate-report", "report:7:year=2026", 5 * MINUTE_MS),
    ],
)
async def test_a_window_lasts_as_long_as_it_says_whatever_becomes_of_the_job(
    queue: Queue, store: Store, name: str, key: str, window_ms: int
) -> None:
    rule = Deduplication.throttle(key, timedelta(milliseconds=window_ms))
    opened_at_ms = given.now_ms(store)
    stored: list[int] = []

    while given.now_ms(store) <= opened_at_ms + 3 * window_ms:
        job = await queue.add(name, deduplication=rule, keep_completed=False)
        if not job.duplicate:
            stored.append(given.now_ms(store) - opened_at_ms)
        await run_all(store)
        await given.advance(store, window_ms // 10)

    assert stored == [0, window_ms, 2 * window_ms, 3 * window_ms]


@pytest.mark.claim("C-93")
async def test_a_job_that_waits_runs_or_is_delayed_is_returned_instead_of_added(queue: Queue, store: Store) -> None:
    delayed = await add(queue, "doc:42", delay=60)
    assert (await add(queue, "doc:42")).id == delayed.id
    await given.advance(store, 60_000)

    active = await given.claim_one(store)
    assert (await add(queue, "doc:42")).id == delayed.id

    await given.complete(store, active)
    assert (await add(queue, "doc:42")).id != delayed.id


@pytest.mark.claim("X-22", "C-26", "C-39", "C-94")
async def test_a_job_id_is_for_identity_and_a_key_for_the_window(queue: Queue, store: Store) -> None:
    """An id blocks as long as its job is kept, here a day; a key as long as its window."""
    kept = timedelta(days=1)
    window = Deduplication.throttle("doc:42", 3600)

    async def by_id() -> Job[object]:
        return await queue.add("process-document", job_id="doc-42", keep_completed=kept)

    async def by_key() -> Job[object]:
        return await queue.add("process-document", deduplication=window, keep_completed=kept)

    first, keyed = await by_id(), await by_key()
    await run_all(store)

    await given.advance(store, HOUR_MS - 1)
    assert told_of(await by_id()) == ("doc-42", True, "id")
    assert told_of(await by_key()) == (keyed.id, True, "throttle")

    await given.advance(store, 1)
    assert told_of(await by_id()) == (first.id, True, "id")
    again = await by_key()
    assert (again.duplicate, again.id != keyed.id) == (False, True)


@pytest.mark.claim("X-22", "C-94")
async def test_an_id_and_a_key_together_are_each_what_they_are_alone(queue: Queue, store: Store) -> None:
    """The id is looked up first: whoever asks for the window alone gets another answer than who gives both."""
    window = Deduplication.throttle("doc:42", 3600)
    await queue.add("process-document", job_id="doc-42", deduplication=window)

    assert told_of(await queue.add("process-document", job_id="doc-42", deduplication=window)) == ("doc-42", True, "id")
    assert told_of(await queue.add("process-document", deduplication=window)) == ("doc-42", True, "throttle")
    await given.advance(store, HOUR_MS)
    assert told_of(await queue.add("process-document", job_id="doc-42", deduplication=window)) == ("doc-42", True, "id")
