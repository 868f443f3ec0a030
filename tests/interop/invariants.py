"""The invariants of BullMQ's keyspace, checked on everything that Redis holds under a prefix at one moment.

A rule of kind H must always hold. One of kind Q holds where nobody is at work, nothing has crashed and none of the known
moves was made that break it; its docstring names them.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from interop.snapshot import (
    CHILD_KEYS,
    DEDUPLICATION_KEYS,
    FINISHED,
    JOB_KEYS,
    OURS,
    QUEUE_KEYS,
    Fields,
    Keyspace,
    Queue,
)

MAX_PRIORITY = 2_097_151
FLAGS = ("fpof", "cpof", "idof", "rdof")

_NUMBER = re.compile(r"\d+")


def violations(space: Keyspace, *, at_rest: bool = False) -> list[str]:
    """What breaks a rule, a sentence each: the H rules, and at rest the Q rules too."""
    return [
        f"{name}: {sentence}"
        for name, check in RULES.items()
        if at_rest or name.startswith("H")
        for queue in space.queues
        for sentence in check(queue, space)
    ]


Check = Callable[[Queue, Keyspace], Iterable[str]]

RULES: dict[str, Check] = {}
"""Every rule by its kind and number."""


def rule(name: str) -> Callable[[Check], Check]:
    def enter(check: Check) -> Check:
        RULES[name] = check
        return check

    return enter


# ------------------------------------------------------------------ names and places


@rule("H1")
def names_and_types(queue: Queue, _: Keyspace) -> Iterator[str]:
    """Every key is one of the queue's, of a job's, or ours, and has its type."""
    for name, entry in queue.keys.items():
        wanted = _type_of(queue, name)
        if wanted is None:
            yield f"{queue.base}{name} belongs to no job"
        elif entry.kind != wanted and not name.startswith(OURS):
            yield f"{queue.base}{name} is a {entry.kind}, not a {wanted}"


def _type_of(queue: Queue, name: str) -> str | None:
    if name in QUEUE_KEYS:
        return QUEUE_KEYS[name]
    for start, kind in DEDUPLICATION_KEYS.items():
        if name.startswith(start):
            return kind
    owner = queue.owner_of(name)
    if owner is None or name.startswith(OURS):
        return "hash"
    job_id, rest = owner
    return JOB_KEYS[rest] if job_id in queue.jobs or rest == "lock" else None  # a lock outlives a job's removal


@rule("H2")
def ids_have_jobs(queue: Queue, _: Keyspace) -> Iterator[str]:
    """Every id in a collection has its hash."""
    for job_id, places in queue.places.items():
        if job_id not in queue.jobs:
            yield f"{job_id} in {queue.base}{places[0]} has no hash"


@rule("H3")
def one_place_at_most(queue: Queue, _: Keyspace) -> Iterator[str]:
    """An id is in at most one collection, and once."""
    for job_id, places in queue.places.items():
        if len(places) > 1:
            yield f"{queue.base}{job_id} is in {' and '.join(places)}"


@rule("Q4")
def one_place_at_least(queue: Queue, _: Keyspace) -> Iterator[str]:
    """Every job is in a collection."""
    for job_id in queue.jobs.keys() - queue.places.keys() - set(queue.items("paused")):
        yield f"{queue.base}{job_id} is in no collection"


# ------------------------------------------------------------------ fields


@rule("H5")
def fields_of_jobs(queue: Queue, _: Keyspace) -> Iterator[str]:
    """A job has its six fields, and JSON is JSON of the right shape."""
    for job_id, job in queue.jobs.items():
        for name in ("name", "data", "opts", "timestamp", "delay", "priority"):
            if name not in job:
                yield f"{queue.base}{job_id} has no {name}"
        for name in ("data", "opts", "progress", "parent", "stacktrace"):
            if name in job and not _is_json(job[name]):
                yield f"{name} of {queue.base}{job_id} is not JSON: {job[name]!r}"
        for name in ("opts", "parent"):
            if not isinstance(_parsed(job.get(name), {}), dict):
                yield f"{name} of {queue.base}{job_id} is not an object: {job[name]}"
        stacks: list[Any] | None = _parsed(job.get("stacktrace"), [])
        if not isinstance(stacks, list) or not all(isinstance(stack, str) for stack in stacks):
            yield f"stacktrace of {queue.base}{job_id} is not an array of strings: {job['stacktrace']}"


@rule("H6")
def numbers_of_jobs(queue: Queue, _: Keyspace) -> Iterator[str]:
    """Moments and counters are whole numbers from 0, and a priority is one that can be."""
    for job_id, job in queue.jobs.items():
        for name in ("timestamp", "processedOn", "finishedOn", "ats", "atm", "stc", "priority"):
            if name in job and not _NUMBER.fullmatch(job[name]):
                yield f"{name} of {queue.base}{job_id} is not a whole number: {job[name]!r}"
        if _number(job, "priority") > MAX_PRIORITY:
            yield f"priority of {queue.base}{job_id} is {job['priority']}, above {MAX_PRIORITY}"


@rule("H7")
def finished_jobs(queue: Queue, _: Keyspace) -> Iterator[str]:
    """A finished job has ended at its score, with a result that is JSON or with a reason."""
    for state in FINISHED:
        for job_id, score in queue.scores(state):
            job = queue.jobs.get(job_id)
            if job is None:
                continue
            where = f"{queue.base}{job_id}, which has {state},"
            if _number(job, "finishedOn", -1) != score:
                yield f"{where} has the score {score:.0f} and finishedOn {job.get('finishedOn')}"
            if state == "completed" and not _is_json(job.get("returnvalue")):
                yield f"{where} has the returnvalue {job.get('returnvalue')!r}, which is not JSON"
            if state == "failed" and "failedReason" not in job:
                yield f"{where} has no failedReason"
            if state == "failed" and "defa" in job:
                yield f"{where} has a deferred failure still"


@rule("H8")
def unfinished_jobs(queue: Queue, _: Keyspace) -> Iterator[str]:
    """A job that has not finished has neither an end nor a result."""
    for job_id, job in queue.jobs.items():
        for name in ("finishedOn", "returnvalue"):
            if name in job and not set(queue.places.get(job_id, ())) & set(FINISHED):
                yield f"{queue.base}{job_id} has not finished and has {name}"


@rule("H9")
def priorities(queue: Queue, _: Keyspace) -> Iterator[str]:
    """The score of a prioritized job begins with its priority, which is at least 1."""
    for job_id, score in queue.scores("prioritized"):
        priority = _number(queue.jobs.get(job_id, {}), "priority")
        if job_id in queue.jobs and (priority < 1 or score // 2**32 != priority):
            yield f"{queue.base}{job_id} is prioritized at {score:.0f} with priority {priority:.0f}"


@rule("Q9")
def plain_jobs_have_no_priority(queue: Queue, _: Keyspace) -> Iterator[str]:
    """A job in `wait` has priority 0 or has stalled, unless it was moved with many others, or lost its last child."""
    for job_id, job in queue.jobs_in("wait"):
        if _number(job, "priority") and "stc" not in job:
            yield f"{queue.base}{job_id} is in wait with priority {job['priority']}"


@rule("H10")
def due_times(queue: Queue, _: Keyspace) -> Iterator[str]:
    """The score of a delayed job is a time."""
    for job_id, score in queue.scores("delayed"):
        if score < 0:
            yield f"{queue.base}{job_id} is delayed until {score}"


@rule("Q10")
def delays(queue: Queue, _: Keyspace) -> Iterator[str]:
    """Delayed jobs have a delay, and those that may run have none, unless promoted with many others or for want of children."""
    for job_id, job in queue.jobs_in("delayed"):
        if not float(job.get("delay", 0)):
            yield f"{queue.base}{job_id} is delayed by nothing"
    for job_id, job in queue.jobs_in("wait", "prioritized", "active"):
        if float(job.get("delay", 0)):
            yield f"{queue.base}{job_id} is {queue.places[job_id][0]} with a delay of {job['delay']}"


# ------------------------------------------------------------------ markers and locks


@rule("H11")
def marker_members(queue: Queue, _: Keyspace) -> Iterator[str]:
    """The marker has the member 0 at score 0, and 1."""
    for member, score in queue.scores("marker"):
        if member not in ("0", "1") or (member == "0" and score):
            yield f"{queue.base}marker has {member} at {score}"


@rule("Q11")
def marker_wakes(queue: Queue, _: Keyspace) -> Iterator[str]:
    """The marker tells of what may run and of the next delayed job, unless workers wait; a paused queue has no 0."""
    members = queue.members("marker")
    ready = queue.members("wait") or queue.members("prioritized")
    if queue.is_paused:
        if "0" in members:
            yield f"{queue.base} is paused and its marker has 0"
        return
    if ready and not queue.is_full and "0" not in members:
        yield f"{queue.base} has jobs to run and its marker has no 0"
    if queue.members("delayed") and "1" not in members:
        yield f"{queue.base} has delayed jobs and its marker has no 1"


@rule("H12")
def locks(queue: Queue, _: Keyspace) -> Iterator[str]:
    """A lock expires and names who holds it."""
    for name, entry in queue.keys.items():
        if queue.owner_of(name) and name.endswith(":lock"):
            if not entry.expires:
                yield f"{queue.base}{name} does not expire"
            if entry.value in ("", "0"):
                yield f"{queue.base}{name} has the token {entry.value!r}"


@rule("Q12")
def locked_means_active(queue: Queue, _: Keyspace) -> Iterator[str]:
    """A locked job is active, and an active one locked, unless its lock has just expired."""
    locked = {name.removesuffix(":lock") for name in queue.keys if name.endswith(":lock")}
    for job_id in locked ^ set(queue.items("active")):
        yield f"{queue.base}{job_id} is locked, or active, but not both"


@rule("Q13")
def attempts(queue: Queue, _: Keyspace) -> Iterator[str]:
    """Who runs or has finished was started; no more attempts were made than started."""
    for job_id, job in queue.jobs_in("active", *FINISHED):
        if _number(job, "ats") < 1 or "processedOn" not in job:
            yield f"{queue.base}{job_id} is {queue.places[job_id][0]} and was never started"
    for job_id, job in queue.jobs.items():
        if _number(job, "atm") > _number(job, "ats"):
            yield f"{queue.base}{job_id} has made {job['atm']} attempts of {_number(job, 'ats'):.0f} started"


# ------------------------------------------------------------------ parents and children


@rule("H14")
def pending_children(queue: Queue, space: Keyspace) -> Iterator[str]:
    """Who a job waits for is there and is its child, and a child is told of in one way."""
    for job_id in queue.jobs:
        key = queue.base + job_id
        for child in queue.items(f"{job_id}:dependencies"):
            if not child.startswith(f"{space.prefix}:"):
                continue  # it lives under a prefix that was not looked at
            job = space.job(child)
            if job is None:
                yield f"{key} waits for {child}, which is not there"
            elif job.get("parentKey") != key:
                yield f"{key} waits for {child}, whose parent is {job.get('parentKey')}"
        told = Counter(child for name in CHILD_KEYS for child in _children(queue, f"{job_id}:{name}"))
        for child, times in told.items():
            if times > 1:
                yield f"{key} tells of its child {child} in {times} ways"


def _children(queue: Queue, name: str) -> list[str]:
    return [*queue.members(name), *queue.fields(name)]


@rule("Q14")
def pending_children_are_unfinished(queue: Queue, space: Keyspace) -> Iterator[str]:
    """Nobody waits for a child that has completed."""
    for job_id in queue.jobs:
        for child in queue.items(f"{job_id}:dependencies"):
            home = space.queue_of(child)
            if home is not None and child.removeprefix(home.base) in home.members("completed"):
                yield f"{queue.base}{job_id} waits for {child}, which has completed"


@rule("Q15")
def parents(queue: Queue, _: Keyspace) -> Iterator[str]:
    """Who waits for children has some; who has completed waits for none, unless a child was retried or added after."""
    for job_id, _job in queue.jobs_in("waiting-children"):
        if not queue.items(f"{job_id}:dependencies"):
            yield f"{queue.base}{job_id} waits for children and has none"
    for job_id, _job in queue.jobs_in("completed"):
        for name in ("dependencies", "unsuccessful"):
            if queue.members(f"{job_id}:{name}"):
                yield f"{queue.base}{job_id} has completed with children in {name}"


@rule("H16")
def parent_fields(queue: Queue, _: Keyspace) -> Iterator[str]:
    """The two ways in which a child names its parent agree, with at most one policy."""
    for job_id, job in queue.jobs.items():
        parent = _parsed(job.get("parent"), {})
        parent = cast("dict[str, Any]", parent if isinstance(parent, dict) else {})
        named = f"{parent.get('queueKey')}:{parent.get('id')}" if parent else None
        if named != job.get("parentKey"):
            yield f"{queue.base}{job_id} has parent {named} and parentKey {job.get('parentKey')}"
        flags = [flag for flag in FLAGS if parent.get(flag)]
        if len(flags) > 1:
            yield f"{queue.base}{job_id} has the policies {' and '.join(flags)}"


@rule("Q17")
def results_of_children(queue: Queue, _: Keyspace) -> Iterator[str]:
    """The results of children are JSON."""
    for job_id in queue.jobs:
        for child, result in queue.fields(f"{job_id}:processed").items():
            if not _is_json(result):
                yield f"{queue.base}{job_id} has the result {result!r} of {child}, which is not JSON"


# ------------------------------------------------------------------ deduplication and schedulers


@rule("H18")
def deduplication_keys(queue: Queue, _: Keyspace) -> Iterator[str]:
    """A deduplication key that does not expire has its owner; what is kept for later waits for an active one."""
    for name, entry in queue.matching("de:"):
        if not entry.expires and queue.jobs.get(str(entry.value), {}).get("deid") != name:
            yield f"{queue.base}de:{name} is owned by {entry.value}, which is gone or another's"
    for name, entry in queue.matching("dn:"):
        owner = queue.keys.get(f"de:{name}")
        if owner is None or owner.expires or owner.value not in queue.items("active"):
            yield f"{queue.base}dn:{name} waits for nobody who is active"
        for field in ("name", "data", "opts"):
            if field not in entry.value:
                yield f"{queue.base}dn:{name} has no {field}"


@rule("Q19")
def schedulers(queue: Queue, _: Keyspace) -> Iterator[str]:
    """A scheduler has its record and one pending iteration, unless its chain has ended or that was upserted while paused."""
    for scheduler, score in queue.scores("repeat"):
        record = queue.fields(f"repeat:{scheduler}")
        where = f"the scheduler {queue.base}{scheduler}"
        paused = '"paused":true' in record.get("py:schedule", "")
        if _number(record, "ic") < (0 if paused else 1) or "name" not in record:
            yield f"{where} has no name or no count"
        if ("every" in record) == ("pattern" in record):
            yield f"{where} has not one of every and pattern"
        if f"repeat:{scheduler}:{score:.0f}" not in queue.jobs and not paused:
            yield f"{where} has no iteration at {score:.0f}"
        pending = [
            job_id for job_id, job in queue.jobs_in("delayed", "wait", "prioritized") if job.get("rjk") == scheduler
        ]
        if len(pending) > 1:
            yield f"{where} has the pending iterations {' and '.join(pending)}"


# ------------------------------------------------------------------ the queue's own


@rule("H20")
def counters(queue: Queue, _: Keyspace) -> Iterator[str]:
    """The counter of ids has reached every id that it has given, and that of priorities is a number."""
    largest = max((int(job_id) for job_id in queue.jobs if _NUMBER.fullmatch(job_id)), default=0)
    given = queue.text("id") or "0"
    if not _NUMBER.fullmatch(given) or int(given) < largest:
        yield f"{queue.base}id is {given}, and there is a job {largest}"
    turn = queue.text("pc")
    if turn is not None and not _NUMBER.fullmatch(turn):
        yield f"{queue.base}pc is {turn}"


@rule("H21")
def expiring_keys(queue: Queue, _: Keyspace) -> Iterator[str]:
    """A limit and a check of stalled jobs end by themselves."""
    for name in ("limiter", "stalled-check"):
        if name in queue.keys and not queue.keys[name].expires:
            yield f"{queue.base}{name} does not expire"


@rule("H22")
def settings(queue: Queue, _: Keyspace) -> Iterator[str]:
    """The limit of events is a number, and a paused queue says 1."""
    meta = queue.fields("meta")
    if not _NUMBER.fullmatch(meta.get("opts.maxLenEvents", "0")):
        yield f"{queue.base}meta has opts.maxLenEvents {meta['opts.maxLenEvents']!r}"
    if meta.get("paused", "1") != "1":
        yield f"{queue.base}meta has paused {meta['paused']!r}"


@rule("H23")
def metrics(queue: Queue, _: Keyspace) -> Iterator[str]:
    """Counts of finished jobs do not fall, and are whole."""
    for state in FINISHED:
        counts = queue.fields(f"metrics:{state}")
        if not _number(counts, "count") >= _number(counts, "prevCount") >= 0:
            yield f"{queue.base}metrics:{state} counts {counts}"
        for point in queue.items(f"metrics:{state}:data"):
            if not _NUMBER.fullmatch(point):
                yield f"{queue.base}metrics:{state}:data has {point!r}"


@rule("H24")
def events(queue: Queue, _: Keyspace) -> Iterator[str]:
    """An event names itself first, and what readers parse is JSON."""
    stream = queue.keys.get("events")
    for fields in stream.value if stream is not None and stream.kind == "stream" else ():
        told = dict(fields)
        if not fields or fields[0][0] != "event":
            yield f"{queue.base}events has an event that does not begin with its name: {told}"
        for name, field in (("completed", "returnvalue"), ("progress", "data")):
            if told.get("event") == name and not _is_json(told.get(field)):
                yield f"{queue.base}events has a {name} event without JSON in {field}: {told}"


@rule("Q25")
def no_old_pause(queue: Queue, _: Keyspace) -> Iterator[str]:
    """Only old versions keep a list of paused jobs."""
    if "paused" in queue.keys:
        yield f"{queue.base}paused is there, which only BullMQ before 6 writes"


# ------------------------------------------------------------------ texts


def _parsed(text: str | None, default: Any) -> Any:
    """The value of JSON that JavaScript reads too; the default for none and for what is not JSON."""
    try:
        return default if text is None else json.loads(text, parse_constant=_refuse)
    except ValueError:
        return default


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _is_json(text: str | None) -> bool:
    nothing = object()
    return _parsed(text, nothing) is not nothing


def _number(fields: Fields, name: str, default: float = 0) -> float:
    try:
        return float(fields.get(name, default))
    except ValueError:
        return math.nan
