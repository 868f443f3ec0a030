"""Schedules: what they are, and their runs. The times of runs are the callers'."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import astuple, replace
from typing import Any

from toril.model import NewJob, Placed, Schedule, ScheduleRecord, Superseded, iteration_id
from toril.states import State
from toril.stores.sqlite.transaction import SQL, QueueRow, Transaction
from toril.stores.sqlite.verbs.insert import insert, values_of
from toril.stores.sqlite.verbs.moves import Job, evict
from toril.stores.sqlite.verbs.records import options_or_default, options_text
from toril.timing import Missed, Overlap, Timing, policy_named

_ALL = SQL["schedule.columns"] + " WHERE q.prefix = :prefix"
_IN_QUEUE = _ALL + " AND q.name = :queue"
_BY_ID = " AND s.id = :id"


def schedules(db: sqlite3.Connection, prefix: str, queue: str | None, id: str | None) -> list[ScheduleRecord]:
    """Those of a queue or of all, or with an id, the next run first."""
    text = (_ALL if queue is None else _IN_QUEUE) + ("" if id is None else _BY_ID)
    rows = db.execute(text, {"prefix": prefix, "queue": queue, "id": id}).fetchall()
    return sorted(map(_record_of, rows), key=lambda record: (record.next_at_ms, record.schedule.id))


def _record_of(row: tuple[Any, ...]) -> ScheduleRecord:
    """A row of `schedule.columns` as a record."""
    (
        queue, id, next_at_ms, iterations, count, running, name, data, options, pattern, tz, every_ms, offset_ms, limit,
        start_at_ms, end_at_ms, missed, overlap, declared, paused, superseded, state,
    ) = row  # fmt: skip
    timing = Timing(
        pattern=pattern,
        tz=tz,
        every_ms=every_ms,
        offset_ms=offset_ms,
        limit=limit,
        start_at_ms=start_at_ms,
        end_at_ms=end_at_ms,
        missed=policy_named(Missed, missed, Missed.ONCE),
        overlap=policy_named(Overlap, overlap, Overlap.ALLOW),
    )
    before = tuple(Superseded(*entry) for entry in json.loads(superseded)) if superseded else ()
    schedule = Schedule(queue, id, timing, name, data, options_or_default(options), declared, bool(paused), before)
    return ScheduleRecord(schedule, next_at_ms, iterations, count, None if state is None else State(state), running)


def _look(tx: Transaction, prefix: str, queue: str, id: str) -> ScheduleRecord | None:
    found = schedules(tx.connection, prefix, queue, id)
    return found[0] if found else None


def _traits(record: ScheduleRecord) -> tuple[Any, ...]:
    """What must be as it was seen for a schedule to be changed."""
    its = record.schedule
    return (
        record.next_at_ms, record.running, its.timing.missed, its.timing.overlap, its.declared, its.paused, its.superseded,
    )  # fmt: skip


def put_schedule(
    tx: Transaction, prefix: str, schedule: Schedule, seen: ScheduleRecord | None, next_at_ms: int | None, count: int
) -> Placed:
    is_there = _look(tx, prefix, schedule.queue, schedule.id)
    if not _is_as_seen(is_there, seen):
        return Placed.CHANGED
    queue = tx.queue(prefix, schedule.queue, create=True)
    assert queue is not None
    pending = is_there.iteration.id if is_there is not None and is_there.pending else None
    if next_at_ms is not None:
        next_id = iteration_id(schedule.id, next_at_ms)
        if next_id != pending and _find(tx, queue, next_id) is not None:
            return Placed.TAKEN
    if pending is not None and (job := _find(tx, queue, pending)) is not None:
        evict(tx, prefix, [job.row], receipts=False)
    stays_at_ms = tx.now_ms if is_there is None else is_there.next_at_ms
    if next_at_ms is None:
        _write(tx, queue, schedule, stays_at_ms, count, runs=0)
    else:
        _write(tx, queue, schedule, next_at_ms, count, runs=1)
        _make_run(tx, queue, schedule, next_at_ms)
    return Placed.DONE


def _is_as_seen(is_there: ScheduleRecord | None, seen: ScheduleRecord | None) -> bool:
    if is_there is None or seen is None:
        return is_there is seen
    return is_there.pending == seen.pending and _traits(is_there) == _traits(seen)


def _find(tx: Transaction, queue: QueueRow, id: str) -> Job | None:
    row = tx.one("job.get", qid=queue.qid, id=id)
    return None if row is None else Job(*row)


def _write(tx: Transaction, queue: QueueRow, schedule: Schedule, at_ms: int, count: int, *, runs: int) -> None:
    timing = schedule.timing
    tx.run(
        "schedule.put",
        qid=queue.qid,
        id=schedule.id,
        next_at_ms=at_ms,
        runs=runs,
        count=count,
        name=schedule.name,
        data=schedule.data,
        options=options_text(schedule.options),
        pattern=timing.pattern,
        tz=timing.tz,
        every_ms=timing.every_ms,
        offset_ms=timing.offset_ms,
        run_limit=timing.limit,
        start_at_ms=timing.start_at_ms,
        end_at_ms=timing.end_at_ms,
        missed=timing.missed.value,
        overlap=timing.overlap.value,
        declared=schedule.declared,
        paused=schedule.paused,
        superseded=json.dumps([astuple(entry) for entry in schedule.superseded]) if schedule.superseded else None,
    )


def _make_run(tx: Transaction, queue: QueueRow, schedule: Schedule, at_ms: int) -> None:
    """Store the run of a schedule at a time, of which there is no job."""
    options = replace(schedule.options, delay_ms=max(0, at_ms - tx.now_ms))
    job = NewJob(
        queue.name, schedule.name, iteration_id(schedule.id, at_ms), schedule.data, options, created_at_ms=tx.now_ms
    )
    insert(tx, [values_of(tx, queue, job, schedule=schedule.id)])


def advance_schedule(
    tx: Transaction, prefix: str, seen: ScheduleRecord, next_at_ms: int, running: str | None
) -> Placed:
    id = seen.schedule.id
    is_there = _look(tx, prefix, seen.schedule.queue, id)
    if is_there is None or is_there.schedule.paused or _traits(is_there) != _traits(seen):
        return Placed.CHANGED
    queue = tx.queue(prefix, seen.schedule.queue)
    assert queue is not None
    if next_at_ms == seen.next_at_ms:
        if is_there.state is not None:
            return Placed.CHANGED
    elif _find(tx, queue, iteration_id(id, next_at_ms)) is not None:
        return Placed.TAKEN
    _make_run(tx, queue, is_there.schedule, next_at_ms)
    tx.run("schedule.advance", qid=queue.qid, id=id, next_at_ms=next_at_ms, running=running)
    return Placed.DONE


def remove_schedule(tx: Transaction, prefix: str, name: str, id: str) -> bool:
    queue = tx.queue(prefix, name)
    gone = None if queue is None else tx.one("schedule.remove", qid=queue.qid, id=id)
    if queue is None or gone is None:
        return False
    job = _find(tx, queue, iteration_id(id, gone[0]))
    if job is not None and job.state == State.DELAYED:
        evict(tx, prefix, [job.row], receipts=False)
        tx.emit(queue, "removed", job.id, prev=State.DELAYED)
    return True
