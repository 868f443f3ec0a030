"""Hand jobs out."""

from __future__ import annotations

import json
from typing import Any

from toril.model import Claim, Claimed, Idle, JobRef, Parent, Slots, Wanted
from toril.options import DEFAULT_OPTIONS, ChildPolicy, Options
from toril.states import State
from toril.stores.sqlite.transaction import QueueRow, Transaction
from toril.stores.sqlite.verbs.records import options_of

SEEN_TOKENS = 4096


def claim(tx: Transaction, prefix: str, wanted: Wanted) -> Claimed:
    claims: list[Claim] = []
    idle: dict[str, Idle] = {}
    repeated = _seen(tx, wanted.token)
    for slots in wanted.slots:
        queue = tx.queue(prefix, slots.queue)
        if queue is None:
            idle[slots.queue] = Idle("empty")
            continue
        if repeated:
            again = tx.batch("claim.again", qid=queue.qid, token=wanted.token)
            if again:
                claims += _claims(tx, queue, again, wanted)
                continue
        reason = _claim_queue(tx, queue, slots, wanted, claims)
        if reason is not None:
            idle[slots.queue] = reason
    return Claimed(tuple(claims), idle)


def _seen(tx: Transaction, token: str) -> bool:
    """Whether this wish has come before. Only this process can have sent it, so its memory is enough."""
    seen = tx.database.seen_tokens
    if token in seen:
        return True
    seen[token] = None
    if len(seen) > SEEN_TOKENS:
        del seen[next(iter(seen))]
    return False


def _claim_queue(tx: Transaction, queue: QueueRow, slots: Slots, wanted: Wanted, claims: list[Claim]) -> Idle | None:
    promote_due(tx, queue)
    if slots.ids:
        named = tx.batch("claim.named", qid=queue.qid, ids=json.dumps(list(dict.fromkeys(slots.ids))))
        claims += _take(tx, queue, named, wanted)
        return None if len(named) == len(slots.ids) else Idle("empty")
    if queue.paused:
        return Idle("paused")
    room, reason = _room(tx, queue, slots)
    free = min(slots.free, room)
    found: list[Any] = []
    for state in (State.WAITING, State.PRIORITIZED):
        if free > len(found) and queue.count(state):
            found += [
                [*row, state.value]
                for row in tx.batch("claim.pick", qid=queue.qid, state=state.value, free=free - len(found))
            ]
    claims += _take(tx, queue, found, wanted)
    _count_in_window(tx, queue, slots, found)
    if len(found) >= slots.free:
        return None
    if len(found) == room:
        return reason
    return Idle("empty", _next_due_ms(tx, queue))


def promote_due(tx: Transaction, queue: QueueRow) -> None:
    """Put delayed jobs that are due behind those that wait."""
    while queue.delayed:
        due = tx.one("claim.due", qid=queue.qid)
        if due is None or due[0] > tx.now_ms:
            return
        ripe = tx.batch("claim.ripe", qid=queue.qid, now=tx.now_ms)
        tx.run("claim.ripen", rows=json.dumps([row for row, _, _ in ripe]), place=queue.back(len(ripe)))
        for _, job_id, priority in ripe:
            queue.moved(State.DELAYED, State.PRIORITIZED if priority else State.WAITING)
            tx.emit(queue, "waiting", job_id, prev="delayed")
        tx.ring(queue)


def _next_due_ms(tx: Transaction, queue: QueueRow) -> int | None:
    due = tx.one("claim.due", qid=queue.qid) if queue.delayed else None
    return None if due is None else int(due[0])


def _room(tx: Transaction, queue: QueueRow, slots: Slots) -> tuple[int, Idle]:
    """How many jobs the limits let start now, and which limit it is."""
    room, reason = slots.free, Idle("empty")
    if queue.limited_until_ms > tx.now_ms:
        return 0, Idle("limited", queue.limited_until_ms)
    if queue.concurrency is not None and queue.concurrency - queue.active < room:
        room, reason = max(0, queue.concurrency - queue.active), Idle("full")
    limit = queue.rate_max if queue.rate_max is not None else (slots.limiter.max if slots.limiter else None)
    if limit is None:
        return room, reason
    started, until_ms = queue.window_started, queue.window_until_ms
    if until_ms <= tx.now_ms:  # the window begins with the next job
        started, until_ms = 0, tx.now_ms + _window_ms(queue, slots)
    if limit - started < room:
        room, reason = max(0, limit - started), Idle("limited", until_ms)
    return room, reason


def _window_ms(queue: QueueRow, slots: Slots) -> int:
    return slots.limiter.per_ms if slots.limiter else (queue.rate_per_ms or 1000)


def _count_in_window(tx: Transaction, queue: QueueRow, slots: Slots, found: list[Any]) -> None:
    """Count jobs towards a rate; one that is handed out to be failed does not count."""
    started = sum(1 for row in found if row[10] is None)
    if not started or (queue.rate_max is None and slots.limiter is None):
        return
    if queue.window_until_ms <= tx.now_ms:
        queue.window_started, queue.window_until_ms = 0, tx.now_ms + _window_ms(queue, slots)
    queue.window_started += started


def _take(tx: Transaction, queue: QueueRow, found: list[Any], wanted: Wanted) -> list[Claim]:
    if not found:
        return []
    tx.run(
        "claim.take",
        rows=json.dumps([row[0] for row in found]),
        now=tx.now_ms,
        until=tx.now_ms + wanted.lock_ms,
        token=wanted.token,
        worker=wanted.worker,
        place=queue.back(len(found)),
    )
    for row in found:
        queue.moved(row[14], State.ACTIVE)
        tx.emit(queue, "active", row[1], prev="waiting")
    return _claims(tx, queue, found, wanted)


def _claims(tx: Transaction, queue: QueueRow, found: list[Any], wanted: Wanted) -> list[Claim]:
    parents = _parents(tx, found)
    claims: list[Claim] = []
    for row in found:
        (
            number, job_id, name, data, options, made, started, stalled, priority, created_at_ms, deferred, parent_row, policy,
            schedule,
        ) = row[:14]  # fmt: skip
        kept, unreadable = _readable(name, data, options)
        deferred = deferred or unreadable
        claims.append(
            Claim(
                ref=JobRef(queue.name, job_id),
                name=name,
                data=data,
                options=kept,
                token=wanted.token,
                attempt=made + 1,
                started=started + 1,
                stalled=stalled,
                priority=priority,
                created_at_ms=created_at_ms,
                claimed_at_ms=tx.now_ms,
                worker=wanted.worker,
                deferred=deferred,
                parent=Parent(parents[parent_row], ChildPolicy(policy)) if parent_row in parents else None,
                schedule=schedule,
                handle=number,
            )
        )
    return claims


def _readable(name: str, data: str, options: str | None) -> tuple[Options, str | None]:
    """A job's options, and why it cannot be run if what is stored of it cannot be read."""
    for what, text in (("name", name), ("data", data)):
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            return DEFAULT_OPTIONS, f"the job's {what} cannot be read: it is not UTF-8"
    try:
        return options_of(options), None
    except Exception as error:
        return DEFAULT_OPTIONS, f"the job's options cannot be read: {error}"


def _parents(tx: Transaction, found: list[Any]) -> dict[int, JobRef]:
    rows = {row[11] for row in found if row[11] is not None}
    if not rows:
        return {}
    return {
        row: JobRef(queue, job_id) for row, queue, job_id in tx.batch("claim.parents", rows=json.dumps(sorted(rows)))
    }
