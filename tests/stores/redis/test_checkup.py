"""How a server is looked at, and how damage in Redis is found, told and mended."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from conformance.given import (
    QUEUE,
    add,
    advance,
    claim_all,
    claim_one,
    complete,
    found,
    given,
    given_active,
    given_completed,
    given_failed,
    given_flow,
    given_many,
    known,
    names_told,
    new_job,
    now_ms,
    refs,
    retry_after,
    soon,
    state_of,
    summary_of,
)
from conformance.test_announce import worker
from toril import Queue, Served, Worker
from toril.clock import SYSTEM_CLOCK, TurnedClock
from toril.errors import ConfigError
from toril.handlers import HandlerTable, registered
from toril.model import Finding, JobRef
from toril.options import Deduplication
from toril.states import State
from toril.store import Store
from toril.stores.redis import checkup
from toril.stores.redis.fitness import Said, findings
from toril.stores.redis.store import RedisStore

OPTS = '{"attempts":1}'


class Place(NamedTuple):
    """A store, and the client beside it that does the damage."""

    store: Store
    redis: Any

    def key(self, suffix: str, queue: str = QUEUE) -> str:
        return f"{self.store.prefix}:{queue}:{suffix}"

    async def given_hash(self, id: str, **fields: str | int) -> JobRef:
        """A job that is nothing but its hash."""
        whole = {
            "name": "welcome",
            "data": "{}",
            "opts": OPTS,
            "timestamp": now_ms(self.store),
            "delay": 0,
            "priority": 0,
        }
        await self.redis.hset(self.key(id), mapping={**whole, **fields})
        return JobRef(QUEUE, id)

    async def keys(self) -> dict[str, Any]:
        """All keys with what is in them."""
        read: dict[str, tuple[str | int, ...]] = {
            "hash": ("HGETALL",),
            "list": ("LRANGE", 0, -1),
            "zset": ("ZRANGE", 0, -1, "WITHSCORES"),
            "stream": ("XRANGE", "-", "+"),
            "string": ("GET",),
        }
        found: dict[str, Any] = {}
        for name in await self.redis.keys(f"{self.store.prefix}:*"):
            command, *rest = read[await self.redis.type(name)]
            found[name] = await self.redis.execute_command(command, name, *rest)
        return found


@pytest.fixture
def place(store: Store, redis: Any) -> Place:
    return Place(store, redis)


async def damage(store: Store) -> list[Finding]:
    """What is found in queues."""
    return [finding for finding in await store.check() if finding.about.startswith("queue ")]


async def told(store: Store) -> list[str]:
    """What is found in queues, without what comes of it."""
    return [finding.message.partition(": ")[0] for finding in await damage(store)]


async def mended(store: Store) -> list[str]:
    """What is repaired, in the words of the repair; there is nothing left for a second one."""
    done = await store.repair()
    assert {finding.level for finding in done} <= {"ok"}
    assert await store.repair() == []
    return [finding.message for finding in done]


# ------------------------------------------------------------------ every kind


async def _dangling_in_wait(place: Place) -> None:
    await given(place.store, job_id="sound")
    await place.redis.lpush(place.key("wait"), "gone")


async def _dangling_in_paused(place: Place) -> None:
    await place.redis.lpush(place.key("paused"), "gone")
    await given(place.store)


async def _dangling_in_active(place: Place) -> None:
    await given_active(place.store)
    await place.redis.lpush(place.key("active"), "gone")


def _dangling_in(name: str) -> Callable[[Place], Awaitable[None]]:
    async def harm(place: Place) -> None:
        await given(place.store)
        await place.redis.zadd(place.key(name), {"gone": 4096 * now_ms(place.store)})

    return harm


async def _waiting_twice(place: Place) -> None:
    await given(place.store, job_id="j1")
    await place.redis.lpush(place.key("wait"), "j1")


async def _waiting_and_completed(place: Place) -> None:
    await given_completed(place.store, job_id="j1")
    await place.redis.lpush(place.key("wait"), "j1")


async def _waiting_and_active(place: Place) -> None:
    await given_active(place.store, job_id="j1")
    await place.redis.lpush(place.key("wait"), "j1")


async def _delayed_and_failed(place: Place) -> None:
    await given(place.store, job_id="j1", delay=60)
    await place.redis.zadd(place.key("failed"), {"j1": 1})


async def _lost(place: Place) -> None:
    await given(place.store, job_id="j1")
    await place.redis.delete(place.key("wait"), place.key("marker"))


async def _marker(place: Place) -> None:
    await given(place.store, job_id="j1")
    await place.redis.delete(place.key("marker"))


async def _paused_list(place: Place) -> None:
    await given_many(place.store, 2)
    await place.redis.rename(place.key("wait"), place.key("paused"))


async def _limiter(place: Place) -> None:
    await given(place.store)
    await place.redis.set(place.key("limiter"), 7)


async def _stalled_check(place: Place) -> None:
    await given(place.store)
    await place.redis.set(place.key("stalled-check"), 7)


async def _old_marker(place: Place) -> None:
    await given(place.store)
    await place.redis.rpush(place.key("wait"), "0:1700000000000")


async def _childless(place: Place) -> None:
    await given_flow(place.store)
    [key] = await place.redis.keys(place.key("*:dependencies"))
    await place.redis.delete(key)


async def _owned_by_one_that_is_gone(place: Place) -> None:
    await given(place.store)
    await place.redis.set(place.key("de:order:7"), "gone")


async def _owned_by_one_that_has_ended(place: Place) -> None:
    await given_completed(place.store, job_id="j1", deduplication="order:7")
    await place.redis.set(place.key("de:order:7"), "j1")


async def _kept_without_an_owner(place: Place) -> None:
    await given(place.store)
    await place.redis.hset(
        place.key("dn:order:7"), mapping={"name": "later", "data": '{"n":2}', "opts": OPTS, "jid": "j2"}
    )


MENDABLE: list[tuple[Callable[[Place], Awaitable[None]], str, str]] = [
    (_dangling_in_wait, "id gone in wait has no job", "taken out"),
    (_dangling_in_paused, "id gone in paused has no job", "taken out"),
    (_dangling_in_active, "id gone in active has no job", "taken out"),
    *(
        (_dangling_in(name), f"id gone in {name} has no job", "taken out")
        for name in ("prioritized", "delayed", "waiting-children", "completed", "failed")
    ),
    (_waiting_twice, "job j1 is in wait and in wait, and belongs in wait", "left there only"),
    (_waiting_and_completed, "job j1 is in wait and in completed, and belongs in completed", "left there only"),
    (_waiting_and_active, "job j1 is in active and in wait, and belongs in active", "left there only"),
    (_delayed_and_failed, "job j1 is in delayed and in failed, and belongs in delayed", "left there only"),
    (_lost, "job j1 is in no list, and belongs in wait", "put there"),
    (_marker, "jobs wait, j1 first, and no marker wakes a worker", "the marker is back"),
    (_limiter, "the counter of its rate limit never expires", "deleted, so that the next job begins a new window"),
    (
        _stalled_check,
        "the note that somebody has looked for stalled jobs never expires",
        "deleted, so that workers look again",
    ),
    (_childless, "job 1 waits for children, and has none", "put where it waits for a worker"),
    *(
        (
            harm,
            f"deduplication id 'order:7' is owned by job {owner}, which has ended or is gone",
            "its owner is forgotten",
        )
        for harm, owner in ((_owned_by_one_that_is_gone, "gone"), (_owned_by_one_that_has_ended, "j1"))
    ),
    (
        _kept_without_an_owner,
        "a job 'later' was kept until the owner of deduplication id 'order:7' has ended, and it has none",
        "added",
    ),
    (_old_marker, "'0:1700000000000' in wait is a marker of an old BullMQ, and no job", "taken out"),
]


@pytest.mark.parametrize(("harm", "said", "done"), MENDABLE)
async def test_what_can_be_mended_is_told_and_mended_and_then_gone(
    harm: Callable[[Place], Awaitable[None]], said: str, done: str, place: Place
) -> None:
    await harm(place)
    keys = await place.keys()

    [finding] = [finding for finding in await damage(place.store) if said in finding.message]
    before = await told(place.store)
    assert await place.keys() == keys  # looking changes nothing
    repaired = await mended(place.store)

    assert finding.mendable
    assert finding.level in ("warning", "error")
    assert finding.about == f"queue {QUEUE}"
    assert finding.repair is not None
    assert "`toril doctor --repair` " in finding.repair
    assert f"{said}: {done}" in repaired
    assert len(repaired) == len(before)
    assert await damage(place.store) == []


# ------------------------------------------------------------------ what mending does


async def test_ids_without_jobs_are_taken_out_and_the_others_keep_their_order(place: Place) -> None:
    jobs = await given_many(place.store, 3)
    await place.redis.linsert(place.key("wait"), "before", jobs[1].id, "gone1")
    await place.redis.lpush(place.key("wait"), "gone2", "gone2")

    assert len(await mended(place.store)) == 2

    assert refs(await claim_all(place.store)) == jobs


async def test_of_a_job_that_waits_twice_the_place_that_is_served_first_stays(place: Place) -> None:
    first, second = await given_many(place.store, 2)
    await place.redis.lpush(place.key("wait"), first.id)

    await mended(place.store)

    assert refs(await claim_all(place.store)) == [first, second]


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, State.WAITING),
        ({"priority": 3}, State.PRIORITIZED),
        ({"delay": 60_000}, State.DELAYED),
        ({"delay": 60_000, "timestamp": 1}, State.WAITING),
        ({"finishedOn": 5, "returnvalue": "7"}, State.COMPLETED),
        ({"finishedOn": 5, "failedReason": "no"}, State.FAILED),
        ({"finishedOn": 5}, State.FAILED),
    ],
)
async def test_a_job_that_is_nowhere_goes_where_its_fields_say(
    fields: dict[str, str | int], state: State, place: Place
) -> None:
    await given(place.store, job_id="another")
    lost = await place.given_hash("j1", **fields)

    [done] = await mended(place.store)

    assert done.startswith("job j1 is in no list, and belongs in ")
    assert await state_of(place.store, lost) is state
    assert await damage(place.store) == []


async def test_a_parent_that_is_nowhere_waits_for_its_children_again(place: Place) -> None:
    parent, [child] = await given_flow(place.store)
    await place.redis.zrem(place.key("waiting-children"), parent.id)

    await mended(place.store)

    assert await state_of(place.store, parent) is State.WAITING_CHILDREN
    await complete(place.store, await claim_one(place.store, child.queue))
    assert await state_of(place.store, parent) is State.WAITING


async def test_a_job_that_is_nowhere_but_under_a_lock_is_told_and_put_back_once_it_has_lapsed(place: Place) -> None:
    running = await given_active(place.store, job_id="j1")
    await place.redis.lrem(place.key("active"), 1, running.ref.id)

    [finding] = await damage(place.store)
    assert finding.message.startswith("job j1 is in no list, and under a lock")
    assert not finding.mendable
    assert await mended(place.store) == []

    await advance(place.store, 60_000)
    assert await mended(place.store) == ["job j1 is in no list, and belongs in wait: put there"]


async def test_an_iteration_of_a_schedule_that_is_nowhere_is_found_too(place: Place) -> None:
    await given(place.store)
    await place.redis.hset(place.key("repeat:daily"), mapping={"name": "daily", "ic": 1, "opts": OPTS, "every": 1000})
    lost = await place.given_hash("repeat:daily:1700000000000")

    assert await mended(place.store) == [f"job {lost.id} is in no list, and belongs in wait: put there"]

    assert await state_of(place.store, lost) is State.WAITING


async def test_a_worker_is_woken_for_a_job_that_was_put_back(place: Place) -> None:
    await _lost(place)

    await mended(place.store)

    assert await place.redis.zscore(place.key("marker"), "0") == 0


async def test_the_list_of_old_versions_goes_to_the_serving_end_in_its_order(place: Place) -> None:
    old = await given_many(place.store, 3)
    await place.redis.rename(place.key("wait"), place.key("paused"))
    new = await given_many(place.store, 2)

    [finding] = await damage(place.store)
    done = await mended(place.store)

    assert finding.mendable
    assert finding.message.startswith("3 jobs are in the list `paused` of BullMQ 5")
    assert done == ["3 jobs are in the list `paused` of BullMQ 5: moved to wait, in their order"]
    assert refs(await claim_all(place.store)) == old + new


async def test_a_long_list_of_old_versions_is_moved_in_pieces(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "PIECE", 2)
    old = await given_many(place.store, 5)
    await place.redis.rename(place.key("wait"), place.key("paused"))
    new = await given(place.store)

    await mended(place.store)

    assert refs(await claim_all(place.store)) == [*old, new]


async def test_a_queue_that_is_paused_and_was_paused_by_an_old_version_stays_paused(place: Place) -> None:
    await _paused_list(place)
    await place.store.pause(QUEUE)

    await mended(place.store)

    assert (await summary_of(place.store)).settings.paused
    assert await place.redis.exists(place.key("marker")) == 0
    assert await place.redis.llen(place.key("wait")) == 2


async def test_collections_are_looked_through_in_pieces(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "PIECE", 3)
    jobs = await given_many(place.store, 10)
    for n, job in enumerate(jobs):
        await place.redis.linsert(place.key("wait"), "before", job.id, f"gone{n}")
    await place.redis.zadd(place.key("delayed"), {f"gone{n}": n for n in range(300)})

    assert len(await mended(place.store)) == 1

    assert await damage(place.store) == []
    assert refs(await claim_all(place.store)) == jobs


async def test_a_parent_that_waits_for_no_child_runs(place: Place) -> None:
    await _childless(place)

    await mended(place.store)

    assert (await claim_one(place.store)).ref == JobRef(QUEUE, "1")
    assert await names_told(place.store) == ["added", "waiting-children", "waiting", "active"]


async def test_a_deduplication_id_whose_owner_is_gone_is_free_for_node_too(place: Place) -> None:
    await _owned_by_one_that_is_gone(place)

    await mended(place.store)

    assert await place.store.owner(QUEUE, "order:7") is None
    assert await place.redis.exists(place.key("de:order:7")) == 0


async def test_what_was_kept_for_an_owner_that_is_gone_is_added_and_owns_the_id(place: Place) -> None:
    await _kept_without_an_owner(place)
    await place.redis.set(place.key("de:order:7"), "gone")

    assert len(await mended(place.store)) == 2

    record = await known(place.store, JobRef(QUEUE, "j2"))
    assert record is not None
    assert (record.name, record.data, record.state) == ("later", '{"n":2}', State.WAITING)
    assert await place.store.owner(QUEUE, "order:7") == record.ref


async def test_owners_that_stand_and_what_is_kept_for_them_are_sound(place: Place) -> None:
    keep_last, throttle = Deduplication.keep_last("order:7"), Deduplication.throttle("order:8", 60)
    await given_completed(place.store, deduplication=throttle)
    one = await given_active(place.store, deduplication=keep_last, attempts=2)
    await add(place.store, new_job(place.store, deduplication=keep_last))
    assert await damage(place.store) == []

    await retry_after(place.store, one, 60_000)
    assert await damage(place.store) == []

    assert await mended(place.store) == []


async def test_what_is_kept_for_a_job_that_is_to_end_and_whose_id_was_forgotten_is_sound(place: Place) -> None:
    keep_last = Deduplication.keep_last("order:7")
    one = await given_active(place.store, deduplication=keep_last, attempts=2)
    await add(place.store, new_job(place.store, deduplication=keep_last))
    await place.store.forget(QUEUE, "order:7")
    assert await damage(place.store) == []

    await retry_after(place.store, one, 60_000)
    assert await damage(place.store) == []

    await place.store.remove([one.ref])
    assert len(await mended(place.store)) == 1


async def test_what_node_has_kept_for_a_job_that_runs_is_sound(place: Place) -> None:
    one = await given_active(place.store, deduplication="order:7")
    await _kept_without_an_owner(place)
    await place.store.forget(QUEUE, "order:7")
    assert await damage(place.store) == []

    await complete(place.store, one)

    assert await state_of(place.store, JobRef(QUEUE, "j2")) is State.WAITING


async def test_many_deduplication_ids_are_looked_at_in_pieces(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "PIECE", 3)
    await given_many(place.store, 2)
    for n in range(10):
        await place.redis.set(place.key(f"de:{n}"), "gone")

    assert len(await mended(place.store)) == 10

    assert await place.redis.keys(place.key("de:*")) == []


async def test_deduplication_keys_of_a_wrong_kind_do_not_end_the_look(place: Place) -> None:
    await given(place.store)
    await place.redis.lpush(place.key("de:a"), "j1")
    await place.redis.set(place.key("dn:b"), "j1")
    await place.redis.set(place.key("de:c"), "j3")
    await place.redis.set(place.key("j3"), "oops")

    assert await damage(place.store) == []


# ------------------------------------------------------------------ what is only told


async def test_texts_that_are_no_json_are_told_with_their_job(place: Place) -> None:
    job = await given(place.store, job_id="j1")
    await given(place.store, job_id="j2")
    await place.redis.hset(place.key(job.id), mapping={"data": "{oops", "progress": "NaN"})
    await place.redis.hset(place.key("j2"), mapping={"opts": "[]", "parent": '"x"'})

    wrong = await damage(place.store)

    assert sorted(finding.message.partition(":")[0] for finding in wrong) == [
        "data and progress of job j1 is not JSON as it must be",
        "opts and parent of job j2 is not JSON as it must be",
    ]
    assert {(finding.level, finding.mendable) for finding in wrong} == {("error", False)}
    assert await mended(place.store) == []


@pytest.mark.parametrize("text", ['"\\ud800"', "[" * 5000 + "]" * 5000, "9" * 5000, "1e999", ' {"a":\n1} '])
async def test_odd_texts_that_are_json_all_the_same_are_sound(text: str, place: Place) -> None:
    job = await given(place.store)
    await place.redis.hset(place.key(job.id), "data", text)

    assert await damage(place.store) == []


async def test_large_texts_are_looked_at_a_few_at_a_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "TEXT_BYTES", 3000)
    for job in await given_many(place.store, 5):
        await place.redis.hset(place.key(job.id), "data", json.dumps("x" * 2000) + "}")

    assert len(await damage(place.store)) == 5


async def test_keys_of_a_wrong_kind_are_told_and_the_rest_is_looked_at(place: Place) -> None:
    await given(place.store, job_id="j1")
    await place.redis.set(place.key("delayed"), "oops")
    await place.redis.set(place.key("no-hash"), "oops")
    await place.redis.lpush(place.key("wait"), "no-hash", "gone")

    wrong = await damage(place.store)

    assert [finding.message.partition(":")[0] for finding in wrong] == [
        "its key 'delayed' is a string, not a zset",
        "id gone in wait has no job",
        "the key of job no-hash is string, not a hash",
    ]
    assert [finding.mendable for finding in wrong] == [False, True, False]


@pytest.mark.parametrize(
    "suffix", ["meta", "wait", "active", "completed", "marker", "repeat", "limiter", "events", "paused"]
)
async def test_no_key_of_a_wrong_kind_ends_the_look(suffix: str, place: Place) -> None:
    await given(place.store, job_id="j1", queue="images")
    await place.redis.delete(place.key(suffix, "images"))
    await (place.redis.lpush if suffix != "wait" else place.redis.sadd)(place.key(suffix, "images"), "oops")
    if suffix in ("active", "paused"):
        await place.redis.delete(place.key(suffix, "images"))
        await place.redis.set(place.key(suffix, "images"), "oops")

    assert any(f"its key '{suffix}' is a " in finding.message for finding in await damage(place.store))
    await mended(place.store)


async def test_a_queue_that_cannot_be_written_is_not_mended(place: Place) -> None:
    await _dangling_in_wait(place)
    await place.redis.delete(place.key("meta"))
    await place.redis.set(place.key("meta"), "oops")

    assert await mended(place.store) == []
    assert await place.redis.llen(place.key("wait")) == 2


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("daily:::UTC:0 9 * * *", None),
        ("daily:j1:1700000000000:Europe/Berlin:60000", None),
        ("0f343b0931126a20f133d67c2b018a3b", {"name": "daily", "every": "1000"}),
    ],
)
async def test_repeatable_jobs_of_old_versions_are_told(name: str, record: dict[str, str] | None, place: Place) -> None:
    await given(place.store)
    await place.redis.zadd(place.key("repeat"), {name: 1, "sound": 2})
    await place.redis.hset(place.key("repeat:sound"), mapping={"name": "sound", "every": "1000", "ic": "1"})
    if record is not None:
        await place.redis.hset(place.key(f"repeat:{name}"), mapping=record)

    [finding] = await damage(place.store)

    assert finding.message.startswith(f"{name!r} is a repeatable job of BullMQ 5 or older")
    assert not finding.mendable


async def test_active_jobs_without_a_lock_are_told_when_nobody_will_find_them(place: Place) -> None:
    one = await given_active(place.store, job_id="j1")
    await place.redis.delete(place.key("j1:lock"))
    assert await told(place.store) == ["job j1 is active without a lock, and nobody looks for stalled jobs"]

    await place.store.announce(replace(worker(place.store), queues={QUEUE: 1}))
    assert await damage(place.store) == []

    await place.store.announce(replace(worker(place.store), queues={QUEUE: 1}, state="stopped"))
    await place.store.recover([QUEUE], max_stalled=1, interval_ms=30_000)
    assert await damage(place.store) == []
    assert await state_of(place.store, one.ref) is State.ACTIVE


# ------------------------------------------------------------------ how it is told


async def test_many_of_a_kind_are_one_finding_with_examples(place: Place) -> None:
    await given(place.store)
    await place.redis.zadd(place.key("completed"), {f"gone{n:02}": n for n in range(21)})

    [finding] = await damage(place.store)
    [done] = await mended(place.store)

    assert finding.message == (
        "21 ids have no job, as in: id gone00 in completed has no job; id gone01 in completed has no job; "
        "id gone02 in completed has no job: Node runs it as a job without a name"
    )
    assert done.startswith("21 ids have no job, as in: ")


async def test_twenty_of_a_kind_are_told_one_by_one(place: Place) -> None:
    await given(place.store)
    await place.redis.zadd(place.key("completed"), {f"gone{n:02}": n for n in range(20)})

    assert len(await damage(place.store)) == 20


async def test_each_queue_is_told_apart(place: Place) -> None:
    for queue in ("email", "images"):
        await given(place.store, queue=queue)
        await place.redis.lpush(place.key("wait", queue), "gone")

    assert [finding.about for finding in await damage(place.store)] == ["queue email", "queue images"]


# ------------------------------------------------------------------ what is none of ours


async def test_hashes_that_are_no_jobs_are_left_alone(place: Place) -> None:
    await given(place.store)
    await place.redis.hset(place.key("notes"), mapping={"timestamp": 1})
    await place.redis.hset(place.key("dn:x"), mapping={"timestamp": 1, "opts": OPTS})
    await place.redis.hset(place.key("py:mine"), mapping={"timestamp": 1, "opts": OPTS})

    assert await damage(place.store) == []


async def test_jobs_of_an_edition_that_keeps_some_elsewhere_are_not_called_lost(place: Place) -> None:
    await given(place.store)
    await place.given_hash("j1")
    await place.redis.hset(place.key("meta"), "version", "bullmq-pro:7.0.0")
    assert await damage(place.store) == []

    await place.redis.hset(place.key("meta"), "version", "bullmq:6.7.0")
    assert len(await damage(place.store)) == 1


async def test_queues_under_a_longer_prefix_are_not_taken_for_jobs(
    place: Place, redis_url: str, clock: TurnedClock
) -> None:
    await given(place.store)
    longer = RedisStore(redis_url, prefix=f"{place.store.prefix}:shop", clock=clock)
    await given(longer, job_id="j1", queue="a")
    await given_failed(longer, queue="b")

    assert await damage(place.store) == []
    await longer.close()


# ------------------------------------------------------------------ jobs in motion


async def test_a_queue_that_a_worker_works_on_shows_no_damage(real: Store) -> None:
    ended = asyncio.Event()
    left = 300

    async def work() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            ended.set()

    table = HandlerTable(catch_all=registered(None, work))
    queue, told = Queue(QUEUE, real), list[Finding]()
    async with Worker([Served(QUEUE, table, 5)], store=real):
        adding = asyncio.gather(*(queue.add_many([("work", None)] * 30) for _ in range(10)))
        while not ended.is_set():
            told += await damage(real)
            told += await real.repair()
        await soon(adding)
        await soon(ended.wait())

    assert told == []


async def test_a_worker_that_has_been_woken_and_is_still_to_claim_has_not_lost_the_marker(
    real: Store, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await given(real)
    key = f"{real.prefix}:{QUEUE}:marker"
    await redis.delete(key)
    sleep = asyncio.sleep

    async def claims_meanwhile(seconds: float) -> None:
        if seconds == checkup.CLAIM_S:
            await claim_all(real)
        await sleep(0 if seconds == checkup.CLAIM_S else seconds)

    monkeypatch.setattr(asyncio, "sleep", claims_meanwhile)

    assert await damage(real) == []


@pytest.mark.parametrize("why", ["paused", "full", "limited", "at work"])
async def test_a_queue_that_gives_nothing_for_now_needs_no_marker(why: str, place: Place) -> None:
    await given_many(place.store, 2)
    if why == "paused":
        await place.store.pause(QUEUE)
    elif why == "full":
        await place.store.configure(QUEUE, replace((await summary_of(place.store)).settings, concurrency=1))
        await claim_one(place.store)
    elif why == "limited":
        await place.redis.set(place.key("limiter"), 7)
        await place.redis.pexpireat(place.key("limiter"), 1_000_000_000_000 + now_ms(place.store) + 60_000)
    else:
        await claim_one(place.store)
    await place.redis.delete(place.key("marker"))

    assert await damage(place.store) == []


# ------------------------------------------------------------------ the server


SOUND = {"redis_version": "7.0.15", "role": "master", "maxmemory_policy": "noeviction", "aof_enabled": "1"}
SETTINGS = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "everysec", "save": ""}


def said(info: dict[str, str] | None = None, settings: dict[str, str] | None = None, **more: Any) -> Said:
    return Said(info={**SOUND, **(info or {})}, settings={**SETTINGS, **(settings or {})}, **more)


def fitting(one: Said, *, tagged: bool = False) -> list[tuple[str, str]]:
    return [(finding.level, finding.message) for finding in findings(one, "redis://h", prefix="bull", tagged=tagged)]


def test_a_server_that_is_set_up_well_is_not_spoken_of() -> None:
    assert fitting(said(ahead_ms=-1000)) == []
    assert fitting(said({"aof_enabled": "0"}, {"appendonly": "no", "save": "3600 1"})) == []


@pytest.mark.parametrize(
    ("one", "level", "words"),
    [
        (said({"maxmemory_policy": "allkeys-lru"}), "error", "its maxmemory-policy is allkeys-lru"),
        (said({"aof_enabled": "0"}, {"appendonly": "no"}), "warning", "it writes nothing to its disk"),
        (said(settings={"appendfsync": "no"}), "warning", "its appendfsync is no"),
        (said({"redis_version": "6.0.16"}), "error", "it is Redis 6.0.16, and Toril needs 6.2"),
        (said({"cluster_enabled": "1"}), "error", "the prefix 'bull' has no hash tag"),
        (said({"role": "slave", "master_host": "m", "master_port": "6379"}), "error", "it is a replica of m:6379"),
        (said({"maxmemory": "1000", "used_memory": "900"}), "warning", "90 % of its maxmemory is used"),
        (said(ahead_ms=1500), "warning", "its clock is 1.5 s ahead of this machine's"),
        (said(ahead_ms=-7_200_000), "warning", "its clock is 7,200.0 s behind this machine's"),
        (Said(None, SETTINGS), "warning", "INFO is not allowed here"),
        (Said(SOUND, None), "warning", "CONFIG GET is not allowed here"),
        (said(lists_clients=False), "warning", "CLIENT LIST is not allowed here"),
        (Said(None, {**SETTINGS, "maxmemory-policy": "volatile-ttl"}), "error", "its maxmemory-policy is volatile-ttl"),
    ],
)
def test_a_server_that_is_not_is_told_with_the_next_step(one: Said, level: str, words: str) -> None:
    wrong = [finding for finding in findings(one, "redis://h", prefix="bull", tagged=False) if words in finding.message]

    assert [(finding.level, finding.about) for finding in wrong] == [(level, "redis://h")]
    assert wrong[0].repair


def test_a_node_of_a_cluster_whose_queues_lie_in_one_slot_is_not_spoken_of() -> None:
    assert fitting(said({"cluster_enabled": "1"}), tagged=True) == []


def test_what_a_server_of_another_make_says_of_its_version_is_not_held_against_it() -> None:
    assert fitting(said({"redis_version": "df-v1.20"})) == []


async def test_a_real_server_is_asked(real: Store, redis: Any) -> None:
    before = [finding.message for finding in await real.preflight()]
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        wrong = await real.preflight()
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")

    assert [message.partition(":")[0] for message in before] == ["it writes nothing to its disk"]
    assert [finding.level for finding in wrong] == ["error", "warning"]
    assert "allkeys-lru" in wrong[0].message
    assert wrong[0].about == real.place


async def test_a_strict_worker_refuses_a_real_server_that_evicts(real: Store, redis: Any) -> None:
    async def work() -> None: ...

    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(ConfigError, match="its maxmemory-policy is allkeys-lru"):
            await soon(Worker(QUEUE, work, real, strict=True).run())
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")


async def test_a_machine_whose_clock_is_wrong_is_told(redis_url: str) -> None:
    class Slow:
        turned = False

        def now_ms(self) -> int:
            return SYSTEM_CLOCK.now_ms() - 60_000

        async def sleep_ms(self, ms: float) -> None: ...

        async def sleep_until_ms(self, at_ms: float) -> None: ...

    store = RedisStore(redis_url, prefix=f"test-{uuid.uuid4().hex}", clock=Slow())
    messages = [finding.message for finding in await store.preflight()]
    await store.close()

    assert any("its clock is " in message and " s ahead of this machine's" in message for message in messages)


async def test_a_user_who_may_ask_nothing_is_told_what_could_not_be_looked_at(redis_url: str, redis: Any) -> None:
    user = f"u{uuid.uuid4().hex}"
    await redis.execute_command(
        "ACL", "SETUSER", user, "on", ">secret", "~*", "&*", "+@all", "-info", "-config", "-client|list"
    )
    store = RedisStore(redis_url.replace("redis://", f"redis://{user}:secret@"), prefix=f"test-{user}")
    try:
        messages = [finding.message.partition(",")[0] for finding in await store.preflight()]
        await given(store)
        assert await damage(store) == []
    finally:
        await store.close()
        await redis.execute_command("ACL", "DELUSER", user)

    assert messages == [f"{command} is not allowed here" for command in ("INFO", "CONFIG GET", "CLIENT LIST")]


async def test_a_preflight_does_not_look_at_what_is_in_the_store(place: Place) -> None:
    before = await place.store.preflight()
    await _dangling_in_wait(place)

    assert await place.store.preflight() == before
    assert await known(place.store, JobRef(QUEUE, "gone")) is None
    assert await found(place.store, State.DELAYED) == []
