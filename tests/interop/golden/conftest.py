"""What the replays share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from interop.golden.replay import Replay, replaying


@pytest.fixture
async def replay(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Replay]:
    """A replay of the recording that the test names."""
    async with replaying(request.param, redis_url) as replay:
        yield replay
