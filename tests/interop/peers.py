"""Both sides of a shared queue: the real BullMQ in a process of its own, and Toril, each doing what a job's data says.

Data that holds `do` (a list of steps) or `tries` (a list of steps for each attempt, the last for all that follow) tells
whoever works on the job what to do; any other data is the job's result. The steps are those of `node/driver.mjs`, and
`_STEPS` here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from toril.errors import Unrecoverable
from toril.flow import FlowJob
from toril.handlers import Context
from toril.job import Call
from toril.model import JobRecord, JobRef, LogPage
from toril.options import Backoff, Deduplication, JobOptions, Keep
from toril.queue import Queue
from toril.states import State
from toril.store import Store
from toril.stores.redis.store import RedisStore
from toril.wirejson import Json
from toril.wishes import AwaitChildren, Delay, Throttle
from toril.worker.worker import Worker

PATIENCE_S = 30.0
TESTS = Path(__file__).resolve().parent.parent
NODE = TESTS / "interop" / "node"

Notice = dict[str, Any]


# ------------------------------------------------------------------ processes that are told what to do


class PeerError(Exception):
    """What a peer answered instead of a result. `code` is BullMQ's, where it has one."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(eq=False)
class _Listener:
    """Somebody who waits for a notice."""

    wanted: Mapping[str, Any]
    heard: Future[Notice]


