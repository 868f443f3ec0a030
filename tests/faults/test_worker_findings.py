"""What workers do when they are blocked, killed, frozen, locked out or given what cannot be read: each a figure to hold."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from conformance.given import soon
from faults.crew import Crew, crew, moment
from faults.history import runs_of, said
from faults.programs import QUEUE, ref
from faults.proof import Stopwatch, shown
from sizes import size
from toril.model import Event, JobRecord
from toril.queue import Queue
from toril.states import State
from toril.stores.sqlite.store import SqliteStore

SLACK = 5  # how many times longer than it should a recovery may take on a machine that is busy with other tests

DRAINED_S = 5


@pytest.fixture
def hired(tmp_path: Path) -> Iterator[Crew]:
    with crew(tmp_path) as all_of_them:
        yield all_of_them


# ------------------------------------------------------------------ locks


def test_a_handler_that_blocks_its_loop_for_four_times_the_lock_runs_once(hired: Crew) -> None:
    watch, lock_ms = Stopwatch(), size("blocked_lock_ms")
    workers = [
        hired.start("work", lock_ms=lock_ms, interval_ms=lock_ms // 2, ms=4 * lock_ms, blocks=True, max_stalled=3)
        for _ in range(2)
    ]
    ready(hired, workers)

    add(hired, "blocking")
    record = ended(hired, "blocking")

    assert hired.count("started") == 1
    assert (record.state, record.stalled, record.attempts_made) == (State.COMPLETED, 0, 1)
    shown("handler blocks the loop for 4 x the lock", f"lock {lock_ms / 1000:g} s", "1 run, completed", watch)


def test_a_job_of_a_killed_worker_runs_again_soon_after_its_lock_has_lapsed(hired: Crew) -> None:
    watch, lock_ms, interval_ms = Stopwatch(), size("killed_lock_ms"), size("killed_interval_ms")
    workers = [start_worker(hired, lock_ms, interval_ms, ms=60_000) for _ in range(2)]
    waits_s: list[float] = []
    taken_for_ms: list[int] = []  # by the store's clock: until it was put back, from when it was taken
    for n in range(size("killed_workers")):
        ready(hired, workers)
        add(hired, f"job-{n}")
        hired.until(lambda n=n: f"job-{n}" in said(hired.lines, "started"))  # type: ignore[misc]
        first = hired.last("started")
        hired.kill(hired.child_of(first))
        hired.until(lambda n=n: said(hired.lines, "started").count(f"job-{n}") == 2)  # type: ignore[misc]
        waits_s.append(hired.last("started").at_s - first.at_s)
        stalled = asyncio.run(look(hired.store_path, f"job-{n}"))[0].history[0]
        taken_for_ms.append(stalled.ended_at_ms - stalled.started_at_ms)
        workers = [worker for worker in workers if worker.poll() is None] + [
            start_worker(hired, lock_ms, interval_ms, ms=60_000)
        ]

    assert min(taken_for_ms) >= lock_ms, "the lock was not waited for"
    assert max(waits_s) <= (lock_ms + interval_ms) / 1000 * SLACK
    result = f"runs again after {min(waits_s):.1f} to {max(waits_s):.1f} s"
    sizes = f"{len(waits_s)} kills, lock {lock_ms / 1000:g} s, check {interval_ms / 1000:g} s"
    shown("kill -9 of a worker in a job", sizes, result, watch)


def test_a_worker_frozen_for_longer_than_its_lock_finishes_too_late_and_is_refused(hired: Crew) -> None:
    watch, lock_ms = Stopwatch(), size("frozen_lock_ms")
    frozen = start_worker(hired, lock_ms, lock_ms // 2, ms=lock_ms // 2, exact=True, answer=1)
    ready(hired, [frozen])
    add(hired, "job")
    hired.until(lambda: hired.count("started") == 1)
    with freezing(frozen):
        second = start_worker(hired, lock_ms, lock_ms // 2, ms=0, answer=2)
        record = ended(hired, "job")
        assert (record.state, record.result, record.stalled) == (State.COMPLETED, "2", 1)
    hired.until(lambda: "lost its lock" in hired.errors() or "was not recorded" in hired.errors())

    assert frozen.poll() is None
    assert [hired.stop(frozen), hired.stop(second)] == [0, 0]
    record, events = asyncio.run(look(hired.store_path, "job"))
    assert (record.result, record.attempts_made) == ("2", 1)
    assert [event.name for event in events].count("completed") == 1
    hired.listen()
    assert [line.pid for line in runs_of(hired.lines)["job"]] == [frozen.pid, second.pid]
    shown(
        "SIGSTOP of a worker for longer than its lock",
        f"lock {lock_ms / 1000:g} s",
        "late finish refused, recorded once",
        watch,
    )


# ------------------------------------------------------------------ waking


def test_an_idle_worker_picks_up_a_job_at_once(hired: Crew) -> None:
    watch, idle_ms = Stopwatch(), size("idle_ms")
    ready(hired, [start_worker(hired, 30_000, 30_000, ms=0)])
    moment(idle_ms / 1000)

    add(hired, "late")
    hired.until(lambda: hired.count("finished") == 1)

    waited_ms = (hired.last("started").at_s - hired.last("added").at_s) * 1000
    result = f"starts {max(waited_ms, 0):.0f} ms after the add was acknowledged"
    shown("a job after idling", f"{idle_ms / 1000:g} s idle", result, watch)


# ------------------------------------------------------------------ what cannot be read


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("data", "'{\"half'", "the job's data cannot be read"),
        ("data", "''", "the job's data cannot be read"),
        ("data", "printf('%.*c', 100000, '[')", "the job's data cannot be read"),
        ("options", "'{\"half'", "the job's options cannot be read"),
        ("options", "'{\"no_such_option\": 1}'", "the job's options cannot be read"),
        pytest.param(
            "options",
            "'[]'",
            "the job's options cannot be read",
        ),
        pytest.param(
            "data",
            "CAST(x'22ff22' AS TEXT)",
            "the job's data cannot be read",
        ),
        pytest.param(
            "options",
            "CAST(x'22ff22' AS TEXT)",
            "the job's options cannot be read",
        ),
    ],
)
def test_a_job_that_cannot_be_read_fails_at_once_and_holds_up_no_other(
    hired: Crew, column: str, value: str, reason: str
) -> None:
    add(hired, "unreadable")
    add(hired, "sound")
    with contextlib.closing(sqlite3.connect(hired.store_path)) as damage:
        damage.execute(f"UPDATE job SET {column} = {value} WHERE id = 'unreadable'")
        damage.commit()
    start_worker(hired, 30_000, 100, ms=0)

    names = asyncio.run(until_drained(hired.store_path))

    record, sound = (asyncio.run(look(hired.store_path, job_id))[0] for job_id in ("unreadable", "sound"))
    hired.listen()
    assert said(hired.lines, "started") == ["sound"]
    assert "stalled" not in names
    assert record.state is State.FAILED
    assert record.reason is not None
    assert record.reason.startswith(reason)
    assert (record.stalled, record.attempts_started) == (0, 1)
    assert sound.state is State.COMPLETED


async def until_drained(path: Path) -> list[str]:
    """The names of events until nothing is left to do."""
    store, names = SqliteStore(path), list[str]()
    async with asyncio.timeout(DRAINED_S):
        async for event in Queue(QUEUE, store).events("0"):
            names.append(event.name)
            if event.name == "drained":
                break
    await store.close()
    return names


# ------------------------------------------------------------------ a file that cannot be written


def test_adds_and_finishes_wait_for_another_process_that_holds_the_file(hired: Crew) -> None:
    watch, locked_ms = Stopwatch(), size("locked_ms")
    worker = start_worker(hired, 30_000, 30_000, ms=locked_ms // 2, exact=True)
    ready(hired, [worker])
    add(hired, "running")
    hired.until(lambda: hired.count("started") == 1)
    with contextlib.closing(sqlite3.connect(hired.store_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        adding = hired.start("add_one", job_id="waiting")
        hired.until(lambda: hired.count("finished") == 1)
        moment(locked_ms / 1000)
        assert adding.poll() is None
        assert worker.poll() is None
        assert hired.count("added") == 1
        other.execute("ROLLBACK")
    hired.until(lambda: hired.count("finished") == 2)

    assert adding.wait(60) == 0
    assert ended(hired, "running").attempts_made == 1
    assert ended(hired, "waiting").attempts_made == 1
    assert hired.stop(worker) == 0
    assert "database is locked" not in hired.errors()
    shown("the file held by another process", f"{locked_ms / 1000:g} s", "adds and finishes wait and go through", watch)


def test_a_file_that_may_not_grow_refuses_adds_and_all_goes_on_when_it_may(hired: Crew) -> None:
    watch = Stopwatch()
    child = hired.start("fill", room=2_000_000)

    assert child.wait(60) == 0, hired.errors()

    added = lived_through(hired)
    findings = asyncio.run(check(hired.store_path))
    assert findings == []
    shown("file size limit reached (RLIMIT_FSIZE)", f"{added} adds", "refused; 0 acknowledged lost; recovers", watch)


def test_a_full_disk_refuses_adds_with_a_sentence_and_all_goes_on_when_there_is_room(hired: Crew) -> None:
    watch, disk = Stopwatch(), hired.directory / "disk"
    disk.mkdir()
    own_disk = ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs -o size=24m none '{disk}' && exec \"$@\"", "sh"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*own_disk, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this user may not mount a small file system (unshare -rm): nothing can be filled up")
    child = hired.start("fill", within=own_disk, path=str(disk / "toril.db"), ballast=str(disk / "ballast"))

    assert child.wait(60) == 0, hired.errors()

    added = lived_through(hired)
    assert "refused: there is no room left for" in hired.errors()
    assert "free some space" in hired.errors()
    shown("disk full", f"{added} adds", "refused with a sentence; 0 acknowledged lost; recovers", watch)


def lived_through(hired: Crew) -> int:
    """See that one add was refused, none that was acknowledged is lost, and the worker lived; how many were added."""
    hired.listen()
    added = said(hired.lines, "added")
    assert hired.count("refused") == 1
    assert hired.count("dead") == 0
    assert hired.count("done") == 1
    assert {"first", "after"} < set(added)
    assert set(added) - set(said(hired.lines, "started")) == set()
    return len(added)


# ------------------------------------------------------------------ steps


def start_worker(
    hired: Crew, lock_ms: int, interval_ms: int, *, ms: int, exact: bool = False, answer: int = 0
) -> subprocess.Popen[bytes]:
    return hired.start("work", lock_ms=lock_ms, interval_ms=interval_ms, ms=ms, exact=exact, answer=answer)


def ready(hired: Crew, children: list[subprocess.Popen[bytes]]) -> None:
    """Return once all of these serve."""
    hired.until(lambda: all(hired.count("ready", child.pid) for child in children))


def add(hired: Crew, job_id: str) -> None:
    """Add a job, and say so in the history."""

    async def add() -> None:
        store = SqliteStore(hired.store_path)
        await Queue(QUEUE, store).add("job", job_id=job_id)
        hired.pen().tell("added", job_id)
        await store.close()

    asyncio.run(add())
    hired.listen()


def ended(hired: Crew, job_id: str) -> JobRecord:
    """The record of a job once it has ended."""

    async def until_ended() -> JobRecord:
        store = SqliteStore(hired.store_path)
        async for event in Queue(QUEUE, store).events("0"):
            if event.name in ("completed", "failed") and event.job_id == job_id:
                break
        [record] = await store.get([ref(job_id)])
        await store.close()
        assert record is not None
        return record

    record = asyncio.run(soon(until_ended()))
    hired.listen()
    return record


async def look(path: Path, job_id: str) -> tuple[JobRecord, list[Event]]:
    store = SqliteStore(path)
    [record] = await store.get([ref(job_id)])
    events = await store.read(QUEUE, None)
    await store.close()
    assert record is not None
    return record, events


async def check(path: Path) -> list[str]:
    store = SqliteStore(path)
    findings = [finding.message for finding in await store.check() if finding.level == "error"]
    await store.close()
    return findings


@contextlib.contextmanager
def freezing(child: subprocess.Popen[bytes]) -> Generator[None]:
    """A process does not run for the length of the block."""
    child.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        child.send_signal(signal.SIGCONT)
