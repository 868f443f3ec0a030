"""What a job may be asked to be: once as people write it (`JobOptions`), once as stores keep it (`Options`)."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Literal, Protocol, TypedDict, cast

from toril.errors import ConfigError

Duration = float | timedelta
"""What people write: seconds, or a timedelta."""

SECOND_MS: Final = 1000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

MAX_PRIORITY: Final = 2_097_151
MAX_DELAY_MS: Final = 100 * 365 * DAY_MS
DEFAULT_SIZE_LIMIT: Final = 1024 * 1024
DEFAULT_KEEP_LOGS: Final = 1000
HISTORY_LENGTH: Final = 10


def to_ms(duration: Duration, what: str = "a duration") -> int:
    """Whole milliseconds of `duration`.

    Raises:
        ConfigError: it is not a finite number of seconds or a timedelta, is negative, or exceeds 100 years.
    """
    if isinstance(duration, bool) or not isinstance(duration, int | float | timedelta):
        raise ConfigError(f"{what} must be seconds or a timedelta, not {duration!r}")
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if not 0 <= seconds <= MAX_DELAY_MS / SECOND_MS:
        raise ConfigError(f"{what} must be between 0 s and 100 years, not {duration!r}")
    return round(seconds * SECOND_MS)


Strategy = Callable[[int, BaseException], Duration | None | Awaitable[Duration | None]]
"""Says how long to wait after attempt n (from 1) raised an error; None or a negative number gives up. May be async."""


_FORMULAS = ("fixed", "exponential")


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a job is tried again.

    `jitter` j in 0…1 draws each wait evenly from the last j of it: `wait × (1 - j) … wait` (BullMQ's rule).
    `max_delay_ms` caps a wait before jitter. A `custom` backoff asks the strategy of its name.
    """

    kind: str
    delay_ms: int = 0
    jitter: float = 0.0
    max_delay_ms: int | None = None
    strategy: Strategy | None = field(default=None, compare=False, repr=False)

    @staticmethod
    def fixed(delay: Duration, *, jitter: float = 0.0) -> Backoff:
        """The same wait each time."""
        return Backoff("fixed", to_ms(delay, "the delay of a backoff"), _jitter(jitter))

    @staticmethod
    def exponential(delay: Duration, *, jitter: float = 0.0, max_delay: Duration | None = None) -> Backoff:
        """`delay`, then twice as long each time, at most `max_delay`."""
        cap_ms = None if max_delay is None else to_ms(max_delay, "max_delay")
        return Backoff("exponential", to_ms(delay, "the delay of a backoff"), _jitter(jitter), cap_ms)

    @staticmethod
    def custom(strategy: Strategy | str) -> Backoff:
        """Ask a function, or the function that the worker knows by this name."""
        name = strategy if isinstance(strategy, str) else strategy.__name__
        if not name or name in _FORMULAS:
            raise ConfigError(f"a custom backoff cannot be called {name!r}: that names a formula; give it another name")
        return Backoff(name, strategy=None if isinstance(strategy, str) else strategy)

    @property
    def is_custom(self) -> bool:
        """Whether a strategy of this name decides, rather than a formula."""
        return self.kind not in _FORMULAS

    def wait_ms(self, attempt: int) -> int:
        """The wait after attempt n (from 1) of a fixed or exponential backoff, before jitter."""
        if self.kind == "fixed":
            return self.delay_ms
        wait_ms = self.delay_ms << min(attempt - 1, 62)
        return min(wait_ms, MAX_DELAY_MS if self.max_delay_ms is None else self.max_delay_ms)

    def draw_ms(self, attempt: int, rng: random.Random) -> int:
        """The wait after attempt n (from 1), with jitter drawn."""
        wait_ms = self.wait_ms(attempt)
        if not self.jitter:
            return wait_ms
        return int(rng.random() * wait_ms * self.jitter + wait_ms * (1 - self.jitter))

    def waits_ms(self, attempts: int) -> list[int]:
        """The waits that `attempts` tries really lead to: one fewer than tries. Empty for a custom backoff."""
        return [] if self.is_custom else [self.wait_ms(n) for n in range(1, attempts)]

    def unreachable_cap_ms(self, attempts: int) -> int | None:
        """The longest wait that really happens, where `max_delay` can never be reached; else None."""
        waits = self.waits_ms(attempts)
        if self.kind != "exponential" or self.max_delay_ms is None or not waits:
            return None
        longest = self.delay_ms << min(attempts - 2, 62)
        return longest if longest < self.max_delay_ms else None


