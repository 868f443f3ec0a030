"""A store in a file of its own, and the file to look inside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from toril.clock import TurnedClock
from toril.stores.sqlite.connection import Place
from toril.stores.sqlite.database import Database, database_at, leave
from toril.stores.sqlite.store import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "toril.db"


@pytest.fixture
async def store(path: Path, clock: TurnedClock) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(path, clock=clock)
    yield opened
    await opened.close()


@pytest.fixture
def database(store: SqliteStore, path: Path) -> Iterator[Database]:
    """The store's own file, to look inside."""
    shared = database_at(Place(path))
    yield shared
    leave(shared)
