"""One side's jobs, changed by hand through the other."""

from __future__ import annotations

import uuid
from typing import Any, Protocol

import pytest

from interop.peers import NodeQueue, PeerError, Way
from toril.errors import JobNotFound, QueueBusy, QueueNotPaused, WrongState
from toril.model import Answer, Completed, JobRef, Settlement, Slots, Update, Wanted
from toril.queue import Queue
from toril.states import State
from toril.wirejson import Json, encode

REFUSED = (PeerError, WrongState, JobNotFound, QueueBusy, QueueNotPaused)


class Manager(Protocol):
    """What people do to jobs and queues."""

    async def retry(self, job_id: str) -> None: ...
    async def retry_anew(self, job_id: str) -> None: ...
    async def promote(self, job_id: str) -> None: ...
    async def remove(self, job_id: str) -> None: ...
    async def change_delay(self, job_id: str, delay_ms: int) -> None: ...
    async def change_priority(self, job_id: str, priority: int, *, lifo: bool = False) -> None: ...
    async def update_data(self, job_id: str, data: Json) -> None: ...
    async def update_progress(self, job_id: str, progress: Json) -> None: ...
    async def log(self, job_id: str, line: str) -> None: ...
    async def clear_logs(self, job_id: str, keep: int) -> None: ...
    async def retry_all(self, state: State) -> None: ...
    async def promote_all(self) -> None: ...
    async def clean(self, state: State, *, grace_ms: int, limit: int) -> None: ...
    async def drain(self, *, delayed: bool) -> None: ...
    async def pause(self) -> None: ...
    async def obliterate(self, *, force: bool) -> None: ...


class NodeManager:
    def __init__(self, queue: NodeQueue) -> None:
        self._queue = queue

    async def _finished_as(self, job_id: str) -> str:
        state: str = await self._queue.job(job_id, "getState")
        return state

    async def retry(self, job_id: str) -> None:
        await self._queue.job(job_id, "retry", await self._finished_as(job_id))

    async def retry_anew(self, job_id: str) -> None:
        anew = {"resetAttemptsMade": True, "resetAttemptsStarted": True}
        await self._queue.job(job_id, "retry", await self._finished_as(job_id), anew)

    async def promote(self, job_id: str) -> None:
        await self._queue.job(job_id, "promote")

    async def remove(self, job_id: str) -> None:
        await self._queue.job(job_id, "remove")

    async def change_delay(self, job_id: str, delay_ms: int) -> None:
        await self._queue.job(job_id, "changeDelay", delay_ms)

    async def change_priority(self, job_id: str, priority: int, *, lifo: bool = False) -> None:
        await self._queue.job(job_id, "changePriority", {"priority": priority, "lifo": lifo})

    async def update_data(self, job_id: str, data: Json) -> None:
        await self._queue.job(job_id, "updateData", data)

    async def update_progress(self, job_id: str, progress: Json) -> None:
        await self._queue.job(job_id, "updateProgress", progress)

    async def log(self, job_id: str, line: str) -> None:
        await self._queue.job(job_id, "log", line)

    async def clear_logs(self, job_id: str, keep: int) -> None:
        await self._queue.job(job_id, "clearLogs", keep)

    async def retry_all(self, state: State) -> None:
        await self._queue.call("retryJobs", {"state": str(state)})

    async def promote_all(self) -> None:
        await self._queue.call("promoteJobs")

    async def clean(self, state: State, *, grace_ms: int, limit: int) -> None:
        await self._queue.call("clean", grace_ms, limit, "wait" if state is State.WAITING else str(state))

    async def drain(self, *, delayed: bool) -> None:
        await self._queue.call("drain", delayed)

    async def pause(self) -> None:
        await self._queue.call("pause")

    async def obliterate(self, *, force: bool) -> None:
        await self._queue.call("obliterate", {"force": force})


