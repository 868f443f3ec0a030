"""Job ids: drawn in the client, ordered by time, so that repeating a lost add makes no second job."""

from __future__ import annotations

import functools
import os
import random
import re
import threading
import time
from collections.abc import Callable

from toril.errors import InvalidJob
from toril.posix import after_fork_in_child

IdSource = Callable[[], str]
"""Draws the next id. Tests pass a counting one."""

MAX_ID_BYTES = 512

RESERVED = frozenset(
    {"wait", "paused", "active", "prioritized", "pc", "delayed", "waiting-children", "completed", "failed", "marker"}
    | {"stalled", "stalled-check", "limiter", "events", "meta", "id", "de", "dn", "repeat", "metrics", "delay"}
    | {"priority", "added", "py", "lock", "logs", "dependencies", "processed", "unsuccessful"}
)
"""Names that BullMQ's keys use beside job ids; a job with such an id would overwrite its queue."""

_RUN = re.compile(r":\d+$")
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class TimeOrderedIds:
    """Draws UUIDs of version 7 (RFC 9562): those of one source rise strictly, those of several by the millisecond."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ms = 0
        self._counter = 0
        self._bits = random.Random(os.urandom(16)).getrandbits
        after_fork_in_child(self._begin_anew)

    def _begin_anew(self) -> None:
        """A forked child must not draw what its parent draws."""
        self._lock = threading.Lock()
        self._bits = random.Random(os.urandom(16)).getrandbits

    def __call__(self) -> str:
        with self._lock:
            ms = time.time_ns() // 1_000_000
            if ms > self._ms:
                self._ms, self._counter = ms, self._bits(8)
            else:
                self._counter += 1
                if self._counter > 0xFFF:
                    self._ms, self._counter = self._ms + 1, 0
            ms, counter, tail = self._ms, self._counter, self._bits(62)
        digits = "%032x" % (ms << 80 | (0x7000 | counter) << 64 | 1 << 63 | tail)
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


draw_id: IdSource = TimeOrderedIds()


def check_job_id(job_id: str) -> str:
    """Return `job_id` if a caller may choose it.

    Raises:
        InvalidJob: it is empty, too long, all digits, contains `:` or a control character, or is a name that
            BullMQ's own keys use. Digits and colons are BullMQ's rule; three colon-separated parts, which it lets
            through for historic reasons, are refused too, since flows cannot hold them.
    """
    _check_text("job id", job_id, empty="leave `job_id` out to have one drawn", long="use a digest of it")
    if _INTEGER.fullmatch(job_id):
        raise InvalidJob(
            f"the job id {job_id!r} is all digits, which BullMQ keeps for its own: put a word before it, as in 'order-{job_id}'"
        )
    if ":" in job_id:
        raise InvalidJob(
            f"the job id {job_id!r} contains ':', which separates keys in Redis: use '-', as in {job_id.replace(':', '-')!r}"
        )
    if _is_unprintable(job_id):
        raise InvalidJob(f"the job id {job_id!r} contains a control character or half a surrogate pair: remove it")
    if job_id in RESERVED:
        raise InvalidJob(
            f"the job id {job_id!r} is the name of one of the queue's own keys: put a word before it, as in 'job-{job_id}'"
        )
    return job_id


def check_schedule_id(id: str) -> str:
    """Return `id` if a schedule may be called so. BullMQ lets it hold colons.

    Raises:
        InvalidJob: it is empty, too long, contains a control character, or ends as the id of a run of another schedule does.
    """
    _check_text("schedule id", id, empty="give it one, as in 'daily-report'", long="shorten it")
    if _is_unprintable(id):
        raise InvalidJob(f"the schedule id {id!r} contains a control character or half a surrogate pair: remove it")
    if _RUN.search(id):
        raise InvalidJob(
            f"the schedule id {id!r} ends in ':' and digits, as the id of a schedule's run: put a word behind it"
        )
    return id


def check_job_name(name: str) -> str:
    """Return `name` if jobs may be called so.

    Raises:
        InvalidJob: it is empty, too long, or contains a control character.
    """
    if not isinstance(name, str):
        raise InvalidJob(f"a job's name is text, not {name!r}")
    return _sound_name(name)


@functools.lru_cache(maxsize=1024)  # few names, many jobs
def _sound_name(name: str) -> str:
    _check_text("job's name", name, empty="it says which handler works on it", long="shorten it")
    if _is_unprintable(name):
        raise InvalidJob(f"the job's name {name!r} contains a control character or half a surrogate pair: remove it")
    return name


def check_queue_name(name: str) -> str:
    """Return `name` if a queue may be called so.

    Raises:
        InvalidJob: it is empty, too long, contains `:` (BullMQ's rule), braces, a glob or a control character.
    """
    _check_text("queue name", name, empty="give it one", long="shorten it")
    if _is_unprintable(name) or any(c in name for c in ":{}*?[]/\\"):
        raise InvalidJob(
            f"the queue name {name!r} contains one of : {{ }} * ? [ ] / \\ or a control character: use letters, digits, '-', '_' and '.'"
        )
    return name


def _check_text(what: str, text: str, *, empty: str, long: str) -> None:
    if not isinstance(text, str):
        raise InvalidJob(f"a {what} is text, not {text!r}")
    if not text:
        raise InvalidJob(f"the {what} is empty: {empty}")
    if len(text.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise InvalidJob(f"the {what} {text[:40]!r}… is longer than {MAX_ID_BYTES} bytes: {long}")


def _is_unprintable(text: str) -> bool:
    """Whether text has a control character or half a surrogate pair in it."""
    return _CONTROL.search(text) is not None
