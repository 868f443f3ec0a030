"""Connections to Redis: those of a loop belong to it, are opened at first use, and are closed with the store.

A loop has one `Line` to each server, on which all verbs travel, and one `Bell` for each worker, which blocks. A line that
has broken is opened again for ever, with growing pauses; what was under way on it is sent again, since every verb can be
repeated, until the time of the call is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from toril.clock import Clock
from toril.errors import StoreDamaged, StoreError, StoreUnavailable, UnsupportedStore
from toril.options import Confirm

try:
    from redis import exceptions

    from toril.stores.redis.line import Broken, Line, Refused, Word
    from toril.stores.redis.servers import Servers, Source, servers
except ImportError:  # pragma: no cover
    raise UnsupportedStore(
        "a store on Redis needs redis-py and hiredis: install them with `pip install 'toril[redis]'`"
    ) from None
from toril.stores.redis.scripts import CALL, Argument, script

T = TypeVar("T")

OFFSET_LIFE_S: Final = 60.0
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
UNBLOCK_S: Final = 1.0
SCANNED_AT_ONCE: Final = 1000
OLDEST: Final[tuple[int, int]] = (6, 2)

AWAY: Final = (Broken, Refused, exceptions.RedisError, OSError, TimeoutError)
"""What says that a server cannot be reached, or does not do what it is asked."""

UNKNOWN: Final = (exceptions.AuthenticationError, exceptions.AuthorizationError)
"""It does not know who is asking."""

MOVED: Final = frozenset({"MOVED", "READONLY", "MASTERDOWN", "CLUSTERDOWN"})
"""Another server has the data now: look where."""

BUSY: Final = frozenset({"LOADING", "TRYAGAIN", "ASK", "BUSY", "UNBLOCKED"})
"""It will do in a while. A slot that is being moved has its keys in two places, so scripts wait until it has arrived."""

UNWILLING: Final = frozenset({"OOM", "MISCONF", "NOREPLICAS", "NOPERM", "NOAUTH", "WRONGPASS", "NOGOODSLAVE"})
"""It will not do it until somebody changes something."""


class Closed(Broken):
    """Somebody has closed the store meanwhile."""

    def __init__(self) -> None:
        super().__init__("the store was closed")


class Door:
    """The way to one server: a line that is opened again whenever it has broken."""

    def __init__(self, servers: Servers, node: str, answer_s: float) -> None:
        self._servers = servers
        self._node = node
        self._answer_s = answer_s
        self._opening: asyncio.Task[Line] | None = None
        self._pause_s = 0.0
        self._closed = False
        self.line: Line | None = None
        self.version: tuple[int, int] = OLDEST

    @property
    def flagged(self) -> bool:
        """Whether its scripts may carry flags."""
        return self.version >= (7, 0)

    async def open(self, within_s: float) -> Line:
        """The line, once it stands. All who wait for it wait for the same try.

        Raises:
            redis.exceptions.RedisError, OSError, TimeoutError, Broken, Refused: it does not stand in this time.
        """
        if self.line is not None and self.line.broken is None:
            return self.line
        if self._closed:
            raise Closed
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._open())
            self._opening.add_done_callback(_seen)
        return await _shared(self._opening, within_s)

    async def _open(self) -> Line:
        if self._pause_s:
            await asyncio.sleep(self._pause_s * (0.5 + random.random() / 2))
        self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        try:
            line = await Line.open(await self._servers.connection(self._node), self._answer_s)
            with line.closed_on_error():
                if self._closed:  # connecting may swallow that it was cancelled
                    raise Closed
                self.version = await _version(line)
        except AWAY:
            await self._servers.look_again()
            raise
        self.line = line
        self._pause_s = 0.0
        return line

    def close(self) -> None:
        """End it for good: whoever waits for it, or comes later, is told so."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        if self.line is not None:
            self.line.close()


@dataclass
class _Patience:
    """How long a call may still take, and what has kept it so long."""

    until_s: float
    trouble: Exception | None = None

    @property
    def left_s(self) -> float:
        return self.until_s - time.monotonic()


