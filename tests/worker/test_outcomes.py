"""Every way in which a job can end, from its handler to the store."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conformance.given import soon
from toril import Context, Queue, Unrecoverable, inject
from toril.clock import TurnedClock
from toril.handlers import HandlerTable, registered
from toril.states import State
from toril.store import Store
from toril.stores.sqlite.store import SqliteStore
from worker.stage import Gate, at_work, finished, handlers


async def test_a_job_completes_with_what_its_handler_returns(queue: Queue, store: Store) -> None:
    async def welcome(name: str) -> dict[str, str]:
        return {"hello": name}

    async with at_work(store, handlers(welcome)):
        job = await queue.add("welcome", {"name": "Ada"})

        assert await soon(job.result()) == {"hello": "Ada"}
    record = await job.record()
    assert record.state is State.COMPLETED
    assert record.attempts_made == 1


async def test_a_handler_that_returns_nothing_completes_its_job_with_null(queue: Queue, store: Store) -> None:
    async def welcome() -> None: ...

    async with at_work(store, handlers(welcome)):
        record = await finished(store, (await queue.add("welcome")).ref)

    assert (record.state, record.result) == (State.COMPLETED, "null")


async def test_a_typed_result_is_stored_as_json(queue: Queue, store: Store) -> None:
    @dataclass
    class Sent:
        to: str
        bounced: bool = False

    async def welcome() -> Sent:
        return Sent("ada@example.org")

    async with at_work(store, handlers(welcome)):
        record = await finished(store, (await queue.add("welcome")).ref)

    assert record.result == '{"to":"ada@example.org","bounced":false}'


async def test_a_job_whose_handler_raises_fails_with_the_message_and_the_stack(queue: Queue, store: Store) -> None:
    async def welcome() -> None:
        raise ValueError("no such user")

    async with at_work(store, handlers(welcome)):
        record = await finished(store, (await queue.add("welcome")).ref)

    assert (record.state, record.reason, record.attempts_made) == (State.FAILED, "no such user", 1)
    [attempt] = record.history
    assert attempt.outcome == "failed"
    assert attempt.stack.rstrip().endswith("ValueError: no such user")
    assert "in welcome" in attempt.stack


async def test_a_job_without_a_handler_fails_as_unknown(queue: Queue, store: Store) -> None:
    async def welcome() -> None: ...

    async with at_work(store, handlers(welcome)):
        record = await finished(store, (await queue.add("farewell")).ref)

    assert (record.state, record.reason) == (State.FAILED, "Unknown job: farewell")


async def test_a_catch_all_takes_jobs_of_every_other_name(queue: Queue, store: Store) -> None:
    async def welcome() -> str:
        return "by name"

    async def anything(ctx: Context, data: Any, /) -> list[Any]:
        return [ctx.name, data]

    table = HandlerTable(catch_all=registered("*", anything))
    table.put(registered(None, welcome))
    async with at_work(store, table):
        assert await soon((await queue.add("welcome")).result()) == "by name"
        assert await soon((await queue.add("farewell", {"a": 1})).result()) == ["farewell", {"a": 1}]


# ------------------------------------------------------------------ how a handler is called


async def test_a_plain_function_runs_in_a_thread(queue: Queue, store: Store) -> None:
    def welcome() -> bool:
        return threading.current_thread() is threading.main_thread()

    async with at_work(store, handlers(welcome)):
        assert await soon((await queue.add("welcome")).result()) is False


async def test_plain_functions_run_beside_each_other(queue: Queue, store: Store) -> None:
    together = threading.Barrier(4)

    def welcome() -> None:
        together.wait(20)

    async with at_work(store, handlers(welcome), concurrency=4):
        jobs = [await queue.add("welcome") for _ in range(4)]
        await asyncio.gather(*(soon(job.result()) for job in jobs))


async def test_a_plain_function_does_not_hold_up_the_loop(queue: Queue, store: Store) -> None:
    blocked = threading.Event()

    def slow() -> None:
        assert blocked.wait(20)

    async def fast() -> str:
        return "done"

    async with at_work(store, handlers(slow, fast)):
        waiting = await queue.add("slow")
        assert await soon((await queue.add("fast")).result()) == "done"
        blocked.set()
        await soon(waiting.result())


async def test_the_context_tells_the_handler_of_its_job(queue: Queue, store: Store) -> None:
    async def welcome(ctx: Context, name: str) -> list[Any]:
        return [ctx.job_id, ctx.queue, ctx.name, ctx.attempt, ctx.attempts, ctx.stalled, ctx.data, ctx.cancelled, name]

    async with at_work(store, handlers(welcome)):
        job = await queue.add("welcome", {"name": "Ada"}, attempts=4)

        told = await soon(job.result())

    assert told == [job.id, "email", "welcome", 1, 4, 0, {"name": "Ada"}, False, "Ada"]


async def test_injected_parameters_are_asked_for_anew_for_each_job(queue: Queue, store: Store) -> None:
    drawn = iter(range(10))

    async def connection() -> int:
        return next(drawn)

    def clock() -> str:
        return "noon"

    async def welcome(ctx: Context, *, db: int = inject(connection), at: str = inject(clock)) -> list[Any]:
        return [db, at]

    async with at_work(store, handlers(welcome), concurrency=1):
        assert await soon((await queue.add("welcome")).result()) == [0, "noon"]
        assert await soon((await queue.add("welcome")).result()) == [1, "noon"]


async def test_an_injection_that_fails_fails_the_attempt(queue: Queue, store: Store) -> None:
    def connection() -> int:
        raise ConnectionError("no database")

    async def welcome(db: int = inject(connection)) -> None: ...

    async with at_work(store, handlers(welcome)):
        record = await finished(store, (await queue.add("welcome", attempts=1)).ref)

    assert (record.state, record.reason) == (State.FAILED, "no database")


async def test_context_variables_reach_a_thread(queue: Queue, store: Store) -> None:
    tenant = contextvars.ContextVar("tenant", default="nobody")

    def set_tenant() -> None:
        tenant.set("ada")

    def welcome(who: None = inject(set_tenant)) -> str:
        return tenant.get()

    async with at_work(store, handlers(welcome)):
        assert await soon((await queue.add("welcome")).result()) == "ada"


# ------------------------------------------------------------------ data that does not fit


@pytest.mark.parametrize("data", [None, {}, {"name": 5}, {"name": None}, [1], "Ada"])
async def test_data_that_does_not_fit_fails_the_job_at_once(queue: Queue, store: Store, data: Any) -> None:
    async def welcome(name: str) -> None: ...

    async with at_work(store, handlers(welcome)):
        record = await finished(store, (await queue.add("welcome", data, attempts=5)).ref)

    assert record.state is State.FAILED
    assert record.attempts_made == 1
    assert record.reason


async def test_the_reason_names_the_member_that_does_not_fit(queue: Queue, store: Store) -> None:
    async def welcome(name: str) -> None: ...

    async with at_work(store, handlers(welcome)):
        record = await finished(store, (await queue.add("welcome", {"name": 5}, attempts=5)).ref)

    assert record.reason is not None
    assert record.reason.startswith("name: ")


async def test_a_member_that_nobody_takes_is_dropped_with_one_warning(
    queue: Queue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async def welcome(name: str) -> str:
        return name

    async with at_work(store, handlers(welcome)):
        for _ in range(3):
            assert await soon((await queue.add("welcome", {"name": "Ada", "age": 36})).result()) == "Ada"

    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["jobs welcome of queue email carry the member 'age', which no parameter of their handler takes"]


async def test_a_handler_may_forbid_members_that_it_does_not_take(queue: Queue, store: Store) -> None:
    async def welcome(name: str) -> None: ...

    async with at_work(store, handlers(welcome, extra="forbid")):
        record = await finished(store, (await queue.add("welcome", {"name": "Ada", "age": 36})).ref)

    assert record.state is State.FAILED
    assert record.reason is not None
    assert "age" in record.reason


@pytest.mark.parametrize("text", ["{", "", "not json", '{"name": ', "[" * 100_000])
async def test_data_that_cannot_be_read_fails_its_job_at_once_and_harms_no_other(tmp_path: Path, text: str) -> None:
    async def welcome(name: str) -> str:
        return name

    store = SqliteStore(tmp_path / "jobs.db", clock=TurnedClock())
    queue = Queue("email", store)
    broken = await queue.add("welcome", {"name": "Bob"}, attempts=5)
    whole = await queue.add("welcome", {"name": "Ada"})
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as connection, connection:
        connection.execute("UPDATE job SET data = ? WHERE id = ?", (text, broken.id))
    async with at_work(store, handlers(welcome)):
        assert await soon(whole.result()) == "Ada"
        record = await finished(store, broken.ref)

    assert record.state is State.FAILED
    assert record.reason is not None
    assert record.reason.startswith("the job's data cannot be read: ")
    assert (record.attempts_made, record.stalled) == (1, 0)
    await store.close()


# ------------------------------------------------------------------ results that cannot be stored


@pytest.mark.parametrize("value", [object(), float("nan"), 2**60, "\ud800", {"a": [{"b": object()}]}])
async def test_a_result_that_cannot_be_stored_fails_the_job_and_is_not_tried_again(
    queue: Queue, store: Store, value: Any
) -> None:
    runs: list[int] = []

    async def welcome(ctx: Context) -> Any:
        runs.append(ctx.attempt)
        return value

    async with at_work(store, handlers(welcome)):
        record = await finished(store, (await queue.add("welcome", attempts=5)).ref)

    assert record.state is State.FAILED
    assert record.reason is not None
    assert record.reason.startswith("the handler's result cannot be stored: ")
    assert runs == [1]


# ------------------------------------------------------------------ errors that are no Exception


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit(), BaseException("odd")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("how", ["async", "thread"])
async def test_nothing_that_a_handler_raises_ends_the_worker(
    queue: Queue, store: Store, error: BaseException, how: str
) -> None:
    async def raises() -> None:
        raise error

    def raises_in_thread() -> None:
        raise error

    async def welcome() -> str:
        return "alive"

    name = "raises" if how == "async" else "raises_in_thread"
    async with at_work(store, handlers(raises, raises_in_thread, welcome), concurrency=1):
        record = await finished(store, (await queue.add(name)).ref)
        assert await soon((await queue.add("welcome")).result()) == "alive"

    assert record.state is State.FAILED
    assert record.reason == (str(error) or type(error).__name__)


@pytest.mark.parametrize("how", ["async", "thread"])
async def test_an_iterator_that_ends_inside_a_handler_fails_its_job(queue: Queue, store: Store, how: str) -> None:
    async def first() -> int:
        return next(iter(list[int]()))

    def first_in_thread() -> int:
        return next(iter(list[int]()))

    async with at_work(store, handlers(first, first_in_thread), concurrency=1):
        record = await finished(store, (await queue.add("first" if how == "async" else "first_in_thread")).ref)

    assert record.state is State.FAILED


async def test_an_error_that_is_no_exception_is_tried_again_like_a_crash(queue: Queue, store: Store) -> None:
    async def welcome(ctx: Context) -> int:
        if ctx.attempt == 1:
            raise SystemExit(1)
        return ctx.attempt

    async with at_work(store, handlers(welcome)):
        assert await soon((await queue.add("welcome", attempts=2, backoff=0)).result()) == 2


async def test_an_unrecoverable_error_fails_the_job_whatever_attempts_are_left(queue: Queue, store: Store) -> None:
    async def welcome() -> None:
        raise Unrecoverable("no such user")

    async with at_work(store, handlers(welcome)):
        record = await finished(store, (await queue.add("welcome", attempts=5)).ref)

    assert (record.state, record.reason, record.attempts_made) == (State.FAILED, "no such user", 1)


async def test_an_error_that_cannot_be_printed_fails_its_job(queue: Queue, store: Store) -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    async def welcome() -> None:
        raise Broken

    async with at_work(store, handlers(welcome)):
        record = await finished(store, (await queue.add("welcome")).ref)

    assert record.state is State.FAILED
    assert record.reason == "<its message cannot be printed: RuntimeError>"


async def test_the_worker_gives_its_slot_back_after_every_kind_of_end(queue: Queue, store: Store) -> None:
    gate = Gate()

    async def welcome(how: str) -> Any:
        if how == "raise":
            raise ValueError("no")
        if how == "exit":
            raise SystemExit
        if how == "object":
            return object()
        if how == "wait":
            await gate.passed()
        return how

    async with at_work(store, handlers(welcome), concurrency=2):
        for how in ("raise", "exit", "object", "return") * 3:
            await finished(store, (await queue.add("welcome", {"how": how})).ref)
        for _ in range(3):
            await queue.add("welcome", {"how": "wait"})

        await gate.arrivals(2)
        assert gate.inside == 2
        gate.open()
        await gate.arrivals(1)
