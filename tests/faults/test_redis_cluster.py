"""A real cluster: all queues in one slot or each in its own, shared with Node, while masters die and slots move."""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode

from conformance.given import known, new_job, ref_of
from faults.failover import Told, all_ended, ids_in, served, work_through
from faults.proof import Stopwatch, shown
from interop.peers import NODE, Process
from redis_groups import HOST, ClusterGroup, Move, start_cluster, until
from sizes import size
from toril import connect
from toril.clock import TurnedClock
from toril.errors import CrossSlot, StoreUnavailable, UnsupportedStore
from toril.handlers import Context
from toril.model import Receipt, Unit
from toril.queue import Queue
from toril.states import State
from toril.store import Store
from toril.stores.redis.sharded import ShardedRedisStore
from toril.stores.redis.store import RedisStore
from worker.stage import at_work

TIMEOUT_S = 2
FOUR = ("email", "images", "reports", "search")
"""Queues whose slots lie on three masters."""

Opener = Callable[..., Store]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterGroup]:
    with start_cluster(tmp_path_factory.mktemp("cluster")) as group:
        yield group


@pytest.fixture
def cluster(started: ClusterGroup) -> Iterator[ClusterGroup]:
    """A cluster of which all live, before and after the test."""
    yield started
    started.heal()


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
async def opened(cluster: ClusterGroup, prefix: str) -> AsyncIterator[Opener]:
    """Opens stores by URLs with these options."""
    stores: list[Store] = []

    def open_by(**options: str | int) -> Store:
        options = {"timeout": TIMEOUT_S, **options}
        query = "&".join(f"{name}={value}" for name, value in options.items())
        stores.append(connect(f"{cluster.url}?{query}", prefix=prefix))
        return stores[-1]

    yield open_by
    for store in stores:
        await store.close()


async def do_nothing(ctx: Context) -> None:
    """A handler."""


# ------------------------------------------------------------------ all verbs


CONFORMANCE = Path(__file__).parent.parent / "conformance"
VERBS = sorted(path.stem.removeprefix("test_") for path in CONFORMANCE.glob("test_*.py"))


class WithoutFlows(ShardedRedisStore):
    """A sharded store for tests that may or may not need a flow across queues."""

    async def add(self, units: Sequence[Unit]) -> list[Receipt]:
        receipts = await super().add(units)
        if any(receipt.refusal is not None and isinstance(receipt.refusal.error, CrossSlot) for receipt in receipts):
            pytest.skip("a flow across queues is refused when each has a slot of its own")
        return receipts


@pytest.fixture(params=["prefix", "queue"], ids=lambda shard: f"shard-{shard}")
def open_store(request: pytest.FixtureRequest, started: ClusterGroup, prefix: str, clock: TurnedClock) -> Any:
    kind = WithoutFlows if request.param == "queue" else RedisStore
    return lambda: kind(started.url, prefix=prefix, clock=clock)


def _conformance() -> Iterator[tuple[str, Any]]:
    """The tests that every store passes, or a share of them."""
    for verb in VERBS:
        for name, test in vars(importlib.import_module(f"conformance.test_{verb}")).items():
            if name.startswith("test_"):
                yield f"{name}__{verb}", test


globals().update(list(_conformance())[:: size("cluster_conformance_share")])


# ------------------------------------------------------------------ where things are


async def test_all_queues_lie_in_one_slot_unless_asked_otherwise(
    cluster: ClusterGroup, opened: Opener, prefix: str
) -> None:
    store = opened()

    for name in FOUR:
        await Queue(name, store).add("job")

    assert store.prefix == f"{{{prefix}}}"
    assert len(homes(cluster, prefix)) == 1
    assert [summary.name for summary in await store.summaries()] == list(FOUR)


async def test_a_prefix_that_has_a_hash_tag_is_left_as_it_is(cluster: ClusterGroup) -> None:
    assert connect(cluster.url, prefix="{mine}:too").prefix == "{mine}:too"
    assert connect(cluster.url, prefix="{}").prefix == "{{}}"


async def test_each_queue_has_a_slot_of_its_own_when_asked(cluster: ClusterGroup, opened: Opener, prefix: str) -> None:
    store, runs = opened(shard="queue"), Counter[str]()

    async def process(ctx: Context) -> None:
        runs[ctx.queue] += 1

    jobs = [await Queue(name, store).add("job") for name in FOUR for _ in range(3)]
    summaries = await store.summaries()
    async with at_work(store, served(process, *FOUR)):
        for job in jobs:
            await job.result(timeout=10)
        [worker] = [worker for worker in await store.workers() if set(worker.queues) & set(FOUR)]

    assert store.prefix == prefix
    assert homes(cluster, prefix) == {cluster.owner(f"{{{name}}}").place for name in FOUR}
    assert len(homes(cluster, prefix)) > 1
    assert [(summary.name, summary.counts[State.WAITING]) for summary in summaries] == [(name, 3) for name in FOUR]
    assert runs == dict.fromkeys(FOUR, 3)
    assert tuple(worker.queues) == FOUR


