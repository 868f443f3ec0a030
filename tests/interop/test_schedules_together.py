"""Workers of both sides share the runs of schedules that either has put: none is left out, none is made twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from interop.peers import Shared
from toril.model import JobRecord, JobRef, Slots, Wanted
from toril.schedule import cron, every
from toril.states import State
from toril.timing import Timing

BEAT_MS = 300
SECOND_MS = 1_000
KEPT = {"removeOnComplete": False}
TIMES: dict[str, tuple[dict[str, Any], Timing, int]] = {
    "beat": ({"every": BEAT_MS}, every(BEAT_MS / 1000), BEAT_MS),
    "second": ({"pattern": "* * * * * *", "tz": "UTC"}, cron("* * * * * *"), SECOND_MS),
}
"""Schedules by their ids: how Node and how Toril is told their times, and how far these are apart."""


async def put(shared: Shared, by: str, id: str, times: dict[str, Any], timing: Timing, **data: Any) -> None:
    if by == "node":
        await shared.theirs.call("upsertJobScheduler", id, times, {"name": "tick", "data": data, "opts": KEPT})
    else:
        await shared.ours.schedule(id, timing, "tick", data, keep_completed=True)


@asynccontextmanager
async def working(shared: Shared, side: str, count: int = 2) -> AsyncGenerator[set[str]]:
    """So many workers of a side work; their names, as jobs tell them."""
    names = {f"{side}-{number}" for number in range(count)} if side == "node" else set[str]()
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        for name in sorted(names):
            worker = await shared.node.worker(shared.name, name=name)
            stack.push_async_callback(worker.close)
        for _ in range(count if side == "toril" else 0):
            ours = shared.worker().worker
            stack.callback(ours.stop)
            group.create_task(ours.run())
            names.add(ours.id)
        await asyncio.sleep(0)  # their first step: from here on they can be stopped
        yield names


async def completed(shared: Shared, **wanted: int) -> None:
    """Wait until so many more runs of these schedules have completed."""
    seen = Counter[str]()
    while any(seen[id] < count for id, count in wanted.items()):
        seen[schedule_of((await shared.events.event("completed"))["jobId"])] += 1


def schedule_of(job_id: str) -> str:
    return job_id.split(":")[1]


def at_ms(record: JobRecord) -> int:
    """The time that a run is for."""
    return int(record.ref.id.rpartition(":")[2])


async def runs(shared: Shared, id: str) -> list[JobRecord]:
    """The runs of a schedule that have completed, by their times."""
    found = [record async for record in shared.ours.iterate(State.COMPLETED) if record.schedule == id]
    return sorted(found, key=at_ms)


def left_out(records: Sequence[JobRecord], apart_ms: int) -> Iterator[int]:
    """Times without a run, though they were still to come when the run after them was made."""
    for before, after in pairwise(records):
        assert (at_ms(after) - at_ms(before)) % apart_ms == 0
        yield from (
            time for time in range(at_ms(before) + apart_ms, at_ms(after), apart_ms) if time > after.created_at_ms
        )


async def made(shared: Shared) -> Counter[str]:
    """How often each run was made, by its id."""
    events = await shared.store.read(shared.name, None, limit=10_000)
    return Counter(event.job_id for event in events if event.name == "added" and event.job_id is not None)


async def started(shared: Shared) -> Counter[str]:
    """How often each run was begun, by its id."""
    events = await shared.store.read(shared.name, None, limit=10_000)
    return Counter(event.job_id for event in events if event.name == "active" and event.job_id is not None)


async def to_come(shared: Shared) -> int:
    """How many jobs have not ended. Each schedule must have one of them."""
    assert all(record.pending for record in await shared.ours.schedules())
    return sum(count for state, count in (await shared.counts()).items() if state is not State.COMPLETED)


@pytest.mark.parametrize(("first", "second"), [("node", "toril"), ("toril", "node")], ids=["node-stops", "toril-stops"])
async def test_no_run_is_left_out_or_made_twice_when_one_side_stops(shared: Shared, first: str, second: str) -> None:
    for by, id in ((first, "beat"), (second, "second")):
        times, timing, _ = TIMES[id]
        await put(shared, by, id, times, timing)

    async with working(shared, second) as staying:
        async with working(shared, first) as leaving:
            await completed(shared, beat=12, second=5)
        before = {record.ref for id in TIMES for record in await runs(shared, id)}
        await completed(shared, beat=12, second=6)

    for id, (_, _, apart_ms) in TIMES.items():
        records = await runs(shared, id)
        assert len(records) >= 11
        assert list(left_out(records, apart_ms)) == []
        assert {record.attempts_started for record in records} == {1}
        assert {record.worker for record in records if record.ref not in before} <= staying
        assert {record.worker for record in records if record.ref in before} <= staying | leaving
    assert set((await made(shared)).values()) == {1}
    assert set((await started(shared)).values()) == {1}
    assert await to_come(shared) == len(TIMES)


@pytest.mark.parametrize("by", ["node", "toril"])
async def test_a_schedule_that_toril_pauses_rests_and_goes_on_though_nodes_workers_are_there(
    shared: Shared, by: str
) -> None:
    await put(shared, by, "beat", *TIMES["beat"][:2])
    scheduler = shared.ours.scheduler("beat")
    async with working(shared, "node"), working(shared, "toril", 1):
        await completed(shared, beat=3)
        await scheduler.pause()
        known = await made(shared)
        await shared.ours.add("later", delay=3 * BEAT_MS / 1000, job_id="later")
        await shared.events.event("completed", jobId="later")
        assert (await made(shared)).keys() - known.keys() == {"later"}
        assert [row["key"] for row in await shared.theirs.call("getJobSchedulers")] == ["beat"]

        shared.node.forget()
        resumed_ms = shared.store.clock.now_ms()
        await scheduler.resume()
        await completed(shared, beat=5)

    records = await runs(shared, "beat")
    assert {(at_ms(record) - at_ms(records[0])) % BEAT_MS for record in records} == {0}
    after = [record for record in records if at_ms(record) > resumed_ms]
    assert len(after) >= 5
    assert list(left_out(after, BEAT_MS)) == []
    assert set((await started(shared)).values()) == {1}


@pytest.mark.parametrize(("first", "second"), [("toril", "node"), ("node", "toril")])
async def test_a_schedule_that_the_other_side_puts_anew_goes_on_as_that_says(
    shared: Shared, first: str, second: str
) -> None:
    await put(shared, first, "beat", *TIMES["beat"][:2], put=1)
    async with working(shared, "node"), working(shared, "toril"):
        await completed(shared, beat=4)
        await put(shared, second, "beat", {"every": 200}, every(0.2), put=2)
        await shared.events.event("completed", returnvalue={"put": 2})
        await completed(shared, beat=6)

    records = await runs(shared, "beat")
    puts = [json.loads(record.data)["put"] for record in records]
    assert puts == sorted(puts)
    for number, apart_ms in ((1, BEAT_MS), (2, 200)):
        assert list(left_out([one for one, by in zip(records, puts, strict=True) if by == number], apart_ms)) == []
    assert set((await started(shared)).values()) == {1}
    [row] = await shared.theirs.call("getJobSchedulers")
    assert (row["every"], row["template"]["data"]) == (200, {"put": 2})
    assert await to_come(shared) == 1


@pytest.mark.parametrize("by", ["node", "toril"])
async def test_a_schedule_ends_with_its_last_run_whoever_works(shared: Shared, by: str) -> None:
    await put(shared, by, "beat", {"every": 100, "limit": 3}, every(0.1, limit=3))
    async with working(shared, "node"), working(shared, "toril"):
        await completed(shared, beat=3)
        await shared.ours.add("later", delay=0.3, job_id="later")
        await shared.events.event("completed", jobId="later")

    assert len(await runs(shared, "beat")) == 3
    assert await shared.counts() == {State.COMPLETED: 4}
    record = await shared.ours.scheduler("beat").record()
    assert (record.count, record.iterations, record.state) == (3, 3, State.COMPLETED)
    assert [row["iterationCount"] for row in await shared.theirs.call("getJobSchedulers")] == [3]


@pytest.mark.parametrize("by", ["node", "toril"])
async def test_a_run_whose_worker_has_vanished_before_it_made_the_next_is_followed_all_the_same(
    shared: Shared, by: str
) -> None:
    await put(shared, by, "daily", {"every": 86_400_000}, every(86_400))
    [claim] = (await shared.store.claim(Wanted("gone", "token", 1, (Slots(shared.name, 1),)))).claims
    assert await shared.counts() == {State.ACTIVE: 1}

    if by == "toril":
        await shared.node.worker(shared.name, stalledInterval=50)
        await shared.events.event("completed", jobId=claim.ref.id)
    else:
        async with shared.worker(stalled_interval=0.05).at_work():
            await shared.events.event("completed", jobId=claim.ref.id)

    assert await shared.counts() == {State.COMPLETED: 1, State.DELAYED: 1}
    record = await shared.ours.scheduler("daily").record()
    assert (record.pending, record.iterations) == (True, 2)
    assert record.next_at_ms == int(claim.ref.id.rpartition(":")[2]) + 86_400_000


@pytest.mark.parametrize(("parents", "children"), [("node", "toril"), ("toril", "node")])
async def test_a_run_adds_children_that_the_other_side_works_on(shared: Shared, parents: str, children: str) -> None:
    kids = f"{shared.name}-kids"
    child = {"name": "kid", "queueName": kids, "data": 1, "opts": {"jobId": "kid"}}
    steps = [["add-children", [child]], ["await-children"], ["children"]]
    await put(shared, children, "daily", {"every": 86_400_000}, every(86_400), do=steps)
    leaves = Shared(kids, shared.node, shared.store, await shared.node.queue(kids), await shared.node.events(kids))

    async with working(shared, parents, 1), working(leaves, children, 1):
        run = (await shared.events.event("completed"))["jobId"]

    [record] = await runs(shared, "daily")
    assert record.ref == JobRef(shared.name, run)
    assert (await shared.seen(run)).result == {"results": {f"{kids}/kid": 1}, "ignored": {}}
    assert [str(one.ref) for one in await shared.ours.job(run).children()] == [f"{kids}/kid"]
    parent = (await leaves.seen("kid")).toril.parent
    assert parent is not None
    assert parent.ref == record.ref


async def test_a_paused_schedule_rests_though_node_recovers_the_run_it_was_paused_in(shared: Shared) -> None:
    await put(shared, "toril", "beat", *TIMES["beat"][:2])
    [claim] = (await shared.store.claim(Wanted("gone", "token", 1, (Slots(shared.name, 1),)))).claims
    await shared.ours.scheduler("beat").pause()

    await shared.node.worker(shared.name, stalledInterval=50)
    await shared.events.event("completed", jobId=claim.ref.id)

    assert (await shared.ours.scheduler("beat").record()).schedule.paused
    assert await shared.counts() == {State.COMPLETED: 1}
