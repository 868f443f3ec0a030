"""BullMQ's spellings: how jobs, options and events are written in Redis. Nothing else knows them but the Lua scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

from toril.model import (
    Attempt,
    AwaitingChildren,
    Claim,
    Completed,
    Delayed,
    Event,
    Failed,
    JobRecord,
    JobRef,
    NewJob,
    Outcome,
    Parent,
    QueueSettings,
    Released,
    Retried,
    Throttled,
)
from toril.options import (
    DEFAULT_KEEP_LOGS,
    DEFAULT_OPTIONS,
    DEFAULT_SIZE_LIMIT,
    HISTORY_LENGTH,
    KEEP_ALL,
    Backoff,
    ChildPolicy,
    Deduplication,
    Keep,
    Options,
    RateLimit,
)
from toril.states import State
from toril.stores.redis.keys import STATES, Keys

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Flat = Sequence[str]
"""A hash as Redis answers it: name, text, name, text…"""

POLICIES: dict[ChildPolicy, str] = {
    ChildPolicy.FAIL: "fpof",
    ChildPolicy.CONTINUE: "cpof",
    ChildPolicy.IGNORE: "idof",
    ChildPolicy.REMOVE: "rdof",
}
FLAGS = {flag: policy for policy, flag in POLICIES.items()}

EVENT_FIELDS = {
    "delay": "due_at_ms",
    "returnvalue": "result",
    "failedReason": "reason",
    "attemptsMade": "attempts_made",
}
"""Fields of BullMQ's own events, by their names here."""

# ------------------------------------------------------------------ options


def options_text(job: NewJob, keys: Keys) -> str:
    """The `opts` of a job."""
    if job.nonce is None and job.parent is None:
        return _options_text(job.options)
    stored = _options(job.options)
    if job.nonce is not None:
        stored["jobId"] = job.id
    if job.parent is not None:
        stored["parent"] = {"id": job.parent.ref.id, "queue": keys.qualified(job.parent.ref.queue)}
        if flag := POLICIES.get(job.parent.policy):
            stored[flag] = True
    return _encode(stored)


@lru_cache(maxsize=1024)
def _options_text(options: Options) -> str:
    return _encode(_options(options))


def _options(options: Options) -> dict[str, Any]:
    stored: dict[str, Any] = {"attempts": options.attempts}
    if options.delay_ms:
        stored["delay"] = options.delay_ms
    if options.priority:
        stored["priority"] = options.priority
    if options.lifo:
        stored["lifo"] = True
    if options.backoff is not None:
        stored["backoff"] = _backoff(options.backoff)
    if options.keep_completed is not None:
        stored["removeOnComplete"] = _keep(options.keep_completed)
    if options.keep_failed is not None:
        stored["removeOnFail"] = _keep(options.keep_failed)
    if options.keep_logs != DEFAULT_KEEP_LOGS:
        stored["kl"] = options.keep_logs
    if options.size_limit != DEFAULT_SIZE_LIMIT:
        stored["sizeLimit"] = options.size_limit
    if options.trace is not None:
        stored["tm"] = options.trace
    if options.deduplication is not None:
        stored["de"] = _deduplication(options.deduplication)
    if ours := _ours(options):
        stored["py"] = ours
    return stored


def _backoff(backoff: Backoff) -> dict[str, Any]:
    stored: dict[str, Any] = {"type": backoff.kind, "delay": backoff.delay_ms}
    if backoff.jitter:
        stored["jitter"] = backoff.jitter
    if backoff.max_delay_ms is not None:
        stored["maxDelay"] = backoff.max_delay_ms  # ours: Node does not cap
    return stored


