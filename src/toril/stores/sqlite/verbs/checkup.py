"""Whether a file is set up well, is sound and counts its jobs right; and the counts set right."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence

from toril.model import Finding
from toril.states import State
from toril.stores.sqlite.connection import Place
from toril.stores.sqlite.transaction import SQL, QueueRow, Transaction

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
    orphans = db.execute("SELECT count(*) FROM child WHERE parent_row NOT IN (SELECT row FROM job)").fetchone()[0]
    if orphans:
        findings.append(Finding("error", str(place), f"{orphans} children point to parents that are gone"))
    return findings


def repair(tx: Transaction, prefix: str, qid: int) -> list[Finding]:
    """Set right what a queue counts wrong."""
    if tx.one("queue.load_id", qid=qid) is None:  # it was removed meanwhile
        return []
    queue, findings = tx.queue_of(prefix, qid), list[Finding]()
    for state, kept, real in _wrong_counts(tx.connection, queue):
        queue.moved(None, state, real - kept)
        message = f"{kept} {state} jobs were counted and {real} are there: counted anew"
        findings.append(Finding("ok", f"{prefix}:{queue.name}", message))
    return findings


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
