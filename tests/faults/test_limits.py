"""Many workers in several processes under a global rate and a global concurrency: neither is ever exceeded."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from faults.crew import crew
from faults.crowd_programs import IN_A_CROWD, PLAIN, open_store
from faults.history import Line, said
from faults.proof import Stopwatch, shown
from sizes import size
from toril.model import Event, JobRef, QueueSettings
from toril.options import RateLimit
from toril.queue import Queue
from toril.store import Store

PROCESSES, WORKERS_EACH, JOBS_EACH = 4, 2, 4
CONCURRENCY = 5
MAX_STARTS, PER_MS = 15, 200

Settings = dict[str, Any]


# ------------------------------------------------------------------ checkers


def windows_of(starts_ms: Iterable[int], per_ms: int) -> list[tuple[int, int]]:
    """When each window of a rate began, and how many jobs started in it: a window begins with its first job."""
    windows: list[tuple[int, int]] = []
    for at_ms in sorted(starts_ms):
        if windows and at_ms < windows[-1][0] + per_ms:
            windows[-1] = (windows[-1][0], windows[-1][1] + 1)
        else:
            windows.append((at_ms, 1))
    return windows


def beyond_rate(starts_ms: Iterable[int], rate: RateLimit) -> list[str]:
    """Windows in which more jobs started than may."""
    return [
        f"{count} jobs started in the {rate.per_ms} ms from {began_ms} on, and {rate.max} may"
        for began_ms, count in windows_of(starts_ms, rate.per_ms)
        if count > rate.max
    ]


def counts_running(changes: Iterable[tuple[bool, str]]) -> list[int]:
    """How many jobs ran after each change, a start (True) or an end."""
    running: set[str] = set()
    counts: list[int] = []
    for starts, job_id in changes:
        running = running | {job_id} if starts else running - {job_id}
        counts.append(len(running))
    return counts


def beyond_concurrency(changes: Iterable[tuple[bool, str]], most: int) -> list[str]:
    """Moments at which more jobs ran than may."""
    counts = counts_running(changes)
    return [
        f"{count} jobs ran after change {place}, and {most} may" for place, count in enumerate(counts) if count > most
    ]


def changes_told(events: Iterable[Event]) -> list[tuple[bool, str]]:
    """Starts and ends as the store has recorded them."""
    kinds = {"active": True, "completed": False, "failed": False}
    return [(kinds[event.name], str(event.job_id)) for event in events if event.name in kinds]


def changes_made(lines: Iterable[Line]) -> list[tuple[bool, str]]:
    """Starts and ends as the handlers have said them: later than the store's, and earlier."""
    kinds = {"started": True, "finished": False}
    told = sorted((line for line in lines if line.what in kinds), key=lambda line: line.at_s)
    return [(kinds[line.what], line.job_id) for line in told]


# ------------------------------------------------------------------ the checkers find what is planted for them


def test_a_start_too_many_in_a_window_is_found() -> None:
    rate = RateLimit(3, per=0.1)

    assert beyond_rate([0, 10, 99, 100, 150, 199], rate) == []
    assert beyond_rate([0, 10, 50, 99, 100], rate) == ["4 jobs started in the 100 ms from 0 on, and 3 may"]
    assert beyond_rate([0, 150, 160, 170, 249], rate) == ["4 jobs started in the 100 ms from 150 on, and 3 may"]


def test_a_job_too_many_at_once_is_found() -> None:
    one_after_the_other = [(True, "a"), (True, "b"), (False, "a"), (True, "c"), (False, "b"), (False, "c")]
    too_early = [(True, "a"), (True, "b"), (True, "c"), (False, "a"), (False, "b"), (False, "c")]

    assert beyond_concurrency(one_after_the_other, 2) == []
    assert beyond_concurrency(too_early, 2) == ["3 jobs ran after change 2, and 2 may"]


def test_what_handlers_say_is_put_in_the_order_in_which_it_was_said() -> None:
    lines = [Line(2.0, 1, "finished", "a"), Line(1.5, 2, "started", "b"), Line(1.0, 1, "started", "a")]

    assert changes_made(lines) == [(True, "a"), (True, "b"), (False, "a")]


