"""Flows: trees of jobs over any queues, stored together, in which a parent runs when its children have ended."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NotRequired, TypedDict

from toril.errors import InvalidJob, JobNotFound
from toril.job import UNBEGUN, Call, Job, jobs_of
from toril.model import Answer, Child, JobRecord, JobRef, NewJob, Unit
from toril.options import ChildPolicy, Confirm, Duration, JobOptions
from toril.queue import Queue, stronger
from toril.states import State
from toril.store import MAX_UNIT_BYTES, MAX_UNIT_JOBS, Store
from toril.wirejson import Json

log = logging.getLogger("toril")

MAX_DEPTH: Final = 100
PAGE: Final = 500
SHOWN: Final = 60


# -------------------------------------------------------------------- what people write


@dataclass(frozen=True, slots=True)
class Group:
    """Jobs that run side by side; made by `group`."""

    calls: tuple[Call, ...]


def group(*calls: Call) -> Group:
    """Jobs that run side by side: the first step of a `chain`, or a flow without a job that waits for them."""
    return Group(calls)


def chain(*steps: Call | Group) -> Call:
    """Jobs that run one after the other; the first step may be a group. Each finds what the step before it returned in
    `Context.child_results`.

    Raises:
        InvalidJob: there is no step, or a group is not the first: a job has one parent.
    """
    if not steps:
        raise InvalidJob("chain() wants the calls of at least one job")
    first, *rest = steps
    if isinstance(first, Group) and not rest:
        raise InvalidJob("a chain of a group alone has nothing that waits for it: give the group to App.flow as it is")
    before = first.calls if isinstance(first, Group) else (first,)
    for step in rest:
        if isinstance(step, Group):
            raise InvalidJob(
                "a group can only be the first step of a chain: its jobs would have the step before as a child each"
            )
        before = (step.after(*before),)
    return before[0]


class FlowJob(TypedDict):
    """A node of a tree as BullMQ writes it, in snake case."""

    name: str
    queue_name: str
    data: NotRequired[Json]
    opts: NotRequired[JobOptions]
    children: NotRequired[Sequence[FlowJob]]


# -------------------------------------------------------------------- adding


QueueOf = Callable[[str], Queue]
"""A queue by its name."""


async def add_flows(
    store: Store,
    queue_of: QueueOf,
    roots: Sequence[Call],
    *,
    parent: JobRef | None = None,
    policy: ChildPolicy = ChildPolicy.FAIL,
) -> list[Job[Any]]:
    """Add trees of calls, all of them or none, as children of `parent` if given; return their roots. `policy` is for
    children that name none.

    Raises:
        InvalidJob: a call names no queue, or cannot be a job; or they are more than a unit holds.
        ConfigError, QueueFull, TooManyAdds, CrossSlot, StoreUnavailable: as `Queue.add`.
    """
    jobs: list[NewJob] = []
    confirms: list[Confirm | None] = []
    tops = [_grow(queue_of, root, parent, policy, jobs, confirms, 0) for root in roots]
    _check_ids(jobs)
    size = sum(len(job.data) for job in jobs)
    if len(jobs) > MAX_UNIT_JOBS or size > MAX_UNIT_BYTES:
        raise InvalidJob(
            f"a flow of {len(jobs):,} jobs and {size:,} bytes is more than one unit holds ({MAX_UNIT_JOBS:,} jobs, "
            f"{MAX_UNIT_BYTES // 2**20} MiB): let jobs add children while they run"
        )
    for name in dict.fromkeys(job.queue for job in jobs):
        queue = queue_of(name)
        await queue.before_add()
        queue.admit(sum(job.queue == name for job in jobs))
    (receipt,) = await store.add([Unit(tuple(jobs), functools.reduce(stronger, confirms))])
    added = dict(zip((JobRef(job.queue, job.id) for job in jobs), jobs_of(receipt, store), strict=True))
    return [added[ref] for ref in tops]


def _check_ids(jobs: Sequence[NewJob]) -> None:
    """No two jobs of a flow are one: the second would not be added, or would have two parents."""
    refs = [JobRef(job.queue, job.id) for job in jobs]
    if len(set(refs)) < len(refs):
        twice = next(ref for place, ref in enumerate(refs) if ref in refs[:place])
        raise InvalidJob(f"two jobs of the flow are called {twice}: give each its own job_id, or let them be drawn")


def _grow(
    queue_of: QueueOf,
    call: Call,
    parent: JobRef | None,
    policy: ChildPolicy,
    jobs: list[NewJob],
    confirms: list[Confirm | None],
    depth: int,
) -> JobRef:
    """Append the jobs of a tree, parents before children; the root."""
    if call.queue is None:
        raise InvalidJob(f"the job {call.name!r} of a flow names no queue: use a handler's call, or Call(…, queue=…)")
    if depth > MAX_DEPTH:
        raise InvalidJob(f"a flow is at most {MAX_DEPTH} jobs deep")
    queue = queue_of(call.queue)
    job = queue.new_job(call, parent, policy=policy, has_children=bool(call.children))
    ref = JobRef(job.queue, job.id)
    jobs.append(job)
    confirms.append(queue.confirm(call))
    for child in call.children:
        _grow(queue_of, child, ref, policy, jobs, confirms, depth + 1)
    return ref


_said = set[str]()


class FlowProducer:
    """Adds flows as BullMQ's class of this name does, whose rule for failed children is its own default: the parent waits
    until the child is retried or removed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queues: dict[str, Queue] = {}

    async def add(self, flow: FlowJob) -> Flow:
        """Add one tree, whole or not at all. Raises as `add_flows`."""
        return (await self.add_bulk([flow]))[0]

    async def add_bulk(self, flows: Sequence[FlowJob]) -> list[Flow]:
        """Add trees, all of them or none. Raises as `add_flows`."""
        if "wait" not in _said:
            _said.add("wait")
            log.warning(
                "FlowProducer lets a parent wait for a failed child until that is retried or removed, as BullMQ does: "
                "give children parent_on_failure='fail' for another rule, or add flows by App.flow"
            )
        roots = await add_flows(self._store, self._queue, [_call(flow) for flow in flows], policy=ChildPolicy.WAIT)
        return [Flow([root], self._store) for root in roots]

    def get_flow(self, queue_name: str, id: str) -> Flow:
        """A handle to the flow under a job."""
        return flow_of(JobRef(queue_name, id), self._store)

    def _queue(self, name: str) -> Queue:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = Queue(name, self._store)
        return queue