def _keep(keep: Keep) -> bool | int | dict[str, float]:
    if keep.age_ms is None:
        return False if keep.count is None else True if keep.count == 0 else keep.count
    age = {"age": keep.age_ms // 1000 if keep.age_ms % 1000 == 0 else keep.age_ms / 1000}
    return age if keep.count is None else {**age, "count": keep.count}


def _deduplication(deduplication: Deduplication) -> dict[str, Any]:
    stored: dict[str, Any] = {"id": deduplication.id}
    if deduplication.ttl_ms is not None:
        stored["ttl"] = deduplication.ttl_ms
    for name, wished in (
        ("extend", deduplication.extend),
        ("replace", deduplication.replace),
        ("keepLastIfActive", deduplication.keep_last_if_active),
    ):
        if wished:
            stored[name] = True
    return stored


_OURS = {
    "keep_result_ms": "keepResult",
    "group": "group",
    "expires_at_ms": "expiresAt",
    "deadline_at_ms": "deadlineAt",
    "timeout_ms": "timeout",
    "origin": "origin",
    "codec": "codec",
}
"""Options that BullMQ does not know: members of `opts.py`, which it keeps and passes over."""


def _ours(options: Options) -> dict[str, Any]:
    return {
        spelled: getattr(options, name)
        for name, spelled in _OURS.items()
        if getattr(options, name) != getattr(DEFAULT_OPTIONS, name)
    }


class StoredOptions(NamedTuple):
    """The `opts` of a job, and what of them has no place in `Options`."""

    options: Options
    stack_limit: int


@lru_cache(maxsize=1024)
def read_options(text: str) -> StoredOptions:
    """Options as any peer may have written them; what is not given is as BullMQ has it."""
    stored = _object(_json(text))
    return StoredOptions(_read_options(stored), _whole(stored.get("stackTraceLimit"), HISTORY_LENGTH))


def _read_options(stored: dict[str, Any]) -> Options:
    ours = _object(stored.get("py"))
    return Options(
        delay_ms=_whole(stored.get("delay"), 0),
        priority=_whole(stored.get("priority"), 0),
        lifo=bool(stored.get("lifo")),
        attempts=max(1, _whole(stored.get("attempts"), 1)),
        backoff=_read_backoff(stored.get("backoff")),
        keep_completed=_read_keep(stored.get("removeOnComplete")),
        keep_failed=_read_keep(stored.get("removeOnFail")),
        keep_logs=_whole(stored.get("kl"), DEFAULT_KEEP_LOGS),
        size_limit=_whole(stored.get("sizeLimit"), DEFAULT_SIZE_LIMIT),
        deduplication=_read_deduplication(stored.get("de")),
        trace=stored.get("tm"),
        **{name: ours[spelled] for name, spelled in _OURS.items() if spelled in ours},
    )


def _whole(value: Any, default: int) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else default


def _read_backoff(stored: Any) -> Backoff | None:
    if isinstance(stored, int | float) and not isinstance(stored, bool):
        return Backoff("fixed", int(stored))
    backoff = _object(stored)
    if not isinstance(backoff.get("type"), str):
        return None
    cap = backoff.get("maxDelay")
    return Backoff(
        backoff["type"],
        _whole(backoff.get("delay"), 0),
        float(backoff.get("jitter") or 0),
        None if cap is None else _whole(cap, 0),
    )


def _read_keep(stored: Any) -> Keep:
    if stored is True:
        return Keep(count=0)
    if stored is None or stored is False:
        return KEEP_ALL
    if isinstance(stored, int | float):
        return Keep(count=int(stored)) if stored >= 0 else KEEP_ALL
    rule = _object(stored)
    age, count = rule.get("age"), rule.get("count")
    return Keep(
        count=None if count is None or count < 0 else int(count),
        age_ms=None if age is None else round(age * 1000),
    )


def _read_deduplication(stored: Any) -> Deduplication | None:
    wish = _object(stored)
    if "id" not in wish:
        return None
    return Deduplication(
        wish["id"],
        wish.get("ttl"),
        bool(wish.get("extend")),
        bool(wish.get("replace")),
        bool(wish.get("keepLastIfActive")),
    )


# ------------------------------------------------------------------ adding


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
        "" if job.parent is None else _parent(job.parent, keys),
        int(job.has_children),
    )


def _parent(parent: Parent, keys: Keys) -> str:
    stored: dict[str, Any] = {"id": parent.ref.id, "queueKey": keys.qualified(parent.ref.queue)}
    if flag := POLICIES.get(parent.policy):
        stored[flag] = True
    return _encode(stored)


def _read_parent(text: str | None, keys: Keys) -> Parent | None:
    stored = _object(_json(text))
    if "id" not in stored:
        return None
    policy = next((FLAGS[flag] for flag in FLAGS if stored.get(flag)), ChildPolicy.WAIT)
    return Parent(JobRef(keys.queue_of(str(stored.get("queueKey"))), str(stored["id"])), policy)


# ------------------------------------------------------------------ claims


class Handle(NamedTuple):
    """What a claim must know of its job when it is settled: texts that its outcome adds to."""

    history: str
    stacktrace: str
    stack_limit: int


def read_claim(queue: str, job_id: str, flat: Flat, token: str, worker: str, keys: Keys) -> Claim:
    job = _fields(flat)
    stored = read_options(job.get("opts", "{}"))
    return Claim(
        ref=JobRef(queue, job_id),
        name=job.get("name", ""),
        data=job.get("data", "{}"),
        options=stored.options,
        token=token,
        attempt=_number(job, "atm") + 1,
        started=_number(job, "ats"),
        stalled=_number(job, "stc"),
        priority=_number(job, "priority"),
        created_at_ms=_number(job, "timestamp"),
        claimed_at_ms=_number(job, "processedOn"),
        worker=worker,
        deferred=job.get("defa"),
        parent=_read_parent(job.get("parent"), keys),
        handle=Handle(job.get("py:history", ""), job.get("stacktrace", ""), stored.stack_limit),
    )


