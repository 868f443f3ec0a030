"""Put back jobs whose worker has vanished."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from toril.clock import Clock
from toril.errors import StoreUnavailable
from toril.store import Consumer
from toril.worker.outage import Outage

log = logging.getLogger(__name__)


class Recoverer:
    """Looks for stalled jobs at start and then at every interval; the store lets one worker of many do it."""

    def __init__(
        self,
        store: Consumer,
        clock: Clock,
        queues: Sequence[str],
        outage: Outage,
        *,
        max_stalled: int,
        interval_ms: int,
    ) -> None:
        self._store = store
        self._clock = clock
        self._queues = queues
        self._outage = outage
        self._max_stalled = max_stalled
        self._interval_ms = interval_ms

    async def run(self) -> None:
        while True:
            try:
                recovered = await self._store.recover(
                    self._queues, max_stalled=self._max_stalled, interval_ms=self._interval_ms
                )
            except StoreUnavailable as error:
                await self._outage.pause("recover", error)
                continue
            self._outage.over("recover")
            for ref in recovered.requeued:
                log.warning("%s stalled: its worker stopped renewing its lock; it will run again", ref)
            for ref in recovered.deferred:
                log.error("%s stalled more than %d times: it will be failed", ref, self._max_stalled)
            # Twice as often as a check counts: one that came just after another's is not a whole interval late.
            await self._clock.sleep_ms(self._interval_ms / 2)
