"""A real cluster: all queues in one slot or each in its own, shared with Node, while masters die and slots move."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable, Iterator

import pytest

from redis_groups import ClusterGroup, start_cluster
from toril.clock import TurnedClock
from toril.stores.redis.sharded import ShardedRedisStore
from toril.stores.redis.store import RedisStore


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterGroup]:
    with start_cluster(tmp_path_factory.mktemp("cluster")) as group:
        yield group


@pytest.fixture(params=["prefix", "queue"])
def open_store(request: pytest.FixtureRequest, cluster: ClusterGroup, clock: TurnedClock) -> Callable[[], RedisStore]:
    prefix = f"test-{uuid.uuid4().hex}"
    kind = ShardedRedisStore if request.param == "queue" else RedisStore
    return lambda: kind(cluster.url, prefix=prefix, clock=clock, shard=request.param)


for verb in [
    "add",
    "announce",
    "check",
    "children",
    "claim",
    "clean",
    "configure",
    "drain",
    "events",
    "extend",
    "find",
    "get",
    "logs",
    "obliterate",
    "pause",
    "promote",
    "recover",
    "remove",
    "report",
    "retry",
    "series",
    "settle",
    "summaries",
    "throttle",
    "update",
    "wait",
]:
    module = importlib.import_module(f"conformance.test_{verb}")
    for name, test in vars(module).items():
        if name.startswith("test_"):
            globals()[f"test_{verb}__{name[5:]}"] = test
