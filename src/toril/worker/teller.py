"""Tell those who listen in this process what became of the jobs that its worker ran."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from toril.clock import Clock
from toril.events import Completed, FinalFailure, JobEvent, Listeners, Retrying
from toril.model import Completed as CompletedOutcome
from toril.model import Failed as FailedOutcome
from toril.model import Retried, Settlement
from toril.wirejson import decode


class Teller:
    """Calls listeners in order, each job's outcome once it is recorded; the worker does not wait for them."""

    def __init__(self, clock: Clock, listeners: Mapping[str, Listeners]) -> None:
        self._clock = clock
        self._listeners = listeners
        self._turns = {queue: asyncio.Lock() for queue in listeners}
        self._telling: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def recorded(self, settlement: Settlement) -> None:
        """An outcome is stored."""
        listeners = self._listeners.get(settlement.claim.ref.queue)
        event = None if listeners is None else _event(settlement, self._clock.now_ms())
        if listeners is not None and event is not None:
            task = asyncio.ensure_future(self._tell(settlement.claim.ref.queue, listeners, event))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell(self, queue: str, listeners: Listeners, event: JobEvent) -> None:
        async with self._turns[queue]:
            await listeners.tell(event)

    async def close(self, within_s: float) -> None:
        """Let those who are being told finish, for so long."""
        if self._telling:
            await asyncio.wait(set(self._telling), timeout=within_s)
        for task in list(self._telling):
            task.cancel()


def _event(settlement: Settlement, now_ms: int) -> JobEvent | None:
    claim, ref = settlement.claim, settlement.claim.ref
    match settlement.outcome:
        case CompletedOutcome(result):
            return Completed(ref, now_ms, decode(result))
        case Retried(_, reason):
            return Retrying(ref, now_ms, reason, claim.attempt)
        case FailedOutcome(reason):
            return FinalFailure(ref, now_ms, reason, claim.attempt)
        case _:
            return None