@dataclass
class _Here:
    """What belongs to one loop of one process."""

    servers: Servers
    doors: dict[str, Door] = field(default_factory=dict[str, Door])
    bells: dict[str, list[Bell]] = field(default_factory=dict[str, "list[Bell]"])
    ringing: set[Bell] = field(default_factory=set["Bell"])  # those that somebody listens to now
    held: dict[str, Line] = field(default_factory=dict[str, Line])
    openings: set[asyncio.Task[Line]] = field(default_factory=set["asyncio.Task[Line]"])
    holding: asyncio.Lock = field(default_factory=asyncio.Lock)
    ahead_ms: int = 0
    measured_at_s: float | None = None
    measuring: asyncio.Task[None] | None = None
    closed: bool = False

    def lines(self) -> list[Line]:
        lines = [door.line for door in self.doors.values() if door.line is not None]
        lines += [bell.line for bells in self.bells.values() for bell in bells]
        lines += [bell.line for bell in self.ringing]
        return lines + list(self.held.values())


class Connections:
    """The connections of one store. An operation takes at most `timeout_s`, opening a connection included."""

    def __init__(self, source: Source, clock: Clock, *, timeout_s: float = 5.0, home: str = "") -> None:
        self._source = source
        self._clock = clock
        self._home = home  # a key on the server whose clock counts
        self._timeout_s = timeout_s
        self._loops: dict[tuple[int, asyncio.AbstractEventLoop], _Here] = {}
        first = servers(source, timeout_s)
        self.place = first.place
        self.clustered = first.clustered

    # ------------------------------------------------------------------ calls

    async def now_ms(self) -> int:
        """The server's time, as the clock and what it is off by tell it. A clock that is turned is taken at its word."""
        return self._clock.now_ms() + await self.ahead_ms()

    async def ahead_ms(self) -> int:
        """How far the server's clock is ahead of ours, looked at each minute; 0 where it is not worth speaking of."""
        if self._clock.turned:
            return 0
        here = self._here()
        if here.measured_at_s is None or time.monotonic() - here.measured_at_s > OFFSET_LIFE_S:
            if here.measuring is None or here.measuring.done():
                here.measuring = asyncio.get_running_loop().create_task(self._measure(here))
                here.measuring.add_done_callback(_seen)
            await _shared(here.measuring, None)
        return here.ahead_ms

    async def _measure(self, here: _Here) -> None:
        """Find out how far it is ahead; once for all who want to know."""
        try:
            here.ahead_ms = await self._through(self._home, self._measured_ahead_ms)
        except StoreUnavailable:  # the queues of a cluster need not wait for the node that tells the time
            if here.measured_at_s is None:
                raise
        here.measured_at_s = time.monotonic()

    async def _measured_ahead_ms(self, _: Door, line: Line) -> int:
        """How far the server's clock is ahead of ours, less what the way of the answer explains."""
        before_ms = self._clock.now_ms()  # on a line that stands: opening it may have taken seconds
        seconds, micros = await line.call(("TIME",))
        server_ms = int(seconds) * 1000 + int(micros) // 1000
        return max(server_ms - self._clock.now_ms(), 0) + min(server_ms - before_ms, 0)

    async def run(self, name: str, keys: Sequence[str], /, **values: Argument) -> Any:
        """The answer of a script. A server that does not know it yet is told.

        Raises:
            StoreUnavailable: the server cannot be reached or written; the script may have run.
            StoreDamaged: a key is not of the kind that it should be.
        """

        async def ask(door: Door, line: Line) -> Any:
            loaded = script(name, turned=self._clock.turned, flagged=door.flagged)
            if loaded.once:
                values.setdefault(CALL, os.urandom(8).hex())
            arguments = loaded.arguments(keys, values)
            if "again" in values:
                values["again"] = 1  # should the answer be lost
            try:
                return await line.call(("EVALSHA", loaded.sha, *arguments))
            except Refused as error:
                if error.code != "NOSCRIPT":
                    raise
            return await line.call(("EVAL", loaded.text, *arguments))

        return await self._through(keys[0] if keys else "", ask)

    async def command(
        self, *words: Word, key: str | None = None, node: str | None = None, repeatable: bool = True
    ) -> Any:
        """The answer of one command, asked of a node, or of the one that holds `key` (by default its first argument).

        Raises:
            StoreUnavailable: the server cannot be reached or written. One that is not `repeatable` may have been done.
            StoreDamaged: a key is not of the kind that it should be.
        """

        async def ask(_: Door, line: Line) -> Any:
            return await line.call(words)

        asked = str(words[1]) if key is None and node is None else key or ""
        return await self._through(asked, ask, node=node, repeatable=repeatable)

    async def confirm(self, name: str, keys: Sequence[str], confirm: Confirm, /, **values: Argument) -> tuple[Any, str]:
        """The answer of a script, and what is still missing of what was to be confirmed: a reason, or nothing.

        It travels on a line of its own, since waiting holds up whatever comes behind it.

        Raises:
            StoreUnavailable: the server cannot be reached or written; the script may have run.
            UnsupportedStore: the server cannot confirm that. Nothing has run.
        """

        async def ask(door: Door, line: Line) -> tuple[Any, str]:
            if confirm.aof and door.version < (7, 2):
                raise UnsupportedStore(f"{self.place} is older than Redis 7.2, which wait_aof needs: leave it out")
            loaded = script(name, turned=self._clock.turned, flagged=door.flagged)
            answer = line.call(
                ("EVAL", loaded.text, *loaded.arguments(keys, values))
            )  # with its text: should the server not know it, WAIT would wait for nothing
            values["again"] = 1  # should the answer be lost
            wait = line.call(_wait(confirm), confirm.within_ms / 1000 + self._timeout_s)
            wait.add_done_callback(_seen)
            return await answer, await _doubt(confirm, wait)

        return await self._through(keys[0], ask, purpose="confirm ")

    async def scan(self, pattern: str) -> AsyncGenerator[list[str], None]:
        """The keys that fit a pattern, some at a time, of all servers that hold keys; one may come twice.

        Raises:
            StoreUnavailable: a server cannot be reached.
        """
        for node in await self._nodes():
            cursor = ""
            while cursor != "0":
                words = ("SCAN", cursor or "0", "MATCH", pattern, "COUNT", SCANNED_AT_ONCE)
                cursor, page = await self.command(*words, node=node)
                yield page

    async def everywhere(self, *words: Word) -> dict[str, Any]:
        """The answers to one command of all servers that hold keys, by their names.

        Raises:
            StoreUnavailable: a server cannot be reached.
        """
        return {node: await self.command(*words, node=node) for node in await self._nodes()}

    async def node_of(self, key: str) -> str:
        """The name of the server that holds a key.

        Raises:
            StoreUnavailable: it cannot be found.
        """
        return await self._node(self._here(), key, time.monotonic() + self._timeout_s)

    async def _nodes(self) -> list[str]:
        try:
            return await self._here().servers.nodes()
        except AWAY as error:
            raise self._unavailable(error) from error

    async def _through(
        self,
        key: str,
        ask: Callable[[Door, Line], Awaitable[T]],
        *,
        node: str | None = None,
        purpose: str = "",
        repeatable: bool = True,
    ) -> T:
        """What is answered to a question to the server that holds `key`, or to this node; asked again while that may help."""
        here = self._here()
        patience = _Patience(time.monotonic() + self._timeout_s)
        while True:
            place = node
            if place is None:
                place = await self._node(here, key, patience.until_s) if here.servers.clustered else ""
            door = here.doors.get(purpose + place)
            if door is None:
                door = here.doors[purpose + place] = Door(here.servers, place, self._timeout_s)
            try:
                line = door.line
                if line is None or line.broken is not None:
                    line = await door.open(patience.left_s)
                return await ask(door, line)
            except AWAY as error:
                if not repeatable and isinstance(error, Broken):
                    raise self._unavailable(error) from error
                await self._await_better(here, door, error, patience)

    async def _node(self, here: _Here, key: str, until_s: float) -> str:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await here.servers.node_of(key)
            except AWAY as error:
                await here.servers.look_again()
                if time.monotonic() + pause_s > until_s:
                    raise self._unavailable(error) from error
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _await_better(self, here: _Here, door: Door, error: Exception, patience: _Patience) -> None:
        """Return when it is worth another try.

        Raises:
            StoreUnavailable: it is not, or the time is over.
            StoreDamaged, UnsupportedStore: trying again is useless.
        """
        if patience.trouble is None or not isinstance(error, TimeoutError):
            patience.trouble = error
        code = error.code if isinstance(error, Refused) else ""
        if code in UNWILLING or isinstance(error, (Closed, *UNKNOWN)):
            raise self._unavailable(error) from error
        if code == "WRONGTYPE":
            raise StoreDamaged(f"a key in {self.place} is not of the kind it should be: {error}") from error
        if code == "MOVED" and not here.servers.clustered:
            cure = "name it as redis+cluster://host:port"
            raise UnsupportedStore(f"{self.place} is a node of a Redis Cluster: {cure}") from error
        if code and code not in MOVED and code not in BUSY:
            raise StoreUnavailable(f"{self.place} refused: {error}") from error
        if code in MOVED:
            if not here.servers.clustered and door.line is not None:
                door.line.close()
            await here.servers.look_again()
        if patience.left_s <= 0:
            raise self._unavailable(patience.trouble) from error
        if code:
            await asyncio.sleep(FIRST_PAUSE_S)

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        said = "it does not answer" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        return StoreUnavailable(f"{self.place} cannot be reached or written: {said}")

    # ------------------------------------------------------------------ connections of their own

    @contextlib.asynccontextmanager
    async def bell(self, worker: str, name: str, key: str) -> AsyncGenerator[Bell]:
        """A connection on which somebody can wait for `key`. It goes by `name` in the server's list of clients.

        Raises:
            StoreUnavailable: the server cannot be reached.
        """
        here = self._here()
        bells = here.bells.setdefault(worker, [])
        while bells and bells[-1].line.broken:
            bells.pop()
        try:
            bell = bells.pop() if bells else await self._open_bell(here, name, key)
            here.ringing.add(bell)
            try:
                yield bell
            except Refused as error:
                if error.code not in MOVED and error.code not in BUSY:
                    raise
                if error.code in MOVED:
                    bell.line.close()
                    await here.servers.look_again()
                await asyncio.sleep(FIRST_PAUSE_S)  # nothing was heard; whoever waited looks by itself
            except BaseException:
                if bell.busy:
                    bell.line.close()
                raise
            finally:
                here.ringing.discard(bell)
                if here.bells.get(worker) is not bells:
                    bell.line.close()  # whoever waited has hung up
                elif bell.line.broken is None:
                    bells.append(bell)
        except AWAY as error:
            raise self._unavailable(Closed() if here.closed else error) from error

    async def _open_bell(self, here: _Here, name: str, key: str) -> Bell:
        node = await here.servers.node_of(key)
        line = await self._open_line(here, node)
        with line.closed_on_error():
            number = await _number(line)
            if name:
                await _set_name(line, name)
        return Bell(self, line, number, node)

    async def _open_line(self, here: _Here, node: str) -> Line:
        """A connection to a server, which ends with the store though nobody has it yet."""
        opening = asyncio.ensure_future(Line.open(await here.servers.connection(node), self._timeout_s))
        here.openings.add(opening)
        opening.add_done_callback(here.openings.discard)
        try:
            line = await _shared(opening, None)
        except asyncio.CancelledError:
            opening.cancel()
            opening.add_done_callback(_unwanted)
            raise
        with line.closed_on_error():
            if here.closed:  # connecting may swallow that it was cancelled
                raise Closed
        return line

    def hang_up(self, worker: str) -> None:
        """Close the connections on which a worker has waited; with a slot for each queue, there are several."""
        bells = self._here().bells
        for known in [known for known in bells if known == worker or known.startswith(f"{worker} ")]:
            for bell in bells.pop(known):
                bell.line.close()

    async def hold(self, names: Sequence[str]) -> None:
        """Keep just these idle connections open, each going by its name in the server's list of clients.

        Raises:
            StoreUnavailable: the server cannot be reached.
        """
        here = self._here()
        async with here.holding:
            for name in [name for name, line in here.held.items() if name not in names or line.broken]:
                here.held.pop(name).close()
            for name in [name for name in names if name not in here.held]:
                try:
                    line = here.held[name] = await self._open_line(here, await here.servers.node_of(name))
                    await _set_name(line, name)
                except AWAY as error:
                    raise self._unavailable(error) from error

    # ------------------------------------------------------------------ loops

    async def close(self) -> None:
        """Close the connections of the running loop, and forget those of loops that are over."""
        here = self._loops.pop((os.getpid(), asyncio.get_running_loop()), None)
        if here is not None:
            here.closed = True
            for door in here.doors.values():
                door.close()
            for opening in here.openings:
                opening.cancel()
            for line in here.lines():
                line.close()
            here.bells.clear()
            await asyncio.sleep(0)  # lets the loop close what was aborted
        self._forget_closed()

    def _here(self) -> _Here:
        here = self._loops.get((os.getpid(), asyncio.get_running_loop()))
        if here is None:
            self._forget_closed()
            here = _Here(servers(self._source, self._timeout_s))
            self._loops[(os.getpid(), asyncio.get_running_loop())] = here
        return here

    def _forget_closed(self) -> None:
        for key in [key for key in list(self._loops) if key[0] != os.getpid() or key[1].is_closed()]:
            here = self._loops.pop(key, None)
            for line in here.lines() if here else ():
                line.forget()


