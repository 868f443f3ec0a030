"""Record what became of claimed jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from toril.errors import Unrecoverable, WrongState
from toril.model import (
    Attempt,
    AwaitingChildren,
    Completed,
    Delayed,
    Failed,
    JobRef,
    Outcome,
    Refusal,
    Released,
    Retried,
    Settled,
    Settlement,
    Throttled,
    Wanted,
)
from toril.options import Options
from toril.states import State
from toril.stores.sqlite.transaction import QueueRow, Transaction
from toril.stores.sqlite.verbs.claim import claim, promote_due
from toril.stores.sqlite.verbs.deduplication import owner_ended
from toril.stores.sqlite.verbs.ending import apply_keep_rules, child_failed, tell_parent
from toril.stores.sqlite.verbs.moves import ready, standing
from toril.stores.sqlite.verbs.records import appended


@dataclass(slots=True)
class _Held:
    """A settlement whose token is right, with what the store knows of its job."""

    settlement: Settlement
    queue: QueueRow
    parent_row: int | None
    policy: str | None
    pending: int
    history: str | None
    made: int
    deferred: str | None
    priority: int
    deduplication: str | None

    @property
    def row(self) -> Any:
        return self.settlement.claim.handle

    @property
    def id(self) -> str:
        return self.settlement.claim.ref.id

    @property
    def options(self) -> Options:
        return self.settlement.claim.options


def settle(tx: Transaction, prefix: str, settlements: Sequence[Settlement], then: Wanted | None) -> Settled:
    held, lost = _verify(tx, prefix, settlements)
    staying: list[JobRef] = []
    refused: list[Refusal] = []
    ended: set[int] = set()
    if any(_minds_children(item) for item in held):  # what one does to its parent decides what becomes of that
        for item in held:
            ended |= _record(tx, prefix, _verify(tx, prefix, [item.settlement])[0], staying, refused)
    else:
        ended = _record(tx, prefix, held, staying, refused)
    claimed = None if then is None else claim(tx, prefix, then)
    for qid in ended:
        _say_drained(tx, tx.queue_of(prefix, qid), asked=then is not None)
    return Settled(tuple(lost), tuple(staying), tuple(refused), claimed)


def _minds_children(item: _Held) -> bool:
    """Whether its children may forbid its outcome."""
    return item.pending > 0 and isinstance(item.settlement.outcome, Completed | AwaitingChildren)


def _record(
    tx: Transaction, prefix: str, held: Sequence[_Held], staying: list[JobRef], refused: list[Refusal]
) -> set[int]:
    """Record outcomes, those of a kind together; the queues in which some have ended."""
    batches: dict[tuple[int, str], list[tuple[_Held, Any]]] = {}
    for item in held:
        outcome = item.settlement.outcome
        ref = item.settlement.claim.ref
        match outcome:
            case Completed() | AwaitingChildren() if item.deferred is not None and tx.one(
                "settle.failed_child", row=item.row
            ):
                refused.append(Refusal(ref, Unrecoverable(item.deferred)))
            case Completed() if item.pending:
                refused.append(Refusal(ref, WrongState(ref, "complete", "waiting for children", "without any")))
            case AwaitingChildren() if not item.pending:
                staying.append(ref)
            case _:
                batches.setdefault((item.queue.qid, _kind(outcome)), []).append((item, outcome))
    for (qid, kind), batch in batches.items():
        _RECORD[kind](tx, prefix, tx.queue_of(prefix, qid), batch)
    return {qid for qid, kind in batches if kind != "requeued"}


def _kind(outcome: Outcome) -> str:
    match outcome:
        case Completed():
            return "completed"
        case Failed():
            return "failed"
        case _:
            return "requeued"


def _verify(tx: Transaction, prefix: str, settlements: Sequence[Settlement]) -> tuple[list[_Held], list[JobRef]]:
    """Part those whose token is right and that are still to be recorded from those that are lost."""
    claims = json.dumps([(s.claim.handle, s.claim.token) for s in settlements])
    found = {row[0]: row for row in tx.batch("settle.verify", claims=claims, now=tx.now_ms)}
    held: list[_Held] = []
    missing: list[int] = []
    seen: set[tuple[object, str]] = set()
    for key, settlement in enumerate(settlements):
        handed = (settlement.claim.handle, settlement.claim.token)
        if handed in seen:
            continue
        seen.add(handed)
        row = found.get(key)
        queue = tx.queue(prefix, settlement.claim.ref.queue)
        if row is None or queue is None:
            missing.append(key)
        elif row[1] == State.ACTIVE:
            held.append(_Held(settlement, queue, *row[2:]))
    return held, _lost(tx, prefix, settlements, missing)


def _lost(tx: Transaction, prefix: str, settlements: Sequence[Settlement], missing: list[int]) -> list[JobRef]:
    """Of those that are not there: who was not recorded before, and so belongs to somebody else now."""
    if not missing:
        return []
    keys: list[tuple[int | None, str, str]] = []
    for key in missing:
        claimed = settlements[key].claim
        queue = tx.queue(prefix, claimed.ref.queue)
        keys.append((None if queue is None else queue.qid, claimed.ref.id, claimed.token))
    recorded = set(tx.batch("settle.receipts", claims=json.dumps(keys), now=tx.now_ms))
    return [settlements[key].claim.ref for n, key in enumerate(missing) if n not in recorded]


Batch = list[tuple[_Held, Any]]


def _complete(tx: Transaction, prefix: str, queue: QueueRow, batch: Batch) -> None:
    tx.run(
        "settle.completed",
        batch=json.dumps([(item.row, outcome.result) for item, outcome in batch]),
        now=tx.now_ms,
        place=queue.back(len(batch)),
    )
    queue.moved(State.ACTIVE, State.COMPLETED, len(batch))
    tx.count_finished(queue, State.COMPLETED, len(batch))
    for item, outcome in batch:
        if item.deduplication is not None:
            owner_ended(tx, prefix, queue, item.deduplication, item.id)
        if item.parent_row is not None:
            tell_parent(tx, prefix, item, "completed", result=outcome.result)
        tx.emit(queue, "completed", item.id, result=outcome.result, prev="active")
    apply_keep_rules(tx, prefix, queue, State.COMPLETED, [item for item, _ in batch])


def _fail(tx: Transaction, prefix: str, queue: QueueRow, batch: Batch) -> None:
    rows = [
        (item.row, outcome.reason, _history(tx, item, "failed", outcome.reason, outcome.stack))
        for item, outcome in batch
    ]
    tx.run("settle.failed", batch=json.dumps(rows), now=tx.now_ms, place=queue.back(len(batch)))
    _keep_nul(tx, rows, 1)
    queue.moved(State.ACTIVE, State.FAILED, len(batch))
    tx.count_finished(queue, State.FAILED, len(batch))
    for item, outcome in batch:
        if item.deduplication is not None:
            owner_ended(tx, prefix, queue, item.deduplication, item.id)
        if item.parent_row is not None:
            child_failed(tx, prefix, item, outcome.reason)
        made = item.made + 1
        tx.emit(queue, "failed", item.id, reason=outcome.reason, prev="active")
        if made >= item.settlement.claim.options.attempts:
            tx.emit(queue, "retries-exhausted", item.id, attempts_made=str(made))
    apply_keep_rules(tx, prefix, queue, State.FAILED, [item for item, _ in batch])


def _requeue(tx: Transaction, prefix: str, queue: QueueRow, batch: Batch) -> None:
    rows: list[tuple[Any, ...]] = []
    fronts = _fronts(queue, batch)
    for item, outcome in batch:
        claimed = item.settlement.claim
        reason: str | None = None
        delay_ms, spent = 0, 0
        match outcome:
            case Retried(after_ms=after_ms):
                spent, reason, delay_ms = 1, outcome.reason, after_ms
                kind, stack = "retried", outcome.stack
                if not after_ms:
                    promote_due(tx, queue)  # it stands behind those that were due before it
                state, rank, place = _later(queue, item.priority, tx.now_ms, after_ms, lifo=claimed.options.lifo)
            case Delayed(until_ms=until_ms):
                delay_ms, kind, stack = max(0, until_ms - tx.now_ms), "delayed", ""
                state, rank, place = State.DELAYED, until_ms, queue.back()
            case AwaitingChildren():
                kind, stack = "awaiting-children", ""
                state, rank, place = State.WAITING_CHILDREN, tx.now_ms, queue.back()
            case _:
                kind, stack = ("throttled" if isinstance(outcome, Throttled) else "released"), ""
                state, rank, place = (*ready(item.priority), next(fronts))
                if isinstance(outcome, Throttled):
                    queue.limited_until_ms = max(queue.limited_until_ms, tx.now_ms + outcome.for_ms)
        history = _history(tx, item, kind, reason or "", stack)
        rows.append((item.row, state.value, rank, place, history, reason, spent, delay_ms))
        queue.moved(State.ACTIVE, state)
        _say_requeued(tx, queue, item.id, state, rank)
    tx.run("settle.requeued", batch=json.dumps(rows), now=tx.now_ms)
    _keep_nul(tx, rows, 5)
    tx.ring(queue)


_RECORD = {"completed": _complete, "failed": _fail, "requeued": _requeue}


def _fronts(queue: QueueRow, batch: Batch) -> Iterator[int]:
    """Places in front for those that go there, so that they keep their order among themselves."""
    count = sum(1 for _, outcome in batch if isinstance(outcome, Throttled | Released))
    first = queue.front(count) if count else 0
    return iter(range(first, first + count))


def _later(queue: QueueRow, priority: int, now_ms: int, after_ms: int, *, lifo: bool) -> tuple[State, int, int]:
    if after_ms > 0:
        return State.DELAYED, now_ms + after_ms, queue.back()
    return standing(queue, priority, front=lifo and not priority)


def _say_requeued(tx: Transaction, queue: QueueRow, job_id: str, state: State, rank: int) -> None:
    if state is State.DELAYED:
        tx.emit(queue, "delayed", job_id, due_at_ms=str(rank))
    elif state is State.WAITING_CHILDREN:
        tx.emit(queue, "waiting-children", job_id, prev="active")
    else:
        tx.emit(queue, "waiting", job_id, prev="active")


def _keep_nul(tx: Transaction, rows: Sequence[tuple[Any, ...]], reason: int) -> None:
    """SQLite's JSON ends a text at its first NUL: write such reasons again, whole."""
    for row in rows:
        if row[reason] is not None and "\x00" in row[reason]:
            tx.run("settle.reason", row=row[0], reason=row[reason])


def _history(tx: Transaction, item: _Held, outcome: str, reason: str, stack: str) -> str:
    claimed = item.settlement.claim
    attempt = Attempt(claimed.attempt, claimed.worker, claimed.claimed_at_ms, tx.now_ms, outcome, reason, stack)
    return appended(item.history, attempt)


def _say_drained(tx: Transaction, queue: QueueRow, *, asked: bool) -> None:
    """Nothing waits and nothing runs. Where more was asked for, a pause, a limit or a delay is not the end."""
    if queue.waiting or queue.prioritized or queue.active:
        return
    if asked and (queue.paused or queue.delayed or queue.limited_until_ms > tx.now_ms):
        return
    tx.emit(queue, "drained")
