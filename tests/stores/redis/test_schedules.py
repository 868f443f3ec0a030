"""Schedules on Redis: what of them is ours, what old versions have left, and ids with colons."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest

from conformance.given import (
    QUEUE,
    added,
    claim_all,
    claim_one,
    complete,
    fail,
    found,
    given,
    known,
    new_job,
    now_ms,
    refs,
    settle,
    state_of,
)
from conformance.given_schedules import (
    REPORT,
    advanced,
    claim_run,
    given_paused,
    given_schedule,
    in_every_detail,
    schedule,
    schedule_of,
)
from toril.clock import TurnedClock
from toril.model import Answer, AwaitingChildren, Child, JobRef, Placed, Superseded
from toril.options import HOUR_MS, ChildPolicy
from toril.states import State
from toril.store import Store
from toril.stores.redis import schedules
from toril.stores.redis.keys import Keys
from toril.stores.redis.sharded import ShardedRedisStore
from toril.timing import Missed, Overlap, Timing

LEGACY = "report:::UTC:0 * * * *"


def key(store: Store, suffix: str) -> str:
    return f"{store.prefix}:{QUEUE}:{suffix}"


async def given_legacy(redis: Any, store: Store, id: str = LEGACY, **fields: str) -> int:
    """A repeatable job of an old version; when its next run is."""
    at_ms = now_ms(store) + 5_000
    await redis.zadd(key(store, "repeat"), {id: at_ms})
    if fields:
        await redis.hset(key(store, f"repeat:{id}"), mapping=fields)
    return at_ms


@pytest.fixture
def _each_call_is_a_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call has the same name, as one that is made again since its answer was lost."""
    monkeypatch.setattr(os, "urandom", bytes)


@pytest.fixture
async def sharded(redis_url: str, clock: TurnedClock) -> AsyncIterator[Store]:
    opened = ShardedRedisStore(redis_url, prefix=f"test-{uuid.uuid4().hex}", clock=clock)
    yield cast("Store", opened)
    await opened.close()


# ------------------------------------------------------------------ what is ours


async def test_an_ordinary_schedule_has_only_the_fields_that_node_writes(store: Store, redis: Any) -> None:
    seen = await given_schedule(store)
    await claim_run(store, seen)
    await advanced(store, seen)

    fields = await redis.hgetall(key(store, f"repeat:{REPORT}"))

    assert fields.keys() == {"name", "pattern", "tz", "offset", "data", "opts", "ic"}


async def test_what_node_does_not_know_of_a_schedule_is_one_field(store: Store, redis: Any) -> None:
    await store.put_schedule(in_every_detail(store), None, now_ms(store) + HOUR_MS)

    assert json.loads(await redis.hget(key(store, f"repeat:{REPORT}"), "py:schedule")) == {
        "missed": "all",
        "overlap": "queue",
        "declared": "third",
        "superseded": [["first", 1_000], ["second", 2_000]],
    }


async def test_the_run_that_was_let_run_is_noted_beside_what_else_is_ours(store: Store, redis: Any) -> None:
    timing = Timing("0 * * * *", overlap=Overlap.QUEUE)
    seen = await given_schedule(store, timing=timing, declared="mark")
    one = await claim_run(store, seen)

    after = await advanced(store, seen, running=one.ref.id)

    assert after.schedule == seen.schedule
    assert json.loads(await redis.hget(key(store, f"repeat:{REPORT}"), "py:schedule")) == {
        "overlap": "queue",
        "declared": "mark",
        "running": one.ref.id,
    }


async def test_a_paused_schedule_keeps_the_count_that_its_run_told(store: Store, redis: Any) -> None:
    seen = await given_paused(store)
    assert json.loads(await redis.hget(key(store, f"repeat:{REPORT}"), "py:schedule")) == {"paused": True, "count": 1}

    resumed = replace(seen.schedule, paused=False)
    assert await store.put_schedule(resumed, seen, seen.next_at_ms, count=2) is Placed.DONE

    assert await redis.hexists(key(store, f"repeat:{REPORT}"), "py:schedule") == 0
    assert (await schedule_of(store)).count == 2


async def test_a_schedule_that_is_put_paused_is_listed_among_those_of_all_queues(store: Store) -> None:
    await store.put_schedule(schedule(store, paused=True), None, None, count=0)

    [record] = await store.schedules()

    assert (record.next_at_ms, record.iterations, record.count, record.state) == (now_ms(store), 0, 0, None)


