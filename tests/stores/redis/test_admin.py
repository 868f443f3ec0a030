"""What people do to jobs and queues on Redis, where BullMQ itself loses or strands something."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from conformance.given import (
    QUEUE,
    add,
    added,
    advance,
    claim_all,
    claim_one,
    complete,
    events_of,
    fail,
    found,
    given,
    given_active,
    given_completed,
    given_failed,
    given_flow,
    given_many,
    given_settings,
    names_told,
    new_job,
    now_ms,
    ref_of,
    refs,
    soon,
    told,
)
from toril.model import Answer, JobRef, Update
from toril.options import ChildPolicy, Deduplication, RateLimit
from toril.states import State
from toril.store import Store
from toril.stores.redis import admin, eventlog


@pytest.fixture
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "PIECE", 3)


def key(store: Store, suffix: str, queue: str = QUEUE) -> str:
    return f"{store.prefix}:{queue}:{suffix}"


async def keys_of(redis: Any, store: Store) -> set[str]:
    """All but what is kept for half a minute, should a call be repeated."""
    names = {name.removeprefix(f"{store.prefix}:{QUEUE}:") for name in await redis.keys(f"{store.prefix}:*")}
    return {name for name in names if not name.startswith("py:answer:")}


async def calls_of(redis: Any) -> int:
    """How many scripts the server has run."""
    return int((await redis.info("commandstats"))["cmdstat_evalsha"]["calls"])


async def given_iteration(redis: Any, store: Store, where: str = "wait", *, awaited: bool = True) -> JobRef:
    """The iteration of a scheduler, as Node leaves it: the one that the scheduler waits for, or one of before."""
    due_ms = now_ms(store)
    job_id = f"repeat:daily:{due_ms}"
    fields = {"name": "report", "data": "{}", "opts": "{}", "timestamp": due_ms, "delay": 0, "priority": 0}
    await redis.hset(key(store, job_id), mapping={**fields, "rjk": "daily"})
    await redis.hset(key(store, "repeat:daily"), mapping={"name": "report", "every": 1000, "ic": 1})
    await redis.zadd(key(store, "repeat"), {"daily": due_ms if awaited else due_ms + 1000})
    if where == "wait":
        await redis.lpush(key(store, "wait"), job_id)
    else:
        await redis.zadd(key(store, where), {job_id: due_ms * 4096 if where == "delayed" else 2**32})
    return JobRef(QUEUE, job_id)


async def given_deduplication(redis: Any, store: Store, ref: JobRef, owner: str | None = None) -> None:
    """What a job has deduplicated, as Node leaves it."""
    await redis.hset(key(store, ref.id), "deid", "d1")
    await redis.set(key(store, "de:d1"), owner or ref.id)
    await redis.hset(key(store, "dn:d1"), mapping={"name": "n", "data": "{}", "opts": "{}"})


# ------------------------------------------------------------------ the iterations of schedulers


async def test_drain_removes_just_the_jobs_and_leaves_the_iteration_in_its_list(store: Store, redis: Any) -> None:
    before = await given_many(store, 2)
    iteration = await given_iteration(redis, store)
    after = await given(store)

    assert await store.drain(QUEUE) == 3

    assert await redis.lrange(key(store, "wait"), 0, -1) == [iteration.id]
    assert await store.get([*before, after]) == [None, None, None]
    assert refs(await claim_all(store)) == [iteration]


@pytest.mark.parametrize("where", ["wait", "prioritized", "delayed"])
async def test_an_iteration_that_its_scheduler_waits_for_is_neither_drained_nor_cleaned_nor_removed(
    store: Store, redis: Any, where: str
) -> None:
    iteration = await given_iteration(redis, store, where)
    state = {"wait": State.WAITING, "prioritized": State.PRIORITIZED, "delayed": State.DELAYED}[where]

    assert await store.drain(QUEUE, delayed=True) == 0
    assert await store.clean(QUEUE, state, grace_ms=0, limit=10) == []
    assert await store.remove([iteration]) == [Answer.WRONG_STATE]

    assert await found(store, state) == [iteration]


async def test_an_iteration_of_before_goes_as_any_job(store: Store, redis: Any) -> None:
    iteration = await given_iteration(redis, store, awaited=False)

    assert await store.remove([iteration]) == [Answer.DONE]

    assert await redis.exists(key(store, "repeat:daily")) == 1


async def test_obliterating_takes_the_schedulers_too(store: Store, redis: Any) -> None:
    await given_iteration(redis, store)
    await store.pause(QUEUE)

    assert await store.obliterate(QUEUE) == 1

    assert await keys_of(redis, store) == set()


# ------------------------------------------------------------------ what goes with a job


@pytest.mark.parametrize("verb", ["remove", "drain", "clean", "obliterate"])
async def test_a_lock_that_was_left_behind_goes_with_its_job(store: Store, redis: Any, verb: str) -> None:
    ref = await given(store)
    await redis.set(key(store, f"{ref.id}:lock"), "left", px=600_000)

    await get_rid_of(store, ref, verb)

    assert await redis.exists(key(store, f"{ref.id}:lock"), key(store, ref.id)) == 0


@pytest.mark.parametrize("verb", ["remove", "drain", "clean", "obliterate"])
async def test_what_a_job_has_deduplicated_is_free_when_it_goes(store: Store, redis: Any, verb: str) -> None:
    ref = await given(store)
    await given_deduplication(redis, store, ref)

    await get_rid_of(store, ref, verb)

    assert await redis.exists(key(store, "de:d1"), key(store, "dn:d1")) == 0


async def test_what_another_job_has_deduplicated_stays(store: Store, redis: Any) -> None:
    ref, owner = await given_many(store, 2)
    await given_deduplication(redis, store, ref, owner.id)

    await store.remove([ref])

    assert await redis.get(key(store, "de:d1")) == owner.id


async def test_an_id_without_a_time_whose_owner_is_gone_is_free(store: Store, redis: Any) -> None:
    await redis.set(key(store, "de:d1"), "gone")
    assert await store.owner(QUEUE, "d1") is None

    ref = await given(store, deduplication="d1")

    assert await store.owner(QUEUE, "d1") == ref
    assert await names_told(store) == ["added", "waiting"]


async def test_what_was_kept_for_an_owner_that_is_gone_is_added_at_the_end_of_the_next_one(
    store: Store, redis: Any
) -> None:
    await redis.set(key(store, "de:d1"), "gone")
    await redis.hset(key(store, "dn:d1"), mapping={"name": "later", "data": "{}", "opts": "{}", "jid": "j2"})
    one = await given_active(store, deduplication="d1")

    await complete(store, one)

    assert await found(store, State.WAITING) == [JobRef(QUEUE, "j2")]
    assert await redis.exists(key(store, "dn:d1")) == 0


async def test_an_id_without_a_time_whose_owner_has_ended_is_free(store: Store, redis: Any) -> None:
    done = await given_completed(store)
    await redis.set(key(store, "de:d1"), done.id)
    assert await store.owner(QUEUE, "d1") is None

    ref = await given(store, deduplication="d1")

    assert await store.owner(QUEUE, "d1") == ref


async def test_what_is_kept_for_one_owner_is_not_added_at_the_end_of_another_job(store: Store, redis: Any) -> None:
    by = Deduplication.keep_last("d1")
    first = await given_active(store, deduplication=by)
    await store.forget(QUEUE, "d1")
    second = await given_active(store, deduplication=by)
    later = new_job(store, deduplication=by)
    await add(store, later)

    await complete(store, first)
    assert await found(store, State.WAITING) == []
    await complete(store, second)

    assert await found(store, State.WAITING) == [ref_of(later)]


async def test_what_is_kept_does_not_take_the_place_of_a_job_that_has_its_id_by_now(store: Store) -> None:
    by = Deduplication.keep_last("d1")
    one = await given_active(store, deduplication=by)
    await add(store, new_job(store, job_id="order-7", data='{"n":1}', deduplication=by))
    standing = await given(store, job_id="order-7", data='{"n":2}')

    await complete(store, one)

    assert await found(store, State.WAITING) == [standing]
    assert (await claim_one(store)).data == '{"n":2}'
    assert "duplicated" in await names_told(store)


async def test_what_is_kept_is_no_child_of_a_parent_that_is_gone(store: Store, redis: Any) -> None:
    by = Deduplication.keep_last("d1")
    one = await given_active(store, deduplication=by)
    parent = await given(store, queue="albums")
    later = new_job(store, parent=parent, deduplication=by)
    await add(store, later)
    await store.remove([parent])

    await complete(store, one)

    assert await found(store, State.WAITING) == [ref_of(later)]
    assert await redis.keys(f"{store.prefix}:albums:{parent.id}*") == []


async def test_a_plain_job_costs_no_command_beside_deduplicated_ones(store: Store, redis: Any) -> None:
    async def commands_of(call: Awaitable[object]) -> dict[str, int]:
        await redis.config_resetstat()
        await call
        stats = await redis.info("commandstats")
        return {name: stat["calls"] for name, stat in stats.items() if name not in ("cmdstat_config|resetstat",)}

    await given(store)
    plain = await commands_of(given(store))
    await given(store, deduplication="d1")

    assert await commands_of(given(store)) == plain
    assert "cmdstat_get" not in plain


# ------------------------------------------------------------------ cancelling


async def test_an_iteration_that_its_scheduler_waits_for_is_not_cancelled(store: Store, redis: Any) -> None:
    iteration = await given_iteration(redis, store)

    assert await store.cancel([iteration], "no") == [Answer.WRONG_STATE]

    assert refs(await claim_all(store)) == [iteration]


async def test_a_job_that_an_old_version_had_put_aside_is_cancelled(store: Store, redis: Any) -> None:
    ref = await given(store)
    await redis.rename(key(store, "wait"), key(store, "paused"))

    assert await store.cancel([ref], "no") == [Answer.DONE]

    assert await redis.exists(key(store, "paused")) == 0


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ("true", []),
        ("1", ["2"]),
        ('{"count":"1"}', ["2"]),
        ('{"age":0}', []),
        ("false", ["1", "2"]),
        ('"odd"', ["1", "2"]),
    ],
)
async def test_a_cancelled_job_goes_by_the_rule_that_node_gave_it(
    store: Store, redis: Any, rule: str, left: list[str]
) -> None:
    for ref in await given_many(store, 2):
        await redis.hset(key(store, ref.id), "opts", f'{{"removeOnFail":{rule}}}')
        assert await store.cancel([ref], "no") == [Answer.DONE]
        await advance(store, 1)

    assert await redis.zrange(key(store, "failed"), 0, -1) == left


async def test_a_job_whose_options_are_no_json_is_cancelled_and_kept(store: Store, redis: Any) -> None:
    ref = await given(store)
    await redis.hset(key(store, ref.id), "opts", "{oops")

    assert await store.cancel([ref], "no") == [Answer.DONE]

    assert await redis.zrange(key(store, "failed"), 0, -1) == [ref.id]


@pytest.mark.usefixtures("_small_pieces")
async def test_many_are_cancelled_and_detached_in_pieces(store: Store, redis: Any) -> None:
    parent, children = await given_flow(store, children=8)
    before = await calls_of(redis)

    assert await store.detach(children) == [Answer.DONE] * 8
    assert await store.cancel([parent, *children], "no") == [Answer.DONE] * 9

    assert await calls_of(redis) - before == 6
    assert await found(store, State.FAILED, "images") == children


async def get_rid_of(store: Store, ref: JobRef, verb: str) -> None:
    if verb == "remove":
        assert await store.remove([ref]) == [Answer.DONE]
    elif verb == "drain":
        assert await store.drain(QUEUE) == 1
    elif verb == "clean":
        assert await store.clean(QUEUE, State.WAITING, grace_ms=0, limit=10) == [ref.id]
    else:
        await store.pause(QUEUE)
        assert await store.obliterate(QUEUE) == 1


async def test_a_removed_job_leaves_no_key_of_its_own(store: Store, redis: Any) -> None:
    parent = new_job(store, has_children=True)
    policies = (ChildPolicy.WAIT, ChildPolicy.IGNORE, ChildPolicy.FAIL, ChildPolicy.WAIT)
    children = [new_job(store, parent=ref_of(parent), policy=policy) for policy in policies]
    await added(store, parent, *children)
    await complete(store, await claim_one(store))
    await fail(store, await claim_one(store))
    await fail(store, await claim_one(store))
    await store.update([Update(ref_of(parent), progress="1", logs=("line",))])
    of_its_own = {
        parent.id + suffix for suffix in ("", ":logs", ":dependencies", ":processed", ":failed", ":unsuccessful")
    }
    assert of_its_own < await keys_of(redis, store)

    assert await store.remove([ref_of(parent)]) == [Answer.DONE]

    assert not [name for name in await keys_of(redis, store) if name.partition(":")[0].isdigit()]


async def test_removal_says_wait_as_node_does(store: Store) -> None:
    ref, other = await given(store), await given(store, priority=1)

    await store.remove([ref, other])

    assert (await told(store))[-2:] == [("removed", {"prev": "wait"}), ("removed", {"prev": "prioritized"})]


# ------------------------------------------------------------------ ids without jobs


@pytest.mark.parametrize("verb", ["drain", "clean"])
async def test_an_id_without_a_job_is_dropped_and_not_counted(store: Store, redis: Any, verb: str) -> None:
    gone, there = await given_many(store, 2)
    await redis.delete(key(store, gone.id))

    if verb == "drain":
        assert await store.drain(QUEUE) == 1
    else:
        assert await store.clean(QUEUE, State.WAITING, grace_ms=0, limit=10) == [there.id]

    assert await redis.exists(key(store, "wait")) == 0


async def test_an_id_without_a_job_is_not_promoted(store: Store, redis: Any) -> None:
    ref = await given(store, delay=60)
    await redis.delete(key(store, ref.id))

    assert await store.promote([ref]) == [Answer.MISSING]

    assert await redis.exists(key(store, "wait"), key(store, "delayed")) == 0


# ------------------------------------------------------------------ priorities and bells


async def test_many_jobs_that_are_retried_or_promoted_keep_their_priorities(store: Store, redis: Any) -> None:
    failed = [await given_failed(store, priority=priority) for priority in (3, 0, 1)]
    delayed = [await given(store, priority=priority, delay=60) for priority in (2, 0)]

    await store.retry(failed)
    await store.promote(delayed)

    assert refs(await claim_all(store)) == [failed[1], delayed[1], failed[2], delayed[0], failed[0]]
    assert {await redis.hget(key(store, ref.id), "delay") for ref in delayed} == {"0"}


@pytest.mark.parametrize("priority", [0, 5])
async def test_a_job_put_in_front_rings_the_bell(store: Store, redis: Any, priority: int) -> None:
    ref = await given(store, priority=9)
    await redis.delete(key(store, "marker"))

    await store.update([Update(ref, priority=priority, lifo=True)])

    assert await redis.zscore(key(store, "marker"), "0") == 0


async def test_a_changed_delay_moves_the_moment_of_the_bell(store: Store, redis: Any) -> None:
    ref = await given(store, delay=60)

    await store.update([Update(ref, delay_ms=5_000)])

    assert await redis.zscore(key(store, "marker"), "1") == now_ms(store) + 5_000
    assert await redis.hget(key(store, ref.id), "delay") == "5000"


async def test_a_paused_queue_is_not_rung_by_changes(store: Store, redis: Any) -> None:
    failed, ref = await given_failed(store), await given(store)
    await store.pause(QUEUE)

    await store.update([Update(ref, priority=5, lifo=True)])
    await store.retry([failed])
    await store.throttle(QUEUE, 1_000)

    assert await redis.exists(key(store, "marker")) == 0


# ------------------------------------------------------------------ throttles and limits


async def test_a_throttle_holds_back_nodes_workers_too(store: Store, redis: Any) -> None:
    await store.throttle(QUEUE, 60_000)
    assert await redis.get(key(store, "limiter")) == "9007199254740991"
    assert await redis.hget(key(store, "meta"), "py:throttled-until") == str(now_ms(store) + 60_000)

    await store.throttle(QUEUE, 0)

    assert await redis.exists(key(store, "limiter")) == 0
    assert await redis.hexists(key(store, "meta"), "py:throttled-until") is False


async def test_a_throttle_expires_by_the_servers_clock(real: Store, redis: Any) -> None:
    await redis.set(key(real, "limiter"), 7)  # a counter that a broken script left without an end

    await real.throttle(QUEUE, 60_000)

    assert 0 < await redis.pttl(key(real, "limiter")) <= 60_000


async def test_a_limit_is_never_written_without_its_time(store: Store, redis: Any) -> None:
    await given_settings(store, rate_limit=RateLimit(10, per=60))
    assert await redis.hmget(key(store, "meta"), "max", "duration") == ["10", "60000"]

    await given_settings(store)

    assert await redis.hmget(key(store, "meta"), "max", "duration") == [None, None]


# ------------------------------------------------------------------ queues that old versions have paused


@pytest.mark.usefixtures("_small_pieces")
@pytest.mark.parametrize("newer", [0, 2])
async def test_resuming_brings_back_the_jobs_that_an_old_version_had_put_aside(
    store: Store, redis: Any, newer: int
) -> None:
    aside = await given_many(store, 8)
    await redis.rename(key(store, "wait"), key(store, "paused"))
    await redis.hset(key(store, "meta"), "paused", 1)
    after = await given_many(store, newer)

    await store.resume(QUEUE)

    assert refs(await claim_all(store)) == [*aside, *after]
    assert (await names_told(store)).count("resumed") == 1


async def test_jobs_put_aside_are_drained_and_obliterated(store: Store, redis: Any) -> None:
    await given_many(store, 2)
    await redis.rename(key(store, "wait"), key(store, "paused"))
    assert await store.drain(QUEUE) == 2

    await given(store)
    await redis.rename(key(store, "wait"), key(store, "paused"))
    await store.pause(QUEUE)

    assert await store.obliterate(QUEUE) == 1
    assert await keys_of(redis, store) == set()


# ------------------------------------------------------------------ obliterating


async def test_nothing_at_all_is_left_of_an_obliterated_queue(store: Store, redis: Any) -> None:
    await given_settings(store, rate_limit=RateLimit(100, per=60))
    await given_completed(store)
    await given_completed(store, keep_completed=False)  # which leaves a receipt
    await given_failed(store)
    await given_active(store)
    await given_flow(store, child_queue=QUEUE)
    await given(store, delay=60)
    await given_iteration(redis, store, "prioritized")
    await given_deduplication(redis, store, await given(store, priority=2))
    await store.throttle(QUEUE, 60_000)
    await store.pause(QUEUE)

    assert await store.obliterate(QUEUE, force=True) == 8

    assert await keys_of(redis, store) == set()


async def test_the_receipts_of_a_queue_with_a_like_name_stay(store: Store) -> None:
    other = await given_completed(store, '"kept"', queue="emails", keep_completed=False)
    await given(store)
    await store.pause(QUEUE)

    await store.obliterate(QUEUE)

    [receipt] = await store.get([other])
    assert receipt is not None
    assert receipt.result == '"kept"'


# ------------------------------------------------------------------ pieces


@pytest.mark.usefixtures("_small_pieces")
async def test_what_is_done_in_pieces_is_done_whole(store: Store, redis: Any) -> None:
    waiting = [await given(store, priority=n % 3) for n in range(10)]
    iteration = await given_iteration(redis, store)
    delayed = await given_many(store, 7, delay=60)

    assert await store.promote(delayed[:5]) == [Answer.DONE] * 5
    assert await store.update([Update(ref, data="1", logs=(ref.id,)) for ref in delayed]) == [Answer.DONE] * 7
    assert [(await store.logs(ref)).lines for ref in delayed] == [(ref.id,) for ref in delayed]
    assert await store.remove([*waiting[:5], JobRef(QUEUE, "nobody")]) == [*[Answer.DONE] * 5, Answer.MISSING]
    assert await store.drain(QUEUE) == 10
    assert await store.drain(QUEUE, delayed=True) == 2

    assert await found(store, State.WAITING) == [iteration]
    assert await redis.exists(key(store, "prioritized"), key(store, "delayed")) == 0


@pytest.mark.usefixtures("_small_pieces")
async def test_a_clean_in_pieces_keeps_to_its_limit_and_tells_of_it_once(store: Store) -> None:
    jobs = [await given_completed(store) for _ in range(10)]

    removed = await store.clean(QUEUE, State.COMPLETED, grace_ms=0, limit=8)

    assert len(removed) == 8
    assert set(removed) < {ref.id for ref in jobs}
    assert [event.fields for event in await events_of(store) if event.name == "cleaned"] == [{"count": "8"}]


@pytest.mark.usefixtures("_small_pieces")
@pytest.mark.parametrize("priority", [0, 5], ids=["waiting", "prioritized"])
async def test_jobs_that_stay_are_passed_over_piece_by_piece(store: Store, priority: int) -> None:
    old = [await given(store, priority=priority and 9) for _ in range(5)]
    await advance(store, 10_000)
    young = [await given(store, priority=priority, lifo=True) for _ in range(8)]
    state = State.PRIORITIZED if priority else State.WAITING

    assert await store.clean(QUEUE, state, grace_ms=5_000, limit=100) == [ref.id for ref in old]

    assert sorted(await found(store, state)) == sorted(young)


@pytest.mark.usefixtures("_small_pieces")
async def test_a_family_larger_than_a_piece_goes_whole_or_not_at_all(store: Store) -> None:
    parent, children = await given_flow(store, children=10)
    one = await claim_one(store, "images")
    assert await store.remove([parent]) == [Answer.LOCKED]
    assert len(await found(store, State.WAITING, "images")) == 9
    await complete(store, one)

    assert await store.remove([parent]) == [Answer.DONE]

    assert await store.get([parent, *children]) == [None] * 11


@pytest.mark.usefixtures("_small_pieces")
async def test_a_queue_is_obliterated_in_pieces(store: Store, redis: Any) -> None:
    for _ in range(4):
        await given_completed(store)
    await given_many(store, 5)
    await given_flow(store, children=4, child_queue=QUEUE)
    await store.pause(QUEUE)

    assert await store.obliterate(QUEUE) == 14

    assert await keys_of(redis, store) == set()


async def test_no_call_removes_more_than_its_share(store: Store, redis: Any) -> None:
    for _ in range(3):
        await added(store, *[new_job(store) for _ in range(1_000)])
    before = await calls_of(redis)

    assert await store.drain(QUEUE) == 3_000

    assert await calls_of(redis) - before >= 3


async def test_removing_by_name_from_a_long_list_takes_more_calls(store: Store, redis: Any) -> None:
    jobs = [new_job(store) for _ in range(3_000)]
    for first in range(0, 3_000, 1_000):
        await added(store, *jobs[first : first + 1_000])
    before = await calls_of(redis)

    assert await store.remove([ref_of(job) for job in jobs[-300:]]) == [Answer.DONE] * 300

    assert await calls_of(redis) - before >= 2  # each is searched for in 3,000


# ------------------------------------------------------------------ looking


async def test_looking_at_a_queue_changes_nothing_in_it(store: Store, redis: Any) -> None:
    await given_many(store, 2)
    await redis.rpush(key(store, "wait"), "0:1700000000000")  # a marker of old versions
    await redis.zadd(key(store, "repeat"), {"without-a-record": 1})
    parent, _ = await given_flow(store)
    before = await contents_of(redis, store)

    for state in State:
        await store.find(QUEUE, state)
    await store.summaries()
    await store.children(parent)
    await store.logs(parent)
    await store.get([parent, JobRef(QUEUE, "nobody")])
    await store.settings(QUEUE)

    assert await contents_of(redis, store) == before


async def contents_of(redis: Any, store: Store) -> dict[str, object]:
    looks: dict[str, Callable[[str], Awaitable[object]]] = {
        "string": redis.get,
        "hash": redis.hgetall,
        "set": redis.smembers,
        "list": lambda name: redis.lrange(name, 0, -1),
        "zset": lambda name: redis.zrange(name, 0, -1, withscores=True),
        "stream": redis.xrange,
    }
    return {name: await looks[await redis.type(name)](name) for name in await redis.keys(f"{store.prefix}:*")}


# ------------------------------------------------------------------ events


async def test_an_event_of_ones_own_trims_no_more_than_the_queue_does(store: Store, redis: Any) -> None:
    await added(store, *[new_job(store) for _ in range(1_000)])

    await store.publish(QUEUE, "invoice-seen", {})

    assert await redis.xlen(key(store, "events")) == 2_001


async def test_events_bear_the_time_of_the_clock_that_is_turned_unless_node_was_ahead(store: Store, redis: Any) -> None:
    await given(store)
    node = await redis.xadd(key(store, "events"), {"event": "waiting", "jobId": "7"})

    await given(store)

    events = await events_of(store)
    assert [event.at_ms == now_ms(store) for event in events] == [True, True, False, False, False]
    assert [event.id for event in events] == sorted((event.id for event in events), key=_moment)
    assert node in [event.id for event in events]


def _moment(event_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in event_id.split("-"))


async def listening(redis: Any, store: Store, count: int) -> list[dict[str, str]]:
    """The connections that wait for events, once there are so many of them."""
    while True:
        clients = [one for one in await redis.client_list() if one["name"].startswith(f"{store.prefix}:")]
        if len([one for one in clients if "b" in one["flags"]]) == count == len(clients):
            return clients
        await asyncio.sleep(0)


async def test_all_readers_of_a_queue_wait_on_one_connection(store: Store, redis: Any) -> None:
    last = await store.last_event(QUEUE)
    readings = [asyncio.ensure_future(store.read(QUEUE, last, until_ms=now_ms(store) + 60_000)) for _ in range(50)]
    [client] = await soon(listening(redis, store, 1))
    assert (client["cmd"], client["name"].rpartition(":")[2]) == ("xread", "qe")

    ref = await given(store)

    assert {events[0].job_id for events in await soon(asyncio.gather(*readings))} == {ref.id}


async def test_a_read_that_is_cancelled_leaves_nothing_behind(store: Store, redis: Any) -> None:
    reading = asyncio.ensure_future(store.read(QUEUE, None, until_ms=now_ms(store) + 60_000))
    await soon(listening(redis, store, 1))

    reading.cancel()
    await asyncio.wait((reading,))

    assert asyncio.all_tasks() == {asyncio.current_task()}
    await soon(listening(redis, store, 0))


async def test_a_reader_whose_connection_is_cut_hears_all_the_same(
    store: Store, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventlog, "PAUSE_S", 0.01)
    reading = asyncio.ensure_future(store.read(QUEUE, None, until_ms=now_ms(store) + 60_000))
    [client] = await soon(listening(redis, store, 1))

    await redis.client_kill_filter(_id=client["id"])
    ref = await given(store)

    assert (await soon(reading))[0].job_id == ref.id


async def test_a_read_ends_at_its_moment_of_the_real_clock(real: Store) -> None:
    assert await soon(real.read(QUEUE, None, until_ms=now_ms(real) + 50)) == []
