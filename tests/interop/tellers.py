"""The same history, told once by Node and once by Toril, each under a prefix of its own; Node looks at both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from interop.peers import Node, NodeObject, NodeQueue, TorilWorker, as_toril
from toril.model import (
    Answer,
    Claim,
    Completed,
    Failed,
    JobRef,
    NewJob,
    Parent,
    Report,
    Retried,
    Settlement,
    Slots,
    Unit,
    Wanted,
)
from toril.options import ChildPolicy, RateLimit, resolve
from toril.queue import Queue
from toril.store import Store
from toril.wirejson import Json, encode

LOCK_MS = 30_000
TOKEN = "token"
KEEP_ALL = {"removeOnComplete": False, "removeOnFail": False}
"""Toril always writes its rules, so Node's jobs say theirs too."""


@dataclass(frozen=True)
class Planned:
    """A job of a history, with options as Node spells them."""

    id: str
    data: Json = field(default_factory=dict[str, Any])
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def name(self) -> str:
        return f"name of {self.id}"


@dataclass(frozen=True)
class PlannedChild:
    """A child of a flow; `policy` is one of BullMQ's options for failing children."""

    id: str
    data: Json = field(default_factory=dict[str, Any])
    policy: str | None = None


POLICIES = {
    None: ChildPolicy.WAIT,
    "failParentOnFailure": ChildPolicy.FAIL,
    "continueParentOnFailure": ChildPolicy.CONTINUE,
    "ignoreDependencyOnFailure": ChildPolicy.IGNORE,
    "removeDependencyOnFailure": ChildPolicy.REMOVE,
}


class Teller(Protocol):
    """Makes a queue's history. `queue` and `events` are Node's view of it."""

    queue: NodeQueue
    events: NodeObject

    async def add(self, *jobs: Planned) -> None:
        """Add jobs in order."""

    async def add_flow(self, parent: str, *children: PlannedChild) -> None:
        """Add a flow of two levels."""

    def at_work(self) -> contextlib.AbstractAsyncContextManager[object]:
        """A worker works, one job at a time."""
        ...

    async def take(self) -> None:
        """Take the next job."""

    async def complete(self, job_id: str, result: Json) -> None:
        """End a job that was taken."""

    async def fail(self, job_id: str, reason: str) -> None:
        """End a job that was taken, or have it tried again if it may be."""

    async def tell(self, job_id: str, progress: Json, *lines: str) -> None:
        """Report progress and log lines of a job that was taken."""

    async def stall(self, job_id: str) -> None:
        """Find a job that was taken, and whose lock is gone, twice."""

    async def promote(self, job_id: str) -> None: ...
    async def retry(self, job_id: str) -> None: ...
    async def remove(self, job_id: str) -> None: ...
    async def pause(self) -> None: ...
    async def resume(self) -> None: ...
    async def limit(self, *, concurrency: int, max: int, duration_ms: int) -> None: ...


class NodeTeller:
    """Node makes the history."""

    def __init__(self, node: Node, name: str, prefix: str, queue: NodeQueue, events: NodeObject, redis: Any) -> None:
        self.queue = queue
        self.events = events
        self._node = node
        self._name = name
        self._prefix = prefix
        self._redis = redis
        self._taker: NodeObject | None = None

    async def add(self, *jobs: Planned) -> None:
        for job in jobs:
            await self.queue.add(job.name, job.data, **{"jobId": job.id, **KEEP_ALL, **job.options})

    async def add_flow(self, parent: str, *children: PlannedChild) -> None:
        producer = await self._node.flow(prefix=self._prefix)

        def tree(job_id: str, data: Json, **options: Any) -> dict[str, Any]:
            return {
                "name": Planned(job_id).name,
                "queueName": self._name,
                "data": data,
                "opts": {"jobId": job_id, "attempts": 1, **KEEP_ALL, **options},
            }

        nodes = [tree(one.id, one.data, **({one.policy: True} if one.policy else {})) for one in children]
        await producer.call("add", {**tree(parent, {}), "children": nodes})

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncGenerator[object]:
        worker = await self._node.worker(self._name, prefix=self._prefix, concurrency=1)
        yield worker
        await worker.close()

    async def take(self) -> None:
        if self._taker is None:
            self._taker = await self._node.worker(
                self._name, prefix=self._prefix, autorun=False, stalledInterval=50, name="node"
            )
        await self._taker.call("getNextJob", TOKEN)

    async def complete(self, job_id: str, result: Json) -> None:
        await self.queue.job(job_id, "moveToCompleted", result, TOKEN, False)

    async def fail(self, job_id: str, reason: str) -> None:
        await self.queue.job(job_id, "moveToFailed", {"$error": reason}, TOKEN, False)

    async def tell(self, job_id: str, progress: Json, *lines: str) -> None:
        await self.queue.job(job_id, "updateProgress", progress)
        for line in lines:
            await self.queue.job(job_id, "log", line)

    async def stall(self, job_id: str) -> None:
        assert self._taker is not None
        await self._redis.delete(f"{self._prefix}:{self._name}:{job_id}:lock")
        await self._taker.call("startStalledCheckTimer")
        await self.events.event("stalled", jobId=job_id)
        await self._taker.close()
        self._taker = None

    async def promote(self, job_id: str) -> None:
        await self.queue.job(job_id, "promote")

    async def retry(self, job_id: str) -> None:
        await self.queue.job(job_id, "retry", await self.queue.job(job_id, "getState"))

    async def remove(self, job_id: str) -> None:
        await self.queue.job(job_id, "remove")

    async def pause(self) -> None:
        await self.queue.call("pause")

    async def resume(self) -> None:
        await self.queue.call("resume")

    async def limit(self, *, concurrency: int, max: int, duration_ms: int) -> None:
        await self.queue.call("setGlobalConcurrency", concurrency)
        await self.queue.call("setGlobalRateLimit", max, duration_ms)


