"""What the scripts take: one record each."""

from __future__ import annotations

from typing import Any, NamedTuple

from toril.model import (
    DEFAULT_METRICS_MINUTES,
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
from toril.options import HISTORY_LENGTH, Keep, Options
from toril.stores.redis.keys import Keys
from toril.stores.redis.wire.options import deduplication_text, options_text, parent_text
from toril.stores.redis.wire.texts import as_list, encode, parsed


class KindRow(NamedTuple):
    """What jobs of one declaration share."""

    name: str
    opts: str
    delay: int
    priority: int
    lifo: int
    parent_key: str
    parent: str
    has_children: int
    deduplication: str


class JobRow(NamedTuple):
    """A job on its way, as add.lua takes it; `kind` is a place in the list of kinds, from 1."""

    unit: int
    queue: int
    kind: int
    id: str
    data: str
    timestamp: int
    nonce: str


class JobRows:
    """Jobs of one call, with what they share told once, and times by the server's clock, which is so far ahead."""

    def __init__(self, keys: Keys, ahead_ms: int) -> None:
        self._keys = keys
        self._ahead_ms = ahead_ms
        self._places: dict[tuple[str, int], int] = {}
        self.kinds: list[KindRow] = []
        self.jobs: list[JobRow] = []

    def append(self, job: NewJob, unit: int, queue: int) -> None:
        plain = job.nonce is None and job.parent is None and not job.has_children
        kind = self._places.get((job.name, id(job.options))) if plain else None
        if kind is None:
            self.kinds.append(_kind(job, self._keys))
            kind = len(self.kinds)
            if plain:
                self._places[job.name, id(job.options)] = kind
        self.jobs.append(
            JobRow(unit, queue, kind, job.id, job.data, job.created_at_ms + self._ahead_ms, job.nonce or "")
        )


def _kind(job: NewJob, keys: Keys) -> KindRow:
    options = job.options
    return KindRow(
        job.name,
        options_text(job, keys),
        options.delay_ms,
        options.priority,
        int(options.lifo),
        "" if job.parent is None else keys.job(job.parent.ref),
        "" if job.parent is None else parent_text(job.parent, keys),
        int(job.has_children),
        deduplication_text(options.deduplication),
    )


class Handle(NamedTuple):
    """What a claim must know of its job when it is settled: texts that its outcome adds to."""

    history: str
    stacktrace: str
    stack_limit: int


class TermsRow(NamedTuple):
    """What of a job's options decides how it ends; jobs of one declaration share one."""

    attempts: int
    lifo: int
    keep_count: int | str
    keep_age_ms: int | str
    receipt_ms: int


class DetailRow(NamedTuple):
    """What an outcome says besides, unless the job has completed."""

    stacktrace: str
    history: str
    delay: int


class SettledRow(NamedTuple):
    """An outcome, as settle.lua takes it; `terms` and `detail` are places in their lists, from 1."""

    queue: int
    id: str
    token: str
    started: int
    outcome: str
    value: str
    terms: int
    detail: int


SHORTEST_RECEIPT_MS = 60_000
"""A job that is removed at once is remembered for this long at least, so that a repeated add makes no second one."""


class SettledRows:
    """Outcomes of one call, with what they share told once, and times by the server's clock, which is so far ahead."""

    def __init__(self, now_ms: int, ahead_ms: int) -> None:
        self._now_ms = now_ms
        self._ahead_ms = ahead_ms
        self._places: dict[tuple[int, bool], int] = {}
        self.terms: list[TermsRow] = []
        self.details: list[DetailRow] = []
        self.settled: list[SettledRow] = []

    def append(self, claim: Claim, outcome: Outcome, queue: int) -> None:
        completed = isinstance(outcome, Completed)
        options = claim.options
        terms = self._places.get((id(options), completed))
        if terms is None:
            self.terms.append(_terms(options, options.keep_completed if completed else options.keep_failed))
            terms = self._places[id(options), completed] = len(self.terms)
        if isinstance(outcome, Completed):
            row = SettledRow(
                queue, claim.ref.id, claim.token, claim.claimed_at_ms, "completed", outcome.result, terms, 0
            )
        else:
            word, value, stack = told(outcome)
            self.details.append(self._detail(claim, outcome, stack))
            row = SettledRow(
                queue, claim.ref.id, claim.token, claim.claimed_at_ms, word, value, terms, len(self.details)
            )
        self.settled.append(row)

    def _detail(self, claim: Claim, outcome: Outcome, stack: str) -> DetailRow:
        handle = claim.handle if isinstance(claim.handle, Handle) else Handle("", "", HISTORY_LENGTH)
        history = _with_attempt(handle.history, claim, outcome, self._now_ms)
        return DetailRow(_with_stack(handle, stack), history, _delay_ms(outcome, self._now_ms - self._ahead_ms))


def _terms(options: Options, keep: Keep | None) -> TermsRow:
    return TermsRow(
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

    minutes = settings.metrics_minutes

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
        SettingRow("py:metrics", text(None if minutes == DEFAULT_METRICS_MINUTES else minutes)),
    ]
