"""Checking and repairing: what is sound is left alone, also while it is at work."""

from __future__ import annotations

import asyncio

from conformance.given import (
    QUEUE,
    claim,
    claim_all,
    claim_one,
    complete,
    fail,
    found,
    given,
    given_active,
    given_completed,
    given_failed,
    given_flow,
    given_many,
    given_settings,
    retry_after,
)
from toril.model import Completed, Finding, Settlement
from toril.states import State
from toril.store import Store

ROUNDS = 40


async def complaints(store: Store) -> list[Finding]:
    """What `check` finds wrong with the data; how the server of the tests is set up is not meant."""
    known = await store.preflight()
    return [finding for finding in await store.check() if finding.level != "ok" and finding not in known]


async def test_what_preflight_says_check_says_too(store: Store) -> None:
    said = await store.preflight()

    assert said == await store.preflight()
    assert [finding for finding in await store.check() if finding in said] == said
    assert not any(finding.mendable for finding in said)


async def test_an_empty_store_is_sound(store: Store) -> None:
    assert await complaints(store) == []
    assert await store.repair() == []


async def test_jobs_in_every_state_are_sound(store: Store) -> None:
    await given_completed(store)
    await given_failed(store)
    await given_active(store)
    await given_flow(store, children=2)
    await given(store, delay=60)
    await given(store, priority=3)
    await given_many(store, 3)

    assert await complaints(store) == []


async def test_what_has_happened_to_jobs_leaves_them_sound(store: Store) -> None:
    first, second, third = await given_many(store, 3)
    await retry_after(store, await claim_one(store))
    await fail(store, await claim_one(store))
    await store.retry([second])
    await store.remove([third])
    await given(store, job_id="j1", delay=60)
    await store.promote([first, *[job.ref for job in (await store.find(QUEUE, State.DELAYED)).items]])
    await store.pause(QUEUE)

    assert await complaints(store) == []


async def test_a_paused_and_a_full_queue_are_sound(store: Store) -> None:
    await given_settings(store, paused=True)
    await given(store)
    await given_settings(store, "images", concurrency=1)
    await given_many(store, 2, queue="images")
    await claim(store, "images", free=2)

    assert await complaints(store) == []


async def test_repairing_what_is_sound_changes_nothing(store: Store) -> None:
    waiting = await given_many(store, 3)
    delayed = await given(store, delay=60)
    done = await given_completed(store, queue="images")

    assert await store.repair() == []

    assert await found(store, State.WAITING) == waiting
    assert await found(store, State.DELAYED) == [delayed]
    assert await found(store, State.COMPLETED, "images") == [done]


async def test_a_store_is_sound_while_jobs_come_run_and_go(store: Store) -> None:
    async def producer() -> None:
        for _ in range(ROUNDS):
            await asyncio.gather(given(store), given(store, priority=1), given(store, delay=60))

    async def worker() -> None:
        for _ in range(ROUNDS):
            claims = (await claim(store, free=3)).claims
            await store.settle([Settlement(one, Completed()) for one in claims[1:]])
            for one in claims[:1]:
                await retry_after(store, one)

    async def checker() -> list[Finding]:
        return [finding for _ in range(5) for finding in (*await complaints(store), *await store.repair())]

    *_, told = await asyncio.gather(producer(), worker(), worker(), checker())

    assert told == []
    for one in await claim_all(store):
        await complete(store, one)
    assert await complaints(store) == []