# ------------------------------------------------------------------ the crowd


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """What names this test's store to those who open it."""
    if request.param == "redis":
        return {"url": request.getfixturevalue("redis_url"), "prefix": f"limits-{uuid.uuid4().hex}"}
    return {"path": str(tmp_path / "toril.db")}


def test_many_workers_exceed_neither_a_rate_nor_a_concurrency(place: Settings, tmp_path: Path) -> None:
    watch, jobs, rate = Stopwatch(), size("limited_jobs"), RateLimit(MAX_STARTS, per=PER_MS / 1000)
    with crew(tmp_path) as hired:
        asyncio.run(_limit(place, rate))
        for _ in range(PROCESSES):
            settings: Settings = {
                "queues": [PLAIN],
                "workers": WORKERS_EACH,
                "concurrency": JOBS_EACH,
                "ms": 10,
                **place,
            }
            hired.start("work", within=IN_A_CROWD, **settings)
        hired.until(lambda: hired.count("ready") == PROCESSES)
        ids = asyncio.run(_add(place, jobs))
        hired.until(lambda: hired.count("finished") >= jobs, patience_s=60 + jobs * PER_MS / MAX_STARTS / 500)
        statuses = [hired.stop(child) for child in hired.children]
        hired.listen()
        lines, errors = hired.lines, hired.errors()
    events, starts_ms = asyncio.run(_look(place, ids))

    told, made = changes_told(events), changes_made(lines)
    assert statuses == [0] * PROCESSES, errors
    assert Counter(said(lines, "finished")) == Counter(ids)
    assert len(starts_ms) == jobs
    assert beyond_rate(starts_ms, rate) == []
    assert beyond_concurrency(told, CONCURRENCY) == []
    assert beyond_concurrency(made, CONCURRENCY) == []
    full = [count for _, count in windows_of(starts_ms, PER_MS) if count == MAX_STARTS]
    assert len(full) > 1, "the rate was hardly reached: the test has shown nothing"
    assert max(counts_running(told)) == CONCURRENCY, "the concurrency was not reached: the test has shown nothing"
    assert len({line.pid for line in lines if line.what == "started"}) > 1, "one process has done it all"
    kind = "Redis" if "url" in place else "SQLite"
    result = f"0 starts too many in {len(full)} full windows, never more than {CONCURRENCY} at once"
    limits = f"{jobs:,} jobs, {MAX_STARTS} starts per {PER_MS} ms, {CONCURRENCY} at once"
    shown(
        f"Global rate and concurrency, {PROCESSES * WORKERS_EACH} workers in {PROCESSES} processes ({kind})",
        limits,
        result,
        watch,
    )


@contextlib.asynccontextmanager
async def _opened(place: Settings) -> AsyncGenerator[Store]:
    store = open_store(place)
    try:
        yield store
    finally:
        await store.close()


async def _limit(place: Settings, rate: RateLimit) -> None:
    async with _opened(place) as store:
        limits = QueueSettings(concurrency=CONCURRENCY, rate_limit=rate, max_events=10_000_000)
        await store.configure(PLAIN, limits)


async def _add(place: Settings, count: int) -> Sequence[str]:
    async with _opened(place) as store:
        added = await Queue(PLAIN, store).add_many([("job", None)] * count)
        return [job.id for job in added]


async def _look(place: Settings, ids: Sequence[str]) -> tuple[list[Event], list[int]]:
    """All events, and when each job started, by the clock that the limit goes by."""
    events: list[Event] = []
    async with _opened(place) as store:
        while more := await store.read(PLAIN, events[-1].id if events else None, limit=10_000):
            events += more
        if (
            store.kind == "redis"
        ):  # a record says what the clock of who claimed it showed, an event what the server's did
            return events, [event.at_ms for event in events if event.name == "active"]
        records = await store.get([JobRef(PLAIN, job_id) for job_id in ids])  # events are dated by transaction
        return events, [record.processed_at_ms for record in records if record and record.processed_at_ms]
