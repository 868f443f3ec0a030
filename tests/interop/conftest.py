"""The real BullMQ, old and new, and a queue that it shares with Toril."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from interop.peers import NODE, Node, NodeObject, NodeQueue, Shared, Way
from interop.tellers import NodeTeller, TorilTeller, Twins
from toril.store import Store
from toril.stores.redis.store import RedisStore

VERSIONS = ["6", "5"]
WAYS = [("node", "toril"), ("toril", "node")]


class Nodes:
    """The processes of the BullMQ versions, each started when it is first wanted or has died."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._nodes: dict[str, Node] = {}

    def of(self, version: str) -> Node:
        node = self._nodes.get(version)
        if node is None or not node.alive:
            node = self._nodes[version] = Node(version, self._url)
        return node

    def close(self) -> None:
        for node in self._nodes.values():
            node.close()


def _require_node() -> None:
    if shutil.which("node") is not None and (NODE / "node_modules" / "bullmq").is_dir():
        return
    sentence = "the real BullMQ is not installed: `tools/setup.sh test` installs it"
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)


@pytest.fixture(scope="session")
def nodes(redis_url: str) -> Iterator[Nodes]:
    _require_node()
    nodes = Nodes(redis_url)
    yield nodes
    nodes.close()


@pytest.fixture(params=VERSIONS, ids=lambda version: f"bullmq{version}")
async def node(request: pytest.FixtureRequest, nodes: Nodes) -> AsyncIterator[Node]:
    """A process of each version of BullMQ, with nothing open in it."""
    node = nodes.of(request.param)
    yield node
    if node.alive:
        await node.reset()


@pytest.fixture
async def live_store(redis_url: str) -> AsyncIterator[Store]:
    """A store under BullMQ's own prefix and the machine's clock."""
    opened = RedisStore(redis_url)
    yield cast("Store", opened)
    await opened.close()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    """A client beside the store."""
    client: Any = cast("Any", Redis).from_url(redis_url, decode_responses=True)
    yield client
    await client.aclose()


@pytest.fixture
def queue_name() -> str:
    return f"q-{uuid.uuid4().hex}"


@pytest.fixture
async def shared(queue_name: str, node: Node, live_store: Store) -> Shared:
    """A queue that both sides use."""
    return Shared(queue_name, node, live_store, await node.queue(queue_name), await node.events(queue_name))


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-to-{way[1]}")
async def way(request: pytest.FixtureRequest, queue_name: str, node: Node, live_store: Store) -> Way:
    """A queue to which one side adds and on which the other works."""
    way = Way(queue_name, node, live_store, await node.queue(queue_name), await node.events(queue_name))
    way.adder, way.worked_by = request.param
    return way


@pytest.fixture
async def twins(node: Node, redis_url: str, redis: Any) -> AsyncIterator[Twins]:
    """Two queues of one name: Node makes the history of one, Toril that of the other, and Node looks at both."""
    name, mark = "twin", uuid.uuid4().hex
    theirs, ours = f"node-{mark}", f"toril-{mark}"
    store = RedisStore(redis_url, prefix=ours)

    async def view(prefix: str) -> tuple[NodeQueue, NodeObject]:
        return await node.queue(name, prefix=prefix), await node.events(name, prefix=prefix)

    yield Twins(
        NodeTeller(node, name, theirs, *await view(theirs), redis),
        TorilTeller(name, cast("Store", store), *await view(ours), redis),
        f"{theirs}:{name}:events",
        f"{ours}:{name}:events",
    )
    await store.close()
