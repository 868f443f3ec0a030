"""Finished jobs by the minute: what counting them costs, and files that were made before they were counted."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from conformance.given import (
    QUEUE,
    advance,
    claim_all,
    claim_one,
    complete,
    given,
    given_active,
    given_completed,
    given_failed,
    given_many,
    given_settings,
    soon,
)
from stores.sqlite.old import file_of
from toril.clock import TurnedClock
from toril.model import Claim, Completed, Failed, Outcome, QueueSettings, Settlement
from toril.states import State
from toril.stores.sqlite import connection
from toril.stores.sqlite.database import Database
from toril.stores.sqlite.store import SqliteStore
from toril.stores.sqlite.transaction import Transaction

MINUTE_MS = 60_000


# ------------------------------------------------------------------ what it costs


async def given_mixed(store: SqliteStore) -> list[Claim]:
    """Running jobs of two queues."""
    await given_many(store, 4)
    await given_many(store, 4, queue="images")
    return [*await claim_all(store), *await claim_all(store, "images")]


async def statements_of(store: SqliteStore, database: Database, claims: list[Claim]) -> list[str]:
    """What is run on counts when jobs complete and fail together."""
    statements: list[str] = []
    outcomes: list[Outcome] = [Completed(), Failed("no")] * (len(claims) // 2)
    await database.write(lambda tx: tx.connection.set_trace_callback(statements.append))
    await store.settle([Settlement(one, outcome) for one, outcome in zip(claims, outcomes, strict=True)])
    await database.write(lambda tx: tx.connection.set_trace_callback(None))
    assert len(statements) > 5
    return [statement.split()[0] for statement in statements if re.search(r"\bfinished\b", statement)]


async def test_a_transaction_counts_all_that_it_ends_with_one_statement(store: SqliteStore, database: Database) -> None:
    await statements_of(store, database, await given_mixed(store))

    assert await statements_of(store, database, await given_mixed(store)) == ["INSERT"]


async def test_the_first_of_a_minute_drops_what_is_too_old_once_for_each_queue(
    store: SqliteStore, database: Database
) -> None:
    await statements_of(store, database, await given_mixed(store))
    await advance(store, MINUTE_MS)

    assert await statements_of(store, database, await given_mixed(store)) == ["INSERT", "DELETE", "DELETE"]


async def test_a_queue_that_keeps_no_minutes_costs_nothing(store: SqliteStore, database: Database) -> None:
    for queue in (QUEUE, "images"):
        await given_settings(store, queue, metrics_minutes=0)

    assert await statements_of(store, database, await given_mixed(store)) == []


async def test_minutes_that_are_too_old_are_deleted(store: SqliteStore, database: Database) -> None:
    await given_settings(store, metrics_minutes=2)
    for _ in range(6):
        await given_completed(store)
        await given_failed(store)
        await advance(store, MINUTE_MS)

    assert await rows_of(database) == 2 * 3


async def test_minutes_that_are_too_old_are_deleted_after_the_clock_was_set_back(
    path: Path, store: SqliteStore, database: Database, clock: TurnedClock
) -> None:
    await given_settings(store, metrics_minutes=2)
    ahead = SqliteStore(path, clock=TurnedClock(clock.now_ms() + 1000 * MINUTE_MS))
    await given_completed(ahead)
    await ahead.close()

    for _ in range(6):
        await given_completed(store)
        await advance(store, MINUTE_MS)

    assert await rows_of(database) == 1 + 3
    assert (await store.series(QUEUE, State.COMPLETED, limit=4)).counts == (1, 1, 1, 0)


async def rows_of(database: Database) -> int:
    count: int = await database.read(lambda db: db.execute("SELECT count(*) FROM finished").fetchone()[0])
    return count


# ------------------------------------------------------------------ obliterating


async def test_a_queue_that_is_obliterated_leaves_no_minutes(store: SqliteStore, database: Database) -> None:
    await given_completed(store)
    await store.pause(QUEUE)

    await store.obliterate(QUEUE)

    assert await rows_of(database) == 0


async def test_a_queue_that_ends_in_the_transaction_of_its_last_job_leaves_no_minutes(
    store: SqliteStore, database: Database
) -> None:
    one = await given_active(store, keep_completed=False)
    await store.pause(QUEUE)
    statements: list[str] = []
    await database.write(lambda tx: tx.connection.set_trace_callback(statements.append))
    async with held(database):
        together = asyncio.gather(complete(store, one), store.obliterate(QUEUE))
    await soon(together)

    assert statements.count("BEGIN IMMEDIATE") == 2  # what held the writer, and both together
    assert await store.summaries() == []
    assert await rows_of(database) == 0


@contextlib.asynccontextmanager
async def held(database: Database) -> AsyncGenerator[None]:
    """Let what is begun meanwhile wait for the writer, to be taken in one transaction."""
    busy, go_on = threading.Event(), threading.Event()

    def hold(_: Transaction) -> bool:
        busy.set()
        return go_on.wait(20)

    holding = asyncio.ensure_future(database.write(hold))
    assert await asyncio.to_thread(busy.wait, 20)
    yield
    asyncio.get_running_loop().call_soon(go_on.set)
    await holding


# ------------------------------------------------------------------ files of an older Toril


@pytest.fixture
def old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file as the first schema alone made it: a queue with a setting, a job that has completed and one that waits."""
    with file_of(path, 1, monkeypatch) as file:
        file.execute(
            "INSERT INTO queue (qid, prefix, name, tail, concurrency, waiting, completed) VALUES (1, 'bull', 'email', 2, 7, 1, 1)"
        )
        for place, (job_id, state) in enumerate([("done", "completed"), ("next", "waiting")]):
            file.execute(
                "INSERT INTO job (qid, id, state, rank, place, name, data, created_at_ms) VALUES (1, ?, ?, 0, ?, 'welcome', '{}', 0)",
                (job_id, state, place),
            )
    return path


async def test_a_file_of_the_first_schema_keeps_what_is_in_it(old_file: Path, store: SqliteStore) -> None:
    assert await store.settings(QUEUE) == QueueSettings(concurrency=7)
    [summary] = await store.summaries()
    assert {state: count for state, count in summary.counts.items() if count} == {State.WAITING: 1, State.COMPLETED: 1}
    assert [finding for finding in await store.check() if finding.level != "ok"] == []


async def test_a_file_of_the_first_schema_counts_from_then_on(old_file: Path, store: SqliteStore) -> None:
    await complete(store, await claim_one(store))

    series = await store.series(QUEUE, State.COMPLETED, limit=2)

    assert (series.total, series.counts) == (1, (0, 1))


async def test_a_file_is_brought_up_to_date_once(old_file: Path, store: SqliteStore) -> None:
    await given_settings(store, metrics_minutes=5)
    await store.close()

    await given(store)

    assert (await store.settings(QUEUE)).metrics_minutes == 5
    with contextlib.closing(sqlite3.connect(old_file)) as file:
        names = [name for (name,) in file.execute("SELECT name FROM migration ORDER BY number")]
    assert names == [name for _, name, _ in connection._MIGRATIONS]  # pyright: ignore[reportPrivateUsage]
    assert names[:2] == ["0001_jobs.sql", "0002_metrics.sql"]
