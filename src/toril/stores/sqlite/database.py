"""One file in one process: its writer thread, its readers and its bell, shared by every store that is opened on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from toril.errors import StoreUnavailable
from toril.posix import after_fork_in_child
from toril.stores.sqlite.bell import Bell
from toril.stores.sqlite.connection import Place, explain, open_reader, open_writer, patient, translated
from toril.stores.sqlite.transaction import Transaction

R = TypeVar("R")

log = logging.getLogger(__name__)

MAX_CALLS_PER_COMMIT = 64
READERS = 2
FORGET_EVERY_S = 5.0


@dataclass(slots=True)
class _Call:
    """An operation that somebody on some loop waits for."""

    operation: Callable[[Transaction], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    def deliver(self) -> None:
        if self.future.done():  # the caller was cancelled; what it asked for has happened
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class Database:
    """A writer thread that commits what has gathered, a few readers, and the bell."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.bell = Bell(place, self.look_for_others)
        self.users = 0
        self._inbox: queue.SimpleQueue[_Call | Literal["look"] | None] = queue.SimpleQueue()
        self._asked_to_look = False
        self._others_version = 0
        self._thread: threading.Thread | None = None
        self._opened = threading.Lock()
        self._made = False
        self._readers: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._reading: list[sqlite3.Connection] = []
        self._forget_at_s = time.monotonic() + FORGET_EVERY_S
        self.seen_tokens: dict[str, None] = {}

    # ---------------------------------------------------------------- from any loop

    async def write(self, operation: Callable[[Transaction], R]) -> R:
        """Run an operation in a transaction of the writer thread, with others that wait; return when it is committed."""
        if self._thread is None:
            self._start()
        loop = asyncio.get_running_loop()
        call = _Call(operation, loop, loop.create_future())
        self._inbox.put(call)
        answer: R = await call.future
        return answer

    async def read(self, operation: Callable[[sqlite3.Connection], R]) -> R:
        """Run an operation on a consistent view of the file."""
        if self.place.path is None:
            return await self.write(lambda transaction: operation(transaction.connection))
        if not self._made:
            await self.write(lambda transaction: None)  # the writer makes the file and its schema
        if self._readers is None:
            self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="toril-reader")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, operation)

    def close(self) -> None:
        """End the threads, after what is waiting has been written."""
        with self._opened:
            thread, self._thread = self._thread, None
            readers, self._readers = self._readers, None
        if thread is not None:
            self._inbox.put(None)
            thread.join()
        if readers is not None:
            readers.shutdown()
        while self._reading:
            self._reading.pop().close()
        self._local = threading.local()
        self.bell.close()

    # ---------------------------------------------------------------- readers

    def _read(self, operation: Callable[[sqlite3.Connection], R]) -> R:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = open_reader(self.place)
            self._reading.append(connection)

        def view() -> R:
            connection.execute("BEGIN")
            try:
                return operation(connection)
            finally:
                connection.execute("COMMIT")

        return translated(self.place, lambda: patient(view))

    # ---------------------------------------------------------------- the writer thread

    def _start(self) -> None:
        with self._opened:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="toril-writer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        try:
            while True:
                calls, ended = self._gather()
                if calls:
                    connection = self._serve(connection, calls)
                    _deliver(calls)
                if self._asked_to_look:
                    self._tell_of_others(connection)
                if ended:
                    return
        finally:
            if connection is not None:
                connection.close()

    def _gather(self) -> tuple[list[_Call], bool]:
        """What has been asked for while the last commit was under way; waits for the first."""
        calls: list[_Call] = []
        call = self._inbox.get()
        while call is not None:
            if call == "look":
                self._asked_to_look = True
            else:
                calls.append(call)
            if len(calls) >= MAX_CALLS_PER_COMMIT:
                return calls, False
            try:
                call = self._inbox.get_nowait()
            except queue.Empty:
                return calls, False
        return calls, True

    def _serve(self, connection: sqlite3.Connection | None, calls: list[_Call]) -> sqlite3.Connection | None:
        """Commit the calls together; where that fails, each alone, so that one cannot spoil another's."""
        try:
            if connection is None:
                connection = open_writer(self.place)
                self._others_version = _version(connection)
                self._made = True
            self._commit(connection, calls)
        except BaseException as error:
            if connection is None or len(calls) == 1 or _is_hopeless(error):
                for call in calls:
                    call.error = explain(self.place, error) if isinstance(error, sqlite3.Error) else error
            else:
                for call in calls:
                    self._serve(connection, [call])
        return connection

    def _commit(self, connection: sqlite3.Connection, calls: list[_Call]) -> None:
        transaction = Transaction(connection, self)
        patient(lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            for call in calls:
                call.result = call.operation(transaction)
            transaction.finish()
            if time.monotonic() >= self._forget_at_s:
                self._forget_at_s = time.monotonic() + FORGET_EVERY_S
                transaction.forget_expired()
            patient(lambda: connection.execute("COMMIT"))
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        self._ring(transaction)

    def look_for_others(self) -> bool:
        """Have it found out whether another process has written, and those who wait be woken; False where nobody can."""
        if self._thread is None:
            return False
        self._inbox.put("look")
        return True

    def _tell_of_others(self, connection: sqlite3.Connection | None) -> None:
        """Wake all who wait if another process has written; what this connection commits leaves its version as it is."""
        self._asked_to_look = False
        if connection is None:
            self.bell.ring_all()
            return
        with contextlib.suppress(sqlite3.Error):  # locked for now: it is asked for again
            version = _version(connection)
            if version != self._others_version:
                self._others_version = version
                self.bell.ring_all()

    def _ring(self, transaction: Transaction) -> None:
        """Wake whoever waits. What is committed stays so, whatever happens here."""
        try:
            self.bell.ring("jobs", transaction.rung)
            self.bell.ring("events", transaction.told)
        except Exception:
            log.exception("nobody was woken by a commit: those who wait look again by themselves")


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version


def _is_hopeless(error: BaseException) -> bool:
    """Whether trying each call alone would only fail again."""
    return isinstance(error, sqlite3.OperationalError | StoreUnavailable)


def _deliver(calls: list[_Call]) -> None:
    """Answer the callers, with one wake-up per loop."""
    loops: dict[asyncio.AbstractEventLoop, list[_Call]] = {}
    for call in calls:
        loops.setdefault(call.loop, []).append(call)
    for loop, theirs in loops.items():
        with contextlib.suppress(RuntimeError):  # the caller's loop has closed
            loop.call_soon_threadsafe(_deliver_here, theirs)


def _deliver_here(calls: list[_Call]) -> None:
    for call in calls:
        call.deliver()


# -------------------------------------------------------------------- one per file and process

_lock = threading.Lock()
_open: dict[str, Database] = {}
_abandoned: list[Database] = []


def database_at(place: Place) -> Database:
    """The database of a file in this process; made at first use. Memory is never shared."""
    if place.path is None:
        return Database(place)
    key = f"{os.path.realpath(place.path)}?{place.durability}"
    with _lock:
        if key not in _open:
            _open[key] = Database(place)
        database = _open[key]
        database.users += 1
        return database


def leave(database: Database) -> None:
    """One store less uses it; the last one closes it."""
    with _lock:
        database.users -= 1
        if database.users > 0:
            return
        for key in [key for key, known in _open.items() if known is database]:
            del _open[key]
    database.close()


def _after_fork() -> None:
    """A child begins with no connection and no thread. The parent's are kept from being closed: SQLite forbids that."""
    global _lock
    _lock = threading.Lock()
    _abandoned.extend(_open.values())
    _open.clear()


after_fork_in_child(_after_fork)