class Bell:
    """One connection that blocks until something is there to take."""

    def __init__(self, connections: Connections, line: Line, number: int | None, node: str) -> None:
        self._connections = connections
        self._number = number
        self._node = node
        self.line = line
        self.busy = False

    def block(self, words: Sequence[Word], seconds: float) -> asyncio.Future[Any]:
        """The answer to a command that blocks for at most so many seconds."""
        self.busy = True
        answer = self.line.call(words, seconds + UNBLOCK_S)
        answer.add_done_callback(self._done)
        return answer

    def _done(self, answer: asyncio.Future[Any]) -> None:
        _seen(answer)
        self.busy = answer.cancelled()

    async def stop(self, answer: asyncio.Future[Any]) -> Any:
        """End a `block` early and say what it brought; a connection that does not answer is closed."""
        if self._number is None:
            self.line.close()
            return None
        try:
            await self._connections.command("CLIENT", "UNBLOCK", self._number, node=self._node)
            return await asyncio.wait_for(asyncio.shield(answer), UNBLOCK_S)
        except (StoreError, *AWAY):
            self.line.close()
            return None


def _wait(confirm: Confirm) -> tuple[Word, ...]:
    """The command that waits until what was written on its line is safe."""
    if confirm.aof:
        return ("WAITAOF", 1, confirm.replicas, confirm.within_ms)
    return ("WAIT", confirm.replicas, confirm.within_ms)