def _call(node: FlowJob) -> Call:
    unknown = set(node) - {"name", "queue_name", "data", "opts", "children"}
    if unknown or "name" not in node or "queue_name" not in node:
        named = f"unknown member {sorted(unknown)[0]!r}" if unknown else "name or queue_name is missing"
        raise InvalidJob(f"a node of a flow has name, queue_name, and data, opts, children if needed: {named}")
    children = tuple(_call(child) for child in node.get("children", ()))
    return Call(node["name"], node.get("data"), node.get("opts", JobOptions()), node["queue_name"], children)


# -------------------------------------------------------------------- looking


@dataclass(frozen=True, slots=True)
class Tree:
    """A job of a flow and those below it. `record` is None for one that is gone; `pending`: its parent waits for it."""

    ref: JobRef
    record: JobRecord | None
    pending: bool = False
    children: tuple[Tree, ...] = ()
    hidden: int = 0  # children that were left out

    def refs(self) -> list[JobRef]:
        """All jobs of it, each parent before its children."""
        return [self.ref, *(ref for child in self.children for ref in child.refs())]

    def records(self) -> list[JobRecord]:
        """What is known of them, those that are gone left out."""
        own = [] if self.record is None else [self.record]
        return own + [record for child in self.children for record in child.records()]

    @property
    def blocked_by(self) -> list[JobRecord]:
        """Failed jobs that another waits for: they are to be retried or removed."""
        here = [
            child.record
            for child in self.children
            if child.pending and child.record is not None and child.record.state is State.FAILED
        ]
        waits = self.record is not None and self.record.state is State.WAITING_CHILDREN
        return (here if waits else []) + [record for child in self.children for record in child.blocked_by]

    def __str__(self) -> str:
        return "\n".join(_lines(self, "", "", False))


async def read_tree(store: Store, ref: JobRef, *, depth: int = 10, max_children: int = 1_000) -> Tree:
    """A job and those below it, level by level.

    Raises:
        JobNotFound: it is gone.
    """
    (record,) = await store.get([ref])
    if record is None:
        raise JobNotFound(ref)
    below: dict[JobRef, list[Child]] = {}
    records: dict[JobRef, JobRecord | None] = {ref: record}
    level = [ref]
    for _ in range(depth):
        there = [one for one in level if records[one] is not None]
        found = await asyncio.gather(*map(store.children, there))
        below.update(zip(there, (sorted(children, key=_by_ref) for children in found), strict=True))
        level = [child.ref for one in level for child in below.get(one, [])[:max_children] if child.ref not in records]
        for start in range(0, len(level), PAGE):
            part = level[start : start + PAGE]
            records.update(zip(part, await store.get(part), strict=True))
        if not level:
            break
    return _tree(ref, False, records, below, max_children)


def _by_ref(child: Child) -> JobRef:
    """Within a queue, drawn ids are in the order in which the jobs were added."""
    return child.ref


