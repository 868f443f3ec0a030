"""What one transaction of the writer thread gathers: queues as they will be, events, and who is to be woken.

Verbs change a `QueueRow` in memory and call `emit`; `finish` writes each queue and its events once, however many verbs
of the transaction touched it.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from toril.states import State
from toril.stores import _sql

if TYPE_CHECKING:
    from toril.stores.sqlite.database import Database

SQL = _sql.load("toril.stores.sqlite.sql")
TRIM_SLACK = 1000
MINUTE_MS = 60_000

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


@dataclass(slots=True)
class QueueRow:
    """A row of `queue`, as this transaction will leave it."""

    qid: int
    name: str
    tail: int
    head: int
    paused: int
    concurrency: int | None
    rate_max: int | None
    rate_per_ms: int | None
    max_waiting: int | None
    events: int
    max_events: int
    limited_until_ms: int
    window_started: int
    window_until_ms: int
    stalled_check_until_ms: int
    event_tail: int
    waiting: int
    prioritized: int
    delayed: int
    active: int
    waiting_children: int
    completed: int
    failed: int
    metrics_minutes: int
    counted_minute: int
    counted_completed: int
    counted_failed: int
    has_receipts: int

    def back(self, count: int = 1) -> int:
        """Tickets for `count` pushes to the back; the first of them."""
        first = self.tail
        self.tail += count
        return first

    def front(self, count: int = 1) -> int:
        """Tickets for `count` pushes to the front, the foremost first."""
        self.head -= count
        return self.head + 1

    def moved(self, before: str | None, after: str | None, count: int = 1) -> None:
        """Count jobs that go from one state to another."""
        if before is not None:
            name = _COLUMNS[before]
            setattr(self, name, getattr(self, name) - count)
        if after is not None:
            name = _COLUMNS[after]
            setattr(self, name, getattr(self, name) + count)

    def count(self, state: State) -> int:
        """How many jobs are in a state."""
        number: int = getattr(self, _COLUMNS[state])
        return number

    def counted(self, state: State) -> int:
        """How many jobs have ended in a state since minutes are counted."""
        return self.counted_completed if state is State.COMPLETED else self.counted_failed


_COLUMNS = {state.value: state.value.replace("-", "_") for state in State}
_FIELDS = tuple(QueueRow.__dataclass_fields__)
_values = attrgetter(*_FIELDS)


@lru_cache(maxsize=256)
def _save_text(changed: tuple[int, ...]) -> str:
    """The statement that writes some columns of a queue."""
    return f"UPDATE queue SET {', '.join(f'{_FIELDS[n]} = ?' for n in changed)} WHERE qid = ?"


class Transaction:
    """The state of one transaction. Its methods run statements; verbs in `verbs/` say which."""

    def __init__(self, connection: sqlite3.Connection, database: Database) -> None:
        self.connection = connection
        self.database = database
        self.now_ms = 0
        self.rung: set[str] = set()
        self.told: set[str] = set()
        self._queues: dict[int, QueueRow] = {}
        self._names: dict[tuple[str, str], int] = {}
        self._before: dict[int, tuple[Any, ...]] = {}
        self._events: dict[int, list[list[Any]]] = {}
        self._finished: Counter[tuple[int, int, State]] = Counter()
        self._prefixes: dict[int, str] = {}

    # ---------------------------------------------------------------- statements

    def run(self, statement: str, **values: Any) -> int:
        """Run a statement that answers nothing; return how many rows it changed."""
        return self.connection.execute(SQL[statement], values).rowcount

    def one(self, statement: str, **values: Any) -> Any:
        """The first row of the answer, or None."""
        return self.connection.execute(SQL[statement], values).fetchone()

    def rows(self, statement: str, **values: Any) -> list[Any]:
        """All rows of the answer."""
        return self.connection.execute(SQL[statement], values).fetchall()

    def batch(self, statement: str, **values: Any) -> list[Any]:
        """The answer of a statement that gives all its rows as one JSON array.

        One row means one step of SQLite, and each step gives up the interpreter's lock: a hundred rows fetched one by
        one would wait a hundred times for a busy thread to give it back.
        """
        answer: list[Any] = json.loads(self.connection.execute(SQL[statement], values).fetchone()[0])
        return answer

    # ---------------------------------------------------------------- queues

    def queue(self, prefix: str, name: str, *, create: bool = False) -> QueueRow | None:
        """A queue by name; None where there is none and `create` is not asked for."""
        qid = self._names.get((prefix, name))
        if qid is not None:
            return self._queues[qid]
        row = self.one("queue.load", prefix=prefix, name=name)
        if row is None:
            if not create:
                return None
            self.run("queue.create", prefix=prefix, name=name)
            row = self.one("queue.load", prefix=prefix, name=name)
        return self._remember(prefix, row)

    def queue_of(self, prefix: str, qid: int) -> QueueRow:
        """A queue by number."""
        known = self._queues.get(qid)
        return known or self._remember(prefix, self.one("queue.load_id", qid=qid))

    def forget_queue(self, prefix: str, queue: QueueRow) -> None:
        """The queue is deleted by this transaction."""
        self._queues.pop(queue.qid, None)
        self._names.pop((prefix, queue.name), None)
        self._events.pop(queue.qid, None)
        for key in [key for key in self._finished if key[0] == queue.qid]:
            del self._finished[key]

    def _remember(self, prefix: str, row: tuple[Any, ...]) -> QueueRow:
        queue = QueueRow(*row)
        self._queues[queue.qid] = queue
        self._names[prefix, queue.name] = queue.qid
        self._before[queue.qid] = row
        self._prefixes[queue.qid] = prefix
        return queue

    # ---------------------------------------------------------------- events and bells

    def emit(self, queue: QueueRow, event: str, job_id: str | None = None, /, **fields: str) -> None:
        """Say that something happened."""
        if queue.events:
            self._events.setdefault(queue.qid, []).append([event, job_id, fields])

    def emitted(self, queue: QueueRow) -> int:
        """How many events of a queue this transaction has so far."""
        return len(self._events.get(queue.qid, ()))

    def ring(self, queue: QueueRow) -> None:
        """Wake workers of a queue once this is committed."""
        if not queue.paused:
            self.rung.add(f"{self._prefixes[queue.qid]}:{queue.name}")

    # ---------------------------------------------------------------- minutes

    def count_finished(self, queue: QueueRow, state: State, jobs: int) -> None:
        """Jobs have completed or failed in the running minute."""
        if not queue.metrics_minutes:
            return
        if state is State.COMPLETED:
            queue.counted_completed += jobs
        else:
            queue.counted_failed += jobs
        self._finished[queue.qid, self.now_ms // MINUTE_MS, state] += jobs

    def _write_finished(self) -> None:
        """Add to the minutes what has ended in them. The first of a minute ends those that are too old."""
        batch = [(*key, jobs) for key, jobs in self._finished.items()]
        self.run("series.count", batch=_encode(batch))
        for qid, minute, _ in self._finished:
            queue = self._queues[qid]
            if queue.counted_minute != minute:
                queue.counted_minute = minute
                self.run("series.forget", qid=qid, first=minute - queue.metrics_minutes)

    # ---------------------------------------------------------------- the end

    def finish(self) -> None:
        """Write what was gathered."""
        if self._finished:
            self._write_finished()
        for qid, items in self._events.items():
            queue = self._queues[qid]
            first, queue.event_tail = queue.event_tail, queue.event_tail + len(items)
            text = _encode(items)
            self.run("event.append", qid=qid, last=queue.event_tail, at_ms=self.now_ms, items=text)
            if first // TRIM_SLACK != queue.event_tail // TRIM_SLACK:
                self.run("event.trim", qid=qid, last=queue.event_tail - queue.max_events)
            self.told.add(f"{self._prefixes[qid]}:{queue.name}")
        for qid, queue in self._queues.items():
            after = _values(queue)
            if after != self._before[qid]:
                changed = tuple(
                    n for n, (old, new) in enumerate(zip(self._before[qid], after, strict=True)) if old != new
                )
                self.connection.execute(_save_text(changed), (*(after[n] for n in changed), qid))

    def forget_expired(self) -> None:
        """Drop receipts and deduplication ids whose time is over."""
        if self.now_ms:
            self.run("evict.forget", now=self.now_ms)
            self.run("deduplication.expire", now=self.now_ms)
