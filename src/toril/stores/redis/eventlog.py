"""What happened: the stream of each queue."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, Final, NamedTuple

from toril.clock import reached
from toril.errors import ConfigError, StoreError
from toril.model import Event
from toril.stores.redis.calls import flat_of
from toril.stores.redis.inspector import RedisInspector
from toril.stores.redis.wire import records

BLOCK_S: Final = 5.0
"""How long one call blocks, so that a connection that has died is noticed."""

PAUSE_S: Final = 1.0
"""How often those who wait look by themselves while nobody can listen for them."""

FIRST: Final = "0-0"


class _Field(NamedTuple):
    name: str
    text: str


class _Listening:
    """One call that blocks until a queue has a new event, for all of a loop who wait for it."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.waiting = 0


class RedisEventLog(RedisInspector):
    """`publish`, `read`, `last_event`, `trim`."""

    @cached_property
    def _listenings(self) -> dict[tuple[asyncio.AbstractEventLoop, str], _Listening]:
        return {}

    async def publish(self, queue: str, name: str, fields: dict[str, str]) -> str:
        told = [_Field(field, text) for field, text in fields.items()]
        return str(await self._run("publish", self._place(queue), event=name, fields=told))

    async def read(
        self, queue: str, after: str | None, *, limit: int = 1000, until_ms: int | None = None
    ) -> list[Event]:
        seen = FIRST if after is None else after
        if not re.fullmatch(r"\d+(-\d+)?", seen):
            raise ConfigError(f"{after!r} is not the id of an event of this store: pass one that it gave")
        found = await self._events(queue, seen, limit)
        while not found and until_ms is not None and self._clock.now_ms() < until_ms:
            async with self._listening(queue, seen) as told:
                found = await self._events(queue, seen, limit)  # what came before anybody listened
                if not found:
                    await reached(self._clock, told, until_ms)
            found = found or await self._events(queue, seen, limit)
        return found

    async def _events(self, queue: str, after: str, limit: int) -> list[Event]:
        key = self._keys.base(queue) + "events"
        entries = await self._connections.command("XRANGE", key, f"({after}", "+", "COUNT", limit)
        return [records.read_event(queue, entry_id, flat_of(fields)) for entry_id, fields in entries]

    @asynccontextmanager
    async def _listening(self, queue: str, after: str) -> AsyncGenerator[asyncio.Future[None]]:
        """What is done when an event comes after this one. Whoever is the last to leave ends it."""
        key = (asyncio.get_running_loop(), queue)
        listening = self._listenings.get(key)
        if listening is None or listening.task.done():
            task = asyncio.ensure_future(self._listen(queue, after))
            listening = self._listenings[key] = _Listening(task)
        listening.waiting += 1
        try:
            yield listening.task
        finally:
            listening.waiting -= 1
            if not listening.waiting:
                if self._listenings.get(key) is listening:
                    del self._listenings[key]
                listening.task.cancel()
                await asyncio.wait((listening.task,))

    async def _listen(self, queue: str, after: str) -> None:
        """Return when an event has come. Where the server cannot be heard, those who wait look by themselves."""
        try:
            while not await self._next(queue, after):
                pass
        except StoreError:
            await asyncio.sleep(PAUSE_S)

    async def _next(self, queue: str, after: str) -> Any:
        """The first event that comes within a while, on a connection of its own, named as Node names its listeners'."""
        key = self._keys.base(queue) + "events"
        name = f"{self._keys.prefix}:{base64.b64encode(self._keys.shown(queue).encode()).decode()}:qe"
        async with self._connections.bell(name, name, key) as bell:
            return await bell.block(
                ("XREAD", "COUNT", 1, "BLOCK", round(BLOCK_S * 1000), "STREAMS", key, after), BLOCK_S
            )

    async def last_event(self, queue: str) -> str:
        entries = await self._connections.command("XREVRANGE", self._keys.base(queue) + "events", "+", "-", "COUNT", 1)
        return str(entries[0][0]) if entries else FIRST

    async def trim(self, queue: str, keep: int) -> int:
        return int(await self._connections.command("XTRIM", self._keys.base(queue) + "events", "MAXLEN", "~", keep))
