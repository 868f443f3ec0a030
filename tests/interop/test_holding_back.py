"""Pauses, rates and global concurrency: set by one side, obeyed by the other, and lifted by either."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from interop.conftest import Nodes
from interop.peers import NodeQueue, Shared, Way
from toril.model import Completed, Event, Settlement, Slots, Wanted
from toril.options import RateLimit
from toril.queue import Queue
from toril.states import State
from toril.store import Store

WINDOW_MS = 300


async def pause(way: Way) -> None:
    """This way's adder pauses the queue."""
    await (way.theirs.call("pause") if way.adder == "node" else way.ours.pause())


async def resume(way: Way) -> None:
    await (way.theirs.call("resume") if way.adder == "node" else way.ours.resume())


async def history(shared: Shared, *names: str) -> list[Event]:
    """The events of these names, in order."""
    events = await shared.store.read(shared.name, None, limit=10_000)
    return [event for event in events if event.name in names]


# ------------------------------------------------------------------ pausing


async def test_both_sides_see_that_a_queue_is_paused(way: Way) -> None:
    await pause(way)
    assert await way.theirs.call("isPaused") is True
    assert (await way.ours.settings()).paused

    await resume(way)
    assert await way.theirs.call("isPaused") is False
    assert not (await way.ours.settings()).paused


async def test_a_paused_queue_hands_out_nothing_until_it_is_resumed(way: Way) -> None:
    before = await way.add("before", {})
    await pause(way)
    async with way.working():
        ids = [before, await way.add("plain", {}), await way.add("urgent", {}, priority=1)]
        assert await taken(way) == []
        await resume(way)
        for job_id in ids:
            await way.ended(job_id)

    names = [event.name for event in await history(way, "paused", "resumed", "active")]
    assert names == ["paused", "resumed", "active", "active", "active"]
    assert await way.counts() == {State.COMPLETED: 3}


async def taken(way: Way) -> list[str]:
    """What this way's worker would be given now."""
    if way.worked_by == "toril":
        claimed = await way.store.claim(Wanted("w", uuid.uuid4().hex, 30_000, (Slots(way.name, 5),)))
        assert claimed.idle[way.name].reason == "paused"
        return [claim.ref.id for claim in claimed.claims]
    worker = await way.node.worker(way.name, autorun=False)
    job = await worker.call("getNextJob", "token")
    await worker.close()
    return [] if job is None else [job["id"]]


async def test_a_running_job_goes_on_while_its_queue_is_paused(way: Way) -> None:
    job_id = await way.add("runs", {"do": [["hold"], ["return", 1]]})

    async with way.working() as worker:
        await worker.held(job_id)
        await pause(way)
        await worker.release(job_id)
        assert await way.ended(job_id) == "completed"

    assert (await way.seen(job_id)).result == 1


async def test_a_delayed_job_that_comes_due_in_a_pause_runs_after_it(way: Way) -> None:
    job_id = await way.add("later", {}, delay=50)
    await pause(way)

    async with way.working():
        while await taken(way) == [] and (await way.seen(job_id)).state is State.DELAYED:
            pass  # until a look promotes it
        assert (await way.seen(job_id)).state is State.WAITING
        await resume(way)
        await way.ended(job_id)


# ------------------------------------------------------------------ pauses of versions before 6, which rename the list


class OldPause:
    """A queue that 5.x pauses, with the means to resume it."""

    def __init__(self, name: str, old: NodeQueue, new: NodeQueue, store: Store) -> None:
        self.name = name
        self.old = old
        self.new = new
        self.store = store
        self.ours = Queue(name, store)

    async def resume(self, by: str) -> None:
        match by:
            case "bullmq5":
                await self.old.call("resume")
            case "bullmq6":
                await self.new.call("resume")
            case _:
                await self.ours.resume()


@pytest.fixture
async def old_pause(nodes: Nodes, queue_name: str, live_store: Store) -> Any:
    old, new = nodes.of("5"), nodes.of("6")
    yield OldPause(queue_name, await old.queue(queue_name), await new.queue(queue_name), live_store)
    await old.reset()
    await new.reset()


