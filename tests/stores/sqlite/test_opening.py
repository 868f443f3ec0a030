"""Opening a file: who may read it, and what is said when it cannot be opened or is not what it should be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.crew import crew
from toril.errors import StoreDamaged, StoreUnavailable, UnsupportedStore
from toril.handlers import Context
from toril.queue import Queue
from toril.states import State
from toril.stores.sqlite import connection
from toril.stores.sqlite.connection import Place, explain
from toril.stores.sqlite.database import database_at, leave
from toril.stores.sqlite.store import SqliteStore
from toril.worker import Worker

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "toril.db"


async def use(path: Path) -> None:
    """Add one job, and close."""
    store = SqliteStore(path)
    try:
        await Queue("email", store).add("welcome")
    finally:
        await store.close()


def given_store(path: Path, *statements: str) -> None:
    """A store that was used and closed, then changed by hand."""
    asyncio.run(use(path))
    given_database(path, *statements)


def given_database(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def refusal(path: Path) -> str:
    """What is said when the file is used."""
    with pytest.raises(UnsupportedStore) as caught:
        asyncio.run(use(path))
    return str(caught.value)


# ------------------------------------------------------------------ the file


def test_a_new_file_can_be_read_by_nobody_else(path: Path) -> None:
    given_store(path)

    assert path.stat().st_mode & 0o777 == 0o600


async def test_the_files_beside_it_can_be_read_by_nobody_else(path: Path) -> None:
    store = SqliteStore(path)
    await Queue("email", store).add("welcome")

    beside = [file for file in path.parent.iterdir() if file.is_file()]

    assert {file.name: file.stat().st_mode & 0o777 for file in beside} == {
        "toril.db": 0o600,
        "toril.db-shm": 0o600,
        "toril.db-wal": 0o600,
    }
    await store.close()


def test_making_a_store_makes_no_file(path: Path) -> None:
    store = SqliteStore(path)
    asyncio.run(store.close())

    assert not path.exists()


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("relaxed", 1)])
async def test_each_commit_is_synced_unless_durability_is_relaxed(path: Path, durability: str, level: int) -> None:
    database = database_at(Place(path, "full" if durability == "full" else "relaxed"))

    synchronous = await database.write(lambda tx: tx.connection.execute("PRAGMA synchronous").fetchone()[0])

    assert synchronous == level
    leave(database)


async def test_two_stores_in_memory_know_nothing_of_each_other() -> None:
    one, two = SqliteStore(":memory:"), SqliteStore(":memory:")
    await Queue("email", one).add("welcome")

    assert [len(await store.summaries()) for store in (one, two)] == [1, 0]
    await one.close()
    await two.close()


async def test_a_look_that_comes_beside_the_first_write_waits_for_the_file(tmp_path: Path) -> None:
    for n in range(20):
        store = SqliteStore(tmp_path / f"{n}.db")
        try:
            await asyncio.gather(store.pause("email"), store.summaries())
        finally:
            await store.close()


async def test_opening_waits_for_another_process_that_holds_the_whole_file(path: Path) -> None:
    await use(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in ("PRAGMA locking_mode = EXCLUSIVE", "BEGIN IMMEDIATE", "DELETE FROM worker"):
            other.execute(statement)
        adding = asyncio.ensure_future(use(path))
        await asyncio.wait([adding], timeout=0.2)
        waits = not adding.done()
        other.execute("COMMIT")
    await adding

    assert waits


# ------------------------------------------------------------------ places that cannot be


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no" / "toril.db") == (
        f"the directory {tmp_path / 'no'} does not exist: create it, or name another place"
    )


def test_a_path_that_is_a_directory_is_answered_with_a_file_in_it(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path} is a directory: name a file in it, as in {tmp_path / 'toril.db'}"


def nfs(_: Path) -> str:
    return "nfs4"


def test_a_network_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "filesystem_of", nfs)

    assert "is on a network file system (nfs4)" in refusal(path)
    assert not path.exists()


def test_a_sqlite_that_is_too_old_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))

    assert "Toril needs SQLite 3.38 or newer" in refusal(path)


@pytest.fixture
def others() -> Iterator[Path]:
    """A directory that another user may enter."""
    directory = Path(tempfile.mkdtemp(prefix="toril-"))
    directory.chmod(0o755)
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


@pytest.mark.parametrize(("file_mode", "directory_mode"), [(0o444, 0o777), (0o666, 0o555)], ids=["file", "directory"])
def test_what_is_read_only_is_named(tmp_path: Path, others: Path, file_mode: int, directory_mode: int) -> None:
    given_store(others / "toril.db")
    (others / "toril.db").chmod(file_mode)
    others.chmod(directory_mode)
    with crew(tmp_path) as hired:
        uid = NOBODY if os.geteuid() == 0 else 0
        child = hired.start("add_one", path=str(others / "toril.db"), job_id="no", uid=uid)

        assert child.wait(60) == 0, hired.errors()

        expected = (
            f"UnsupportedStore: {others / 'toril.db'} or its directory is read-only for this user: change its mode"
        )
        assert expected in hired.errors()


# ------------------------------------------------------------------ files that are something else


def test_a_file_that_is_no_database_is_left_alone(path: Path) -> None:
    path.write_text("a letter, " * 1000)

    with pytest.raises(StoreDamaged, match=r"is not a sound SQLite database .* restore a backup"):
        asyncio.run(use(path))

    assert path.read_text() == "a letter, " * 1000


def test_the_database_of_another_program_is_left_alone(path: Path) -> None:
    given_database(path, "CREATE TABLE customers (name TEXT)")

    assert refusal(path) == f"{path} is a database of another program: name another file"


def test_a_database_that_another_program_has_signed_is_left_alone(path: Path) -> None:
    given_database(path, "PRAGMA application_id = 77")

    assert refusal(path) == f"{path} is a database of another program: name another file"


def test_a_file_of_a_newer_toril_is_refused(path: Path) -> None:
    given_store(path, "INSERT INTO migration VALUES (99, '0099_later.sql', 'x', 0)")

    assert "has schema 99, and this Toril knows" in refusal(path)
    assert "upgrade toril" in refusal(path)


def test_a_file_whose_schema_was_made_otherwise_is_refused(path: Path) -> None:
    given_store(path, "UPDATE migration SET checksum = 'x' WHERE number = 1")

    assert "was made with another 0001_jobs.sql than this Toril has" in refusal(path)


# ------------------------------------------------------------------ files that are damaged


def given_many_jobs(path: Path) -> None:
    async def add() -> None:
        store = SqliteStore(path)
        await Queue("email", store).add_many([("welcome", {"text": "x" * 500})] * 500)
        await store.close()

    asyncio.run(add())


def test_a_file_that_was_cut_off_is_damaged(path: Path) -> None:
    given_many_jobs(path)
    os.truncate(path, path.stat().st_size // 2)

    with pytest.raises(StoreDamaged, match="is not a sound SQLite database"):
        asyncio.run(use(path))


def test_a_file_whose_pages_were_overwritten_is_damaged(path: Path) -> None:
    given_many_jobs(path)
    overwrite(path)

    with pytest.raises(StoreDamaged, match="stop all workers, keep a copy"):
        asyncio.run(use(path))


async def test_a_store_that_is_damaged_while_in_use_says_so(path: Path) -> None:
    await asyncio.to_thread(given_many_jobs, path)
    store = SqliteStore(path)
    await store.settings("email")
    overwrite(path)

    with pytest.raises(StoreDamaged):
        await store.find("email", State.WAITING)
    with pytest.raises(StoreDamaged):
        await Queue("email", store).drain()
    await store.close()


async def test_a_worker_stops_at_a_damaged_store_and_says_why(path: Path) -> None:
    await asyncio.to_thread(given_many_jobs, path)
    overwrite(path)

    async def process(ctx: Context) -> None: ...

    store = SqliteStore(path)
    with pytest.raises(StoreDamaged):
        await asyncio.wait_for(Worker("email", process, store).run(), 20)
    await store.close()


def overwrite(path: Path) -> None:
    """Write nonsense over every page but the first."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))


# ------------------------------------------------------------------ sentences


def test_an_io_error_comes_with_its_next_step() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = 778  # SQLITE_IOERR_WRITE

    said = explain(Place(Path("/var/toril.db")), error)

    assert isinstance(said, StoreUnavailable)
    assert str(said) != "/var/toril.db: disk I/O error"


def test_an_error_without_a_code_can_be_explained() -> None:
    error = sqlite3.OperationalError("Could not decode to UTF-8 column")

    assert isinstance(explain(Place(Path("/var/toril.db")), error), StoreDamaged | StoreUnavailable)
