"""Redis goes away, hangs, forgets or refuses while workers work: none ends, no job is lost or run twice, and it is said once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from conformance.given import soon
from faults.crew import Crew, crew, moment
from faults.history import TERMINAL, finished_twice, lost, miscounted, never_run, said, unasked, unexplained_repeats
from faults.proof import Stopwatch, shown
from faults.proxy import Proxy, Which, during
from faults.redis_process import RedisProcess
from faults.redis_programs import ON_REDIS
from faults.redis_programs import QUEUE as WORK
from sizes import size
from toril import Context, Queue, Worker
from toril.errors import StoreUnavailable
from toril.model import Event, JobRecord, QueueSettings, Woken
from toril.states import FINISHED, State
from toril.store import Store
from toril.stores.redis.store import RedisStore
from worker.stage import QUEUE, Gate, at_work, running

TIMEOUT_S = 0.5
SEED = 30
AWAY = "the store cannot be reached, trying again until it can"
BACK = "the store is back after"


@pytest.fixture
def server(redis_url: str, tmp_path: Path) -> Iterator[RedisProcess]:
    """A server of the test's own, which keeps its data. Where none is installed, `redis_url` says so."""
    with RedisProcess(tmp_path, "--appendonly", "yes") as own:
        yield own


@pytest.fixture
def proxy(server: RedisProcess) -> Iterator[Proxy]:
    with Proxy(server.port) as relay:
        yield relay


def open_redis(url: str, *, timeout: float = TIMEOUT_S) -> Store:
    return cast("Store", RedisStore(url, timeout=timeout))


@pytest.fixture
async def store(proxy: Proxy) -> AsyncIterator[Store]:
    """The worker's store, behind the proxy; it gives up soon."""
    opened = open_redis(proxy.url)
    yield opened
    await opened.close()


@pytest.fixture
async def queue(server: RedisProcess) -> AsyncIterator[Queue]:
    """The test's own way to the queue, past the proxy."""
    opened = open_redis(server.url, timeout=20)
    yield Queue(QUEUE, opened, defaults={"keep_completed": True})
    await opened.close()


