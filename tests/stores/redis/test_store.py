"""What only the Redis store does."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from typing import Any

import pytest

from conformance.given import (
    LOCK_MS,
    QUEUE,
    add,
    added,
    advance,
    claim_all,
    claim_one,
    complete,
    fail,
    given,
    given_active,
    given_completed,
    known,
    new_job,
    ref_of,
    refs,
    state_of,
    wanted,
)
from toril.errors import InvalidJob, StoreUnavailable
from toril.model import Completed, Settlement, Slots, Unit, Wanted
from toril.options import ChildPolicy, RateLimit
from toril.states import State
from toril.store import Store
from toril.stores.redis.store import RedisStore


async def keys_of(redis: Any, store: Store) -> set[str]:
    return {key.removeprefix(f"{store.prefix}:{QUEUE}:") for key in await redis.keys(f"{store.prefix}:*")}


# ------------------------------------------------------------------ connections


async def test_a_server_that_forgot_its_scripts_is_told_them_again(store: Store, redis: Any) -> None:
    await given(store)
    await redis.script_flush()

    assert len(await claim_all(store)) == 1


async def test_a_connection_that_was_cut_is_opened_again(store: Store, redis: Any) -> None:
    await given(store)
    await redis.client_kill_filter(_type="normal", skipme=True)

    assert len(await claim_all(store)) == 1


async def test_a_server_that_is_not_there_is_said_to_be_so_without_secrets() -> None:
    store = RedisStore("redis://user:secret@127.0.0.1:1/0")

    with pytest.raises(StoreUnavailable, match=r"redis://127\.0\.0\.1:1/0 cannot be reached") as caught:
        await store.add([Unit((new_job(store),))])

    assert "secret" not in str(caught.value)


def test_a_store_serves_one_loop_after_another(redis_url: str) -> None:
    store = RedisStore(redis_url, prefix=f"test-{uuid.uuid4().hex}")

    async def use() -> int:
        job = new_job(store)
        await store.add([Unit((job,))])
        claims = (await store.claim(wanted(free=10))).claims
        await store.close()
        return len(claims)

    assert [asyncio.run(use()) for _ in range(3)] == [1, 1, 1]


# ------------------------------------------------------------------ the server's own clock


async def test_a_lock_expires_by_the_servers_clock(real: Store, redis: Any) -> None:
    await given(real)
    one = await claim_one(real)

    ttl_ms = await redis.pttl(f"{real.prefix}:{QUEUE}:{one.ref.id}:lock")

    assert 0 < ttl_ms <= LOCK_MS


async def test_a_limit_expires_by_the_servers_clock(real: Store, redis: Any) -> None:
    await given(real)
    await real.claim(wanted(limiter=RateLimit(1, per=60)))

    assert 0 < await redis.pttl(f"{real.prefix}:{QUEUE}:limiter") <= 60_000


async def test_a_wait_ends_at_its_moment_of_the_real_clock(real: Store) -> None:
    woken = await asyncio.wait_for(real.wait("w1", [QUEUE], real.clock.now_ms() + 50), 20)

    assert woken.queues == frozenset()


# ------------------------------------------------------------------ what is left behind


async def test_a_job_that_is_kept_leaves_no_receipt(store: Store, redis: Any) -> None:
    await given_completed(store)

    assert not [key for key in await keys_of(redis, store) if key.startswith("py:")]


async def test_an_evicted_job_leaves_a_receipt_for_as_long_as_its_result_is_promised(store: Store) -> None:
    old = await given_completed(store, '"done"', keep_completed=1, keep_result=100)
    await advance(store, 60_000)
    await given_completed(store, keep_completed=1, keep_result=100)

    assert await state_of(store, old) is None
    receipt = await known(store, old)
    assert receipt is not None
    assert receipt.result == '"done"'
    await advance(store, 40_000)
    assert await known(store, old) is None


async def test_repeating_the_settling_of_an_evicted_job_is_recorded(store: Store) -> None:
    one = await given_active(store, keep_completed=1)
    await complete(store, one)
    await given_completed(store, keep_completed=1)

    assert (await store.settle([Settlement(one, Completed())])).lost == ()


async def test_a_job_whose_keys_were_deleted_by_hand_is_passed_over(store: Store, redis: Any) -> None:
    gone, there = await given(store), await given(store)
    await redis.delete(f"{store.prefix}:{QUEUE}:{gone.id}")

    assert refs(await claim_all(store)) == [there]
    assert await redis.lrange(f"{store.prefix}:{QUEUE}:active", 0, -1) == [there.id]


async def test_a_queue_without_events_writes_none(store: Store, redis: Any) -> None:
    await store.configure(QUEUE, replace(await store.settings(QUEUE), events=False))
    await given_completed(store)

    assert "events" not in await keys_of(redis, store)


# ------------------------------------------------------------------ parents


async def test_a_job_that_has_a_parent_cannot_have_another(store: Store) -> None:
    first, second = await given(store), await given(store)
    await given(store, job_id="child", parent=first)

    receipt = await add(store, new_job(store, job_id="child", parent=second))

    assert receipt.refusal is not None
    assert isinstance(receipt.refusal.error, InvalidJob)
    assert str(first) in str(receipt.refusal.error)


async def test_a_job_that_stands_becomes_the_child_of_a_parent_added_later(store: Store) -> None:
    child = await given(store, job_id="child", queue="images")
    parent = new_job(store, has_children=True)
    await added(store, parent, new_job(store, job_id="child", queue="images", parent=ref_of(parent)))

    assert await state_of(store, ref_of(parent)) is State.WAITING_CHILDREN
    await complete(store, await claim_one(store, child.queue))
    assert await state_of(store, ref_of(parent)) is State.WAITING


async def test_a_parent_whose_children_had_all_completed_before_is_released_at_once(store: Store) -> None:
    await given_completed(store, '"thumb"', job_id="child")
    parent = new_job(store, queue="albums", has_children=True)

    await added(store, parent, new_job(store, job_id="child", parent=ref_of(parent)))

    assert await state_of(store, ref_of(parent)) is State.WAITING
    [child] = await store.children(ref_of(parent))
    assert child.result == '"thumb"'


async def test_a_job_with_pending_children_cannot_complete_and_stays_its_workers(store: Store) -> None:
    one = await given_active(store)
    await given(store, queue="images", parent=one.ref)

    settled = await store.settle([Settlement(one, Completed())])

    assert [refusal.ref for refusal in settled.refused] == [one.ref]
    assert settled.lost == ()
    await fail(store, one)


async def test_a_job_one_of_whose_children_has_failed_cannot_complete(store: Store) -> None:
    one = await given_active(store)
    await given(store, queue="images", parent=one.ref, policy=ChildPolicy.FAIL)
    await fail(store, await claim_one(store, "images"))

    settled = await store.settle([Settlement(one, Completed())])

    assert [refusal.ref for refusal in settled.refused] == [one.ref]
    await fail(store, one)


# ------------------------------------------------------------------ wishes


async def test_a_wish_that_named_jobs_repeated_brings_the_same(store: Store) -> None:
    ref = await given(store, delay=60)
    wish = Wanted("w1", "t-1", LOCK_MS, (Slots(QUEUE, 1, ids=(ref.id,)),))

    first, again = await store.claim(wish), await store.claim(wish)

    assert again == first
    assert refs(again.claims) == [ref]