def _jitter(jitter: float) -> float:
    if isinstance(jitter, bool) or not 0 <= jitter <= 1:
        raise ConfigError(f"jitter must be between 0 and 1, not {jitter!r}")
    return float(jitter)


@dataclass(frozen=True, slots=True)
class Keep:
    """How long finished jobs stay: at most `count` of them, none older than `age_ms`. `count=0` removes at once."""

    count: int | None = None
    age_ms: int | None = None

    @staticmethod
    def of(keep: Keep | bool | int | timedelta) -> Keep:
        """What `keep_completed=` or `keep_failed=` means: True all, False none, a number that many, a time that long."""
        if isinstance(keep, Keep):
            return keep
        if isinstance(keep, bool):
            return KEEP_ALL if keep else KEEP_NONE
        if isinstance(keep, timedelta):
            return Keep(age_ms=to_ms(keep, "the age of a keep rule"))
        if not isinstance(keep, int) or keep < 0:
            raise ConfigError(
                f"a keep rule is True, False, a count from 0, a timedelta or Keep(count, age_ms), not {keep!r}"
            )
        return Keep(count=keep)


KEEP_ALL: Final = Keep()
KEEP_NONE: Final = Keep(count=0)
KEEP_COMPLETED: Final = Keep(count=1000, age_ms=DAY_MS)
KEEP_FAILED: Final = Keep(count=5000, age_ms=7 * DAY_MS)
DEFAULT_BACKOFF: Final = Backoff("exponential", SECOND_MS, 0.5, HOUR_MS)


class ChildPolicy(StrEnum):
    """What becomes of a parent when this child ends failed."""

    WAIT = "wait"  # the parent stays until the child is retried or removed
    FAIL = "fail"  # the parent is released now and fails
    CONTINUE = "continue"  # the parent is released now and runs
    IGNORE = "ignore"  # counts as done; the reason is kept with the parent
    REMOVE = "remove"  # counts as done; nothing is kept


Rule = Literal["id", "simple", "throttle", "debounce", "keep-last"]
"""By what an add met a job that was there: the chosen id, or one of the four ways to deduplicate."""


@dataclass(frozen=True, slots=True)
class Deduplication:
    """At most one job per `id`: as long as its owner has not ended, or with `ttl_ms` for that time.

    `extend`: each add begins the time anew. `replace`: an add takes the place of an owner that is still delayed.
    `reschedule`: an add begins the delay of a delayed owner anew, with its own. `keep_last_if_active`: of the adds that
    come while the owner runs, the last one is added when it has ended.
    """

    id: str
    ttl_ms: int | None = None
    extend: bool = False
    replace: bool = False
    reschedule: bool = False
    keep_last_if_active: bool = False

    @property
    def rule(self) -> Rule:
        """Its way, as an add that met another job says it."""
        if self.replace:
            return "debounce"
        if self.ttl_ms:
            return "throttle"
        return "keep-last" if self.keep_last_if_active else "simple"

    @staticmethod
    def simple(id: str) -> Deduplication:
        """No second job until the first has completed or failed."""
        return Deduplication(_deduplication_id(id))

    @staticmethod
    def throttle(id: str, ttl: Duration, *, extend: bool = False) -> Deduplication:
        """No second job within `ttl` of the first, whatever becomes of it; with `extend`, of the last add."""
        return Deduplication(_deduplication_id(id), _ttl_ms(ttl), extend=extend)

    @staticmethod
    def debounce(id: str, ttl: Duration | None = None) -> Deduplication:
        """The last add wins: it takes the place of the one that is still delayed. Give the jobs a `delay`, and as `ttl` the same."""
        if ttl is None:
            return Deduplication(_deduplication_id(id), replace=True)
        return Deduplication(_deduplication_id(id), _ttl_ms(ttl), extend=True, replace=True)

    @staticmethod
    def keep_last(id: str) -> Deduplication:
        """No second job until the first has ended; the last of those added while it runs is added then."""
        return Deduplication(_deduplication_id(id), keep_last_if_active=True)


def _deduplication_id(id: object) -> str:
    if not isinstance(id, str) or not id:
        raise ConfigError(f"a deduplication id is text that is not empty, not {id!r}")
    return id


