"""Flows whose jobs are added by one side, and worked on by either, level by level: they end as Node's own do."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest

from interop.peers import Node, NodeObject, PeerError, TorilWorker, Way, as_call, as_flow_job
from interop.test_getters import differences, resembling
from toril.app import App
from toril.errors import ParentTaken
from toril.flow import Flow, FlowProducer, Tree, flow_of, read_tree
from toril.model import JobRecord, JobRef
from toril.states import State
from toril.store import Store
from toril.stores.redis.store import RedisStore
from toril.wirejson import Json

CREWS = [
    ("node", "toril", "toril"),
    ("node", "toril", "node"),
    ("node", "node", "toril"),
    *(
        (adder, *crew)
        for adder in ("app", "producer")
        for crew in [("node", "node"), ("node", "toril"), ("toril", "node")]
    ),
]
"""Who adds a flow, who works on its root, and who on the levels below."""

MIXED = [(adder, *crew) for adder in ("node", "app") for crew in [("node", "toril"), ("toril", "node")]]
"""Flows of which parents and children are worked on by different sides."""

FLAGS = [
    None,
    "failParentOnFailure",
    "continueParentOnFailure",
    "ignoreDependencyOnFailure",
    "removeDependencyOnFailure",
]
LATER = {"delay": 60_000}
ONCE_BAD = {"tries": [[["throw", "bad"]], [["return", "mended"]]]}
FAMILY = {"do": [["await-children"], ["children"]]}
"""A parent that waits for its children, if it has to, and returns what they have."""


@dataclass
class Family:
    """Three queues, one for each level of a flow. `adder` adds: Node, or our `App.flow`, or our FlowProducer."""

    node: Node
    store: Store
    producer: NodeObject
    roots: Way
    middles: Way
    leaves: Way
    adder: str = "node"

    async def add(self, tree: dict[str, Any]) -> None:
        match self.adder:
            case "node":
                await self.producer.call("add", tree)
            case "app":
                await App(store=self.store).flow(as_call(tree))
            case _:
                await FlowProducer(self.store).add(as_flow_job(tree))

    def flow(self) -> Flow:
        return flow_of(JobRef(self.roots.name, "root"), self.store)

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[None]:
        """Workers of the sides that were named work on all of it."""
        async with self.roots.working(), self.middles.working(), self.leaves.working():
            yield

    async def states(self) -> dict[str, State]:
        """Where the jobs of the flow stand, by their ids, as both sides say."""
        tree = await self.flow().tree()
        node = _states_of(await self.producer.call("getFlow", {"queueName": self.roots.name, "id": "root"}))
        ours = {record.ref.id: record.state for record in tree.records()}
        assert node == ours
        return ours


def _states_of(node: dict[str, Any]) -> dict[str, State]:
    found = {str(node["job"]["id"]): State(node["job"]["state"])}
    for child in node.get("children") or ():
        found.update(_states_of(child))
    return found


async def opened(node: Node, store: Store, name: str) -> Way:
    return Way(name, node, store, await node.queue(name), await node.events(name))


@pytest.fixture
async def family(node: Node, live_store: Store) -> Family:
    mark = uuid.uuid4().hex
    roots, middles, leaves = [
        await opened(node, live_store, f"{level}-{mark}") for level in ("roots", "middles", "leaves")
    ]
    return Family(node, live_store, await node.flow(), roots, middles, leaves)


def crewed(family: Family, crew: tuple[str, str, str]) -> None:
    family.adder, family.roots.worked_by, family.leaves.worked_by = crew
    family.middles.worked_by = family.leaves.worked_by


@pytest.fixture(params=CREWS, ids="-".join)
def any_family(request: pytest.FixtureRequest, family: Family) -> Family:
    crewed(family, request.param)
    return family


@pytest.fixture(params=MIXED, ids="-".join)
def mixed_family(request: pytest.FixtureRequest, family: Family) -> Family:
    crewed(family, request.param)
    return family


def tree(way: Way, id: str, data: Json, *children: dict[str, Any], **options: Any) -> dict[str, Any]:
    """A job of a flow and those below it, as Node spells them."""
    return {
        "name": f"name of {id}",
        "queueName": way.name,
        "data": data,
        "opts": {"jobId": id, **options},
        "children": list(children),
    }


async def children_of(way: Way, job_id: str) -> dict[str, Any]:
    """The children of a job, as both sides tell them: Node's `getDependencies`, less the prefix."""
    node = await way.theirs.job(job_id, "getDependencies")
    told: dict[str, Any] = {
        "processed": {_ref(key): result for key, result in node["processed"].items()},
        "ignored": {_ref(key): reason for key, reason in node["ignored"].items()},
        "failed": sorted(map(_ref, node["failed"])),
        "unprocessed": sorted(map(_ref, node["unprocessed"])),
    }
    job = way.ours.job(job_id)
    ours = await job.children()
    assert told == {
        "processed": {str(ref): result for ref, result in (await job.child_results()).items()},
        "ignored": {str(child.ref): child.reason for child in ours if child.state == "ignored"},
        "failed": sorted(str(child.ref) for child in ours if child.state == "failed"),
        "unprocessed": sorted(str(child.ref) for child in ours if child.state == "pending"),
    }
    assert await way.theirs.job(job_id, "getChildrenValues") == node["processed"]
    assert await way.theirs.job(job_id, "getIgnoredChildrenFailures") == node["ignored"]
    assert await way.theirs.job(job_id, "getFailedChildrenValues") == node["ignored"]
    return {kind: found for kind, found in told.items() if found}