class TorilManager:
    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._store = queue.store

    async def retry(self, job_id: str) -> None:
        await self._queue.job(job_id).retry()

    async def retry_anew(self, job_id: str) -> None:
        await self._queue.job(job_id).retry(reset_attempts=True)

    async def promote(self, job_id: str) -> None:
        await self._queue.job(job_id).promote()

    async def remove(self, job_id: str) -> None:
        if not await self._queue.remove(job_id):
            raise JobNotFound(JobRef(self._queue.name, job_id))

    async def change_delay(self, job_id: str, delay_ms: int) -> None:
        await self._queue.job(job_id).change_delay(delay_ms / 1000)

    async def change_priority(self, job_id: str, priority: int, *, lifo: bool = False) -> None:
        await self._queue.job(job_id).change_priority(priority, lifo=lifo)

    async def update_data(self, job_id: str, data: Json) -> None:
        await self._queue.job(job_id).update_data(data)

    async def update_progress(self, job_id: str, progress: Json) -> None:
        await self._update(Update(JobRef(self._queue.name, job_id), progress=encode(progress)))

    async def log(self, job_id: str, line: str) -> None:
        await self._update(Update(JobRef(self._queue.name, job_id), logs=(line,)))

    async def clear_logs(self, job_id: str, keep: int) -> None:
        await self._update(Update(JobRef(self._queue.name, job_id), clear_logs=keep))

    async def _update(self, update: Update) -> None:
        if await self._store.update([update]) != [Answer.DONE]:
            raise JobNotFound(update.ref)

    async def retry_all(self, state: State) -> None:
        await self._queue.retry_all(state)

    async def promote_all(self) -> None:
        await self._queue.promote_all()

    async def clean(self, state: State, *, grace_ms: int, limit: int) -> None:
        await self._queue.clean(state, older_than=grace_ms / 1000, limit=limit)

    async def drain(self, *, delayed: bool) -> None:
        await self._queue.drain(delayed=delayed)

    async def pause(self) -> None:
        await self._queue.pause()

    async def obliterate(self, *, force: bool) -> None:
        await self._queue.obliterate(force=force)


@pytest.fixture
def manager(way: Way) -> Manager:
    """The side that has not added the jobs, and works on them."""
    return TorilManager(way.ours) if way.worked_by == "toril" else NodeManager(way.theirs)


async def given_ended(way: Way, *jobs: dict[str, Any]) -> list[str]:
    """Jobs that do these steps once, and then nothing; all have ended."""
    ids = [await way.add("job", data) for data in jobs]
    async with way.working():
        for job_id in ids:
            await way.ended(job_id)
    return ids


FAILING: dict[str, Any] = {"tries": [[["log", "tried"], ["throw", "no"]], [["return", "yes"]]]}


async def test_a_failed_job_is_run_again(way: Way, manager: Manager) -> None:
    [job_id] = await given_ended(way, FAILING)

    await manager.retry(job_id)

    seen = await way.seen(job_id)
    assert (seen.state, seen.reason, seen.ended_at_ms, seen.attempts) == (State.WAITING, None, None, 1)
    async with way.working():
        assert await way.ended(job_id) == "completed"
    seen = await way.seen(job_id)
    assert (seen.result, seen.attempts, seen.started, seen.logs) == ("yes", 2, 2, ["tried"])


async def test_a_failed_job_is_run_again_with_its_attempts_forgotten(way: Way, manager: Manager) -> None:
    [job_id] = await given_ended(way, FAILING)

    await manager.retry_anew(job_id)

    assert (await way.seen(job_id)).attempts == 0
    async with way.working():
        assert await way.ended(job_id) == "failed"
    assert (await way.seen(job_id)).started == 1


async def test_a_completed_job_is_run_again(way: Way, manager: Manager) -> None:
    [job_id] = await given_ended(way, {"do": [["return", 1]]})

    await manager.retry(job_id)
    assert (await way.seen(job_id)).result is None
    async with way.working():
        await way.ended(job_id)

    seen = await way.seen(job_id)
    assert (seen.result, seen.attempts, seen.started) == (1, 2, 2)


async def test_a_retried_job_keeps_its_priority(way: Way, manager: Manager) -> None:
    job_id = await way.add("job", FAILING, priority=3)
    async with way.working():
        await way.ended(job_id)

    await manager.retry(job_id)

    # Versions before 6.7 put it among the plain jobs.
    oldest = way.worked_by == "node" and way.node.version == "5"
    assert (await way.seen(job_id)).state is (State.WAITING if oldest else State.PRIORITIZED)


async def test_what_has_not_ended_cannot_be_run_again(way: Way, manager: Manager) -> None:
    job_id = await way.add("job")

    with pytest.raises(REFUSED):
        await manager.retry(job_id)

    assert await way.counts() == {State.WAITING: 1}


async def test_all_failed_jobs_are_run_again(way: Way, manager: Manager) -> None:
    ids = await given_ended(way, FAILING, {"do": []}, FAILING)

    await manager.retry_all(State.FAILED)

    assert await way.counts() == {State.WAITING: 2, State.COMPLETED: 1}
    async with way.working():
        for job_id in (ids[0], ids[2]):
            assert await way.ended(job_id) == "completed"


