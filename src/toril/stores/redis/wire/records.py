"""What the scripts answer, read into plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from toril.model import (
    DEFAULT_METRICS_MINUTES,
    MAX_METRICS_MINUTES,
    Attempt,
    Claim,
    Event,
    JobRecord,
    JobRef,
    QueueSettings,
)
from toril.options import DEFAULT_OPTIONS, HISTORY_LENGTH, RateLimit
from toril.states import State
from toril.stores.redis.keys import STATES, Keys
from toril.stores.redis.wire.options import read_options, read_parent
from toril.stores.redis.wire.rows import Handle
from toril.stores.redis.wire.texts import Flat, as_list, as_object, fields_of, moment, number, parsed, whole

EVENT_FIELDS = {
    ("delayed", "delay"): "due_at_ms",
    ("completed", "returnvalue"): "result",
    ("failed", "failedReason"): "reason",
    ("retries-exhausted", "attemptsMade"): "attempts_made",
    ("deduplicated", "deduplicationId"): "deduplication_id",
    ("deduplicated", "deduplicatedJobId"): "deduplicated_job_id",
}
"""Fields of BullMQ's own events, by their names here."""


def read_claim(queue: str, job_id: str, told: Sequence[str | None], token: str, worker: str, keys: Keys) -> Claim:
    """What hand_out.lua tells of a job."""
    opts, name, data, created, priority, made, started, stalled, deferred, parent, began, history, stacks, schedule = (
        told
    )
    stored = read_options(opts or "{}")
    return Claim(
        ref=JobRef(queue, job_id),
        name=name or "",
        data=data or "{}",
        options=stored.options,
        token=token,
        attempt=whole(made) + 1,
        started=whole(started),
        stalled=whole(stalled),
        priority=whole(priority),
        created_at_ms=whole(created),
        claimed_at_ms=whole(began),
        worker=worker,
        deferred=deferred,
        parent=read_parent(parent, keys) if parent else None,
        schedule=schedule,
        handle=Handle(history or "", stacks or "", stored.stack_limit),
    )


def read_history(job: Mapping[str, str], state: State) -> tuple[Attempt, ...]:
    """The last runs of a job. A run that completed is told by the job's own fields."""
    attempts = [
        Attempt(
            entry["number"],
            entry.get("worker"),
            entry["started"],
            entry["ended"],
            entry["outcome"],
            entry.get("reason", ""),
            entry.get("stack", ""),
        )
        for entry in map(as_object, as_list(parsed(job.get("py:history"))))
    ]
    if state is State.COMPLETED and job.get("processedOn"):
        started_at_ms, ended_at_ms = number(job, "processedOn"), number(job, "finishedOn")
        attempts.append(Attempt(number(job, "atm"), job.get("pb"), started_at_ms, ended_at_ms, "completed"))
    return tuple(attempts[-HISTORY_LENGTH:])


def read_record(ref: JobRef, answer: Sequence[Any], now_ms: int, keys: Keys) -> JobRecord | None:
    """What get.lua answers of one job."""
    if not answer:
        return None
    if answer[0] == "receipt":
        return _read_receipt(ref, answer[1])
    collection, score, flat, lock_ttl_ms, pending = answer
    state = STATES.get(collection, State.WAITING)
    job = fields_of(flat)
    return JobRecord(
        ref=ref,
        name=job.get("name", ""),
        data=job.get("data", "{}"),
        options=read_options(job.get("opts", "{}")).options,
        state=state,
        priority=number(job, "priority"),
        created_at_ms=number(job, "timestamp"),
        due_at_ms=int(float(score)) // 4096 if state is State.DELAYED else None,
        processed_at_ms=moment(job, "processedOn"),
        finished_at_ms=moment(job, "finishedOn"),
        attempts_made=number(job, "atm"),
        attempts_started=number(job, "ats"),
        stalled=number(job, "stc"),
        worker=job.get("pb"),
        locked_until_ms=now_ms + lock_ttl_ms if state is State.ACTIVE and lock_ttl_ms > 0 else None,
        progress=job.get("progress"),
        result=job.get("returnvalue"),
        reason=None if state is State.COMPLETED else job.get("failedReason"),
        deferred=job.get("defa"),
        history=read_history(job, state),
        parent=read_parent(job.get("parent"), keys),
        pending_children=pending,
        schedule=job.get("rjk"),
    )


def _read_receipt(ref: JobRef, text: str) -> JobRecord:
    """What is left of a job that its keep rule removed."""
    receipt: dict[str, str] = json.loads(text)
    state = State(receipt["state"])
    return JobRecord(
        ref=ref,
        name=receipt.get("name", ""),
        data="null",
        options=DEFAULT_OPTIONS,
        state=state,
        created_at_ms=number(receipt, "timestamp"),
        processed_at_ms=moment(receipt, "processedOn"),
        finished_at_ms=moment(receipt, "finishedOn"),
        attempts_made=number(receipt, "atm"),
        attempts_started=number(receipt, "ats"),
        stalled=number(receipt, "stc"),
        worker=receipt.get("pb"),
        result=receipt.get("returnvalue"),
        reason=None if state is State.COMPLETED else receipt.get("failedReason"),
        history=read_history(receipt, state),
        kept=False,
    )


def read_event(queue: str, entry_id: str, flat: Flat) -> Event:
    fields = fields_of(flat)
    name = fields.pop("event", "")
    job_id = fields.pop("jobId", None)
    known = {EVENT_FIELDS.get((name, field), field): text for field, text in fields.items()}
    return Event(queue, entry_id, int(entry_id.partition("-")[0]), name, job_id, known)


def read_settings(flat: Flat, now_ms: int) -> QueueSettings:
    stored = fields_of(flat)
    limited = number(stored, "py:throttled-until")
    rate = None
    if stored.get("max") and stored.get("duration"):
        rate = RateLimit(number(stored, "max"), per=number(stored, "duration") / 1000)
    minutes = number(stored, "py:metrics") if "py:metrics" in stored else DEFAULT_METRICS_MINUTES
    return QueueSettings(
        paused="paused" in stored,
        concurrency=moment(stored, "concurrency"),
        rate_limit=rate,
        max_waiting=moment(stored, "py:max-waiting"),
        events=stored.get("py:events") != "0",
        max_events=number(stored, "opts.maxLenEvents") or 10_000,
        metrics_minutes=min(max(minutes, 0), MAX_METRICS_MINUTES),
        limited_until_ms=limited if limited > now_ms else None,
    )