class Diary(logging.Handler):
    """What Toril has told at the level of a warning or above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self._loop.call_soon_threadsafe(self._news.set)

    def count(self, beginning: str) -> int:
        """How often something was said that begins so."""
        return sum(message.startswith(beginning) for message in self.messages)

    async def until(self, beginning: str, times: int = 1) -> None:
        """Return when it has been said so often."""
        async with asyncio.timeout(20):
            while self.count(beginning) < times:
                self._news.clear()
                await self._news.wait()


@pytest.fixture
async def diary() -> AsyncIterator[Diary]:
    kept = Diary()
    logging.getLogger("toril").addHandler(kept)
    yield kept
    logging.getLogger("toril").removeHandler(kept)


class Hands:
    """A handler that counts the runs of each job, and lets them pass at a gate, which is open unless closed at first."""

    def __init__(self, *, closed: bool = False) -> None:
        self.gate = Gate()
        self.runs: Counter[str] = Counter()
        if not closed:
            self.gate.open()

    async def work(self, ctx: Context) -> str:
        self.runs[ctx.job_id] += 1
        await self.gate.passed(ctx.job_id)
        return "done"


async def parked(proxy: Proxy) -> None:
    """Return when a worker waits for the bell."""
    await proxy.until(lambda: proxy.requests["BZPOPMIN"] > 0, "the worker to wait")


async def all_ended(queue: Queue, jobs: int) -> None:
    """Return when so many jobs have ended."""
    ended = 0
    async for event in queue.events("0"):
        ended += event.name in TERMINAL
        if ended == jobs:
            return


async def insist_on(queue: Queue, job_id: str) -> Any:
    """Add a job, and again until it is acknowledged."""
    while True:
        with contextlib.suppress(StoreUnavailable):
            return await queue.add("work", job_id=job_id)


# ------------------------------------------------------------------ one outage, whatever it is


@contextlib.contextmanager
def restarting(server: RedisProcess) -> Generator[None]:
    server.kill()
    yield
    server.start()


@contextlib.contextmanager
def reading_its_data(server: RedisProcess) -> Generator[None]:
    server.ask("EVAL", "for n = 1, 2000 do redis.call('SET', 'ballast-' .. n, string.rep('x', 100)) end", 0)
    server.write_snapshot()
    server.kill()
    server.start("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024", ready=False)
    yield
    server.set(key_load_delay=0)


Trouble = Callable[[RedisProcess, Proxy], contextlib.AbstractContextManager[None]]

TROUBLES: dict[str, Trouble] = {
    "nobody listens": lambda _, proxy: during(proxy.refuse, proxy.accept),
    "whoever connects is cut off": lambda _, proxy: during(proxy.slam, proxy.accept),
    "everything vanishes": lambda _, proxy: during(proxy.freeze, proxy.thaw),
    "answers never come": lambda _, proxy: during(proxy.mute, proxy.unmute),
    "the server was killed": lambda server, _: restarting(server),
    "the server reads its data": lambda server, _: reading_its_data(server),
    "the server is frozen": lambda server, _: server.frozen(),
    "the server is read-only": lambda server, _: server.read_only(),
    "the server cannot save": lambda server, _: server.unable_to_save(),
    "a script keeps the server busy": lambda server, _: server.busy(),
    "the server wants a password": lambda server, _: server.locked(),
    "the server takes no more clients": lambda server, _: server.full_house(),
    "the server denies a command": lambda server, _: server.denying("evalsha"),
    "the server denies a command in scripts": lambda server, _: server.denying("mget"),
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
async def test_a_worker_outlives_any_trouble_with_its_server_and_says_so_once(
    server: RedisProcess,
    proxy: Proxy,
    store: Store,
    queue: Queue,
    diary: Diary,
    trouble: Trouble,
) -> None:
    hands = Hands(closed=True)
    async with at_work(store, hands.work, concurrency=2):
        before = [await queue.add("work", job_id=f"before-{n}") for n in range(4)]
        await hands.gate.arrivals(2)
        with trouble(server, proxy):
            hands.gate.open()
            await diary.until(AWAY)
        await diary.until(BACK)
        after = await soon(insist_on(queue, "after"))
        for job in (*before, after):
            assert await soon(job.result()) == "done"

    records = [await job.record() for job in (*before, after)]
    assert set(hands.runs.values()) == {1}
    assert {(record.attempts_made, record.attempts_started, record.stalled) for record in records} == {(1, 1, 0)}
    assert (diary.count(AWAY), diary.count(BACK)) == (1, 1), diary.messages


async def test_a_worker_may_start_long_before_its_server(tmp_path: Path, redis_url: str, diary: Diary) -> None:
    server, hands = RedisProcess(tmp_path), Hands()
    with Proxy(server.port) as proxy, contextlib.ExitStack() as after_all:
        store, direct = open_redis(proxy.url), open_redis(server.url, timeout=20)
        async with at_work(store, hands.work):
            await proxy.until(lambda: len(proxy.tried_at_s) > 4, "tries to connect")
            after_all.enter_context(server)
            assert await soon((await Queue(QUEUE, direct).add("work")).result()) == "done"
        await store.close()
        await direct.close()

    assert (diary.count(AWAY), diary.count(BACK)) == (1, 1), diary.messages


async def test_a_second_outage_is_told_again(
    proxy: Proxy, store: Store, queue: Queue, diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toril.worker.claimer.SILENCE_MS", 500)
    hands = Hands()
    async with at_work(store, hands.work):
        for times in (1, 2):
            await parked(proxy)
            with during(proxy.refuse, proxy.accept):
                await diary.until(AWAY, times)
            await diary.until(BACK, times)
            assert await soon((await queue.add("work")).result()) == "done"

    assert (diary.count(AWAY), diary.count(BACK)) == (2, 2)


async def test_an_outage_that_loops_notice_one_after_the_other_is_told_once(
    proxy: Proxy, store: Store, queue: Queue, diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections are dead, and nobody says so: a job that ends finds out first, and then those who wait."""
    monkeypatch.setattr("toril.stores.redis.consumer.LONGEST_BLOCK_S", 1.0)
    hands = Hands(closed=True)
    async with at_work(store, hands.work, concurrency=2):
        job = await queue.add("work")
        await hands.gate.arrivals()
        await parked(proxy)
        proxy.freeze(new=False)
        hands.gate.open()
        assert await soon(job.result()) == "done"
        listening = proxy.requests["BZPOPMIN"]
        await proxy.until(lambda: proxy.requests["BZPOPMIN"] > listening, "the worker to wait on a new connection")
        assert await soon((await queue.add("work")).result()) == "done"
        proxy.thaw()

    assert (diary.count(AWAY), diary.count(BACK)) == (1, 1), diary.messages


