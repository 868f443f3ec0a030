"""Who works on a queue, as each side lists it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from interop.peers import PATIENCE_S, Hands, NodeQueue, Shared
from toril.handlers import HandlerTable, registered
from toril.store import Store
from toril.worker.loops import Served
from toril.worker.worker import Worker


async def until(look: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    """Look, again and again, until what is seen is what is wanted."""
    seen = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while (seen := await look()) != wanted:
                pass
    except TimeoutError:
        raise AssertionError(f"saw {seen!r} at last, not {wanted!r}") from None


@contextlib.asynccontextmanager
async def serving(queues: Sequence[str], store: Store, name: str = "") -> AsyncGenerator[Worker]:
    """A Toril worker of several queues."""
    table = HandlerTable(catch_all=registered(None, Hands(lambda _: None).process))
    worker = Worker([Served(queue, table) for queue in queues], store=store, name=name)
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        await asyncio.sleep(0)  # its first step: from here on it can be stopped
        yield worker
        worker.stop()


def names(queue: NodeQueue) -> Callable[[], Awaitable[list[str]]]:
    async def look() -> list[str]:
        rows = await queue.call("getWorkers")
        return sorted(row["rawname"].partition(":w:")[2] for row in rows)

    return look


async def test_node_lists_our_worker_once_on_each_of_its_queues(shared: Shared) -> None:
    other = f"{shared.name}-other"
    queues = {name: await shared.node.queue(name) for name in (shared.name, other)}

    async with serving(list(queues), shared.store) as worker:
        for queue in queues.values():
            await until(names(queue), [worker.id])
        [row] = await queues[other].call("getWorkers")
        assert row["name"] == other
        assert int(row["age"]) >= 0
        assert await shared.theirs.call("getWorkersCount") == 1

    for queue in queues.values():
        await until(names(queue), [])


async def test_node_lists_our_worker_by_the_name_that_it_was_given(shared: Shared) -> None:
    async with serving([shared.name], shared.store, "billing-2"):
        await until(names(shared.theirs), ["billing-2"])


async def test_node_lists_workers_of_both_sides(shared: Shared) -> None:
    await shared.node.worker(shared.name, name="theirs")
    await shared.node.worker(shared.name)

    async with serving([shared.name], shared.store, "ours"):
        await until(names(shared.theirs), ["", "ours", "theirs"])


async def test_toril_lists_workers_of_both_sides(shared: Shared) -> None:
    async def listed() -> list[str]:
        return sorted(worker.name or worker.id for worker in await shared.ours.workers())

    theirs = await shared.node.worker(shared.name, name="theirs")
    async with serving([shared.name], shared.store, "ours"):
        await until(listed, ["ours", "theirs"])
        await theirs.close()
        await until(listed, ["ours"])
    await until(listed, [])


async def test_a_job_says_which_worker_had_it(shared: Shared) -> None:
    theirs = await shared.theirs.add("job", {})
    worker = await shared.node.worker(shared.name, name="theirs")
    await shared.events.event("completed", jobId=theirs)
    await worker.close()
    ours = await shared.ours.add("job")
    async with shared.worker().at_work() as mine:
        await shared.events.event("completed", jobId=ours.id)

    assert (await shared.seen(theirs)).worker == "theirs"
    assert (await shared.seen(ours.id)).worker == mine.worker.id
