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
    """The state of a store as a worker's loops see it, shared by them so that each outage is reported once.

    It begins when the first of them fails, and is over when one of those that failed succeeds.
    """

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._since_ms = 0
        self._pauses_ms: dict[str, int] = {}

    async def pause(self, who: str, error: StoreUnavailable) -> None:
        """Wait before the next try of one loop: longer each time, at most a second, with jitter."""
        if not self._pauses_ms:
            self._since_ms = self._clock.now_ms()
            log.warning("the store cannot be reached, trying again until it can: %s", error)
        pause_ms = self._pauses_ms.get(who, FIRST_PAUSE_MS)
        self._pauses_ms[who] = min(2 * pause_ms, LONGEST_PAUSE_MS)
        await self._clock.sleep_ms(pause_ms * (0.5 + self._rng.random() / 2))

    def over(self, who: str) -> None:
        """A try of one loop went well."""
        if who in self._pauses_ms:
            self._pauses_ms.clear()
            log.warning("the store is back after %.1f s", (self._clock.now_ms() - self._since_ms) / 1000)
