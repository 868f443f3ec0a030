"""Announcing: workers say that they live, and whoever looks can see them."""

from __future__ import annotations

from dataclasses import replace

from conformance.given import advance, now_ms
from toril.model import WorkerInfo
from toril.store import Store


def worker(store: Store, id: str = "w1") -> WorkerInfo:
    return WorkerInfo(
        id=id,
        name="mailer",
        host="ada.example",
        pid=4711,
        queues={"email": 10, "images": 2},
        started_at_ms=now_ms(store) - 5_000,
        seen_at_ms=now_ms(store),
        ttl_ms=30_000,
        running=3,
        state="running",
        version="0.1.0",
    )


async def test_a_store_without_workers_names_none(store: Store) -> None:
    assert await store.workers() == []


async def test_a_worker_that_announced_itself_is_seen_as_it_is(store: Store) -> None:
    info = worker(store)

    await store.announce(info)

    assert await store.workers() == [info]


async def test_what_a_worker_said_last_counts(store: Store) -> None:
    info = worker(store)
    await store.announce(info)
    later = replace(info, running=0, state="draining", seen_at_ms=info.seen_at_ms + 1_000)

    await store.announce(later)

    assert await store.workers() == [later]


async def test_workers_are_told_apart_by_their_id(store: Store) -> None:
    await store.announce(worker(store, "w1"))
    await store.announce(worker(store, "w2"))

    assert {info.id for info in await store.workers()} == {"w1", "w2"}


async def test_a_worker_that_stopped_is_gone(store: Store) -> None:
    await store.announce(worker(store, "w1"))
    await store.announce(worker(store, "w2"))

    await store.announce(replace(worker(store, "w1"), state="stopped"))

    assert [info.id for info in await store.workers()] == ["w2"]


async def test_a_worker_that_was_not_seen_for_its_time_counts_as_gone(store: Store) -> None:
    await store.announce(worker(store))
    await advance(store, 29_999)
    assert len(await store.workers()) == 1

    await advance(store, 2)

    assert await store.workers() == []


async def test_a_worker_that_is_seen_again_lives_on(store: Store) -> None:
    await store.announce(worker(store))
    await advance(store, 29_000)
    await store.announce(worker(store))
    await advance(store, 29_000)

    assert [info.id for info in await store.workers()] == ["w1"]