async def test_a_worker_goes_on_when_its_server_has_lost_all(
    server: RedisProcess, store: Store, queue: Queue, diary: Diary
) -> None:
    hands = Hands(closed=True)
    async with at_work(store, hands.work, concurrency=2):
        gone = [await queue.add("work") for _ in range(5)]
        await hands.gate.arrivals(2)
        server.ask("FLUSHALL")
        hands.gate.open()
        new = await queue.add("work")

        assert await soon(new.result()) == "done"

    assert set(hands.runs) == {new.id, *(job.id for job in gone if hands.runs[job.id])}
    assert len(hands.runs) == 3
    assert diary.count("email/") == 2  # the two outcomes that nobody wants any more
    assert diary.count(AWAY) == 0


async def test_a_full_server_lets_workers_finish_what_waits(
    server: RedisProcess, store: Store, queue: Queue, diary: Diary
) -> None:
    gate = Gate()

    async def work(ctx: Context) -> str:
        await gate.passed()
        ctx.log("a line")
        ctx.progress(50)
        return "done"

    async with at_work(store, work, concurrency=2):
        jobs = [await queue.add("work") for _ in range(6)]
        await gate.arrivals(2)
        with server.full():
            with pytest.raises(StoreUnavailable, match="OOM command not allowed"):
                await queue.add("work")
            gate.open()
            for job in jobs:
                assert await soon(job.result()) == "done"
        assert await soon((await queue.add("work")).result()) == "done"

    assert diary.count(AWAY) == 0


async def test_a_worker_follows_its_address_to_another_server(
    server: RedisProcess, proxy: Proxy, store: Store, queue: Queue, tmp_path: Path
) -> None:
    """As when the address of a service moves to the replica that was promoted: the bell has to move too."""
    hands = Hands()
    async with at_work(store, hands.work):
        await parked(proxy)
        with RedisProcess(tmp_path) as successor:
            proxy.aim(successor.port)
            server.ask("REPLICAOF", "127.0.0.1", successor.port)
            moved = open_redis(successor.url, timeout=20)
            for _ in range(3):
                job = await Queue(QUEUE, moved).add("work")
                assert await soon(job.result()) == "done"
            blocked = sum(client["cmd"] == "bzpopmin" for client in clients_of(successor))
            left = [client for client in clients_of(server) if client["cmd"] == "bzpopmin"]
            await moved.close()
            assert blocked == 1
            assert left == []


def clients_of(server: RedisProcess) -> list[dict[str, str]]:
    with server.client() as client:
        return list(client.client_list())


# ------------------------------------------------------------------ dead connections


@pytest.mark.parametrize("which", ["hot", "blocking", "all"])
async def test_jobs_are_picked_up_again_when_an_idle_workers_connections_have_died(
    proxy: Proxy, queue: Queue, which: Which, monkeypatch: pytest.MonkeyPatch
) -> None:
    block_s = size("redis_block_ms") / 1000
    monkeypatch.setattr("toril.stores.redis.consumer.LONGEST_BLOCK_S", block_s)
    monkeypatch.setattr("toril.worker.claimer.SILENCE_MS", 1000 * block_s)
    store, hands = open_redis(proxy.url, timeout=block_s), Hands()
    async with at_work(store, hands.work):
        await parked(proxy)
        proxy.freeze(which, new=False)
        watch = Stopwatch()
        job = await queue.add("work")
        await soon(hands.gate.arrivals())
        picked_up_s = watch.seconds
        assert await soon(job.result()) == "done"
        proxy.thaw()
    await store.close()

    assert hands.runs == {job.id: 1}
    sizes = f"blocking for {block_s:g} s, time-out {block_s:g} s"
    shown(f"an idle worker's connections have died: {which} (Redis)", sizes, f"next job after {picked_up_s:g} s", watch)


