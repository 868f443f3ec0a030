"""Both sides deduplicate their jobs, meet each other's owners, and clean up after each other."""

from __future__ import annotations

from typing import Any

import pytest

from interop.peers import Shared, Way
from toril.options import Deduplication
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


RULES = pytest.mark.parametrize(
    ("by", "as_node"),
    [
        (Deduplication.simple("d"), {"id": "d"}),
        (Deduplication.throttle("d", 60), {"id": "d", "ttl": 60_000}),
        (Deduplication.throttle("d", 60, extend=True), {"id": "d", "ttl": 60_000, "extend": True}),
        (Deduplication.debounce("d"), {"id": "d", "replace": True}),
        (Deduplication.keep_last("d"), {"id": "d", "keepLastIfActive": True}),
    ],
    ids=["simple", "throttle", "sliding", "debounce", "keep-last"],
)


@RULES
async def test_nodes_add_meets_torils_owner(shared: Shared, by: Deduplication, as_node: Any) -> None:
    first = await shared.ours.add("job", {"n": 1}, deduplication=by)

    assert await shared.theirs.add("job", {"n": 2}, deduplication=as_node) == first.id

    assert await owner(shared) == first.id
    assert (await shared.seen(first.id)).node["opts"]["deduplication"] == as_node
    assert await shared.counts() == {State.WAITING: 1}


@RULES
async def test_torils_add_meets_nodes_owner(shared: Shared, by: Deduplication, as_node: Any) -> None:
    first = await shared.theirs.add("job", {"n": 1}, deduplication=as_node)

    second = await shared.ours.add("job", {"n": 2}, deduplication=by)

    assert (second.id, second.duplicate) == (first, True)
    [record] = [record async for record in shared.ours.iterate(State.WAITING)]
    assert record.options.deduplication == by
    assert await shared.counts() == {State.WAITING: 1}


async def test_torils_owner_is_free_again_when_node_has_finished_it(shared: Shared) -> None:
    first = await shared.ours.add("job", {}, deduplication="d")
    worker = await shared.node.worker(shared.name)
    await shared.events.event("completed", jobId=first.id)
    await worker.close()

    second = await shared.ours.add("job", {}, deduplication="d")

    assert not second.duplicate
    assert await owner(shared) == second.id


async def test_an_id_that_one_side_has_forgotten_is_free_for_the_other(shared: Shared) -> None:
    first = await shared.theirs.add("job", {}, deduplication={"id": "d"})
    assert await shared.ours.forget("d")
    assert await owner(shared) is None
    second = await shared.ours.add("job", {}, deduplication="d")
    assert second.id != first

    assert await shared.theirs.call("removeDeduplicationKey", "d") == 1

    assert await shared.ours.deduplicated("d") is None


async def test_torils_add_takes_the_place_of_nodes_delayed_job(shared: Shared) -> None:
    first = await shared.theirs.add("job", {"n": 1}, deduplication={"id": "d", "replace": True}, delay=60_000)

    second = await shared.ours.add("job", {"n": 2}, deduplication=Deduplication.debounce("d"), delay=60)

    await shared.events.event("removed", jobId=first, prev="delayed")
    await shared.events.event("deduplicated", jobId=second.id, deduplicatedJobId=first, deduplicationId="d")
    assert await shared.ids(State.DELAYED) == [second.id]
    assert await owner(shared) == second.id


async def test_nodes_add_takes_the_place_of_torils_delayed_job(shared: Shared) -> None:
    await shared.ours.add("job", {"n": 1}, deduplication=Deduplication.debounce("d"), delay=60)

    second = await shared.theirs.add("job", {"n": 2}, deduplication={"id": "d", "replace": True}, delay=60_000)

    assert await shared.ids(State.DELAYED) == [second]
    assert await owner(shared) == second


async def test_what_toril_keeps_while_either_works_runs_next(way: Way, redis: Any) -> None:
    keep_last = Deduplication.keep_last("d")
    first = await way.ours.add("job", {"do": [["hold"]]}, deduplication=keep_last)

    async with way.working() as worker:
        await worker.held(first.id)
        for number in (2, 3):
            kept = await way.ours.add("again", {"number": number}, deduplication=keep_last, priority=number)
            assert (kept.id, kept.duplicate, kept.rule) == (first.id, True, "keep-last")
        await worker.release(first.id)
        await way.events.event("completed", jobId=first.id)
        second = await way.events.event("completed", returnvalue={"number": 3})

    seen = await way.seen(second["jobId"])
    assert (seen.name, seen.data, seen.priority, seen.node["deduplicationId"]) == ("again", {"number": 3}, 3, "d")
    assert await owner(way) is None
    assert await redis.exists(f"bull:{way.name}:dn:d") == 0


async def test_toril_reschedules_nodes_delayed_job(shared: Shared) -> None:
    first = await shared.theirs.add("job", {}, deduplication={"id": "d"}, delay=60_000)

    second = await shared.ours.add("job", {}, deduplication=Deduplication("d", reschedule=True), delay=600)

    assert second.id == first
    assert (await shared.theirs.see(first) or {})["delay"] == 600_000
    assert await shared.ids(State.DELAYED) == [first]