def _ref(key: str) -> str:
    return "/".join(key.split(":", 2)[1:])


# ------------------------------------------------------------------ to the end


async def test_a_flow_ends_from_its_leaves_to_its_root(any_family: Family) -> None:
    family = any_family
    roots, middles, leaves = family.roots, family.middles, family.leaves
    first = tree(middles, "m1", FAMILY, tree(leaves, "a", {"n": 1}), tree(leaves, "b", None, priority=3))
    await family.add(tree(roots, "root", FAMILY, first, tree(middles, "m2", FAMILY, tree(leaves, "c", "three"))))
    assert set((await family.states()).values()) == {State.WAITING_CHILDREN, State.WAITING, State.PRIORITIZED}

    async with family.working():
        assert await roots.ended("root") == "completed"
        below = {f"{leaves.name}/a": {"n": 1}, f"{leaves.name}/b": None}, {f"{leaves.name}/c": "three"}
        results = {f"{middles.name}/m{n}": {"results": found, "ignored": {}} for n, found in enumerate(below, 1)}
        assert (await roots.seen("root")).result == {"results": results, "ignored": {}}
        assert await children_of(roots, "root") == {"processed": results}
        assert set((await family.states()).values()) == {State.COMPLETED}


@pytest.mark.parametrize("flag", FLAGS)
async def test_a_parent_ends_as_the_policy_of_a_failed_child_says(mixed_family: Family, flag: str | None) -> None:
    family = mixed_family
    roots, leaves = family.roots, family.leaves
    bad, good = f"{leaves.name}/bad", f"{leaves.name}/good"
    policy = {flag: True} if flag else {}
    children = tree(leaves, "bad", ONCE_BAD, **policy), tree(leaves, "good", "fine", **LATER)
    await family.add(tree(roots, "root", FAMILY, *children))
    async with family.working():
        assert await leaves.ended("bad") == "failed"

        match flag:
            case "failParentOnFailure":
                assert await roots.ended("root") == "failed"
                assert (await roots.seen("root")).reason == f"child bull:{leaves.name}:bad failed"
                assert await children_of(roots, "root") == {"failed": [bad], "unprocessed": [good]}
                return
            case "continueParentOnFailure":
                await roots.events.event("waiting-children", jobId="root", prev="active")
            case _:
                assert (await family.states())["root"] is State.WAITING_CHILDREN
        await leaves.ours.job("good").promote()
        assert await leaves.ended("good") == "completed"
        if flag is None:
            assert (await family.states())["root"] is State.WAITING_CHILDREN
            assert [record.ref.id for record in (await family.flow().tree()).blocked_by] == ["bad"]
            await leaves.ours.job("bad").retry()

        assert await roots.ended("root") == "completed"
        told = {"processed": {good: "fine", **({} if flag else {bad: "mended"})}}
        if flag in ("continueParentOnFailure", "ignoreDependencyOnFailure"):
            told["ignored"] = {bad: "bad"}
        assert await children_of(roots, "root") == told
        assert (await roots.seen("root")).result == {"results": told["processed"], "ignored": told.get("ignored", {})}


