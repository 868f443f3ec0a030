"""Opening a SQLite file: its place, its pragmas, its schema."""

from __future__ import annotations

import functools
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from toril.errors import StoreDamaged, StoreError, StoreUnavailable, UnsupportedStore
from toril.posix import NETWORK_FILESYSTEMS, filesystem_of, make_private
from toril.stores import _sql

R = TypeVar("R")

OLDEST_SQLITE = (3, 38, 0)
APPLICATION_ID = 0x544F5249  # "TORI"
LOCK_PATIENCE_S = 60.0

_MIGRATIONS = _sql.migrations("toril.stores.sqlite.schema")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is: a file, or this process's memory."""

    path: Path | None
    durability: Literal["full", "relaxed"] = "full"

    def __str__(self) -> str:
        return ":memory:" if self.path is None else str(self.path)


def open_writer(place: Place) -> sqlite3.Connection:
    """Open for writing; the file and its schema are made where they are missing.

    Raises:
        UnsupportedStore: SQLite is too old, the file is on a network file system, cannot be written, belongs to
            another program, or was written by a newer Toril.
        StoreDamaged: the file is not a sound database.
        StoreUnavailable: another process holds it for too long.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise UnsupportedStore(f"Toril needs SQLite 3.38 or newer, and this Python has {sqlite3.sqlite_version}")
    if place.path is not None:
        _check_place(place.path)
    return translated(place, lambda: _open(place))


def open_reader(place: Place) -> sqlite3.Connection:
    """Open a file that a writer has opened before, for reading only."""

    def connect() -> sqlite3.Connection:
        connection = _connect(place)
        connection.text_factory = functools.partial(str, encoding="utf-8", errors="replace")
        try:
            connection.execute("PRAGMA query_only = 1")
            patient(lambda: connection.execute("PRAGMA data_version").fetchone())
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    return translated(place, connect)


def _open(place: Place) -> sqlite3.Connection:
    connection = _connect(place)
    # Text that is not UTF-8 must not stop the others: `claim` finds it by its half surrogates.
    connection.text_factory = functools.partial(str, encoding="utf-8", errors="surrogateescape")
    try:
        patient(lambda: connection.execute("PRAGMA journal_mode = WAL"))
        connection.execute(f"PRAGMA synchronous = {'FULL' if place.durability == 'full' else 'NORMAL'}")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        _migrate(connection, place)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(place: Place) -> sqlite3.Connection:
    # A file is only ever made by `_check_place`, which makes it private.
    name = ":memory:" if place.path is None else f"{place.path.as_uri()}?mode=rw"
    connection = sqlite3.connect(
        name, uri=True, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    patient(lambda: connection.execute("PRAGMA trusted_schema = 0"))
    connection.execute("PRAGMA temp_store = MEMORY")
    patient(lambda: connection.execute("PRAGMA cache_size = -16384"))  # reads the file, which another may be making
    return connection


def _check_place(path: Path) -> None:
    kind = filesystem_of(path.parent.resolve())
    if kind in NETWORK_FILESYSTEMS:
        raise UnsupportedStore(
            f"{path} is on a network file system ({kind}), where SQLite cannot lock: use a local disk, Redis or Postgres"
        )
    if path.is_dir():
        raise UnsupportedStore(f"{path} is a directory: name a file in it, as in {path / 'toril.db'}")
    if not path.parent.is_dir():
        raise UnsupportedStore(f"the directory {path.parent} does not exist: create it, or name another place")
    if not path.exists():
        try:
            path.touch(mode=0o600)
            make_private(path)
        except OSError as error:
            raise UnsupportedStore(f"cannot create {path}: {error.strerror}") from error
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(path.parent, os.W_OK):
        raise UnsupportedStore(
            f"{path} or its directory is read-only for this user: change its mode, or name another place"
        )


def _migrate(connection: sqlite3.Connection, place: Place) -> None:
    patient(lambda: connection.execute("BEGIN IMMEDIATE"))
    try:
        done = _applied(connection, place)
        for number, name, text in _MIGRATIONS:
            checksum = hashlib.sha256(text.encode()).hexdigest()
            if number not in done:
                for statement in _statements(text):
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO migration VALUES (?, ?, ?, ?)", (number, name, checksum, int(time.time()))
                )
            elif done[number] != checksum:
                raise UnsupportedStore(
                    f"{place} was made with another {name} than this Toril has: use the Toril that made it"
                )
        newest = max(done, default=0)
        if newest > len(_MIGRATIONS):
            raise UnsupportedStore(
                f"{place} has schema {newest}, and this Toril knows {len(_MIGRATIONS)}: upgrade toril, or name another file"
            )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _applied(connection: sqlite3.Connection, place: Place) -> dict[int, str]:
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if owner != APPLICATION_ID:
        if tables or owner:
            raise UnsupportedStore(f"{place} is a database of another program: name another file")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    if "migration" not in tables:
        connection.execute(
            "CREATE TABLE migration (number INTEGER PRIMARY KEY, name TEXT, checksum TEXT, at_s INTEGER)"
        )
    return dict(connection.execute("SELECT number, checksum FROM migration").fetchall())


def _statements(text: str) -> list[str]:
    statements: list[str] = []
    begun = ""
    for line in text.splitlines(keepends=True):
        begun += line
        if sqlite3.complete_statement(begun):
            statements.append(begun)
            begun = ""
    return statements


def patient(action: Callable[[], R]) -> R:
    """Do what another process may be blocking, again and again for at most a minute."""
    started = time.monotonic()
    pause_s = 0.0005
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() - started > LOCK_PATIENCE_S:
                raise
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.01)


def is_busy(error: BaseException) -> bool:
    """Whether another connection holds a lock that this one wanted."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: BaseException) -> int:
    """SQLite's primary error code; 0 for an error of the driver, which has none."""
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def translated(place: Place, action: Callable[[], R]) -> R:
    """Do something on a connection; SQLite's errors come out as ours."""
    try:
        return action()
    except sqlite3.Error as error:
        raise explain(place, error) from error


def explain(place: Place, error: sqlite3.Error) -> StoreError:
    """What an error of SQLite means to the person who sees it."""
    code = _code(error)
    if is_busy(error):
        return StoreUnavailable(
            f"another process has held {place} locked for {LOCK_PATIENCE_S:.0f} s: look for a stopped one"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreDamaged(
            f"{place} is not a sound SQLite database ({error}): stop all workers, keep a copy of it and of its -wal file, "
            "and restore a backup"
        )
    if code == sqlite3.SQLITE_FULL:
        return StoreUnavailable(f"there is no room left for {place}: free some space; nothing acknowledged is lost")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return UnsupportedStore(f"{place} cannot be opened for writing ({error}): check its mode and its directory")
    return StoreUnavailable(f"{place}: {error}; if that goes on, look at its disk and its file system")
