"""Looking, on a reader's connection: nothing here writes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from toril.errors import ConfigError
from toril.model import (
    Child,
    Event,
    JobRecord,
    JobRef,
    LogPage,
    Page,
    QueueSettings,
    QueueSummary,
    Series,
    WorkerInfo,
)
from toril.options import DEFAULT_OPTIONS
from toril.states import State
from toril.stores.sqlite.transaction import MINUTE_MS, SQL, QueueRow
from toril.stores.sqlite.verbs.admin import settings_of
from toril.stores.sqlite.verbs.deduplication import owner_of
from toril.stores.sqlite.verbs.records import record_of


def queue(db: sqlite3.Connection, prefix: str, name: str) -> QueueRow | None:
    row = db.execute(SQL["queue.load"], {"prefix": prefix, "name": name}).fetchone()
    return None if row is None else QueueRow(*row)


def get(db: sqlite3.Connection, prefix: str, refs: Sequence[JobRef], now_ms: int) -> list[JobRecord | None]:
    return [_get(db, prefix, ref, now_ms) for ref in refs]


def _get(db: sqlite3.Connection, prefix: str, ref: JobRef, now_ms: int) -> JobRecord | None:
    its = queue(db, prefix, ref.queue)
    if its is None:
        return None
    row = db.execute(SQL["job.columns"] + " WHERE j.qid = ? AND j.id = ?", (its.qid, ref.id)).fetchone()
    if row is not None:
        return record_of(row)
    receipt = db.execute(SQL["job.receipt"], {"qid": its.qid, "id": ref.id, "now": now_ms}).fetchone()
    if receipt is None:
        return None
    name, state, result, reason, made, created, processed, finished = receipt
    return JobRecord(
        ref=ref,
        name=name,
        data="null",
        options=DEFAULT_OPTIONS,
        state=State(state),
        created_at_ms=created,
        processed_at_ms=processed,
        finished_at_ms=finished,
        attempts_made=made,
        result=result,
        reason=reason,
        kept=False,
    )


def find(
    db: sqlite3.Connection, prefix: str, name: str, state: State, after: str | None, limit: int, newest_first: bool
) -> Page[JobRecord]:
    its = queue(db, prefix, name)
    if its is None:
        return Page(())
    order, sign = ("DESC", "<") if newest_first else ("ASC", ">")
    where, values = " WHERE j.qid = ? AND j.state = ?", [its.qid, state.value]
    if after is not None:
        where += f" AND (j.rank, j.place, j.row) {sign} (?, ?, ?)"
        values += _cursor(after)
    where += f" ORDER BY j.rank {order}, j.place {order}, j.row {order} LIMIT ?"
    rows = db.execute(SQL["job.columns"] + where, (*values, limit + 1)).fetchall()
    last = rows[limit - 1] if len(rows) > limit else None
    return Page(tuple(record_of(row) for row in rows[:limit]), last and f"{last[7]}.{last[8]}.{last[0]}")


def _cursor(after: str) -> list[int]:
    try:
        rank, place, row = (int(part) for part in after.split("."))
    except ValueError:
        raise ConfigError(f"{after!r} is not where a page ended: pass a page's `next`") from None
    return [rank, place, row]


def summaries(db: sqlite3.Connection, prefix: str, names: Sequence[str] | None, now_ms: int) -> list[QueueSummary]:
    rows = [QueueRow(*row) for row in db.execute(SQL["queue.all"], {"prefix": prefix})]
    known = {row.name: row for row in rows}
    wanted = list(known) if names is None else names
    return [_summary(db, name, known.get(name), now_ms) for name in wanted]


def _summary(db: sqlite3.Connection, name: str, row: QueueRow | None, now_ms: int) -> QueueSummary:
    counts = {state: 0 if row is None else row.count(state) for state in State}
    ready: list[int] = []
    for state in (State.WAITING, State.PRIORITIZED):
        if row is not None and row.count(state):
            oldest = db.execute(SQL["queue.oldest"], {"qid": row.qid, "state": state.value}).fetchone()
            ready += [] if oldest is None or oldest[0] is None else [oldest[0]]
    return QueueSummary(name, counts, settings_of(row, now_ms), min(ready, default=None))


def series(db: sqlite3.Connection, prefix: str, name: str, state: State, limit: int, now_ms: int) -> Series:
    its, last = queue(db, prefix, name), now_ms // MINUTE_MS
    first, until_ms = last - limit + 1, (last + 1) * MINUTE_MS
    if its is None:
        return Series(0, (0,) * limit, until_ms)
    wanted = {"qid": its.qid, "first": first, "last": last, "state": state.value}
    counts = dict(json.loads(db.execute(SQL["series.read"], wanted).fetchone()[0]))
    return Series(its.counted(state), tuple(counts.get(minute, 0) for minute in range(first, last + 1)), until_ms)


def settings(db: sqlite3.Connection, prefix: str, name: str, now_ms: int) -> QueueSettings:
    return settings_of(queue(db, prefix, name), now_ms)


def _row_of(db: sqlite3.Connection, prefix: str, ref: JobRef) -> int | None:
    its = queue(db, prefix, ref.queue)
    row = None if its is None else db.execute(SQL["job.get"], {"qid": its.qid, "id": ref.id}).fetchone()
    return None if row is None else int(row[0])


def children(db: sqlite3.Connection, prefix: str, ref: JobRef) -> list[Child]:
    row = _row_of(db, prefix, ref)
    if row is None:
        return []
    found = db.execute(SQL["job.children"], {"row": row}).fetchall()
    return [Child(JobRef(name, job_id), state, result, reason) for name, job_id, state, result, reason in found]


def owner(db: sqlite3.Connection, prefix: str, name: str, id: str, now_ms: int) -> JobRef | None:
    its = queue(db, prefix, name)
    if its is None:
        return None
    found = owner_of(db, its.qid, id, now_ms)
    return None if found is None else JobRef(name, found.id)


def logs(db: sqlite3.Connection, prefix: str, ref: JobRef, first: int, limit: int) -> LogPage:
    row = _row_of(db, prefix, ref)
    if row is None:
        return LogPage((), first, 0)
    total = db.execute(SQL["job.log_count"], {"row": row}).fetchone()[0]
    lines = db.execute(SQL["job.log_lines"], {"row": row, "first": first, "limit": limit}).fetchall()
    return LogPage(tuple(line for (line,) in lines), first, total)


def workers(db: sqlite3.Connection, prefix: str, now_ms: int) -> list[WorkerInfo]:
    rows = db.execute(SQL["worker.seen"], {"prefix": prefix, "now": now_ms}).fetchall()
    return [WorkerInfo(**json.loads(info)) for (info,) in rows]


def events(db: sqlite3.Connection, prefix: str, name: str, after: int, limit: int) -> list[Event]:
    its = queue(db, prefix, name)
    found: list[Event] = []
    if its is None:
        return found
    for last, at_ms, items in db.execute(SQL["event.read"], {"qid": its.qid, "after": after, "limit": limit}):
        entries: list[Any] = json.loads(items)
        for number, (event, job_id, fields) in enumerate(entries, last - len(entries) + 1):
            if number > after and len(found) < limit:
                found.append(Event(name, str(number), at_ms, event, job_id, fields))
        if len(found) >= limit:
            break
    return found
