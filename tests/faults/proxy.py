"""A relay between a store and its server that does harm to what passes.

It runs on a thread of its own, so that a test whose loop is blocked, or over, can still command it. What it is told holds
when the call returns. It reads requests and answers one by one, as Redis writes them; what it cannot read, such as TLS, it
passes on as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Literal, NamedTuple, Self, TypeVar

T = TypeVar("T")

Which = Literal["all", "hot", "blocking"]
"""All connections; those on which nobody has blocked; those on which somebody has."""

BLOCKS: Final = frozenset({"BZPOPMIN", "BLPOP", "BZMPOP"})
PATIENCE_S: Final = 20.0
CHUNK: Final = 65_536


class Messages:
    """Cuts a stream into the messages of RESP, the protocol of Redis. A stream of something else has none."""

    def __init__(self) -> None:
        self._rest = b""
        self._foreign = False

    @property
    def begun(self) -> int:
        """How many bytes there are of the message that is not whole yet."""
        return len(self._rest)

    def read(self, data: bytes) -> list[bytes]:
        """The messages that this makes whole."""
        found: list[bytes] = []
        if self._foreign:
            return found
        data, at = self._rest + data, 0
        try:
            while (end := _end_of(data, at)) is not None:
                found.append(data[at:end])
                at = end
        except ValueError:
            self._foreign = True
        self._rest = b"" if self._foreign else data[at:]
        return found


def _end_of(data: bytes, at: int) -> int | None:
    """Where the message that begins at `at` ends; None when it is not whole.

    Raises:
        ValueError: no message begins so.
    """
    line = data.find(b"\r\n", at)
    if at == len(data) or (line < 0 and data[at : at + 1] in b"+-:$*_,#(=!%~>"):
        return None
    kind, end = data[at : at + 1], line + 2
    if kind in b"+-:_,#(":
        return end
    if kind not in b"$=!*~>%":
        raise ValueError(f"no message begins with {kind!r}")
    count = int(data[at + 1 : line])
    if kind in b"$=!":
        return end if count < 0 else end + count + 2 if end + count + 2 <= len(data) else None
    for _ in range(2 * count if kind == b"%" else count):
        inner = _end_of(data, end)
        if inner is None:
            return None
        end = inner
    return end


def command_of(request: bytes) -> str:
    """The first word of a request, an array of texts."""
    return request.split(b"\r\n", 3)[2].decode().upper()


@contextlib.contextmanager
def during(begin: Callable[[], object], end: Callable[[], object]) -> Generator[None]:
    """A fault for the length of a block, as in `during(proxy.freeze, proxy.thaw)`."""
    begin()
    try:
        yield
    finally:
        end()


class _Passed(NamedTuple):
    """What goes on of what came, and whether the connection is cut behind it."""

    data: bytes
    last: bool = False


class _Relay:
    """One connection: a socket to the store, and one to the server."""

    def __init__(self, store: asyncio.StreamWriter, server: asyncio.StreamWriter, *, frozen: bool) -> None:
        self._writers = (store, server)
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.requests = Messages()
        self.answers = Messages()
        self.blocking = False
        self.deaf = False  # some answers were dropped
        self.passing = asyncio.Event()  # clear while it is frozen
        if not frozen:
            self.passing.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


class Proxy:
    """Passes everything on to a server until it is told otherwise."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._news = threading.Condition()
        self._listening: socket.socket | None = None
        self._relays: set[_Relay] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._slamming = False
        self._freezing = False
        self._muted: Which | None = None
        self._losing: Which | None = None
        self._answers_before_loss = 0
        self._request_bytes: int | None = None
        self._answer_bytes: int | None = None
        self._delay_s = 0.0
        self._piece = CHUNK
        self.port = 0
        self.requests: Counter[str] = Counter()
        """How often each command has reached the server, or would have."""
        self.answers = 0
        """How many answers have reached the store."""
        self.harmed = 0
        """How many connections were cut by `lose_answer` and `cut_after`, and answers dropped by `mute`."""
        self.tried_at_s: list[float] = []
        """When somebody has connected."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ------------------------------------------------------------------ faults

    def aim(self, port: int) -> None:
        """Bring connections to come to another server; those that stand stay."""
        self._target = port

    def cut(self, which: Which = "all") -> int:
        """Break connections as a network does that resets them; return how many."""
        return self._do(self._cut(which))

    def refuse(self) -> None:
        """Cut all, and let nobody listen any more."""
        self._do(self._close())
        self.cut()

    def accept(self) -> None:
        """Listen, again on the same port, to all who come."""
        self._slamming = False
        self._do(self._listen())

    def slam(self) -> None:
        """Cut all, and whoever connects at once."""
        self._slamming = True
        self.cut()

    def freeze(self, which: Which = "all", *, new: bool = True) -> None:
        """Keep the sockets and let nothing pass either way, so that neither end knows; connections to come likewise if `new`."""
        self._do(self._freeze(which, new))

    def thaw(self) -> None:
        """Let pass what was held, and all that comes."""
        self._do(self._thaw())

    def mute(self, which: Which = "all") -> None:
        """Let requests reach the server, and drop its answers."""
        self._muted = which

    def unmute(self) -> None:
        """Let answers pass again, and cut connections that miss some: what came next would be taken for them."""
        self._muted = None
        self._do(self._cut_deaf())

    def lose_answer(self, which: Which = "all", *, after: int = 0) -> None:
        """Drop the next answer but `after`, and cut its connection."""
        self._losing, self._answers_before_loss = which, after

    def cut_after(self, *, request_bytes: int | None = None, answer_bytes: int | None = None) -> None:
        """Let so many more bytes of requests, or of answers, pass, and cut the connection that brings the next."""
        self._request_bytes, self._answer_bytes = request_bytes, answer_bytes

    def delay(self, seconds: float) -> None:
        """Hold each packet for so long, each way."""
        self._delay_s = seconds

    def crumble(self, piece: int = 1) -> None:
        """Pass everything on in packets of so many bytes."""
        self._piece = piece

    # ------------------------------------------------------------------ looking

    @property
    def connections(self) -> int:
        """How many stand."""
        return len(self._relays)

    def wait(self, so: Callable[[], bool], what: str) -> None:
        """Return when it is so; looked at whenever something has passed."""
        with self._news:
            assert self._news.wait_for(so, PATIENCE_S), f"waited {PATIENCE_S:g} s for {what}"

    async def until(self, so: Callable[[], bool], what: str) -> None:
        """The same, for a loop that goes on meanwhile."""
        await asyncio.to_thread(self.wait, so, what)

    # ------------------------------------------------------------------ on the thread

    def _do(self, act: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(act, self._loop).result(PATIENCE_S)

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()

    def _meant(self, which: Which | None, relay: _Relay) -> bool:
        return which == "all" or (which is not None and relay.blocking == (which == "blocking"))

    async def _cut(self, which: Which) -> int:
        hit = [relay for relay in self._relays if self._meant(which, relay)]
        for relay in hit:
            relay.cut()
        return len(hit)

    async def _cut_deaf(self) -> None:
        for relay in self._relays:
            if relay.deaf:
                relay.cut()

    async def _freeze(self, which: Which, new: bool) -> None:
        self._freezing = new
        for relay in self._relays:
            if self._meant(which, relay):
                relay.passing.clear()

    async def _thaw(self) -> None:
        self._freezing = False
        for relay in self._relays:
            relay.passing.set()

    async def _listen(self) -> None:
        if self._listening is None:
            self._listening = socket.create_server(("127.0.0.1", self.port), backlog=100)
            self._listening.setblocking(False)
            self.port = self._listening.getsockname()[1]
            self._loop.add_reader(self._listening, self._come)

    async def _close(self) -> None:
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    async def _end(self) -> None:
        await self._close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(4):
            await asyncio.sleep(0)  # what was aborted is closed

    def _come(self) -> None:
        """Take in whoever knocks. By hand, since a server of asyncio's loses those who come while it is being closed."""
        assert self._listening is not None
        with contextlib.suppress(OSError):
            connection, _ = self._listening.accept()
            self.tried_at_s.append(time.monotonic())
            task = self._loop.create_task(self._welcome(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _welcome(self, connection: socket.socket) -> None:
        with contextlib.ExitStack() as ends, contextlib.suppress(OSError):
            ends.callback(connection.close)
            self._tell()
            connection.setblocking(False)
            requests, store = await asyncio.open_connection(sock=connection)
            ends.callback(store.transport.abort)
            if not self._slamming:
                answers, server = await asyncio.open_connection("127.0.0.1", self._target)
                ends.callback(server.transport.abort)
                if not self._slamming and self._listening is not None:
                    await self._relay(_Relay(store, server, frozen=self._freezing), requests, store, answers, server)
        self._tell()

    async def _relay(
        self,
        relay: _Relay,
        requests: asyncio.StreamReader,
        store: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> None:
        self._relays.add(relay)
        self._tell()
        pumps = [
            asyncio.ensure_future(self._pump(relay, requests, server, self._ask)),
            asyncio.ensure_future(self._pump(relay, answers, store, self._answer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            relay.cut()
            self._relays.discard(relay)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self,
        relay: _Relay,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        through: Callable[[_Relay, bytes], _Passed],
    ) -> None:
        """Pass on what comes from one side, until the connection is to end."""
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await asyncio.sleep(self._delay_s)
                await relay.passing.wait()
                passed = through(relay, data)
                for at in range(0, len(passed.data), self._piece):
                    writer.write(passed.data[at : at + self._piece])
                    await writer.drain()
                if passed.last:
                    self.harmed += 1
                    return
                self._tell()
        await relay.passing.wait()

    def _ask(self, relay: _Relay, data: bytes) -> _Passed:
        for request in relay.requests.read(data):
            command = command_of(request)
            self.requests[command] += 1
            relay.blocking = relay.blocking or command in BLOCKS
        if self._request_bytes is None:
            return _Passed(data)
        self._request_bytes, passed = _rationed(data, self._request_bytes)
        return passed

    def _answer(self, relay: _Relay, data: bytes) -> _Passed:
        end = -relay.answers.begun
        messages = relay.answers.read(data)
        if relay.deaf or self._meant(self._muted, relay):
            relay.deaf = True
            self.harmed += len(messages)
            return _Passed(b"")
        for message in messages:
            if self._meant(self._losing, relay):
                if self._answers_before_loss == 0:
                    self._losing = None
                    return _Passed(data[: max(0, end)], last=True)
                self._answers_before_loss -= 1
            end += len(message)
            self.answers += 1
        if self._answer_bytes is None:
            return _Passed(data)
        self._answer_bytes, passed = _rationed(data, self._answer_bytes)
        return passed


def _rationed(data: bytes, ration: int) -> tuple[int | None, _Passed]:
    """What is left of a ration, None when it is used up; and what goes on."""
    if len(data) <= ration:
        return ration - len(data), _Passed(data)
    return None, _Passed(data[:ration], last=True)
