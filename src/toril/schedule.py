"""Schedules: a job again and again, by a cron pattern or an interval.

Times are decided here, by plain functions; a store only compares and writes. Whoever takes a schedule's run off its queue
makes the next one before it begins (`turn_of`, `advance`), so every worker advances schedules and none is special. The rules are
BullMQ's, so that Node's workers may advance them too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, TypeVar

from toril.crontab import check_tz, parse
from toril.errors import ConfigError, ScheduleNotFound
from toril.ids import draw_id
from toril.job import Job, jobs_of
from toril.model import (
    Claim,
    Completed,
    Delayed,
    JobRef,
    NewJob,
    Outcome,
    Placed,
    Schedule,
    ScheduleRecord,
    Superseded,
    Unit,
)
from toril.options import HOUR_MS, SECOND_MS, Duration, to_ms
from toril.states import FINISHED
from toril.store import Store
from toril.timing import MISSED_AFTER_MS, Missed, Overlap, Timing
from toril.wirejson import encode

C = TypeVar("C", bound=StrEnum)

LOOK_AGAIN_MS: Final = 1_000
LOOK_LATEST_MS: Final = 15_000
"""How soon a run that waits for the one before it looks whether that has ended; less and less often."""

MAX_TAKEN: Final = 1_000
SUPERSEDED_KEPT: Final = 5


# -------------------------------------------------------------------- what people write


def cron(
    pattern: str,
    *,
    tz: str = "UTC",
    limit: int | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    immediately: bool = False,
    missed: Missed | str = Missed.ONCE,
    overlap: Overlap | str = Overlap.ALLOW,
) -> Timing:
    """At the times of a cron pattern of five fields, or of six, of which the first is seconds; in a time zone.

    `limit`: so many runs in all. `start`, `end`: none before, none after. `immediately`: the first run is now. `missed`:
    of runs whose time passed while no worker was there, run "once", "skip", or "all". `overlap`: while the run before has
    not ended, "allow" the next, "skip" it, or "queue" it until then.

    Raises:
        ConfigError: the pattern, the zone or another value cannot be; the message names it.
    """
    parse(pattern)
    if immediately and start is not None:
        raise ConfigError("give immediately or start, not both: the first run is now, or not before then")
    return Timing(
        pattern=pattern,
        tz=check_tz(tz),
        limit=_limit(limit),
        start_at_ms=_moment("start", start),
        end_at_ms=_moment("end", end),
        immediately=immediately,
        missed=_choice("missed", Missed, missed),
        overlap=_choice("overlap", Overlap, overlap),
    )


def every(
    interval: Duration,
    *,
    offset: Duration | None = None,
    limit: int | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    missed: Missed | str = Missed.ONCE,
    overlap: Overlap | str = Overlap.ALLOW,
) -> Timing:
    """At an interval, in seconds or as a timedelta: first now, or at `start`.

    With `offset`, at that distance from each multiple of the interval since 1970, in UTC: `every(3600, offset=300)` is five past
    each hour. The other options are those of `cron`.

    Raises:
        ConfigError: a value cannot be; the message names it.
    """
    every_ms = to_ms(interval, "the interval of a schedule")
    if every_ms < 1:
        raise ConfigError(f"the interval of a schedule must be at least 0.001 s, not {interval!r}")
    offset_ms = None if offset is None else to_ms(offset, "offset")
    if offset_ms is not None and start is not None:
        raise ConfigError("give offset or start, not both: either says when the times of an interval begin")
    if offset_ms is not None and offset_ms >= every_ms:
        raise ConfigError(f"offset must be less than the interval of {every_ms / SECOND_MS:g} s, not {offset!r}")
    return Timing(
        every_ms=every_ms,
        offset_ms=offset_ms,
        limit=_limit(limit),
        start_at_ms=_moment("start", start),
        end_at_ms=_moment("end", end),
        missed=_choice("missed", Missed, missed),
        overlap=_choice("overlap", Overlap, overlap),
    )


def _limit(limit: int | None) -> int | None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ConfigError(f"limit must be a whole number from 1, not {limit!r}")
    return limit


def _moment(what: str, moment: datetime | None) -> int | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ConfigError(f"{what} must be a datetime with a time zone, not {moment!r}: use datetime.now(UTC) + …")
    return round(moment.timestamp() * SECOND_MS)


def _choice(what: str, choices: type[C], given: str) -> C:
    try:
        return choices(given)
    except ValueError:
        known = ", ".join(repr(choice.value) for choice in choices)
        raise ConfigError(f"{what} is one of {known}, not {given!r}") from None


# -------------------------------------------------------------------- when


def first_ms(timing: Timing, now_ms: int, seed: str = "") -> int | None:
    """The time of a schedule's first run, in ms; None when there is none before its end. `seed` is its id, for `H` in patterns.

    Raises:
        ConfigError: its pattern, zone or interval cannot be, since somebody else has put it.
    """
    if timing.pattern is not None:
        if timing.immediately:
            return _before_end(timing, now_ms)
        return _before_end(timing, _match_ms(timing, max(now_ms, timing.start_at_ms or 0), seed))
    every_ms = _every_ms(timing)
    if timing.start_at_ms is not None:
        return _before_end(timing, max(timing.start_at_ms, now_ms))
    if not timing.offset_ms:
        return _before_end(timing, now_ms)
    first = _grid_ms(timing, now_ms)
    return _before_end(timing, first if first > now_ms else first + every_ms)


def next_ms(timing: Timing, last_ms: int, now_ms: int, seed: str = "") -> int | None:
    """The time of the run after the one at `last_ms`; None when there is none before the schedule's end.

    Times that have passed are left out, unless `missed` is "all". Raises as `first_ms`.
    """
    after_ms = last_ms if timing.missed is Missed.ALL else max(now_ms, last_ms)
    if timing.pattern is not None:
        return _before_end(timing, _match_ms(timing, after_ms, seed))
    every_ms = _every_ms(timing)
    following = last_ms + every_ms
    if following < after_ms:
        following = _grid_ms(timing, now_ms)
        if following <= now_ms:
            following += every_ms
    return _before_end(timing, following)


def preview(timing: Timing, count: int, now_ms: int, seed: str = "") -> list[datetime]:
    """The first so many times of a schedule that is put now, in its zone; fewer where it ends."""
    times: list[int] = []
    at_ms = first_ms(timing, now_ms, seed)
    while at_ms is not None and len(times) < min(count, timing.limit or count):
        times.append(at_ms)
        at_ms = next_ms(timing, at_ms, at_ms, seed)
    return [local(timing, at_ms) for at_ms in times]


def local(timing: Timing, at_ms: int) -> datetime:
    """A moment in the time zone of a schedule."""
    from zoneinfo import ZoneInfo

    zone = UTC if timing.tz in (None, "UTC") else ZoneInfo(timing.tz or "UTC")
    return datetime.fromtimestamp(at_ms / SECOND_MS, zone)


def _match_ms(timing: Timing, after_ms: int, seed: str) -> int | None:
    assert timing.pattern is not None
    return parse(timing.pattern, seed=seed).next_ms(after_ms, timing.tz or "UTC")


def _grid_ms(timing: Timing, now_ms: int) -> int:
    """The point of an interval's grid in the piece of it that is now."""
    every_ms = _every_ms(timing)
    return now_ms // every_ms * every_ms + (timing.offset_ms or 0) % every_ms


