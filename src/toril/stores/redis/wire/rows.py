"""What the scripts take: one record each."""

from __future__ import annotations

from typing import Any, NamedTuple

from toril.model import (
    AwaitingChildren,
    Claim,
    Completed,
    Delayed,
    Failed,
    NewJob,
    Outcome,
    QueueSettings,
    Released,
    Retried,
    Throttled,
)
from toril.options import HISTORY_LENGTH
from toril.stores.redis.keys import Keys
from toril.stores.redis.wire.options import options_text, parent_text
from toril.stores.redis.wire.texts import as_list, encode, parsed


class JobRow(NamedTuple):
    """A job on its way, as add.lua takes it."""

    unit: int
    queue: int
    id: str
    name: str
    data: str
    opts: str
    timestamp: int
    delay: int
    priority: int
    lifo: int
    nonce: str
    parent_key: str
    parent: str
    has_children: int


def job_row(job: NewJob, unit: int, place: int, keys: Keys) -> JobRow:
    options = job.options
    return JobRow(
        unit,
        place,
        job.id,
        job.name,
        job.data,
        options_text(job, keys),
        job.created_at_ms,
        options.delay_ms,
        options.priority,
        int(options.lifo),
        job.nonce or "",
        "" if job.parent is None else keys.job(job.parent.ref),
        "" if job.parent is None else parent_text(job.parent, keys),
        int(job.has_children),
    )


class Handle(NamedTuple):
    """What a claim must know of its job when it is settled: texts that its outcome adds to."""

    history: str
    stacktrace: str
    stack_limit: int


class SettledRow(NamedTuple):
    """An outcome, as settle.lua takes it."""

    queue: int
    id: str
    token: str
    outcome: str
    value: str
    stacktrace: str
    history: str
    delay: int
    attempts: int
    lifo: int
    keep_count: int | str
    keep_age_ms: int | str
    receipt_ms: int


SHORTEST_RECEIPT_MS = 60_000
"""A job that is removed at once is remembered for this long at least, so that a repeated add makes no second one."""


def settled_row(claim: Claim, outcome: Outcome, place: int, now_ms: int) -> SettledRow:
    word, value, stack = told(outcome)
    handle = claim.handle if isinstance(claim.handle, Handle) else Handle("", "", HISTORY_LENGTH)
    options = claim.options
    keep = options.keep_completed if isinstance(outcome, Completed) else options.keep_failed
    return SettledRow(
        place,
        claim.ref.id,
        claim.token,
        word,
        value,
        _with_stack(handle, stack),
        _with_attempt(handle.history, claim, outcome, now_ms),
        _delay_ms(outcome, now_ms),
        options.attempts,
        int(options.lifo),
        "" if keep is None or keep.count is None else keep.count,
        "" if keep is None or keep.age_ms is None else keep.age_ms,
        max(options.keep_result_ms, SHORTEST_RECEIPT_MS),
    )


def told(outcome: Outcome) -> tuple[str, str, str]:
    """The word for an outcome, its result or reason, and its stack."""
    match outcome:
        case Completed(result):
            return "completed", result, ""
        case Failed(reason, stack):
            return "failed", reason, stack
        case Retried(_, reason, stack):
            return "retried", reason, stack
        case Delayed():
            return "delayed", "", ""
        case Throttled():
            return "throttled", "", ""
        case AwaitingChildren():
            return "awaiting-children", "", ""
        case Released():
            return "released", "", ""


def _delay_ms(outcome: Outcome, now_ms: int) -> int:
    match outcome:
        case Retried(after_ms):
            return after_ms
        case Delayed(until_ms):
            return max(0, until_ms - now_ms)
        case Throttled(for_ms):
            return for_ms
        case _:
            return 0


def _with_stack(handle: Handle, stack: str) -> str:
    if not stack:
        return ""
    stacks = [*as_list(parsed(handle.stacktrace)), stack]
    return encode(stacks[-handle.stack_limit :] if handle.stack_limit > 0 else [])


def _with_attempt(history: str, claim: Claim, outcome: Outcome, now_ms: int) -> str:
    word, value, stack = told(outcome)
    entry: dict[str, Any] = {
        "number": claim.attempt,
        "worker": claim.worker,
        "started": claim.claimed_at_ms,
        "ended": now_ms,
        "outcome": word,
        "token": claim.token,
    }
    if isinstance(outcome, Failed | Retried):
        entry["reason"] = value
    if stack:
        entry["stack"] = stack
    if not history:
        return encode([entry])
    return encode([*as_list(parsed(history)), entry][-HISTORY_LENGTH:])


class SettingRow(NamedTuple):
    """A field of `meta`; an empty text deletes it."""

    name: str
    text: str


def settings_rows(settings: QueueSettings) -> list[SettingRow]:
    rate = settings.rate_limit

    def text(value: int | None) -> str:
        return "" if value is None else str(value)

    return [
        SettingRow("paused", "1" if settings.paused else ""),
        SettingRow("concurrency", text(settings.concurrency)),
        SettingRow("max", text(None if rate is None else rate.max)),
        SettingRow("duration", text(None if rate is None else rate.per_ms)),
        SettingRow("opts.maxLenEvents", str(settings.max_events)),
        SettingRow("py:events", "" if settings.events else "0"),
        SettingRow("py:max-waiting", text(settings.max_waiting)),
    ]
