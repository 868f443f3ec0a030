"""Claim jobs when there is room and something may be there; otherwise wait for the bell."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from toril.clock import Clock
from toril.errors import StoreUnavailable
from toril.model import Claim, Wanted
from toril.store import Consumer
from toril.worker.capacity import Capacity
from toril.worker.outage import Outage

log = logging.getLogger(__name__)

SILENCE_MS = 5_000
HUNG_MS = 15_000
"""How long over its time a wait may be before it is taken for hung."""


class Claimer:
    """Turn free slots into running jobs."""

    def __init__(
        self,
        store: Consumer,
        clock: Clock,
        worker: str,
        capacity: Capacity,
        start: Callable[[Sequence[Claim]], None],
        give_back: Callable[[Sequence[Claim]], None],
        outage: Outage,
    ) -> None:
        self._store = store
        self._clock = clock
        self._worker = worker
        self._capacity = capacity
        self._start = start
        self._give_back = give_back
        self._outage = outage
        self._listening: asyncio.Task[None] | None = None
        self._heard: list[str] = []  # the queues whose bell is listened to

    async def run(self) -> None:
        try:
            while True:
                self._capacity.changed.clear()
                moment = self._capacity.ripen(self._clock.now_ms())
                wanted = self._capacity.wanted()
                if wanted is None:
                    await self._park(moment)
                else:
                    await self._claim(wanted)
        finally:
            if self._listening is not None:
                self._listening.cancel()
                await asyncio.wait((self._listening,))  # it may have a ring to hand back, and needs the store for it

    async def _claim(self, wanted: Wanted) -> None:
        """Ask until there is an answer: the same wish again, since a lost answer may have held jobs."""
        while True:
            # Shielded: an answer that is on its way when the worker stops holds jobs, which must be handed back.
            flight = asyncio.ensure_future(self._store.claim(wanted))
            try:
                claimed = await asyncio.shield(flight)
                break
            except asyncio.CancelledError:
                with contextlib.suppress(StoreUnavailable):
                    self._give_back((await flight).claims)
                raise
            except StoreUnavailable as error:
                await self._outage.pause("claim", error)
        self._outage.over("claim")
        self._capacity.brought(wanted, claimed)
        self._start(claimed.claims)

    async def _park(self, moment: int | None) -> None:
        """Wait until the bell rings, the capacity changes, or a queue's moment comes."""
        await self._listen(self._capacity.awaited())
        if moment is None:
            await self._capacity.changed.wait()
            return
        changed = asyncio.ensure_future(self._capacity.changed.wait())
        timer = asyncio.ensure_future(self._clock.sleep_until_ms(moment))
        try:
            await asyncio.wait((changed, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            timer.cancel()

    async def _listen(self, queues: list[str]) -> None:
        """Listen to the bells of these queues and of no others: a ring may wake one worker only, and must be one that has
        room."""
        if self._listening is not None and not self._listening.done():
            if queues == self._heard:
                return
            self._listening.cancel()
            await asyncio.wait((self._listening,))
        self._heard = queues
        self._listening = asyncio.ensure_future(self._hear(queues)) if queues else None

    async def _hear(self, queues: Sequence[str]) -> None:
        """Hear a bell ring. After a while of silence look all the same: a ring can die with the worker that it woke."""
        real = not self._clock.turned
        try:
            async with asyncio.timeout((SILENCE_MS + HUNG_MS) / 1000 if real else None):
                woken = await self._store.wait(self._worker, queues, self._clock.now_ms() + SILENCE_MS)
        except StoreUnavailable as error:
            await self._outage.pause("wait", error)
            self._capacity.rung(queues)  # who knows what rang meanwhile
        except TimeoutError:
            log.error(
                "the wait for jobs of %s did not end in its time: it was given up and begins anew", ", ".join(queues)
            )
            self._capacity.rung(queues)
        else:
            self._outage.over("wait")
            self._capacity.rung(woken.queues or queues)
