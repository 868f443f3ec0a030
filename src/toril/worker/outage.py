"""A store that cannot be reached: one log line when it goes, one when it is back, and patience in between."""

from __future__ import annotations

import logging
import random

from toril.clock import Clock
from toril.errors import StoreUnavailable

log = logging.getLogger(__name__)

FIRST_PAUSE_MS = 50
LONGEST_PAUSE_MS = 1_000
ECHO_MS = 15_000
"""For how long after an outage a loop may find out about it: it waited on a connection that had died."""


class Outage:
    """The state of a store as a worker's loops see it, shared by them so that each outage is reported once.

    It begins when the first of them fails, and is over when one of those that failed succeeds. A loop that fails soon after,
    and has not succeeded since, has only now found out about the same one.
    """

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._since_ms = 0
        self._over_ms: int | None = None
        self._told = False
        self._well: set[str] = set()  # the loops that have succeeded since it was over
        self._pauses_ms: dict[str, int] = {}

    async def pause(self, who: str, error: StoreUnavailable) -> None:
        """Wait before the next try of one loop: longer each time, at most a second, with jitter."""
        if not self._pauses_ms:
            self._since_ms = self._clock.now_ms()
        if not self._told and not self._is_echo(who):
            self._told = True
            log.warning("the store cannot be reached, trying again until it can: %s", error)
        pause_ms = self._pauses_ms.get(who, FIRST_PAUSE_MS)
        self._pauses_ms[who] = min(2 * pause_ms, LONGEST_PAUSE_MS)
        await self._clock.sleep_ms(pause_ms * (0.5 + self._rng.random() / 2))

    def _is_echo(self, who: str) -> bool:
        over_ms = self._over_ms
        return over_ms is not None and who not in self._well and self._clock.now_ms() - over_ms < ECHO_MS

    def over(self, who: str) -> None:
        """A try of one loop went well."""
        self._well.add(who)
        if who not in self._pauses_ms:
            return
        self._pauses_ms.clear()
        if self._told:
            self._told, self._well, self._over_ms = False, {who}, self._clock.now_ms()
            log.warning("the store is back after %.1f s", (self._over_ms - self._since_ms) / 1000)
