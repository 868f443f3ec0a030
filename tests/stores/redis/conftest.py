"""A store on Redis for each test, and a client beside it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from toril.clock import TurnedClock
from toril.store import Store
from toril.stores.redis.store import RedisStore


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    """A client beside the store."""
    client = cast("Any", Redis).from_url(redis_url, decode_responses=True)
    yield client
    await client.aclose()


@pytest.fixture
async def store(redis_url: str, clock: TurnedClock) -> AsyncIterator[Store]:
    opened = RedisStore(redis_url, prefix=f"test-{uuid.uuid4().hex}", clock=clock)
    yield opened
    await opened.close()


@pytest.fixture
async def real(redis_url: str) -> AsyncIterator[Store]:
    """A store under the machine's own clock, whose keys expire by the server's."""
    opened = RedisStore(redis_url, prefix=f"test-{uuid.uuid4().hex}")
    yield opened
    await opened.close()
