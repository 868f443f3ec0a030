"""Workers of both sides on one queue, killed at random: every job ends once, as it should, and both sides count the same."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from interop.invariants import violations
from interop.peers import Node, NodeQueue, Process, TorilProcess, as_toril
from interop.snapshot import snapshot
from sizes import size
from toril.model import Event
from toril.queue import Queue
from toril.states import State
from toril.store import Store
from toril.stores.redis.store import RedisStore

QUEUE = "crowd"
LOCK_MS = 1_000
INTERVAL_MS = 300
ALLOWED_STALLS = 1_000
SECONDS_PER_JOB = 0.05

NEXT: dict[str, set[str]] = {
    "": {"added"},
    "added": {"waiting", "delayed"},
    "waiting": {"active"},
    "delayed": {"waiting"},
    "active": {"waiting", "delayed", "completed", "failed"},
}
"""Which event of a job may follow which. Besides, `stalled` follows `waiting`, and `retries-exhausted` follows `failed`."""


@dataclass(frozen=True)
class Plan:
    """A job and what must become of it."""

    id: str
    data: dict[str, Any]
    options: dict[str, Any]
    state: State
    attempts: int
    value: Any  # its result, or the reason of its failure


def planned(rng: random.Random, number: int) -> Plan:
    """A job that fails so many times, and then succeeds if it is allowed to try so often."""
    job_id, attempts, failures = f"job-{number}", rng.randint(1, 3), rng.choice([0, 0, 0, 1, 1, 2, 3])
    useless = failures > 0 and rng.random() < 0.2
    tries: list[Any] = [[["work", rng.randint(0, 15)], ["throw", f"failure {n + 1}"]] for n in range(failures)]
    if useless:
        tries[-1] = [["unrecoverable", "useless"]]
    tries.append([["work", rng.randint(0, 15)], ["return", {"number": number}]])
    options: dict[str, Any] = {"jobId": job_id, "attempts": attempts}
    options["backoff"] = {"type": "fixed", "delay": rng.choice([0, 0, 20, 100])}
    if rng.random() < 0.3:
        options["priority"] = rng.randint(1, 10)
    if rng.random() < 0.2:
        options["delay"] = rng.randint(1, 300)
    if failures >= attempts or useless:
        made = min(failures, attempts)
        reason = "useless" if useless and made == failures else f"failure {made}"
        return Plan(job_id, {"tries": tries}, options, State.FAILED, made, reason)
    return Plan(job_id, {"tries": tries}, options, State.COMPLETED, failures + 1, {"number": number})


class Crowd:
    """Two workers of each side in processes of their own; who is killed is replaced."""

    def __init__(self, version: str, url: str, prefix: str, rng: random.Random) -> None:
        self._version = version
        self._url = url
        self._prefix = prefix
        self._rng = rng
        self._members: list[Process] = []

    async def gather(self) -> None:
        self._members = list(await asyncio.gather(*(self._hire(n % 2 == 0) for n in range(4))))

    async def _hire(self, of_node: bool) -> Process:
        if not of_node:
            process = TorilProcess(
                self._url,
                QUEUE,
                prefix=self._prefix,
                concurrency=5,
                lock=LOCK_MS / 1000,
                stalled_interval=INTERVAL_MS / 1000,
                max_stalled=ALLOWED_STALLS,
            )
            await process.notice("ready")
            return process
        node = Node(self._version, self._url)
        await node.worker(
            QUEUE,
            prefix=self._prefix,
            concurrency=5,
            lockDuration=LOCK_MS,
            stalledInterval=INTERVAL_MS,
            maxStalledCount=ALLOWED_STALLS,
        )
        return node

    async def kill_one(self) -> None:
        """Kill a member in the middle of its work, and take on another."""
        victim = self._members.pop(self._rng.randrange(len(self._members)))
        victim.kill()
        self._members.append(await self._hire(isinstance(victim, Node)))

    def close(self) -> None:
        for member in self._members:
            member.kill()


@pytest.fixture
async def crowded(node: Node, redis_url: str) -> AsyncIterator[tuple[NodeQueue, Queue, Crowd, str]]:
    """A queue of its own prefix, seen by both sides, and its workers, not yet there."""
    prefix = f"crowd-{uuid.uuid4().hex}"
    store = RedisStore(redis_url, prefix=prefix)
    theirs = await node.queue(QUEUE, prefix=prefix, streams={"events": {"maxLen": 10_000_000}})
    crowd = Crowd(node.version, redis_url, prefix, random.Random(7))
    yield theirs, Queue(QUEUE, cast("Store", store)), crowd, prefix
    crowd.close()
    await store.close()


async def add_all(theirs: NodeQueue, ours: Queue, plans: list[Plan]) -> None:
    """Add by turns through either side, a hundred at a time."""
    for n in range(0, len(plans), 100):
        some = plans[n : n + 100]
        if n % 200:
            added = await theirs.call(
                "addBulk", [{"name": "job", "data": plan.data, "opts": plan.options} for plan in some]
            )
            assert [job["id"] for job in added] == [plan.id for plan in some]
        else:
            await ours.add_many([("job", plan.data, as_toril(plan.options)) for plan in some])


async def followed(ours: Queue, crowd: Crowd, count: int, kills: set[int]) -> list[Event]:
    """The history until all jobs have ended; at some starts of jobs a worker is killed."""
    history: list[Event] = []
    ended: set[str | None] = set()
    started = 0
    async with asyncio.timeout(30 + count * SECONDS_PER_JOB):
        async for event in ours.events("0-0"):
            history.append(event)
            if event.name in ("completed", "failed"):
                ended.add(event.job_id)
            if event.name == "active":
                started += 1
                if started in kills:
                    await crowd.kill_one()
            if len(ended) == count:
                break
    return history


def complaints(history: list[Event], plans: list[Plan]) -> list[str]:
    """What is wrong with a history."""
    before: dict[str, str] = dict.fromkeys((plan.id for plan in plans), "")
    found: list[str] = []
    for event in history:
        job_id = event.job_id
        if job_id is None or event.name in ("progress", "stalled", "retries-exhausted"):
            continue
        if job_id not in before:
            found.append(f"nobody added {job_id}")
        elif event.name not in NEXT.get(before[job_id], set()):
            found.append(f"{job_id}: {event.name} after {before[job_id]}")
        before[job_id] = event.name
    found += [f"{plan.id} ended {before[plan.id]}" for plan in plans if before[plan.id] != str(plan.state)]
    return found


@pytest.fixture
async def patient_redis(redis_url: str) -> AsyncIterator[Any]:
    """A client that waits for the answer to a large question."""
    client: Any = cast("Any", Redis).from_url(redis_url, decode_responses=True, socket_timeout=120)
    yield client
    await client.aclose()


@pytest.mark.timeout(900)
async def test_every_job_ends_once_under_workers_of_both_sides_that_are_killed(
    crowded: tuple[NodeQueue, Queue, Crowd, str], patient_redis: Any
) -> None:
    theirs, ours, crowd, prefix = crowded
    rng = random.Random(2026)
    plans = [planned(rng, n) for n in range(size("mixed_jobs"))]
    kills = set(rng.sample(range(20, len(plans)), size("mixed_kills")))

    adding = asyncio.create_task(add_all(theirs, ours, plans))
    await crowd.gather()
    history = await followed(ours, crowd, len(plans), kills)
    await adding

    assert complaints(history, plans) == []
    expected = Counter(plan.state for plan in plans)
    assert {state: count for state, count in (await ours.counts()).items() if count} == expected
    counted = await theirs.call("getJobCounts", *map(str, State))
    assert {State(state): count for state, count in counted.items() if count and state != "paused"} == expected

    records = {record.ref.id: record for state in expected async for record in ours.iterate(state)}
    listed = {job["id"]: job for state in expected for job in await theirs.call("getJobs", [str(state)], 0, -1, True)}
    assert records.keys() == listed.keys() == {plan.id for plan in plans}
    for plan in plans:
        record, job = records[plan.id], listed[plan.id]
        value = job["failedReason"] if plan.state is State.FAILED else job["returnvalue"]
        assert (job["state"], job["attemptsMade"], value) == (str(plan.state), plan.attempts, plan.value)
        assert (record.state, record.attempts_made) == (plan.state, plan.attempts)
        assert record.attempts_started >= record.attempts_made
        assert record.stalled == job["stalledCounter"]
    assert violations(await snapshot(patient_redis.execute_command, prefix)) == []
    assert [key async for key in patient_redis.scan_iter(f"{prefix}:{QUEUE}:*:lock")] == []
