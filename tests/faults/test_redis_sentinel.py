"""A real Sentinel group: what happens to jobs while its master dies, lags, hangs or steps back."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest
from redis.asyncio.sentinel import Sentinel

from conformance.given import known
from faults.failover import Told, ids_in, served, work_through
from faults.proof import Stopwatch, shown
from redis_groups import HOST, MASTER_NAME, SentinelGroup, Server, start_sentinel, until
from sizes import size
from toril import connect
from toril.errors import ConfigError, StoreUnavailable
from toril.handlers import Context
from toril.queue import Queue
from toril.states import State
from toril.store import Store
from toril.stores.redis.store import RedisStore
from worker.stage import at_work

PASSWORD, SENTINEL_PASSWORD = "let-me:in", "watch"
TIMEOUT_S = 2


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    directory = tmp_path_factory.mktemp("sentinel")
    with start_sentinel(directory, password=PASSWORD, sentinel_password=SENTINEL_PASSWORD) as group:
        yield group


@pytest.fixture
def group(started: SentinelGroup) -> Iterator[SentinelGroup]:
    """A group of which all live, before and after the test."""
    yield started
    started.heal()


@pytest.fixture
def url(group: SentinelGroup) -> str:
    return f"{group.url}&timeout={TIMEOUT_S}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = connect(url, prefix=f"test-{uuid.uuid4().hex}")
    yield opened
    await opened.close()


async def do_nothing(ctx: Context) -> None:
    """A handler."""


# ------------------------------------------------------------------ finding the master


async def test_jobs_flow_through_the_master_that_the_sentinels_name(group: SentinelGroup, store: Store) -> None:
    queue = Queue("email", store)

    async with at_work(store, served(do_nothing, "email")):
        job = await queue.add("welcome")
        await job.result(timeout=10)

    with group.client(group.master) as client:
        assert client.exists(f"{store.prefix}:email:{job.id}")
    assert PASSWORD not in store.place
    assert SENTINEL_PASSWORD not in store.place


@pytest.mark.parametrize(
    ("right", "wrong"),
    [(f":{PASSWORD.replace(':', '%3A')}@", ":wrong@"), (f"={SENTINEL_PASSWORD}", "=wrong"), (MASTER_NAME, "nobody")],
    ids=["the master's password", "the Sentinels' password", "the master's name"],
)
async def test_what_is_wrong_in_a_url_is_said(url: str, right: str, wrong: str) -> None:
    assert right in url
    store = connect(url.replace(right, wrong).replace(f"timeout={TIMEOUT_S}", "timeout=0.3"))

    with pytest.raises(StoreUnavailable, match="nobody" if wrong == "nobody" else "(?i)password|auth"):
        await Queue("email", store).add("welcome")
    await store.close()


async def test_a_url_without_the_name_of_a_master_is_refused() -> None:
    with pytest.raises(ConfigError, match="redis\\+sentinel://host:26379/mymaster/0"):
        connect("redis+sentinel://localhost:26379")


async def test_a_sentinel_that_is_gone_is_passed_over(group: SentinelGroup, url: str) -> None:
    await asyncio.to_thread(group.kill_sentinel)
    store = connect(url)

    async with asyncio.timeout(TIMEOUT_S / 2):
        job = await Queue("email", store).add("welcome")

    assert await known(store, job.ref) is not None
    await store.close()


async def test_a_client_of_redis_py_that_knows_its_sentinels_is_taken_as_it_is(group: SentinelGroup) -> None:
    sentinels = [("127.0.0.1", sentinel.port) for sentinel in group.sentinels]
    ask: Any = cast("Any", Sentinel)(sentinels, sentinel_kwargs={"password": SENTINEL_PASSWORD}, password=PASSWORD)
    client = ask.master_for(MASTER_NAME)
    store = RedisStore(client)

    job = await Queue("email", cast("Store", store)).add("welcome")
    await store.close()

    assert await client.exists(f"bull:email:{job.id}")
    await client.aclose()
    for sentinel in ask.sentinels:
        await sentinel.aclose()


# ------------------------------------------------------------------ losing the master


def die(group: SentinelGroup) -> None:
    group.fail_over(group.kill)


def hang(group: SentinelGroup) -> None:
    """The master wakes up when another has taken its place, with all that was sent to it meanwhile."""
    group.thaw(group.fail_over(group.freeze))


def step_down(group: SentinelGroup) -> None:
    group.fail_over(group.depose)


@pytest.mark.parametrize(
    ("fault", "replicas"), [(die, 0), (die, 2), (hang, 2), (step_down, 0)], ids=["dies", "dies-2", "hangs-2", "steps"]
)
async def test_another_master_goes_on_with_every_job_that_a_replica_had(
    group: SentinelGroup, store: Store, fault: Callable[[SentinelGroup], None], replicas: int
) -> None:
    before = group.master
    what = f"master of a Sentinel group: {fault.__name__} under load, wait_replicas={replicas}"

    lost = await work_through(store, "email", size("failover_adds"), lambda: fault(group), what, replicas=replicas)

    assert replicas == 0 or lost == 0  # of two: with one of them, Sentinels may choose the other, which lags behind
    await asyncio.to_thread(group.heal)
    assert group.role(before)["role"] == "slave"
    await Queue("email", store).add("welcome")


async def test_what_no_replica_had_is_lost_with_its_master_unless_that_was_asked_for(
    group: SentinelGroup, store: Store
) -> None:
    """The replicas hang, so that the master answers for jobs that nobody else has; then it dies."""
    watch, count, data = Stopwatch(), size("lagging_adds"), "x" * 300_000
    hasty, careful = Queue("hasty", store), Queue("careful", store)
    told, confirmed = Told(), Told()
    await hasty.add("first")
    replicas = [server for server in group.servers if server is not group.master]

    for replica in replicas:
        group.freeze(replica)
    for number in range(count):
        await told.add(hasty, f"hasty-{number}", data)
    async with asyncio.TaskGroup() as adds:
        for number in range(count):
            adds.create_task(confirmed.add(careful, f"careful-{number}", replicas=1))

    def die_alone(master: Server) -> None:
        group.kill(master)
        for replica in replicas:
            group.thaw(replica)

    await asyncio.to_thread(group.fail_over, die_alone)
    there = await ids_in(hasty, State.WAITING)

    assert len(told.acknowledged) == count
    assert len(confirmed.unconfirmed) == count
    lost = len(told.acknowledged - there)
    assert lost > 0
    shown(
        "master dies while its replicas lag",
        f"{count} adds and {count} with wait_replicas=1",
        f"{lost} acknowledged ones lost, 0 with wait_replicas",
        watch,
    )


async def test_an_add_that_meets_a_replica_waits_until_it_is_a_master(group: SentinelGroup, store: Store) -> None:
    queue = Queue("email", store)
    await queue.add("first")

    with group.client(group.master) as master:
        refusals = refused(master)
        master.replicaof(HOST, 1)
        adding = asyncio.create_task(queue.add("second"))
        await asyncio.to_thread(until, lambda: refused(master) > refusals, "the add to be refused")
        master.replicaof("NO", "ONE")

    assert await known(store, (await adding).ref) is not None


def refused(client: Any) -> int:
    """How often a server has said that it is but a replica."""
    return int(client.info("errorstats").get("errorstat_READONLY", {}).get("count", 0))
