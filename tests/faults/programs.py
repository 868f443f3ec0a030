"""The programs that crash tests run in child processes: `python -m faults.programs <program> <settings as JSON>`."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import random
import resource
import sqlite3
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from faults.history import Pen, read_lines, said
from toril.errors import StoreError, StoreUnavailable
from toril.handlers import Context
from toril.model import Completed, JobRef, Settlement, Slots, Wanted
from toril.queue import Queue
from toril.states import State
from toril.stores.sqlite import bell
from toril.stores.sqlite.connection import Place, open_reader
from toril.stores.sqlite.store import SqliteStore
from toril.worker import Worker

QUEUE = "work"
LANES = 8

Settings = dict[str, Any]


def _store(settings: Settings) -> SqliteStore:
    return SqliteStore(settings["path"], durability=settings.get("durability", "full"))


def _pen(settings: Settings) -> Pen:
    return Pen(Path(settings["history"]), settings["bell"])


def ids_of(producer: str, count: int) -> list[str]:
    """The ids that a producer gives its jobs: chosen before the first try, so that whoever takes over knows them."""
    return [f"{producer}-{n}" for n in range(count)]


async def produce(settings: Settings) -> None:
    """Add the jobs of one producer, going on where the history ends."""
    pen, store = _pen(settings), _store(settings)
    queue = Queue(QUEUE, store, defaults={"keep_completed": True})
    acknowledged = set(said(read_lines(Path(settings["history"])), "added"))
    left = deque(job_id for job_id in ids_of(settings["producer"], settings["count"]) if job_id not in acknowledged)

    async def lane() -> None:
        while left:
            job_id = left.popleft()
            await queue.add("job", {"of": settings["producer"]}, job_id=job_id)
            pen.tell("added", job_id)

    async with asyncio.TaskGroup() as lanes:
        for _ in range(LANES):
            lanes.create_task(lane())
    await store.close()
    pen.tell("done")


async def work(settings: Settings) -> None:
    """Work until told to end. A handler takes `ms` milliseconds at most, blocking its loop if `blocks`."""
    pen, store, rng = _pen(settings), _store(settings), random.Random()
    ms, blocks, answer = settings.get("ms", 10), settings.get("blocks", False), int(settings.get("answer", 0))

    async def process(ctx: Context) -> int:
        pen.tell("started", ctx.job_id)
        if blocks:
            time.sleep(ms / 1000)  # noqa: ASYNC251  a handler that blocks its loop is the fault
        else:
            await asyncio.sleep(ms / 1000 * (1 if settings.get("exact") else rng.random()))
        pen.tell("finished", ctx.job_id)
        return answer

    worker = Worker(
        QUEUE,
        process,
        store,
        concurrency=settings.get("concurrency", 10),
        lock=settings["lock_ms"] / 1000,
        stalled_interval=settings["interval_ms"] / 1000,
        max_stalled=settings.get("max_stalled", 1_000_000),
    )
    ended = asyncio.ensure_future(worker.run(handle_signals=True))
    pen.tell("ready")
    await ended
    await store.close()


async def write(settings: Settings) -> None:
    """Add jobs and finish some, without end, saying of each what the store has acknowledged."""
    pen, store, rng = _pen(settings), _store(settings), random.Random(settings["seed"])
    queue = Queue(QUEUE, store, defaults={"keep_completed": True})
    worker, numbers = str(settings["seed"]), itertools.count()

    async def lane() -> None:
        while True:
            job_id = f"{worker}-{next(numbers)}"
            await queue.add("job", "x" * rng.randrange(settings["bytes"]), job_id=job_id)
            pen.tell("added", job_id)
            if rng.random() < 0.3:
                await finish_one(f"{worker}-{next(numbers)}")

    async def finish_one(token: str) -> None:
        claimed = await store.claim(Wanted(worker, token, 30_000, (Slots(QUEUE, 1),)))
        for claim in claimed.claims:
            await store.settle([Settlement(claim, Completed())])
            pen.tell("settled", claim.ref.id)

    pen.tell("ready")
    async with asyncio.TaskGroup() as lanes:
        for _ in range(settings.get("lanes", 2)):
            lanes.create_task(lane())


async def fill(settings: Settings) -> None:
    """Add until there is no more room, make room, and go on; a worker lives through it all."""
    pen, store = _pen(settings), _store(settings)
    queue = Queue(QUEUE, store, defaults={"keep_completed": True})
    await queue.pause()

    async def process(ctx: Context, text: str = "") -> None:
        pen.tell("started", ctx.job_id)

    worker = Worker(QUEUE, process, store)
    running = asyncio.create_task(worker.run())
    await queue.add("job", job_id="first")
    pen.tell("added", "first")
    _take_room(settings)
    for job_id in ids_of("full", 10_000):
        try:
            await queue.add("job", {"text": "x" * 20_000}, job_id=job_id)
        except StoreUnavailable as error:
            print(f"refused: {error}", flush=True)
            pen.tell("refused", job_id)
            break
        pen.tell("added", job_id)
    pen.tell("dead" if running.done() else "lives")
    _give_room(settings)
    await queue.add("job", job_id="after")
    pen.tell("added", "after")
    await queue.resume()
    async for event in queue.events("0"):
        if event.name == "drained":
            break
    pen.tell("dead" if running.done() else "lives")
    worker.stop()
    await running
    await store.close()
    pen.tell("done")


def _take_room(settings: Settings) -> None:
    """Let files grow no further than `room`, or put `ballast` on their disk."""
    if "room" in settings:
        resource.setrlimit(resource.RLIMIT_FSIZE, (settings["room"], resource.RLIM_INFINITY))
    else:
        Path(settings["ballast"]).write_bytes(bytes(16_000_000))


def _give_room(settings: Settings) -> None:
    if "room" in settings:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        Path(settings["ballast"]).unlink()


async def add_one(settings: Settings) -> None:
    """Add one job, as another user if one is given; print why not."""
    pen, store = _pen(settings), _store(settings)
    if settings.get("uid"):
        os.setuid(settings["uid"])
    try:
        await Queue(QUEUE, store).add("job", job_id=settings["job_id"])
    except StoreError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    else:
        pen.tell("added", settings["job_id"])
    await store.close()
    pen.tell("done")


async def listen(settings: Settings) -> None:
    """Say whenever the queue rings. `net_s`: how often to look without having been told; `busy`: write all the while."""
    pen, store = _pen(settings), _store(settings)

    def open_and_say(place: Place) -> sqlite3.Connection:
        reader = open_reader(place)
        pen.tell("ready")
        return reader

    async def keep_writing() -> None:
        while True:
            await store.publish("elsewhere", "tick", {})

    await store.summaries()  # the bell finds the file there, and does not look for it again
    bell.NET_S = settings.get("net_s", bell.NET_S)
    bell.open_reader = open_and_say  # type: ignore[attr-defined]
    await store.wait("listener", [QUEUE], store.clock.now_ms())
    writing = asyncio.ensure_future(keep_writing()) if settings.get("busy") else None
    while True:
        woken = await store.wait("listener", [QUEUE], None)
        assert woken.queues == {QUEUE}
        assert writing is None or not writing.done()
        [summary] = await store.summaries([QUEUE])
        for _ in range(summary.counts[State.WAITING]):
            pen.tell("heard")


def fork(settings: Settings) -> None:
    """Use a store, fork, and use it in the child and in the parent."""
    pen, store = _pen(settings), _store(settings)
    queue = Queue(QUEUE, store)
    asyncio.run(_add(queue, "before"))
    child = os.fork()
    if child == 0:
        alive = [thread.name for thread in threading.enumerate() if thread.name.startswith("toril-")]
        os._exit(1 if alive else asyncio.run(_in_fork(store)))
    _, status = os.waitpid(child, 0)
    asyncio.run(_add(queue, "after"))
    asyncio.run(store.close())
    pen.tell("done" if status == 0 else "child-failed")


async def _add(queue: Queue, job_id: str) -> None:
    await queue.add("job", job_id=job_id)


async def _in_fork(store: SqliteStore) -> int:
    await Queue(QUEUE, store).add("job", job_id="child")
    [record] = await store.get([ref("before")])
    await store.close()
    return 0 if record is not None else 2


PROGRAMS = {"produce": produce, "work": work, "write": write, "fill": fill, "add_one": add_one, "listen": listen}


def ref(job_id: str) -> JobRef:
    """The job that these programs call so."""
    return JobRef(QUEUE, job_id)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    if sys.argv[1] == "fork":
        fork(json.loads(sys.argv[2]))
    else:
        asyncio.run(PROGRAMS[sys.argv[1]](json.loads(sys.argv[2])))
