"""Schedules and deduplication in the file: what they cost, how they end, and files made before there were any."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from conformance.given import (
    QUEUE,
    add,
    advance,
    claim_all,
    claim_one,
    complete,
    fail,
    given,
    given_active,
    given_completed,
    given_flow,
    given_many,
    new_job,
    now_ms,
    record_of,
    retry_after,
    stall,
    state_of,
)
from conformance.given_schedules import advanced, claim_run, given_schedule, schedule_of
from stores.sqlite.old import file_of
from toril.clock import TurnedClock
from toril.model import Answer, JobRef, Placed
from toril.options import HOUR_MS, Deduplication
from toril.states import State
from toril.stores.sqlite.database import Database
from toril.stores.sqlite.store import SqliteStore
from toril.stores.sqlite.transaction import Transaction

TABLES = re.compile(r"\b(FROM|INTO|UPDATE|JOIN)\s+(deduplication|kept|schedule)\b")


@contextlib.asynccontextmanager
async def traced(database: Database) -> AsyncGenerator[list[str]]:
    """The statements of the writer meanwhile, without those that drop what is too old every few seconds."""
    statements: list[str] = []
    await database.write(lambda tx: tx.connection.set_trace_callback(statements.append))
    yield statements
    await database.write(lambda tx: tx.connection.set_trace_callback(None))
    statements[:] = [text for text in statements if "LIMIT 1000)" not in text]


# ------------------------------------------------------------------ what they cost


async def test_jobs_that_use_neither_never_touch_their_tables(store: SqliteStore, database: Database) -> None:
    async with traced(database) as statements:
        await given_many(store, 3)
        await given(store, job_id="chosen", delay=1, keep_completed=0)
        await given_flow(store, children=2)
        await advance(store, 1_000)
        while claims := await claim_all(store, "images") + await claim_all(store):
            for claim in claims:
                await complete(store, claim)
        await fail(store, await given_active(store, keep_failed=1))
        await retry_after(store, await given_active(store), 1_000)
        await store.retry([await given_completed(store)])
        await store.remove([await given(store)])
        await store.cancel([await given(store)], "no longer wanted")
        await claim_all(store)
        await stall(store)

    assert len(statements) > 100
    assert [text for text in statements if TABLES.search(text)] == []


async def test_a_schedule_is_advanced_in_four_statements(store: SqliteStore, database: Database) -> None:
    seen = await given_schedule(store)

    async with traced(database) as statements:
        assert await store.advance_schedule(seen, seen.next_at_ms + HOUR_MS) is Placed.DONE

    assert len([text for text in statements if re.search(r"\b(schedule|job)\b", text)]) == 4


@pytest.mark.parametrize(
    "by",
    [Deduplication.simple("d"), Deduplication.throttle("d", 1), Deduplication.keep_last("d")],
    ids=["simple", "throttle", "keep-last"],
)
async def test_an_id_leaves_nothing_behind_when_its_time_is_over(
    store: SqliteStore, database: Database, path: Path, by: Deduplication
) -> None:
    await given(store, deduplication=by)
    [claim] = await claim_all(store)
    await complete(store, claim)
    await advance(store, 1_000)

    await forget_expired(store, database)

    assert counted(path, "deduplication") == counted(path, "kept") == 0


async def test_an_id_whose_time_is_not_over_stays_in_the_file(
    store: SqliteStore, database: Database, path: Path
) -> None:
    await given(store, deduplication=Deduplication.throttle("d", 1))
    await advance(store, 999)

    await forget_expired(store, database)

    assert counted(path, "deduplication") == 1


async def test_a_queue_that_is_obliterated_leaves_nothing_of_either_behind(store: SqliteStore, path: Path) -> None:
    throttled, kept = Deduplication.throttle("a", 60), Deduplication.keep_last("b")
    await complete(store, await given_active(store, deduplication=throttled, keep_completed=0))
    await given_active(store, deduplication=kept)
    await add(store, new_job(store, deduplication=kept))
    await given_schedule(store)
    await store.pause(QUEUE)

    await store.obliterate(QUEUE, force=True)

    assert [counted(path, table) for table in ("deduplication", "kept", "schedule", "job")] == [0, 0, 0, 0]


async def forget_expired(store: SqliteStore, database: Database) -> None:
    """What the writer does every few seconds."""

    def forget(tx: Transaction) -> None:
        tx.now_ms = now_ms(store)
        tx.forget_expired()

    await database.write(forget)


def counted(path: Path, table: str) -> int:
    """How many rows a table has, seen by somebody else."""
    with contextlib.closing(sqlite3.connect(path)) as file:
        count: int = file.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count


# ------------------------------------------------------------------ files of an older Toril


@pytest.fixture
def old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file as the first two schemas made it: a parent that waits for a child, and a job that has completed."""
    with file_of(path, 2, monkeypatch) as file:
        file.execute(
            "INSERT INTO queue (qid, prefix, name, tail, waiting, completed, waiting_children) VALUES (1, 'bull', 'email', 3, 1, 1, 1)"
        )
        for row, (job_id, state, parent) in enumerate(
            [("parent", "waiting-children", None), ("child", "waiting", 1), ("done", "completed", None)], 1
        ):
            file.execute(
                "INSERT INTO job (row, qid, id, state, rank, place, name, data, created_at_ms, parent_row, policy, pending)"
                " VALUES (?, 1, ?, ?, 0, ?, 'welcome', '{}', 0, ?, 'wait', ?)",
                (row, job_id, state, row, parent, int(job_id == "parent")),
            )
        file.execute("INSERT INTO child (parent_row, qid, id) VALUES (1, 1, 'child')")
    return path


async def test_a_file_of_before_keeps_what_is_in_it(old_file: Path, store: SqliteStore) -> None:
    done = await record_of(store, JobRef(QUEUE, "done"))

    assert (done.state, done.schedule) == (State.COMPLETED, None)
    assert [finding for finding in await store.check() if finding.level != "ok"] == []
    await complete(store, await claim_one(store))
    assert await state_of(store, JobRef(QUEUE, "parent")) is State.WAITING


async def test_a_file_of_before_takes_schedules(old_file: Path, store: SqliteStore) -> None:
    await claim_all(store)
    seen = await given_schedule(store)

    one = await claim_run(store, seen)

    assert one.schedule == "report"
    assert (await advanced(store, seen)).iterations == 2


async def test_a_file_of_before_deduplicates(old_file: Path, store: SqliteStore) -> None:
    owner = await given(store, deduplication=Deduplication.simple("d"))

    assert await store.owner(QUEUE, "d") == owner
    assert await store.cancel([owner], "no longer wanted") == [Answer.DONE]
    assert await store.owner(QUEUE, "d") is None


# ------------------------------------------------------------------ prefixes


async def test_schedules_of_another_prefix_are_not_seen(store: SqliteStore, path: Path, clock: TurnedClock) -> None:
    other = SqliteStore(path, prefix="other", clock=clock)
    mine, theirs = await given_schedule(store), await given_schedule(other)

    await store.put_schedule(replace(mine.schedule, name="mine"), mine, mine.next_at_ms)

    assert [record.schedule.name for record in await store.schedules()] == ["mine"]
    assert await schedule_of(other) == theirs
    await other.close()