class TorilTeller:
    """Toril makes the history."""

    def __init__(self, name: str, store: Store, queue: NodeQueue, events: NodeObject, redis: Any) -> None:
        self.queue = queue
        self.events = events
        self._store = store
        self._ours = Queue(name, store)
        self._name = name
        self._redis = redis
        self._claims: dict[str, Claim] = {}

    async def add(self, *jobs: Planned) -> None:
        for job in jobs:
            await self._ours.add(job.name, job.data, **as_toril({"jobId": job.id, **job.options}))

    async def add_flow(self, parent: str, *children: PlannedChild) -> None:
        root = replace(self._new_job(parent, {}), has_children=True)
        members = [
            replace(self._new_job(one.id, one.data), parent=Parent(JobRef(self._name, parent), POLICIES[one.policy]))
            for one in children
        ]
        [receipt] = await self._store.add([Unit((root, *members))])
        assert receipt.refusal is None

    def _new_job(self, job_id: str, data: Json) -> NewJob:
        now_ms = self._store.clock.now_ms()
        options = resolve(as_toril({}), now_ms)
        return NewJob(
            self._name, Planned(job_id).name, job_id, encode(data), options, now_ms, nonce=f"nonce-of-{job_id}"
        )

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncGenerator[object]:
        async with TorilWorker(self._name, self._store, concurrency=1).at_work() as worker:
            yield worker

    async def take(self) -> None:
        wanted = Wanted("toril", f"{TOKEN}-{len(self._claims)}", LOCK_MS, (Slots(self._name, 1),))
        [claim] = (await self._store.claim(wanted)).claims
        self._claims[claim.ref.id] = claim

    async def complete(self, job_id: str, result: Json) -> None:
        await self._settle(Settlement(self._claims[job_id], Completed(encode(result))))

    async def fail(self, job_id: str, reason: str) -> None:
        claim = self._claims[job_id]
        stack = f"Error: {reason}\n    at somewhere"
        last = claim.attempt >= claim.options.attempts
        after_ms = 0 if claim.options.backoff is None else claim.options.backoff.wait_ms(claim.attempt)
        outcome = Failed(reason, stack) if last else Retried(after_ms, reason, stack)
        await self._settle(Settlement(claim, outcome))

    async def _settle(self, settlement: Settlement) -> None:
        assert (await self._store.settle([settlement])).lost == ()

    async def tell(self, job_id: str, progress: Json, *lines: str) -> None:
        assert await self._store.report([Report(self._claims[job_id], encode(progress), lines)]) == []

    async def stall(self, job_id: str) -> None:
        base = f"{self._store.prefix}:{self._name}:"
        await self._redis.delete(f"{base}{job_id}:lock")
        for _ in range(2):
            await self._redis.delete(f"{base}stalled-check")
            await self._store.recover([self._name], max_stalled=1, interval_ms=LOCK_MS)
        await self.events.event("stalled", jobId=job_id)

    async def promote(self, job_id: str) -> None:
        await self._ours.job(job_id).promote()

    async def retry(self, job_id: str) -> None:
        await self._ours.job(job_id).retry()

    async def remove(self, job_id: str) -> None:
        assert await self._store.remove([JobRef(self._name, job_id)]) == [Answer.DONE]

    async def pause(self) -> None:
        await self._ours.pause()

    async def resume(self) -> None:
        await self._ours.resume()

    async def limit(self, *, concurrency: int, max: int, duration_ms: int) -> None:
        settings = await self._ours.settings()
        rate = RateLimit(max, per=duration_ms / 1000)
        await self._ours.configure(replace(settings, concurrency=concurrency, rate_limit=rate))


@dataclass(frozen=True)
class Twins:
    """Both tellers of one history."""

    theirs: Teller
    ours: Teller
    theirs_key: str  # of the events
    ours_key: str

    async def each(self, story: Any) -> None:
        """Let both tell it."""
        await asyncio.gather(story(self.theirs), story(self.ours))
