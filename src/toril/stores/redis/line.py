"""One connection on which many calls are under way at once: written together, answered in order.

redis-py opens it (TLS, passwords, Sentinel, unix sockets: all that it knows), and hands over its transport. From then on a
call costs one future: the calls of one turn of the loop leave in one write, and hiredis reads what comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any, Final, cast

import hiredis

Word = str | bytes | int | float

WATCH_S: Final = 0.5
"""How often a line looks for an answer that is overdue."""


class Refused(Exception):
    """The server refused a command. `code` is the first word of what it said, as in `READONLY`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Broken(Exception):
    """The connection has broken; whether the command was carried out nobody knows."""


class Line(asyncio.Protocol):
    """A connection to one server. One that breaks fails all that is under way with `Broken`, and stays broken."""

    def __init__(self, loop: asyncio.AbstractEventLoop, answer_s: float) -> None:
        self._loop = loop
        self._answer_s = answer_s
        self._reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape")
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._writer: Any = None  # asyncio's, kept since it closes the transport when nobody holds it
        self._watch: asyncio.TimerHandle | None = None
        self.broken: Broken | None = None

    @classmethod
    async def open(cls, connection: Any, answer_s: float) -> Line:
        """Let a connection of redis-py's connect, and take its place.

        Raises:
            redis.exceptions.RedisError, OSError: it could not connect, or the server refused it.
        """
        line = cls(asyncio.get_running_loop(), answer_s)
        try:
            await connection.connect()
        except BaseException:
            with contextlib.suppress(Exception):
                await connection.disconnect(nowait=True)
            raise
        line._take(connection)
        return line

    def _take(self, connection: Any) -> None:
        self._writer = connection._writer
        connection._reader = connection._writer = None
        self._transport = self._writer.transport
        assert self._transport is not None
        self._transport.set_protocol(self)
        self._watch = self._loop.call_later(WATCH_S, self._look)
        if self._transport.is_closing():
            self._break(Broken("the server has closed the connection"))

    # ------------------------------------------------------------------ calls

    def call(self, words: Sequence[Word], within_s: float | None = None) -> asyncio.Future[Any]:
        """The answer to one command, as a future; `within_s` for one that may take longer than others.

        It fails with `Refused` or `Broken`. Cancelling the future does not unsend the command.
        """
        answer: asyncio.Future[Any] = self._loop.create_future()
        if self.broken is not None:
            answer.set_exception(self.broken)
            return answer
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append(packed(words))
        self._waiting.append((answer, self._loop.time() + (self._answer_s if within_s is None else within_s)))
        return answer

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and self.broken is None:
            self._transport.write(b"".join(unsent) if len(unsent) > 1 else unsent[0])

    def data_received(self, data: bytes) -> None:
        """Hand out the answers that have come."""
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                if isinstance(reply, hiredis.PushNotification):
                    continue
                answer, _ = self._waiting.popleft()
                if answer.done():
                    continue
                if isinstance(reply, hiredis.ReplyError):
                    answer.set_exception(refusal(str(reply)))
                else:
                    answer.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self._break(Broken(f"the server's answer makes no sense: {error}"))

    # ------------------------------------------------------------------ the end

    def connection_lost(self, exc: Exception | None) -> None:
        """The server, or the network, has gone."""
        self._break(Broken(f"the connection was lost: {exc or 'closed by the server'}"))

    def eof_received(self) -> bool:
        """Nothing more will come."""
        return False

    def _look(self) -> None:
        """Break a line whose oldest call is overdue: the server is frozen, or the other end has vanished."""
        now_s = self._loop.time()
        if self._waiting and self._waiting[0][1] < now_s:
            self._break(Broken("the server does not answer"))
        else:
            self._watch = self._loop.call_later(WATCH_S, self._look)

    def _break(self, error: Broken) -> None:
        if self.broken is not None:
            return
        self.broken = error
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for answer, _ in waiting:
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # whoever waits sees it; nobody needs a warning when nobody does

    def forget(self) -> None:
        """Give back the socket of a line whose loop is over, or is another process's: nothing may be said on it.

        A transport closes through its loop, and that one is gone; so its socket is taken from it, and those who would warn
        of a transport left open are told that it is closed.
        """
        for transport in self._transports():
            sock = getattr(transport, "_sock", None)
            if sock is not None:
                sock.close()
                transport._sock = None
                transport._closing = True
            elif hasattr(transport, "_ssl_protocol"):
                transport._closed = True

    def _transports(self) -> list[Any]:
        """That of the line, and with TLS the one below it."""
        transport: Any = self._transport
        tls = getattr(transport, "_ssl_protocol", None)
        return [transport] if tls is None else [transport, tls._transport]

    @contextlib.contextmanager
    def closed_on_error(self) -> Generator[None]:
        """Close it should the block fail: nobody else knows of it yet."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it; what is under way fails."""
        self._break(Broken("the connection was closed"))


def packed(words: Sequence[Word]) -> bytes:
    """A command as it goes over the wire. Text that was read with wrong bytes in it is written with the same ones."""
    try:
        return cast(bytes, hiredis.pack_command(tuple(words)))  # type: ignore[arg-type]
    except UnicodeEncodeError:
        sound = (word.encode(errors="surrogateescape") if isinstance(word, str) else word for word in words)
        return cast(bytes, hiredis.pack_command(tuple(sound)))  # type: ignore[arg-type]


_DENIED = "ERR The user executing the script can't"
_NESTED = re.compile(r"-(OOM|READONLY|MISCONF|NOREPLICAS|MASTERDOWN) ")


def refusal(message: str) -> Refused:
    """What the server said instead of an answer. Redis 6 wraps what a command inside of a script was refused with."""
    code = message.partition(" ")[0]
    if code == "ERR" and message.startswith(_DENIED):
        return Refused("NOPERM", message)
    nested = _NESTED.search(message) if code == "ERR" else None
    return Refused(nested[1] if nested else code, message)