async def all_run(queue: OldPause, ids: Sequence[str]) -> None:
    """Both sides count these jobs as waiting, and Toril runs them all."""
    shared = Shared(queue.name, queue.new.node, queue.store, queue.new, await queue.new.node.events(queue.name))
    assert await shared.counts() == {State.WAITING: len(ids)}
    async with shared.worker().at_work():
        for job_id in ids:
            await shared.events.event("completed", jobId=job_id)
    assert await shared.counts() == {State.COMPLETED: len(ids)}


RESUMERS = pytest.mark.parametrize("resumer", ["bullmq5", "bullmq6", "toril"])


@RESUMERS
async def test_jobs_that_5x_has_put_aside_run_after_the_pause(old_pause: OldPause, resumer: str) -> None:
    before = await old_pause.old.add("before", {})
    await old_pause.old.call("pause")
    after = await old_pause.old.add("after", {})

    await old_pause.resume(resumer)

    await all_run(old_pause, [before, after])


async def test_toril_counts_and_finds_the_jobs_that_5x_has_put_aside(old_pause: OldPause) -> None:
    ids = [await old_pause.old.add("before", {}) for _ in range(3)]
    await old_pause.old.call("pause")

    assert (await old_pause.ours.counts())[State.WAITING] == 3
    assert [record.ref.id async for record in old_pause.ours.iterate(State.WAITING)] == ids
    assert [(await old_pause.ours.job(job_id).state()) for job_id in ids] == [State.WAITING] * 3


async def test_toril_takes_nothing_from_a_queue_that_5x_has_paused(old_pause: OldPause) -> None:
    await old_pause.old.add("before", {})
    await old_pause.old.call("pause")
    await old_pause.old.add("after", {}, priority=1)
    await old_pause.ours.add("ours", {})

    claimed = await old_pause.store.claim(Wanted("w", "token", 30_000, (Slots(old_pause.name, 9),)))

    assert claimed.claims == ()
    assert claimed.idle[old_pause.name].reason == "paused"


@RESUMERS
async def test_what_toril_adds_in_a_pause_of_5x_is_not_lost(old_pause: OldPause, resumer: str) -> None:
    before = await old_pause.old.add("before", {})
    await old_pause.old.call("pause")
    ours = (await old_pause.ours.add("ours", {})).id
    lifo = (await old_pause.ours.add("ours", {}, lifo=True)).id
    theirs = await old_pause.old.add("theirs", {})

    await old_pause.resume(resumer)

    await all_run(old_pause, [before, ours, lifo, theirs])


@RESUMERS
async def test_what_comes_back_to_a_queue_that_5x_has_paused_is_not_lost(old_pause: OldPause, resumer: str) -> None:
    """A job that is tried again, one that comes due, one that is promoted, one that is retried by hand."""
    steps: dict[str, Any] = {"tries": [[["hold"], ["throw", "again"]], []]}
    again = await old_pause.old.add("again", steps, attempts=2)
    failed = await old_pause.old.add("failed", {"tries": [[["throw", "no"]], []]})
    promoted = await old_pause.old.add("promoted", {}, delay=60_000)
    due = await old_pause.old.add("due", {}, delay=1)
    shared = Shared(old_pause.name, old_pause.new.node, old_pause.store, old_pause.new, old_pause.new)
    events = await old_pause.new.node.events(old_pause.name)
    async with shared.worker(concurrency=2).at_work() as worker:
        await worker.held(again)
        await events.event("failed", jobId=failed)
        await events.event("completed", jobId=due)
        await old_pause.old.call("pause")
        other = await old_pause.old.add("other", {})
        await worker.release(again)
        await events.event("waiting", jobId=again, prev="active")
    await old_pause.ours.job(promoted).promote()
    await old_pause.ours.job(failed).retry()

    await old_pause.resume(resumer)

    async with shared.worker().at_work():
        for job_id in (again, failed, promoted, other):
            await events.event("completed", jobId=job_id)
    assert (await old_pause.ours.counts())[State.COMPLETED] == 5


