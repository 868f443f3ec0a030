"""Workers and producers are killed at random moments; nothing that was acknowledged is lost, and nothing is recorded twice."""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections import Counter
from pathlib import Path

from faults.crew import Crew, crew, moment
from faults.history import (
    TERMINAL,
    finished_twice,
    lost,
    miscounted,
    never_run,
    runs_of,
    said,
    unasked,
    unexplained_repeats,
)
from faults.programs import QUEUE, ids_of
from faults.proof import Stopwatch, shown
from sizes import size
from toril.model import Event, JobRecord, QueueSettings
from toril.states import State
from toril.store import Store
from toril.stores.sqlite.store import SqliteStore

SEED = 20
PRODUCERS = ("ann", "bob")
WORKERS = 2
LOCK_MS = 1_000
INTERVAL_MS = 500


def test_no_acknowledged_job_is_lost_or_finished_twice_when_workers_and_producers_are_killed(tmp_path: Path) -> None:
    watch, jobs, kills = Stopwatch(), size("killed_jobs"), size("kills")
    chosen = [job_id for producer in PRODUCERS for job_id in ids_of(producer, jobs // len(PRODUCERS))]
    with crew(tmp_path) as hired:
        asyncio.run(keep_all_events(hired.store_path))
        kill_at_random(hired, jobs, kills, random.Random(SEED))
        asyncio.run(all_completed(hired.store_path, len(chosen)))
        statuses = [hired.stop(child) for child in hired.children if child.poll() is None]
        hired.listen()
        lines = hired.lines
        records, events, complaints = asyncio.run(look(hired.store_path))

    attempts = {record.ref.id: record.attempts_made for record in records if record.state is State.COMPLETED}
    endings = [str(event.job_id) for event in events if event.name in TERMINAL]
    complaints += lost(lines, attempts) + unasked(chosen, [record.ref.id for record in records])
    complaints += finished_twice(endings, attempts) + never_run(lines, attempts)
    complaints += unexplained_repeats(lines, hired.kills)
    assert complaints == []
    assert set(said(lines, "added")) == set(chosen) == set(attempts)
    assert statuses == [0] * WORKERS
    assert len(hired.kills) == kills
    repeats = sum(len(starts) - 1 for starts in runs_of(lines).values())
    assert repeats > 0, "no kill has hit a running job: the test has shown nothing"
    result = f"0 lost, 0 recorded twice, {repeats} runs repeated, all explained by kills"
    shown("SIGKILL of workers and producers while jobs run (SQLite)", f"{kills} kills, {jobs:,} jobs", result, watch)


# ------------------------------------------------------------------ the faults


def kill_at_random(hired: Crew, jobs: int, kills: int, rng: random.Random) -> None:
    """Kill producers while they add and workers while they work, replacing each, until all that is to be added is."""
    producers = {name: start_producer(hired, name, jobs) for name in PRODUCERS}
    workers = [start_worker(hired) for _ in range(WORKERS)]
    of_producers = kills // 2
    adds = sorted(rng.randrange(jobs * 9 // 10) for _ in range(of_producers))
    runs = sorted(rng.randrange(jobs * 9 // 10) for _ in range(kills - of_producers))
    while adds or runs:
        hired.until(
            lambda: bool((adds and hired.count("added") >= adds[0]) or (runs and hired.count("started") >= runs[0]))
        )
        if adds and hired.count("added") >= adds[0]:
            del adds[0]
            name = rng.choice([name for name in PRODUCERS if is_adding(hired, producers[name])] or PRODUCERS)
            moment(rng.random() * 0.02)
            hired.kill(producers[name])
            producers[name] = start_producer(hired, name, jobs)
        if runs and hired.count("started") >= runs[0]:
            del runs[0]
            number = rng.randrange(WORKERS)
            pid = workers[number].pid
            hired.until(lambda pid=pid: hired.count("started", pid) > 0 or hired.count("done") > 0)  # type: ignore[misc]
            moment(rng.random() * 0.02)
            hired.kill(workers[number])
            workers[number] = start_worker(hired)
    for child in producers.values():
        assert child.wait(60) == 0, hired.errors()


def is_adding(hired: Crew, child: subprocess.Popen[bytes]) -> bool:
    return hired.count("added", child.pid) > 0 and hired.count("done", child.pid) == 0


def start_producer(hired: Crew, name: str, jobs: int) -> subprocess.Popen[bytes]:
    return hired.start("produce", producer=name, count=jobs // len(PRODUCERS))


def start_worker(hired: Crew) -> subprocess.Popen[bytes]:
    return hired.start("work", lock_ms=LOCK_MS, interval_ms=INTERVAL_MS)


# ------------------------------------------------------------------ the look afterwards


async def keep_all_events(path: Path) -> None:
    store = SqliteStore(path)
    await store.configure(QUEUE, QueueSettings(max_events=10_000_000))
    await store.close()


async def all_completed(path: Path, jobs: int) -> None:
    """Return once so many jobs have completed."""
    store = SqliteStore(path)
    last = await store.last_event(QUEUE)
    while (await store.summaries([QUEUE]))[0].counts[State.COMPLETED] < jobs:
        events = await store.read(QUEUE, last, limit=100_000, until_ms=store.clock.now_ms() + 30_000)
        assert events, f"nothing has happened for 30 s: {(await store.summaries([QUEUE]))[0].counts}"
        last = events[-1].id
    await store.close()


async def look(path: Path) -> tuple[list[JobRecord], list[Event], list[str]]:
    """All records and events, and what is wrong with the store itself."""
    store = SqliteStore(path)
    [summary] = await store.summaries([QUEUE])
    records = [record for state in State for record in await records_in(store, state)]
    found = Counter(str(record.state) for record in records)
    complaints = miscounted({str(state): count for state, count in summary.counts.items()}, found)
    complaints += [finding.message for finding in await store.check() if finding.level == "error"]
    events = await events_of(store)
    await store.close()
    return records, events, complaints


async def records_in(store: Store, state: State) -> list[JobRecord]:
    records: list[JobRecord] = []
    after: str | None = None
    while True:
        page = await store.find(QUEUE, state, after=after, limit=1000)
        records += page.items
        after = page.next
        if after is None:
            return records


async def events_of(store: Store) -> list[Event]:
    events: list[Event] = []
    while more := await store.read(QUEUE, events[-1].id if events else None, limit=10_000):
        events += more
    return events
