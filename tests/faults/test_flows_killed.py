"""Workers are killed at random while flows and schedules run: no parent is stranded or runs too early, and no time of a
schedule is lost or comes twice."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from faults.crew import Crew, crew, moment
from faults.crowd_programs import FLOWS, IN_A_CROWD, TICKS, open_store
from faults.history import TERMINAL, Line, finished_twice, runs_of, unexplained_repeats
from faults.proof import Stopwatch, shown
from model.trees import Node, ends
from sizes import size
from toril.flow import add_flows
from toril.job import Call
from toril.model import Event, JobRecord, QueueSettings, ScheduleRecord
from toril.options import ChildPolicy, JobOptions
from toril.queue import Queue
from toril.schedule import every
from toril.states import FINISHED, State
from toril.store import Store

SEED = 40
PROCESSES, CONCURRENCY, HANDLER_MS = 3, 8, 100
PATIENCE_MS = 30_000

Settings = dict[str, Any]


# ------------------------------------------------------------------ checkers


def started_too_early(events: Iterable[Event], parents: Mapping[str, Sequence[Node]]) -> list[str]:
    """Runs of a parent that began before its children had ended, and that no failed child had let begin."""
    ended: dict[str, str] = {}
    let_go: set[str] = set()
    of = {child.id: (parent, child) for parent, children in parents.items() for child in children}
    complaints: list[str] = []
    for event in events:
        job_id = str(event.job_id)
        if event.name in TERMINAL:
            ended[job_id] = event.name
            parent, child = of.get(job_id, (None, None))
            if parent and child and event.name == "failed" and child.policy in (ChildPolicy.FAIL, ChildPolicy.CONTINUE):
                let_go.add(parent)
        elif event.name == "waiting-children":
            let_go.discard(job_id)
        elif event.name == "active" and job_id not in let_go:
            early = [child.id for child in parents.get(job_id, ()) if child.id not in ended]
            complaints += [f"{job_id} began before {child_id} had ended" for child_id in early]
    return complaints


def not_as_meant(states: Mapping[str, State], trees: Iterable[Node]) -> list[str]:
    """Jobs of flows that are not where they must be."""
    return [
        f"{node.id} is {states.get(node.id, 'lost')} and should be {end}"
        for tree in trees
        for node, end in ends(tree).items()
        if states.get(node.id) != end
    ]


def off_the_beat(schedule: str, made_ms: Iterable[int], every_ms: int) -> list[str]:
    """Times of a schedule, as its runs were made, that came twice or never."""
    complaints: list[str] = []
    for before_ms, after_ms in pairwise(sorted(made_ms)):
        if after_ms == before_ms:
            complaints.append(f"{schedule} has made its run of {after_ms} twice")
        elif after_ms != before_ms + every_ms:
            complaints.append(f"{schedule} has made no run between {before_ms} and {after_ms}")
    return complaints


# ------------------------------------------------------------------ the checkers find what is planted for them


def family(policy: ChildPolicy = ChildPolicy.WAIT) -> Node:
    """A parent with two children, of which the second fails."""
    parent = Node("parent", FLOWS, ChildPolicy.WAIT, completes=True)
    parent.children = [
        Node("one", FLOWS, ChildPolicy.WAIT, completes=True, parent=parent),
        Node("two", FLOWS, policy, completes=False, parent=parent),
    ]
    return parent


def told(*words: str) -> list[Event]:
    """Events, each given as its name and job."""
    return [Event(FLOWS, str(n), n, word.split()[0], word.split()[1]) for n, word in enumerate(words)]


def test_a_parent_that_begins_before_its_child_has_ended_is_found() -> None:
    parents = {"parent": family(ChildPolicy.IGNORE).children}
    sound = told("active one", "completed one", "active two", "failed two", "active parent", "completed parent")
    early = told("active two", "failed two", "active one", "active parent", "completed one", "completed parent")

    assert started_too_early(sound, parents) == []
    assert started_too_early(early, parents) == ["parent began before one had ended"]


def test_a_parent_that_a_failed_child_lets_go_may_begin_once() -> None:
    parents = {"parent": family(ChildPolicy.CONTINUE).children}
    let_go = told("active two", "failed two", "active parent", "waiting-children parent")

    assert started_too_early(let_go, parents) == []
    assert started_too_early([*let_go, *told("active parent")], parents) == ["parent began before one had ended"]


def test_a_parent_that_is_stranded_is_found() -> None:
    states = {"parent": State.WAITING_CHILDREN, "one": State.COMPLETED, "two": State.FAILED}

    assert not_as_meant(states, [family(ChildPolicy.IGNORE)]) == ["parent is waiting-children and should be completed"]


def test_a_job_of_a_flow_that_is_lost_is_found() -> None:
    states = {"parent": State.FAILED, "two": State.FAILED}

    assert not_as_meant(states, [family(ChildPolicy.FAIL)]) == ["one is lost and should be completed"]


def test_a_time_that_came_twice_or_never_is_found() -> None:
    assert off_the_beat("tick", [100, 300, 500], 200) == []
    assert off_the_beat("tick", [100, 300, 300, 500], 200) == ["tick has made its run of 300 twice"]
    assert off_the_beat("tick", [100, 500], 200) == ["tick has made no run between 100 and 500"]


# ------------------------------------------------------------------ flows and schedules under fire


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """What names this test's store to those who open it."""
    if request.param == "redis":
        return {"url": request.getfixturevalue("redis_url"), "prefix": f"killed-{uuid.uuid4().hex}"}
    return {"path": str(tmp_path / "toril.db")}


