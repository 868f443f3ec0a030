"""Say that the worker lives."""

from __future__ import annotations

from collections.abc import Callable

from toril.clock import Clock
from toril.errors import StoreUnavailable
from toril.model import WorkerInfo
from toril.store import Consumer
from toril.worker.outage import Outage

EVERY_MS = 10_000
TTL_MS = 30_000


class Announcer:
    """Writes what the worker is and does, every ten seconds."""

    def __init__(self, store: Consumer, clock: Clock, info: Callable[[], WorkerInfo], outage: Outage) -> None:
        self._store = store
        self._clock = clock
        self._info = info
        self._outage = outage

    async def run(self) -> None:
        while True:
            try:
                await self._store.announce(self._info())
            except StoreUnavailable as error:
                await self._outage.pause("announce", error)
                continue
            self._outage.over("announce")
            await self._clock.sleep_ms(EVERY_MS)
