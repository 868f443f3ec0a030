"""Waking those who wait: in this process by their loops, in others by a datagram to a socket beside the file.

Each process that waits has a socket in the directory `<file>-bell`, named for what it listens to. Should a datagram
be lost, `PRAGMA data_version`, looked at every 250 ms, tells that somebody has written; whether it was another process, the
writer of this one knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import selectors
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from toril.clock import Clock, reached
from toril.errors import StoreError
from toril.posix import open_datagram, open_sender, send_datagram
from toril.stores.sqlite.connection import Place, open_reader

Sound = Literal["jobs", "events"]
NET_S = 0.25
MAX_DATAGRAM = 8192
SAME_TICK_NS = 50_000_000  # two changes of a directory so close may carry the same time

_numbers = itertools.count()


class Listener:
    """Somebody who waits for some queues to ring; remembers what rang while it was not waiting."""

    def __init__(self, sound: Sound, queues: frozenset[str]) -> None:
        self.sound = sound
        self.queues = queues
        self.rung: set[str] = set()
        self.waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None


class Bell:
    """The bell of one file in one process."""

    def __init__(self, place: Place, look_for_others: Callable[[], bool]) -> None:
        self._place = place
        self._look_for_others = look_for_others
        self._lock = threading.Lock()
        self._listeners: dict[str, Listener] = {}
        self._thread: threading.Thread | None = None
        self._stop_writer: socket.socket | None = None
        self._sockets: dict[Sound, tuple[Path, socket.socket]] = {}
        self._sender = None if place.path is None else open_sender()
        self._directory = None if place.path is None else Path(f"{place.path}-bell")
        self._others: tuple[float, list[Path]] = (-1.0, [])

    # ---------------------------------------------------------------- listening

    def attend(self, who: str, sound: Sound, queues: Iterable[str]) -> None:
        """From now on, remember what rings for `who`."""
        with self._lock:
            if who in self._listeners:
                return
            self._listeners[who] = Listener(sound, frozenset(queues))
        self._listen(sound)

    async def wait(
        self, who: str, sound: Sound, queues: Iterable[str], until_ms: int | None, clock: Clock
    ) -> frozenset[str]:
        """Return what rang for `who` since it last waited, or rings until `until_ms`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        names = frozenset(queues)
        self.attend(who, sound, names)
        with self._lock:
            listener = self._listeners[who]
            listener.queues |= names
            listener.waiting = (loop, future)
            if listener.rung & names:
                future.set_result(None)
        try:
            if not future.done():
                await reached(clock, future, until_ms)
        finally:
            listener.waiting = None
        with self._lock:  # not when cancelled: what rang is still to be heard
            rung = frozenset(listener.rung & names)
            listener.rung -= rung
        return rung

    def forget(self, who: str) -> None:
        """Somebody no longer listens."""
        with self._lock:
            self._listeners.pop(who, None)

    # ---------------------------------------------------------------- ringing

    def ring(self, sound: Sound, queues: Iterable[str]) -> None:
        """Wake whoever waits for these queues, here and in other processes."""
        names = set(queues)
        if names:
            self._ring_here(sound, names)
            self._ring_others(sound, names)

    def ring_all(self) -> None:
        """Wake all who wait here: somebody has written, and nobody knows what."""
        self._ring_here("jobs", None)
        self._ring_here("events", None)

    def _ring_here(self, sound: Sound, names: set[str] | None) -> None:
        woken: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        with self._lock:
            for listener in self._listeners.values():
                mine = listener.queues if names is None else listener.queues & names
                if listener.sound == sound and mine:
                    listener.rung |= mine
                    if listener.waiting is not None:
                        woken.append(listener.waiting)
        for loop, future in woken:
            with contextlib.suppress(RuntimeError):  # its loop has closed
                loop.call_soon_threadsafe(_set, future)

    def _ring_others(self, sound: Sound, names: set[str]) -> None:
        if self._directory is None or self._sender is None:
            return
        message: bytes | None = None
        for path in self._receivers(self._directory):
            if path.name.startswith(sound):
                message = message or _message(names)
                send_datagram(self._sender, path, message)

    def _receivers(self, directory: Path) -> list[Path]:
        """The sockets of other processes; listed anew only when the directory has changed, or did so just now."""
        try:
            changed = os.stat(directory).st_mtime_ns
        except OSError:
            return []
        if changed != self._others[0] or time.time_ns() - changed < SAME_TICK_NS:
            own = {path for path, _ in self._sockets.values()}
            with contextlib.suppress(OSError):
                self._others = (changed, [path for path in directory.iterdir() if path not in own])
        return self._others[1]

    # ---------------------------------------------------------------- the thread that hears other processes

    def _listen(self, sound: Sound) -> None:
        if self._directory is None:
            return
        with self._lock:
            if sound not in self._sockets:
                with contextlib.suppress(OSError):
                    self._directory.mkdir(mode=0o700, exist_ok=True)
                path = self._directory / f"{sound}-{os.getpid()}-{next(_numbers)}"
                receiver = open_datagram(path)
                if receiver is not None:
                    self._sockets[sound] = (path, receiver)
                    self._others = (-1.0, [])
                    if self._stop_writer is not None:
                        self._stop_writer.send(b"+")  # look at the new socket too
            if self._thread is None:
                stop, self._stop_writer = socket.socketpair()
                self._thread = threading.Thread(target=self._hear, args=(stop,), name="toril-bell", daemon=True)
                self._thread.start()

    def _hear(self, stop: socket.socket) -> None:
        reader = self._open_reader(stop)
        if reader is None:
            stop.close()
            return
        try:
            seen = reader.execute("PRAGMA data_version").fetchone()[0]
            for sound in self._deaf():  # what was written before this first look
                self._ring_here(sound, None)
            while True:
                sockets: dict[socket.socket, Sound] = {
                    receiver: sound for sound, (_, receiver) in list(self._sockets.items())
                }
                ready = _readable([stop, *sockets], NET_S)
                if stop in ready and b"-" in stop.recv(16):
                    return
                for receiver in ready:
                    if receiver in sockets:
                        self._receive(receiver, sockets[receiver])
                try:
                    version = reader.execute("PRAGMA data_version").fetchone()[0]
                except sqlite3.Error:  # locked or damaged for now: those who ask for jobs are told
                    continue
                if version != seen and not ready and not self._look_for_others():
                    self.ring_all()
                seen = version
        finally:
            reader.close()
            stop.close()

    def _deaf(self) -> list[Sound]:
        """What somebody listens for without a socket to hear it."""
        with self._lock:
            heard = set(self._sockets)
            sounds: tuple[Sound, ...] = ("jobs", "events")
            wanted = {listener.sound for listener in self._listeners.values()}
            return [sound for sound in sounds if sound in wanted and sound not in heard]

    def _open_reader(self, stop: socket.socket) -> sqlite3.Connection | None:
        """Open the file as soon as the writer has made it; None when the bell is closed before."""
        while True:
            with contextlib.suppress(StoreError):
                return open_reader(self._place)
            if _readable([stop], NET_S / 10) and b"-" in stop.recv(16):
                return None

    def _receive(self, receiver: socket.socket, sound: Sound) -> None:
        heard: set[str] = set()
        everything = False
        with contextlib.suppress(BlockingIOError, OSError):
            while True:
                message = receiver.recv(MAX_DATAGRAM)
                if message:
                    heard.update(json.loads(message))
                else:
                    everything = True
        self._ring_here(sound, None if everything else heard)

    def close(self) -> None:
        """Stop listening, and clear the sockets away."""
        with self._lock:
            thread, self._thread = self._thread, None
            sockets, self._sockets = self._sockets, {}
            stop, self._stop_writer = self._stop_writer, None
        if stop is not None:
            with contextlib.suppress(OSError):  # the thread has ended by itself
                stop.send(b"-")
        if thread is not None:
            thread.join()
        if stop is not None:
            stop.close()
        for path, receiver in sockets.values():
            receiver.close()
            with contextlib.suppress(OSError):
                path.unlink()
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        if self._directory is not None:
            with contextlib.suppress(OSError):
                self._directory.rmdir()


def _readable(sockets: list[socket.socket], timeout_s: float) -> list[socket.socket]:
    """Those that have something to read; `select.select` would fail beyond 1,024 open files."""
    with selectors.DefaultSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ)
        ready = {key.fd for key, _ in selector.select(timeout_s)}
    return [each for each in sockets if each.fileno() in ready]


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _message(names: set[str]) -> bytes:
    """Which queues rang; empty when they are too many to say, which means all."""
    message = json.dumps(sorted(names)).encode()
    return message if len(message) <= MAX_DATAGRAM else b""
