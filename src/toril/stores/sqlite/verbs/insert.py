"""New jobs: their rows, and who waits for them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from toril.model import JobRef, NewJob
from toril.states import State
from toril.stores.sqlite.transaction import SQL, QueueRow, Transaction
from toril.stores.sqlite.verbs.ending import child_failed
from toril.stores.sqlite.verbs.moves import Job, release_parent
from toril.stores.sqlite.verbs.records import options_text

STEPS = (256, 32, 4, 1)
"""How many jobs one INSERT holds: a few sizes, so that each is prepared once."""


def values_of(tx: Transaction, queue: QueueRow, job: NewJob, *, schedule: str | None = None) -> tuple[Any, ...]:
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
    deduplication = None if options.deduplication is None else options.deduplication.id
    return (
        queue.qid, job.id, state.value, rank, place, options.priority, options.delay_ms, job.name, job.data,
        options_text(options), job.nonce, job.created_at_ms, ready_at_ms, None, None, 0, deduplication, schedule,
    )  # fmt: skip


class _Adopted(NamedTuple):
    """A job that had failed before it became a child."""

    queue: QueueRow
    id: str
    parent_row: int
    policy: str


def insert(tx: Transaction, values: list[tuple[Any, ...]]) -> int:
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


def attach(tx: Transaction, prefix: str, children: list[tuple[NewJob, int]], loosened: Iterable[JobRef] = ()) -> None:
    """Tie children to their parents, which wait for them; a parent with nothing to wait for is released.

    `loosened` are parents that have lost a child, or did not get one.
    """
    parents = {row for ref in loosened if (row := _row_of(tx, prefix, ref)) is not None}
    failed: list[tuple[_Adopted, str]] = []
    for job, qid in children:
        assert job.parent is not None
        parent = _row_of(tx, prefix, job.parent.ref)
        child = Job(*tx.one("job.get", qid=qid, id=job.id))
        if parent is None:
            continue
        parents.add(parent)
        if not _may_be_child_of(tx, child, parent):
            continue
        policy = job.parent.policy.value
        names = {"parent_row": parent, "qid": qid, "id": job.id}
        tx.run("add.child", **names)
        tx.run("add.attach", row=child.row, parent_row=parent, policy=policy)
        if child.state == State.COMPLETED:
            tx.run("add.completed", row=child.row, **names)
        elif child.state == State.FAILED:
            reason = tx.one("add.reason", row=child.row)[0] or ""
            failed.append((_Adopted(tx.queue_of(prefix, qid), child.id, parent, policy), reason))
    # After all children are in: one that has ended must not release its parent too early.
    for adopted, reason in failed:
        tx.run("add.expect", parent_row=adopted.parent_row)
        child_failed(tx, prefix, adopted, reason)
    for row in parents:
        expect(tx, prefix, row)


def _may_be_child_of(tx: Transaction, child: Job, parent: int) -> bool:
    """Whether it is a child of this parent, or of none that is there."""
    return child.parent_row in (None, parent) or parent_at(tx, child.parent_row) is None


def parent_at(tx: Transaction, row: int) -> JobRef | None:
    """The parent that a job names by its row; None when it is gone."""
    found = tx.one("add.parent", row=row)
    return None if found is None else JobRef(*found)


def _row_of(tx: Transaction, prefix: str, ref: JobRef) -> int | None:
    queue = tx.queue(prefix, ref.queue)
    row = None if queue is None else tx.one("job.get", qid=queue.qid, id=ref.id)
    return None if row is None else int(row[0])


def expect(tx: Transaction, prefix: str, row: int) -> None:
    """Count the children that a parent waits for; one with nothing to wait for is released."""
    tx.run("add.expect", parent_row=row)
    found = Job(*tx.one("job.get_row", row=row))
    if found.state == State.WAITING_CHILDREN and found.pending == 0:
        release_parent(tx, prefix, (found.qid, found.id, found.state, 0, found.priority, found.delay_ms), row)
