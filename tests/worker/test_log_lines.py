"""What a worker says, for people and for machines."""

from __future__ import annotations

import logging

import pytest

from conformance.given import soon
from toril import Context, Delay, Queue
from toril.store import Store
from worker.stage import at_work, clock_of, finished, handlers, told


@pytest.fixture(autouse=True)
def _everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "toril")


def line_of(caplog: pytest.LogCaptureFixture, job_id: str) -> logging.LogRecord:
    """The one line about how a job's run ended."""
    [line] = [record for record in caplog.records if getattr(record, "job_id", None) == job_id]
    return line


def extra_of(line: logging.LogRecord) -> dict[str, object]:
    return {name: getattr(line, name) for name in ("queue", "job_id", "job_name", "attempt", "ms")}


async def test_a_completed_job_is_told_with_its_time(
    queue: Queue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async def welcome() -> None:
        clock_of(store).advance(1234)

    async with at_work(store, handlers(welcome)):
        job = await queue.add("welcome")
        await soon(job.result())

    line = line_of(caplog, job.id)
    assert line.levelno == logging.INFO
    assert line.getMessage() == f"email/{job.id} welcome completed in 1234 ms"
    assert extra_of(line) == {"queue": "email", "job_id": job.id, "job_name": "welcome", "attempt": 1, "ms": 1234}


async def test_a_retried_job_is_a_warning_with_its_next_time(
    queue: Queue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async def welcome() -> None:
        raise ValueError("no such user")

    async with at_work(store, handlers(welcome)):
        job = await queue.add("welcome", attempts=3, backoff=1.5)
        await told(store, "delayed", job_id=job.id)

    line = line_of(caplog, job.id)
    assert line.levelno == logging.WARNING
    assert line.getMessage() == (f"email/{job.id} welcome will be tried again in 1.5 s (attempt 1 of 3): no such user")
    assert extra_of(line) == {"queue": "email", "job_id": job.id, "job_name": "welcome", "attempt": 1, "ms": 0}


async def test_a_failed_job_is_an_error_with_its_stack(
    queue: Queue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async def welcome() -> None:
        raise ValueError("no such user")

    async with at_work(store, handlers(welcome)):
        job = await queue.add("welcome")
        await finished(store, job.ref)

    line = line_of(caplog, job.id)
    assert line.levelno == logging.ERROR
    first, *rest = line.getMessage().splitlines()
    assert first == f"email/{job.id} welcome failed after 0 ms (attempt 1 of 1): no such user"
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "ValueError: no such user"


async def test_a_wish_is_told_to_those_who_debug(queue: Queue, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async def welcome(ctx: Context) -> Delay:
        return Delay(60)

    async with at_work(store, handlers(welcome)):
        job = await queue.add("welcome")
        await told(store, "delayed", job_id=job.id)

    assert line_of(caplog, job.id).levelno == logging.DEBUG


async def test_a_worker_says_what_it_serves_and_that_it_has_stopped(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None: ...

    async with at_work(store, work, concurrency=7) as worker:
        pass

    assert f"worker {worker.id} serves email (7) on sqlite :memory:" in caplog.messages
    assert caplog.messages[-1] == f"worker {worker.id} has stopped"


async def test_the_loggers_are_toril_and_below_it(queue: Queue, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None: ...

    async with at_work(store, work):
        await soon((await queue.add("work")).result())

    assert caplog.records
    assert {record.name.split(".")[0] for record in caplog.records} <= {"toril", "asyncio"}