async def test_node_is_told_where_the_beat_of_an_interval_is(store: Store, redis: Any) -> None:
    at_ms = now_ms(store) // 60_000 * 60_000 + 12_345

    seen = await given_schedule(store, timing=Timing(every_ms=60_000), in_ms=at_ms - now_ms(store))

    assert await redis.hget(key(store, f"repeat:{REPORT}"), "offset") == "12345"
    assert seen.schedule.timing == Timing(every_ms=60_000, offset_ms=12_345)


async def test_a_run_that_is_in_no_list_any_more_is_replaced_all_the_same(store: Store, redis: Any) -> None:
    seen = await given_schedule(store, in_ms=0)
    await redis.delete(key(store, "wait"))

    assert await store.put_schedule(seen.schedule, await schedule_of(store), now_ms(store) + 1) is Placed.DONE

    assert await known(store, seen.iteration) is None
    assert await found(store, State.DELAYED) == [(await schedule_of(store)).iteration]


async def test_a_run_keeps_what_node_has_written_into_its_options(store: Store, redis: Any) -> None:
    seen = await given_schedule(store)
    options = json.loads(await redis.hget(key(store, seen.iteration.id), "opts"))
    await redis.hset(key(store, seen.iteration.id), "opts", json.dumps({**options, "stackTraceLimit": 3, "mine": []}))

    after = await advanced(store, await schedule_of(store))

    assert json.loads(await redis.hget(key(store, after.iteration.id), "opts")) == {
        **options,
        "stackTraceLimit": 3,
        "mine": [],
        "jobId": after.iteration.id,
        "prevMillis": after.next_at_ms,
        "delay": after.next_at_ms - now_ms(store),
        "repeat": {**options["repeat"], "count": 2},
    }


@pytest.mark.usefixtures("_each_call_is_a_repeat")
async def test_a_repeated_call_puts_and_removes_once_and_answers_the_same(store: Store, redis: Any) -> None:
    wanted, at_ms = schedule(store), now_ms(store) + 1_000

    assert [await store.put_schedule(wanted, None, at_ms) for _ in range(2)] == [Placed.DONE] * 2
    assert await redis.get(key(store, "id")) == "1"
    await redis.delete(*await redis.keys(key(store, "py:answer:*")))
    assert [await store.remove_schedule(QUEUE, REPORT) for _ in range(2)] == [True, True]


async def test_many_schedules_are_looked_at_in_pieces(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "PIECE", 3)
    ids = [f"s{number}" for number in range(7)]
    for place, id in enumerate(ids):
        await given_schedule(store, id, in_ms=place)

    assert [record.schedule.id for record in await store.schedules(QUEUE)] == ids


async def test_a_sharded_store_has_schedules_in_each_slot(sharded: Store, redis: Any) -> None:
    mine, theirs = (
        await given_schedule(sharded, in_ms=2_000),
        await given_schedule(sharded, queue="images", in_ms=1_000),
    )

    assert await sharded.schedules() == [theirs, mine]
    assert await redis.zrange(f"{sharded.prefix}:{{images}}:repeat", 0, -1) == [REPORT]
    assert await sharded.remove_schedule("images", REPORT)
    assert await sharded.schedules() == [mine]


# ------------------------------------------------------------------ what old versions have left


@pytest.mark.parametrize("fields", [{}, {"name": "report", "pattern": "0 * * * *"}], ids=["no-record", "no-count"])
async def test_a_schedule_of_an_old_version_is_neither_listed_nor_touched(
    store: Store, redis: Any, fields: dict[str, str]
) -> None:
    at_ms = await given_legacy(redis, store, **fields)
    seen = await given_schedule(store)

    assert await store.schedules(QUEUE) == [seen]
    assert await store.schedules(QUEUE, LEGACY) == []
    assert await store.remove_schedule(QUEUE, LEGACY) is False
    assert await store.advance_schedule(replace(seen, schedule=schedule(store, LEGACY)), at_ms) is Placed.CHANGED
    assert await redis.zscore(key(store, "repeat"), LEGACY) == at_ms
    assert await redis.hgetall(key(store, f"repeat:{LEGACY}")) == fields


