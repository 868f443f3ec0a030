"""Adds of both sides in turn under one deduplication id: they answer, tell and leave what Node's do alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from interop.peers import Node, NodeWorker, TorilWorker, Way
from toril.states import State
from toril.store import Store

LATER = {"delay": 60_000}
MODES: dict[str, dict[str, Any]] = {
    "simple": {"deduplication": {"id": "d"}},
    "throttle": {"deduplication": {"id": "d", "ttl": 60_000}},
    "sliding": {"deduplication": {"id": "d", "ttl": 60_000, "extend": True}},
    "replace": {"deduplication": {"id": "d", "replace": True}, **LATER},
    "debounce": {"deduplication": {"id": "d", "ttl": 60_000, "extend": True, "replace": True}, **LATER},
    "keep-last": {"deduplication": {"id": "d", "keepLastIfActive": True}},
    "keep-last-replace": {"deduplication": {"id": "d", "keepLastIfActive": True, "replace": True}, **LATER},
}
ALONE = ("node", "node", "node")
TOGETHER = [
    ("node", "toril", "node"),
    ("node", "toril", "toril"),
    ("toril", "node", "node"),
    ("toril", "node", "toril"),
]
"""Who adds first and every other time, who adds in between, and who works."""


@dataclass
class Story:
    """Adds of two sides in turn while the owner waits, while it runs, when it has ended, and when the id is forgotten."""

    way: Way
    redis: Any
    sides: tuple[str, str, str]
    options: dict[str, Any]
    answers: list[str] = field(default_factory=list[str])  # the ids that adds were answered with
    owners: list[str | None] = field(default_factory=list[str | None])  # after each step

    async def happen(self) -> None:
        way, (first, second, way.worked_by) = self.way, self.sides
        for side, job_id in ((first, "a"), (second, "b"), (first, "c")):
            await self._add(side, job_id)
        async with way.working(concurrency=1) as worker:
            owner = await self._held(worker)
            for side, job_id in ((second, "d"), (first, "e")):
                await self._add(side, job_id)
            await self._end(worker, owner)
            if await self._owner() not in (None, owner):  # the last that came is kept, and runs now
                await self._end(worker, await self._held(worker))
        await self._add(second, "f")
        await self._forget(first)
        await self._add(second, "g")
        await self._forget(second)

    async def _add(self, side: str, job_id: str) -> None:
        self.way.adder = side
        steps = {"do": [["hold"], ["return", job_id]]}
        self.answers.append(await self.way.add(f"name of {job_id}", steps, jobId=job_id, **self.options))
        self.owners.append(await self._owner())

    async def _forget(self, side: str) -> None:
        if side == "node":
            assert await self.way.theirs.call("removeDeduplicationKey", "d") == 1
        else:
            assert await self.way.ours.forget("d")
        assert await self._owner() is None

    async def _owner(self) -> str | None:
        """Who owns the id, as both sides say."""
        theirs: str | None = await self.way.theirs.call("getDeduplicationJobId", "d")
        ours = await self.way.ours.deduplicated("d")
        assert theirs == (None if ours is None else ours.id)
        return theirs

    async def _held(self, worker: NodeWorker | TorilWorker) -> str:
        """The owner, which is at work now."""
        owner = await self._owner()
        assert owner is not None
        if "delay" in self.options:
            await self.way.theirs.job(owner, "promote")
        await worker.held(owner)
        return owner

    async def _end(self, worker: NodeWorker | TorilWorker, job_id: str) -> None:
        await worker.release(job_id)
        assert await self.way.ended(job_id) == "completed"

    async def told(self) -> list[dict[str, str]]:
        """What was told, in order, less moments. Node 5 tells some twice, in an older way."""
        entries = await self.redis.xrange(f"bull:{self.way.name}:events")
        events = [{name: text for name, text in fields.items() if name != "delay"} for _, fields in entries]
        return [event for event in events if event["event"] not in ("debounced", "drained")]

    async def left(self) -> dict[str, Any]:
        """What is left of it: the jobs in each state, and what each was made of."""
        found: dict[str, Any] = {}
        for state in State:
            for record in [record async for record in self.way.ours.iterate(state)]:
                seen = await self.way.seen(record.ref.id)
                found[record.ref.id] = (state, seen.name, seen.data, seen.result, seen.node.get("deduplicationId"))
        return {**found, "counts": await self.way.counts()}


async def story(node: Node, store: Store, redis: Any, name: str, sides: tuple[str, str, str], mode: str) -> Story:
    way = Way(name, node, store, await node.queue(name), await node.events(name))
    made = Story(way, redis, sides, MODES[mode])
    await made.happen()
    return made


@pytest.mark.parametrize("sides", TOGETHER, ids="-".join)
@pytest.mark.parametrize("mode", MODES)
async def test_two_sides_deduplicate_as_one(
    node: Node, live_store: Store, redis: Any, queue_name: str, sides: tuple[str, str, str], mode: str
) -> None:
    alone = await story(node, live_store, redis, f"{queue_name}-alone", ALONE, mode)

    together = await story(node, live_store, redis, queue_name, sides, mode)

    assert together.answers == alone.answers
    assert together.owners == alone.owners
    assert await together.told() == await alone.told()
    assert await together.left() == await alone.left()


@pytest.mark.parametrize("mode", MODES)
async def test_both_sides_hear_what_was_deduplicated(way: Way, mode: str) -> None:
    """One side adds first, the other second; while the owner is delayed, that takes its place where it may."""
    replaced = MODES[mode]["deduplication"].get("replace", False)
    first = await way.add("job", {}, jobId="a", **MODES[mode])
    way.adder = way.worked_by
    second = await way.add("job", {}, jobId="b", **MODES[mode])
    assert (first, second) == ("a", "b" if replaced else "a")

    heard = await way.events.event("deduplicated")
    told = [event for event in await way.store.read(way.name, None, limit=100) if event.name == "deduplicated"]

    about, other = ("b", "a") if replaced else ("a", "b")
    assert heard == {"jobId": about, "deduplicationId": "d", "deduplicatedJobId": other}
    assert [(event.job_id, dict(event.fields)) for event in told] == [
        (about, {"deduplication_id": "d", "deduplicated_job_id": other})
    ]
    if replaced:
        assert await way.events.event("removed") == {"jobId": "a", "prev": "delayed"}
        assert await way.theirs.see("a") is None