def test_killed_workers_strand_no_parent_and_lose_or_double_no_time_of_a_schedule(
    place: Settings, tmp_path: Path
) -> None:
    watch, rng = Stopwatch(), random.Random(SEED)
    kills, trees = size("flow_kills"), [tree(number, rng) for number in range(size("killed_flows"))]
    beats_ms = {f"tick:{number}:beat": rng.randint(200, 1000) for number in range(size("killed_schedules"))}
    with crew(tmp_path) as hired:
        asyncio.run(begin(place, beats_ms))
        kill_at_random(hired, place, trees, kills, rng)
        records, schedules, events = asyncio.run(come_to_rest(place, trees))
        statuses = [hired.stop(child) for child in hired.children if child.poll() is None]
        hired.listen()
        lines, errors = hired.lines, hired.errors()

    assert statuses == [0] * PROCESSES, errors
    assert complaints_about_flows(trees, records[FLOWS], events[FLOWS]) == []
    assert complaints_about_schedules(schedules, beats_ms, records[TICKS], events[TICKS]) == []
    ticks = [line for line in lines if line.job_id.startswith("repeat:")]
    assert unexplained_repeats(ticks, hired.kills) == []
    repeats = repeats_after(lines, {kill.pid for kill in hired.kills})
    assert len(hired.kills) == kills
    assert repeats > 0, "no kill has hit a running job: the test has shown nothing"
    kind = "Redis" if "url" in place else "SQLite"
    runs = sum(record.iterations for record in schedules)
    what = f"SIGKILL of workers in the middle of flows and schedules ({kind})"
    sizes = f"{kills} kills, {len(trees):,} flows of {len(records[FLOWS]):,} jobs, {len(beats_ms)} schedules"
    result = f"0 parents stranded or early, 0 of {runs:,} times lost or doubled, {repeats} runs repeated after kills"
    shown(what, sizes, result, watch)


def tree(number: int, rng: random.Random) -> Node:
    """A parent of three, some of whom have two of their own. Nobody waits for ever: who fails is not waited for."""
    parent = node(f"flow-{number}", None, rng)
    for place in range(3):
        child = node(f"{parent.id}-{place}", parent, rng)
        for below in range(rng.choice([0, 0, 2])):
            node(f"{child.id}-{below}", child, rng)
    for one in reversed([*parent.below()]):
        if ends(one)[one] == "failed" and one.policy is ChildPolicy.WAIT:
            one.policy = rng.choice([policy for policy in ChildPolicy if policy is not ChildPolicy.WAIT])
    return parent