def _ttl_ms(ttl: Duration) -> int:
    ttl_ms = to_ms(ttl, "the ttl of a deduplication")
    if ttl_ms < 1:
        raise ConfigError("the ttl of a deduplication must be more than 0 s: Deduplication.simple(…) needs none")
    return ttl_ms


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `max` jobs started per `per_ms`, over all workers of a queue."""

    max: int
    per_ms: int

    def __init__(self, max: int, *, per: Duration = 1) -> None:
        per_ms = to_ms(per, "the time of a rate limit")
        if isinstance(max, bool) or max < 1 or per_ms < 1:
            raise ConfigError(f"a rate limit wants at least 1 job per at least 1 ms, not {max!r} per {per!r} s")
        object.__setattr__(self, "max", max)
        object.__setattr__(self, "per_ms", per_ms)


@dataclass(frozen=True, slots=True)
class Confirm:
    """What must be so within `within_ms` before an add is acknowledged: so many `replicas` have it, or it is on disk (`aof`)."""

    replicas: int = 0
    aof: bool = False
    within_ms: int = SECOND_MS

    def or_stronger(self, other: Confirm | None) -> Confirm:
        """What both ask for."""
        if other is None:
            return self
        return Confirm(max(self.replicas, other.replicas), self.aof or other.aof, max(self.within_ms, other.within_ms))


class AnyJob(Protocol):
    """Whatever names a job: a `Job`, a `JobRef`, a record's `ref`."""

    @property
    def queue(self) -> str:
        """The name of its queue."""
        ...

    @property
    def id(self) -> str:
        """Its id."""
        ...


class JobOptions(TypedDict, total=False):
    """Everything `add` accepts besides a name and data. Durations are seconds or timedeltas."""

    job_id: str
    delay: Duration
    at: datetime
    priority: int
    lifo: bool
    attempts: int
    retries: int
    backoff: Backoff | Duration
    keep_completed: Keep | bool | int | timedelta
    keep_failed: Keep | bool | int | timedelta
    keep_result: Duration
    keep_logs: int
    size_limit: int
    wait_replicas: int
    wait_aof: bool
    wait_timeout: Duration
    deduplication: Deduplication | str
    parent: AnyJob
    parent_on_failure: ChildPolicy | str


@dataclass(frozen=True, slots=True)
class Options:
    """What a store keeps with a job. Jobs of one declaration share one of these."""

    delay_ms: int = 0
    priority: int = 0
    lifo: bool = False
    attempts: int = 1
    backoff: Backoff | None = None
    keep_completed: Keep | None = KEEP_COMPLETED  # None: the producer did not say, and the job stays
    keep_failed: Keep | None = KEEP_FAILED
    keep_result_ms: int = 10 * MINUTE_MS
    keep_logs: int = DEFAULT_KEEP_LOGS
    size_limit: int = DEFAULT_SIZE_LIMIT
    deduplication: Deduplication | None = None
    # Carried from the first day; later features give them meaning.
    group: str | None = None
    expires_at_ms: int | None = None
    deadline_at_ms: int | None = None
    timeout_ms: int | None = None
    trace: str | None = None
    origin: str | None = None
    codec: str | None = None


DEFAULT_OPTIONS: Final = Options()


_OTHER_NAMES = {"attempts": "retries", "retries": "attempts", "delay": "at", "at": "delay"}


def merged(defaults: JobOptions, given: JobOptions) -> JobOptions:
    """Options with what was given in place of the defaults, also where the same thing has another name."""
    overruled = {_OTHER_NAMES.get(name, "") for name in given} - given.keys()
    both = {**{name: value for name, value in defaults.items() if name not in overruled}, **given}
    return cast(JobOptions, both)


def check_priority(priority: int) -> int:
    """Return a priority that can be. Raises ConfigError for one that cannot."""
    return _integer({"priority": priority}, "priority", 0, 0, MAX_PRIORITY)


