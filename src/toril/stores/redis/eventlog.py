"""What happened: the stream of each queue."""

from __future__ import annotations

from toril.model import Event
from toril.stores.redis.calls import flat_of
from toril.stores.redis.inspector import RedisInspector
from toril.stores.redis.wire import records


class RedisEventLog(RedisInspector):
    """`publish`, `read`, `last_event`, `trim`."""

    async def publish(self, queue: str, name: str, fields: dict[str, str]) -> str:
        kept = (await self.settings(queue)).max_events
        flat = [word for field in fields.items() for word in field]
        key = self._keys.base(queue) + "events"
        return str(await self._connections.command("XADD", key, "MAXLEN", "~", kept, "*", "event", name, *flat))

    async def read(
        self, queue: str, after: str | None, *, limit: int = 1000, until_ms: int | None = None
    ) -> list[Event]:
        """As the seam says; waiting for the first event comes with the readers that need it."""
        first = "-" if after is None else f"({after}"
        key = self._keys.base(queue) + "events"
        entries = await self._connections.command("XRANGE", key, first, "+", "COUNT", limit)
        return [records.read_event(queue, entry_id, flat_of(fields)) for entry_id, fields in entries]

    async def last_event(self, queue: str) -> str:
        entries = await self._connections.command("XREVRANGE", self._keys.base(queue) + "events", "+", "-", "COUNT", 1)
        return str(entries[0][0]) if entries else "0-0"

    async def trim(self, queue: str, keep: int) -> int:
        return int(await self._connections.command("XTRIM", self._keys.base(queue) + "events", "MAXLEN", "~", keep))