async def test_the_failure_of_a_leaf_climbs_to_the_root(any_family: Family) -> None:
    family = any_family
    fails = {"failParentOnFailure": True}
    leaf = tree(family.leaves, "a", {"do": [["throw", "bad"]]}, **fails)
    await family.add(tree(family.roots, "root", FAMILY, tree(family.middles, "m1", FAMILY, leaf, **fails)))

    async with family.working():
        assert await family.roots.ended("root") == "failed"
        reasons = [(await way.seen(job_id)).reason for way, job_id in ((family.roots, "root"), (family.middles, "m1"))]
        assert reasons == [f"child bull:{family.middles.name}:m1 failed", f"child bull:{family.leaves.name}:a failed"]
        assert await family.states() == dict.fromkeys(("root", "m1", "a"), State.FAILED)


# ------------------------------------------------------------------ children that a running job adds


@pytest.mark.parametrize("crew", [("toril", "node", "toril"), ("node", "toril", "node")], ids=["node", "toril"])
async def test_a_job_waits_for_children_that_it_adds_while_it_runs(family: Family, crew: tuple[str, str, str]) -> None:
    crewed(family, crew)
    roots, middles, leaves = family.roots, family.middles, family.leaves
    added = [
        tree(middles, "m1", FAMILY, tree(leaves, "a", 1)),
        tree(leaves, "bad", {"do": [["throw", "bad"]]}, ignoreDependencyOnFailure=True),
    ]
    roots.adder = crew[0]
    await roots.add("parent", {"do": [["add-children", added], *FAMILY["do"]]}, jobId="root")

    async with family.working():
        assert await roots.ended("root") == "completed"
        results = {f"{middles.name}/m1": {"results": {f"{leaves.name}/a": 1}, "ignored": {}}}
        ignored = {f"{leaves.name}/bad": "bad"}
        assert (await roots.seen("root")).result == {"results": results, "ignored": ignored}
        assert await children_of(roots, "root") == {"processed": results, "ignored": ignored}


async def test_a_job_that_is_added_with_a_parent_of_the_other_side_is_its_child(family: Family) -> None:
    roots, leaves = family.roots, family.leaves
    crewed(family, ("node", "toril", "node"))
    await family.add(tree(roots, "root", FAMILY, tree(leaves, "a", 1, **LATER)))
    await leaves.ours.add("late", 2, job_id="b", parent=JobRef(roots.name, "root"), parent_on_failure="ignore")
    parent = {"id": "root", "queue": f"bull:{roots.name}"}
    await leaves.theirs.add("late", 3, jobId="c", parent=parent)

    async with family.working():
        assert [await leaves.ended(job_id) for job_id in ("b", "c")] == ["completed"] * 2
        assert (await family.states())["root"] is State.WAITING_CHILDREN
        await leaves.theirs.job("a", "promote")

        assert await roots.ended("root") == "completed"
        assert await children_of(roots, "root") == {
            "processed": {f"{leaves.name}/{id}": n for n, id in enumerate("abc", 1)}
        }


@pytest.mark.parametrize("adder", ["node", "app", "producer"])
async def test_a_flow_takes_in_a_job_of_the_other_side_that_has_ended(family: Family, adder: str) -> None:
    roots, leaves = family.roots, family.leaves
    crewed(family, (adder, "node", "toril"))
    leaves.adder = "toril" if adder == "node" else "node"
    await leaves.add("leaf", 1, jobId="a")
    async with family.working():
        assert await leaves.ended("a") == "completed"
        await family.add(tree(roots, "root", FAMILY, tree(leaves, "a", 1), tree(leaves, "b", 2)))

        assert await roots.ended("root") == "completed"
    assert await children_of(roots, "root") == {"processed": {f"{leaves.name}/a": 1, f"{leaves.name}/b": 2}}
    parent = (await leaves.seen("a")).toril.parent
    assert parent is not None
    assert parent.ref == JobRef(roots.name, "root")