@RESUMERS
async def test_what_toril_recovers_in_a_pause_of_5x_is_not_lost(old_pause: OldPause, resumer: str, redis: Any) -> None:
    job_id = await old_pause.old.add("stalls", {})
    await old_pause.store.claim(Wanted("w", "token", 30_000, (Slots(old_pause.name, 1),)))
    await old_pause.old.add("other", {}, jobId="other")
    await old_pause.old.call("pause")
    await redis.delete(f"bull:{old_pause.name}:{job_id}:lock")
    for _ in range(2):
        await redis.delete(f"bull:{old_pause.name}:stalled-check")
        await old_pause.store.recover([old_pause.name], max_stalled=1, interval_ms=30_000)

    await old_pause.resume(resumer)

    await all_run(old_pause, [job_id, "other"])


@pytest.mark.parametrize("first", ["toril", "bullmq5"])
@pytest.mark.parametrize("pauser", ["toril", "bullmq5"])
async def test_nothing_is_lost_between_toril_and_5x_alone_whoever_pauses_and_adds_first(
    nodes: Nodes, queue_name: str, live_store: Store, pauser: str, first: str
) -> None:
    node = nodes.of("5")
    theirs, ours = await node.queue(queue_name), Queue(queue_name, live_store)
    events = await node.events(queue_name)
    ids = [(await ours.add("before", {})).id]
    await (ours.pause() if pauser == "toril" else theirs.call("pause"))
    adds = [lambda: ours.add("ours", {}, job_id="ours"), lambda: theirs.add("theirs", {}, jobId="theirs")]
    for add in adds if first == "toril" else reversed(adds):
        await add()

    await theirs.call("resume")

    worker = await node.worker(queue_name)
    for job_id in [*ids, "ours", "theirs"]:
        await events.event("completed", jobId=job_id)
    await worker.close()
    await node.reset()


# ------------------------------------------------------------------ rates


async def set_rate(way: Way, max: int | None) -> None:
    """This way's adder sets the rate of all workers, or lifts it."""
    if way.adder == "node":
        await (
            way.theirs.call("setGlobalRateLimit", max, WINDOW_MS) if max else way.theirs.call("removeGlobalRateLimit")
        )
        return
    rate = None if max is None else RateLimit(max, per=WINDOW_MS / 1000)
    await way.ours.configure(replace(await way.ours.settings(), rate_limit=rate))


async def test_both_sides_see_the_rate_and_concurrency_of_a_queue(way: Way) -> None:
    await set_rate(way, 2)
    await set_concurrency(way, 3)
    assert await way.theirs.call("getGlobalRateLimit") == {"max": 2, "duration": WINDOW_MS}
    assert await way.theirs.call("getGlobalConcurrency") == 3
    assert (await way.ours.settings()).rate_limit == RateLimit(2, per=WINDOW_MS / 1000)
    assert (await way.ours.settings()).concurrency == 3

    await set_rate(way, None)
    await set_concurrency(way, None)
    assert await way.theirs.call("getGlobalRateLimit") is None
    assert await way.theirs.call("getGlobalConcurrency") is None
    settings = await way.ours.settings()
    assert (settings.rate_limit, settings.concurrency) == (None, None)


async def test_a_rate_is_kept_by_the_other_side(way: Way) -> None:
    await set_rate(way, 2)
    ids = [await way.add("limited", {}) for _ in range(5)]

    async with way.working():
        for job_id in ids:
            await way.ended(job_id)

    started = [event.at_ms for event in await history(way, "active")]
    # Two in each window; a window begins with the first job in it and lasts by the server's clock.
    assert all(third - first >= WINDOW_MS - 20 for first, third in zip(started, started[2:], strict=False)), started


