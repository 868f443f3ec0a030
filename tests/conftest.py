"""What all tests share: a store of their own, on each kind of place, under a clock that stands still."""

from __future__ import annotations

import importlib
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from conformance import given
from toril.clock import TurnedClock
from toril.store import Store

OpenStore = Callable[[], Store]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each conformance test on every kind of store; one that wants a neighbour only where two can share a place."""
    if metafunc.definition.path.parent.name != "conformance" or "open_store" not in metafunc.fixturenames:
        return
    kinds = ["sqlite-file", "redis"]
    if "neighbour" not in metafunc.fixturenames:
        kinds.append("sqlite-memory")
    metafunc.parametrize("open_store", kinds, indirect=True)


@pytest.fixture(autouse=True)
def _ids_count_from_one() -> None:
    given.count_from_one()


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server for the tests of this process."""
    if shutil.which("redis-server") is None:
        sentence = "redis-server is not installed: install it (apt-get install redis-server) to run the tests on Redis"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    server = importlib.import_module("redis_server")
    process, url = server.start_redis(tmp_path_factory.mktemp("redis"))
    yield url
    server.stop(process)


@pytest.fixture
def open_store(request: pytest.FixtureRequest, tmp_path: Path, clock: TurnedClock) -> OpenStore:
    """Opens one more store object on this test's own place."""
    kind: str = getattr(request, "param", "sqlite-memory")
    if kind == "redis":
        redis = importlib.import_module("toril.stores.redis.store")
        url: str = request.getfixturevalue("redis_url")
        prefix = f"test-{uuid.uuid4().hex}"
        return lambda: redis.RedisStore(url, prefix=prefix, clock=clock)
    sqlite = importlib.import_module("toril.stores.sqlite.store")
    path = ":memory:" if kind == "sqlite-memory" else tmp_path / "t.db"  # short, since the path of a socket must be
    return lambda: sqlite.SqliteStore(path, clock=clock)


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncIterator[Store]:
    """A store with nothing in it."""
    opened = open_store()
    yield opened
    await opened.close()


@pytest.fixture
async def neighbour(open_store: OpenStore, store: Store) -> AsyncIterator[Store]:
    """A second store object on the same place, as another process would have it."""
    opened = open_store()
    yield opened
    await opened.close()
