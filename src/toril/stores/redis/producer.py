"""Take jobs in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toril.errors import InvalidJob, JobNotFound, QueueFull, TorilError
from toril.model import Added, JobRef, NewJob, Receipt, Refusal, Unit
from toril.stores.redis.calls import KIND, Calls
from toril.stores.redis.keys import Places
from toril.stores.redis.wire import rows


class RedisProducer(Calls):
    """`add`."""

    async def add(self, units: Sequence[Unit]) -> list[Receipt]:
        if not units:
            return []
        places = Places(self._keys)
        jobs = [
            rows.job_row(job, number, places.of(job.queue), self._keys)
            for number, unit in enumerate(units, 1)
            for job in unit.jobs
        ]
        answers = await self._run("add", places, jobs=jobs)
        return [self._receipt(unit, answer) for unit, answer in zip(units, answers, strict=True)]

    def _receipt(self, unit: Unit, answer: Sequence[Any]) -> Receipt:
        code, *details = answer
        if code == 0:
            return Receipt(
                KIND,
                tuple(Added(_ref(job), bool(flag)) for job, flag in zip(unit.jobs, details, strict=True)),
            )
        job = unit.jobs[int(details[0]) - 1]
        return Receipt(KIND, refusal=Refusal(_ref(job), self._refused(job, code, details[1:])))

    def _refused(self, job: NewJob, code: int, details: Sequence[Any]) -> TorilError:
        if code == -20:
            return QueueFull(job.queue, int(details[0]), int(details[1]))
        assert job.parent is not None
        if code == -5:
            return JobNotFound(job.parent.ref)
        other = self._keys.ref_of(str(details[0]))
        return InvalidJob(
            f"job {_ref(job)} is a child of {other} already and cannot be one of {job.parent.ref} too: give it an id of its own"
        )


def _ref(job: NewJob) -> JobRef:
    return JobRef(job.queue, job.id)