def _every_ms(timing: Timing) -> int:
    if not timing.every_ms:
        raise ConfigError("it has neither a pattern nor an interval")
    return timing.every_ms


def _before_end(timing: Timing, at_ms: int | None) -> int | None:
    if at_ms is None or (timing.end_at_ms is not None and at_ms > timing.end_at_ms):
        return None
    return at_ms


def _next_of(record: ScheduleRecord, now_ms: int) -> int | None:
    """The time of the run after the one to come; None when that is the last."""
    timing = record.schedule.timing
    if timing.limit is not None and record.count >= timing.limit:
        return None
    return next_ms(timing, record.next_at_ms, now_ms, record.schedule.id)


# -------------------------------------------------------------------- putting


async def look(store: Store, queue: str, schedule_id: str) -> ScheduleRecord | None:
    """What a store knows of a schedule; None when there is none."""
    found = await store.schedules(queue, schedule_id)
    return found[0] if found else None


async def put(store: Store, schedule: Schedule) -> None:
    """Set what a schedule is, as it was or anew; its run to come is made, or takes the place of the one that is pending.

    What operators have paused stays paused.

    Raises:
        ConfigError: it has no run to come: its end has passed, or its pattern matches no day.
    """

    def wanted(seen: ScheduleRecord | None) -> Schedule:
        return replace(schedule, paused=seen is not None and seen.schedule.paused)

    await change(store, schedule.queue, schedule.id, wanted)