def _fields(flat: Flat) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _number(job: Mapping[str, str], name: str) -> int:
    text = job.get(name)
    try:
        return int(float(text)) if text else 0
    except ValueError:
        return 0


def _moment(job: Mapping[str, str], name: str) -> int | None:
    return _number(job, name) if job.get(name) else None


def _json(text: str | None) -> Any:
    """The value of JSON text that a peer may have written wrongly; None then."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value if isinstance(value, dict) else {})


def _list(value: Any) -> list[Any]:
    return list(cast("Iterable[Any]", value)) if isinstance(value, list) else []


# ------------------------------------------------------------------ settling


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
    stacks = [*_list(_json(handle.stacktrace)), stack]
    return _encode(stacks[-handle.stack_limit :] if handle.stack_limit > 0 else [])


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
        return _encode([entry])
    return _encode([*_list(_json(history)), entry][-HISTORY_LENGTH:])


# ------------------------------------------------------------------ looking


def read_history(text: str | None) -> tuple[Attempt, ...]:
    return tuple(
        Attempt(
            entry["number"],
            entry.get("worker"),
            entry["started"],
            entry["ended"],
            entry["outcome"],
            entry.get("reason", ""),
            entry.get("stack", ""),
        )
        for entry in map(_object, _list(_json(text))[-HISTORY_LENGTH:])
    )


def read_record(ref: JobRef, answer: Sequence[Any], now_ms: int, keys: Keys) -> JobRecord | None:
    """What get.lua answers of one job."""
    if not answer:
        return None
    if answer[0] == "receipt":
        return _read_receipt(ref, answer[1])
    collection, score, flat, lock_ttl_ms, pending = answer
    state = STATES.get(collection, State.WAITING)
    job = _fields(flat)
    return JobRecord(
        ref=ref,
        name=job.get("name", ""),
        data=job.get("data", "{}"),
        options=read_options(job.get("opts", "{}")).options,
        state=state,
        priority=_number(job, "priority"),
        created_at_ms=_number(job, "timestamp"),
        due_at_ms=int(float(score)) // 4096 if state is State.DELAYED else None,
        processed_at_ms=_moment(job, "processedOn"),
        finished_at_ms=_moment(job, "finishedOn"),
        attempts_made=_number(job, "atm"),
        attempts_started=_number(job, "ats"),
        stalled=_number(job, "stc"),
        worker=job.get("pb"),
        locked_until_ms=now_ms + lock_ttl_ms if state is State.ACTIVE and lock_ttl_ms > 0 else None,
        progress=job.get("progress"),
        result=job.get("returnvalue"),
        reason=None if state is State.COMPLETED else job.get("failedReason"),
        deferred=job.get("defa"),
        history=read_history(job.get("py:history")),
        parent=_read_parent(job.get("parent"), keys),
        pending_children=pending,
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
        created_at_ms=_number(receipt, "timestamp"),
        processed_at_ms=_moment(receipt, "processedOn"),
        finished_at_ms=_moment(receipt, "finishedOn"),
        attempts_made=_number(receipt, "atm"),
        attempts_started=_number(receipt, "ats"),
        stalled=_number(receipt, "stc"),
        worker=receipt.get("pb"),
        result=receipt.get("returnvalue"),
        reason=None if state is State.COMPLETED else receipt.get("failedReason"),
        history=read_history(receipt.get("py:history")),
        kept=False,
    )


def read_event(queue: str, entry_id: str, flat: Flat) -> Event:
    fields = _fields(flat)
    name = fields.pop("event", "")
    job_id = fields.pop("jobId", None)
    known = {EVENT_FIELDS.get(field, field): text for field, text in fields.items()}
    return Event(queue, entry_id, int(entry_id.partition("-")[0]), name, job_id, known)


# ------------------------------------------------------------------ settings


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


def read_settings(flat: Flat, now_ms: int) -> QueueSettings:
    stored = _fields(flat)
    limited = _number(stored, "py:throttled-until")
    rate = None
    if stored.get("max") and stored.get("duration"):
        rate = RateLimit(_number(stored, "max"), per=_number(stored, "duration") / 1000)
    return QueueSettings(
        paused="paused" in stored,
        concurrency=_moment(stored, "concurrency"),
        rate_limit=rate,
        max_waiting=_moment(stored, "py:max-waiting"),
        events=stored.get("py:events") != "0",
        max_events=_number(stored, "opts.maxLenEvents") or 10_000,
        limited_until_ms=limited if limited > now_ms else None,
    )
