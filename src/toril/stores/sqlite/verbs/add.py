"""Store units of jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from toril.errors import JobNotFound, ParentTaken, QueueFull, TorilError
from toril.model import Added, JobRef, NewJob, Receipt, Refusal, Unit
from toril.options import Deduplication
from toril.states import State
from toril.stores.sqlite.transaction import QueueRow, Transaction
from toril.stores.sqlite.verbs.deduplication import Verdict, judge, met_before, owner_of, takes_the_place
from toril.stores.sqlite.verbs.insert import attach, insert, parent_at, values_of


@dataclass(slots=True)
class _Known:
    """What is there already under an id that is to be added. Its parent is known by its row, or by this call."""

    nonce: str | None
    parent_row: int | None = None
    parent: JobRef | None = None

    def is_repeated_by(self, job: NewJob) -> bool:
        """Whether a job is this very one, stored before. A drawn id that is known is its own repeat."""
        return job.nonce is None or job.nonce == self.nonce


Names = tuple[str, str]
"""A queue and an id in it."""


@dataclass(slots=True)
class _Batch:
    """What the units of one call meet, and what becomes of it."""

    queues: dict[str, QueueRow]
    known: dict[Names, _Known]
    values: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])  # rows to be inserted
    # Of one unit:
    children: list[tuple[NewJob, int]] = field(default_factory=list[tuple[NewJob, int]])  # to be tied to their parents
    loosened: set[JobRef] = field(default_factory=set[JobRef])  # parents that have lost a child, or did not get one

    def insert(self, tx: Transaction) -> None:
        """Insert what has gathered.

        Raises:
            Repeated: some of it is there already.
        """
        values, self.values = self.values, []
        if insert(tx, values) != len(values):
            raise Repeated

    def attach(self, tx: Transaction, prefix: str) -> None:
        """Tie the children of a unit to their parents, once all of them are in."""
        if self.children or self.loosened:
            self.insert(tx)
            attach(tx, prefix, self.children, self.loosened)
            self.children, self.loosened = [], set()

    def obey(self, job: NewJob, verdict: Verdict) -> None:
        """Take note of a job that does not come, or of one that is gone."""
        if verdict.answer.duplicate and job.parent is not None:
            self.loosened.add(job.parent.ref)
        if verdict.loosened is not None:
            self.loosened.add(verdict.loosened)
        if verdict.replaced is not None:
            name = (job.queue, verdict.replaced)
            self.known.pop(name, None)
            gone = [child for child, _ in self.children if (child.queue, child.id) == name]
            self.loosened.update(child.parent.ref for child in gone if child.parent is not None)
            self.children = [each for each in self.children if each[0] not in gone]


class Repeated(Exception):
    """Jobs that were taken for new are there already; nothing was stored."""


def add(tx: Transaction, prefix: str, units: Sequence[Unit], *, careful: bool = True) -> list[Receipt]:
    """Store units; one receipt each.

    Not `careful`, it takes drawn ids for new without looking: a repeat, which is rare, shows when they are inserted.

    Raises:
        Repeated: some were not new after all; call it again, careful.
    """
    jobs = [job for unit in units for job in unit.jobs]
    queues = {name: _queue(tx, prefix, name) for name in {job.queue for job in jobs}}
    looks = careful or any(_wants_a_look(job) for job in jobs)
    looks = looks or any(queue.has_receipts or queue.max_waiting is not None for queue in queues.values())
    batch = _Batch(queues, _known(tx, queues, jobs) if looks else {})
    receipts = [_add_unit(tx, prefix, batch, unit) for unit in units]
    batch.insert(tx)
    return receipts


def _wants_a_look(job: NewJob) -> bool:
    return job.nonce is not None or job.parent is not None or job.options.deduplication is not None


def _add_unit(tx: Transaction, prefix: str, batch: _Batch, unit: Unit) -> Receipt:
    """The receipt of one unit; what is to be inserted goes to the batch."""
    if any(job.options.deduplication is not None for job in unit.jobs):
        batch.insert(tx)  # owners are looked for among the jobs that are there
    if _is_repeated(batch.known, unit):
        return Receipt("sqlite", tuple(_answer_of_before(tx, batch, job) for job in unit.jobs))
    refusal = _refusal(tx, prefix, batch.queues, batch.known, unit)
    if refusal is not None:
        return Receipt("sqlite", refusal=refusal)
    answers = tuple(_add_job(tx, prefix, batch, job) for job in unit.jobs)
    batch.attach(tx, prefix)
    return Receipt("sqlite", answers)


def _is_repeated(known: dict[Names, _Known], unit: Unit) -> bool:
    """Whether a unit was stored before: whole, so one member that is known says so of all."""
    befores = ((job, known.get((job.queue, job.id))) for job in unit.jobs) if known else ()
    return any(before is not None and before.is_repeated_by(job) for job, before in befores)


def _answer_of_before(tx: Transaction, batch: _Batch, job: NewJob) -> Added:
    """What a member of a unit was answered the first time, as far as that can still be seen."""
    before = batch.known.get((job.queue, job.id))
    if before is None:
        return met_before(tx, batch.queues[job.queue], job)
    ref = JobRef(job.queue, job.id)
    return Added(ref) if before.is_repeated_by(job) else Added(ref, True, "id")


def _add_job(tx: Transaction, prefix: str, batch: _Batch, job: NewJob) -> Added:
    ref, queue = JobRef(job.queue, job.id), batch.queues[job.queue]
    before = batch.known.get((job.queue, job.id))
    answer = Added(ref)
    if before is None:
        asked = job.options.deduplication
        if asked is not None:
            batch.insert(tx)
            verdict = judge(tx, prefix, queue, job, asked)
            batch.obey(job, verdict)
            answer = verdict.answer
            if answer.duplicate:
                return answer
        batch.values.append(values_of(tx, queue, job))
        before = batch.known[job.queue, job.id] = _Known(job.nonce)
    elif not before.is_repeated_by(job):
        tx.emit(queue, "duplicated", job.id)
        answer = Added(ref, True, "id")
    if job.parent is not None:
        before.parent = job.parent.ref
        batch.children.append((job, queue.qid))
    return answer


def _queue(tx: Transaction, prefix: str, name: str) -> QueueRow:
    queue = tx.queue(prefix, name, create=True)
    assert queue is not None
    return queue


def _known(tx: Transaction, queues: dict[str, QueueRow], jobs: list[NewJob]) -> dict[Names, _Known]:
    """Jobs that are there already, and jobs of which only the receipt is left."""
    ids = json.dumps([(queues[job.queue].qid, job.id) for job in jobs])
    known: dict[Names, _Known] = {}
    for key, row, nonce, parent_row, receipt_nonce, receipt in tx.batch("add.known", ids=ids, now=tx.now_ms):
        job = jobs[int(key)]
        if row is not None:
            known[job.queue, job.id] = _Known(nonce, parent_row)
        elif receipt and (job.nonce is None or job.nonce == receipt_nonce):
            known[job.queue, job.id] = _Known(receipt_nonce)
    return known


def _refusal(
    tx: Transaction, prefix: str, queues: dict[str, QueueRow], known: dict[Names, _Known], unit: Unit
) -> Refusal | None:
    """Why a unit cannot be stored, before anything of it is."""
    room: dict[str, int] = {}
    owners: dict[Names, bool] = {}
    members = {(job.queue, job.id) for job in unit.jobs}
    parents: dict[Names, JobRef] = {}
    for job in unit.jobs:
        parent = job.parent
        if parent is not None and (other := parents.setdefault((job.queue, job.id), parent.ref)) != parent.ref:
            return Refusal(JobRef(job.queue, job.id), ParentTaken(JobRef(job.queue, job.id), other))
        if parent is not None and (error := _unfit(tx, prefix, known, members, job, parent.ref)) is not None:
            return Refusal(JobRef(job.queue, job.id), error)
        queue = queues[job.queue]
        if queue.max_waiting is None or (job.queue, job.id) in known or job.has_children:
            continue
        if job.options.deduplication is not None and _stands(tx, queue, job, job.options.deduplication, owners):
            continue
        waiting = queue.waiting + queue.prioritized
        room.setdefault(job.queue, queue.max_waiting - waiting)
        if not job.options.delay_ms:
            room[job.queue] -= 1
        if room[job.queue] < 0:
            return Refusal(JobRef(job.queue, job.id), QueueFull(job.queue, waiting, queue.max_waiting))
    return None


def _stands(tx: Transaction, queue: QueueRow, job: NewJob, asked: Deduplication, owners: dict[Names, bool]) -> bool:
    """Whether another job will stand in an add's place, which then needs no room.

    `owners` are the deduplication ids of the members before it, and whether their owners will be delayed.
    """
    key = (job.queue, asked.id)
    if key not in owners and (owner := owner_of(tx.connection, queue.qid, asked.id, tx.now_ms)) is not None:
        owners[key] = owner.state == State.DELAYED
    stands = key in owners and not takes_the_place(job, asked, delayed=owners[key])
    if not stands:
        owners[key] = job.options.delay_ms > 0
    return stands


def _unfit(
    tx: Transaction,
    prefix: str,
    known: dict[Names, _Known],
    members: set[Names],
    job: NewJob,
    parent: JobRef,
) -> TorilError | None:
    """Why a job cannot become the child of a parent."""
    if (parent.queue, parent.id) not in members | known.keys() and not _exists(tx, prefix, parent):
        return JobNotFound(parent)
    before = known.get((job.queue, job.id))
    if before is None:
        return None
    taken = before.parent
    if taken is None and before.parent_row is not None:
        taken = parent_at(tx, before.parent_row)
    return None if taken in (None, parent) else ParentTaken(JobRef(job.queue, job.id), taken)


def _exists(tx: Transaction, prefix: str, ref: JobRef) -> bool:
    queue = tx.queue(prefix, ref.queue)
    return queue is not None and tx.one("job.get", qid=queue.qid, id=ref.id) is not None
