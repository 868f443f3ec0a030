"""What happens in a queue, told by one side and heard by the other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from interop.peers import PATIENCE_S, Shared, Way
from toril.model import Event, JobRef, NewJob, Parent, Slots, Unit, Wanted
from toril.options import resolve
from toril.states import State


async def heard_by_node(shared: Shared, job_id: str, *names: str) -> list[dict[str, Any]]:
    """The fields of events about a job, less its id, in the order of these names."""
    return [
        {name: value for name, value in (await shared.events.event(event, jobId=job_id)).items() if name != "jobId"}
        for event in names
    ]


async def heard_by_toril(shared: Shared, *names: str) -> list[Event]:
    """The events of these names so far."""
    events = await shared.store.read(shared.name, None, limit=10_000)
    return [event for event in events if event.name in names]


def fields(events: Iterable[Event]) -> list[tuple[str, str | None, dict[str, str]]]:
    return [(event.name, event.job_id, dict(event.fields)) for event in events]


# ------------------------------------------------------------------ ours, heard by Node


async def test_node_hears_of_a_job_of_ours_from_its_add_to_its_end(shared: Shared) -> None:
    steps = [["progress", {"é": [1]}], ["return", {"done": None}]]
    job = await shared.ours.add("näme", {"do": steps})

    async with shared.worker().at_work():
        heard = await heard_by_node(shared, job.id, "added", "waiting", "active", "progress", "completed")
        await shared.events.event("drained")

    assert heard == [
        {"name": "näme"},
        {},
        {"prev": "waiting"},
        {"data": {"é": [1]}},
        {"returnvalue": {"done": None}, "prev": "active"},
    ]


async def test_node_hears_why_a_job_of_ours_failed(shared: Shared) -> None:
    job = await shared.ours.add("fails", {"do": [["throw", "the reason"]]}, attempts=2, backoff=0.03)

    async with shared.worker().at_work():
        heard = await heard_by_node(shared, job.id, "active", "delayed", "waiting")
        heard += await heard_by_node(shared, job.id, "waiting", "active", "failed", "retries-exhausted")

    due_ms = heard[1].pop("delay")
    record = await job.record()
    assert 0 <= (record.processed_at_ms or 0) - due_ms < 10_000
    assert heard == [
        {"prev": "waiting"},
        {},
        {},  # of the add
        {"prev": "delayed"},
        {"prev": "waiting"},
        {"failedReason": "the reason", "prev": "active"},
        {"attemptsMade": "2"},
    ]


async def test_node_hears_that_a_job_of_ours_is_tried_again_at_once(shared: Shared) -> None:
    job = await shared.ours.add("fails", {"tries": [[["throw", "no"]], []]}, attempts=2, backoff=0)

    async with shared.worker().at_work():
        heard = await heard_by_node(shared, job.id, "waiting", "active", "waiting", "active", "completed")

    assert heard[2] == {"prev": "active"}


async def test_node_hears_of_delays_promotions_and_removals_of_ours(shared: Shared) -> None:
    job = await shared.ours.add("later", delay=60)
    record = await job.record()
    await job.promote()
    await shared.store.remove([job.ref])

    heard = await heard_by_node(shared, job.id, "added", "delayed", "waiting", "removed")

    assert heard[1:] == [{"delay": record.due_at_ms}, {"prev": "delayed"}, {"prev": "wait"}]


async def test_node_hears_where_a_job_was_that_we_removed(shared: Shared) -> None:
    plain = await shared.ours.add("plain")
    urgent = await shared.ours.add("urgent", priority=1)
    later = await shared.ours.add("later", delay=60)
    done = await shared.ours.add("done", job_id="done")
    failed = await shared.ours.add("failed", {"do": [["throw", "no"]]}, job_id="broken")
    await shared.store.remove([plain.ref, urgent.ref, later.ref])
    async with shared.worker().at_work():
        await shared.events.event("completed", jobId=done.id)
        await shared.events.event("failed", jobId=failed.id)
    await shared.store.remove([done.ref, failed.ref])

    prev = [(await heard_by_node(shared, job.id, "removed"))[0]["prev"] for job in (plain, urgent, later, done, failed)]

    assert prev == ["wait", "prioritized", "delayed", "completed", "failed"]


async def test_node_hears_that_an_id_of_ours_is_taken(shared: Shared) -> None:
    await shared.ours.add("first", job_id="chosen")
    await shared.ours.add("second", job_id="chosen")

    assert await heard_by_node(shared, "chosen", "added", "waiting", "duplicated") == [{"name": "first"}, {}, {}]


async def test_node_hears_that_we_pause_and_resume_a_queue_once_each(shared: Shared) -> None:
    for _ in range(2):
        await shared.ours.pause()
        await shared.ours.resume()

    heard = [await shared.events.event(name) for name in ("paused", "resumed", "paused", "resumed")]

    assert heard == [{}] * 4


async def test_node_hears_of_stalled_jobs_that_we_recover(shared: Shared, redis: Any) -> None:
    job = await shared.ours.add("stalls")
    await shared.store.claim(Wanted("w", "token", 30_000, (Slots(shared.name, 1),)))
    await redis.delete(f"bull:{shared.name}:{job.id}:lock")
    for _ in range(2):
        await redis.delete(f"bull:{shared.name}:stalled-check")
        await shared.store.recover([shared.name], max_stalled=1, interval_ms=30_000)

    heard = await heard_by_node(shared, job.id, "waiting", "active", "waiting", "stalled")

    assert heard == [{}, {"prev": "waiting"}, {"prev": "active"}, {}]


async def test_node_hears_of_a_parent_of_ours_and_its_child(shared: Shared) -> None:
    now_ms = shared.store.clock.now_ms()
    parent = NewJob(shared.name, "parent", "mother", "{}", resolve({}, now_ms), now_ms, nonce="1", has_children=True)
    child = replace(parent, name="child", id="son", nonce="2", has_children=False)
    await shared.store.add([Unit((parent, replace(child, parent=Parent(JobRef(shared.name, "mother")))))])

    async with shared.worker().at_work():
        heard = await heard_by_node(shared, "mother", "added", "waiting-children", "waiting", "active", "completed")

    assert heard[1:3] == [{}, {"prev": "waiting-children"}]


async def test_node_hears_how_many_jobs_we_cleaned(shared: Shared) -> None:
    for _ in range(3):
        await shared.ours.add("old")
    assert await shared.ours.clean(State.WAITING) == 3

    assert await shared.events.event("cleaned") == {"count": "3"}


async def test_node_hears_an_event_of_the_callers_own(shared: Shared) -> None:
    events = await shared.node.events(shared.name, also=["shipped"])
    await shared.store.publish(shared.name, "shipped", {"order": "17", "jobId": "x", "note": "žluťoučký"})

    assert await events.event("shipped") == {"order": "17", "jobId": "x", "note": "žluťoučký"}


# ------------------------------------------------------------------ Node's, heard by Toril


async def test_toril_hears_of_a_job_of_nodes_from_its_add_to_its_end(shared: Shared) -> None:
    steps = [["progress", {"é": [1]}], ["return", {"done": None}]]
    job_id = await shared.theirs.add("näme", {"do": steps})
    worker = await shared.node.worker(shared.name)
    await shared.events.event("drained")
    await worker.close()

    events = await shared.store.read(shared.name, None)

    assert fields(events) == [
        ("added", job_id, {"name": "näme"}),
        ("waiting", job_id, {}),
        ("active", job_id, {"prev": "waiting"}),
        ("progress", job_id, {"data": '{"é":[1]}'}),
        ("completed", job_id, {"result": '{"done":null}', "prev": "active"}),
        ("drained", None, {}),
    ]
    assert [event.id for event in events] == sorted(event.id for event in events)
    assert all(abs(event.at_ms - events[0].at_ms) < 10_000 and event.queue == shared.name for event in events)


async def test_toril_hears_why_a_job_of_nodes_failed(shared: Shared) -> None:
    again = {"attempts": 3, "backoff": {"type": "fixed", "delay": 20}}
    job_id = await shared.theirs.add("fails", {"do": [["throw", "the reason"]]}, **again)
    worker = await shared.node.worker(shared.name)
    await shared.events.event("retries-exhausted", jobId=job_id)
    await worker.close()

    delayed = await heard_by_toril(shared, "delayed")
    ended = await heard_by_toril(shared, "failed", "retries-exhausted")

    assert [set(event.fields) for event in delayed] == [{"due_at_ms"}] * 2
    theirs = [(await shared.events.event("delayed", jobId=job_id))["delay"] for _ in delayed]
    assert [int(event.fields["due_at_ms"]) for event in delayed] == theirs
    assert fields(ended) == [
        ("failed", job_id, {"reason": "the reason", "prev": "active"}),
        ("retries-exhausted", job_id, {"attempts_made": "3"}),
    ]


async def test_toril_hears_of_whatever_else_node_does_to_a_queue(shared: Shared) -> None:
    queue = shared.theirs
    await queue.add("later", {}, jobId="later", delay=60_000)
    await queue.job("later", "promote")
    await queue.add("again", {}, jobId="later")
    await queue.job("later", "remove")
    await queue.call("pause")
    await queue.call("resume")
    await queue.add("old", {}, jobId="old")
    await queue.call("clean", 0, 10, "wait")

    events = await shared.store.read(shared.name, None)

    due = events[1].fields["due_at_ms"]
    assert fields(events) == [
        ("added", "later", {"name": "later"}),
        ("delayed", "later", {"due_at_ms": due}),
        ("waiting", "later", {"prev": "delayed"}),
        ("duplicated", "later", {}),
        ("removed", "later", {"prev": "wait"}),
        ("paused", None, {}),
        ("resumed", None, {}),
        ("added", "old", {"name": "old"}),
        ("waiting", "old", {}),
        ("cleaned", None, {"count": "1"}),
    ]


async def test_toril_hears_an_event_of_nodes_own_making(shared: Shared) -> None:
    producer = await shared.node.producer(shared.name)
    await producer.call("publishEvent", {"eventName": "shipped", "order": "17", "note": "žluťoučký"})

    [event] = await heard_by_toril(shared, "shipped")

    assert dict(event.fields) == {"order": "17", "note": "žluťoučký"}


# ------------------------------------------------------------------ both


async def test_both_hear_the_same_as_it_happens(way: Way) -> None:
    """Toril's `events()` and Node's QueueEvents listen while jobs run."""
    ours: list[tuple[str, str]] = []

    async def listen(ids: set[str]) -> None:
        async for event in way.ours.events("0-0"):
            if event.name in ("active", "completed", "failed") and event.job_id is not None:
                ours.append((event.name, event.job_id))
            if {job_id for name, job_id in ours if name != "active"} == ids:
                return

    steps: list[Any] = [{"do": []}, {"do": [["throw", "no"]]}, {"do": [["progress", 1]]}] * 5
    ids = await way.add_all([("job", data, {}) for data in steps])
    listening = asyncio.create_task(listen(set(ids)))
    async with way.working():
        async with asyncio.timeout(PATIENCE_S):
            await listening
        ends = [(await way.ended(job_id), job_id) for job_id in ids]

    assert Counter(name for name, _ in ours) == {"active": 15, "completed": 10, "failed": 5}
    assert sorted(ends) == sorted(pair for pair in ours if pair[0] != "active")


async def test_a_reader_that_resumes_after_an_event_of_the_other_side_misses_nothing(shared: Shared) -> None:
    await shared.theirs.add("one", {})
    last = await shared.store.last_event(shared.name)
    theirs = await shared.theirs.add("two", {})
    ours = (await shared.ours.add("three")).id

    events = await shared.store.read(shared.name, last)
    node = await shared.node.events(shared.name, lastEventId=last)

    assert [event.job_id for event in events if event.name == "added"] == [theirs, ours]
    assert [(await node.event("added"))["jobId"] for _ in range(2)] == [theirs, ours]