async def test_a_delayed_job_is_promoted(way: Way, manager: Manager) -> None:
    plain = await way.add("job", delay=60_000)
    urgent = await way.add("job", delay=60_000, priority=2)

    await manager.promote(plain)
    await manager.promote(urgent)

    seen = [await way.seen(plain), await way.seen(urgent)]
    assert [(job.state, job.delay_ms) for job in seen] == [(State.WAITING, 0), (State.PRIORITIZED, 0)]
    async with way.working():
        await way.ended(plain)
        await way.ended(urgent)


async def test_what_is_not_delayed_cannot_be_promoted(way: Way, manager: Manager) -> None:
    job_id = await way.add("job")

    with pytest.raises(REFUSED):
        await manager.promote(job_id)
    with pytest.raises(REFUSED):
        await manager.promote("unknown")


async def test_all_delayed_jobs_are_promoted(way: Way, manager: Manager) -> None:
    ids = [await way.add("job", delay=60_000 + n) for n in range(5)]

    await manager.promote_all()

    assert await way.ids(State.WAITING) == ids
    async with way.working():
        for job_id in ids:
            await way.ended(job_id)


async def test_jobs_are_removed_in_whatever_state_they_are(way: Way, manager: Manager, redis: Any) -> None:
    ended = await given_ended(way, FAILING, {"do": [["log", "line"]]})
    ids = [await way.add("job"), await way.add("job", priority=1), await way.add("job", delay=60_000)]

    for job_id in [*ended, *ids]:
        await manager.remove(job_id)

    assert await way.counts() == {}
    for job_id in [*ended, *ids]:
        assert await way.theirs.see(job_id) is None
        assert [key async for key in redis.scan_iter(f"bull:{way.name}:{job_id}*")] == []


async def test_a_delay_is_counted_anew(way: Way, manager: Manager) -> None:
    later, sooner = [await way.add("job", delay=60_000), await way.add("job", delay=50_000)]

    await manager.change_delay(later, 30_000)

    seen = await way.seen(later)
    assert seen.delay_ms == 30_000
    assert (seen.toril.due_at_ms or 0) >= seen.added_at_ms + 30_000
    assert await way.ids(State.DELAYED) == [later, sooner]
    with pytest.raises(REFUSED):
        await manager.change_delay(await way.add("job"), 1_000)


async def test_a_delay_that_is_cut_short_wakes_the_worker_that_waits_for_it(way: Way, manager: Manager) -> None:
    job_id = await way.add("job", delay=3_600_000)
    async with way.working():
        await way.events.event("delayed", jobId=job_id)
        await manager.change_delay(job_id, 50)
        assert await way.ended(job_id) == "completed"


async def test_a_priority_is_changed(way: Way, manager: Manager) -> None:
    ids = {name: await way.add(name, priority=5) for name in ("first", "second", "third")}
    plain = await way.add("plain")

    await manager.change_priority(ids["third"], 1)
    await manager.change_priority(ids["second"], 5, lifo=True)
    await manager.change_priority(plain, 9)
    assert await way.ids(State.PRIORITIZED) == [ids["third"], ids["second"], ids["first"], plain]
    assert await way.theirs.call("getCountsPerPriority", [1, 5, 9]) == {"1": 1, "5": 2, "9": 1}

    await manager.change_priority(plain, 0)
    await manager.change_priority(ids["first"], 0, lifo=True)
    assert await way.ids(State.WAITING) == [ids["first"], plain]
    async with way.working(concurrency=1):
        for job_id in (*ids.values(), plain):
            await way.ended(job_id)


async def test_data_is_replaced_before_the_job_runs(way: Way, manager: Manager) -> None:
    job_id = await way.add("job", {"old": True})

    await manager.update_data(job_id, {"new": ["žluťoučký", None, []]})
    async with way.working():
        await way.ended(job_id)

    assert (await way.seen(job_id)).result == {"new": ["žluťoučký", None, []]}
    with pytest.raises(REFUSED):
        await manager.update_data("unknown", {})


async def test_progress_and_log_lines_are_written_by_hand(way: Way, manager: Manager) -> None:
    job_id = await way.add("job")

    for line in ("one", "two", "drei ß"):
        await manager.log(job_id, line)
    await manager.update_progress(job_id, {"done": 3})
    told = await way.events.event("progress", jobId=job_id)

    seen = await way.seen(job_id)
    assert (seen.logs, seen.progress, told["data"]) == (["one", "two", "drei ß"], {"done": 3}, {"done": 3})
    await manager.clear_logs(job_id, 2)
    assert (await way.seen(job_id)).logs == ["two", "drei ß"]
    await manager.clear_logs(job_id, 0)
    assert (await way.seen(job_id)).logs == []


