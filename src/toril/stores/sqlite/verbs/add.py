"""Store units of jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from toril.errors import JobNotFound, ParentTaken, QueueFull, TorilError
from toril.model import Added, JobRef, NewJob, Receipt, Refusal, Unit
from toril.states import State
from toril.stores.sqlite.transaction import SQL, QueueRow, Transaction
from toril.stores.sqlite.verbs.moves import Job, release_parent
from toril.stores.sqlite.verbs.records import options_text

STEPS = (256, 32, 4, 1)
"""How many jobs one INSERT holds: a few sizes, so that each is prepared once."""


@dataclass(slots=True)
class _Known:
    """What is there already under an id that is to be added."""

    row: int | None
    nonce: str | None
    parent_row: int | None = None


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
    looks = careful or any(job.nonce is not None or job.parent is not None for job in jobs)
    looks = looks or any(queue.has_receipts or queue.max_waiting is not None for queue in queues.values())
    known = _known(tx, queues, jobs) if looks else {}
    values: list[tuple[Any, ...]] = []
    parents: list[tuple[NewJob, int]] = []
    receipts = [_add_unit(tx, prefix, queues, known, unit, values, parents) for unit in units]
    if _insert(tx, values) != len(values):
        raise Repeated
    _attach(tx, prefix, parents)
    return receipts


def _add_unit(
    tx: Transaction,
    prefix: str,
    queues: dict[str, QueueRow],
    known: dict[tuple[str, str], _Known],
    unit: Unit,
    values: list[tuple[Any, ...]],
    parents: list[tuple[NewJob, int]],
) -> Receipt:
    """The receipt of one unit; what is to be inserted goes to `values`, who is to be attached to `parents`."""
    refusal = _refusal(tx, prefix, queues, known, unit)
    if refusal is not None:
        return Receipt("sqlite", refusal=refusal)
    added: list[Added] = []
    for job in unit.jobs:
        ref, queue = JobRef(job.queue, job.id), queues[job.queue]
        before = known.get((job.queue, job.id))
        repeated = before is None or job.nonce is None or job.nonce == before.nonce
        added.append(Added(ref, duplicate=not repeated))
        if before is None:
            values.append(_values(tx, queue, job))
            known[job.queue, job.id] = _Known(None, job.nonce)
        elif not repeated:
            tx.emit(queue, "duplicated", job.id)
        if job.parent is not None and (before is None or before.row is not None):
            parents.append((job, queue.qid))
    return Receipt("sqlite", tuple(added))


def _queue(tx: Transaction, prefix: str, name: str) -> QueueRow:
    queue = tx.queue(prefix, name, create=True)
    assert queue is not None
    return queue


def _known(tx: Transaction, queues: dict[str, QueueRow], jobs: list[NewJob]) -> dict[tuple[str, str], _Known]:
    """Jobs that are there already, and jobs of which only the receipt is left."""
    ids = json.dumps([(queues[job.queue].qid, job.id) for job in jobs])
    known: dict[tuple[str, str], _Known] = {}
    for key, row, nonce, parent_row, receipt_nonce, receipt in tx.batch("add.known", ids=ids, now=tx.now_ms):
        job = jobs[int(key)]
        if row is not None:
            known[job.queue, job.id] = _Known(row, nonce, parent_row)
        elif receipt and (job.nonce is None or job.nonce == receipt_nonce):
            known[job.queue, job.id] = _Known(None, receipt_nonce)
    return known


def _refusal(
    tx: Transaction, prefix: str, queues: dict[str, QueueRow], known: dict[tuple[str, str], _Known], unit: Unit
) -> Refusal | None:
    """Why a unit cannot be stored, before anything of it is."""
    room: dict[str, int] = {}
    members = {(job.queue, job.id) for job in unit.jobs}
    for job in unit.jobs:
        parent = job.parent
        if parent is not None and (error := _unfit(tx, prefix, known, members, job, parent.ref)) is not None:
            return Refusal(JobRef(job.queue, job.id), error)
        queue = queues[job.queue]
        if queue.max_waiting is None or (job.queue, job.id) in known or job.has_children:
            continue
        waiting = queue.waiting + queue.prioritized
        room.setdefault(job.queue, queue.max_waiting - waiting)
        if not job.options.delay_ms:
            room[job.queue] -= 1
        if room[job.queue] < 0:
            return Refusal(JobRef(job.queue, job.id), QueueFull(job.queue, waiting, queue.max_waiting))
    return None


def _unfit(
    tx: Transaction,
    prefix: str,
    known: dict[tuple[str, str], _Known],
    members: set[tuple[str, str]],
    job: NewJob,
    parent: JobRef,
) -> TorilError | None:
    """Why a job cannot become the child of a parent."""
    if (parent.queue, parent.id) not in members | known.keys() and not _exists(tx, prefix, parent):
        return JobNotFound(parent)
    before = known.get((job.queue, job.id))
    if before is None or before.parent_row is None:
        return None
    queue, job_id = tx.one("add.parent", row=before.parent_row)
    taken = JobRef(queue, job_id)
    return None if taken == parent else ParentTaken(JobRef(job.queue, job.id), taken)


def _exists(tx: Transaction, prefix: str, ref: JobRef) -> bool:
    queue = tx.queue(prefix, ref.queue)
    return queue is not None and tx.one("job.get", qid=queue.qid, id=ref.id) is not None


def _values(tx: Transaction, queue: QueueRow, job: NewJob) -> tuple[Any, ...]:
    """The columns of a new job; counts it and says that it was added."""
    options = job.options
    tx.emit(queue, "added", job.id, name=job.name)
    ready_at_ms: int | None = None
    if job.has_children:
        state, rank, place = State.WAITING_CHILDREN, tx.now_ms, queue.back()
        tx.emit(queue, "waiting-children", job.id)
    elif options.delay_ms:
        state, rank, place = State.DELAYED, job.created_at_ms + options.delay_ms, queue.back()
        tx.emit(queue, "delayed", job.id, due_at_ms=str(rank))
        tx.ring(queue)
    else:
        ready_at_ms = tx.now_ms
        if options.priority:
            state, rank, place = State.PRIORITIZED, options.priority, queue.back()
        else:
            state, rank, place = State.WAITING, 0, queue.front() if options.lifo else queue.back()
        tx.emit(queue, "waiting", job.id)
        tx.ring(queue)
    queue.moved(None, state)
    return (
        queue.qid, job.id, state.value, rank, place, options.priority, options.delay_ms, job.name, job.data,
        options_text(options), job.nonce, job.created_at_ms, ready_at_ms, None, None, 0,
    )  # fmt: skip


def _insert(tx: Transaction, values: list[tuple[Any, ...]]) -> int:
    """Insert rows; how many were new."""
    start = inserted = 0
    for step in STEPS:
        while len(values) - start >= step:
            part = values[start : start + step]
            text = _insert_text(SQL["add.insert"], step)
            inserted += tx.connection.execute(text, [value for row in part for value in row]).rowcount
            start += step
    return inserted


@lru_cache(maxsize=16)
def _insert_text(statement: str, rows: int) -> str:
    head, _, rest = statement.partition("VALUES ")
    row, _, tail = rest.partition("\n")
    return f"{head}VALUES {', '.join([row] * rows)}\n{tail}"


def _attach(tx: Transaction, prefix: str, children: list[tuple[NewJob, int]]) -> None:
    """Tie children to their parents, which wait for them; a parent with nothing to wait for is released."""
    parents: set[int] = set()
    for job, qid in children:
        assert job.parent is not None
        parent = tx.one("job.get", qid=_queue(tx, prefix, job.parent.ref.queue).qid, id=job.parent.ref.id)
        child = Job(*tx.one("job.get", qid=qid, id=job.id))
        if parent is None or child.parent_row not in (None, parent[0]):
            continue
        names = {"parent_row": parent[0], "qid": qid, "id": job.id}
        tx.run("add.child", **names)
        tx.run("add.attach", row=child.row, parent_row=parent[0], policy=job.parent.policy.value)
        if child.state == State.COMPLETED:
            tx.run("add.completed", row=child.row, **names)
        parents.add(parent[0])
    for row in parents:
        tx.run("add.expect", parent_row=row)
        found = Job(*tx.one("job.get_row", row=row))
        if found.state == State.WAITING_CHILDREN and found.pending == 0:
            release_parent(tx, prefix, (found.qid, found.id, found.state, 0, found.priority, found.delay_ms), row)
