"""Put the schedules that code declares, and see to it that none stands still."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from toril.errors import ConfigError, StoreUnavailable
from toril.model import Claim, Outcome, Schedule
from toril.schedule import Declared, advance, declare, heal, turn_of
from toril.store import Store
from toril.worker.outage import Outage

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_MS: Final = 60_000
STANDS_STILL: Final = "the schedule %r of queue %s makes no more runs: %s"


class Scheduler:
    """At the start, puts what is declared; then, each minute, heals schedules whose run to come has vanished.

    Runs are made by whoever takes the run before them, so this loop is no single point: without it schedules go on.
    """

    def __init__(
        self, store: Store, queues: Sequence[str], declared: Sequence[Schedule], outage: Outage, *, guarded: bool
    ) -> None:
        self._store = store
        self._queues = queues
        self._declared = declared
        self._outage = outage
        self._guarded = guarded
        self._started = False
        self._told: set[tuple[str, str]] = set()  # schedules that stand still for good

    async def run(self) -> None:
        while True:
            try:
                if not self._started:
                    await self._put_declared()
                    self._started = True
                for queue in self._queues:
                    await self._heal(queue)
            except StoreUnavailable as error:
                await self._outage.pause("schedule", error)
                continue
            self._outage.over("schedule")
            await self._store.clock.sleep_ms(LOOK_MS)

    async def _put_declared(self) -> None:
        for schedule in self._declared:
            try:
                answer = await declare(self._store, schedule, guarded=self._guarded)
            except ConfigError as error:  # the others are put all the same
                log.error("the schedule %r of queue %s is not put: %s", schedule.id, schedule.queue, error)
                continue
            if answer is Declared.PUT:
                log.info("the schedule %r of queue %s is put as it is declared", schedule.id, schedule.queue)
            elif answer is Declared.OLDER:
                log.warning(
                    "the schedule %r of queue %s stays as another version of the code has put it within the last hour: "
                    "`toril schedules put MODULE:APP` puts this one",
                    schedule.id,
                    schedule.queue,
                )
        await self._report_undeclared()

    async def _report_undeclared(self) -> None:
        declared = {(schedule.queue, schedule.id) for schedule in self._declared}
        for queue in self._queues:
            for record in await self._store.schedules(queue):
                schedule = record.schedule
                if schedule.declared is not None and (queue, schedule.id) not in declared:
                    log.warning(
                        "the schedule %r of queue %s is not declared any more, and goes on: "
                        "`toril schedules prune MODULE:APP` removes it",
                        schedule.id,
                        queue,
                    )

    async def _heal(self, queue: str) -> None:
        for record in await self._store.schedules(queue):
            id = record.schedule.id
            try:
                healed = await heal(self._store, record)
            except ConfigError as error:  # somebody else has put it
                if (queue, id) not in self._told:
                    self._told.add((queue, id))
                    log.error(STANDS_STILL, id, queue, error)
                continue
            if healed:
                log.warning("the schedule %r of queue %s had no run to come: it has one again", id, queue)


async def taken(store: Store, outage: Outage, claim: Claim) -> Outcome | None:
    """Make the run after this one, however long the store is away; what becomes of this one without its being run, None
    to run it."""
    turn = await _patiently(outage, "turn", lambda: turn_of(store, claim))
    if turn is None:
        return None
    if not turn.waits:
        try:
            await _patiently(outage, "advance", lambda: advance(store, turn.record, running=turn.running))
        except ConfigError as error:  # somebody else has put it; its runs are none the worse
            log.error(STANDS_STILL, claim.schedule, claim.ref.queue, error)
    return turn.outcome


async def _patiently(outage: Outage, who: str, verb: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            answer = await verb()
        except StoreUnavailable as error:
            await outage.pause(who, error)
            continue
        outage.over(who)
        return answer
