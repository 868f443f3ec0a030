"""Files as an older Toril made them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator
from pathlib import Path

import pytest

from toril.stores.sqlite import connection
from toril.stores.sqlite.connection import Place, open_writer


@contextlib.contextmanager
def file_of(path: Path, schemas: int, monkeypatch: pytest.MonkeyPatch) -> Generator[sqlite3.Connection]:
    """A file that the first so many schemas made, to be filled; it is committed at the end of the block."""
    migrations = connection._MIGRATIONS  # pyright: ignore[reportPrivateUsage]
    with monkeypatch.context() as patch:
        patch.setattr(connection, "_MIGRATIONS", migrations[:schemas])
        open_writer(Place(path)).close()
    with contextlib.closing(sqlite3.connect(path)) as file:
        yield file
        file.commit()
