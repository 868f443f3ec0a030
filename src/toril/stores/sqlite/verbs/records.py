"""Rows to data and back."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import lru_cache
from typing import Any, cast

from toril.model import Attempt, JobRecord, JobRef, Parent
from toril.options import DEFAULT_OPTIONS, HISTORY_LENGTH, Backoff, ChildPolicy, Deduplication, Keep, Options
from toril.states import State

_DEFAULTS = {f.name: getattr(DEFAULT_OPTIONS, f.name) for f in fields(Options)}


@lru_cache(maxsize=512)
def options_text(options: Options) -> str | None:
    """What is kept of options: JSON of what differs from the defaults, None when nothing does."""
    differing: dict[str, Any] = {}
    for name, default in _DEFAULTS.items():
        value = getattr(options, name)
        if value != default:
            differing[name] = _plain(value)
    return json.dumps(differing, ensure_ascii=False) if differing else None


def _plain(value: Any) -> Any:
    match value:
        case Keep():
            return [value.count, value.age_ms]
        case Backoff():
            return [value.kind, value.delay_ms, value.jitter, value.max_delay_ms]
        case Deduplication():
            return [value.id, value.ttl_ms, value.extend, value.replace, value.reschedule, value.keep_last_if_active]
        case _:
            return value


@lru_cache(maxsize=512)
def options_of(text: str | None) -> Options:
    """The options that `options_text` wrote. Raises ValueError or TypeError for what it cannot have written."""
    if text is None:
        return DEFAULT_OPTIONS
    values: Any = json.loads(text)
    if type(values) is not dict:
        raise ValueError("they are no JSON object")
    values = cast("dict[str, Any]", values)
    for name in ("keep_completed", "keep_failed"):
        if name in values:
            values[name] = Keep(*values[name])
    if values.get("backoff") is not None:
        values["backoff"] = Backoff(*values["backoff"])
    if values.get("deduplication") is not None:
        values["deduplication"] = Deduplication(*values["deduplication"])
    return Options(**values)


def appended(history: str | None, attempt: Attempt) -> str:
    """The history of a job with one more attempt; only the last ten are kept."""
    entries: list[Any] = json.loads(history) if history else []
    entries.append(
        [
            attempt.number,
            attempt.worker,
            attempt.started_at_ms,
            attempt.ended_at_ms,
            attempt.outcome,
            attempt.reason,
            attempt.stack,
        ]
    )
    return json.dumps(entries[-HISTORY_LENGTH:], ensure_ascii=False, separators=(",", ":"))


def history_of(text: str | None) -> tuple[Attempt, ...]:
    """The attempts that `appended` wrote."""
    return tuple(Attempt(*entry) for entry in json.loads(text)) if text else ()


def parent_of(queue: str | None, job_id: str | None, policy: str | None) -> Parent | None:
    """A parent from its columns."""
    if queue is None or job_id is None:
        return None
    return Parent(JobRef(queue, job_id), ChildPolicy(policy or ChildPolicy.WAIT))


def record_of(row: tuple[Any, ...]) -> JobRecord:
    """A row of `job.columns` as a record."""
    (
        _, queue, job_id, name, data, options, state, rank, _, priority, _, created, processed, finished, made, started,
        stalled, worker, locked_until, progress, result, reason, deferred, history, pending, policy, parent_queue, parent_id,
        schedule,
    ) = row  # fmt: skip
    attempts = history_of(history)
    if state == State.COMPLETED and processed is not None and finished is not None:
        attempts = (*attempts, Attempt(made, worker, processed, finished, "completed"))[-HISTORY_LENGTH:]
    return JobRecord(
        ref=JobRef(queue, job_id),
        name=name,
        data=data,
        options=options_or_default(options),
        state=State(state),
        priority=priority,
        created_at_ms=created,
        due_at_ms=rank if state == State.DELAYED else None,
        processed_at_ms=processed,
        finished_at_ms=finished,
        attempts_made=made,
        attempts_started=started,
        stalled=stalled,
        worker=worker,
        locked_until_ms=locked_until if state == State.ACTIVE else None,
        progress=progress,
        result=result,
        reason=reason,
        deferred=deferred,
        history=attempts,
        parent=parent_of(parent_queue, parent_id, policy),
        pending_children=pending,
        schedule=schedule,
    )


def options_or_default(text: str | None) -> Options:
    """Options for looking at: what cannot be read must not hide the job."""
    try:
        return options_of(text)
    except Exception:
        return DEFAULT_OPTIONS
