"""Node deduplicates its jobs, and Toril works on them, removes them and cleans up after them as Node would."""

from __future__ import annotations

from typing import Any

import pytest

from interop.peers import Shared
from toril.states import State


async def owner(shared: Shared) -> str | None:
    """The job that has the deduplication id `d`."""
    job_id: str | None = await shared.theirs.call("getDeduplicationJobId", "d")
    return job_id


@pytest.mark.parametrize("steps", [[["return", 1]], [["throw", "no"]]], ids=["completed", "failed"])
async def test_an_id_is_free_again_when_toril_has_finished_its_job(shared: Shared, steps: Any) -> None:
    first = await shared.theirs.add("job", {"do": steps}, deduplication={"id": "d"})
    assert await shared.theirs.add("job", {}, deduplication={"id": "d"}) == first
    assert await owner(shared) == first

    async with shared.worker().at_work():
        await shared.events.notice("event", event={"completed", "failed"}, jobId=first)
        assert await owner(shared) is None
        second = await shared.theirs.add("job", {}, deduplication={"id": "d"})
        await shared.events.event("completed", jobId=second)

    assert second != first


async def test_a_throttled_id_outlives_the_job_that_toril_has_finished(shared: Shared) -> None:
    first = await shared.theirs.add("job", {}, deduplication={"id": "d", "ttl": 60_000})

    async with shared.worker().at_work():
        await shared.events.event("completed", jobId=first)

    assert await owner(shared) == first
    assert await shared.theirs.add("job", {}, deduplication={"id": "d", "ttl": 60_000}) == first


@pytest.mark.parametrize("end", ["return", "throw"])
async def test_the_last_job_that_came_while_toril_worked_runs_next(shared: Shared, redis: Any, end: str) -> None:
    last = {"id": "d", "keepLastIfActive": True}
    steps = [["hold"], [end, "first"]]
    first = await shared.theirs.add("job", {"do": steps}, deduplication=last)

    async with shared.worker().at_work() as worker:
        await worker.held(first)
        for number in (2, 3):
            kept = await shared.theirs.add("again", {"number": number}, deduplication=last, priority=number)
            assert kept == first
        await worker.release(first)
        await shared.events.notice("event", event={"completed", "failed"}, jobId=first)
        second = await shared.events.event("completed", returnvalue={"number": 3})

    seen = await shared.seen(second["jobId"])
    assert (seen.name, seen.data, seen.priority, seen.node["deduplicationId"]) == ("again", {"number": 3}, 3, "d")
    assert await owner(shared) is None
    assert await redis.exists(f"bull:{shared.name}:dn:d") == 0


@pytest.mark.parametrize("how", ["remove", "clean", "drain"])
async def test_an_id_is_free_again_when_toril_removes_its_job(shared: Shared, how: str) -> None:
    job_id = await shared.theirs.add("job", {}, deduplication={"id": "d"})

    match how:
        case "remove":
            assert await shared.ours.remove(job_id)
        case "clean":
            assert await shared.ours.clean(State.WAITING) == 1
        case _:
            assert await shared.ours.drain() == 1

    assert await owner(shared) is None