async def test_an_idle_worker_on_redis_picks_up_a_job_at_once(proxy: Proxy, queue: Queue) -> None:
    idle_s, watch, hands = size("idle_ms") / 1000, Stopwatch(), Hands()
    store = open_redis(proxy.url, timeout=5)
    waits_ms: list[float] = []
    async with at_work(store, hands.work):
        for _ in range(size("redis_idles")):
            await parked(proxy)
            await asyncio.to_thread(moment, idle_s)
            began_ms = queue.store.clock.now_ms()
            job = await queue.add("work")
            await hands.gate.arrivals()
            waits_ms.append(queue.store.clock.now_ms() - began_ms)
            assert await soon(job.result()) == "done"
    await store.close()

    result = f"starts {statistics.median(waits_ms):g} ms after it is added (median of {len(waits_ms)})"
    shown("a job after idling (Redis)", f"{idle_s:g} s idle", result, watch)


async def test_a_wait_that_never_ends_is_given_up(
    proxy: Proxy, queue: Queue, diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toril.worker.claimer.SILENCE_MS", 100)
    monkeypatch.setattr("toril.worker.claimer.HUNG_MS", 100)
    entered = asyncio.Event()

    class Deaf(RedisStore):
        async def wait(self, worker: str, queues: Any, until_ms: int | None) -> Woken:
            entered.set()
            await asyncio.Event().wait()
            raise AssertionError

    store, hands = cast("Store", Deaf(proxy.url, timeout=5)), Hands()
    async with at_work(store, hands.work):
        await soon(entered.wait())
        job = await queue.add("work")
        assert await soon(job.result()) == "done"
    await store.close()

    assert diary.count(f"the wait for jobs of {QUEUE} did not end in its time") > 0


async def test_a_worker_that_is_stopped_while_its_server_is_away_ends_in_time(
    proxy: Proxy, store: Store, queue: Queue, diary: Diary
) -> None:
    hands = Hands(closed=True)
    worker = Worker(QUEUE, hands.work, store, grace=1)
    async with running(worker) as run:
        job = await queue.add("work", job_id="held")
        await hands.gate.arrivals()
        proxy.refuse()
        hands.gate.open()
        await diary.until(AWAY)
        worker.stop()
        watch = Stopwatch()
        await soon(run)
    proxy.accept()

    assert watch.seconds < 15
    assert await job.state() is State.ACTIVE  # until its lock has lapsed


# ------------------------------------------------------------------ work goes on


async def test_a_server_that_is_killed_in_the_midst_of_work_loses_no_job_and_repeats_none(
    server: RedisProcess, proxy: Proxy, store: Store, queue: Queue
) -> None:
    watch, jobs, kills = Stopwatch(), size("redis_restart_jobs"), size("redis_restarts")
    hands = Hands()
    await queue.configure(replace(QueueSettings(), max_events=10_000_000))
    await queue.add_many([("work", None)] * jobs)
    async with at_work(store, hands.work, concurrency=20):
        for kill in range(kills):
            await hands.gate.arrivals((jobs - 50) // kills if kill else 50)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await soon(all_ended(queue, jobs))

    assert (await queue.counts())[State.COMPLETED] == jobs
    assert len(hands.runs) == jobs
    assert set(hands.runs.values()) == {1}
    shown("SIGKILL of Redis with an AOF while jobs run", f"{kills} kills, {jobs:,} jobs", "each job ran once", watch)


Nuisance = Callable[[RedisProcess, Proxy], object]

NUISANCES: dict[str, Nuisance] = {
    "connections are cut": lambda _, proxy: proxy.cut(),
    "clients are killed": lambda server, _: server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
    "scripts are forgotten": lambda server, _: server.ask("SCRIPT", "FLUSH"),
    "answers get lost": lambda _, proxy: proxy.lose_answer("hot"),
    "requests get lost": lambda _, proxy: proxy.cut_after(request_bytes=1),
}


@pytest.mark.parametrize("nuisance", NUISANCES.values(), ids=NUISANCES)
async def test_work_goes_on_under_a_nuisance_and_each_job_runs_once(
    server: RedisProcess, proxy: Proxy, queue: Queue, nuisance: Nuisance
) -> None:
    jobs, hands = size("redis_nuisance_jobs"), Hands()
    store = open_redis(proxy.url, timeout=5)
    await queue.add_many([("work", None)] * jobs)
    async with at_work(store, hands.work, concurrency=5):
        for _ in range(0, jobs, 25):
            await hands.gate.arrivals(25)
            nuisance(server, proxy)
        await soon(all_ended(queue, jobs))
    await store.close()

    assert (await queue.counts())[State.COMPLETED] == jobs
    assert set(hands.runs.values()) == {1}
    assert len(hands.runs) == jobs


async def test_a_slow_server_slows_work_and_repeats_nothing(
    server: RedisProcess, proxy: Proxy, queue: Queue, diary: Diary
) -> None:
    store, hands = open_redis(proxy.url, timeout=5), Hands()
    proxy.delay(0.1)
    async with at_work(store, hands.work, concurrency=20):
        jobs = await queue.add_many([("work", None)] * 40)
        for job in jobs:
            assert await soon(job.result()) == "done"
    await store.close()

    assert set(hands.runs.values()) == {1}
    assert diary.messages == []


async def test_what_a_frozen_server_was_asked_before_and_after_is_done_once(
    server: RedisProcess, store: Store, queue: Queue
) -> None:
    """When it goes on, it finds both copies of what was asked: that of the connection given up, and that of the next."""
    jobs, hands = 300, Hands()
    await queue.add_many([("work", None)] * jobs)
    async with at_work(store, hands.work, concurrency=20):
        for _ in range(2):
            await hands.gate.arrivals(50)
            with server.frozen():
                await asyncio.to_thread(moment, 2 * TIMEOUT_S)
        await soon(all_ended(queue, jobs))
        assert (await queue.counts())[State.ACTIVE] == 0

    assert set(hands.runs.values()) == {1}
    assert len(hands.runs) == jobs


# ------------------------------------------------------------------ everything at once


def once(nuisance: Nuisance) -> Trouble:
    """A nuisance as a trouble: it comes at the beginning of the block."""
    return lambda server, proxy: during(lambda: nuisance(server, proxy), lambda: None)


FAULTS: dict[str, Trouble] = {
    **{name: trouble for name, trouble in TROUBLES.items() if name != "the server reads its data"},
    **{name: once(nuisance) for name, nuisance in NUISANCES.items()},
    "memory is full": lambda server, _: server.full(),
    "everything is slow": lambda _, proxy: during(lambda: proxy.delay(0.05), lambda: proxy.delay(0)),
    "connections die": lambda _, proxy: during(lambda: proxy.freeze(new=False), proxy.thaw),
}


def test_no_job_is_lost_or_doubled_and_no_worker_ends_whatever_redis_does(
    server: RedisProcess, proxy: Proxy, tmp_path: Path
) -> None:
    watch, jobs, faults = Stopwatch(), size("redis_fault_run_jobs"), size("redis_fault_run_faults")
    rng = random.Random(SEED)
    kinds = rng.sample(list(FAULTS), len(FAULTS))
    chosen_faults = [kinds[n % len(kinds)] for n in range(faults)]
    with crew(tmp_path / "crew") as hired:
        asyncio.run(keep_all_events(server))
        workers = [hire(hired, "work", proxy, concurrency=20, ms=5, lock_ms=30_000) for _ in range(2)]
        producers = [hire(hired, "produce", proxy, producer=name, rest_ms=20) for name in ("ann", "bob")]
        waits_s: list[float] = []
        for number, name in enumerate(chosen_faults, 1):
            hired.until(lambda: hired.count("added") >= number * jobs // (faults + 1))  # noqa: B023
            with FAULTS[name](server, proxy):
                moment(rng.uniform(0.1, 0.5))
            waits_s.append(until_one_is_done(hired))
        hired.until(lambda: hired.count("added") >= jobs)
        for producer in producers:
            producer.kill()
            producer.wait()
        asyncio.run(asyncio.wait_for(all_done(server), 90))
        alive = [worker.poll() for worker in workers]
        statuses = [hired.stop(worker) for worker in workers]
        hired.listen()
        lines = hired.lines
        records, events, complaints = asyncio.run(look(server))

    completed = {record.ref.id: record.attempts_made for record in records if record.state is State.COMPLETED}
    endings = [str(event.job_id) for event in events if event.name in TERMINAL]
    complaints += lost(lines, completed) + unasked(said(lines, "adding"), [record.ref.id for record in records])
    complaints += finished_twice(endings, completed) + never_run(lines, completed) + unexplained_repeats(lines, [])
    complaints += [f"{record.ref} stalled {record.stalled} times" for record in records if record.stalled]
    assert complaints == []
    assert len(completed) == len(records) >= jobs
    assert (alive, statuses) == ([None, None], [0, 0])
    assert statistics.median(waits_s) < 5, dict(zip(chosen_faults, waits_s, strict=True))
    took = f"next job {statistics.median(waits_s):.2f} s after a fault (median; at most {max(waits_s):.2f} s)"
    result = f"0 lost, 0 recorded twice, 0 runs repeated, 0 workers ended; {took}"
    shown("faults of Redis and of the way to it", f"{faults} faults, {len(records):,} jobs", result, watch)


def hire(hired: Crew, program: str, proxy: Proxy, **settings: Any) -> subprocess.Popen[bytes]:
    return hired.start(program, within=ON_REDIS, url=proxy.url, timeout=size("redis_block_ms") / 1000, **settings)


def until_one_is_done(hired: Crew) -> float:
    """Return when a job has been finished that was started from now on; how many seconds it took."""
    hired.listen()
    before, began_s = len(hired.lines), time.monotonic()
    started: set[str] = set()

    def one_is_done() -> bool:
        news = hired.lines[before:]
        started.update(line.job_id for line in news if line.what == "started" and line.at_s >= began_s)
        return any(line.what == "finished" and line.job_id in started for line in news)

    hired.until(one_is_done)
    return time.monotonic() - began_s


async def keep_all_events(server: RedisProcess) -> None:
    store = open_redis(server.url, timeout=20)
    await store.configure(WORK, QueueSettings(max_events=10_000_000))
    await store.close()


async def all_done(server: RedisProcess) -> None:
    """Return when nothing waits or runs any more."""
    store = open_redis(server.url, timeout=20)
    last = await store.last_event(WORK)
    while True:
        counts = (await store.summaries([WORK]))[0].counts
        if not any(count for state, count in counts.items() if state not in FINISHED):
            break
        events = await store.read(WORK, last, limit=100_000, until_ms=store.clock.now_ms() + 60_000)
        last = events[-1].id if events else last
    await store.close()


async def look(server: RedisProcess) -> tuple[list[JobRecord], list[Event], list[str]]:
    """All records and events, and what is wrong with the store itself."""
    store = open_redis(server.url, timeout=20)
    queue = Queue(WORK, store)
    summary = await queue.summary()
    records = [record for state in State async for record in queue.iterate(state)]
    found = Counter(str(record.state) for record in records)
    complaints = miscounted({str(state): count for state, count in summary.counts.items()}, found)
    complaints += [finding.message for finding in await store.check() if finding.level == "error"]
    events: list[Event] = []
    while more := await store.read(WORK, events[-1].id if events else None, limit=10_000):
        events += more
    await store.close()
    return records, events, complaints