async def change(
    store: Store, queue: str, schedule_id: str, wanted: Callable[[ScheduleRecord | None], Schedule | None]
) -> None:
    """Put what `wanted` makes of what is known of a schedule, looking again for as long as others change it meanwhile.

    Raises:
        ConfigError: it has no run to come.
    """
    while True:
        seen = await look(store, queue, schedule_id)
        schedule = wanted(seen)
        if schedule is None or await _placed(store, schedule, seen):
            return


async def _placed(store: Store, schedule: Schedule, seen: ScheduleRecord | None) -> bool:
    """Put a schedule over what was seen; False when that is not so any more."""
    count = 1 if seen is None or not seen.schedule.paused else seen.count + 1
    if schedule.paused:
        if seen is not None and seen.state is not None and not seen.pending and await advance(store, seen):
            return False  # one of Node's workers that has the run would make the next all the same: now it can be taken away
        count = 0 if seen is None else seen.count - seen.pending
        return await store.put_schedule(schedule, seen, None, count=count) is Placed.DONE
    if schedule.timing.limit is not None and count > schedule.timing.limit:
        raise ConfigError(
            f"the schedule {schedule.id!r} has no run to come: it has made all {schedule.timing.limit:,} runs; put it with a higher limit, or remove it"
        )
    at_ms = _put_at_ms(schedule, seen, store.clock.now_ms())
    for _ in range(MAX_TAKEN):
        if at_ms is None:
            raise ConfigError(
                f"the schedule {schedule.id!r} has no run to come: its end has passed, or no day matches its pattern"
            )
        timed = replace(schedule, timing=_with_offset(schedule.timing, seen, at_ms))
        placed = await store.put_schedule(timed, seen, at_ms, count=count)
        if placed is not Placed.TAKEN:
            return placed is Placed.DONE
        at_ms = next_ms(schedule.timing, at_ms, at_ms, schedule.id)
    raise ConfigError(
        f"there are jobs already at the next {MAX_TAKEN:,} times of the schedule {schedule.id!r}: remove them"
    )


def _put_at_ms(schedule: Schedule, seen: ScheduleRecord | None, now_ms: int) -> int | None:
    """When the run to come is to be. Times that stay the same keep their beat, whatever else is changed: a run that is to
    come, or late, is not lost by it."""
    timing = schedule.timing
    if seen is None or not _same_beat(seen.schedule.timing, timing):
        return first_ms(timing, now_ms, schedule.id)
    if seen.schedule.paused and timing.pattern is not None:  # it may have been put with other times meanwhile
        return first_ms(replace(timing, immediately=False), now_ms, schedule.id)
    if seen.schedule.paused and seen.next_at_ms > now_ms + _every_ms(timing):
        return first_ms(timing, now_ms, schedule.id)
    if seen.pending or seen.next_at_ms > now_ms:
        return _before_end(timing, seen.next_at_ms)
    offset_ms = seen.schedule.timing.offset_ms if timing.offset_ms is None else timing.offset_ms
    return next_ms(replace(timing, offset_ms=offset_ms, missed=Missed.ONCE), seen.next_at_ms, now_ms, schedule.id)


def _same_beat(before: Timing, timing: Timing) -> bool:
    if timing.every_ms is not None:
        return (
            before.every_ms == timing.every_ms
            and timing.offset_ms in (None, before.offset_ms)
            and timing.start_at_ms in (None, before.start_at_ms)
        )
    zones = {before.tz or "UTC", timing.tz or "UTC"}
    return len(zones) == 1 and (before.pattern, before.start_at_ms) == (timing.pattern, timing.start_at_ms)


