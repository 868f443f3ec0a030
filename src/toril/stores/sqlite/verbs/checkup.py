"""Whether a file is set up well, is sound and counts its jobs right, and nothing in it waits for ever; and what mends it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from toril.model import Finding
from toril.states import State
from toril.stores.sqlite.connection import Place
from toril.stores.sqlite.transaction import SQL, QueueRow, Transaction
from toril.stores.sqlite.verbs.deduplication import add_kept
from toril.stores.sqlite.verbs.insert import expect

PIECE = 1000
"""How many cases of a kind one transaction mends."""

QueueOf = Callable[[str, int], QueueRow]
"""The row of a queue, by its prefix and number."""


def preflight(db: sqlite3.Connection, place: Place) -> list[Finding]:
    """How the file is set up; nothing of what is in it."""
    findings: list[Finding] = []
    mode: str = db.execute("PRAGMA journal_mode").fetchone()[0]
    if place.path is not None and mode != "wal":
        message = f"its journal mode is {mode}, not WAL: whoever reads it keeps the others from writing"
        cure = "end the other programs that have the file open, and start one of Toril: it sets the mode"
        findings.append(Finding("warning", str(place), message, cure))
    if place.durability == "relaxed":
        message = "durability=relaxed: a power cut may take back the last commits, acknowledged ones included"
        findings.append(Finding("ok", str(place), message))
    return findings


def check(db: sqlite3.Connection, place: Place, queue_of: QueueOf) -> list[Finding]:
    """Whether the file is set up well and sound, and the counts that are kept are the counts that are."""
    findings = [*preflight(db, place), _soundness(db, place)]
    for prefix, qid in everywhere(db):
        queue = queue_of(prefix, qid)
        for state, kept, real in _wrong_counts(db, queue):
            message = f"{kept} {state} jobs are counted and {real} are there"
            cure = "`toril doctor --repair` counts anew; keep a copy of the file as it is now, and report this as a bug"
            findings.append(Finding("error", f"{prefix}:{queue.name}", message, cure, mendable=True))
        for trouble in _TROUBLES:
            cases = _cases(db, trouble, qid)
            if cases:
                message, cure = f"{trouble.said(cases)}: {trouble.harm}", f"`toril doctor --repair` {trouble.mends}"
                findings.append(Finding("warning", f"{prefix}:{queue.name}", message, cure, mendable=True))
    orphans = db.execute("SELECT count(*) FROM child WHERE parent_row NOT IN (SELECT row FROM job)").fetchone()[0]
    if orphans:
        findings.append(Finding("error", str(place), f"{orphans} children point to parents that are gone"))
    return findings


def repair(tx: Transaction, prefix: str, qid: int) -> tuple[list[Finding], bool]:
    """Set right what a queue counts wrong, and let go on what waits for ever; whether there is more to mend."""
    if tx.one("queue.load_id", qid=qid) is None:  # it was removed meanwhile
        return [], False
    queue, findings, more = tx.queue_of(prefix, qid), list[Finding](), False
    for state, kept, real in _wrong_counts(tx.connection, queue):
        queue.moved(None, state, real - kept)
        message = f"{kept} {state} jobs were counted and {real} are there: counted anew"
        findings.append(Finding("ok", f"{prefix}:{queue.name}", message))
    for trouble in _TROUBLES:
        cases = _cases(tx.connection, trouble, qid)
        cases, more = cases[:PIECE], more or len(cases) > PIECE
        for case in cases:
            trouble.mend(tx, prefix, queue, case)
        if cases:
            findings.append(Finding("ok", f"{prefix}:{queue.name}", f"{trouble.said(cases)}: {trouble.done}"))
    return findings, more


# -------------------------------------------------------------------- what waits for ever

Case = tuple[Any, ...]
"""A row of a trouble's statement."""


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Something in a queue that does not go on by itself, and how it is mended."""

    statement: str
    one: str  # with the columns of a case
    many: str
    harm: str
    mends: str
    done: str
    mend: Callable[[Transaction, str, QueueRow, Case], object]

    def said(self, cases: Sequence[Case]) -> str:
        return self.one.format(*cases[0]) if len(cases) == 1 else f"{len(cases)} {self.many}"


def _let_run(tx: Transaction, prefix: str, queue: QueueRow, case: Case) -> None:
    expect(tx, prefix, case[0])


def _disown(tx: Transaction, prefix: str, queue: QueueRow, case: Case) -> None:
    tx.run("deduplication.disown", qid=queue.qid, id=case[0], owner=case[1])


def _add_kept(tx: Transaction, prefix: str, queue: QueueRow, case: Case) -> None:
    add_kept(tx, prefix, queue, case[0])


_TROUBLES = (
    _Trouble(
        "job.stuck",
        "job {1} waits for children, and none of them is still to end",
        "jobs wait for children, and none of theirs is still to end",
        "they wait for ever",
        "lets them run",
        "put where they wait for a worker",
        _let_run,
    ),
    _Trouble(
        "deduplication.stale",
        "deduplication id {0!r} is owned by job {1}, which has ended or is gone",
        "deduplication ids are owned by jobs that have ended or are gone",
        "no job can be added under them",
        "forgets the owners",
        "the owners are forgotten",
        _disown,
    ),
    _Trouble(
        "deduplication.left",
        "job {1} was kept until the owner of deduplication id {0!r} has ended, and it has none",
        "jobs were kept until the owners of their deduplication ids have ended, and these have none",
        "nobody adds them",
        "adds them",
        "added",
        _add_kept,
    ),
)


def _cases(db: sqlite3.Connection, trouble: _Trouble, qid: int) -> list[Case]:
    return db.execute(SQL[trouble.statement], {"qid": qid}).fetchall()


def everywhere(db: sqlite3.Connection) -> Sequence[tuple[str, int]]:
    """All queues of the file, as prefix and number."""
    return db.execute(SQL["queue.everywhere"]).fetchall()


def queue_of(db: sqlite3.Connection) -> QueueOf:
    """How a reader, who has no transaction with changes to come, finds a queue."""
    return lambda prefix, qid: QueueRow(*db.execute(SQL["queue.load_id"], {"qid": qid}).fetchone())


def _soundness(db: sqlite3.Connection, place: Place) -> Finding:
    verdict = [row[0] for row in db.execute("PRAGMA integrity_check(10)")]
    if verdict == ["ok"]:
        return Finding("ok", str(place), "the file is sound (integrity_check)")
    return Finding("error", str(place), f"the file is damaged: {'; '.join(verdict)}", "restore a backup")


def _wrong_counts(db: sqlite3.Connection, queue: QueueRow) -> Iterator[tuple[State, int, int]]:
    """States that are counted wrong, with their count and how many jobs there are."""
    counted: dict[str, int] = dict(db.execute(SQL["queue.counted"], {"qid": queue.qid}).fetchall())
    for state in State:
        real = counted.get(state.value, 0)
        if queue.count(state) != real:
            yield state, queue.count(state), real