async def test_toril_refuses_a_flow_whose_child_has_a_parent_of_nodes(family: Family) -> None:
    roots, leaves = family.roots, family.leaves
    await family.add(tree(roots, "root", FAMILY, tree(leaves, "a", 1, **LATER)))

    with pytest.raises(ParentTaken):
        await App(store=family.store).flow(as_call(tree(roots, "other", FAMILY, tree(leaves, "a", 1))))

    assert await roots.counts() == {State.WAITING_CHILDREN: 1}
    assert await family.states() == {"root": State.WAITING_CHILDREN, "a": State.DELAYED}


# ------------------------------------------------------------------ as the other side sees it


@dataclass(frozen=True)
class Twin:
    """A flow under a prefix of its own, of which one side has made all."""

    prefix: str
    worked_by: str
    store: Store


async def shown(node: Node, twin: Twin, names: tuple[str, str, str]) -> list[Any]:
    """What Node's `getFlow` shows of a flow before, while and after it is worked on."""
    producer = await node.flow(prefix=twin.prefix)
    views: list[Any] = []

    async def look() -> None:
        found = await producer.call("getFlow", {"queueName": names[0], "id": "root", "prefix": twin.prefix})
        views.append(resembling(_in_order(found)))

    def job(name: str, id: str, data: Json, *children: dict[str, Any], **options: Any) -> dict[str, Any]:
        keep = {"attempts": 1, "removeOnComplete": False, "removeOnFail": False}
        opts = {"jobId": id, **keep, **options}
        return {"name": f"name of {id}", "queueName": name, "data": data, "opts": opts, "children": list(children)}

    roots, middles, leaves = names
    bad = {"do": [["throw", "bad"]]}
    m1 = job(
        middles,
        "m1",
        FAMILY,
        job(leaves, "a", {"n": 1}),
        job(leaves, "b", bad, ignoreDependencyOnFailure=True, priority=2),
        job(leaves, "c", bad, removeDependencyOnFailure=True),
    )
    m2 = job(middles, "m2", FAMILY, job(leaves, "d", bad, failParentOnFailure=True), ignoreDependencyOnFailure=True)
    m3 = job(middles, "m3", FAMILY, job(leaves, "e", bad), job(leaves, "f", {}, continueParentOnFailure=True, **LATER))
    whole = job(roots, "root", FAMILY, m1, m2, m3)
    if twin.worked_by == "node":
        await producer.call("add", whole)
    else:
        await App(store=twin.store).flow(as_call(whole))
    await look()

    events = {name: await node.events(name, prefix=twin.prefix) for name in names}
    ends = {leaves: "abcde", middles: ["m1", "m2"]}
    async with AsyncExitStack() as stack:
        for name in (leaves, middles):
            if twin.worked_by == "node":
                worker = await node.worker(name, prefix=twin.prefix, concurrency=1)
                stack.push_async_callback(worker.close)
            else:
                await stack.enter_async_context(TorilWorker(name, twin.store, concurrency=1).at_work())
            for job_id in ends[name]:
                await events[name].notice("event", event={"completed", "failed"}, jobId=job_id)
            await look()
    return views


def _in_order(node: dict[str, Any]) -> dict[str, Any]:
    """A flow whose children, which Node shows in no order, are in that of their ids.

    One that is failed without being run has no stack of ours; Node adds its own worker's.
    """
    children = sorted(node.get("children") or (), key=lambda child: str(child["job"]["id"]))
    unrun = str(node["job"].get("failedReason", "")).startswith("child ")
    job = {**node["job"], **({"stacktrace": None} if unrun else {})}
    return {"job": job, "children": [_in_order(child) for child in children]}