async def test_a_rate_is_shared_by_workers_of_both_sides(shared: Shared) -> None:
    await shared.theirs.call("setGlobalRateLimit", 2, WINDOW_MS)
    ids = [await shared.theirs.add("limited", {}) for _ in range(6)]

    worker = await shared.node.worker(shared.name)
    async with shared.worker().at_work():
        for job_id in ids:
            await shared.events.event("completed", jobId=job_id)
    await worker.close()

    started = [event.at_ms for event in await history(shared, "active")]
    assert all(third - first >= WINDOW_MS - 20 for first, third in zip(started, started[2:], strict=False)), started


async def test_a_rate_that_was_lifted_limits_no_more(way: Way) -> None:
    await set_rate(way, 1)
    await set_rate(way, None)
    ids = [await way.add("free", {"do": [["hold"]]}) for _ in range(3)]

    async with way.working() as worker:
        for job_id in ids:
            await worker.held(job_id)
        for job_id in ids:
            await worker.release(job_id)
            await way.ended(job_id)


async def test_a_handlers_wish_for_patience_holds_back_the_workers_of_the_other_side(way: Way) -> None:
    """A queue with a rate: Node's workers look at no limit where there is none."""
    await way.theirs.call("setGlobalRateLimit", 100, 1_000)
    job_id = await way.add("asks", {"tries": [[["limit", WINDOW_MS]], []]})
    async with way.working(concurrency=1):
        await way.events.event("waiting", jobId=job_id, prev="active")
        ttl = await way.theirs.call("getRateLimitTtl")
        limited = (await way.ours.settings()).limited_until_ms
        await way.theirs.job(job_id, "updateData", {})
        await way.ended(job_id)

    assert 0 < ttl <= WINDOW_MS
    assert (limited is not None) == (way.worked_by == "toril")
    seen = await way.seen(job_id)
    assert (seen.state, seen.attempts, seen.started) == (State.COMPLETED, 1, 2)
    first, second = (event.at_ms for event in await history(way, "active"))
    assert second - first >= WINDOW_MS - 20


# ------------------------------------------------------------------ concurrency over all workers


async def set_concurrency(way: Way, number: int | None) -> None:
    """This way's adder sets how many jobs may run at once, or lifts it."""
    if way.adder == "node":
        method = "setGlobalConcurrency" if number else "removeGlobalConcurrency"
        await way.theirs.call(method, *([number] if number else []))
        return
    await way.ours.configure(replace(await way.ours.settings(), concurrency=number))


async def test_no_more_jobs_run_at_once_than_may_on_either_side(way: Way) -> None:
    await set_concurrency(way, 2)
    ids = [await way.add("counted", {}) for _ in range(20)]

    worker = await way.node.worker(way.name, concurrency=5)
    async with way.worker(concurrency=5).at_work():
        for job_id in ids:
            await way.ended(job_id)
    await worker.close()

    running, most = 0, 0
    for event in await history(way, "active", "completed"):
        running += 1 if event.name == "active" else -1
        most = max(most, running)
    assert most == 2


async def test_a_worker_takes_the_next_job_when_the_other_sides_worker_has_ended_one(way: Way) -> None:
    await set_concurrency(way, 1)
    first = await way.add("first", {"do": [["hold"]]})
    async with way.working() as worker:
        await worker.held(first)
        second = await way.add("second", {})
        await worker.release(first)
        await way.ended(first)
        await way.ended(second)

    names = [(event.name, event.job_id) for event in await history(way, "active", "completed")]
    assert names == [("active", first), ("completed", first), ("active", second), ("completed", second)]
    assert all(one != other for one, other in pairwise(names))


async def test_toril_rings_when_it_makes_room_in_a_full_queue(shared: Shared, redis: Any) -> None:
    """Workers of either side that found it full wait for that."""
    await shared.theirs.call("setGlobalConcurrency", 1)
    for _ in range(2):
        await shared.theirs.add("counted", {})
    wanted = Wanted("w", "token", 30_000, (Slots(shared.name, 2),))
    claimed = await shared.store.claim(wanted)
    assert claimed.idle[shared.name].reason == "full"
    await redis.delete(f"bull:{shared.name}:marker")

    await shared.store.settle([Settlement(claimed.claims[0], Completed())])

    assert await redis.zscore(f"bull:{shared.name}:marker", "0") == 0