def node(job_id: str, parent: Node | None, rng: random.Random) -> Node:
    one = Node(job_id, FLOWS, rng.choice([*ChildPolicy]), rng.random() < 0.7, rng.choice([1, 1, 2]), parent)
    if parent is not None:
        parent.children.append(one)
    return one


def call_of(one: Node) -> Call:
    options = JobOptions(job_id=one.id, attempts=one.tries, backoff=0, keep_completed=True, keep_failed=True)
    if one.parent is not None:
        options["parent_on_failure"] = one.policy
    data: Any = {"completes": one.completes, "tries": one.tries}
    return Call("job", data, options, FLOWS, tuple(map(call_of, one.children)))


def kill_at_random(hired: Crew, place: Settings, trees: Sequence[Node], kills: int, rng: random.Random) -> None:
    """Add the flows bit by bit, and in the middle of each bit kill a worker that works, and start another."""
    crowd = [start_worker(hired, place) for _ in range(PROCESSES)]
    for number in range(kills):
        asyncio.run(add(place, trees[number * len(trees) // kills : (number + 1) * len(trees) // kills]))
        doomed = rng.randrange(PROCESSES)
        pid = crowd[doomed].pid
        before = hired.count("started", pid)
        hired.until(lambda pid=pid, before=before: hired.count("started", pid) > before)  # type: ignore[misc]
        moment(rng.random() * HANDLER_MS / 2000)
        hired.kill(crowd[doomed])
        crowd[doomed] = start_worker(hired, place)


def start_worker(hired: Crew, place: Settings) -> subprocess.Popen[bytes]:
    locks = {"lock_ms": size("killed_lock_ms"), "interval_ms": size("killed_interval_ms")}
    settings: Settings = {"queues": [FLOWS, TICKS], "concurrency": CONCURRENCY, "ms": HANDLER_MS, **locks, **place}
    return hired.start("work", within=IN_A_CROWD, **settings)


@contextlib.asynccontextmanager
async def opened(place: Settings) -> AsyncGenerator[Store]:
    store = open_store(place)
    try:
        yield store
    finally:
        await store.close()


async def begin(place: Settings, beats_ms: Mapping[str, int]) -> None:
    """Keep all events, and put the schedules."""
    async with opened(place) as store:
        for name in (FLOWS, TICKS):
            await store.configure(name, QueueSettings(max_events=10_000_000))
        queue = Queue(TICKS, store)
        for id, every_ms in beats_ms.items():
            await queue.schedule(id, every(every_ms / 1000, missed="all"), "tick", keep_completed=True)


async def add(place: Settings, trees: Sequence[Node]) -> None:
    async with opened(place) as store:
        queue = Queue(FLOWS, store)
        for one in trees:
            await add_flows(store, lambda _: queue, [call_of(one)])


# ------------------------------------------------------------------ the look afterwards


async def come_to_rest(
    place: Settings, trees: Sequence[Node]
) -> tuple[dict[str, list[JobRecord]], list[ScheduleRecord], dict[str, list[Event]]]:
    """Once all flows have ended and the schedules have caught up, stop these; all records, schedules and events then."""
    jobs = sum(1 for one in trees for _ in one.below())
    async with opened(place) as store:

        async def flows_have_ended() -> bool:
            [summary] = await store.summaries([FLOWS])
            return summary.counts[State.COMPLETED] + summary.counts[State.FAILED] == jobs

        await until(store, FLOWS, flows_have_ended)
        await stop_schedules(store)
        records = {name: await records_of(store, name) for name in (FLOWS, TICKS)}
        events = {name: await events_of(store, name) for name in (FLOWS, TICKS)}
        return records, await store.schedules(TICKS), events


async def stop_schedules(store: Store) -> None:
    """Pause them between their runs, when those that killed workers had in hand have been run too."""
    while True:
        await until(store, TICKS, lambda: have_caught_up(store))
        await store.pause(TICKS)
        await until(store, TICKS, lambda: nothing_runs(store))
        if not await runs_left(store):
            return
        await store.resume(TICKS)


async def have_caught_up(store: Store) -> bool:
    """Whether no schedule is behind by more than one of its runs."""
    now_ms = store.clock.now_ms()
    return all(
        record.next_at_ms + (record.schedule.timing.every_ms or 0) > now_ms for record in await store.schedules(TICKS)
    )


async def nothing_runs(store: Store) -> bool:
    [summary] = await store.summaries([TICKS])
    return summary.counts[State.ACTIVE] == 0


async def runs_left(store: Store) -> bool:
    """Whether runs wait that no schedule waits for: those of killed workers."""
    awaited = {record.iteration for record in await store.schedules(TICKS)}
    unended = [record for record in await records_of(store, TICKS) if record.state not in FINISHED]
    return any(record.ref not in awaited for record in unended)


async def until(store: Store, queue: str, so: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    """Return once it is so, looking again at each event of a queue."""
    last = await store.last_event(queue)
    while not await so():
        events = await store.read(queue, last, until_ms=store.clock.now_ms() + PATIENCE_MS)
        assert events, f"nothing has happened in {queue} for 30 s: {(await store.summaries([queue]))[0].counts}"
        last = events[-1].id


async def records_of(store: Store, queue: str) -> list[JobRecord]:
    records: list[JobRecord] = []
    for state in State:
        after: str | None = None
        while True:
            page = await store.find(queue, state, after=after, limit=1000)
            records += page.items
            after = page.next
            if after is None:
                break
    return records


async def events_of(store: Store, queue: str) -> list[Event]:
    events: list[Event] = []
    while more := await store.read(queue, events[-1].id if events else None, limit=10_000):
        events += more
    return events


def complaints_about_flows(trees: Sequence[Node], records: Sequence[JobRecord], events: Sequence[Event]) -> list[str]:
    nodes = {one.id: one for root in trees for one in root.below()}
    complaints = not_as_meant({record.ref.id: record.state for record in records}, trees)
    complaints += started_too_early(events, {one.id: one.children for one in nodes.values() if one.children})
    endings = Counter(str(event.job_id) for event in events if event.name in TERMINAL)
    complaints += [f"{job_id} ended {endings[job_id]} times" for job_id in nodes if endings[job_id] != 1]
    leaves = {record.ref.id: record for record in records if not nodes[record.ref.id].children}
    complaints += [
        f"{job_id} counts {record.attempts_made} attempts"
        for job_id, record in leaves.items()
        if record.attempts_made != nodes[job_id].tries
    ]
    return complaints


def complaints_about_schedules(
    schedules: Sequence[ScheduleRecord],
    beats_ms: Mapping[str, int],
    records: Sequence[JobRecord],
    events: Sequence[Event],
) -> list[str]:
    made: dict[str, list[int]] = {id: [] for id in beats_ms}
    for event in events:
        if event.name == "added":
            id, _, at_ms = str(event.job_id).removeprefix("repeat:").rpartition(":")
            made[id].append(int(at_ms))
    complaints = [complaint for id, every_ms in beats_ms.items() for complaint in off_the_beat(id, made[id], every_ms)]
    assert sorted(record.schedule.id for record in schedules) == sorted(beats_ms)
    for record in schedules:
        times = made[record.schedule.id]
        if not record.pending or (max(times), len(times)) != (record.next_at_ms, record.iterations):
            complaints.append(f"{record} is not what its {len(times)} runs say")
    pending = {record.iteration.id for record in schedules}
    ended = {record.ref.id: record for record in records if record.ref.id not in pending}
    complaints += [f"{job_id} is {record.state}" for job_id, record in ended.items() if record.state != "completed"]
    complaints += [f"there are {len(records)} runs, and {sum(map(len, made.values()))} were made"] * (
        len(records) != sum(map(len, made.values()))
    )
    endings = [str(event.job_id) for event in events if event.name in TERMINAL]
    return complaints + finished_twice(endings, {job_id: record.attempts_made for job_id, record in ended.items()})


def repeats_after(lines: Iterable[Line], killed: set[int]) -> int:
    """How many runs followed one whose process was killed."""
    return sum(before.pid in killed for starts in runs_of(lines).values() for before, _ in pairwise(starts))
