"""The time of Toril: whole milliseconds since the epoch, from a clock that tests can turn."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import threading
import time
from typing import Any, Protocol


class Clock(Protocol):
    """What tells the time and waits for it."""

    @property
    def turned(self) -> bool:
        """Whether somebody turns this clock by hand; then nothing may wait for real time."""
        ...

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        ...

    async def sleep_ms(self, ms: float) -> None:
        """Return once `ms` milliseconds have passed."""
        ...

    async def sleep_until_ms(self, at_ms: float) -> None:
        """Return once the clock shows `at_ms`."""
        ...


class SystemClock:
    """The machine's own clock. Durations are monotonic: a clock set back or forward does not change a sleep."""

    turned = False

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep_ms(self, ms: float) -> None:
        await asyncio.sleep(max(0.0, ms) / 1000)

    async def sleep_until_ms(self, at_ms: float) -> None:
        await self.sleep_ms(at_ms - self.now_ms())


class TurnedClock:
    """A clock that stands still until `advance` turns it. Sleepers on any loop wake in the order of their time."""

    turned = True

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = start_ms
        self._lock = threading.Lock()
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self._now_ms

    async def sleep_ms(self, ms: float) -> None:
        await self.sleep_until_ms(self._now_ms + ms)

    async def sleep_until_ms(self, at_ms: float) -> None:
        if at_ms <= self._now_ms:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            heapq.heappush(self._sleepers, (at_ms, next(self._order), loop, future))
        await future

    def next_ms(self) -> float | None:
        """When the next sleeper wakes, or None when nobody sleeps."""
        with self._lock:
            while self._sleepers and self._sleepers[0][3].done():
                heapq.heappop(self._sleepers)
            return self._sleepers[0][0] if self._sleepers else None

    def advance(self, ms: int) -> None:
        """Turn the clock `ms` milliseconds forward and wake whoever slept until then."""
        with self._lock:
            self._now_ms += ms
            due: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
            while self._sleepers and self._sleepers[0][0] <= self._now_ms:
                _, _, loop, future = heapq.heappop(self._sleepers)
                due.append((loop, future))
        for loop, future in due:
            with contextlib.suppress(RuntimeError):  # the sleeper's loop has closed
                loop.call_soon_threadsafe(_wake, future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


SYSTEM_CLOCK = SystemClock()


async def reached(clock: Clock, future: asyncio.Future[Any], until_ms: int | None) -> bool:
    """Wait for `future` until the clock shows `until_ms` (None: for ever); say whether it was done in time."""
    if until_ms is None:
        await future
        return True
    timer = asyncio.ensure_future(clock.sleep_until_ms(until_ms))
    try:
        await asyncio.wait((future, timer), return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
    return future.done()
