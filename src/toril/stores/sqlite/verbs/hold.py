"""What happens to a job while it is active: reports, renewals, and recovery when its worker has vanished."""

from __future__ import annotations

import json
from collections.abc import Sequence

from toril.model import Attempt, Claim, JobRef, Recovered, Report
from toril.states import State
from toril.stores.sqlite.transaction import QueueRow, Transaction
from toril.stores.sqlite.verbs.records import appended

STALLED_TOO_OFTEN = "job stalled more than allowable limit"


def _held(tx: Transaction, claims: Sequence[Claim]) -> set[int]:
    """Positions of the claims that are still their worker's."""
    return set(
        tx.batch("extend.held", claims=json.dumps([(claim.handle, claim.token) for claim in claims]), now=tx.now_ms)
    )


def extend(tx: Transaction, claims: Sequence[Claim], lock_ms: int) -> list[JobRef]:
    keys = json.dumps([(claim.handle, claim.token) for claim in claims])
    if tx.run("extend.renew", claims=keys, until=tx.now_ms + lock_ms, now=tx.now_ms) == len(claims):
        return []
    held = _held(tx, claims)
    return [claim.ref for n, claim in enumerate(claims) if n not in held]


def report(tx: Transaction, prefix: str, reports: Sequence[Report]) -> list[JobRef]:
    held = _held(tx, [report.claim for report in reports])
    lost: list[JobRef] = []
    for n, item in enumerate(reports):
        if n not in held:
            lost.append(item.claim.ref)
            continue
        row: int = item.claim.handle  # type: ignore[assignment]
        if item.logs:
            write_logs(tx, row, item.logs, item.claim.options.keep_logs)
        if item.progress is not None:
            write_progress(tx, prefix, item.claim.ref, row, item.progress)
    return lost


def write_logs(tx: Transaction, row: int, lines: Sequence[str], keep: int) -> None:
    """Append to a job's log; the newest `keep` lines stay."""
    tail = tx.one("report.log_tail", row=row, count=len(lines))[0]
    for n, line in enumerate(lines[-keep:] if keep else (), tail - min(len(lines), keep)):
        tx.run("report.log", row=row, n=n, line=line)
    tx.run("report.log_trim", row=row, first=tail - keep)


def write_progress(tx: Transaction, prefix: str, ref: JobRef, row: int, progress: str) -> None:
    """Set a job's progress and say so."""
    queue = tx.queue(prefix, ref.queue)
    assert queue is not None
    tx.run("report.progress", row=row, progress=progress)
    tx.emit(queue, "progress", ref.id, data=progress)


def recover(tx: Transaction, prefix: str, names: Sequence[str], max_stalled: int, interval_ms: int) -> Recovered:
    requeued: list[JobRef] = []
    deferred: list[JobRef] = []
    for name in names:
        queue = tx.queue(prefix, name)
        if queue is None or not queue.active or queue.stalled_check_until_ms > tx.now_ms:
            continue
        queue.stalled_check_until_ms = tx.now_ms + interval_ms
        for ref, too_often in _requeue_lapsed(tx, queue, max_stalled):
            (deferred if too_often else requeued).append(ref)
        tx.run("recover.suspect", qid=queue.qid)
    return Recovered(tuple(requeued), tuple(deferred))


def _goes_on(tx: Transaction, queue: QueueRow, schedule: str | None) -> bool:
    """Whether a job is the run of a schedule that is there: it is tried again however often it stalls, as Node has it."""
    return schedule is not None and tx.one("schedule.is_there", qid=queue.qid, id=schedule) is not None


def _requeue_lapsed(tx: Transaction, queue: QueueRow, max_stalled: int) -> list[tuple[JobRef, bool]]:
    lapsed = tx.batch("recover.lapsed", qid=queue.qid, now=tx.now_ms)
    if not lapsed:
        return []
    first = queue.front(len(lapsed))
    batch: list[tuple[int, int, str, str | None]] = []
    moved: list[tuple[JobRef, bool]] = []
    for n, (row, job_id, stalled, history, worker, started_at_ms, made, schedule) in enumerate(lapsed):
        too_often = stalled + 1 > max_stalled and not _goes_on(tx, queue, schedule)
        attempt = Attempt(made + 1, worker, started_at_ms, tx.now_ms, "stalled", "its worker stopped renewing its lock")
        batch.append((row, first + n, appended(history, attempt), STALLED_TOO_OFTEN if too_often else None))
        moved.append((JobRef(queue.name, job_id), too_often))
        tx.emit(queue, "waiting", job_id, prev="active")
        tx.emit(queue, "stalled", job_id)
    tx.run("recover.requeue", batch=json.dumps(batch), now=tx.now_ms)
    queue.moved(State.ACTIVE, State.WAITING, len(lapsed))
    tx.ring(queue)
    return moved