@pytest.mark.parametrize("fields", [{}, {"name": "report", "pattern": "0 * * * *"}], ids=["no-record", "no-count"])
async def test_a_schedule_may_be_put_over_one_of_an_old_version(
    store: Store, redis: Any, fields: dict[str, str]
) -> None:
    await given_legacy(redis, store, REPORT, **fields)

    seen = await given_schedule(store, in_ms=1_000)

    assert (seen.next_at_ms, seen.iterations) == (now_ms(store) + 1_000, 1)
    assert await store.schedules(QUEUE) == [seen]


# ------------------------------------------------------------------ ids with colons


@pytest.mark.parametrize("id", [REPORT, "eu:daily:7"])
async def test_a_run_may_wait_for_children(store: Store, id: str) -> None:
    seen = await given_schedule(store, id)
    one = await claim_run(store, seen)
    child = await given(store, queue="images", parent=one.ref)

    await settle(store, one, AwaitingChildren())
    assert await state_of(store, one.ref) is State.WAITING_CHILDREN
    await complete(store, await claim_one(store, "images"), '"thumb"')

    assert await store.children(one.ref) == [Child(child, "completed", '"thumb"')]
    assert refs(await claim_all(store)) == [one.ref]


@pytest.mark.parametrize("job_id", ["a:b:c", "repeat:eu:daily:7:1700000000000"])
async def test_a_child_whose_id_has_colons_releases_its_parent_and_goes_with_it(store: Store, job_id: str) -> None:
    first = new_job(store, has_children=True)
    second = new_job(store, has_children=True)
    first_ref, second_ref = JobRef(QUEUE, first.id), JobRef(QUEUE, second.id)
    await added(store, first, new_job(store, queue="images", job_id=job_id, parent=first_ref))
    await added(store, second, new_job(store, queue="videos", job_id=job_id, parent=second_ref))

    await complete(store, await claim_one(store, "images"))
    assert await state_of(store, first_ref) is State.WAITING
    assert [child.ref for child in await store.children(first_ref)] == [JobRef("images", job_id)]

    assert await store.remove([second_ref]) == [Answer.DONE]
    assert await known(store, JobRef("videos", job_id)) is None


async def test_a_parent_whose_id_has_colons_fails_with_its_child(store: Store) -> None:
    parent = new_job(store, job_id="a:b:c", has_children=True)
    ref = JobRef(QUEUE, "a:b:c")
    await added(store, parent, new_job(store, queue="images", parent=ref, policy=ChildPolicy.FAIL))

    await fail(store, await claim_one(store, "images"))

    one = await claim_one(store)
    assert (one.ref, one.deferred is None) == (ref, False)


@pytest.mark.parametrize(
    ("job_key", "ref"),
    [
        ("bull:{x}:email:repeat:a:b:17", JobRef("email", "repeat:a:b:17")),
        ("bull:{x}:email:1", JobRef("email", "1")),
        ("other:email:1", JobRef("other:email", "1")),
    ],
)
def test_a_key_is_cut_where_the_name_of_the_queue_ends(job_key: str, ref: JobRef) -> None:
    assert Keys("bull:{x}").ref_of(job_key) == ref


async def test_a_child_of_a_parent_under_another_prefix_still_releases_it(store: Store, redis: Any) -> None:
    parent_key = f"other-{store.prefix}:albums:p1"
    fields = {"name": "album", "data": "{}", "opts": "{}", "timestamp": now_ms(store), "delay": 0, "priority": 0}
    await redis.hset(parent_key, mapping=fields)
    await redis.zadd(f"other-{store.prefix}:albums:waiting-children", {"p1": now_ms(store)})
    child = await given(store)
    await redis.hset(key(store, child.id), mapping={"parentKey": parent_key, "parent": "{}"})
    await redis.sadd(f"{parent_key}:dependencies", key(store, child.id))

    await complete(store, await claim_one(store))

    assert await redis.lrange(f"other-{store.prefix}:albums:wait", 0, -1) == ["p1"]


async def test_policies_of_a_later_toril_count_as_the_usual_ones(store: Store, redis: Any) -> None:
    await given_schedule(store)
    extras = {"missed": "latest", "overlap": 7, "superseded": [1, ["mark", 5], ["mark"]], "declared": "now"}
    await redis.hset(key(store, f"repeat:{REPORT}"), "py:schedule", json.dumps(extras))

    seen = (await schedule_of(store)).schedule

    assert (seen.timing.missed, seen.timing.overlap) == (Missed.ONCE, Overlap.ALLOW)
    assert seen.superseded == (Superseded("mark", 5),)