def homes(cluster: ClusterGroup, prefix: str) -> set[str]:
    """The masters that hold keys of a prefix."""
    found: set[str] = set()
    for server in cluster.masters():
        with cluster.client(server) as client:
            if any(prefix in key for key in client.scan_iter(count=10_000)):
                found.add(server.place)
    return found


async def test_a_flow_across_queues_that_are_apart_is_refused_before_anything_is_written(
    cluster: ClusterGroup, opened: Opener, prefix: str
) -> None:
    store = opened(shard="queue")
    parent = new_job(store, queue="email", has_children=True)
    child = new_job(store, queue="images", parent=ref_of(parent))
    alone = new_job(store, queue="images")

    flow, orphan, sound = await store.add([Unit((parent, child)), Unit((child,)), Unit((alone,))])

    assert flow.refusal is not None
    assert orphan.refusal is not None
    assert flow.refusal.ref == ref_of(child)
    assert "'email' and 'images'" in str(flow.refusal.error)
    assert "shard=queue" in str(flow.refusal.error)
    assert isinstance(orphan.refusal.error, CrossSlot)
    assert sound.refusal is None
    assert [summary.name for summary in await store.summaries()] == ["images"]
    assert await store.get([ref_of(parent), ref_of(child)]) == [None, None]


# ------------------------------------------------------------------ finding the nodes


async def test_a_url_of_one_server_that_is_a_node_names_the_url_of_a_cluster(cluster: ClusterGroup) -> None:
    other = next(server for server in cluster.masters() if server is not cluster.owner("bull:email:"))
    store = connect(f"redis://{other.place}/0")

    with pytest.raises(UnsupportedStore, match=f"{other.place}.* name it as redis\\+cluster://host:port"):
        await Queue("email", store).add("job")
    await store.close()


async def test_a_url_of_a_cluster_that_is_one_server_names_the_url_of_a_server(redis_url: str) -> None:
    store = connect(redis_url.replace("redis://", "redis+cluster://").removesuffix("/0"))

    with pytest.raises(UnsupportedStore, match="not a cluster: name it as redis://host:port"):
        await Queue("email", store).add("job")
    await store.close()


async def test_one_node_that_lives_is_enough_to_find_the_others(cluster: ClusterGroup) -> None:
    store = connect(f"redis+cluster://{HOST}:1,{cluster.servers[-1].place},{HOST}:2")

    job = await Queue("email", store).add("job")

    assert await known(store, job.ref) is not None
    await store.close()


async def test_a_cluster_that_cannot_be_reached_is_said_within_the_time_of_a_call() -> None:
    store = connect(f"redis+cluster://{HOST}:1,{HOST}:2?timeout=0.3")

    async with asyncio.timeout(TIMEOUT_S):
        with pytest.raises(StoreUnavailable, match="connect"):
            await Queue("email", store).add("job")
    await store.close()


async def test_a_client_of_redis_py_is_taken_as_it_is_and_left_alone(cluster: ClusterGroup, prefix: str) -> None:
    nodes = [ClusterNode(HOST, server.port) for server in cluster.servers[:1]]
    client: Any = cast("Any", RedisCluster)(startup_nodes=nodes, decode_responses=True)
    store = cast("Store", RedisStore(client, prefix=prefix))

    job = await Queue("email", store).add("job")
    await store.close()

    assert await client.hget(f"{{{prefix}}}:email:{job.id}", "name") == "job"
    await client.aclose()


# ------------------------------------------------------------------ with Node


@pytest.fixture(params=["6", "5"], ids=lambda version: f"bullmq{version}")
def node(request: pytest.FixtureRequest, started: ClusterGroup) -> Iterator[Process]:
    if shutil.which("node") is None or not (NODE / "node_modules" / "bullmq").is_dir():
        sentence = "the real BullMQ is not installed: `tools/setup.sh test` installs it"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    places = ",".join(server.place for server in started.servers)
    process = Process(["node", str(NODE / "cluster.mjs"), request.param, places])
    yield process
    process.close()


