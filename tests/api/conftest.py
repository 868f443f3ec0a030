"""Apps and queues for the tests of what people import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toril import App, Queue
from toril.store import Store
from worker.stage import WatchedStore


@pytest.fixture
def queue(store: Store) -> Queue:
    """A queue that no app declares."""
    return Queue("email", store)


@pytest.fixture
def watched(store: Store) -> WatchedStore:
    """The store of this test, watched."""
    return WatchedStore(store)


@pytest.fixture(autouse=True)
def _told_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no pyproject.toml of this machine says anything."""
    for name in (
        *("TORIL_URL", "REDIS_URL", "UPSTASH_REDIS_URL", "REDIS_HOST", "TORIL_ENV"),
        *("ENABLE_WORKERS", "TORIL_ENABLE_WORKERS", "WORKER_CONCURRENCY", "EMAIL_WORKER_CONCURRENCY"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def app_on(store: Store) -> Callable[..., App]:
    """Makes an app on the store of this test, under its turned clock."""

    def make(**options: Any) -> App:
        return App(store=store, clock=store.clock, **options)

    return make
