"""The worker of tests with many workers, on either store: `python -m faults.crowd_programs work <settings as JSON>`.

A crew starts it with `start("work", within=IN_A_CROWD, **settings)`. With a `url` it works on Redis under a `prefix`, else on
the crew's file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import sys
from pathlib import Path
from typing import Any, Final

from faults.history import Pen
from toril.errors import Unrecoverable
from toril.handlers import Context
from toril.store import Store
from toril.stores.redis.store import RedisStore
from toril.stores.sqlite.store import SqliteStore
from toril.wishes import AwaitChildren
from toril.worker import Worker

IN_A_CROWD: Final = (sys.executable, "-m", "faults.crowd_programs")
PLAIN, FLOWS, TICKS = "plain", "flows", "ticks"

Settings = dict[str, Any]


def open_store(settings: Settings) -> Store:
    """The store that the settings name."""
    if "url" in settings:
        return RedisStore(settings["url"], prefix=settings["prefix"])
    return SqliteStore(settings["path"])


async def work(settings: Settings) -> None:
    """Be several workers, until told to end. A handler takes `ms` milliseconds at most."""
    pen, store, rng = Pen(Path(settings["history"]), settings["bell"]), open_store(settings), random.Random()

    async def spend() -> None:
        await asyncio.sleep(settings["ms"] / 1000 * rng.random())

    async def plain(ctx: Context) -> str:
        pen.tell("started", ctx.job_id)
        await spend()
        pen.tell("finished", ctx.job_id)
        return "done"

    async def of_flow(ctx: Context) -> str:
        data: Any = ctx.data
        pen.tell("started", ctx.job_id)
        await spend()
        if ctx.attempt < data["tries"]:
            raise RuntimeError("once more")
        if not data["completes"]:
            raise Unrecoverable("it cannot complete")
        if any(child.state == "pending" for child in await ctx.children()):
            raise AwaitChildren
        pen.tell("finished", ctx.job_id)
        return "done"

    workers = [
        Worker(
            queue,
            of_flow if queue == FLOWS else plain,
            store,
            concurrency=settings["concurrency"],
            lock=settings.get("lock_ms", 30_000) / 1000,
            stalled_interval=settings.get("interval_ms", 30_000) / 1000,
            max_stalled=1_000_000,
        )
        for queue in settings["queues"]
        for _ in range(settings.get("workers", 1))
    ]

    def stop() -> None:
        for worker in workers:
            worker.stop()

    ended = [asyncio.ensure_future(worker.run()) for worker in workers]
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    pen.tell("ready")
    await asyncio.gather(*ended)
    await store.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(work(json.loads(sys.argv[-1])))