async def _doubt(confirm: Confirm, wait: asyncio.Future[Any]) -> str:
    """What is still missing of what was to be confirmed."""
    try:
        told = await wait
    except (Refused, Broken) as error:
        return f"it could not be confirmed: {error}"
    on_disk, replicas = told if confirm.aof else (1, told)
    within = f"within {confirm.within_ms / 1000:g} s"
    if not on_disk:
        return f"it was not on the server's disk {within}"
    if replicas < confirm.replicas:
        return f"only {replicas} of {confirm.replicas} replicas had it {within}"
    return ""


async def _version(line: Line) -> tuple[int, int]:
    """Of Redis, as far as the server says it; the oldest that will do when it may not be asked."""
    try:
        told: str = await line.call(("INFO", "server"))
    except Refused as error:
        if error.code not in ("NOPERM", "ERR"):
            raise
        return OLDEST
    version = next(line for line in told.splitlines() if line.startswith("redis_version:"))
    major, minor, *_ = version.partition(":")[2].split(".")
    return int(major), int(minor)


async def _number(line: Line) -> int | None:
    """What the server calls the connection; None where it may not be asked."""
    try:
        return int(await line.call(("CLIENT", "ID")))
    except Refused:
        return None


async def _set_name(line: Line, name: str) -> None:
    with contextlib.suppress(Refused):  # the server refuses the name, or may not be asked: works, and is not listed
        await line.call(("CLIENT", "SETNAME", name))


async def _shared(task: asyncio.Task[T], within_s: float | None) -> T:
    """What a task brings that others wait for too, and that does not end with one of them.

    Raises:
        TimeoutError: it takes longer.
        Closed: it has ended with the store.
    """
    done, _ = await asyncio.wait((task,), timeout=None if within_s is None else max(0.0, within_s))
    if not done:
        raise TimeoutError
    if task.cancelled():
        raise Closed
    return task.result()


def _unwanted(opening: asyncio.Task[Line]) -> None:
    """Close what was opened for somebody who has gone."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _seen(answer: asyncio.Future[Any]) -> None:
    """A failure counts as seen, also when whoever waited has gone."""
    if not answer.cancelled():
        answer.exception()