def _with_offset(timing: Timing, seen: ScheduleRecord | None, at_ms: int) -> Timing:
    """An interval together with where its beat is."""
    if timing.every_ms is None:
        return timing
    if seen is not None and seen.pending:
        kept = seen.schedule.timing.offset_ms if timing.offset_ms is None else timing.offset_ms
        return replace(timing, offset_ms=kept)
    return replace(timing, offset_ms=timing.offset_ms or at_ms % timing.every_ms)


# -------------------------------------------------------------------- what code declares


class Declared(StrEnum):
    """What became of a schedule that code declares."""

    PUT = "put"
    SAME = "same"
    OLDER = "older"  # another version of the code has lately put a newer one


def fingerprint(schedule: Schedule) -> str:
    """Tells one declaration of a schedule from another."""
    said = repr((schedule.timing, schedule.name, schedule.data, schedule.options))
    return hashlib.sha256(said.encode()).hexdigest()[:16]


async def declare(store: Store, schedule: Schedule, *, guarded: bool = True) -> Declared:
    """Put a schedule that code owns, unless it is there. What operators have paused stays paused.

    `guarded`: a definition that another has taken the place of within the last hour is not put again: while a new version
    is rolled out, workers of the old one may start too.

    Raises:
        ConfigError: it has no run to come.
    """
    mark, answer = fingerprint(schedule), Declared.PUT

    def wanted(seen: ScheduleRecord | None) -> Schedule | None:
        nonlocal answer
        if seen is None:
            return replace(schedule, declared=mark)
        if seen.schedule.declared == mark:
            answer = Declared.SAME
            return None
        lately_ms = store.clock.now_ms() - HOUR_MS
        before = seen.schedule.superseded
        if guarded and any(old.fingerprint == mark and old.at_ms > lately_ms for old in before):
            answer = Declared.OLDER
            return None
        if seen.schedule.declared is not None:
            before = (*before, Superseded(seen.schedule.declared, store.clock.now_ms()))[-SUPERSEDED_KEPT:]
        return replace(schedule, declared=mark, paused=seen.schedule.paused, superseded=before)

    await change(store, schedule.queue, schedule.id, wanted)
    return answer


# -------------------------------------------------------------------- running


@dataclass(frozen=True, slots=True)
class Turn:
    """What is to become of a run that its schedule waits for. `outcome`: what it ends with, not being run.

    `running`: the id of the run that is let run, where the one after it asks for that.
    """

    record: ScheduleRecord
    outcome: Outcome | None = None
    running: str | None = None

    @property
    def waits(self) -> bool:
        """Whether its turn has not come, since the run before it has not ended."""
        return isinstance(self.outcome, Delayed)


async def turn_of(store: Store, claim: Claim) -> Turn | None:
    """Say what is to become of a run; None for one that just runs.

    That is one that its schedule no longer waits for, since it is tried again or the schedule was put anew.
    """
    assert claim.schedule is not None
    now_ms = store.clock.now_ms()
    record = await look(store, claim.ref.queue, claim.schedule)
    if record is None or record.schedule.paused or record.iteration != claim.ref:
        return None
    timing = record.schedule.timing
    if timing.missed is Missed.SKIP and claim.started == 1 and now_ms - record.next_at_ms > MISSED_AFTER_MS:
        return Turn(record, _skipped("missed"))
    if timing.overlap is Overlap.ALLOW:
        return Turn(record)
    if not await _goes_on(store, claim.ref.queue, record.running):
        return Turn(record, running=claim.ref.id)
    if timing.overlap is Overlap.QUEUE:
        return Turn(record, Delayed(now_ms + _patience_ms(now_ms - record.next_at_ms)))
    return Turn(record, _skipped("overlap"))


