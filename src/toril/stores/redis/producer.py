"""Take jobs in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toril.errors import JobNotFound, ParentTaken, QueueFull, TorilError, Unconfirmed
from toril.model import Added, JobRef, NewJob, Receipt, Refusal, Unit
from toril.options import Confirm
from toril.stores.redis.calls import KIND, Calls
from toril.stores.redis.keys import Places
from toril.stores.redis.wire.rows import JobRows

STORED, DUPLICATE, REPLACING = range(3)
"""What add.lua says of a member that did not meet the owner of its deduplication id."""


class RedisProducer(Calls):
    """`add`."""

    async def add(self, units: Sequence[Unit]) -> list[Receipt]:
        if not units:
            return []
        plain = [unit for unit in units if unit.confirm is None]
        if len(plain) == len(units):
            return self._receipts(units, await self._add(units))
        receipts: dict[int, Receipt] = dict(zip(map(id, plain), await self.add(plain), strict=True))
        for confirm in {unit.confirm: None for unit in units if unit.confirm is not None}:
            alike = [unit for unit in units if unit.confirm == confirm]
            receipts.update(zip(map(id, alike), await self._add_confirmed(alike, confirm), strict=True))
        return [receipts[id(unit)] for unit in units]

    async def _add(self, units: Sequence[Unit]) -> Any:
        places, jobs = await self._rows(units)
        return await self._run("add", places, again=0, kinds=jobs.kinds, jobs=jobs.jobs)

    async def _rows(self, units: Sequence[Unit]) -> tuple[Places, JobRows]:
        places, jobs = Places(self._keys), JobRows(self._keys, await self._connections.ahead_ms())
        for number, unit in enumerate(units, 1):
            for job in unit.jobs:
                jobs.append(job, number, places.of(job.queue))
        return places, jobs

    async def _add_confirmed(self, units: Sequence[Unit], confirm: Confirm) -> list[Receipt]:
        places, jobs = await self._rows(units)
        now_ms = await self._connections.now_ms()
        answers, doubts = await self._connections.confirm(
            "add", places.bases, confirm, now=now_ms, again=0, kinds=jobs.kinds, jobs=jobs.jobs
        )
        receipts = self._receipts(units, answers)
        if not doubts:
            return receipts
        return [
            receipt
            if receipt.refusal is not None
            else Receipt(KIND, refusal=Refusal(receipt.added[0].ref, Unconfirmed(receipt.added[0].ref, doubts)))
            for receipt in receipts
        ]

    def _receipts(self, units: Sequence[Unit], answers: Sequence[Sequence[Any]]) -> list[Receipt]:
        return [self._receipt(unit, answer) for unit, answer in zip(units, answers, strict=True)]

    def _receipt(self, unit: Unit, answer: Sequence[Any]) -> Receipt:
        code, *details = answer
        if code == 0:
            return Receipt(
                KIND,
                tuple(_added(job, detail) for job, detail in zip(unit.jobs, details, strict=True)),
            )
        job = unit.jobs[int(details[0]) - 1]
        return Receipt(KIND, refusal=Refusal(_ref(job), self._refused(job, code, details[1:])))

    def _refused(self, job: NewJob, code: int, details: Sequence[Any]) -> TorilError:
        if code == -20:
            return QueueFull(job.queue, int(details[0]), int(details[1]))
        assert job.parent is not None
        if code == -5:
            return JobNotFound(job.parent.ref)
        return ParentTaken(_ref(job), self._keys.ref_of(str(details[0])))


def _ref(job: NewJob) -> JobRef:
    return JobRef(job.queue, job.id)


def _added(job: NewJob, detail: int | Sequence[Any]) -> Added:
    """What add.lua says of a member."""
    if detail == STORED:
        return Added(_ref(job))
    if detail == DUPLICATE:
        return Added(_ref(job), True, "id")
    if detail == REPLACING:
        return Added(_ref(job), False, "debounce")
    assert not isinstance(detail, int)
    assert job.options.deduplication is not None
    owner, kept = detail
    return Added(JobRef(job.queue, str(owner)), True, "keep-last" if kept else job.options.deduplication.rule)
