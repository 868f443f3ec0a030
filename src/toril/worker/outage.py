"""A store that cannot be reached: one log line when it goes, one when it is back, and patience in between."""

from __future__ import annotations

import logging
import random

from toril.clock import Clock
from toril.errors import StoreUnavailable

log = logging.getLogger(__name__)

FIRST_PAUSE_MS = 50
LONGEST_PAUSE_MS = 1_000


class Outage:
    """The state of a store as a worker's loops see it, shared by them so that each outage is reported once."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._since_ms: int | None = None
        self._pause_ms = FIRST_PAUSE_MS

    async def pause(self, error: StoreUnavailable) -> None:
        """Wait before the next try: longer each time, at most a second, with jitter."""
        if self._since_ms is None:
            self._since_ms = self._clock.now_ms()
            log.warning("the store cannot be reached, trying again until it can: %s", error)
        await self._clock.sleep_ms(self._pause_ms * (0.5 + self._rng.random() / 2))
        self._pause_ms = min(2 * self._pause_ms, LONGEST_PAUSE_MS)

    def over(self) -> None:
        """A try went well."""
        if self._since_ms is not None:
            log.warning("the store is back after %.1f s", (self._clock.now_ms() - self._since_ms) / 1000)
            self._since_ms, self._pause_ms = None, FIRST_PAUSE_MS
