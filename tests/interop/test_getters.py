"""Node reads of a history that Toril has made what it reads of the same history made by Node itself."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest

from interop.tellers import Planned, PlannedChild, Teller, Twins

STATES = ["waiting", "prioritized", "delayed", "active", "waiting-children", "completed", "failed"]
MOMENT = "(moment)"
MOMENTS = {"timestamp", "processedOn", "finishedOn"}


@dataclass(frozen=True)
class Allowed:
    """A difference that may be: where (a pattern of a path), and why."""

    path: str
    why: str


ALLOWED = [
    Allowed(r".*/(processedBy|pb)", "a worker of ours always has a name: its id"),
    Allowed(r"meta/version", "a label that each Node queue writes and none reads; both queues here have Node's"),
    Allowed(r".*/opts/py.*", "options that BullMQ does not know"),
    Allowed(
        r"(jobs/parent|lists/failed/\d+)(/stored)?/stacktrace",
        "a job that is failed without being run has no stack of ours; Node adds its own worker's",
    ),
    Allowed(r".*/opts/timestamp", "Node's producers of flows write it; it is in the job too"),
]
"""All that may differ besides moments, stack traces and keep rules, which `resembling` takes out or the stories name."""


# ------------------------------------------------------------------ what Node's getters say


async def said(teller: Teller, ids: list[str]) -> dict[str, Any]:
    """All that Node's getters say of a queue and these jobs of it."""
    call = teller.queue.call
    answers: dict[str, Any] = resembling(
        {
            "counts": await call("getJobCounts", *STATES),
            "lists": {state: in_order(state, await call("getJobs", [state], 0, -1, True)) for state in STATES},
            "jobs": {job_id: await teller.queue.see(job_id) for job_id in ids},
            "children": {job_id: await children(teller, job_id) for job_id in ids},
            "priorities": await call("getCountsPerPriority", [0, 1, 5, 2_097_151]),
            "meta": await call("getMeta"),
            "paused": await call("isPaused"),
            "maxed": await call("isMaxed"),
            "concurrency": await call("getGlobalConcurrency"),
            "rate": await call("getGlobalRateLimit"),
            "ttl": (await call("getRateLimitTtl")) > 0,
            "waiting": await call("count"),
        }
    )
    return answers


