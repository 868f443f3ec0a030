"""Who can be seen: our workers by what they say, and each side's workers by the other's tools."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import uuid
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from conformance.given import advance, now_ms, soon
from conformance.test_announce import worker
from toril.clock import SYSTEM_CLOCK, Clock, TurnedClock
from toril.model import WorkerInfo
from toril.store import Store
from toril.stores.redis.store import RedisStore


@contextlib.asynccontextmanager
async def opened(url: str, clock: Clock, *, prefix: str = "", visible: int = 8) -> AsyncGenerator[Store]:
    store = RedisStore(url, prefix=prefix or f"test-{uuid.uuid4().hex}", clock=clock, visible_connections=visible)
    try:
        yield store
    finally:
        await store.close()


def serving(store: Store, *queues: str, **changes: Any) -> WorkerInfo:
    """A worker of these queues, without a name unless one is given."""
    return replace(worker(store), **{"queues": dict.fromkeys(queues, 1), "name": "", **changes})


async def shown(redis: Any, store: Store) -> list[tuple[str, str]]:
    """What Node's `getWorkers` would find under the prefix: queue and worker of each connection."""
    found: list[tuple[str, str]] = []
    for client in await redis.client_list():
        head, _, name = client["name"].partition(":w:")
        if head.startswith(f"{store.prefix}:"):
            found.append((base64.b64decode(head.removeprefix(f"{store.prefix}:")).decode(), name))
    return sorted(found)


async def until_shown(redis: Any, store: Store, expected: list[tuple[str, str]]) -> None:
    """Return when Node sees just these: a server learns of a closed connection a moment later."""

    async def look() -> None:
        while await shown(redis, store) != expected:
            pass

    await soon(look())


@contextlib.asynccontextmanager
async def connected(redis_url: str, store: Store, queue: str, rest: str = "") -> AsyncGenerator[Any]:
    """A connection that goes by a name that BullMQ gives."""
    client = cast("Any", Redis).from_url(redis_url, single_connection_client=True)
    await client.client_setname(f"{store.prefix}:{base64.b64encode(queue.encode()).decode()}{rest}")
    try:
        yield client
    finally:
        await client.aclose()


# ------------------------------------------------------------------ what Node sees


async def test_a_worker_is_seen_on_each_of_its_queues_and_once_on_each(store: Store, redis: Any) -> None:
    await store.wait("w1", ["email", "images"], now_ms(store))
    await store.announce(serving(store, "email", "images", "reports"))

    assert await shown(redis, store) == [("email", "w1"), ("images", "w1"), ("reports", "w1")]