def resolve(given: JobOptions, now_ms: int) -> Options:
    """Turn what people wrote into what stores keep.

    Raises:
        ConfigError: an option is unknown, out of its range, or contradicts another; the message names it.
    """
    if not given:
        return DEFAULT_OPTIONS
    unknown = given.keys() - _KNOWN
    if unknown:
        raise ConfigError(_unknown(sorted(unknown)[0]))
    attempts = _attempts(given)
    return Options(
        delay_ms=_delay_ms(given, now_ms),
        priority=_integer(given, "priority", 0, 0, MAX_PRIORITY),
        lifo=bool(given.get("lifo", False)),
        attempts=attempts,
        backoff=_backoff(given.get("backoff"), attempts),
        keep_completed=Keep.of(given.get("keep_completed", KEEP_COMPLETED)),
        keep_failed=Keep.of(given.get("keep_failed", KEEP_FAILED)),
        keep_result_ms=to_ms(given.get("keep_result", 600), "keep_result"),
        keep_logs=_integer(given, "keep_logs", DEFAULT_KEEP_LOGS, 0, 1_000_000),
        size_limit=_integer(given, "size_limit", DEFAULT_SIZE_LIMIT, 1, 512 * 1024 * 1024),
        deduplication=_deduplication(given.get("deduplication")),
    )


def confirm_of(given: JobOptions) -> Confirm | None:
    """What an add is to wait for besides the store's own word; None for nothing.

    Raises:
        ConfigError: an option is out of its range.
    """
    replicas = _integer(given, "wait_replicas", 0, 0, 100)
    aof = given.get("wait_aof", False)
    if not isinstance(aof, bool):
        raise ConfigError(f"wait_aof is True or False, not {aof!r}")
    within_ms = to_ms(given.get("wait_timeout", 1), "wait_timeout")
    if within_ms < 1:
        raise ConfigError("wait_timeout must be more than 0 s: within it the replicas, or the disk, must have the job")
    return Confirm(replicas, aof, within_ms) if replicas or aof else None


_KNOWN = frozenset(JobOptions.__annotations__)
_RENAMED = {
    "repeat": "`repeat` on add was removed from BullMQ and would run once: use a schedule",
    "removeOnComplete": "it is called `keep_completed` here: True keeps all, False removes at once, a number keeps that many",
    "removeOnFail": "it is called `keep_failed` here: True keeps all, False removes at once, a number keeps that many",
    "jobId": "it is called `job_id` here",
    "failParentOnFailure": "it is called `parent_on_failure='fail'` here",
    "continueParentOnFailure": "it is called `parent_on_failure='continue'` here",
    "ignoreDependencyOnFailure": "it is called `parent_on_failure='ignore'` here",
    "removeDependencyOnFailure": "it is called `parent_on_failure='remove'` here",
    "timeout": "BullMQ has no job timeout, and Toril's comes with a later release",
}


def _unknown(name: str) -> str:
    hint = _RENAMED.get(name, f"known are {', '.join(sorted(_KNOWN))}")
    return f"unknown option {name!r}: {hint}"


def _integer(given: JobOptions, name: str, default: int, low: int, high: int) -> int:
    value: Any = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} must be a whole number between {low:,} and {high:,}, not {value!r}")
    return value


def _attempts(given: JobOptions) -> int:
    if "retries" not in given:
        return _integer(given, "attempts", 1, 1, 1_000_000)
    if "attempts" in given:
        raise ConfigError("give attempts (all tries) or retries (tries after the first), not both")
    return _integer(given, "retries", 0, 0, 999_999) + 1


def policy_of(given: JobOptions, default: ChildPolicy) -> ChildPolicy:
    """What becomes of the job's parent should the job fail.

    Raises:
        ConfigError: there is no such policy.
    """
    policy = given.get("parent_on_failure", default)
    try:
        return ChildPolicy(policy)
    except ValueError:
        known = ", ".join(repr(policy.value) for policy in ChildPolicy)
        raise ConfigError(f"parent_on_failure is one of {known}, not {policy!r}") from None


def _deduplication(given: Deduplication | str | None) -> Deduplication | None:
    if given is None or isinstance(given, Deduplication):
        return given
    return Deduplication.simple(given)


def _backoff(given: Backoff | Duration | None, attempts: int) -> Backoff | None:
    if given is None:
        return DEFAULT_BACKOFF if attempts > 1 else None
    return given if isinstance(given, Backoff) else Backoff.fixed(given)


def _delay_ms(given: JobOptions, now_ms: int) -> int:
    at = given.get("at")
    if at is None:
        return to_ms(given.get("delay", 0), "delay")
    if "delay" in given:
        raise ConfigError("give delay or at, not both")
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise ConfigError(f"at must be a datetime with a time zone, not {at!r}: use datetime.now(UTC) + …")
    return min(max(0, round(at.timestamp() * SECOND_MS) - now_ms), MAX_DELAY_MS)