class Process:
    """A program that takes commands and gives answers and notices, as lines of JSON; it ends with this process."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=TESTS,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._asked: dict[int, Future[Any]] = {}
        self._notices: list[Notice] = []
        self._listeners: list[_Listener] = []
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    async def ask(self, do: str, **fields: Any) -> Any:
        """The answer to a command.

        Raises:
            PeerError: it could not be done, or the process has ended.
        """
        answer: Future[Any] = Future()
        with self._lock:
            number = next(self._numbers)
            self._asked[number] = answer
        try:
            self._write({"n": number, "do": do, **fields})
        except (BrokenPipeError, ValueError):
            raise PeerError("the process has ended") from None
        return await _patiently(answer, f"answer to {do} {fields}")

    async def notice(self, what: str, **wanted: Any) -> Notice:
        """The first notice of this kind with these fields that nobody has taken; it is taken.

        `wanted` may name fields of an event's own fields.
        """
        listener = _Listener({"notice": what, **wanted}, Future())
        with self._lock:
            for n, heard in enumerate(self._notices):
                if _fits(heard, listener.wanted):
                    return self._notices.pop(n)
            if self._ended:
                raise PeerError(f"the process ended without {dict(listener.wanted)}")
            self._listeners.append(listener)
        try:
            notice: Notice = await _patiently(listener.heard, f"{dict(listener.wanted)}; heard {self._notices[-10:]}")
            return notice
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._listeners.remove(listener)

    def heard(self, what: str, **wanted: Any) -> list[Notice]:
        """The notices so far that fit and nobody has taken; they stay."""
        with self._lock:
            return [heard for heard in self._notices if _fits(heard, {"notice": what, **wanted})]

    def forget(self) -> None:
        """Drop what was heard."""
        with self._lock:
            self._notices.clear()

    def kill(self) -> None:
        """End it without a last word."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(BrokenPipeError):
            cast(Any, self._process.stdin).close()
        try:
            self._process.wait(PATIENCE_S / 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        cast(Any, self._process.stdout).close()

    def _write(self, line: Mapping[str, Any]) -> None:
        stdin: Any = self._process.stdin
        with self._lock:
            stdin.write(json.dumps(line) + "\n")
            stdin.flush()

    def _read(self) -> None:
        for line in cast(Any, self._process.stdout):
            self._hear(json.loads(line))
        with self._lock:
            self._ended = True
            waiting = [*self._asked.values(), *(listener.heard for listener in self._listeners)]
            self._asked.clear()
            self._listeners.clear()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(PeerError("the process has ended"))

    def _hear(self, line: Notice) -> None:
        if "notice" in line:
            self._hear_notice(line)
            return
        answer = self._asked.pop(line["n"])
        if not answer.set_running_or_notify_cancel():  # nobody waits for it any more
            return
        if "error" in line:
            answer.set_exception(PeerError(line["error"]["message"], line["error"].get("code")))
        else:
            answer.set_result(line["answer"])

    def _hear_notice(self, line: Notice) -> None:
        with self._lock:
            for listener in self._listeners:
                if _fits(line, listener.wanted) and listener.heard.set_running_or_notify_cancel():
                    listener.heard.set_result(line)
                    self._listeners.remove(listener)
                    return
            self._notices.append(line)


async def _patiently(future: Future[Any], what: str) -> Any:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.wrap_future(future)
    except TimeoutError:
        raise AssertionError(f"there was no {what}") from None


def _fits(heard: Notice, wanted: Mapping[str, Any]) -> bool:
    """Whether a notice has these fields, or event fields; a set says which values will do."""
    fields: dict[str, Any] = {**heard.get("fields", {}), **heard}
    return all(
        fields.get(name) in value if isinstance(value, set) else fields.get(name) == value
        for name, value in wanted.items()
    )


# ------------------------------------------------------------------ Node


class Node(Process):
    """A process of the real BullMQ of a major version."""

    def __init__(self, version: str, url: str) -> None:
        super().__init__(["node", str(NODE / "driver.mjs"), version, url])
        self.version = version
        self._objects = itertools.count(1)

    async def queue(self, name: str, /, **options: Any) -> NodeQueue:
        return NodeQueue(self, await self._open("queue", name, options))

    async def worker(self, name: str, /, **options: Any) -> NodeWorker:
        """A worker that does what the jobs say; with `autorun=False`, one that only takes jobs by `getNextJob`."""
        return NodeWorker(self, await self._open("worker", name, options))

    async def events(self, name: str, /, **options: Any) -> NodeObject:
        """A listener to all events of a queue, from its first on; `also` names events that BullMQ does not know."""
        return NodeObject(self, await self._open("events", name, {"lastEventId": "0-0", **options}))

    async def producer(self, name: str, /, **options: Any) -> NodeObject:
        """A QueueEventsProducer."""
        return NodeObject(self, await self._open("producer", name, options))

    async def flow(self, **options: Any) -> NodeObject:
        """A FlowProducer."""
        return NodeObject(self, await self._open("flow", "", options))

    async def reset(self) -> None:
        """Close all that a test has left open."""
        await self.ask("reset")
        self.forget()

    async def _open(self, kind: str, name: str, options: Mapping[str, Any]) -> str:
        label = f"{kind}-{next(self._objects)}"
        await self.ask("open", kind=kind, name=name, options=options, **{"as": label})
        return label


class NodeObject:
    """An object of a Node process."""

    def __init__(self, node: Node, label: str) -> None:
        self.node = node
        self.label = label

    @property
    def reference(self) -> dict[str, str]:
        """What stands for it in the arguments of a call."""
        return {"$object": self.label}

    async def call(self, method: str, *args: Any) -> Any:
        """What a method of it gives.

        Raises:
            PeerError: it threw.
        """
        return await self.node.ask("call", on=self.label, method=method, args=args)

    async def notice(self, what: str, **wanted: Any) -> Notice:
        """The next notice of it."""
        return await self.node.notice(what, **{"as": self.label}, **wanted)

    async def event(self, name: str, **wanted: Any) -> Notice:
        """The fields of the next event of this name that it sees."""
        fields: Notice = (await self.notice("event", event=name, **wanted))["fields"]
        return fields

    async def close(self, *, force: bool = False) -> None:
        await self.node.ask("close", force=force, **{"as": self.label})


class NodeWorker(NodeObject):
    """A Worker of a Node process."""

    async def held(self, job_id: str) -> None:
        """Wait until a job holds."""
        await self.node.notice("held", id=job_id)

    async def release(self, job_id: str) -> None:
        """Let a job go on that holds."""
        await self.node.ask("release", id=job_id)


class NodeQueue(NodeObject):
    """A Queue of a Node process."""

    async def add(self, name: str, data: Json, **options: Any) -> str:
        return str((await self.call("add", name, data, options))["id"])

    async def job(self, job_id: str, method: str, *args: Any) -> Any:
        """What a method of a job gives."""
        return await self.node.ask("job", on=self.label, id=job_id, method=method, args=args)

    async def see(self, job_id: str) -> dict[str, Any] | None:
        """All that Node's getters say of a job: its toJSON, and `state`, `logs` and `stored` (its asJSON)."""
        seen: dict[str, Any] | None = await self.node.ask("see", on=self.label, id=job_id)
        return seen


# ------------------------------------------------------------------ Toril


def as_toril(options: Mapping[str, Any]) -> JobOptions:
    """Options as Node spells them, as Toril does. A keep rule that Node leaves out keeps all."""
    ours: dict[str, Any] = {
        "keep_completed": _as_keep(options.get("removeOnComplete", False)),
        "keep_failed": _as_keep(options.get("removeOnFail", False)),
    }
    for name, value in options.items():
        match name:
            case "jobId":
                ours["job_id"] = value
            case "delay":
                ours["delay"] = timedelta(milliseconds=value)
            case "keepLogs":
                ours["keep_logs"] = value
            case "backoff":
                jitter = value.get("jitter", 0)
                ours["backoff"] = Backoff(value["type"], value["delay"], jitter)
            case "deduplication":
                ours[name] = _as_deduplication(**value)
            case "removeOnComplete" | "removeOnFail":
                pass
            case _ if name.endswith("OnFailure"):  # whose first word is the policy
                ours["parent_on_failure"] = re.sub("[A-Z].*", "", name)
            case _:
                ours[name] = value
    return cast(JobOptions, ours)


def as_call(tree: Mapping[str, Any], **defaults: Any) -> Call:
    """A tree as Node spells it. Its parents wait for children that fail, as Node's do, where those do not say otherwise."""
    children = tuple(as_call(child, parent_on_failure="wait") for child in tree.get("children", ()))
    options = cast(JobOptions, {**defaults, **as_toril(tree.get("opts", {}))})
    return Call(tree["name"], tree.get("data", {}), options, tree["queueName"], children)


def as_flow_job(tree: Mapping[str, Any]) -> FlowJob:
    """The same, for our class of the name of Node's."""
    return {
        "name": tree["name"],
        "queue_name": tree["queueName"],
        "data": tree.get("data", {}),
        "opts": as_toril(tree.get("opts", {})),
        "children": [as_flow_job(child) for child in tree.get("children", ())],
    }


def _as_deduplication(
    id: str, ttl: int | None = None, *, keepLastIfActive: bool = False, **kinds: bool
) -> Deduplication:
    return Deduplication(id, ttl, keep_last_if_active=keepLastIfActive, **kinds)


def _as_keep(rule: Any) -> Keep:
    if isinstance(rule, bool):
        return Keep(count=0) if rule else Keep()
    if isinstance(rule, int):
        return Keep(count=rule)
    age_s = rule.get("age")
    return Keep(rule.get("count"), None if age_s is None else round(age_s * 1000))


class Hands:
    """What a Toril worker does with its jobs, and what it says of them."""

    def __init__(self, tell: Callable[[Notice], None]) -> None:
        self._tell = tell
        self._held: dict[str, asyncio.Event] = {}

    async def process(self, ctx: Context, data: Json, /) -> Json:
        """Do what the job's data says."""
        self._tell({"notice": "started", "id": ctx.job_id, "name": ctx.name, "attempt": ctx.attempt})
        steps = _steps_of(data, ctx.attempt)
        if steps is None:
            return data
        for step, *args in steps:
            if step == "return":
                return args[0]
            if step == "children":
                return await _children(ctx)
            if step == "hold":
                await self._hold(ctx.job_id)
            else:
                await _STEPS[step](ctx, *args)
        return None

    async def _hold(self, job_id: str) -> None:
        event = self._held.setdefault(job_id, asyncio.Event())
        self._tell({"notice": "held", "id": job_id})
        await event.wait()

    def release(self, job_id: str) -> None:
        """Let a job go on that holds."""
        self._held.setdefault(job_id, asyncio.Event()).set()


def _steps_of(data: Json, attempt: int) -> list[list[Any]] | None:
    """What a job's data says to do in this attempt; None when it says nothing."""
    told = cast("dict[str, Any]", data if isinstance(data, dict) else {})
    tries: list[Any] = told.get("tries", [])
    steps: list[list[Any]] | None = told.get("do", tries[min(attempt, len(tries)) - 1] if tries else None)
    return steps


async def _children(ctx: Context) -> Json:
    """What its children have returned, and why those have failed that it does not mind."""
    results = {str(ref): result for ref, result in (await ctx.child_results()).items()}
    ignored: dict[str, Json] = {str(one.ref): one.reason for one in await ctx.children() if one.state == "ignored"}
    return {"results": results, "ignored": ignored}


async def _add_children(ctx: Context, trees: list[dict[str, Any]]) -> None:
    await ctx.add_children(*(as_call(tree, parent_on_failure="wait") for tree in trees))


async def _await_children(ctx: Context) -> None:
    if any(child.state == "pending" for child in await ctx.children()):
        raise AwaitChildren


async def _throw(_: Context, reason: str) -> None:
    raise RuntimeError(reason)


async def _unrecoverable(_: Context, reason: str) -> None:
    raise Unrecoverable(reason)


async def _delay(_: Context, ms: int) -> None:
    raise Delay(ms / 1000)


async def _limit(_: Context, ms: int) -> None:
    raise Throttle(ms / 1000)


async def _progress(ctx: Context, value: Json) -> None:
    await ctx.progress(value)


async def _log(ctx: Context, line: str) -> None:
    await ctx.log(line)


async def _work(_: Context, ms: int) -> None:
    await asyncio.sleep(ms / 1000)


async def _crash(_: Context) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


_STEPS: dict[str, Callable[..., Awaitable[None]]] = {
    "add-children": _add_children,
    "await-children": _await_children,
    "throw": _throw,
    "unrecoverable": _unrecoverable,
    "delay": _delay,
    "limit": _limit,
    "progress": _progress,
    "log": _log,
    "work": _work,
    "crash": _crash,
}


class TorilWorker:
    """A Toril worker in this process, that does what the jobs say."""

    def __init__(self, name: str, store: Store, **options: Any) -> None:
        self.started: list[Notice] = []
        self._heard = asyncio.Condition()
        self._notices: list[Notice] = []
        self._hands = Hands(self._note)
        self.worker = Worker(name, self._hands.process, store, **options)
        self._tasks: set[asyncio.Task[None]] = set()

    def _note(self, line: Notice) -> None:
        self._notices.append(line)
        if line["notice"] == "started":
            self.started.append(line)
        task = asyncio.ensure_future(self._ring())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ring(self) -> None:
        async with self._heard:
            self._heard.notify_all()

    async def notice(self, what: str, **wanted: Any) -> Notice:
        """The next notice of it that nobody has taken."""
        async with asyncio.timeout(PATIENCE_S), self._heard:
            while True:
                for n, heard in enumerate(self._notices):
                    if _fits(heard, {"notice": what, **wanted}):
                        return self._notices.pop(n)
                await self._heard.wait()

    async def held(self, job_id: str) -> None:
        """Wait until a job holds."""
        await self.notice("held", id=job_id)

    async def release(self, job_id: str) -> None:
        """Let a job go on that holds."""
        self._hands.release(job_id)

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncGenerator[TorilWorker]:
        """It works, and at the end is stopped in a hurry. Should it break, so does the test."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.worker.run())
            await asyncio.sleep(0)  # its first step: from here on it can be stopped
            try:
                yield self
            finally:
                self.worker.stop()
                self.worker.hurry()


class TorilProcess(Process):
    """A Toril worker in a process of its own."""

    def __init__(self, url: str, queue: str, **options: Any) -> None:
        given = json.dumps({"url": url, "queue": queue, **options})
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        super().__init__([sys.executable, "-m", "interop.peers", given], environment={"PYTHONPATH": path})


async def _serve(url: str, queue: str, prefix: str = "bull", **options: Any) -> None:
    """Work until stdin ends; on the way, obey `release`."""
    loop = asyncio.get_running_loop()

    def tell(line: Notice) -> None:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    hands = Hands(tell)
    store = cast("Store", RedisStore(url, prefix=prefix))
    worker = Worker(queue, hands.process, store, **options)
    running = asyncio.create_task(worker.run())
    tell({"notice": "ready"})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        hands.release(command["id"])
        tell({"n": command["n"], "answer": None})
    worker.stop()
    worker.hurry()
    await running
    await store.close()


# ------------------------------------------------------------------ what both sides say of a job


@dataclass(frozen=True)
class Seen:
    """A job, of which both sides say the same."""

    name: str
    data: Json
    state: State
    result: Json
    reason: str | None
    attempts: int
    started: int
    stalled: int
    progress: Json
    logs: list[str]
    worker: str | None
    priority: int
    delay_ms: int
    added_at_ms: int
    run_at_ms: int | None
    ended_at_ms: int | None
    stacks: list[str]
    node: Mapping[str, Any]  # Node's toJSON
    toril: JobRecord


def agreed(node: Mapping[str, Any], toril: JobRecord, lines: LogPage) -> Seen:
    """What Node and Toril say of a job. They must not contradict each other."""
    seen = Seen(
        name=toril.name,
        data=json.loads(toril.data),
        state=toril.state,
        result=None if toril.result is None else json.loads(toril.result),
        reason=toril.reason,
        attempts=toril.attempts_made,
        started=toril.attempts_started,
        stalled=toril.stalled,
        progress=0 if toril.progress is None else json.loads(toril.progress),
        logs=list(lines.lines),
        worker=toril.worker,
        priority=toril.priority,
        delay_ms=node["delay"],
        added_at_ms=toril.created_at_ms,
        run_at_ms=toril.processed_at_ms,
        ended_at_ms=toril.finished_at_ms,
        stacks=node["stacktrace"],
        node=node,
        toril=toril,
    )
    assert _told_by(node) == {name: getattr(seen, name) for name in _told_by(node)}
    if toril.state is not State.COMPLETED:  # Node shows the reason of an earlier attempt, too
        assert node.get("failedReason") == toril.reason
    return seen


def _told_by(node: Mapping[str, Any]) -> dict[str, Any]:
    """What Node says, in the names of `Seen`."""
    return {
        "name": node["name"],
        "data": node["data"],
        "state": State(node["state"]),
        "result": node.get("returnvalue"),
        "attempts": node["attemptsMade"],
        "started": node["attemptsStarted"],
        "stalled": node["stalledCounter"],
        "progress": node["progress"],
        "logs": node["logs"]["logs"],
        "worker": node.get("processedBy"),
        "priority": node["priority"],
        "added_at_ms": node["timestamp"],
        "run_at_ms": node.get("processedOn"),
        "ended_at_ms": node.get("finishedOn"),
    }


# ------------------------------------------------------------------ a queue that both sides share


class Shared:
    """One queue, with what either side needs to use it, and Node's ear at its events."""

    def __init__(self, name: str, node: Node, store: Store, queue: NodeQueue, events: NodeObject) -> None:
        self.name = name
        self.node = node
        self.store = store
        self.theirs = queue
        self.ours = Queue(name, store)
        self.events = events

    async def seen(self, job_id: str) -> Seen:
        """What both sides say of a job."""
        node = await self.theirs.see(job_id)
        record = await self.ours.get(job_id)
        assert node is not None
        assert record is not None
        return agreed(node, record, await self.store.logs(JobRef(self.name, job_id)))

    async def counts(self) -> dict[State, int]:
        """The jobs in each state, as both sides count them; states without any are left out."""
        node = await self.theirs.call("getJobCounts", *map(str, State))
        ours = await self.ours.counts()
        assert {State(state): count for state, count in node.items() if state != "paused"} == ours
        return {state: count for state, count in ours.items() if count}

    async def ids(self, state: State) -> list[str]:
        """The jobs of a state, the next or the first ended first, as both sides list them."""
        node = await self.theirs.call("getJobs", [str(state)], 0, -1, True)
        ours = [record.ref.id async for record in self.ours.iterate(state)]
        assert [job["id"] for job in node] == ours
        return ours

    def worker(self, **options: Any) -> TorilWorker:
        """A Toril worker of this queue."""
        return TorilWorker(self.name, self.store, **options)


class Way(Shared):
    """A shared queue to which one side adds, and on which one side works."""

    adder: str = "node"
    worked_by: str = "toril"

    async def add(self, name: str, data: Json = None, **options: Any) -> str:
        """Add a job with options as Node spells them, through this way's side."""
        if self.adder == "node":
            return await self.theirs.add(name, data, **options)
        return (await self.ours.add(name, data, **as_toril(options))).id

    async def add_all(self, jobs: Sequence[tuple[str, Json, dict[str, Any]]]) -> list[str]:
        """Add jobs in bulk."""
        if self.adder == "node":
            bulk = [{"name": name, "data": data, "opts": options} for name, data, options in jobs]
            return [str(job["id"]) for job in await self.theirs.call("addBulk", bulk)]
        added = await self.ours.add_many([(name, data, as_toril(options)) for name, data, options in jobs])
        return [job.id for job in added]

    @contextlib.asynccontextmanager
    async def working(self, *, concurrency: int = 5) -> AsyncGenerator[NodeWorker | TorilWorker]:
        """A worker of this way's side works."""
        if self.worked_by == "node":
            worker = await self.node.worker(self.name, concurrency=concurrency)
            yield worker
            await worker.close()
        else:
            async with self.worker(concurrency=concurrency).at_work() as ours:
                yield ours

    async def ended(self, job_id: str) -> str:
        """Wait until a job has ended; the name of the event that says so."""
        heard = await self.events.notice("event", jobId=job_id, event={"completed", "failed"})
        return str(heard["event"])


if __name__ == "__main__":
    given: dict[str, Any] = json.loads(sys.argv[1])
    asyncio.run(_serve(**given))