async def test_node_shows_our_flow_as_its_own(node: Node, redis_url: str) -> None:
    mark = uuid.uuid4().hex
    store = RedisStore(redis_url, prefix=f"toril-{mark}")
    twins = Twin(f"node-{mark}", "node", cast("Store", store)), Twin(f"toril-{mark}", "toril", cast("Store", store))

    theirs, ours = await asyncio.gather(*(shown(node, twin, ("roots", "middles", "leaves")) for twin in twins))

    assert "\n".join(differences(theirs, ours)) == ""
    ids = [child["job"]["id"] for child in ours[-1]["children"]]
    states = [child["job"]["state"] for child in ours[-1]["children"]]
    assert dict(zip(ids, states, strict=True)) == {"m1": "completed", "m2": "failed", "m3": "waiting-children"}
    await store.close()


async def test_toril_shows_nodes_flow(family: Family) -> None:
    roots, middles, leaves = family.roots, family.middles, family.leaves
    m1 = tree(middles, "m1", FAMILY, tree(leaves, "a", 1), tree(leaves, "bad", {"do": [["throw", "no"]]}))
    await family.add(tree(roots, "root", {}, m1, tree(middles, "m2", {}, **LATER)))
    leaves.worked_by = "node"
    async with leaves.working():
        assert [await leaves.ended(job_id) for job_id in ("a", "bad")] == ["completed", "failed"]

    found = await read_tree(family.store, JobRef(roots.name, "root"))

    assert _drawn(found) == {
        "root": (State.WAITING_CHILDREN, False, ["m1", "m2"]),
        "m1": (State.WAITING_CHILDREN, True, ["a", "bad"]),
        "m2": (State.DELAYED, True, []),
        "a": (State.COMPLETED, False, []),
        "bad": (State.FAILED, True, []),
    }
    assert [record.ref for record in found.blocked_by] == [JobRef(leaves.name, "bad")]
    assert f"✗ name of bad {leaves.name}/bad failed: no (its parent waits until it is retried or removed)" in str(found)


def _drawn(found: Tree) -> dict[str, tuple[State, bool, list[str]]]:
    record = found.record
    assert record is not None
    drawn = {found.ref.id: (record.state, found.pending, sorted(child.ref.id for child in found.children))}
    for child in found.children:
        drawn.update(_drawn(child))
    return drawn


# ------------------------------------------------------------------ cancelled, tried again, removed


async def record_of(way: Way, job_id: str) -> JobRecord:
    record = await way.ours.get(job_id)
    assert record is not None
    return record


async def test_a_flow_that_toril_cancels_goes_on_in_nothing_but_what_the_other_side_runs(mixed_family: Family) -> None:
    family = mixed_family
    roots, middles, leaves = family.roots, family.middles, family.leaves
    below = tree(leaves, "a", {"do": [["hold"], ["return", "done"]]}), tree(leaves, "b", {}, **LATER)
    await family.add(tree(roots, "root", FAMILY, tree(middles, "m1", FAMILY, *below, failParentOnFailure=True)))
    async with leaves.working() as worker:
        await worker.held("a")

        assert await family.flow().cancel("enough") == [JobRef(leaves.name, "a")]

        for way, job_id in ((roots, "root"), (middles, "m1"), (leaves, "b")):
            failed = await way.events.event("failed", jobId=job_id)
            assert failed["failedReason"] == "enough"
            assert (await way.seen(job_id)).attempts == 0
        await worker.release("a")
        assert await leaves.ended("a") == "completed"
    assert (await record_of(roots, "root")).state is State.FAILED
    assert (await record_of(leaves, "a")).state is State.COMPLETED
    assert await roots.counts() == await middles.counts() == {State.FAILED: 1}
    assert await leaves.counts() == {State.FAILED: 1, State.COMPLETED: 1}


@pytest.mark.parametrize("by", ["node", "toril"])
async def test_a_failed_flow_that_either_side_retries_completes(mixed_family: Family, by: str) -> None:
    family = mixed_family
    roots, middles, leaves = family.roots, family.middles, family.leaves
    fails = {"failParentOnFailure": True}
    await family.add(
        tree(roots, "root", FAMILY, tree(middles, "m1", FAMILY, tree(leaves, "bad", ONCE_BAD, **fails), **fails))
    )
    async with family.working():
        assert await roots.ended("root") == "failed"

        if by == "toril":
            assert await family.flow().retry() == 3
        else:
            for way, job_id in ((leaves, "bad"), (middles, "m1"), (roots, "root")):
                await way.theirs.job(job_id, "retry", "failed")

        assert await roots.ended("root") == "completed"
        assert await family.states() == dict.fromkeys(("root", "m1", "bad"), State.COMPLETED)
        assert await children_of(middles, "m1") == {"processed": {f"{leaves.name}/bad": "mended"}}


