"""The store on Redis: each verb is one script call, which speaks BullMQ's wire format."""

from __future__ import annotations

from toril.clock import SYSTEM_CLOCK, Clock
from toril.stores.redis.admin import RedisAdmin
from toril.stores.redis.calls import KIND, literal
from toril.stores.redis.connection import Connections
from toril.stores.redis.consumer import RedisConsumer
from toril.stores.redis.eventlog import RedisEventLog
from toril.stores.redis.keys import Keys, Places
from toril.stores.redis.producer import RedisProducer


class RedisStore(RedisProducer, RedisConsumer, RedisAdmin, RedisEventLog):
    """Jobs in Redis, under keys that begin with `prefix`. Opening does no I/O; the first verb connects."""

    def __init__(self, url: str, *, prefix: str = "bull", clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(Keys(prefix), Connections(url, clock), clock)

    @property
    def kind(self) -> str:
        return KIND

    @property
    def place(self) -> str:
        return self._connections.place

    @property
    def prefix(self) -> str:
        return self._keys.prefix

    @property
    def clock(self) -> Clock:
        return self._clock

    async def close(self) -> None:
        await self._connections.close()

    async def age(self, ms: int) -> None:
        """Let the keys expire that are due by a clock that a test has turned `ms` milliseconds forward."""
        await self._run("age", Places(self._keys), pattern=f"{literal(self.prefix)}:*")