def _patience_ms(waited_ms: int) -> int:
    """When a run that has waited so long for the one before it looks again: each look costs a claim."""
    return min(max(LOOK_AGAIN_MS, waited_ms // 10), LOOK_LATEST_MS)


def _skipped(why: str) -> Completed:
    return Completed(encode({"skipped": why}))


async def advance(store: Store, record: ScheduleRecord, *, running: str | None = None) -> bool:
    """Make the run after the one to come; False when it was the last, or somebody else has made it."""
    now_ms = store.clock.now_ms()
    at_ms = _next_of(record, now_ms)
    while at_ms is not None:
        placed = await store.advance_schedule(record, at_ms, running=running)
        if placed is not Placed.TAKEN:
            return placed is Placed.DONE
        at_ms = next_ms(record.schedule.timing, at_ms, now_ms, record.schedule.id)
    return False


async def _goes_on(store: Store, queue: str, job_id: str | None) -> bool:
    """Whether the run that was let run last has not ended."""
    if job_id is None:
        return False
    (job,) = await store.get([JobRef(queue, job_id)])
    return job is not None and job.state not in FINISHED


def is_broken(record: ScheduleRecord, now_ms: int) -> bool:
    """Whether a schedule that is neither paused nor over has no run to come: it would stand still for ever."""
    if record.schedule.paused or (record.state is not None and record.state not in FINISHED):
        return False
    return _is_lost(record, now_ms) or _next_of(record, now_ms) is not None


def _is_lost(record: ScheduleRecord, now_ms: int) -> bool:
    """Whether its run to come has vanished before its time, and so has not run."""
    return record.state is None and record.next_at_ms > now_ms


async def heal(store: Store, record: ScheduleRecord) -> bool:
    """Give a broken schedule its run to come again; whether that was done here. What may have run is not run again."""
    now_ms = store.clock.now_ms()
    if not is_broken(record, now_ms):
        return False
    if _is_lost(record, now_ms):
        return await store.advance_schedule(record, record.next_at_ms) is Placed.DONE
    return await advance(store, record)


# -------------------------------------------------------------------- from outside


class JobScheduler:
    """A schedule of a queue, by its id."""

    def __init__(self, queue: str, id: str, store: Store) -> None:
        self.queue = queue
        self.id = id
        self._store = store

    def __repr__(self) -> str:
        return f"<JobScheduler {self.queue}/{self.id}>"

    async def record(self) -> ScheduleRecord:
        """All that the store knows of it. Raises ScheduleNotFound when there is none."""
        record = await look(self._store, self.queue, self.id)
        if record is None:
            raise ScheduleNotFound(self.queue, self.id)
        return record

    async def pause(self) -> None:
        """Make no runs until `resume`; one that runs goes on. Id, counters and history stay. Raises ScheduleNotFound."""
        await self._set_paused(True)

    async def resume(self) -> None:
        """Make runs again, the first at the next time that comes. Raises ScheduleNotFound."""
        await self._set_paused(False)

    async def _set_paused(self, paused: bool) -> None:
        def wanted(seen: ScheduleRecord | None) -> Schedule | None:
            if seen is None:
                raise ScheduleNotFound(self.queue, self.id)
            return None if seen.schedule.paused is paused else replace(seen.schedule, paused=paused)

        await change(self._store, self.queue, self.id, wanted)

    async def run_now(self) -> Job[Any]:
        """Add the job that it makes, now and besides its runs. Raises ScheduleNotFound."""
        schedule = (await self.record()).schedule
        options = replace(schedule.options, delay_ms=0)
        job = NewJob(self.queue, schedule.name, draw_id(), schedule.data, options, self._store.clock.now_ms())
        (receipt,) = await self._store.add([Unit((job,))])
        return jobs_of(receipt, self._store)[0]

    async def next_runs(self, count: int = 5) -> list[datetime]:
        """Its next times, in its time zone; none while it is paused. Raises ScheduleNotFound."""
        record = await self.record()
        timing, now_ms = record.schedule.timing, self._store.clock.now_ms()
        times: list[int] = []
        at_ms: int | None = None if record.schedule.paused else record.next_at_ms
        if at_ms is not None and not record.pending:
            at_ms = _next_of(record, now_ms)
        left = count if timing.limit is None else min(count, timing.limit - record.count + record.pending)
        while at_ms is not None and len(times) < left:
            times.append(at_ms)
            at_ms = next_ms(timing, at_ms, max(now_ms, at_ms), self.id)
        return [local(timing, at_ms) for at_ms in times]

    async def remove(self) -> bool:
        """Remove it; a run that waits for a worker, or runs, goes on. False when there is none."""
        return await self._store.remove_schedule(self.queue, self.id)
