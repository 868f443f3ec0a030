"""What the store costs when much has gathered in it: statements, and the log of writes beside the file."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from conformance.given import (
    QUEUE,
    add,
    advance,
    claim_all,
    complete,
    fail,
    given,
    given_active,
    given_flow,
    given_many,
    new_job,
    retry_after,
    stall,
)
from conformance.given_schedules import advanced, claim_run, given_schedule
from faults.proof import Stopwatch, shown
from sizes import size
from toril.clock import TurnedClock
from toril.model import Placed, Report
from toril.options import Deduplication
from toril.stores.sqlite.connection import Place
from toril.stores.sqlite.database import Database, database_at, leave
from toril.stores.sqlite.store import SqliteStore

MIB = 1024 * 1024
FILL = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :jobs)
INSERT INTO job (qid, id, state, rank, place, name, data, created_at_ms, finished_at_ms, attempts_made)
SELECT qid, 'old-' || i, 'completed', i, i - 1000000000, 'welcome', '{}', i, i, 1 FROM n, queue WHERE queue.name = :queue
"""


async def use_every_hot_verb(store: SqliteStore) -> None:
    """Add, claim, settle in each way, renew, report, recover, and obey the keep rules."""
    await given_many(store, 5)
    await given(store, priority=1)
    await given(store, delay=1)
    await given(store, job_id="chosen", keep_completed=0)
    await given_flow(store, children=2)
    await advance(store, 2_000)
    while claims := await claim_all(store) + await claim_all(store, "images"):
        for claim in claims:
            await store.extend([claim], 30_000)
            await store.report([Report(claim, progress="1", logs=("line",))])
            await complete(store, claim)
    await fail(store, await given_active(store, attempts=2))
    await retry_after(store, await given_active(store, attempts=2), 1_000)
    await given_active(store)
    await stall(store)
    await use_deduplication(store)
    await use_a_schedule(store)


async def use_deduplication(store: SqliteStore) -> None:
    """Meet an owner that waits, is delayed or runs, and take the place of one."""
    simple, debounce = Deduplication.simple("simple"), Deduplication.debounce("debounce", 60)
    kept, later = Deduplication.keep_last("kept"), Deduplication("later", ttl_ms=60_000, extend=True, reschedule=True)
    for by in (simple, simple, debounce, debounce, later, later):
        await add(store, new_job(store, delay=60, deduplication=by))
    owner = await given(store, priority=1, deduplication=kept)
    claims = await claim_all(store)
    await add(store, new_job(store, deduplication=kept))
    for claim in claims:
        await complete(store, claim)
    assert await store.owner(QUEUE, "kept") not in (None, owner)


async def use_a_schedule(store: SqliteStore) -> None:
    """Put a schedule, let it run, put it again and remove it."""
    seen = await given_schedule(store, queue="reports")
    await complete(store, await claim_run(store, seen))
    seen = await advanced(store, seen)
    assert await store.put_schedule(seen.schedule, seen, seen.next_at_ms) is Placed.DONE
    assert await store.remove_schedule("reports", seen.schedule.id)


async def test_no_statement_of_the_hot_path_reads_a_whole_table(tmp_path: Path, clock: TurnedClock) -> None:
    store, database = SqliteStore(tmp_path / "toril.db", clock=clock), database_at(Place(tmp_path / "toril.db"))
    statements: set[str] = set()
    await database.write(lambda tx: tx.connection.set_trace_callback(statements.add))

    await use_every_hot_verb(store)

    await database.write(lambda tx: tx.connection.set_trace_callback(None))
    plans = {statement: await plan_of(database, statement) for statement in statements}
    assert len({statement.split("(")[0] for statement in statements}) > 20
    assert [f"{step}: {text}" for text, steps in plans.items() for step in steps if scans(step)] == []
    leave(database)
    await store.close()


async def plan_of(database: Database, statement: str) -> list[str]:
    if not re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)", statement):
        return []
    return await database.write(
        lambda tx: [row[3] for row in tx.connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()]
    )


def scans(step: str) -> bool:
    """Whether a step of a plan reads all of a table: not one of JSON's, nor of what was found before."""
    return step.startswith("SCAN") and "VIRTUAL TABLE" not in step and not re.match(r"SCAN (\(|CONSTANT)", step)


@pytest.mark.parametrize("step", ["SCAN job", "SCAN j", "SCAN job USING INDEX job_order"])
def test_reading_a_whole_table_is_seen(step: str) -> None:
    assert scans(step)


async def test_a_job_costs_no_more_when_many_have_finished(tmp_path: Path, clock: TurnedClock) -> None:
    watch, jobs = Stopwatch(), size("finished_jobs")
    store, database = SqliteStore(tmp_path / "toril.db", clock=clock), database_at(Place(tmp_path / "toril.db"))
    await given(store)
    await complete(store, (await claim_all(store))[0])
    few = await steps_of_a_round(store, database)

    await database.write(lambda tx: tx.connection.execute(FILL, {"jobs": jobs, "queue": QUEUE}).rowcount)
    many = await steps_of_a_round(store, database)

    assert many <= few * 1.2
    leave(database)
    await store.close()
    shown("cost of a job among finished ones", f"{jobs:,} finished", f"{many / few:.2f} x the steps of SQLite", watch)


async def steps_of_a_round(store: SqliteStore, database: Database) -> int:
    """How many tens of SQLite's own steps it takes to add, claim and complete twenty jobs."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    await database.write(lambda tx: tx.connection.set_progress_handler(count, 10))
    for _ in range(20):
        await given(store, keep_completed=True)
        [claim] = await claim_all(store)
        await complete(store, claim)
    await database.write(lambda tx: tx.connection.set_progress_handler(None, 0))
    return steps


async def test_the_log_beside_the_file_does_not_grow_without_end_while_others_read(tmp_path: Path) -> None:
    store, largest = SqliteStore(tmp_path / "toril.db"), 0
    await given(store)
    reading = [asyncio.ensure_future(read_on(store)) for _ in range(4)]

    for _ in range(60):
        await given(store, data='"' + "x" * 500_000 + '"')
        largest = max(largest, size_of(tmp_path / "toril.db-wal"))

    assert not any(reader.done() for reader in reading)
    for reader in reading:
        reader.cancel()
    await asyncio.wait(reading)
    assert size_of(tmp_path / "toril.db") > 20 * MIB
    assert largest < 16 * MIB
    await store.close()


def size_of(path: Path) -> int:
    return path.stat().st_size


async def read_on(store: SqliteStore) -> None:
    while True:
        await store.summaries()
