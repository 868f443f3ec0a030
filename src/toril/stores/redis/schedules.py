"""Schedules: what they are, and the run that each has to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from toril.model import Placed, Schedule, ScheduleRecord
from toril.stores.redis.inspector import RedisInspector
from toril.stores.redis.wire import schedules as wire

PIECE = 200
"""How many schedules one call looks at."""


class _IdRow(NamedTuple):
    id: str


class RedisSchedules(RedisInspector):
    """`schedules`, `put_schedule`, `advance_schedule`, `remove_schedule`."""

    async def schedules(self, queue: str | None = None, id: str | None = None) -> list[ScheduleRecord]:
        found: list[ScheduleRecord] = []
        for name in await self._queues() if queue is None else [queue]:
            found += await self._schedules(name, await self._schedule_ids(name) if id is None else [id])
        return sorted(found, key=lambda record: (record.next_at_ms, record.schedule.id))

    async def _schedule_ids(self, queue: str) -> list[str]:
        ids: list[str] = await self._connections.command("ZRANGE", self._keys.base(queue) + "repeat", 0, -1)
        return ids

    async def _schedules(self, queue: str, ids: Sequence[str]) -> list[ScheduleRecord]:
        found: list[ScheduleRecord] = []
        for first in range(0, len(ids), PIECE):
            piece = ids[first : first + PIECE]
            answers = await self._run("schedules", self._place(queue), ids=[_IdRow(id) for id in piece])
            records = (wire.read_schedule(queue, id, answer) for id, answer in zip(piece, answers, strict=True))
            found += [record for record in records if record is not None]
        return found

    async def put_schedule(
        self, schedule: Schedule, seen: ScheduleRecord | None, next_at_ms: int | None, *, count: int = 1
    ) -> Placed:
        now_ms = await self._connections.now_ms()
        score, extras, _ = ("", "", "") if seen is None else wire.handle_of(seen)
        if next_at_ms is None:
            at_ms, run = now_ms if seen is None else seen.next_at_ms, wire.NO_RUN
        else:
            at_ms, run = next_at_ms, wire.first_run(schedule, next_at_ms, count, now_ms, self._keys)
        running, untold = None if seen is None else seen.running, count if next_at_ms is None else None
        answer = await self._connections.run(
            "put_schedule",
            self._place(schedule.queue).bases,
            now=now_ms,
            id=schedule.id,
            score=score,
            extras=extras,
            pending=int(seen is not None and seen.pending),
            at="" if next_at_ms is None else next_at_ms,
            fields=wire.record_fields(schedule, running, untold, at_ms, self._keys),
            **run._asdict(),
        )
        return Placed(answer)

    async def advance_schedule(self, seen: ScheduleRecord, next_at_ms: int, *, running: str | None = None) -> Placed:
        if seen.schedule.paused:
            return Placed.CHANGED
        now_ms = await self._connections.now_ms()
        score, extras, _ = wire.handle_of(seen)
        answer = await self._connections.run(
            "advance_schedule",
            self._place(seen.schedule.queue).bases,
            now=now_ms,
            id=seen.schedule.id,
            score=score,
            extras=extras,
            renewed=wire.with_running(extras, running),
            at=next_at_ms,
            **wire.next_run(seen, next_at_ms, now_ms, self._keys)._asdict(),
        )
        return Placed(answer)

    async def remove_schedule(self, queue: str, id: str) -> bool:
        return bool(await self._run("remove_schedule", self._place(queue), id=id))
