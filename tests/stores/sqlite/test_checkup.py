"""How a file is looked at, and what is mended in it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.given import (
    QUEUE,
    add,
    claim_one,
    complete,
    count_of,
    given,
    given_active,
    given_completed,
    given_flow,
    given_many,
    new_job,
    refs,
)
from toril.clock import TurnedClock
from toril.model import Finding, JobRef
from toril.options import Deduplication
from toril.states import State
from toril.stores.sqlite.connection import Place
from toril.stores.sqlite.store import SqliteStore
from toril.stores.sqlite.verbs.checkup import preflight


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "toril.db"


@pytest.fixture
def beside(file: Path) -> Iterator[sqlite3.Connection]:
    """Somebody else who writes the file."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
        yield db


async def wrong(store: SqliteStore) -> list[Finding]:
    return [finding for finding in await store.check() if finding.level != "ok"]


async def test_counts_that_went_wrong_are_told_and_set_right_in_every_queue(
    file: Path, clock: TurnedClock, beside: sqlite3.Connection
) -> None:
    store, other = SqliteStore(file, clock=clock), SqliteStore(file, prefix="other", clock=clock)
    await given_many(store, 2)
    await given_completed(store, queue="images")
    await given(other)
    beside.execute("UPDATE queue SET waiting = waiting + 5, completed = 9")

    found = await wrong(store)
    done = await store.repair()

    assert {(finding.about, finding.mendable) for finding in found} == {
        ("bull:email", True),
        ("bull:images", True),
        ("other:email", True),
    }
    assert len(done) == len(found) == 6
    assert "7 waiting jobs were counted and 2 are there: counted anew" in [finding.message for finding in done]
    assert await wrong(store) == await store.repair() == []
    assert await count_of(store, State.WAITING) == 2
    await store.close()
    await other.close()


async def test_counts_stay_right_for_what_happens_after_a_repair(
    file: Path, clock: TurnedClock, beside: sqlite3.Connection
) -> None:
    store = SqliteStore(file, clock=clock)
    await given(store)
    beside.execute("UPDATE queue SET waiting = 100")
    await store.repair()

    await given(store)
    await store.drain(QUEUE)

    assert await count_of(store, State.WAITING) == 0
    assert await wrong(store) == []
    await store.close()


STUCK = "UPDATE child SET state = 'completed'"
STALE = "INSERT INTO deduplication (qid, id, owner) SELECT qid, 'order', 'gone' FROM queue"
LEFT = "INSERT INTO kept (qid, deduplication, id, name, data) SELECT qid, 'order', 'kept', 'welcome', '{}' FROM queue"
EACH = pytest.mark.parametrize(
    ("damage", "said"),
    [
        (STUCK, "job 1 waits for children, and none of them is still to end"),
        (STALE, "deduplication id 'order' is owned by job gone, which has ended or is gone"),
        (LEFT, "job kept was kept until the owner of deduplication id 'order' has ended, and it has none"),
    ],
    ids=["stuck", "stale", "left"],
)


@EACH
async def test_what_waits_for_ever_is_told_and_mended(
    file: Path, clock: TurnedClock, beside: sqlite3.Connection, damage: str, said: str
) -> None:
    store = SqliteStore(file, clock=clock)
    await given_flow(store, child_queue=QUEUE)
    beside.execute(damage)

    [found] = await wrong(store)
    [done] = await store.repair()

    assert (found.level, found.about, found.mendable) == ("warning", "bull:email", True)
    assert found.message.startswith(f"{said}: ")
    assert done.message.startswith(f"{said}: ")
    assert await wrong(store) == await store.repair() == []
    await store.close()


async def test_a_parent_that_was_stuck_runs(file: Path, clock: TurnedClock, beside: sqlite3.Connection) -> None:
    store = SqliteStore(file, clock=clock)
    parent, _ = await given_flow(store)
    beside.execute(STUCK)

    await store.repair()

    assert refs([await claim_one(store)]) == [parent]
    await store.close()


async def test_an_id_whose_owner_had_ended_is_free(file: Path, clock: TurnedClock, beside: sqlite3.Connection) -> None:
    store = SqliteStore(file, clock=clock)
    done = await given_completed(store)
    beside.execute(STALE.replace("'gone'", f"'{done.id}'"))
    assert await store.owner(QUEUE, "order") == done

    await store.repair()

    ref = await given(store, deduplication="order")
    assert await store.owner(QUEUE, "order") == ref
    await store.close()


async def test_an_add_that_was_left_behind_is_added(file: Path, clock: TurnedClock, beside: sqlite3.Connection) -> None:
    store = SqliteStore(file, clock=clock)
    by = Deduplication.keep_last("order")
    await given_active(store, deduplication=by)
    await add(store, new_job(store, job_id="kept", deduplication=by))
    assert await wrong(store) == []
    beside.execute("DELETE FROM job")
    beside.execute("UPDATE queue SET active = 0")

    assert len(await wrong(store)) == len(await store.repair()) == 2

    assert refs([await claim_one(store)]) == [JobRef(QUEUE, "kept")]
    assert await store.owner(QUEUE, "order") == JobRef(QUEUE, "kept")
    await store.close()


async def test_ids_that_are_kept_for_a_time_are_sound_without_their_owner(file: Path, clock: TurnedClock) -> None:
    store = SqliteStore(file, clock=clock)
    by = Deduplication.throttle("order", 60)

    await complete(store, await given_active(store, deduplication=by, keep_completed=0))

    assert await store.owner(QUEUE, "order") is not None
    assert await wrong(store) == []
    await store.close()


async def test_more_than_one_piece_is_mended(file: Path, clock: TurnedClock, beside: sqlite3.Connection) -> None:
    store = SqliteStore(file, clock=clock)
    await given(store)
    beside.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1001) "
        "INSERT INTO deduplication (qid, id, owner) SELECT qid, 'order-' || i, 'gone' FROM n, queue"
    )

    [found] = await wrong(store)
    done = await store.repair()

    assert found.message.startswith("1001 deduplication ids are owned by jobs that have ended or are gone")
    assert [finding.message.split()[0] for finding in done] == ["1000", "deduplication"]
    assert await wrong(store) == []
    await store.close()


async def test_a_file_that_may_lose_the_last_commits_says_so_and_is_not_warned_of(file: Path) -> None:
    store = SqliteStore(file, durability="relaxed")

    [said] = await store.preflight()

    assert said.level == "ok"
    assert said.message.startswith("durability=relaxed: a power cut may take back the last commits")
    await store.close()


def test_a_file_whose_readers_stop_its_writers_is_told(file: Path, beside: sqlite3.Connection) -> None:
    [said] = preflight(beside, Place(file))

    assert (said.level, said.about) == ("warning", str(file))
    assert "its journal mode is delete, not WAL" in said.message