@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED])
async def test_ended_jobs_are_cleaned_oldest_first(way: Way, manager: Manager, state: State) -> None:
    steps: list[Any] = [["return", 1]] if state is State.COMPLETED else [["throw", "no"]]
    ids = [await way.add("job", {"do": steps}) for _ in range(5)]
    async with way.working(concurrency=1):
        for job_id in ids:
            await way.ended(job_id)

    await manager.clean(state, grace_ms=3_600_000, limit=10)
    assert len(await way.ids(state)) == 5
    listed = await way.ids(state)
    await manager.clean(state, grace_ms=0, limit=2)
    assert await way.ids(state) == listed[2:]
    await manager.clean(state, grace_ms=0, limit=10)
    assert await way.counts() == {}


@pytest.mark.parametrize(
    ("state", "options"),
    [(State.WAITING, {}), (State.DELAYED, {"delay": 60_000}), (State.PRIORITIZED, {"priority": 1})],
    ids=["waiting", "delayed", "prioritized"],
)
async def test_jobs_that_wait_are_cleaned(way: Way, manager: Manager, state: State, options: dict[str, Any]) -> None:
    for _ in range(4):
        await way.add("job", **options)

    await manager.clean(state, grace_ms=3_600_000, limit=10)
    assert await way.counts() == {state: 4}
    await manager.clean(state, grace_ms=0, limit=3)
    assert await way.counts() == {state: 1}


@pytest.mark.parametrize("delayed", [False, True])
async def test_a_queue_is_drained_of_what_waits(way: Way, manager: Manager, delayed: bool) -> None:
    await given_ended(way, {"do": []})
    for options in ({}, {"priority": 1}, {"delay": 60_000}, {}):
        await way.add("job", **options)

    await manager.drain(delayed=delayed)

    assert await way.counts() == ({} if delayed else {State.DELAYED: 1}) | {State.COMPLETED: 1}


async def test_a_queue_is_obliterated_with_all_that_is_in_it(way: Way, manager: Manager, redis: Any) -> None:
    await given_ended(way, FAILING, {"do": [["log", "line"]]})
    for options in ({}, {"priority": 1}, {"delay": 60_000}):
        await way.add("job", **options)
    await manager.pause()

    await manager.obliterate(force=False)

    assert await way.counts() == {}
    left = {key.removeprefix(f"bull:{way.name}:") async for key in redis.scan_iter(f"bull:{way.name}:*")}
    assert {key for key in left if not key.startswith("py:")} <= {"meta"}  # which a look at the queue may write again


async def test_a_queue_with_running_jobs_is_obliterated_only_by_force(way: Way, manager: Manager) -> None:
    await way.add("job")
    await way.store.claim(Wanted("w", "token", 30_000, (Slots(way.name, 1),)))
    await manager.pause()

    with pytest.raises(REFUSED):
        await manager.obliterate(force=False)
    assert await way.counts() == {State.ACTIVE: 1}

    await manager.obliterate(force=True)
    assert await way.counts() == {}


# ------------------------------------------------------------------ running jobs


@pytest.mark.parametrize("method", ["moveToDelayed", "moveToWait", "moveToFailed", "moveToCompleted"])
async def test_who_shows_our_token_to_node_ends_our_run_in_our_stead(way: Way, method: str) -> None:
    """As a Node program may that was handed a job by Toril's worker."""
    job_id = await way.add("job", attempts=1)
    token = uuid.uuid4().hex
    [claim] = (await way.store.claim(Wanted("w", token, 30_000, (Slots(way.name, 1),)))).claims
    arguments: dict[str, list[Any]] = {
        "moveToDelayed": [way.store.clock.now_ms() + 60_000, token],
        "moveToWait": [token],
        "moveToFailed": [{"$error": "by Node"}, token, False],
        "moveToCompleted": ["by Node", token, False],
    }
    args = arguments[method]

    with pytest.raises(PeerError, match="Lock mismatch") as refused:
        await way.theirs.job(job_id, method, *["other" if arg == token else arg for arg in args])
    assert refused.value.code == -6
    await way.theirs.job(job_id, method, *args)

    await way.store.settle([Settlement(claim, Completed('"ours"'))])
    states = {
        "moveToDelayed": State.DELAYED,
        "moveToWait": State.WAITING,
        "moveToFailed": State.FAILED,
        "moveToCompleted": State.COMPLETED,
    }
    assert await way.counts() == {states[method]: 1}
    assert (await way.seen(job_id)).result == ("by Node" if method == "moveToCompleted" else None)
