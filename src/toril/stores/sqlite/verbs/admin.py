"""Changes to jobs and queues by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toril.errors import QueueBusy, QueueNotPaused
from toril.model import Answer, JobRef, QueueSettings, Update
from toril.options import Options, RateLimit
from toril.states import FINISHED, State
from toril.stores.sqlite.transaction import QueueRow, Transaction
from toril.stores.sqlite.verbs.deduplication import owner_ended
from toril.stores.sqlite.verbs.ending import apply_keep_rules, child_failed
from toril.stores.sqlite.verbs.hold import write_logs, write_progress
from toril.stores.sqlite.verbs.moves import Job, enqueue, evict, postpone, release_when_done, standing
from toril.stores.sqlite.verbs.records import options_of, options_or_default

PIECE = 1000
"""How many jobs one transaction of a long removal takes."""


def _find(tx: Transaction, prefix: str, ref: JobRef) -> tuple[QueueRow, Job] | None:
    queue = tx.queue(prefix, ref.queue)
    row = None if queue is None else tx.one("job.get", qid=queue.qid, id=ref.id)
    return None if row is None or queue is None else (queue, Job(*row))


def promote(tx: Transaction, prefix: str, refs: Sequence[JobRef]) -> list[Answer]:
    answers: list[Answer] = []
    for ref in refs:
        found = _find(tx, prefix, ref)
        if found is None:
            answers.append(Answer.MISSING)
        elif found[1].state != State.DELAYED:
            answers.append(Answer.WRONG_STATE)
        else:
            queue, job = found
            enqueue(tx, queue, job.row, job.id, State.DELAYED, job.priority)
            answers.append(Answer.DONE)
    return answers


def retry(tx: Transaction, prefix: str, refs: Sequence[JobRef], reset_attempts: bool, data: str | None) -> list[Answer]:
    answers: list[Answer] = []
    for ref in refs:
        found = _find(tx, prefix, ref)
        if found is None:
            answers.append(Answer.MISSING)
        elif found[1].state not in FINISHED:
            answers.append(Answer.WRONG_STATE)
        else:
            _retry(tx, *found, reset_attempts, data)
            answers.append(Answer.DONE)
    return answers


def _retry(tx: Transaction, queue: QueueRow, job: Job, reset_attempts: bool, data: str | None) -> None:
    if job.pending:
        state, rank, place = State.WAITING_CHILDREN, tx.now_ms, queue.back()
    else:
        lifo = options_of(job.options).lifo and not job.priority
        state, rank, place = standing(queue, job.priority, front=lifo)
    tx.run(
        "job.retry", row=job.row, state=state, rank=rank, place=place, now=tx.now_ms, data=data, reset=reset_attempts
    )
    tx.run("job.forgive", row=job.row)
    queue.moved(job.state, state)
    if job.parent_row is not None and tx.run("job.reattach", parent_row=job.parent_row, qid=queue.qid, id=job.id):
        tx.run("job.expect", row=job.parent_row)
    if state is State.WAITING_CHILDREN:
        tx.emit(queue, "waiting-children", job.id, prev=job.state)
        return
    tx.emit(queue, "waiting", job.id, prev=job.state)
    tx.ring(queue)


def remove(tx: Transaction, prefix: str, refs: Sequence[JobRef]) -> list[Answer]:
    answers: list[Answer] = []
    for ref in refs:
        found = _find(tx, prefix, ref)
        if found is None:
            answers.append(Answer.MISSING)
            continue
        if _is_awaited(tx, found[1]):
            answers.append(Answer.WRONG_STATE)
            continue
        family = _family(tx, found[1])
        if any(job.is_locked(tx.now_ms) for job in family):
            answers.append(Answer.LOCKED)
            continue
        for job in family:
            queue = tx.queue_of(prefix, job.qid)
            state = tx.one("job.get_row", row=job.row)[2]  # its children may just have released it
            evict(tx, prefix, [job.row], receipts=False)
            tx.emit(queue, "removed", job.id, prev="wait" if state == State.WAITING else state)
        answers.append(Answer.DONE)
    return answers


def _is_awaited(tx: Transaction, job: Job) -> bool:
    """Whether it is the run that a schedule waits for: without it, the schedule would stand still."""
    if job.schedule is None:
        return False
    return tx.one("schedule.awaits", qid=job.qid, id=job.schedule, job_id=job.id) is not None


def _family(tx: Transaction, job: Job) -> list[Job]:
    """A job and all below it, children before their parents."""
    family: list[Job] = []
    for (row,) in tx.rows("job.child_rows", row=job.row):
        family += _family(tx, Job(*tx.one("job.get_row", row=row)))
    return [*family, job]


@dataclass(frozen=True, slots=True)
class _Cancelled:
    """A job that has failed without a run."""

    queue: QueueRow
    row: int
    id: str
    options: Options
    parent_row: int | None
    policy: str | None


def cancel(tx: Transaction, prefix: str, refs: Sequence[JobRef], reason: str) -> list[Answer]:
    answers: list[Answer] = []
    for ref in refs:
        found = _find(tx, prefix, ref)
        if found is None:
            answers.append(Answer.MISSING)
        elif found[1].state in FINISHED or _is_awaited(tx, found[1]):
            answers.append(Answer.WRONG_STATE)
        elif found[1].state == State.ACTIVE:
            answers.append(Answer.LOCKED)
        else:
            _cancel(tx, prefix, *found, reason)
            answers.append(Answer.DONE)
    return answers


def _cancel(tx: Transaction, prefix: str, queue: QueueRow, job: Job, reason: str) -> None:
    tx.run("job.cancel", row=job.row, reason=reason, now=tx.now_ms, place=queue.back())
    queue.moved(job.state, State.FAILED)
    tx.count_finished(queue, State.FAILED, 1)
    ended = _Cancelled(queue, job.row, job.id, options_or_default(job.options), job.parent_row, job.policy)
    if job.deduplication is not None:
        owner_ended(tx, prefix, queue, job.deduplication, job.id)
    if job.parent_row is not None:
        child_failed(tx, prefix, ended, reason)
    tx.emit(queue, "failed", job.id, reason=reason, prev=job.state)
    apply_keep_rules(tx, prefix, queue, State.FAILED, [ended])


def detach(tx: Transaction, prefix: str, refs: Sequence[JobRef]) -> list[Answer]:
    answers: list[Answer] = []
    for ref in refs:
        found = _find(tx, prefix, ref)
        answers.append(Answer.MISSING if found is None else _detach(tx, prefix, found[1]))
    return answers


def _detach(tx: Transaction, prefix: str, job: Job) -> Answer:
    parent_row = job.parent_row
    if parent_row is None or not tx.run("settle.forget_child", parent_row=parent_row, qid=job.qid, id=job.id):
        return Answer.WRONG_STATE
    tx.run("job.set_free", row=job.row)
    release_when_done(tx, prefix, parent_row)
    return Answer.DONE


def update(tx: Transaction, prefix: str, updates: Sequence[Update]) -> list[Answer]:
    return [_update(tx, prefix, item) for item in updates]


def _update(tx: Transaction, prefix: str, item: Update) -> Answer:
    found = _find(tx, prefix, item.ref)
    if found is None:
        return Answer.MISSING
    queue, job = found
    if item.delay_ms is not None and job.state != State.DELAYED:
        return Answer.WRONG_STATE
    if item.data is not None:
        tx.run("job.set_data", row=job.row, value=item.data)
    if item.progress is not None:
        write_progress(tx, prefix, item.ref, job.row, item.progress)
    if item.clear_logs is not None:
        tx.run("report.log_trim", row=job.row, first=job.log_tail - item.clear_logs)
    if item.logs:
        write_logs(tx, job.row, item.logs, options_of(job.options).keep_logs)
    if item.priority is not None:
        _change_priority(tx, queue, job, item.priority, lifo=item.lifo)
    if item.delay_ms is not None:
        postpone(tx, queue, job.row, job.id, job.state, item.delay_ms)
    return Answer.DONE


def _change_priority(tx: Transaction, queue: QueueRow, job: Job, priority: int, *, lifo: bool) -> None:
    state, rank, place = State(job.state), job.rank, job.place
    if state in (State.WAITING, State.PRIORITIZED):
        state, rank, place = standing(queue, priority, front=lifo)
        queue.moved(job.state, state)
        tx.ring(queue)
    tx.run("job.set_priority", row=job.row, priority=priority, state=state, rank=rank, place=place)


# -------------------------------------------------------------------- queues


def settings_of(queue: QueueRow | None, now_ms: int) -> QueueSettings:
    """What is set on a queue; the defaults for one that nobody has used."""
    if queue is None:
        return QueueSettings()
    rate = None if queue.rate_max is None else RateLimit(queue.rate_max, per=(queue.rate_per_ms or 1000) / 1000)
    limited = max(queue.limited_until_ms, 0)
    return QueueSettings(
        paused=bool(queue.paused),
        concurrency=queue.concurrency,
        rate_limit=rate,
        max_waiting=queue.max_waiting,
        events=bool(queue.events),
        max_events=queue.max_events,
        metrics_minutes=queue.metrics_minutes,
        limited_until_ms=limited if limited > now_ms else None,
    )


def configure(tx: Transaction, prefix: str, name: str, settings: QueueSettings) -> None:
    queue = tx.queue(prefix, name, create=True)
    assert queue is not None
    was_paused = bool(queue.paused)
    queue.concurrency = settings.concurrency
    queue.rate_max = settings.rate_limit.max if settings.rate_limit else None
    queue.rate_per_ms = settings.rate_limit.per_ms if settings.rate_limit else None
    queue.max_waiting = settings.max_waiting
    queue.events = int(settings.events)
    queue.max_events = settings.max_events
    queue.metrics_minutes = settings.metrics_minutes
    queue.paused = int(settings.paused)
    if settings.paused != was_paused:
        tx.emit(queue, "paused" if settings.paused else "resumed")
    tx.ring(queue)


def set_paused(tx: Transaction, prefix: str, name: str, paused: bool) -> None:
    queue = tx.queue(prefix, name, create=True)
    assert queue is not None
    if bool(queue.paused) == paused:
        return
    queue.paused = int(paused)
    tx.emit(queue, "paused" if paused else "resumed")
    tx.ring(queue)


def throttle(tx: Transaction, prefix: str, name: str, for_ms: int) -> None:
    queue = tx.queue(prefix, name, create=True)
    assert queue is not None
    queue.limited_until_ms = tx.now_ms + for_ms if for_ms > 0 else 0
    if for_ms <= 0:
        queue.window_started = queue.window_until_ms = 0
    tx.ring(queue)


def drain_piece(tx: Transaction, prefix: str, name: str, delayed: bool) -> int:
    """Remove some of what waits; how many. 0 when nothing is left."""
    states = (State.WAITING, State.PRIORITIZED, *((State.DELAYED,) if delayed else ()))
    return _remove_piece(tx, prefix, tx.queue(prefix, name), states, "job.drainable")


def clean(tx: Transaction, prefix: str, name: str, state: State, grace_ms: int, limit: int) -> list[str]:
    queue = tx.queue(prefix, name)
    if queue is None:
        return []
    old = tx.rows("job.older", qid=queue.qid, state=state, before=tx.now_ms - grace_ms, now=tx.now_ms, limit=limit)
    evict(tx, prefix, [row for row, _ in old], receipts=False)
    tx.emit(queue, "cleaned", count=str(len(old)))
    return [job_id for _, job_id in old]


def obliterate_piece(tx: Transaction, prefix: str, name: str, force: bool) -> int:
    """Remove some of a queue's jobs; how many. Removes the queue itself, and answers 0, when none is left."""
    queue = tx.queue(prefix, name)
    if queue is None:
        return 0
    if not queue.paused:
        raise QueueNotPaused(name)
    if queue.active and not force:
        raise QueueBusy(name, queue.active)
    removed = _remove_piece(tx, prefix, queue, tuple(State), "job.in_state")
    if not removed:
        tx.run("queue.delete_events", qid=queue.qid)
        tx.run("queue.delete_receipts", qid=queue.qid)
        tx.run("queue.delete_series", qid=queue.qid)
        tx.run("queue.delete_schedules", qid=queue.qid)
        tx.run("queue.delete_deduplication", qid=queue.qid)
        tx.run("queue.delete_kept", qid=queue.qid)
        tx.run("queue.delete", qid=queue.qid)
        tx.forget_queue(prefix, queue)
    return removed


def _remove_piece(tx: Transaction, prefix: str, queue: QueueRow | None, states: Sequence[State], statement: str) -> int:
    """Remove some of the jobs of some states that a statement finds; how many."""
    if queue is None:
        return 0
    for state in states:
        rows = [row for (row,) in tx.rows(statement, qid=queue.qid, state=state, limit=PIECE)]
        if rows:
            evict(tx, prefix, rows, receipts=False)
            return len(rows)
    return 0
