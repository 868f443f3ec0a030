"""Steps that several verbs take: back among those that wait, a parent's release, removal."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from toril.states import State
from toril.stores.sqlite.transaction import QueueRow, Transaction


class Job(NamedTuple):
    """What changing one job needs to know; a row of `job.get`."""

    row: int
    id: str
    state: str
    rank: int
    place: int
    priority: int
    delay_ms: int
    token: str | None
    locked_until_ms: int | None
    parent_row: int | None
    policy: str | None
    pending: int
    history: str | None
    options: str | None
    log_tail: int
    qid: int
    deduplication: str | None
    schedule: str | None

    def is_locked(self, now_ms: int) -> bool:
        """Whether a worker holds it."""
        return self.state == State.ACTIVE and (self.locked_until_ms or 0) > now_ms


def standing(queue: QueueRow, priority: int, *, front: bool = False) -> tuple[State, int, int]:
    """State, rank and place of a job that may run now."""
    return (*ready(priority), queue.front() if front else queue.back())


def ready(priority: int) -> tuple[State, int]:
    """State and rank of a job that may run now."""
    return (State.PRIORITIZED, priority) if priority else (State.WAITING, 0)


def enqueue(
    tx: Transaction, queue: QueueRow, row: int, job_id: str, before: str, priority: int, *, front: bool = False
) -> None:
    """Let one job run now, wherever it stood."""
    state, rank, place = standing(queue, priority, front=front)
    tx.run("job.move", row=row, state=state, rank=rank, place=place, delay_ms=0, ready_at_ms=tx.now_ms)
    queue.moved(before, state)
    tx.emit(queue, "waiting", job_id, prev=before)
    tx.ring(queue)


def postpone(
    tx: Transaction,
    queue: QueueRow,
    row: int,
    job_id: str,
    before: str,
    delay_ms: int,
    *,
    since_ms: int | None = None,
) -> None:
    """Let one job run after a delay that counts from now, or from another moment, wherever it stood."""
    due_ms, place = (tx.now_ms if since_ms is None else since_ms) + delay_ms, queue.back()
    tx.run("job.move", row=row, state=State.DELAYED, rank=due_ms, place=place, delay_ms=delay_ms, ready_at_ms=None)
    queue.moved(before, State.DELAYED)
    tx.emit(queue, "delayed", job_id, due_at_ms=str(due_ms))
    tx.ring(queue)


def release_when_done(tx: Transaction, prefix: str, parent_row: int) -> None:
    """One child less to wait for; after the last one, the parent is released."""
    parent = tx.one("settle.parent", row=parent_row)
    if parent is not None and parent[3] == 0 and parent[2] == State.WAITING_CHILDREN:
        release_parent(tx, prefix, parent, parent_row)


def release_parent(tx: Transaction, prefix: str, parent: tuple[Any, ...], parent_row: int) -> None:
    """A parent may run, or begins to serve its own delay. `parent` is a row of `settle.parent`."""
    qid, job_id, state, _, priority, delay_ms = parent
    queue = tx.queue_of(prefix, qid)
    if delay_ms > 0:
        postpone(tx, queue, parent_row, job_id, state, delay_ms)
        return
    enqueue(tx, queue, parent_row, job_id, state, priority, front=not priority)


def drop_from_parent(tx: Transaction, prefix: str, parent_row: int, qid: int, job_id: str) -> None:
    """A child goes: a parent that waited for nothing else is released."""
    if tx.run("settle.forget_child", parent_row=parent_row, qid=qid, id=job_id):
        release_when_done(tx, prefix, parent_row)


def evict(tx: Transaction, prefix: str, rows: list[int], *, receipts: bool) -> None:
    """Delete jobs by row and count them out.

    With `receipts` it is their keep rule that removes them: results that are still promised stay readable, and
    deduplication ids that are kept for a time stay theirs.
    """
    if not rows:
        return
    text = json.dumps(rows)
    if receipts:
        tx.run("evict.receipts", rows=text, now=tx.now_ms)
    for row, qid, job_id, parent_row, deduplication in tx.batch("evict.family", rows=text):
        if parent_row is not None:
            drop_from_parent(tx, prefix, parent_row, qid, job_id)
        if deduplication is not None and not receipts:
            _disown(tx, qid, deduplication, job_id)
        tx.run("evict.orphan", row=row)
        tx.run("evict.childless", row=row)
    # Counted only now: a parent among them may just have been released by its child.
    for qid, state, count in tx.rows("job.states", rows=text):
        tx.queue_of(prefix, qid).moved(state, None, count)
    tx.run("evict.logs", rows=text)
    tx.run("evict.jobs", rows=text)


def _disown(tx: Transaction, qid: int, deduplication: str, job_id: str) -> None:
    """A job goes that may own its deduplication id: the id is free, and nothing waits for its end any more."""
    if tx.run("deduplication.disown", qid=qid, id=deduplication, owner=job_id):
        tx.run("deduplication.drop_kept", qid=qid, id=deduplication)
