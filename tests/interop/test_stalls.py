"""Workers that vanish, and locks that lapse or are taken, on either side."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from interop.peers import Node, PeerError, Shared, TorilProcess
from toril.model import Claim, Completed, JobRef, Report, Settlement, Slots, Wanted
from toril.states import State

LOCK_MS = 500
INTERVAL_MS = 100
RENEWED_LOCK_MS = 1_000
FOLLOWED_MS = 1_500
TOO_OFTEN = "job stalled more than allowable limit"


@pytest.fixture
async def doomed(node: Node, redis_url: str) -> AsyncIterator[Node]:
    """Another process of the same version, to be killed."""
    process = Node(node.version, redis_url)
    await process.notice("ready")
    yield process
    process.kill()


@pytest.fixture
def doomed_toril(shared: Shared, redis_url: str) -> Iterator[TorilProcess]:
    """A worker of ours, to be killed."""
    process = TorilProcess(redis_url, shared.name, lock=LOCK_MS / 1000, stalled_interval=INTERVAL_MS / 1000)
    yield process
    process.kill()


async def claim(shared: Shared, token: str = "token", lock_ms: int = 30_000) -> Claim:
    """Toril takes the next job."""
    [claim] = (await shared.store.claim(Wanted("ours", token, lock_ms, (Slots(shared.name, 1),)))).claims
    return claim


async def unlock(shared: Shared, redis: Any, job_id: str) -> None:
    """Let a lock lapse."""
    assert await redis.delete(f"bull:{shared.name}:{job_id}:lock") == 1


async def recover(shared: Shared, redis: Any, *, max_stalled: int = 1) -> list[JobRef]:
    """Toril looks twice for jobs whose lock has lapsed."""
    found: list[JobRef] = []
    for _ in range(2):
        await redis.delete(f"bull:{shared.name}:stalled-check")
        recovered = await shared.store.recover([shared.name], max_stalled=max_stalled, interval_ms=30_000)
        found += [*recovered.requeued, *recovered.deferred]
    return found


async def recover_by_node(shared: Shared, job_id: str, **options: Any) -> None:
    """Node looks until it finds that a job has stalled."""
    watcher = await shared.node.worker(shared.name, autorun=False, stalledInterval=20, **options)
    await watcher.call("startStalledCheckTimer")
    await shared.events.event("stalled", jobId=job_id)
    await watcher.close()


# ------------------------------------------------------------------ processes that die


async def test_toril_finishes_the_job_of_a_node_process_that_was_killed(shared: Shared, doomed: Node) -> None:
    job_id = await shared.theirs.add("holds", {"do": [["log", "a line"], ["hold"]]}, attempts=1)
    worker = await doomed.worker(shared.name, lockDuration=LOCK_MS, stalledInterval=INTERVAL_MS)
    await worker.held(job_id)
    await shared.theirs.job(job_id, "updateData", {"do": [["log", "another"], ["return", "done"]]})
    doomed.kill()

    async with shared.worker(stalled_interval=INTERVAL_MS / 1000).at_work():
        await shared.events.event("completed", jobId=job_id)

    seen = await shared.seen(job_id)
    assert (seen.result, seen.stalled, seen.started, seen.attempts) == ("done", 1, 2, 1)
    assert seen.logs == ["a line", "another"]
    assert [attempt.outcome for attempt in seen.toril.history][:1] == ["stalled"]
    assert await shared.counts() == {State.COMPLETED: 1}


async def test_node_finishes_the_job_of_a_toril_process_that_was_killed(
    shared: Shared, doomed_toril: TorilProcess
) -> None:
    job = await shared.ours.add("holds", {"do": [["log", "a line"], ["hold"]]})
    await doomed_toril.notice("held", id=job.id)
    await job.update_data({"do": [["log", "another"], ["return", "done"]]})
    doomed_toril.kill()

    worker = await shared.node.worker(shared.name, stalledInterval=INTERVAL_MS)
    await shared.events.event("completed", jobId=job.id)
    await worker.close()

    seen = await shared.seen(job.id)
    assert (seen.result, seen.stalled, seen.started, seen.attempts) == ("done", 1, 2, 1)
    assert seen.logs == ["a line", "another"]
    assert await shared.counts() == {State.COMPLETED: 1}


async def test_a_job_that_kills_its_workers_is_failed_by_the_other_side(shared: Shared, doomed: Node) -> None:
    """It stalls once under Node, and once under Toril."""
    job_id = await shared.theirs.add("kills", {"do": [["crash"]]}, attempts=9)
    with contextlib.suppress(PeerError):  # it may be dead before it has said that it is open
        await doomed.worker(shared.name, lockDuration=LOCK_MS, stalledInterval=INTERVAL_MS)
    await shared.events.event("active", jobId=job_id)

    async with shared.worker(stalled_interval=INTERVAL_MS / 1000, max_stalled=0).at_work() as worker:
        await shared.events.event("failed", jobId=job_id)
        assert worker.started == []

    seen = await shared.seen(job_id)
    assert (seen.reason, seen.stalled, seen.attempts) == (TOO_OFTEN, 1, 1)
    assert "defa" not in seen.node["stored"]


# ------------------------------------------------------------------ who judges, and who carries it out


async def test_node_fails_the_job_of_which_toril_found_that_it_has_stalled_too_often(
    shared: Shared, redis: Any
) -> None:
    job = await shared.ours.add("stalls", attempts=5)
    await claim(shared)
    await unlock(shared, redis, job.id)
    assert await recover(shared, redis, max_stalled=0) == [job.ref]

    worker = await shared.node.worker(shared.name)
    await shared.events.event("failed", jobId=job.id)
    await worker.close()

    seen = await shared.seen(job.id)
    assert (seen.state, seen.reason, seen.stalled) == (State.FAILED, TOO_OFTEN, 1)
    assert not shared.node.heard("started", id=job.id)


async def test_toril_fails_the_job_of_which_node_found_that_it_has_stalled_too_often(
    shared: Shared, redis: Any
) -> None:
    job_id = await shared.theirs.add("stalls", {}, attempts=5)
    await claim(shared)
    await unlock(shared, redis, job_id)
    await recover_by_node(shared, job_id, maxStalledCount=0)
    assert (await shared.seen(job_id)).toril.deferred == TOO_OFTEN

    async with shared.worker().at_work() as worker:
        await shared.events.event("failed", jobId=job_id)
        assert worker.started == []

    seen = await shared.seen(job_id)
    assert (seen.state, seen.reason, seen.stalled) == (State.FAILED, TOO_OFTEN, 1)


async def test_one_side_suspects_and_the_other_judges(shared: Shared, redis: Any) -> None:
    job = await shared.ours.add("stalls")
    await claim(shared)
    await shared.store.recover([shared.name], max_stalled=1, interval_ms=30_000)
    assert await redis.smembers(f"bull:{shared.name}:stalled") == {job.id}
    await unlock(shared, redis, job.id)
    await redis.delete(f"bull:{shared.name}:stalled-check")

    await recover_by_node(shared, job.id)

    assert (await shared.seen(job.id)).state is State.WAITING


async def test_sides_look_for_stalled_jobs_in_turn(shared: Shared, redis: Any) -> None:
    """One check counts per interval, whoever makes it."""
    watcher = await shared.node.worker(shared.name, autorun=False, stalledInterval=60_000)
    await watcher.call("startStalledCheckTimer")
    checked = await redis.get(f"bull:{shared.name}:stalled-check")
    await shared.ours.add("runs")
    await claim(shared)

    await shared.store.recover([shared.name], max_stalled=1, interval_ms=1)

    assert checked is not None
    assert await redis.get(f"bull:{shared.name}:stalled-check") == checked
    assert await redis.smembers(f"bull:{shared.name}:stalled") == set()


# ------------------------------------------------------------------ locks that live


async def test_toril_leaves_a_job_alone_whose_lock_node_renews(shared: Shared, redis: Any) -> None:
    job_id = await shared.theirs.add("long", {"do": [["hold"], ["return", 1]]})
    worker = await shared.node.worker(shared.name, lockDuration=RENEWED_LOCK_MS)
    await worker.held(job_id)
    await locked_for(shared, redis, job_id, FOLLOWED_MS)

    assert await recover(shared, redis) == []
    await worker.release(job_id)
    await shared.events.event("completed", jobId=job_id)
    assert (await shared.seen(job_id)).started == 1


async def test_node_leaves_a_job_alone_whose_lock_toril_renews(shared: Shared, redis: Any) -> None:
    job = await shared.ours.add("long", {"do": [["hold"], ["return", 1]]})
    watcher = await shared.node.worker(shared.name, autorun=False, stalledInterval=20)
    async with shared.worker(lock=RENEWED_LOCK_MS / 1000).at_work() as worker:
        await worker.held(job.id)
        await watcher.call("startStalledCheckTimer")
        await locked_for(shared, redis, job.id, FOLLOWED_MS)
        await worker.release(job.id)
        await shared.events.event("completed", jobId=job.id)

    assert not shared.node.heard("event", event="stalled")
    assert (await shared.seen(job.id)).started == 1


async def locked_for(shared: Shared, redis: Any, job_id: str, ms: int) -> None:
    """Follow a lock through its renewals for so long; it is there at every look."""
    key = f"bull:{shared.name}:{job_id}:lock"
    until_ms = await now_ms(redis) + ms
    while await now_ms(redis) < until_ms:
        assert await redis.pttl(key) > 0


async def now_ms(redis: Any) -> int:
    seconds, micros = await redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


# ------------------------------------------------------------------ locks that were lost


async def test_a_node_worker_cannot_finish_the_job_that_toril_works_on(shared: Shared, redis: Any) -> None:
    job_id = await shared.theirs.add("slow", {"do": [["hold"], ["return", "theirs"]]})
    theirs = await shared.node.worker(shared.name, lockDuration=60_000)
    await theirs.held(job_id)
    await unlock(shared, redis, job_id)
    await recover(shared, redis)
    await shared.theirs.job(job_id, "updateData", {"do": [["hold"], ["return", "ours"]]})

    async with shared.worker().at_work() as ours:
        await ours.held(job_id)
        await theirs.release(job_id)
        refused = await theirs.notice("error")
        assert (await shared.seen(job_id)).state is State.ACTIVE
        await ours.release(job_id)
        await shared.events.event("completed", jobId=job_id)

    assert "Lock mismatch" in refused["reason"]
    assert (await shared.seen(job_id)).result == "ours"
    assert not shared.node.heard("event", event="completed")


async def test_a_node_worker_cannot_finish_the_job_that_toril_has_finished(shared: Shared, redis: Any) -> None:
    job_id = await shared.theirs.add("slow", {"do": [["hold"], ["throw", "theirs"]]})
    theirs = await shared.node.worker(shared.name, lockDuration=60_000)
    await theirs.held(job_id)
    await unlock(shared, redis, job_id)
    await recover(shared, redis)
    await shared.theirs.job(job_id, "updateData", {"do": [["return", "ours"]]})
    async with shared.worker().at_work():
        await shared.events.event("completed", jobId=job_id)

    await theirs.release(job_id)
    refused = await theirs.notice("error")

    assert "Missing lock" in refused["reason"]
    seen = await shared.seen(job_id)
    assert (seen.state, seen.result) == (State.COMPLETED, "ours")
    assert not shared.node.heard("event", event="failed")


async def test_a_toril_worker_cannot_finish_the_job_that_node_works_on(shared: Shared, redis: Any) -> None:
    job = await shared.ours.add("slow", {"do": [["hold"], ["return", "theirs"]]})
    mine = await claim(shared)
    await unlock(shared, redis, job.id)
    await recover_by_node(shared, job.id)
    theirs = await shared.node.worker(shared.name)
    await theirs.held(job.id)

    assert await shared.store.extend([mine], 30_000) == [job.ref]
    assert await shared.store.report([Report(mine, "99", ("a line",))]) == [job.ref]
    assert (await shared.store.settle([Settlement(mine, Completed('"ours"'))])).lost == (job.ref,)
    await theirs.release(job.id)
    await shared.events.event("completed", jobId=job.id)

    assert (await shared.store.settle([Settlement(mine, Completed('"ours"'))])).lost == (job.ref,)
    seen = await shared.seen(job.id)
    assert (seen.result, seen.progress, seen.logs) == ("theirs", 0, [])


async def test_neither_side_removes_a_job_under_the_others_lock(shared: Shared) -> None:
    mine = await shared.ours.add("mine")
    await claim(shared)
    with pytest.raises(PeerError, match="could not be removed because it is locked"):
        await shared.theirs.job(mine.id, "remove")

    theirs = await shared.theirs.add("theirs", {"do": [["hold"]]})
    worker = await shared.node.worker(shared.name)
    await worker.held(theirs)
    assert not await shared.ours.remove(theirs)

    await worker.release(theirs)
    await shared.events.event("completed", jobId=theirs)
    assert await shared.counts() == {State.ACTIVE: 1, State.COMPLETED: 1}


async def test_a_job_that_toril_hands_back_is_taken_by_node_at_no_attempts_cost(shared: Shared) -> None:
    job = await shared.ours.add("long", {"do": [["hold"], ["return", 1]]})
    async with shared.worker().at_work() as worker:
        await worker.held(job.id)
    await job.update_data({})

    theirs = await shared.node.worker(shared.name)
    await shared.events.event("completed", jobId=job.id)
    await theirs.close()

    seen = await shared.seen(job.id)
    assert (seen.attempts, seen.started, seen.stalled) == (1, 2, 0)
