"""Spellings of schedules: the hash `repeat:<id>`, and the `opts` of the runs that it makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from toril.model import NewJob, Schedule, ScheduleRecord, Superseded, iteration_id
from toril.stores.redis.keys import STATES, Keys
from toril.stores.redis.wire.options import options_text, read_options
from toril.stores.redis.wire.texts import as_list, as_object, encode, fields_of, moment, number, parsed, whole
from toril.timing import Missed, Overlap, Timing, policy_named


class ScheduleHandle(NamedTuple):
    """What must be known of a schedule when it is changed, as it is written: its time, what is ours, its run's `opts`."""

    score: str
    extras: str
    opts: str


class FieldRow(NamedTuple):
    """A field of the hash."""

    name: str
    text: str


class Run(NamedTuple):
    """A run on its way. What its job has besides is in the schedule's record."""

    opts: str
    priority: int
    lifo: int
    deid: str


NO_RUN = Run("", 0, 0, "")


# ------------------------------------------------------------------ writing


def record_fields(schedule: Schedule, running: str | None, count: int | None, at_ms: int, keys: Keys) -> list[FieldRow]:
    """All of the hash but the count of runs. `count` is told where there is no run that tells it."""
    timing = schedule.timing
    offset_ms = timing.offset_ms
    if offset_ms is None:
        offset_ms = at_ms % timing.every_ms if timing.every_ms else 0
    extras = _extras(schedule, running, count)
    texts = {
        "name": schedule.name,
        "every": _said(timing.every_ms),
        "pattern": timing.pattern or "",
        "tz": timing.tz or "",
        "limit": _said(timing.limit),
        "startDate": _said(timing.start_at_ms),
        "endDate": _said(timing.end_at_ms),
        "offset": str(offset_ms),
        "data": "" if schedule.data == "{}" else schedule.data,
        "opts": template_text(schedule, keys),
        "py:schedule": encode(extras) if extras else "",
    }
    return [FieldRow(name, text) for name, text in texts.items() if text or name == "name"]


def template_text(schedule: Schedule, keys: Keys) -> str:
    """The `opts` that all runs of a schedule have."""
    return options_text(NewJob(schedule.queue, schedule.name, "", schedule.data, schedule.options, 0), keys)


def _said(value: int | None) -> str:
    return "" if value is None else str(value)


def _extras(schedule: Schedule, running: str | None, count: int | None) -> dict[str, Any]:
    """What Node does not know of a schedule, as far as it is not as everywhere."""
    told: dict[str, Any] = {
        "missed": None if schedule.timing.missed is Missed.ONCE else schedule.timing.missed.value,
        "overlap": None if schedule.timing.overlap is Overlap.ALLOW else schedule.timing.overlap.value,
        "declared": schedule.declared,
        "paused": schedule.paused or None,
        "superseded": [[old.fingerprint, old.at_ms] for old in schedule.superseded] or None,
        "running": running,
        "count": count,
    }
    return {name: value for name, value in told.items() if value is not None}


def with_running(extras: str, running: str | None) -> str:
    """What is ours, once another run was let run; None: as it was."""
    return extras if running is None else encode({**as_object(parsed(extras)), "running": running})


def first_run(schedule: Schedule, at_ms: int, count: int, now_ms: int, keys: Keys) -> Run:
    """The run that a schedule has when it is put."""
    return _run(template_text(schedule, keys), schedule, at_ms, count, now_ms)


def next_run(seen: ScheduleRecord, at_ms: int, now_ms: int, keys: Keys) -> Run:
    """The run after the one that was seen, with its options; or that very one again."""
    count = seen.count + (at_ms != seen.next_at_ms)
    opts = handle_of(seen).opts or template_text(seen.schedule, keys)
    return _run(opts, seen.schedule, at_ms, count, now_ms)


def handle_of(seen: ScheduleRecord) -> ScheduleHandle:
    assert isinstance(seen.handle, ScheduleHandle), "a record comes from the store that takes it"
    return seen.handle


def _run(opts: str, schedule: Schedule, at_ms: int, count: int, now_ms: int) -> Run:
    stored = as_object(parsed(opts))
    stored |= {
        "repeat": {**(as_object(stored.get("repeat")) or _repeat(schedule.timing)), "count": count},
        "repeatJobKey": schedule.id,
        "jobId": iteration_id(schedule.id, at_ms),
        "timestamp": now_ms,
        "delay": max(0, at_ms - now_ms),
    }
    if schedule.timing.pattern is not None:
        stored["prevMillis"] = at_ms
    options = read_options(opts).options
    deduplication_id = "" if options.deduplication is None else options.deduplication.id
    return Run(encode(stored), options.priority, int(options.lifo), deduplication_id)


def _repeat(timing: Timing) -> dict[str, Any]:
    """What a run says of its schedule, so that Node can tell when the next one is."""
    told = {
        "every": timing.every_ms,
        "pattern": timing.pattern,
        "tz": timing.tz,
        "limit": timing.limit,
        "startDate": timing.start_at_ms,
        "endDate": timing.end_at_ms,
        "offset": timing.offset_ms,
    }
    return {name: value for name, value in told.items() if value is not None}


# ------------------------------------------------------------------ reading


def read_schedule(queue: str, id: str, answer: Sequence[Any]) -> ScheduleRecord | None:
    """What schedules.lua answers of one schedule."""
    if not answer:
        return None
    score, flat, collection, opts = answer
    fields = fields_of(flat)
    extras = as_object(parsed(fields.get("py:schedule")))
    iterations = number(fields, "ic")
    repeat = as_object(as_object(parsed(opts)).get("repeat"))
    return ScheduleRecord(
        schedule=Schedule(
            queue=queue,
            id=id,
            timing=_read_timing(fields, extras),
            name=fields.get("name", ""),
            data=fields.get("data", "{}"),
            options=read_options(fields.get("opts", "{}")).options,
            declared=extras.get("declared"),
            paused=bool(extras.get("paused")),
            superseded=tuple(_read_superseded(extras.get("superseded"))),
        ),
        next_at_ms=int(float(score)),
        iterations=iterations,
        count=whole(str(extras.get("count", repeat.get("count", iterations)))),  # ours is there without a run to come
        state=STATES.get(collection),
        running=extras.get("running"),
        handle=ScheduleHandle(score, fields.get("py:schedule", ""), opts),
    )


def _read_superseded(entries: Any) -> Iterator[Superseded]:
    for entry in as_list(entries):
        match as_list(entry):
            case [str(mark), int(at_ms)]:
                yield Superseded(mark, at_ms)
            case _:  # of a later Toril, or damaged
                pass


def _read_timing(fields: Mapping[str, str], extras: Mapping[str, Any]) -> Timing:
    every_ms = moment(fields, "every")
    return Timing(
        pattern=fields.get("pattern"),
        tz=fields.get("tz"),
        every_ms=every_ms,
        offset_ms=None if every_ms is None else moment(fields, "offset"),
        limit=moment(fields, "limit"),
        start_at_ms=moment(fields, "startDate"),
        end_at_ms=moment(fields, "endDate"),
        missed=policy_named(Missed, extras.get("missed"), Missed.ONCE),
        overlap=policy_named(Overlap, extras.get("overlap"), Overlap.ALLOW),
    )
