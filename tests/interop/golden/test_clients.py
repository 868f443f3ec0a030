"""Workers and listeners are listed by the names of their connections, as Node's are."""

from __future__ import annotations

import asyncio
import time

from interop.golden.replay import Replay, recording
from toril.model import QueueSettings

BASE = "bull:Z29sZGVu"
PATIENCE_S = 20.0


async def blocked(replay: Replay, count: int) -> set[tuple[str, str]]:
    """The connections of the queue that go by a name, with what they do, once so many wait for something, or too late."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        clients = [
            (client["name"], client["cmd"].partition("|")[0])
            for client in await replay.redis.client_list()
            if client["name"].startswith(BASE) and "b" in client["flags"]
        ]
        if len(clients) >= count or time.monotonic() > until_s:
            return set(clients)
        await asyncio.sleep(0)


@recording("43")
async def test_workers_and_listeners(replay: Replay) -> None:
    # Node's queues write their settings, and its workers look for stalled jobs, as soon as they are there.
    await replay.store.configure("golden", QueueSettings())
    await replay.recover()
    idle = [replay.store.wait(worker, ["golden"], None) for worker in ("w1", "billing 1", "billing-2")]
    reading = replay.store.read("golden", None, until_ms=replay.now_ms() + 1_000)
    tasks = [asyncio.ensure_future(call) for call in (*idle, reading)]
    try:
        ours = await blocked(replay, len(tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    theirs = {(client["name"], client["cmd"]) for client in replay.golden["clients"]}
    # All of our workers have names, and what Redis does not allow in one is written as '-': Node's are not seen then.
    assert ours - theirs == {(f"{BASE}:w:w1", "bzpopmin"), (f"{BASE}:w:billing-1", "bzpopmin")}
    assert theirs - ours == {(BASE, "bzpopmin")}
    await replay.end_step()
    await replay.end_step()