@pytest.mark.parametrize("by", ["node", "toril"])
async def test_a_parent_runs_when_its_children_are_removed(mixed_family: Family, by: str) -> None:
    family = mixed_family
    roots, middles, leaves = family.roots, family.middles, family.leaves
    deep = tree(middles, "m1", FAMILY, tree(leaves, "a", 1, **LATER))
    await family.add(tree(roots, "root", FAMILY, deep, tree(leaves, "b", 2), tree(leaves, "c", 3, **LATER)))
    async with family.working():
        assert await leaves.ended("b") == "completed"

        if by == "toril":
            assert await roots.ours.job("root").remove_children() == 2
        else:
            await roots.theirs.job("root", "removeUnprocessedChildren")

        assert await roots.ended("root") == "completed"
        assert await family.states() == {"root": State.COMPLETED, "b": State.COMPLETED}
        assert await middles.counts() == {}
        assert await leaves.counts() == {State.COMPLETED: 1}
        for way, job_id in ((middles, "m1"), (leaves, "a"), (leaves, "c")):
            await way.events.event("removed", jobId=job_id)
            assert await way.theirs.see(job_id) is None


@pytest.mark.parametrize("by", ["node", "toril"])
async def test_a_parent_runs_when_its_child_leaves_it(mixed_family: Family, by: str) -> None:
    family = mixed_family
    roots, leaves = family.roots, family.leaves
    await family.add(tree(roots, "root", FAMILY, tree(leaves, "a", 1, **LATER)))
    async with family.working():
        if by == "toril":
            await leaves.ours.job("a").leave_parent()
        else:
            assert await leaves.theirs.job("a", "removeChildDependency") is True

        assert await roots.ended("root") == "completed"
        assert await children_of(roots, "root") == {}
        orphan = await leaves.seen("a")
        assert (orphan.state, orphan.toril.parent, orphan.node.get("parentKey")) == (State.DELAYED, None, None)
        await leaves.theirs.job("a", "promote")
        assert await leaves.ended("a") == "completed"


@pytest.mark.parametrize("by", ["node", "toril"])
async def test_a_flow_is_removed_with_all_below_its_root(mixed_family: Family, by: str) -> None:
    family = mixed_family
    roots, middles, leaves = family.roots, family.middles, family.leaves
    deep = tree(middles, "m1", FAMILY, tree(leaves, "a", 1, **LATER), tree(leaves, "b", 2))
    await family.add(tree(roots, "root", FAMILY, deep))
    async with leaves.working():
        assert await leaves.ended("b") == "completed"

    if by == "toril":
        assert await roots.ours.job("root").remove()
    else:
        await roots.theirs.job("root", "remove")

    assert [await way.counts() for way in (roots, middles, leaves)] == [{}, {}, {}]


@pytest.mark.parametrize("by", ["node", "toril"])
async def test_a_flow_in_which_the_other_side_works_is_not_removed(mixed_family: Family, by: str) -> None:
    family = mixed_family
    roots, leaves = family.roots, family.leaves
    await family.add(tree(roots, "root", FAMILY, tree(leaves, "a", {"do": [["hold"], ["return", 1]]})))
    async with leaves.working() as worker:
        await worker.held("a")

        if by == "toril":
            assert not await roots.ours.job("root").remove()
        else:
            with pytest.raises(PeerError, match="could not be removed because it is locked"):
                await roots.theirs.job("root", "remove")

        assert await family.states() == {"root": State.WAITING_CHILDREN, "a": State.ACTIVE}
        await worker.release("a")
        assert await leaves.ended("a") == "completed"
    assert await family.states() == {"root": State.WAITING, "a": State.COMPLETED}
