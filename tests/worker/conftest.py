"""Stores for the worker's tests, most of them in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from toril import Queue
from toril.store import Store
from toril.stores.sqlite.store import SqliteStore
from worker.stage import QUEUE, WatchedStore


@pytest.fixture
async def live_store() -> AsyncIterator[Store]:
    """A store in memory under the machine's own clock."""
    opened = SqliteStore(":memory:")
    yield opened
    await opened.close()


@pytest.fixture
def watched(store: Store) -> WatchedStore:
    """The store of the turned clock, watched."""
    return WatchedStore(store)


@pytest.fixture
def queue(store: Store) -> Queue:
    """The queue that most tests need."""
    return Queue(QUEUE, store)


@pytest.fixture
def live_queue(live_store: Store) -> Queue:
    """The same under the machine's own clock."""
    return Queue(QUEUE, live_store)
