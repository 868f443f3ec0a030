"""Programs on a Redis store for child processes: `python -m faults.redis_programs <program> <settings as JSON>`.

A crew starts them with `start(program, within=ON_REDIS, **settings)`.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, Final, cast

from faults.history import Pen
from toril.errors import StoreUnavailable
from toril.handlers import Context
from toril.queue import Queue
from toril.store import Store
from toril.stores.redis.store import RedisStore
from toril.worker import Worker

ON_REDIS: Final = (sys.executable, "-m", "faults.redis_programs")
QUEUE: Final = "work"
LANES: Final = 8

Settings = dict[str, Any]


def _store(settings: Settings) -> Store:
    return cast("Store", RedisStore(settings["url"], timeout=settings.get("timeout", 5.0)))


def _pen(settings: Settings) -> Pen:
    return Pen(Path(settings["history"]), settings["bell"])


# ------------------------------------------------------------------ at work


async def produce(settings: Settings) -> None:
    """Add jobs without end, each until it is acknowledged: `rest_ms` after the last one on each lane."""
    pen, store, numbers = _pen(settings), _store(settings), itertools.count()
    queue = Queue(QUEUE, store, defaults={"keep_completed": True})

    async def lane() -> None:
        while True:
            await _insist(queue, pen, f"{settings['producer']}-{next(numbers)}")
            await asyncio.sleep(settings["rest_ms"] / 1000)

    async with asyncio.TaskGroup() as lanes:
        for _ in range(LANES):
            lanes.create_task(lane())


async def _insist(queue: Queue, pen: Pen, job_id: str) -> None:
    pen.tell("adding", job_id)
    while True:
        try:
            await queue.add("job", job_id=job_id)
        except StoreUnavailable:
            await asyncio.sleep(0.01)
        else:
            pen.tell("added", job_id)
            return


async def work(settings: Settings) -> None:
    """Work until told to end."""
    pen, store = _pen(settings), _store(settings)

    async def process(ctx: Context) -> None:
        pen.tell("started", ctx.job_id)
        ctx.log("a line")
        await asyncio.sleep(settings["ms"] / 1000)
        pen.tell("finished", ctx.job_id)

    worker = Worker(
        QUEUE,
        process,
        store,
        concurrency=settings["concurrency"],
        lock=settings["lock_ms"] / 1000,
        stalled_interval=settings["lock_ms"] / 1000,
    )
    ended = asyncio.ensure_future(worker.run(handle_signals=True))
    pen.tell("ready")
    await ended
    await store.close()


# ------------------------------------------------------------------ lives of a store


async def _add(store: Store, job_id: str) -> None:
    await Queue(QUEUE, store).add("job", job_id=job_id)


async def _add_and_wait(store: Store, job_id: str) -> None:
    """Use the line and the bell, and leave both open."""
    await _add(store, job_id)
    await store.wait("w1", ["another"], store.clock.now_ms() + 1)


def runs(settings: Settings) -> None:
    """Use a store on one loop after the other, and close it on the last."""
    store = _store(settings)
    for number in range(3):
        asyncio.run(_add_and_wait(store, f"run-{number}"))
        gc.collect()
    asyncio.run(store.close())
    gc.collect()
    print("descriptors", len(os.listdir("/proc/self/fd")))


def fork(settings: Settings) -> None:
    """Use a store, fork, and use it in the child and, on the same loop as before, in the parent."""
    store = _store(settings)
    with asyncio.Runner() as runner:
        runner.run(_add_and_wait(store, "before"))
        child = os.fork()
        if child == 0:
            asyncio.run(_add_and_wait(store, "child"))
            asyncio.run(store.close())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        runner.run(_add_and_wait(store, "after"))
        runner.run(store.close())
    print("child", status)


PROGRAMS = {"produce": produce, "work": work}
LIVES = {"runs": runs, "fork": fork}

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    name, given = sys.argv[-2], json.loads(sys.argv[-1])
    if name in LIVES:
        LIVES[name](given)
    else:
        asyncio.run(PROGRAMS[name](given))
