"""Connections to a Redis server: those of a loop belong to it, are opened at first use, and are closed with the store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from toril.clock import Clock
from toril.errors import StoreUnavailable, UnsupportedStore
from toril.stores.redis.scripts import Argument, script

try:
    import redis.asyncio as aioredis
    from redis import exceptions
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError:  # pragma: no cover
    raise UnsupportedStore("a redis:// store needs redis-py: install it with `pip install 'toril[redis]'`") from None

CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 5.0
UNBLOCK_TIMEOUT_S = 1.0
OFFSET_LIFE_S = 60.0
AWAY = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    OSError,
    TimeoutError,
)
"""Errors that say that the server cannot be reached or written right now."""


@dataclass
class _Here:
    """What belongs to one loop of one process."""

    client: Any
    bells: dict[str, list[Bell]] = field(default_factory=dict[str, "list[Bell]"])
    offset_ms: int = 0
    measured_at_s: float | None = None


class Connections:
    """The connections of one store."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._loops: dict[tuple[int, asyncio.AbstractEventLoop], _Here] = {}

    @property
    def place(self) -> str:
        """The server, without user and password."""
        parts = urlsplit(self._url)
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{parts.path}"

    async def now_ms(self) -> int:
        """The server's time, as the clock and what it is off by tell it. A clock that is turned is taken at its word."""
        if self._clock.turned:
            return self._clock.now_ms()
        here = self._here()
        if here.measured_at_s is None or time.monotonic() - here.measured_at_s > OFFSET_LIFE_S:
            before_ms = self._clock.now_ms()
            seconds, micros = await self.command("TIME")
            midway_ms = (before_ms + self._clock.now_ms()) // 2
            here.offset_ms = int(seconds) * 1000 + int(micros) // 1000 - midway_ms
            here.measured_at_s = time.monotonic()
        return self._clock.now_ms() + here.offset_ms

    async def run(self, name: str, keys: Sequence[str], **values: Argument) -> Any:
        """The answer of a script. A server that does not know it yet is told.

        Raises:
            StoreUnavailable: the server cannot be reached or written; the script may have run.
        """
        loaded = script(name, turned=self._clock.turned)
        arguments = loaded.arguments(keys, values)
        try:
            return await self.command("EVALSHA", loaded.sha, *arguments)
        except exceptions.NoScriptError:
            return await self.command("EVAL", loaded.text, *arguments)

    async def command(self, *words: str | float) -> Any:
        """The answer of one command. One on a connection that has gone stale is sent again, since all can be repeated.

        Raises:
            StoreUnavailable: the server cannot be reached or written.
        """
        try:
            try:
                return await self._here().client.execute_command(*words)
            except exceptions.ConnectionError:
                return await self._here().client.execute_command(*words)
        except AWAY as error:
            raise StoreUnavailable(f"{self.place} cannot be reached or written: {error}") from error

    @contextlib.asynccontextmanager
    async def bell(self, worker: str, name: str) -> AsyncGenerator[Bell]:
        """A connection on which this worker can wait. It goes by `name` in the server's list of clients.

        Raises:
            StoreUnavailable: the server cannot be reached.
        """
        bells = self._here().bells.setdefault(worker, [])
        try:
            bell = bells.pop() if bells else await self._open_bell(name)
            yield bell
        except AWAY as error:
            raise StoreUnavailable(f"{self.place} cannot be reached: {error}") from error
        bells.append(bell)

    async def close(self) -> None:
        """Close the connections of the running loop, and forget those of loops that are over."""
        here = self._loops.pop(self._key(), None)
        if here is not None:
            for bell in [bell for bells in here.bells.values() for bell in bells]:
                await bell.close()
            await here.client.aclose()
        self._forget_closed()

    def _key(self) -> tuple[int, asyncio.AbstractEventLoop]:
        return os.getpid(), asyncio.get_running_loop()

    def _here(self) -> _Here:
        here = self._loops.get(self._key())
        if here is None:
            self._forget_closed()
            here = self._loops[self._key()] = _Here(self._new_client())
        return here

    def _forget_closed(self) -> None:
        for key in [key for key in self._loops if key[0] != os.getpid() or key[1].is_closed()]:
            del self._loops[key]

    def _new_client(self) -> Any:
        client: Any = aioredis.Redis
        return client.from_url(
            self._url,
            decode_responses=True,
            encoding_errors="surrogateescape",
            protocol=2,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )

    async def _open_bell(self, name: str) -> Bell:
        connection = self._here().client.connection_pool.make_connection()
        bell = Bell(self, connection)
        try:
            await bell.open(name)
        except BaseException:
            await bell.close()
            raise
        return bell


class Bell:
    """One connection that blocks until a marker is there to take."""

    def __init__(self, connections: Connections, connection: Any) -> None:
        self._connections = connections
        self._connection = connection
        self._id = 0

    async def open(self, name: str) -> None:
        await self._connection.connect()
        self._id = int(await self._ask("CLIENT", "ID"))
        with contextlib.suppress(exceptions.ResponseError):  # a name with blanks: the worker works, and is not listed
            await self._ask("CLIENT", "SETNAME", name)

    async def pop(self, markers: Sequence[str], seconds: float) -> str | None:
        """The first marker that is there within so many seconds; it is taken, so that nobody else wakes for it."""
        answer = await self._ask("BZPOPMIN", *markers, f"{max(seconds, 0.001):.3f}", timeout=seconds + ANSWER_TIMEOUT_S)
        return None if answer is None else str(answer[0])

    async def stop(self, popping: asyncio.Future[str | None]) -> str | None:
        """End a `pop` early and say what it brought; a connection that does not answer is closed."""
        try:
            await self._connections.command("CLIENT", "UNBLOCK", self._id)
            return await asyncio.wait_for(asyncio.shield(popping), UNBLOCK_TIMEOUT_S)
        except (StoreUnavailable, *AWAY):
            popping.cancel()
            await self.close()
            return None

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await self._connection.disconnect()

    async def _ask(self, *words: str | float, timeout: float = ANSWER_TIMEOUT_S) -> Any:
        try:
            await self._connection.send_command(*words)
            return await self._connection.read_response(timeout=timeout)
        except AWAY:
            await self.close()
            raise
