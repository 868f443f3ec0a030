"""How a file is looked at, and what is mended in it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.given import QUEUE, count_of, given, given_completed, given_many
from toril.clock import TurnedClock
from toril.model import Finding
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
