"""The store on Redis: each verb is one script call, which speaks BullMQ's wire format."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final, TypeVar

from toril.clock import SYSTEM_CLOCK, Clock
from toril.errors import ConfigError
from toril.stores.redis.admin import RedisAdmin
from toril.stores.redis.calls import KIND, literal
from toril.stores.redis.checkup import RedisCheckup
from toril.stores.redis.connection import Connections
from toril.stores.redis.consumer import RedisConsumer
from toril.stores.redis.eventlog import RedisEventLog
from toril.stores.redis.keys import Keys, tagged
from toril.stores.redis.producer import RedisProducer
from toril.stores.redis.schedules import RedisSchedules
from toril.stores.redis.servers import Source, taken_out

Number = TypeVar("Number", int, float)


TIMEOUT_S: Final = 5.0
VISIBLE_CONNECTIONS: Final = 8


class RedisStore(RedisProducer, RedisConsumer, RedisAdmin, RedisSchedules, RedisEventLog, RedisCheckup):
    """Jobs in Redis, under keys that begin with `prefix`. Opening does no I/O; the first verb connects.

    `source` is a URL, or a client of `redis.asyncio` whose settings are taken over. On a cluster, the prefix is made a hash
    tag, as in `{bull}`, which keeps all queues together; with `?shard=queue` each queue's name is one. `timeout` is how many
    seconds an operation may take, `visible_connections` how many connections a worker may show to Node.
    """

    sharded: ClassVar[bool] = False
    lanes = 2  # one batch is under way while the worker runs the jobs of the other

    def __init__(
        self,
        source: Source,
        *,
        prefix: str = "bull",
        clock: Clock = SYSTEM_CLOCK,
        timeout: float = TIMEOUT_S,
        visible_connections: int = VISIBLE_CONNECTIONS,
    ) -> None:
        if not timeout > 0:
            raise ConfigError(f"timeout must be more than 0 s, not {timeout!r}")
        if visible_connections < 0:
            raise ConfigError(f"visible_connections must be a whole number from 0, not {visible_connections!r}")
        connections = Connections(source, clock, timeout_s=timeout, home=f"{tagged(prefix)}:")
        if connections.clustered and not self.sharded:
            prefix = tagged(prefix)
        super().__init__(Keys(prefix, sharded=self.sharded), connections, clock, visible_connections)

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
        await self._run("age", self._place(""), pattern=f"{literal(self.prefix)}:*")


def open_store(url: str, *, prefix: str, clock: Clock) -> RedisStore:
    """A store by its URL, whose options `timeout`, `visible_connections` and `shard` are ours; the others are redis-py's.

    Raises:
        ConfigError: the URL, or an option in it, cannot be right.
    """
    from toril.stores.redis.sharded import ShardedRedisStore

    plain, options = taken_out(url, {"timeout", "visible_connections", "shard"})
    shard = options.get("shard", "prefix")
    if shard not in ("prefix", "queue"):
        raise ConfigError(f"the option shard of a Redis URL is prefix or queue, not {shard!r}")
    kind = ShardedRedisStore if shard == "queue" else RedisStore
    return kind(
        plain,
        prefix=prefix,
        clock=clock,
        timeout=_number(options, "timeout", float, TIMEOUT_S),
        visible_connections=_number(options, "visible_connections", int, VISIBLE_CONNECTIONS),
    )


def _number(options: dict[str, str], name: str, kind: Callable[[str], Number], default: Number) -> Number:
    try:
        return kind(options[name]) if name in options else default
    except ValueError:
        raise ConfigError(f"the option {name} of a Redis URL must be a number, not {options[name]!r}") from None
