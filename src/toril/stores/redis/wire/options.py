"""The `opts` of a job, and its parent."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

from toril.model import JobRef, NewJob, Parent
from toril.options import (
    DEFAULT_KEEP_LOGS,
    DEFAULT_OPTIONS,
    DEFAULT_SIZE_LIMIT,
    HISTORY_LENGTH,
    Backoff,
    ChildPolicy,
    Deduplication,
    Keep,
    Options,
)
from toril.stores.redis.keys import Keys
from toril.stores.redis.wire.texts import as_object, encode, parsed

POLICIES: dict[ChildPolicy, str] = {
    ChildPolicy.FAIL: "fpof",
    ChildPolicy.CONTINUE: "cpof",
    ChildPolicy.IGNORE: "idof",
    ChildPolicy.REMOVE: "rdof",
}
FLAGS = {flag: policy for policy, flag in POLICIES.items()}


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
    return encode(stored)


@lru_cache(maxsize=1024)
def _options_text(options: Options) -> str:
    return encode(_options(options))


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


def deduplication_text(deduplication: Deduplication | None) -> str:
    """The `de` of a job's `opts` by itself; nothing for none."""
    return "" if deduplication is None else encode(_deduplication(deduplication))


def _deduplication(deduplication: Deduplication) -> dict[str, Any]:
    stored: dict[str, Any] = {"id": deduplication.id}
    if deduplication.ttl_ms is not None:
        stored["ttl"] = deduplication.ttl_ms
    for name, wished in (
        ("extend", deduplication.extend),
        ("replace", deduplication.replace),
        ("reschedule", deduplication.reschedule),
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
    stored = as_object(parsed(text))
    return StoredOptions(_read_options(stored), _whole(stored.get("stackTraceLimit"), HISTORY_LENGTH))


def _read_options(stored: dict[str, Any]) -> Options:
    ours = as_object(stored.get("py"))
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


def _real(value: Any) -> float | None:
    """A number, also one that is written as text, as JavaScript lets it pass; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any, default: int) -> int:
    number = _real(value)
    return default if number is None else int(number)


def _read_backoff(stored: Any) -> Backoff | None:
    fixed = _real(stored)
    if fixed is not None:
        return Backoff("fixed", max(0, int(fixed)))
    backoff = as_object(stored)
    if not isinstance(backoff.get("type"), str):
        return None
    cap = backoff.get("maxDelay")
    return Backoff(
        backoff["type"],
        max(0, _whole(backoff.get("delay"), 0)),
        min(1.0, max(0.0, _real(backoff.get("jitter")) or 0.0)),
        None if cap is None else _whole(cap, 0),
    )


def _read_keep(stored: Any) -> Keep:
    if stored is True:
        return Keep(count=0)
    bare = _real(stored)
    rule = as_object(stored) if bare is None else {"count": bare}
    age, count = _real(rule.get("age")), _real(rule.get("count"))
    return Keep(
        count=None if count is None or count < 0 else int(count),
        age_ms=None if age is None or age < 0 else round(age * 1000),
    )


def _read_deduplication(stored: Any) -> Deduplication | None:
    wish = as_object(stored)
    if "id" not in wish:
        return None
    return Deduplication(
        str(wish["id"]),
        _whole(wish.get("ttl"), 0) or None,
        extend=bool(wish.get("extend")),
        replace=bool(wish.get("replace")),
        reschedule=bool(wish.get("reschedule")),
        keep_last_if_active=bool(wish.get("keepLastIfActive")),
    )


def parent_text(parent: Parent, keys: Keys) -> str:
    stored: dict[str, Any] = {"id": parent.ref.id, "queueKey": keys.qualified(parent.ref.queue)}
    if flag := POLICIES.get(parent.policy):
        stored[flag] = True
    return encode(stored)


def read_parent(text: str | None, keys: Keys) -> Parent | None:
    stored = as_object(parsed(text))
    if "id" not in stored:
        return None
    policy = next((FLAGS[flag] for flag in FLAGS if stored.get(flag)), ChildPolicy.WAIT)
    return Parent(JobRef(keys.queue_of(str(stored.get("queueKey"))), str(stored["id"])), policy)
