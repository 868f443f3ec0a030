"""Hand over outcomes that are ready, together, and bring back the next jobs in the same round trip."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from toril.errors import StoreUnavailable
from toril.model import Claim, Claimed, Failed, JobRef, Settled, Settlement, Wanted
from toril.store import Consumer
from toril.worker.capacity import Capacity
from toril.worker.outage import Outage
from toril.worker.running import Running
from toril.worker.teller import Teller

log = logging.getLogger(__name__)

MAX_BATCH = 1_000
WORTH_SHARING = 32
"""Fewer outcomes than these go in one batch, though another lane be idle."""


class Settler:
    """Each of the store's lanes has one round trip in flight at a time; what finishes meanwhile gathers for the next.

    An outcome that could not be recorded is not a failure of the job: it is kept and tried again while the lock holds.
    """

    def __init__(
        self,
        store: Consumer,
        capacity: Capacity,
        running: Running,
        start: Callable[[Sequence[Claim]], None],
        give_back: Callable[[Sequence[Claim]], None],
        teller: Teller,
        outage: Outage,
    ) -> None:
        self._store = store
        self._teller = teller
        self._capacity = capacity
        self._running = running
        self._start = start
        self._give_back = give_back
        self._outage = outage
        self._ready: list[Settlement] = []
        self._something = asyncio.Event()
        self._idle_lanes = 0

    def give(self, settlement: Settlement) -> None:
        """Take what became of a job; it is recorded soon."""
        self._ready.append(settlement)
        self._something.set()

    async def run(self) -> None:
        """One lane. With two, the worker runs the jobs of one batch while the store records those of the other."""
        while True:
            self._idle_lanes += 1
            try:
                await self._something.wait()
            finally:
                self._idle_lanes -= 1
            share = 1 + self._idle_lanes if len(self._ready) >= WORTH_SHARING else 1
            batch = self._take(share)
            if batch:
                await self._settle(batch, share)

    def _take(self, share: int = 1) -> list[Settlement]:
        """The next batch: all that is ready, or one part of `share`, when other lanes are idle."""
        size = min(MAX_BATCH, -(-len(self._ready) // share))
        batch, self._ready = self._ready[:size], self._ready[size:]
        if not self._ready:
            self._something.clear()
        return batch

    async def _settle(self, batch: list[Settlement], share: int) -> None:
        """Ask until there is an answer, each time the same: what was recorded before its answer was lost stays so."""
        wanted = self._capacity.wanted(share)
        while True:
            flight = asyncio.ensure_future(self._store.settle(batch, wanted))
            try:
                settled = await asyncio.shield(flight)
                break
            except asyncio.CancelledError:
                with contextlib.suppress(StoreUnavailable):
                    self._note(batch, await flight, None)
                    await self._settle_rest()
                raise
            except StoreUnavailable as error:
                await self._outage.pause("settle", error)
        self._outage.over("settle")
        self._note(batch, settled, wanted)

    async def _settle_rest(self) -> None:
        """A last word at the end of the worker: hand back what the last answer brought."""
        while batch := self._take():
            self._note(batch, await self._store.settle(batch), None)

    def _note(self, batch: list[Settlement], settled: Settled, wanted: Wanted | None) -> None:
        again = self._unrecorded(batch, settled)
        for settlement in batch:
            if not again or settlement.claim.ref not in again:
                self._running.remove(settlement.claim)
                if self._teller and settlement.claim.ref not in settled.lost:
                    self._teller.recorded(settlement)
        for ref in settled.lost:
            log.warning("%s was not recorded: its lock expired, and another worker has it or has finished it", ref)
        claims = settled.claimed.claims if settled.claimed else ()
        if wanted is None or self._capacity.closed:
            self._give_back(claims)
        else:
            self._capacity.brought(wanted, settled.claimed or Claimed())
            self._start(claims)

    def _unrecorded(self, batch: list[Settlement], settled: Settled) -> set[JobRef]:
        """Jobs that are still ours because of their children; they are run again, or settled as failed."""
        if not settled.staying and not settled.refused:
            return set()
        claims = {settlement.claim.ref: settlement.claim for settlement in batch}
        for refusal in settled.refused:
            self.give(Settlement(claims[refusal.ref], Failed(str(refusal.error))))
        for ref in settled.staying:
            self._running.remove(claims[ref])
        self._start([claims[ref] for ref in settled.staying])
        return {refusal.ref for refusal in settled.refused} | set(settled.staying)
