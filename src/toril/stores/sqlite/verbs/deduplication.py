"""At most one job under a deduplication id: who owns it, what an add meets there, and who comes after the owner."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from toril.model import Added, JobRef, NewJob, Parent
from toril.options import ChildPolicy, Deduplication
from toril.states import FINISHED, State
from toril.stores.sqlite.transaction import SQL, QueueRow, Transaction
from toril.stores.sqlite.verbs.insert import attach, insert, parent_at, values_of
from toril.stores.sqlite.verbs.moves import Job, evict, postpone
from toril.stores.sqlite.verbs.records import options_or_default, options_text


class Owner(NamedTuple):
    """The job that owns an id; a row of `deduplication.owner`. Without `row` it is gone."""

    id: str
    until_ms: int | None
    row: int | None
    state: str | None

    @property
    def is_unfinished(self) -> bool:
        """Whether it is there and has not ended."""
        return self.row is not None and self.state not in FINISHED

    @property
    def is_stale(self) -> bool:
        """Whether it is gone and would own the id for ever."""
        return self.until_ms is None and self.row is None


class Verdict(NamedTuple):
    """The answer to an add; the delayed job whose place it takes, and the parent that this one had."""

    answer: Added
    replaced: str | None = None
    loosened: JobRef | None = None


def owner_of(db: sqlite3.Connection, qid: int, id: str, now_ms: int) -> Owner | None:
    """Who owns an id; None where nobody does, or one who would never give it back."""
    row = db.execute(SQL["deduplication.owner"], {"qid": qid, "id": id, "now": now_ms}).fetchone()
    owner = None if row is None else Owner(*row)
    return None if owner is None or owner.is_stale else owner


def takes_the_place(job: NewJob, asked: Deduplication, *, delayed: bool) -> bool:
    """Whether an add is stored though an owner stands; `delayed` says whether that one is."""
    return asked.replace and not job.has_children and delayed


def judge(tx: Transaction, prefix: str, queue: QueueRow, job: NewJob, asked: Deduplication) -> Verdict:
    """Say whether an add is to be stored, and make it the owner then."""
    owner = owner_of(tx.connection, queue.qid, asked.id, tx.now_ms)
    if owner is None:
        _own(tx, queue, asked, job.id, _until_ms(tx, asked))
        return Verdict(Added(JobRef(job.queue, job.id)))
    if takes_the_place(job, asked, delayed=owner.state == State.DELAYED):
        loosened = _replace(tx, prefix, queue, job, asked, owner)
        return Verdict(Added(JobRef(job.queue, job.id), False, "debounce"), owner.id, loosened)
    ref = JobRef(job.queue, owner.id)
    if asked.keep_last_if_active and owner.state == State.ACTIVE:
        if _kept_id(tx, queue, asked) != job.id:  # else it was kept and told before the answer was lost
            _say(tx, queue, asked, owner.id, job.id)
        _keep(tx, queue, job, asked)
        return Verdict(Added(ref, True, "keep-last"))
    if not asked.replace or job.has_children:
        _meet(tx, queue, job, asked, owner)
    return Verdict(Added(ref, True, asked.rule))


def met_before(tx: Transaction, queue: QueueRow, job: NewJob) -> Added:
    """What an add that is not there was answered the first time, as far as that can still be seen."""
    asked = job.options.deduplication
    owner = None if asked is None else owner_of(tx.connection, queue.qid, asked.id, tx.now_ms)
    if asked is None or owner is None or owner.id == job.id:
        return Added(JobRef(job.queue, job.id))
    kept = _kept_id(tx, queue, asked) == job.id
    return Added(JobRef(job.queue, owner.id), True, "keep-last" if kept else asked.rule)


def _meet(tx: Transaction, queue: QueueRow, job: NewJob, asked: Deduplication, owner: Owner) -> None:
    """An owner stands, and the add begins its time or its delay anew where it asks for that."""
    # An id without a time is given back by the end of its owner: one whose owner has ended keeps the time it has.
    if asked.extend and asked.ttl_ms and (not asked.keep_last_if_active or owner.is_unfinished):
        tx.run("deduplication.extend", qid=queue.qid, id=asked.id, until=_until_ms(tx, asked))
    _say(tx, queue, asked, owner.id, job.id)
    if asked.reschedule and owner.row is not None and owner.state == State.DELAYED:
        delay_ms = job.options.delay_ms
        postpone(tx, queue, owner.row, owner.id, State.DELAYED, delay_ms, since_ms=job.created_at_ms)


def _replace(
    tx: Transaction, prefix: str, queue: QueueRow, job: NewJob, asked: Deduplication, owner: Owner
) -> JobRef | None:
    """Take the place of an owner that is delayed; return its parent, which is not released yet: it may wait for the new job."""
    assert owner.row is not None
    parent: JobRef | None = None
    parent_row = Job(*tx.one("job.get_row", row=owner.row)).parent_row
    if parent_row is not None:
        parent = parent_at(tx, parent_row)
        tx.run("settle.forget_child", parent_row=parent_row, qid=queue.qid, id=owner.id)
        tx.run("job.set_free", row=owner.row)
    evict(tx, prefix, [owner.row], receipts=False)
    tx.emit(queue, "removed", owner.id, prev="delayed")
    _say(tx, queue, asked, job.id, owner.id)
    goes_on = asked.ttl_ms and not asked.extend and not asked.keep_last_if_active
    _own(tx, queue, asked, job.id, owner.until_ms if goes_on else _until_ms(tx, asked))
    return parent


def _keep(tx: Transaction, queue: QueueRow, job: NewJob, asked: Deduplication) -> None:
    """Put an add by until the owner has ended; it takes the place of one that was put by before."""
    parent = job.parent
    tx.run(
        "deduplication.keep",
        qid=queue.qid,
        deduplication=asked.id,
        id=job.id,
        name=job.name,
        data=job.data,
        options=options_text(job.options),
        nonce=job.nonce,
        parent_queue=parent and parent.ref.queue,
        parent_id=parent and parent.ref.id,
        policy=parent and parent.policy.value,
    )
    tx.run("deduplication.extend", qid=queue.qid, id=asked.id, until=None)


def _kept_id(tx: Transaction, queue: QueueRow, asked: Deduplication) -> str | None:
    """The add that is put by until the owner has ended."""
    row = tx.one("deduplication.kept", qid=queue.qid, id=asked.id)
    return None if row is None else str(row[0])


def _own(tx: Transaction, queue: QueueRow, asked: Deduplication, job_id: str, until_ms: int | None) -> None:
    tx.run("deduplication.own", qid=queue.qid, id=asked.id, owner=job_id, until=until_ms)


def _until_ms(tx: Transaction, asked: Deduplication) -> int | None:
    return tx.now_ms + asked.ttl_ms if asked.ttl_ms and not asked.keep_last_if_active else None


def _say(tx: Transaction, queue: QueueRow, asked: Deduplication, job_id: str, other_id: str) -> None:
    tx.emit(queue, "deduplicated", job_id, deduplication_id=asked.id, deduplicated_job_id=other_id)


def owner_ended(tx: Transaction, prefix: str, queue: QueueRow, id: str, job_id: str) -> None:
    """A job has ended: its deduplication id is free, and what was put by until then is added."""
    tx.run("deduplication.end", qid=queue.qid, id=id, owner=job_id)
    add_kept(tx, prefix, queue, id, but=job_id)


def add_kept(tx: Transaction, prefix: str, queue: QueueRow, id: str, *, but: str = "") -> None:
    """Add what was put by until the owner of an id has ended, unless there is one (besides `but`) that has not."""
    kept = tx.one("deduplication.take_kept", qid=queue.qid, id=id, but=but, now=tx.now_ms)
    if kept is None:
        return
    kept_id, name, data, options, nonce, parent_queue, parent_id, policy = kept
    if tx.one("job.get", qid=queue.qid, id=kept_id) is not None:
        tx.emit(queue, "duplicated", kept_id)
        return
    parent = None if parent_id is None else Parent(JobRef(parent_queue, parent_id), ChildPolicy(policy))
    job = NewJob(queue.name, name, kept_id, data, options_or_default(options), tx.now_ms, nonce, parent)
    asked = job.options.deduplication or Deduplication(id)
    _own(tx, queue, asked, kept_id, _until_ms(tx, asked))
    insert(tx, [values_of(tx, queue, job)])
    if parent is not None:
        attach(tx, prefix, [(job, queue.qid)])


def forget(tx: Transaction, prefix: str, name: str, id: str) -> bool:
    queue = tx.queue(prefix, name)
    return queue is not None and tx.run("deduplication.forget", qid=queue.qid, id=id, now=tx.now_ms) > 0