async def test_a_worker_of_one_queue_takes_no_connection_and_says_nothing(
    store: Store, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await store.announce(serving(store, "email"))

    assert await shown(redis, store) == []
    assert caplog.records == []


async def test_more_queues_than_may_be_shown_are_named_once_in_the_log(
    redis_url: str, clock: TurnedClock, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(redis_url, clock, visible=2) as store:
        await store.announce(serving(store, "email", "images", "reports", "audit"))
        await store.announce(serving(store, "email", "images", "reports", "audit", running=1))

        assert await shown(redis, store) == [("images", "w1")]  # and email by the bell
        [line] = caplog.records
        assert line.levelno == logging.WARNING
        assert "will not list worker w1 on reports, audit:" in line.getMessage()


async def test_where_nothing_may_be_shown_nothing_is_and_nobody_is_warned(
    redis_url: str, clock: TurnedClock, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "toril")
    async with opened(redis_url, clock, visible=0) as store:
        await store.announce(serving(store, "email", "images"))

        assert await shown(redis, store) == []
        assert [record.levelno for record in caplog.records] == [logging.INFO]
        assert [info.id for info in await store.workers()] == ["w1"]


async def test_a_worker_that_stops_leaves_no_connection_and_no_key(store: Store, redis: Any) -> None:
    await store.announce(serving(store, "email", "images", "reports"))

    await store.announce(serving(store, "email", "images", "reports", state="stopped"))

    await until_shown(redis, store, [])
    assert await redis.keys(f"{store.prefix}:*") == []


async def test_workers_of_one_store_keep_their_connections_when_another_stops(store: Store, redis: Any) -> None:
    await store.announce(serving(store, "email", "images", id="w1"))
    await store.announce(serving(store, "email", "images", id="w2"))

    await store.announce(serving(store, "email", "images", id="w1", state="stopped"))

    await until_shown(redis, store, [("images", "w2")])


async def test_a_connection_that_was_cut_is_back_with_the_workers_next_word(store: Store, redis: Any) -> None:
    await store.announce(serving(store, "email", "images"))
    for client in await redis.client_list():
        if client["name"].startswith(store.prefix):
            await redis.client_kill_filter(_id=client["id"])
    assert await shown(redis, store) == []

    await store.workers()  # by whose answer this side has heard of the cut
    await store.announce(serving(store, "email", "images"))

    assert await shown(redis, store) == [("images", "w1")]


async def test_a_worker_goes_by_its_name_in_signs_that_redis_takes(store: Store, redis: Any) -> None:
    await store.announce(serving(store, "email", "bücher & co", name="Zoë 1\n"))

    assert await shown(redis, store) == [("bücher & co", "Zo--1-")]


# ------------------------------------------------------------------ what we see


async def test_workers_of_node_are_seen_by_their_connections(store: Store, redis_url: str) -> None:
    async with connected(redis_url, store, "email", ":w:billing-2"), connected(redis_url, store, "bücher"):
        workers = await store.workers()

    assert {(peer.name, *peer.queues) for peer in workers} == {("billing-2", "email"), ("", "bücher")}
    for peer in workers:
        assert peer.id.startswith("127.0.0.1:")
        assert (peer.host, peer.version, peer.state) == ("127.0.0.1", "", "running")
        assert peer.seen_at_ms == now_ms(store)
        assert peer.started_at_ms <= now_ms(store)


@pytest.mark.parametrize("rest", [":qe", ":x:billing", "!", ":w"])
async def test_other_connections_are_no_workers(rest: str, store: Store, redis_url: str) -> None:
    async with connected(redis_url, store, "email", rest):
        assert await store.workers() == []


async def test_connections_under_another_prefix_are_no_workers_of_ours(
    store: Store, redis_url: str, clock: TurnedClock
) -> None:
    async with (
        opened(redis_url, clock, prefix=f"{store.prefix}:shop") as other,
        connected(redis_url, other, "email", ":w:billing"),
    ):
        assert await store.workers() == []
        assert len(await other.workers()) == 1


async def test_ours_are_not_seen_twice(store: Store) -> None:
    await store.wait("w1", ["email"], now_ms(store))
    await store.announce(serving(store, "email", "images"))
    await store.announce(serving(store, "email", "images", id="w2", name="mailer"))

    assert [info.id for info in await store.workers()] == ["w1", "w2"]


async def test_ours_that_froze_do_not_come_back_as_workers_of_node(store: Store, redis: Any) -> None:
    await store.announce(serving(store, "email", "images", name="mailer"))

    await advance(store, 31_000)

    assert await shown(redis, store) == [("images", "mailer")]
    assert await store.workers() == []


async def test_ours_and_nodes_are_listed_together(store: Store, redis_url: str) -> None:
    info = serving(store, "email", "images")
    await store.announce(info)
    async with connected(redis_url, store, "images", ":w:billing"):
        ours, theirs = await store.workers()

    assert ours == info
    assert theirs.name == "billing"


async def test_where_nobody_may_list_connections_ours_are_seen_all_the_same(
    redis_url: str, clock: TurnedClock, redis: Any
) -> None:
    user = f"u{uuid.uuid4().hex}"
    await redis.execute_command("ACL", "SETUSER", user, "on", ">secret", "~*", "&*", "+@all", "-client|list")
    try:
        async with (
            opened(redis_url.replace("redis://", f"redis://{user}:secret@"), clock) as store,
            connected(redis_url, store, "images", ":w:billing"),
        ):
            await store.announce(serving(store, "email"))

            assert [info.id for info in await store.workers()] == ["w1"]
    finally:
        await redis.execute_command("ACL", "DELUSER", user)


# ------------------------------------------------------------------ the registry


async def test_what_a_worker_says_lies_under_its_queues_where_nodes_clean_up_leaves_it(
    store: Store, redis: Any
) -> None:
    await store.announce(serving(store, "email", "images"))

    keys = {key.removeprefix(f"{store.prefix}:") for key in await redis.keys(f"{store.prefix}:*")}

    assert keys == {"email:py:worker:w1", "email:py:workers", "images:py:workers"}


async def test_a_worker_that_died_leaves_nothing_for_ever(redis_url: str, redis: Any) -> None:
    async with opened(redis_url, SYSTEM_CLOCK) as store:
        await store.announce(serving(store, "email", "images"))

        ttls = [await redis.pttl(key) for key in await redis.keys(f"{store.prefix}:*")]

    assert len(ttls) == 3
    assert all(30_000 < ttl <= 30_000 + 24 * 3_600_000 for ttl in ttls)


async def test_what_a_later_version_says_besides_is_passed_over(store: Store, redis: Any) -> None:
    await store.announce(serving(store, "email"))
    key = f"{store.prefix}:email:py:worker:w1"
    await redis.set(key, json.dumps({**json.loads(await redis.get(key)), "mood": "good"}), keepttl=True)

    assert [info.id for info in await store.workers()] == ["w1"]


async def test_a_machine_whose_clock_is_wrong_looks_alive_to_the_others(redis_url: str) -> None:
    class Fast:
        turned = False

        def now_ms(self) -> int:
            return SYSTEM_CLOCK.now_ms() + 3_600_000

        async def sleep_ms(self, ms: float) -> None: ...

        async def sleep_until_ms(self, at_ms: float) -> None: ...

    async with opened(redis_url, Fast()) as theirs, opened(redis_url, SYSTEM_CLOCK, prefix=theirs.prefix) as store:
        await theirs.announce(serving(theirs, "email"))
        before_ms = store.clock.now_ms()
        [seen] = await soon(store.workers())

    assert abs(seen.seen_at_ms - before_ms) < 5_000
    assert abs(seen.started_at_ms - before_ms + 5_000) < 5_000