def in_order(state: str, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Jobs as they are listed; those that may have ended in the same millisecond by their id."""
    return sorted(jobs, key=lambda job: str(job["id"])) if state in ("completed", "failed") else jobs


async def children(teller: Teller, job_id: str) -> Any:
    """What Node says of a job's children and of where it stands."""
    if await teller.queue.see(job_id) is None:
        return None
    asked = ["isCompleted", "isFailed", "isDelayed", "isActive", "isWaiting", "isWaitingChildren"]
    asked += ["getDependencies", "getDependenciesCount", "getChildrenValues", "getIgnoredChildrenFailures"]
    answers = {method: await teller.queue.job(job_id, method) for method in asked}
    answers["getDependencies"].get("unprocessed", []).sort()  # a set, in no order
    return answers


async def happened(teller: Teller, redis: Any, key: str) -> list[dict[str, Any]]:
    """The events of a queue, in order."""
    entries = await redis.xrange(key)
    return [resembling(fields) for _, fields in entries]


def resembling(value: Any, name: str = "") -> Any:
    """A value in which moments and stack traces are told by their kind only, and no prefix shows."""
    if isinstance(value, dict):
        return {_without_prefix(key): resembling(member, key) for key, member in members_of(value).items()}
    if isinstance(value, list):
        if name == "stacktrace":
            return [_without_prefix(_reason(stack)) for stack in members_of(value).values()]
        return [resembling(member) for member in members_of(value).values()]
    if name in MOMENTS or (name == "delay" and re.fullmatch(r"1[5-9]\d{11}", str(value))):
        return MOMENT
    if name == "stacktrace" and isinstance(value, str):  # asJSON has it as text
        return resembling(json.loads(value), name)
    return _without_prefix(value) if isinstance(value, str) else value


def _reason(stack: str) -> str:
    """The message of a stack trace, which Node has on top and Python at the bottom."""
    lines = stack.strip().splitlines()
    return lines[-1 if lines[0].startswith("Traceback") else 0].partition(": ")[2]


def _without_prefix(text: str) -> str:
    return re.sub(r"\b(node|toril)-[0-9a-f]{32}\b", "prefix", text)


def differences(theirs: Any, ours: Any, path: str = "") -> Iterator[str]:
    """Each place where they differ and may not."""
    one, other = members_of(theirs), members_of(ours)
    if one and other and (isinstance(theirs, dict) or len(one) == len(other)):
        for key in one.keys() | other.keys():
            yield from differences(one.get(key), other.get(key), f"{path}/{key}" if path else str(key))
    elif theirs != ours and not any(re.fullmatch(allowed.path, path) for allowed in ALLOWED):
        yield f"{path}: Node's is {theirs!r}, ours {ours!r}"


def members_of(value: Any) -> dict[Any, Any]:
    """What a dict or a list holds, by name or place."""
    if isinstance(value, list):
        return dict(enumerate(cast("Iterable[Any]", value)))
    return cast("dict[str, Any]", value if isinstance(value, dict) else {})


# ------------------------------------------------------------------ histories

AT_ONCE = {"type": "fixed", "delay": 0}


async def waiting(teller: Teller) -> None:
    await teller.add(
        Planned("plain", {"a": [1, {"b": None}], "ü": "🐂"}, {"attempts": 1}),
        Planned("bare", None, {"attempts": 3, "backoff": {"type": "fixed", "delay": 500}}),
        Planned("lifo", [], {"attempts": 1, "lifo": True}),
        Planned("late", {}, {"attempts": 1, "delay": 60_000}),
        Planned("later", {}, {"attempts": 1, "delay": 70_000, "priority": 5}),
        Planned("urgent", "text", {"attempts": 1, "priority": 1}),
        Planned("low", 12.5, {"attempts": 1, "priority": 2_097_151, "keepLogs": 5}),
        Planned("also urgent", True, {"attempts": 1, "priority": 1}),
        Planned("ruled", {}, {"attempts": 2, "backoff": {"type": "exponential", "delay": 10, "jitter": 0.5}}),
        Planned("short", {}, {"attempts": 1, "removeOnComplete": True, "removeOnFail": {"age": 60, "count": 5}}),
        Planned("plain", {"again": True}, {"attempts": 1}),
    )


async def completed(teller: Teller) -> None:
    await teller.add(
        Planned(
            "a", {"do": [["log", "one"], ["progress", 50], ["log", "two"], ["return", {"x": []}]]}, {"attempts": 1}
        ),
        Planned("b", {"do": []}, {"attempts": 1}),
        Planned("c", {"do": [["progress", {"step": "é"}], ["return", "text"]]}, {"attempts": 1, "keepLogs": 1}),
        Planned("d", "echo", {"attempts": 1, "priority": 5}),
    )
    await work(teller, "a", "b", "c", "d")


async def failed(teller: Teller) -> None:
    again = {"attempts": 3, "backoff": AT_ONCE}
    await teller.add(
        Planned("once", {"do": [["throw", "no"]]}, {"attempts": 1}),
        Planned("thrice", {"tries": [[["throw", "1st"]], [["throw", "2nd"]], [["throw", "3rd"]]]}, again),
        Planned("useless", {"do": [["unrecoverable", "never"]]}, again),
        Planned("at last", {"tries": [[["throw", "not yet"]], [["return", 1]]]}, again),
    )
    await work(teller, "once", "thrice", "useless", "at last")


async def put_off(teller: Teller) -> None:
    """Jobs that failed and are to be tried again later, or at once."""
    backoff = {"type": "exponential", "delay": 60_000}
    await teller.add(
        Planned("later", {}, {"attempts": 3, "backoff": backoff}),
        Planned("now", {}, {"attempts": 3, "priority": 5, "backoff": AT_ONCE}),
    )
    for job_id in ("later", "now"):
        await teller.take()
        await teller.tell(job_id, 10, "line")
        await teller.fail(job_id, f"first of {job_id}")
    await teller.promote("later")
    await teller.take()
    await teller.fail("later", "second")


async def running(teller: Teller) -> None:
    await teller.add(Planned("a", {}, {"attempts": 1}), Planned("b", {}, {"attempts": 1, "priority": 1}))
    await teller.take()
    await teller.take()
    await teller.tell("a", {"half": True}, "a line")
    await teller.complete("b", None)


async def kept(teller: Teller) -> None:
    jobs = [
        Planned("a", {}, {"attempts": 1}),
        Planned("gone", {}, {"attempts": 1, "removeOnComplete": True}),
        Planned("b", {}, {"attempts": 1, "removeOnComplete": 2}),
        Planned("c", {}, {"attempts": 1, "removeOnComplete": {"count": 2, "age": 3600}}),
        Planned("fails", {"do": [["throw", "no"]]}, {"attempts": 1, "removeOnFail": True}),
    ]
    await teller.add(*jobs)
    await work(teller, *(job.id for job in jobs))


async def retried(teller: Teller) -> None:
    """Finished jobs, run again by hand."""
    steps = {"tries": [[["throw", "no"]], [["return", "yes"]]]}
    await teller.add(Planned("f", steps, {"attempts": 1}), Planned("c", {}, {"attempts": 1}))
    await work(teller, "f", "c")
    await teller.retry("f")
    await teller.retry("c")
    await work(teller, "f", "c")
    await teller.retry("c")


async def stalled(teller: Teller) -> None:
    await teller.add(Planned("a", {}, {"attempts": 1}), Planned("b", {}, {"attempts": 1}))
    await teller.take()
    await teller.stall("a")


async def held_back(teller: Teller) -> None:
    await teller.add(Planned("first", {}, {"attempts": 1}))
    await teller.pause()
    await teller.resume()
    await teller.limit(concurrency=1, max=1, duration_ms=60_000)
    await teller.take()


async def paused(teller: Teller) -> None:
    await teller.pause()
    await teller.add(Planned("later", {}, {"attempts": 1, "delay": 50_000}))


async def removed(teller: Teller) -> None:
    jobs = [
        Planned("plain", {}, {"attempts": 1}),
        Planned("late", {}, {"attempts": 1, "delay": 60_000}),
        Planned("urgent", {}, {"attempts": 1, "priority": 1}),
    ]
    await teller.add(
        Planned("done", {}, {"attempts": 1}), Planned("broken", {"do": [["throw", "no"]]}, {"attempts": 1})
    )
    await work(teller, "done", "broken")
    await teller.add(*jobs)
    for job_id in ("plain", "late", "urgent", "done", "broken"):
        await teller.remove(job_id)


async def flow_pending(teller: Teller) -> None:
    await teller.add_flow("parent", PlannedChild("one"), PlannedChild("two", policy="failParentOnFailure"))


async def flow_done(teller: Teller) -> None:
    await teller.add_flow("parent", PlannedChild("one", {"r": 1}), PlannedChild("two", "two"))
    await work(teller, "one", "two", "parent")


async def flow_ignoring(teller: Teller) -> None:
    broken = {"do": [["throw", "no"]]}
    await teller.add_flow(
        "parent",
        PlannedChild("one", broken, "ignoreDependencyOnFailure"),
        PlannedChild("two", broken, "removeDependencyOnFailure"),
        PlannedChild("three", {"r": 3}),
    )
    await work(teller, "one", "two", "three", "parent")


async def flow_failing(teller: Teller) -> None:
    await teller.add_flow(
        "parent", PlannedChild("one", {"do": [["throw", "no"]]}, "failParentOnFailure"), PlannedChild("two")
    )
    await work(teller, "one", "two", "parent")


async def work(teller: Teller, *ids: str) -> None:
    """Work until these jobs have ended."""
    async with teller.at_work():
        for job_id in ids:
            await teller.events.notice("event", event={"completed", "failed"}, jobId=job_id)


Story = Callable[[Teller], Awaitable[None]]
STORIES: list[tuple[Story, str]] = [
    (waiting, "plain,bare,lifo,late,later,urgent,low,also urgent,ruled,short,unknown"),
    (completed, "a,b,c,d"),
    (failed, "once,thrice,useless,at last"),
    (put_off, "later,now"),
    (running, "a,b"),
    (kept, "a,gone,b,c,fails"),
    (retried, "f,c"),
    (stalled, "a,b"),
    (held_back, "first"),
    (paused, "later"),
    (removed, "plain,late,urgent,done,broken"),
    (flow_pending, "parent,one,two"),
    (flow_done, "parent,one,two"),
    (flow_ignoring, "parent,one,two,three"),
    (flow_failing, "parent,one,two"),
]


@pytest.mark.parametrize(("story", "ids"), STORIES, ids=[story.__name__ for story, _ in STORIES])
async def test_node_reads_of_our_history_what_it_reads_of_its_own(
    twins: Twins, redis: Any, story: Story, ids: str
) -> None:
    await twins.each(story)

    theirs = await said(twins.theirs, ids.split(","))
    ours = await said(twins.ours, ids.split(","))
    assert "\n".join(differences(theirs, ours)) == ""
    assert await happened(twins.ours, redis, twins.ours_key) == await happened(twins.theirs, redis, twins.theirs_key)
