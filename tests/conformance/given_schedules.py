"""What the tests of schedules add to the vocabulary of `given`: schedules, their records and their runs."""

from __future__ import annotations

from dataclasses import replace

from conformance.given import QUEUE, advance, claim_one, now_ms, record_of
from toril.model import Claim, JobRecord, JobRef, Placed, Schedule, ScheduleRecord, Superseded
from toril.options import HOUR_MS, JobOptions, resolve
from toril.store import Store
from toril.timing import Missed, Overlap, Timing

HOURLY = Timing(pattern="0 * * * *", tz="UTC")
REPORT = "report"


def schedule(
    store: Store,
    id: str = REPORT,
    *,
    queue: str = QUEUE,
    timing: Timing = HOURLY,
    name: str = "digest",
    data: str = '{"to":"ada"}',
    options: JobOptions | None = None,
    declared: str | None = None,
    paused: bool = False,
    superseded: tuple[Superseded, ...] = (),
) -> Schedule:
    """What a schedule is to be."""
    kept = resolve(options or {}, now_ms(store))
    return Schedule(queue, id, timing, name, data, kept, declared, paused, superseded)


def in_every_detail(store: Store) -> Schedule:
    """A schedule of which nothing is as it is by default."""
    timing = Timing(
        pattern="*/5 9-17 * * 1-5",
        tz="Europe/Amsterdam",
        limit=99,
        start_at_ms=now_ms(store) + 1_000,
        end_at_ms=now_ms(store) + 9_000_000,
        missed=Missed.ALL,
        overlap=Overlap.QUEUE,
    )
    options = JobOptions(priority=7, attempts=3, keep_completed=5, keep_failed=True)
    superseded = (Superseded("first", 1_000), Superseded("second", 2_000))
    return schedule(store, timing=timing, options=options, declared="third", superseded=superseded)


async def given_schedule(
    store: Store,
    id: str = REPORT,
    *,
    in_ms: int = HOUR_MS,
    queue: str = QUEUE,
    timing: Timing = HOURLY,
    name: str = "digest",
    data: str = '{"to":"ada"}',
    options: JobOptions | None = None,
    declared: str | None = None,
) -> ScheduleRecord:
    """A schedule in the store, whose first run is so far ahead."""
    wanted = schedule(store, id, queue=queue, timing=timing, name=name, data=data, options=options, declared=declared)
    assert await store.put_schedule(wanted, None, now_ms(store) + in_ms) is Placed.DONE
    return await schedule_of(store, id, queue)


async def given_paused(store: Store, id: str = REPORT) -> ScheduleRecord:
    """A schedule that was paused while its run was to come."""
    seen = await given_schedule(store, id)
    assert await store.put_schedule(replace(seen.schedule, paused=True), seen, None) is Placed.DONE
    return await schedule_of(store, id)


async def schedule_of(store: Store, id: str = REPORT, queue: str = QUEUE) -> ScheduleRecord:
    """The record of a schedule that must be there."""
    [record] = await store.schedules(queue, id)
    return record


async def advanced(
    store: Store, seen: ScheduleRecord, *, by_ms: int = HOUR_MS, running: str | None = None
) -> ScheduleRecord:
    """The schedule, after it has been given the run that comes next."""
    next_at_ms = seen.next_at_ms + by_ms
    assert await store.advance_schedule(seen, next_at_ms, running=running) is Placed.DONE
    return await schedule_of(store, seen.schedule.id, seen.schedule.queue)


async def claim_run(store: Store, seen: ScheduleRecord) -> Claim:
    """The run to come of a schedule, claimed when its time has come."""
    await advance(store, max(0, seen.next_at_ms - now_ms(store)))
    one = await claim_one(store, seen.schedule.queue)
    assert one.ref == seen.iteration
    return one


async def run_of(store: Store, seen: ScheduleRecord) -> JobRecord:
    """The record of a schedule's run to come, which must be there."""
    return await record_of(store, seen.iteration)


def run_at(at_ms: int, id: str = REPORT, queue: str = QUEUE) -> JobRef:
    """The job that is the run of a schedule at a time, by the name that BullMQ gives it."""
    return JobRef(queue, f"repeat:{id}:{at_ms}")