@pytest.mark.parametrize("shard", ["prefix", "queue"])
async def test_node_shares_the_queues_of_a_cluster(node: Process, opened: Opener, prefix: str, shard: str) -> None:
    store = opened(shard=shard)
    theirs = {"prefix": store.prefix, "queue": "{email}" if shard == "queue" else "email"}
    email = Queue("email", store)

    ids = await node.ask("add", count=3, **theirs)
    async with at_work(store, served(return_data, "email")):
        results = [await email.job(job_id).result(timeout=10) for job_id in ids]
        seen = await node.ask("workers", **theirs)
    await node.ask("work", name="peer", **theirs)
    ours = [await email.add("job", {"n": n}) for n in range(3)]
    told = [await job.result(timeout=10) for job in ours]

    assert results == told == [{"n": n} for n in range(3)]
    assert (await node.ask("counts", **theirs))["completed"] == 6
    assert len(seen) == 1
    assert [worker.name for worker in await store.workers() if worker.queues == {"email": 1}] == ["peer"]


async def return_data(ctx: Context) -> Any:
    return ctx.data


# ------------------------------------------------------------------ nodes that die, slots that move


@pytest.mark.parametrize(("shard", "replicas"), [("prefix", 0), ("queue", 1)])
async def test_a_replica_goes_on_with_every_job_that_it_had(
    cluster: ClusterGroup, opened: Opener, shard: str, replicas: int
) -> None:
    store = opened(shard=shard)
    master = cluster.owner(f"{store.prefix}:{{email}}")
    what = f"master of a cluster dies under load, shard={shard}, wait_replicas={replicas}"

    def die_and_return() -> None:
        cluster.fail_over(master)
        cluster.heal()

    lost = await work_through(store, "email", size("failover_adds"), die_and_return, what, replicas=replicas)

    assert replicas == 0 or lost == 0
    assert cluster.role(master)["role"] == "slave"


async def test_an_add_to_a_node_that_died_does_not_spoil_the_adds_to_others(
    cluster: ClusterGroup, opened: Opener
) -> None:
    store = opened(shard="queue", timeout=0.5)
    dead, living = new_job(store, queue="email"), new_job(store, queue="reports")
    assert cluster.owner("{email}") is not cluster.owner("{reports}")
    await Queue("email", store).add("first")

    cluster.kill(cluster.owner("{email}"))
    refused, stored = await store.add([Unit((dead,)), Unit((living,))])

    assert refused.refusal is not None
    assert isinstance(refused.refusal.error, StoreUnavailable)
    assert stored.refusal is None
    with pytest.raises(StoreUnavailable):
        await store.add([Unit((dead,))])


async def test_work_waits_while_its_slot_moves_and_nothing_is_lost_or_split(
    cluster: ClusterGroup, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    watch, store, runs, told = Stopwatch(), opened(timeout=20), Counter[str](), Told()
    queue, enough = Queue("email", store, defaults={"keep_completed": True}), asyncio.Event()

    async def process(ctx: Context) -> None:
        runs[ctx.job_id] += 1

    async def keep_adding() -> None:
        while not enough.is_set():
            await told.add(queue, f"email-{len(told.asked)}")

    def move_in_two_steps() -> list[Contents]:
        until(lambda: len(runs) >= size("moved_jobs"), "jobs to run")
        with cluster.begin_move(f"{store.prefix}:") as move:
            move.carry(sorted(move.keys(move.source))[::2])
            halfway, refusals = contents(move), move.refusals()
            until(lambda: move.refusals() >= refusals + 20, "verbs to be told to wait")
            later = contents(move)
        until(lambda: len(runs) >= 2 * size("moved_jobs"), "jobs to run again")
        return [halfway, later]

    async with at_work(store, served(process, "email")), asyncio.TaskGroup() as adding:
        adding.create_task(keep_adding())
        halfway, later = await asyncio.to_thread(move_in_two_steps)
        enough.set()
    async with at_work(store, served(process, "email")):
        await all_ended(store, "email")

    assert min(map(len, halfway)) > size("moved_jobs") / 4
    assert later == halfway
    assert told.acknowledged == told.asked == runs.keys()
    assert set(runs.values()) == {1}
    assert await ids_in(queue, State.COMPLETED) == told.asked
    assert "cannot be reached" not in caplog.text
    keys = f"{len(halfway[0])} keys here and {len(halfway[1])} there"
    shown("a slot moves under load", f"{len(told.asked):,} adds", f"each ran once; no verb ran with {keys}", watch)


Contents = tuple[dict[str, bytes], dict[str, bytes]]


def contents(move: Move) -> Contents:
    """What the keys of a slot hold, at its old place and at its new one. Waiting workers take markers wherever they are."""
    here, there = (
        {key: held for key, held in move.contents(server).items() if not key.endswith(":marker")}
        for server in (move.source, move.target)
    )
    return here, there
