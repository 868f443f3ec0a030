"""One call of a script, as every verb makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from toril.clock import Clock
from toril.stores.redis.connection import Connections
from toril.stores.redis.keys import Keys, Places

KIND = "redis"


class QueueRow(NamedTuple):
    """A queue, by its place in KEYS."""

    queue: int


class RefRow(NamedTuple):
    """A job, by the place of its queue in KEYS."""

    queue: int
    id: str


class Calls:
    """What the parts of the store share: names of keys, connections, the clock."""

    def __init__(self, keys: Keys, connections: Connections, clock: Clock, visible_connections: int) -> None:
        self._keys = keys
        self._connections = connections
        self._clock = clock
        self._visible_connections = visible_connections
        self._wishes: dict[str, None] = {}

    async def _run(self, name: str, places: Places, /, **values: Any) -> Any:
        now_ms = await self._connections.now_ms()
        return await self._connections.run(name, places.bases, now=now_ms, **values)

    def _place(self, queue: str) -> Places:
        places = Places(self._keys)
        places.of(queue)
        return places


def flat_of(fields: Mapping[str, str] | Sequence[str]) -> Sequence[str]:
    """A hash, which redis-py has made a dict of where it knew the command."""
    if isinstance(fields, Mapping):
        return [word for field in fields.items() for word in field]
    return fields


def literal(text: str) -> str:
    """A glob pattern that fits this text only."""
    return "".join(f"\\{c}" if c in "*?[]^-\\" else c for c in text)
