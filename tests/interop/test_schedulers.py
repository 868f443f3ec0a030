"""Schedules that both sides put, list, remove and run: Node's job schedulers and ours are the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from interop.peers import NodeQueue, Shared, as_toril
from toril.model import (
    Claim,
    Completed,
    JobRecord,
    JobRef,
    Placed,
    Schedule,
    ScheduleRecord,
    Settlement,
    Slots,
    Wanted,
    iteration_id,
)
from toril.options import Deduplication, resolve
from toril.states import State
from toril.store import Store
from toril.timing import Missed, Overlap, Timing

FAR_MS = 4_000_000_000_000
TEMPLATE = {"attempts": 3, "priority": 2, "removeOnComplete": 5, "removeOnFail": {"age": 60}}

TIMINGS: dict[str, tuple[dict[str, Any], Timing]] = {
    "interval": ({"every": 60_000}, Timing(every_ms=60_000)),
    "offset": ({"every": 60_000, "offset": 5_000}, Timing(every_ms=60_000, offset_ms=5_000)),
    "bounds": (
        {"every": 60_000, "startDate": FAR_MS, "endDate": 2 * FAR_MS, "limit": 3},
        Timing(every_ms=60_000, start_at_ms=FAR_MS, end_at_ms=2 * FAR_MS, limit=3),
    ),
    "pattern": ({"pattern": "*/5 * * * *", "tz": "Europe/Amsterdam"}, Timing("*/5 * * * *", "Europe/Amsterdam")),
    "seconds": (
        {"pattern": "30 0 0 * * *", "limit": 7, "endDate": FAR_MS},
        Timing("30 0 0 * * *", limit=7, end_at_ms=FAR_MS),
    ),
}
"""The same times, as Node and as Toril are told them."""


def schedule(
    shared: Shared, id: str, timing: Timing, *, data: str = "{}", options: dict[str, Any] | None = None, **ours: Any
) -> Schedule:
    kept = resolve(as_toril(TEMPLATE if options is None else options), shared.store.clock.now_ms())
    return Schedule(shared.name, id, timing, "tick", data, replace(kept, backoff=None), **ours)


async def put(shared: Shared, wanted: Schedule, at_ms: int | None) -> ScheduleRecord:
    """Put a schedule, over the one that stands."""
    seen = await look(shared, wanted.id)
    assert await shared.store.put_schedule(wanted, seen, at_ms) is Placed.DONE
    record = await look(shared, wanted.id)
    assert record is not None
    return record


async def look(shared: Shared, id: str) -> ScheduleRecord | None:
    found = await shared.store.schedules(shared.name, id)
    return found[0] if found else None


async def listed(queue: NodeQueue) -> list[dict[str, Any]]:
    """The schedulers of a queue, as Node lists them."""
    rows: list[dict[str, Any]] = await queue.call("getJobSchedulers", 0, -1, True)
    return rows


async def upsert(
    queue: NodeQueue, id: str, times: dict[str, Any], *, data: Any = None, options: dict[str, Any] = TEMPLATE
) -> str:
    """What Node makes of a schedule; the id of its run to come."""
    job = await queue.call("upsertJobScheduler", id, times, {"name": "tick", "data": data or {}, "opts": options})
    return str(job["id"])


async def written(redis: Any, key: str) -> dict[str, Any]:
    """A hash, its JSON read, without when it was written."""
    texts: dict[str, str] = await redis.hgetall(key)
    found: dict[str, Any] = {**texts, "opts": json.loads(texts["opts"])}
    for moment in ("timestamp", "delay"):
        found.pop(moment, None)
        found["opts"].pop(moment, None)
    return found


# ------------------------------------------------------------------ putting and listing


@pytest.mark.parametrize("times", TIMINGS)
async def test_node_lists_and_finds_what_toril_puts_as_what_it_puts_itself(
    shared: Shared, redis: Any, times: str
) -> None:
    theirs, ours = TIMINGS[times]
    twin = await shared.node.queue(f"{shared.name}-twin")
    run = await upsert(twin, "daily", theirs, data={"a": 1})
    [wanted] = await listed(twin)

    await put(shared, schedule(shared, "daily", ours, data='{"a":1}'), wanted["next"])

    assert await listed(shared.theirs) == [wanted]
    base = f"bull:{shared.name}:"
    assert await written(redis, f"{base}repeat:daily") == await written(redis, f"bull:{shared.name}-twin:repeat:daily")
    assert await written(redis, base + run) == await written(redis, f"bull:{shared.name}-twin:{run}")


@pytest.mark.parametrize("times", TIMINGS)
async def test_toril_lists_what_node_puts(shared: Shared, times: str) -> None:
    theirs, ours = TIMINGS[times]
    run = await upsert(shared.theirs, "daily", theirs, data={"a": 1})
    [row] = await listed(shared.theirs)
    beat_ms = row["next"] % 60_000 if "every" in theirs else None

    record = await look(shared, "daily")

    assert record is not None
    assert record.schedule == schedule(shared, "daily", replace(ours, offset_ms=beat_ms), data='{"a":1}')
    assert (record.iteration.id, record.next_at_ms) == (run, row["next"])
    assert (record.iterations, record.count, record.running) == (1, 1, None)
    assert record.pending


async def test_a_deduplication_id_of_the_runs_is_noted_as_node_notes_it(shared: Shared, redis: Any) -> None:
    twin = await shared.node.queue(f"{shared.name}-twin")
    options = {**TEMPLATE, "deduplication": {"id": "d"}}
    run = await upsert(twin, "daily", {"every": 60_000, "startDate": FAR_MS}, options=options)
    plain = schedule(shared, "daily", Timing(every_ms=60_000, start_at_ms=FAR_MS))

    wanted = replace(plain, options=replace(plain.options, deduplication=Deduplication.simple("d")))
    await put(shared, wanted, FAR_MS)

    assert await written(redis, f"bull:{shared.name}:{run}") == await written(redis, f"bull:{shared.name}-twin:{run}")
    assert await shared.theirs.call("getDeduplicationJobId", "d") is None


async def test_node_puts_over_what_toril_has_put_and_paused(shared: Shared) -> None:
    timing = Timing("0 0 1 1 *", missed=Missed.SKIP, overlap=Overlap.QUEUE)
    await put(shared, schedule(shared, "daily", timing, declared="mark"), FAR_MS)
    await put(shared, schedule(shared, "daily", timing, declared="mark", paused=True), None)
    assert [row["pattern"] for row in await listed(shared.theirs)] == ["0 0 1 1 *"]

    run = await upsert(shared.theirs, "daily", {"every": 60_000})

    record = await look(shared, "daily")
    assert record is not None
    assert (record.schedule.paused, record.schedule.declared, record.schedule.timing.missed) == (
        False,
        None,
        Missed.ONCE,
    )
    assert (record.iteration.id, record.schedule.timing.every_ms, record.iterations) == (run, 60_000, 1)


async def test_toril_puts_over_what_node_has_put(shared: Shared) -> None:
    first = await upsert(shared.theirs, "daily", {"every": 60_000, "startDate": FAR_MS})

    record = await put(shared, schedule(shared, "daily", Timing("0 0 1 1 *")), FAR_MS + 1_000)

    [row] = await listed(shared.theirs)
    assert (row["pattern"], row["next"], row["iterationCount"]) == ("0 0 1 1 *", FAR_MS + 1_000, 1)
    assert await shared.theirs.see(first) is None
    assert await shared.ids(State.DELAYED) == [record.iteration.id]


async def test_in_a_queue_that_node_has_paused_toril_replaces_the_run_that_waits(shared: Shared) -> None:
    await shared.theirs.call("pause")
    run = await upsert(shared.theirs, "daily", {"every": 60_000}, options={})
    at_ms = at_ms_of(JobRef(shared.name, run))

    record = await put(shared, schedule(shared, "daily", Timing(every_ms=30_000)), at_ms + 30_000)
    await shared.theirs.call("resume")

    assert await shared.counts() == {State.DELAYED: 1}
    assert await shared.ids(State.DELAYED) == [record.iteration.id]


async def test_either_side_removes_what_the_other_has_put(shared: Shared) -> None:
    await put(shared, schedule(shared, "ours", Timing("0 0 1 1 *")), FAR_MS)
    await upsert(shared.theirs, "theirs", {"every": 60_000, "startDate": FAR_MS})

    assert await shared.theirs.call("removeJobScheduler", "ours") is True
    assert await shared.store.remove_schedule(shared.name, "theirs") is True

    assert await listed(shared.theirs) == []
    assert await shared.store.schedules(shared.name) == []
    assert await shared.counts() == {}
    assert await shared.theirs.call("removeJobScheduler", "theirs") is False
    assert await shared.store.remove_schedule(shared.name, "ours") is False


# ------------------------------------------------------------------ running


def next_ms(record: ScheduleRecord, now_ms: int) -> int:
    """The next time of an interval, as BullMQ has it."""
    every_ms, offset_ms = record.schedule.timing.every_ms, record.schedule.timing.offset_ms
    assert every_ms is not None
    assert offset_ms is not None
    following = record.next_at_ms + every_ms
    if following >= now_ms:
        return following
    begun = now_ms // every_ms * every_ms + offset_ms
    return begun + every_ms if begun <= now_ms else begun


async def take(store: Store, claim: Claim) -> None:
    """Make the run after this one, if it is the one that its schedule waits for; and end this one."""
    assert claim.schedule is not None
    [record] = await store.schedules(claim.ref.queue, claim.schedule)
    if record.iteration == claim.ref:
        await store.advance_schedule(record, next_ms(record, store.clock.now_ms()))
    await store.settle([Settlement(claim, Completed("1"))])


@asynccontextmanager
async def taking(shared: Shared, name: str = "toril") -> AsyncGenerator[None]:
    """Toril takes the runs of a queue."""

    async def work() -> None:
        for number in range(1_000):
            wish = Wanted(name, f"{name}-{number}", 30_000, (Slots(shared.name, 1),))
            claimed = await shared.store.claim(wish)
            for claim in claimed.claims:
                await take(shared.store, claim)
            if not claimed.claims:
                until_ms = claimed.idle[shared.name].until_ms
                await shared.store.wait(name, [shared.name], until_ms)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()


async def ended(shared: Shared, count: int) -> list[JobRecord]:
    """Wait until so many runs have completed; those that have, by their times. Later ones may still be under way."""
    for _ in range(count + 2):
        await shared.events.event("completed")
    page = await shared.store.find(shared.name, State.COMPLETED)
    return sorted(page.items, key=lambda record: at_ms_of(record.ref))[:count]


def at_ms_of(run: JobRef) -> int:
    return int(run.id.rpartition(":")[2])


def has_every_run_once(records: list[JobRecord], id: str, every_ms: int) -> bool:
    """Whether runs follow each other, each taken once. One whose worker was late may be followed by a later one."""
    at_ms = [at_ms_of(record.ref) for record in records]
    assert [record.ref.id for record in records] == [iteration_id(id, at) for at in at_ms]
    assert [record.attempts_started for record in records] == [1] * len(records)
    assert [record.schedule for record in records] == [id] * len(records)
    for record, this, following in zip(records, at_ms, at_ms[1:], strict=False):
        late = (record.finished_at_ms or 0) > this + every_ms
        if following - this != every_ms and not (late and following > this and (following - this) % every_ms == 0):
            return False
    return True


async def test_node_takes_the_run_that_toril_has_made_and_makes_the_next(shared: Shared) -> None:
    now_ms = shared.store.clock.now_ms()
    first = await put(shared, schedule(shared, "s", Timing(every_ms=3_600_000, limit=2), data='{"a":1}'), now_ms)

    worker = await shared.node.worker(shared.name)
    await worker.notice("completed", id=first.iteration.id, result={"a": 1})

    second = await look(shared, "s")
    assert second is not None
    assert (second.next_at_ms, second.state) == (now_ms + 3_600_000, State.DELAYED)
    assert (second.iterations, second.count) == (2, 2)
    assert second.schedule == first.schedule
    [run] = await shared.store.get([second.iteration])
    assert run is not None
    assert (run.name, run.data, run.schedule, run.priority) == ("tick", '{"a":1}', "s", 2)


async def test_toril_takes_the_run_that_node_has_made_and_makes_the_next(shared: Shared) -> None:
    options = {"attempts": 3, "priority": 2, "stackTraceLimit": 5}
    run = await upsert(shared.theirs, "s", {"every": 3_600_000, "limit": 2}, data={"a": 1}, options=options)
    at_ms = at_ms_of(JobRef(shared.name, run))

    async with taking(shared):
        await shared.events.event("completed", jobId=run)

    [row] = await listed(shared.theirs)
    assert (row["next"], row["iterationCount"]) == (at_ms + 3_600_000, 2)
    second = await shared.theirs.see(iteration_id("s", at_ms + 3_600_000))
    assert second is not None
    assert (second["name"], second["data"], second["state"], second["repeatJobKey"]) == (
        "tick",
        {"a": 1},
        "delayed",
        "s",
    )
    assert {name: second["opts"][name] for name in options} == options
    assert second["opts"]["repeat"] == {"every": 3_600_000, "limit": 2, "count": 2}
    assert second["opts"]["jobId"] == second["id"]


@pytest.mark.parametrize("first", ["node", "toril"])
async def test_workers_of_both_sides_take_each_run_once_and_leave_none_out(shared: Shared, first: str) -> None:
    every_ms = 300
    if first == "node":
        await upsert(shared.theirs, "s", {"every": every_ms}, options={})
    else:
        wanted = schedule(shared, "s", Timing(every_ms=every_ms), options={})
        await put(shared, wanted, shared.store.clock.now_ms())

    await shared.node.worker(shared.name)
    async with taking(shared, "one"), taking(shared, "two"):
        records = await ended(shared, 6)

    assert has_every_run_once(records, "s", every_ms), records
    record = await look(shared, "s")
    assert record is not None
    assert record.iterations >= 8


async def test_a_run_that_is_tried_again_makes_no_second_next_one(shared: Shared) -> None:
    at_ms = shared.store.clock.now_ms()
    run = (await put(shared, schedule(shared, "s", Timing(every_ms=3_600_000)), at_ms)).iteration
    async with taking(shared):
        await shared.events.event("completed", jobId=run.id)

    await shared.theirs.job(run.id, "retry", "completed")
    worker = await shared.node.worker(shared.name)
    await worker.notice("completed", id=run.id)

    record = await look(shared, "s")
    assert record is not None
    assert (record.iterations, record.next_at_ms) == (2, at_ms + 3_600_000)
    assert await shared.ids(State.DELAYED) == [record.iteration.id]