def _tree(
    ref: JobRef, pending: bool, records: dict[JobRef, JobRecord | None], below: dict[JobRef, list[Child]], most: int
) -> Tree:
    children = below.get(ref, [])
    shown = [child for child in children[:most] if child.ref in records]
    return Tree(
        ref,
        records[ref],
        pending,
        tuple(_tree(child.ref, child.state == "pending", records, below, most) for child in shown),
        len(children) - len(shown),
    )


_MARKS: Final = {
    State.COMPLETED: "✓",
    State.FAILED: "✗",
    State.ACTIVE: "▶",
    State.DELAYED: "◷",
    State.WAITING_CHILDREN: "◌",
}


def _lines(tree: Tree, first: str, rest: str, awaited: bool) -> Iterable[str]:
    yield first + _line(tree, awaited)
    last = len(tree.children) - 1
    waits = tree.record is not None and tree.record.state is State.WAITING_CHILDREN
    for place, child in enumerate(tree.children):
        ends = place == last and not tree.hidden
        branch = rest + ("└─ " if ends else "├─ ")
        yield from _lines(child, branch, rest + ("   " if ends else "│  "), waits and child.pending)
    if tree.hidden:
        yield f"{rest}└─ … {tree.hidden:,} more"


def _line(tree: Tree, awaited: bool) -> str:
    record = tree.record
    if record is None:
        return f"? {tree.ref} gone"
    said = f"{_MARKS.get(record.state, '·')} {' '.join(record.name.split())} {tree.ref} {record.state.value}"
    if record.state is State.FAILED:
        reason = " ".join((record.reason or "").split())
        said += f": {reason if len(reason) <= SHOWN else reason[: SHOWN - 1] + '…'}"
        if awaited:
            said += " (its parent waits until it is retried or removed)"
    return said


# -------------------------------------------------------------------- the handle


class Flow:
    """A flow that was added: `jobs` are its roots, mostly one."""

    def __init__(self, jobs: Sequence[Job[Any]], store: Store, *, is_group: bool = False) -> None:
        self.jobs = list(jobs)
        self._store = store
        self._is_group = is_group

    def __repr__(self) -> str:
        return f"<Flow {', '.join(str(job.ref) for job in self.jobs)}>"

    @property
    def job(self) -> Job[Any]:
        """Its root: the job that runs last."""
        return self.jobs[0]

    async def result(self, timeout: Duration | None = None) -> Any:
        """What its root returns; a list of what they return where the flow is a group. Raises as `Job.result`."""
        results = await asyncio.gather(*(job.result(timeout) for job in self.jobs))
        return results if self._is_group else results[0]

    async def tree(self, *, depth: int = 10, max_children: int = 1_000) -> Tree:
        """Its root and all jobs below; printed, it is drawn. Raises JobNotFound when it is gone."""
        return await read_tree(self._store, self.job.ref, depth=depth, max_children=max_children)

    async def cancel(self, reason: str = "cancelled") -> list[JobRef]:
        """Fail all of its jobs that have not begun; return those that run and go on."""
        unended = [record.ref for record in await self._records() if record.state in UNBEGUN | {State.ACTIVE}]
        answers = await self._store.cancel(unended, reason)  # parents first, so that none is released
        return [ref for ref, answer in zip(unended, answers, strict=True) if answer is Answer.LOCKED]

    async def retry(self) -> int:
        """Run its failed jobs again, each parent when its children have ended; return how many."""
        failed = [record.ref for record in await self._records() if record.state is State.FAILED]
        answers = await self._store.retry(failed[::-1])  # children first, so that their parents wait for them
        return answers.count(Answer.DONE)

    async def _records(self) -> list[JobRecord]:
        """Its jobs, each parent before its children."""
        trees = [
            await read_tree(self._store, job.ref, depth=MAX_DEPTH + 1, max_children=sys.maxsize) for job in self.jobs
        ]
        return [record for tree in trees for record in tree.records()]


def flow_of(ref: JobRef, store: Store) -> Flow:
    """A handle to the flow under a job."""
    return Flow([Job(ref, store)], store)


async def blocked(store: Store, queue: str, *, limit: int = 1_000) -> list[tuple[JobRef, JobRef]]:
    """Parents of a queue that wait for a failed child, each with that child; among the first so many that wait."""
    found: list[tuple[JobRef, JobRef]] = []
    after: str | None = None
    looked = 0
    while looked < limit:
        page = await store.find(queue, State.WAITING_CHILDREN, after=after, limit=min(PAGE, limit - looked))
        for parent in page.items:
            pending = [child.ref for child in await store.children(parent.ref) if child.state == "pending"]
            failed = [job for job in await store.get(pending) if job is not None and job.state is State.FAILED]
            found += [(parent.ref, child.ref) for child in failed]
        looked += len(page.items)
        after = page.next
        if after is None:
            break
    return found
