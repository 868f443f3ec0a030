"""Redis goes away, hangs, forgets or refuses: what a store says then, and that it goes on by itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlsplit

import pytest
from redis import Redis

from conformance import given
from conformance.given import (
    INTERVAL_MS,
    LOCK_MS,
    QUEUE,
    advance,
    claim_all,
    claim_one,
    given_active,
    given_completed,
    given_failed,
    given_flow,
    given_many,
    known,
    new_job,
    ref_of,
    soon,
    wanted,
)
from conformance.given import given as given_job
from faults.crew import TESTS
from faults.proof import Stopwatch, shown
from faults.proxy import Proxy, during
from faults.redis_process import RedisProcess
from sizes import size
from toril.clock import TurnedClock
from toril.errors import StoreUnavailable
from toril.model import (
    Answer,
    AwaitingChildren,
    Claim,
    Completed,
    Delayed,
    Failed,
    JobRef,
    Outcome,
    QueueSettings,
    Released,
    Report,
    Retried,
    Settlement,
    Throttled,
    Unit,
    Update,
)
from toril.options import ChildPolicy
from toril.places import connect
from toril.queue import Queue
from toril.states import State
from toril.store import Store
from toril.stores.redis.store import RedisStore

R = TypeVar("R")

TIMEOUT_S = 0.5
LATE_S = 10.0
"""How much later than it should a call may end on a machine that is busy with other tests."""

NO_ANSWER = "does not answer"
BASE = f"bull:{QUEUE}:"


def open_redis(url: str, *, timeout: float = TIMEOUT_S) -> Store:
    return cast("Store", RedisStore(url, timeout=timeout))


@pytest.fixture
def server(redis_url: str, tmp_path: Path) -> Iterator[RedisProcess]:
    """A server of the test's own. Where none is installed, `redis_url` says so."""
    with RedisProcess(tmp_path) as own:
        yield own


@pytest.fixture
def proxy(server: RedisProcess) -> Iterator[Proxy]:
    with Proxy(server.port) as relay:
        yield relay


@pytest.fixture
async def store(proxy: Proxy) -> AsyncIterator[Store]:
    """A store behind the proxy that gives up soon."""
    opened = open_redis(proxy.url)
    yield opened
    await opened.close()


async def refused(asked: Awaitable[Any]) -> str:
    """What is said of a call that ends without success, and within its time."""
    began_s = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await asked
    assert time.monotonic() - began_s < TIMEOUT_S + LATE_S
    return str(caught.value)


async def insist(ask: Callable[[], Awaitable[R]]) -> R:
    """Ask until there is an answer, as workers do."""
    async with asyncio.timeout(given.PATIENCE_S):
        while True:
            with contextlib.suppress(StoreUnavailable):
                return await ask()


async def add(store: Store, job_id: str) -> JobRef:
    """Add a job once."""
    await store.add([Unit((new_job(store, job_id=job_id),))])
    return JobRef(QUEUE, job_id)


async def insist_on(store: Store, job_id: str) -> JobRef:
    """Add a job, and again until it is acknowledged."""
    job = new_job(store, job_id=job_id)
    await insist(lambda: store.add([Unit((job,))]))
    return ref_of(job)


def waiting(server: RedisProcess) -> list[str]:
    """The jobs that wait, the first one first."""
    return list(reversed(server.ask("LRANGE", BASE + "wait", 0, -1)))


# ------------------------------------------------------------------ answers that get lost


Ask = Callable[[], Awaitable[Any]]
Case = Callable[[Store], Awaitable[Ask]]
"""Brings a store to where a verb is asked; returns how it is asked."""


async def add_one(store: Store) -> Ask:
    job = new_job(store)
    return lambda: store.add([Unit((job,))])


async def add_under_a_chosen_id(store: Store) -> Ask:
    job = new_job(store, job_id="order-1")
    return lambda: store.add([Unit((job,))])


async def add_a_second_under_a_chosen_id(store: Store) -> Ask:
    await given_job(store, job_id="order-1")
    job = new_job(store, job_id="order-1")
    return lambda: store.add([Unit((job,))])


async def add_delayed_and_prioritized(store: Store) -> Ask:
    jobs = [new_job(store, delay=60), new_job(store, priority=3), new_job(store, lifo=True)]
    return lambda: store.add([Unit((job,)) for job in jobs])


async def add_many(store: Store) -> Ask:
    units = [Unit(tuple(new_job(store) for _ in range(20))) for _ in range(2)]
    return lambda: store.add(units)


async def add_a_flow(store: Store) -> Ask:
    parent = new_job(store, has_children=True)
    children = [new_job(store, queue="images", parent=ref_of(parent)) for _ in range(3)]
    return lambda: store.add([Unit((parent, *children))])


async def add_what_is_full(store: Store) -> Ask:
    await store.configure(QUEUE, QueueSettings(max_waiting=1))
    await given_job(store)
    job = new_job(store)

    async def refusals() -> list[str]:
        return [str(receipt.refusal and receipt.refusal.error) for receipt in await store.add([Unit((job,))])]

    return refusals


async def claim(store: Store) -> Ask:
    await given_many(store, 5)
    wish = wanted(free=3)
    return lambda: store.claim(wish)


async def claim_of_two_queues(store: Store) -> Ask:
    await given_many(store, 2)
    await given_job(store, queue="images", priority=2)
    await given_job(store, queue="images", delay=60)
    wish = wanted(QUEUE, "images", free=5)
    return lambda: store.claim(wish)


async def claim_of_nothing(store: Store) -> Ask:
    wish = wanted(free=3)
    return lambda: store.claim(wish)


async def claim_by_name(store: Store) -> Ask:
    ref = await given_job(store, delay=60)
    wish = wanted(ids=[ref.id])
    return lambda: store.claim(wish)


def settle_as(*outcomes: Outcome, **options: Any) -> Case:
    """Settle jobs, and claim the next ones."""

    async def case(store: Store) -> Ask:
        await given_many(store, len(outcomes), **options)
        claims = await claim_all(store)
        await given_many(store, 4)
        wish = wanted(free=2)
        settled = [Settlement(one, outcome) for one, outcome in zip(claims, outcomes, strict=True)]
        return lambda: store.settle(settled, wish)

    return case


async def settle_the_last_child(store: Store) -> Ask:
    await given_flow(store)
    child = await claim_one(store, "images")
    return lambda: store.settle([Settlement(child, Completed("1"))])


async def settle_a_failed_child(store: Store) -> Ask:
    await given_flow(store, policy=ChildPolicy.FAIL)
    child = await claim_one(store, "images")
    return lambda: store.settle([Settlement(child, Failed("no"))])


async def settle_to_wait_for_children(store: Store) -> Ask:
    one = await given_active(store)
    await given_job(store, queue="images", parent=one.ref)
    return lambda: store.settle([Settlement(one, AwaitingChildren())])


async def report(store: Store) -> Ask:
    one = await given_active(store)
    return lambda: store.report([Report(one, "50", ("first", "second"))])


async def extend(store: Store) -> Ask:
    one = await given_active(store)
    await advance(store, 10_000)
    return lambda: store.extend([one], LOCK_MS)


async def recover(store: Store) -> Ask:
    await given_active(store)
    await advance(store, INTERVAL_MS)
    await store.recover([QUEUE], max_stalled=1, interval_ms=INTERVAL_MS)
    await advance(store, LOCK_MS + INTERVAL_MS)
    return lambda: silent(store.recover([QUEUE], max_stalled=1, interval_ms=INTERVAL_MS))


async def promote(store: Store) -> Ask:
    ref = await given_job(store, delay=60)
    return lambda: store.promote([ref])


async def retry(store: Store) -> Ask:
    refs = [await given_failed(store), await given_completed(store)]
    return lambda: store.retry(refs, reset_attempts=True, data='{"n":2}')


async def remove(store: Store) -> Ask:
    refs = [await given_completed(store), await given_job(store), await given_job(store, delay=60)]
    return lambda: store.remove(refs)


async def update(store: Store) -> Ask:
    late, early = await given_job(store, delay=60), await given_job(store, priority=5)
    changes = [
        Update(late, data='{"n":2}', delay_ms=90_000, progress="50"),
        Update(early, priority=2, logs=("first", "second")),
    ]
    return lambda: store.update(changes)


async def configure(store: Store) -> Ask:
    await given_job(store)
    return lambda: store.configure(QUEUE, QueueSettings(paused=True, concurrency=3))


async def pause(store: Store) -> Ask:
    await given_job(store)
    return lambda: store.pause(QUEUE)


async def resume(store: Store) -> Ask:
    await given_job(store)
    await store.pause(QUEUE)
    return lambda: store.resume(QUEUE)


async def throttle(store: Store) -> Ask:
    await given_job(store)
    return lambda: store.throttle(QUEUE, 5_000)


async def drain(store: Store) -> Ask:
    await given_many(store, 3)
    await given_job(store, delay=60)
    return lambda: store.drain(QUEUE, delayed=True)


async def clean(store: Store) -> Ask:
    for _ in range(3):
        await given_completed(store)
    return lambda: store.clean(QUEUE, State.COMPLETED, grace_ms=0, limit=2)


async def obliterate(store: Store) -> Ask:
    await given_many(store, 3)
    await store.pause(QUEUE)
    return lambda: store.obliterate(QUEUE)


async def publish(store: Store) -> Ask:
    return lambda: silent(store.publish(QUEUE, "shipped", {"to": "Ulm"}))


async def trim(store: Store) -> Ask:
    await given_many(store, 200)
    return lambda: silent(store.trim(QUEUE, 10))


async def looks(store: Store) -> Ask:
    parent, [child] = await given_flow(store)
    done = await given_completed(store, '"done"')

    async def look() -> list[Any]:
        return [
            await store.get([parent, child, done]),
            await store.find(QUEUE, State.COMPLETED),
            await store.summaries(),
            await store.series(QUEUE, State.COMPLETED),
            await store.children(parent),
            await store.logs(done),
            await store.settings(QUEUE),
            [event.name for event in await store.read(QUEUE, None)],
        ]

    return look


async def silent(asked: Awaitable[Any]) -> None:
    """Ask something whose answer may differ from time to time."""
    await asked


CASES: dict[str, Case] = {
    "add": add_one,
    "add under a chosen id": add_under_a_chosen_id,
    "add a second under a chosen id": add_a_second_under_a_chosen_id,
    "add delayed and prioritized": add_delayed_and_prioritized,
    "add many": add_many,
    "add a flow": add_a_flow,
    "add to a full queue": add_what_is_full,
    "claim": claim,
    "claim of two queues": claim_of_two_queues,
    "claim of nothing": claim_of_nothing,
    "claim by name": claim_by_name,
    "settle as completed": settle_as(Completed("1"), Completed("2")),
    "settle as completed and removed": settle_as(Completed("1"), keep_completed=False),
    "settle as failed": settle_as(Failed("no", "stack"), attempts=1),
    "settle as retried": settle_as(Retried(0, "no"), Retried(1000, "no"), attempts=3),
    "settle as delayed": settle_as(Delayed(1_700_000_060_000)),
    "settle as throttled": settle_as(Throttled(5_000)),
    "settle as released": settle_as(Released()),
    "settle the last child": settle_the_last_child,
    "settle a failed child": settle_a_failed_child,
    "settle to wait for children": settle_to_wait_for_children,
    "report": report,
    "extend": extend,
    "recover": recover,
    "promote": promote,
    "retry": retry,
    "remove": remove,
    "update": update,
    "configure": configure,
    "pause": pause,
    "resume": resume,
    "throttle": throttle,
    "drain": drain,
    "clean": clean,
    "obliterate": obliterate,
    "publish": publish,
    "trim": trim,
    "looks": looks,
}


@pytest.fixture
def shared_proxy(redis_url: str) -> Iterator[Proxy]:
    """A proxy before the server that all tests of this process share."""
    with Proxy(urlsplit(redis_url).port or 6379) as relay:
        yield relay


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_verb_whose_answer_was_lost_is_repeated_and_does_nothing_twice(
    shared_proxy: Proxy, redis_url: str, case: Case
) -> None:
    proxy = shared_proxy
    await asked(case, proxy, redis_url)  # from here on the server knows the scripts
    answer, state, answers = await asked(case, proxy, redis_url)

    for number in range(answers):
        answer_of_repeat, state_after_repeat, _ = await asked(case, proxy, redis_url, lose=number)
        assert proxy.harmed == number + 1
        assert state_after_repeat == state
        assert answer_of_repeat == answer


async def asked(
    case: Case, proxy: Proxy, redis_url: str, *, lose: int | None = None
) -> tuple[Any, dict[str, str], int]:
    """What a verb answers, what it leaves behind, and how many answers of the server it took. One may get lost."""
    given.count_from_one()
    prefix = f"lost-{uuid.uuid4().hex}"
    store = cast("Store", RedisStore(proxy.url, prefix=prefix, clock=TurnedClock()))
    ask = await case(store)
    await store.settings("another")
    before = proxy.answers
    if lose is not None:
        proxy.lose_answer("hot", after=lose)
    answer = await ask()
    answers = proxy.answers - before
    await store.close()
    return answer, left_behind(redis_url, prefix), answers


def left_behind(url: str, prefix: str) -> dict[str, str]:
    """All that is under a prefix, which is left out of it; what calls remember for their own repeats aside."""
    with cast("Any", Redis).from_url(url, decode_responses=True) as client:
        read: dict[str, Callable[[str], Any]] = {
            "string": client.get,
            "list": lambda key: client.lrange(key, 0, -1),
            "hash": lambda key: sorted(client.hgetall(key).items()),
            "set": lambda key: sorted(client.smembers(key)),
            "zset": lambda key: client.zrange(key, 0, -1, withscores=True),
            "stream": lambda key: [fields for _, fields in client.xrange(key)],
        }
        keys = [key for key in client.scan_iter(f"{prefix}:*") if ":py:" not in key or ":py:receipt:" in key]
        found = {key: read[client.type(key)](key) for key in keys}
    return {key.replace(prefix, "p"): repr(value).replace(prefix, "p") for key, value in found.items()}


async def test_an_add_of_a_new_store_is_stored_once_whichever_answer_gets_lost(
    proxy: Proxy, server: RedisProcess
) -> None:
    """Those included with which a connection is opened, and a script is told to the server."""
    number = 0
    while proxy.harmed == number:
        server.ask("SCRIPT", "FLUSH")
        store = open_redis(proxy.url, timeout=20)
        proxy.lose_answer(after=number)
        await add(store, f"job-{number}")
        await store.close()
        number += 1

    assert number > 5
    assert waiting(server) == [f"job-{n}" for n in range(number)]


async def test_a_connection_that_breaks_within_a_request_or_an_answer_makes_nothing_double(
    proxy: Proxy, server: RedisProcess
) -> None:
    store = open_redis(proxy.url, timeout=20)
    places = [0, 1, 2, 7, *range(20, 1200, 90)]
    for place in places:
        proxy.cut_after(request_bytes=place)
        await add(store, f"request-{place}")
        proxy.cut_after(answer_bytes=place % 40)
        await add(store, f"answer-{place}")
    proxy.cut_after()
    added = waiting(server)
    claims: list[Claim] = []
    for place in range(0, 2 * len(places), 2):
        wish = wanted(free=2)
        proxy.cut_after(answer_bytes=place * 7)
        claims += (await store.claim(wish)).claims
    await store.close()

    assert added == [f"{way}-{place}" for place in places for way in ("request", "answer")]
    assert [claim.ref.id for claim in claims] == added
    assert {claim.started for claim in claims} == {1}
    assert proxy.harmed > len(places)


async def test_answers_that_come_byte_by_byte_are_understood(proxy: Proxy) -> None:
    store = open_redis(proxy.url, timeout=20)
    proxy.crumble(1)
    await add(store, "job")
    claim = await claim_one(store)
    await store.settle([Settlement(claim, Completed('"é"'))])

    record = await known(store, claim.ref)
    await store.close()

    assert record is not None
    assert (record.state, record.result) == (State.COMPLETED, '"é"')


async def test_an_add_and_an_outcome_that_arrive_long_after_their_repeats_change_nothing(
    proxy: Proxy, server: RedisProcess, store: Store
) -> None:
    """A network may hold a packet back; who waits for the answer has given up on it and asked again elsewhere."""
    claim = await active(store)
    job = new_job(store, job_id="late", keep_completed=False)

    async with repeated(proxy):
        await insist(lambda: store.add([Unit((job,))]))
        await store.settle([Settlement(await claim_one(store), Completed())])
    async with repeated(proxy):
        await insist(lambda: store.settle([Settlement(claim, Completed())]))

    assert (waiting(server), server.ask("LLEN", BASE + "active")) == ([], 0)
    assert server.ask("ZRANGE", BASE + "completed", 0, -1) == ["running"]


async def test_a_claim_that_arrives_long_after_its_repeat_takes_no_job_that_nobody_knows_of(
    proxy: Proxy, server: RedisProcess, store: Store
) -> None:
    await insist(lambda: given_many(store, 2))
    wish = wanted()

    async with repeated(proxy):
        claimed = await insist(lambda: store.claim(wish))

    assert server.ask("LRANGE", BASE + "active", 0, -1) == [claim.ref.id for claim in claimed.claims]


@contextlib.asynccontextmanager
async def repeated(proxy: Proxy) -> AsyncGenerator[None]:
    """What is asked in the block gets stuck on its way, is asked again on a new connection, and arrives after that."""
    proxy.freeze(new=False)
    yield
    proxy.thaw()
    await proxy.until(lambda: proxy.connections == 1, "the old connection to end")


# ------------------------------------------------------------------ nobody there


Fault = Callable[[RedisProcess, Proxy], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def no_new_connections(proxy: Proxy) -> Generator[None]:
    proxy.cut()
    with during(proxy.freeze, proxy.thaw):
        yield


AWAY: dict[str, tuple[Fault, str]] = {
    "nobody listens": (lambda _, proxy: during(proxy.refuse, proxy.accept), "refused|Connect call failed"),
    "whoever connects is cut off": (lambda _, proxy: during(proxy.slam, proxy.accept), "closed|reset|lost"),
    "the connection is dead": (lambda _, proxy: during(lambda: proxy.freeze(new=False), proxy.thaw), NO_ANSWER),
    "everything vanishes": (lambda _, proxy: during(proxy.freeze, proxy.thaw), NO_ANSWER),
    "new connections find no answer": (
        lambda _, proxy: no_new_connections(proxy),
        f"{NO_ANSWER}|connection was lost|Timeout (reading|connecting)",
    ),
    "answers never come": (lambda _, proxy: during(proxy.mute, proxy.unmute), NO_ANSWER),
    "the server is frozen": (lambda server, _: server.frozen(), NO_ANSWER),
}


@pytest.mark.parametrize(("fault", "sentence"), AWAY.values(), ids=AWAY)
async def test_a_call_ends_within_its_time_and_says_where_and_what_happened(
    server: RedisProcess, proxy: Proxy, store: Store, fault: Fault, sentence: str
) -> None:
    await insist_on(store, "before")

    with fault(server, proxy):
        said = await refused(add(store, "meanwhile"))

    assert said.startswith(f"{proxy.url} cannot be reached")
    assert re.search(sentence, said), said
    await insist_on(store, "meanwhile")
    await insist_on(store, "after")
    assert waiting(server) == ["before", "meanwhile", "after"]


async def test_calls_wait_for_a_server_that_comes_within_their_time(server: RedisProcess, proxy: Proxy) -> None:
    store = open_redis(proxy.url, timeout=20)
    proxy.slam()
    adding = asyncio.gather(*(add(store, f"job-{n}") for n in range(50)))
    await proxy.until(lambda: len(proxy.tried_at_s) >= 3, "tries to connect")

    proxy.accept()
    await soon(adding)
    await store.close()

    assert waiting(server) == [f"job-{n}" for n in range(50)]


async def test_tries_to_connect_are_shared_and_come_neither_in_a_storm_nor_more_than_a_second_apart(
    server: RedisProcess, proxy: Proxy
) -> None:
    patience_s = size("redis_tries_ms") / 1000
    store = open_redis(proxy.url, timeout=patience_s)
    proxy.slam()
    await asyncio.gather(*(store.summaries([QUEUE]) for _ in range(100)), return_exceptions=True)
    await store.close()

    gaps_s = [after - before for before, after in pairwise(proxy.tried_at_s)]
    assert max(gaps_s) < 1 + LATE_S
    assert patience_s / 2 <= len(proxy.tried_at_s) <= 2 * patience_s + 8, gaps_s
    longest = sorted(gaps_s)[-3:]
    shown(
        "tries to connect while Redis is away",
        f"{patience_s:g} s, 100 callers",
        f"{len(gaps_s) + 1} tries, the longest pauses {', '.join(f'{gap:.2f} s' for gap in longest)}",
        Stopwatch(),
    )


async def test_the_time_is_asked_once_however_many_begin_together(proxy: Proxy) -> None:
    store = open_redis(proxy.url, timeout=20)
    await asyncio.gather(*(add(store, f"job-{n}") for n in range(100)))
    await store.close()

    assert proxy.requests["TIME"] == 1
    assert len(proxy.tried_at_s) == 1


# ------------------------------------------------------------------ restarts


async def test_a_server_that_was_restarted_with_its_data_goes_on_where_it_was(
    server: RedisProcess, store: Store
) -> None:
    claim = await active(store)
    await insist_on(store, "next")
    server.shut_down()
    await refused(store.settle([Settlement(claim, Completed())]))
    server.start()

    settled = await insist(lambda: store.settle([Settlement(claim, Completed())], wanted()))

    assert settled.lost == ()
    assert settled.claimed is not None
    assert [one.ref.id for one in settled.claimed.claims] == ["next"]


async def test_nothing_that_was_acknowledged_is_lost_when_a_server_with_an_aof_is_killed(
    redis_url: str, tmp_path: Path
) -> None:
    acknowledged: list[str] = []
    arrived = defaultdict[int, asyncio.Event](asyncio.Event)
    with RedisProcess(tmp_path, "--appendonly", "yes") as server:
        store = open_redis(server.url)

        async def lane(name: str) -> None:
            for number in range(100):
                await insist_on(store, f"{name}-{number}")
                acknowledged.append(f"{name}-{number}")
                arrived[len(acknowledged)].set()

        lanes = [asyncio.ensure_future(lane(name)) for name in ("ann", "bob", "kim")]
        for least in (50, 150, 250):
            await soon(arrived[least].wait())
            server.kill()
            server.start()
        await soon(asyncio.gather(*lanes))
        await store.close()
        there = waiting(server)

    assert len(there) == 300
    assert set(there) == set(acknowledged)


async def test_a_server_that_comes_back_empty_is_taken_as_it_is(server: RedisProcess, store: Store) -> None:
    await insist_on(store, "lost")
    claim = await claim_one(store)
    server.kill()
    server.start()

    settled = await insist(lambda: store.settle([Settlement(claim, Completed())], wanted()))

    assert settled.lost == (claim.ref,)
    assert await store.extend([claim], LOCK_MS) == [claim.ref]
    assert await store.report([Report(claim, "50")]) == [claim.ref]
    await insist_on(store, "new")
    assert (await claim_one(store)).ref.id == "new"


# ------------------------------------------------------------------ hangs


async def test_an_add_to_a_server_that_hangs_is_stored_once_though_both_copies_arrive(
    server: RedisProcess, store: Store
) -> None:
    jobs = [new_job(store, job_id=f"job-{n}") for n in range(20)]
    with server.frozen():
        adding = [
            asyncio.ensure_future(insist(lambda job=job: store.add([Unit((job,))])))  # type: ignore[misc]
            for job in jobs
        ]
        for _ in range(2):
            await refused(store.summaries([QUEUE]))

    await soon(asyncio.gather(*adding))

    assert sorted(waiting(server)) == sorted(job.id for job in jobs)
    assert server.ask("GET", BASE + "id") == "20"


async def test_a_slow_server_is_waited_for_and_nothing_is_asked_twice(server: RedisProcess, proxy: Proxy) -> None:
    store = open_redis(proxy.url, timeout=20)
    await add(store, "first")
    asked = proxy.requests["EVALSHA"]
    proxy.delay(0.2)

    for number in range(3):
        await add(store, f"job-{number}")
    await store.close()

    assert proxy.requests["EVALSHA"] == asked + 3
    assert len(proxy.tried_at_s) == 1


async def test_a_wait_on_a_dead_connection_ends(proxy: Proxy, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toril.stores.redis.consumer.LONGEST_BLOCK_S", 0.2)
    waiting = asyncio.ensure_future(store.wait("w1", [QUEUE], None))
    await proxy.until(lambda: proxy.requests["BZPOPMIN"] > 0, "the wait to reach the server")
    proxy.freeze("blocking")

    with pytest.raises(StoreUnavailable, match="does not answer"):
        await soon(waiting)


async def test_a_bell_that_was_cut_off_while_nobody_listened_is_replaced_without_a_word(
    proxy: Proxy, store: Store
) -> None:
    await listened(store)
    proxy.cut("blocking")
    await proxy.until(lambda: proxy.connections == 1, "the connection to end")
    await asyncio.sleep(0)

    await insist_on(store, "after")
    woken = await store.wait("w1", [QUEUE], store.clock.now_ms() + 20_000)

    assert woken.queues == {QUEUE}


async def listened(store: Store) -> None:
    """Hear a bell ring, and leave the connection open on which it was heard."""
    await insist_on(store, "before")
    assert (await soon(store.wait("w1", [QUEUE], None))).queues == {QUEUE}


# ------------------------------------------------------------------ refusals


async def test_a_full_server_refuses_adds_whole_and_takes_outcomes(server: RedisProcess, store: Store) -> None:
    outcomes: list[Outcome] = [
        Completed("1"),
        Failed("no"),
        Retried(0, "no"),
        Retried(60_000, "no"),
        Released(),
        Throttled(0),
    ]
    await given_many(store, len(outcomes) + 3, attempts=2)
    claims = (await store.claim(wanted(free=len(outcomes)))).claims
    before = left_behind(server.url, "bull")
    server.set(maxmemory=1)

    said = await refused(add(store, "one"))
    flow = (new_job(store, has_children=True), new_job(store), new_job(store))
    await refused(store.add([Unit(flow), Unit((new_job(store, delay=60),))]))

    assert said.startswith(f"{store.place} cannot be reached or written")
    assert "OOM command not allowed" in said
    assert left_behind(server.url, "bull") == before
    assert await store.extend(claims, LOCK_MS) == []
    settled = await store.settle(
        [Settlement(claim, outcome) for claim, outcome in zip(claims, outcomes, strict=True)], wanted(free=20)
    )
    assert settled.lost == ()
    assert settled.claimed is not None
    assert len(settled.claimed.claims) == 3 + 3
    await store.recover([QUEUE], max_stalled=1, interval_ms=1)
    await store.wait("w1", [QUEUE], store.clock.now_ms() + 1)
    server.set(maxmemory=0)
    await insist_on(store, "one")


async def test_a_full_server_takes_what_running_jobs_say(server: RedisProcess, store: Store) -> None:
    """A job's outcome waits until what it has said is recorded."""
    claim = await active(store)
    server.set(maxmemory=1)

    assert await store.report([Report(claim, "50", ("a line",))]) == []


CALLS_OF_PEOPLE: dict[str, Callable[[Store], Awaitable[Any]]] = {
    "summaries": lambda store: store.summaries(),
    "series": lambda store: store.series(QUEUE, State.COMPLETED),
    "get": lambda store: store.get([JobRef(QUEUE, "late")]),
    "find": lambda store: store.find(QUEUE, State.DELAYED),
    "settings": lambda store: store.settings(QUEUE),
    "read": lambda store: store.read(QUEUE, None),
    "children": lambda store: store.children(JobRef(QUEUE, "late")),
    "workers": lambda store: store.workers(),
}
"""Those that only look."""


@pytest.mark.parametrize("look", CALLS_OF_PEOPLE.values(), ids=CALLS_OF_PEOPLE)
@pytest.mark.parametrize("trouble", ["full", "read-only"])
async def test_a_server_that_takes_no_writes_can_be_looked_at(
    server: RedisProcess, store: Store, trouble: str, look: Callable[[Store], Awaitable[Any]]
) -> None:
    await insist(lambda: given_job(store, job_id="late", delay=60))
    if trouble == "full":
        server.set(maxmemory=1)
    else:
        server.ask("REPLICAOF", "127.0.0.1", 1)

    await look(store)


async def test_a_full_server_can_be_emptied(server: RedisProcess, store: Store) -> None:
    done = await insist(lambda: given_completed(store, job_id="done"))
    failed = await given_failed(store, job_id="undone")
    await insist_on(store, "waits")
    server.set(maxmemory=1)

    await store.pause(QUEUE)
    assert await store.clean(QUEUE, State.COMPLETED, grace_ms=0, limit=10) == [done.id]
    assert await store.remove([failed]) == [Answer.DONE]
    assert await store.drain(QUEUE) == 1
    await store.obliterate(QUEUE)


async def test_a_server_that_has_become_read_only_is_waited_for(
    server: RedisProcess, proxy: Proxy, store: Store
) -> None:
    await insist_on(store, "before")
    server.ask("REPLICAOF", "127.0.0.1", 1)

    said = await refused(add(store, "meanwhile"))
    patient = open_redis(proxy.url, timeout=20)
    tries = len(proxy.tried_at_s)
    adding = asyncio.ensure_future(add(patient, "patient"))
    await proxy.until(lambda: len(proxy.tried_at_s) >= tries + 2, "another look for the master")
    server.ask("REPLICAOF", "NO", "ONE")
    await soon(adding)
    await patient.close()
    await insist_on(store, "after")

    assert "READONLY You can't write against a read only replica" in said
    assert waiting(server) == ["before", "patient", "after"]


async def test_a_server_that_cannot_save_is_told_of_and_gone_on_with(server: RedisProcess, store: Store) -> None:
    await insist_on(store, "before")
    with server.unable_to_save():
        said = await refused(add(store, "meanwhile"))
        await refused(store.claim(wanted()))
    await insist_on(store, "after")

    assert "MISCONF" in said
    assert waiting(server) == ["before", "after"]


async def test_a_server_that_still_reads_its_data_is_waited_for(
    server: RedisProcess, proxy: Proxy, store: Store
) -> None:
    await insist(lambda: store.add([Unit(tuple(new_job(store) for _ in range(2000)))]))
    server.shut_down()
    server.start("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024", ready=False)

    said = await refused(add(store, "meanwhile"))
    assert server.ask("INFO", "persistence")["loading"] == 1
    patient = open_redis(proxy.url, timeout=60)
    adding = asyncio.ensure_future(add(patient, "patient"))
    server.set(key_load_delay=0)
    await soon(adding)
    await patient.close()

    assert "LOADING Redis is loading the dataset in memory" in said
    assert len(waiting(server)) == 2001


async def test_scripts_that_a_server_forgets_all_the_time_are_told_again(server: RedisProcess, proxy: Proxy) -> None:
    store = open_redis(proxy.url, timeout=20)
    for number in range(10):
        asked = proxy.requests["EVAL"]
        adding = asyncio.gather(*(add(store, f"job-{number}-{n}") for n in range(20)))
        server.ask("SCRIPT", "FLUSH")
        await soon(adding)
        assert proxy.requests["EVAL"] > asked
    await store.close()

    assert len(waiting(server)) == 200
    assert server.ask("GET", BASE + "id") == "200"


async def test_a_script_that_keeps_the_server_busy_is_waited_for_and_leaves_no_connection_behind(
    server: RedisProcess, proxy: Proxy
) -> None:
    known_before, new = open_redis(proxy.url), open_redis(proxy.url)
    await insist_on(known_before, "before")
    with server.busy():
        told = [await refused(add(known_before, "meanwhile")), await refused(add(new, "meanwhile"))]
    await insist_on(known_before, "meanwhile")
    await insist_on(new, "after")

    assert [re.search("BUSY Redis is busy running a script", said) is not None for said in told] == [True, True], told
    assert waiting(server) == ["before", "meanwhile", "after"]
    assert proxy.connections == 2
    await known_before.close()
    await new.close()


WRONG_LOGINS = {
    "none": ("", "NOAUTH"),
    "a wrong password": (":s3cret@", "WRONGPASS|invalid username-password"),
    "an unknown user": ("ann:s3cret@", "WRONGPASS|invalid username-password"),
}


@pytest.mark.parametrize(("login", "sentence"), WRONG_LOGINS.values(), ids=WRONG_LOGINS)
async def test_a_wrong_login_is_told_without_the_password_and_mended_by_the_server(
    server: RedisProcess, login: str, sentence: str
) -> None:
    store = open_redis(server.url.replace("//", f"//{login}"))
    server.set(requirepass="right")

    said = await refused(add(store, "job"))
    with server.client(password="right") as client:
        client.acl_setuser("ann", enabled=True, passwords=["+s3cret"], categories=["+@all"], keys=["*"])
        client.config_set("requirepass", "s3cret" if login else "")
    await insist_on(store, "job")
    await store.close()

    assert said.startswith(f"{server.url} cannot be reached")
    assert re.search(sentence, said), said
    assert "s3cret" not in said


DENIED: dict[str, tuple[list[str], list[str], str]] = {
    "a command": (["-evalsha"], ["*"], "NOPERM.*evalsha"),
    "a command within a script": (["-lpush"], ["*"], "can't run this command|NOPERM"),
    "a key": ([], ["other:*"], "NOPERM.*keys"),
}


@pytest.mark.parametrize(("commands", "keys", "sentence"), DENIED.values(), ids=DENIED)
async def test_what_a_user_may_not_do_is_told_and_goes_when_it_is_allowed(
    server: RedisProcess, commands: list[str], keys: list[str], sentence: str
) -> None:
    store = open_redis(server.url.replace("//", "//ann:s3cret@"))
    with server.client() as client:
        client.acl_setuser("ann", enabled=True, passwords=["+s3cret"], categories=["+@all"], keys=keys)
        for command in commands:
            client.execute_command("ACL", "SETUSER", "ann", command)

    said = await refused(add(store, "job"))
    server.ask("ACL", "SETUSER", "ann", "+@all", "~*")
    await insist_on(store, "another")
    await store.close()

    assert re.search(sentence, said), said
    assert "another" in waiting(server)


async def test_a_bell_that_a_user_may_not_listen_to_is_told_of(server: RedisProcess) -> None:
    store = open_redis(server.url.replace("//", "//ann:s3cret@"))
    with server.client() as client:
        client.acl_setuser("ann", enabled=True, passwords=["+s3cret"], categories=["+@all"], keys=["*"])
        client.execute_command("ACL", "SETUSER", "ann", "-bzpopmin")

    said = await refused(store.wait("w1", [QUEUE], None))
    await store.close()

    assert "bzpopmin" in said


async def test_a_server_that_takes_no_more_clients_is_waited_for(server: RedisProcess, store: Store) -> None:
    with server.full_house():
        said = await refused(add(store, "meanwhile"))
        await refused(store.wait("w1", [QUEUE], None))

    assert re.search("max number of clients|[Cc]onnection (lost|closed|was lost)|reset", said), said
    await insist_on(store, "meanwhile")
    assert waiting(server) == ["meanwhile"]


async def test_idle_connections_that_the_server_closes_are_opened_again_without_a_word(
    server: RedisProcess, proxy: Proxy
) -> None:
    store = open_redis(proxy.url, timeout=20)
    await listened(store)
    server.set(timeout=1)
    await proxy.until(lambda: proxy.connections == 0, "the server to close what is idle")

    await add(store, "after")
    woken = await store.wait("w1", [QUEUE], store.clock.now_ms() + 20_000)
    await store.close()

    assert woken.queues == {QUEUE}
    assert waiting(server) == ["before", "after"]


async def test_clients_that_are_killed_all_the_time_add_and_claim_each_job_once(
    server: RedisProcess, proxy: Proxy
) -> None:
    store = open_redis(proxy.url, timeout=20)
    jobs = size("redis_killed_clients_jobs")
    claimed: list[str] = []

    async def produce() -> None:
        for number in range(jobs):
            await add(store, f"job-{number}")

    async def consume() -> None:
        while len(claimed) < jobs:
            if len(claimed) % 4 == 0:
                server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            claims = (await store.claim(wanted(free=5))).claims
            claimed.extend(claim.ref.id for claim in claims)
            await store.settle([Settlement(claim, Completed()) for claim in claims])

    await asyncio.wait_for(asyncio.gather(produce(), consume()), 60)
    await store.close()

    assert claimed == [f"job-{number}" for number in range(jobs)]
    assert len(proxy.tried_at_s) > 3


async def test_everything_that_is_flushed_away_is_gone_and_the_store_goes_on(
    server: RedisProcess, store: Store
) -> None:
    claim = await active(store)
    server.ask("FLUSHALL")

    settled = await insist(lambda: store.settle([Settlement(claim, Completed())], wanted()))

    assert settled.lost == (claim.ref,)
    await insist_on(store, "new")
    assert (await claim_one(store)).ref.id == "new"


async def active(store: Store) -> Claim:
    """A job that runs."""
    await insist_on(store, "running")
    return await claim_one(store)


# ------------------------------------------------------------------ loops, threads, processes


def live(program: str, url: str) -> str:
    """What a program says that lets a store live, in a process that forbids warnings."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "faults.redis_programs", program, json.dumps({"url": url})],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
def test_a_store_of_a_module_serves_run_after_run_and_leaves_nothing_open(
    redis_url: str, tmp_path: Path, certificate: Path, encrypted: bool
) -> None:
    with encrypting(tmp_path, certificate) as server:
        said = live("runs", server.tls_url(certificate) if encrypted else server.url)
        there = server.ask("LRANGE", "bull:work:wait", 0, -1)
        connections = server.connections()

    assert said == "descriptors 4\n"
    assert there == ["run-2", "run-1", "run-0"]
    assert connections == 0


def test_a_forked_child_begins_without_connections_and_its_parent_goes_on_with_its_own(
    server: RedisProcess, proxy: Proxy
) -> None:
    assert live("fork", proxy.url) == "child 0\n"

    assert server.ask("LRANGE", "bull:work:wait", 0, -1) == ["after", "child", "before"]
    assert len(proxy.tried_at_s) == 4


def test_a_loop_for_each_test_leaves_one_loops_connections_at_most(server: RedisProcess, proxy: Proxy) -> None:
    store = open_redis(proxy.url, timeout=20)

    async def use(number: int) -> None:
        await add(store, f"job-{number}")
        await store.wait("w1", [QUEUE], store.clock.now_ms() + 1)

    for number in range(5):
        asyncio.run(use(number))
        proxy.wait(lambda: proxy.connections == 2, "those of the loop before to be given back")
    asyncio.run(store.close())
    gc.collect()  # what warns of things left open does so here

    proxy.wait(lambda: proxy.connections == 0, "the connections to end")
    assert len(waiting(server)) == 5


def test_two_threads_with_a_loop_each_share_a_store(server: RedisProcess, proxy: Proxy) -> None:
    store = open_redis(proxy.url, timeout=20)

    async def use(name: str) -> None:
        await asyncio.gather(*(add(store, f"{name}-{n}") for n in range(200)))
        await store.close()

    def live(name: str) -> None:
        asyncio.run(use(name))

    threads = [threading.Thread(target=live, args=(name,)) for name in ("ann", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(waiting(server)) == 400
    assert len(proxy.tried_at_s) == 2
    proxy.wait(lambda: proxy.connections == 0, "the connections to end")


async def test_a_store_that_was_closed_opens_again_when_it_is_used(proxy: Proxy, store: Store) -> None:
    for number in range(3):
        await insist_on(store, f"job-{number}")
        await store.close()
        await proxy.until(lambda: proxy.connections == 0, "the connection to end")


async def test_closing_a_store_ends_calls_that_are_under_way(proxy: Proxy) -> None:
    store = open_redis(proxy.url, timeout=100)
    await listened(store)
    waiting = asyncio.ensure_future(store.wait("w1", [QUEUE], None))
    await proxy.until(lambda: proxy.requests["BZPOPMIN"] == 2, "the wait to reach the server")
    proxy.freeze()
    adding = asyncio.ensure_future(add(store, "frozen"))
    await asyncio.sleep(0)

    await store.close()
    outcomes = await ended(adding, waiting)
    proxy.thaw()

    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 2, outcomes
    await proxy.until(lambda: proxy.connections == 0, "the connections to end")


async def test_closing_a_store_ends_calls_that_are_connecting(proxy: Proxy) -> None:
    store = open_redis(proxy.url, timeout=100)
    proxy.freeze()
    adding = asyncio.ensure_future(add(store, "frozen"))
    waiting = asyncio.ensure_future(store.wait("w1", [QUEUE], None))
    await proxy.until(lambda: len(proxy.tried_at_s) == 2, "both to connect")

    await store.close()
    proxy.thaw()
    outcomes = await ended(adding, waiting)

    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 2, outcomes
    await proxy.until(lambda: proxy.connections == 0, "the connections to end")


async def ended(*calls: asyncio.Future[Any]) -> list[Any]:
    """What calls bring that end by themselves; one that does not is cancelled."""
    _, pending = await asyncio.wait(calls, timeout=given.PATIENCE_S / 2)
    for call in pending:
        call.cancel()
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_cancelled_calls_leave_nothing_behind(server: RedisProcess, proxy: Proxy) -> None:
    store = open_redis(proxy.url, timeout=20)
    await add(store, "before")
    proxy.freeze()
    calls = [asyncio.ensure_future(add(store, f"cancelled-{n}")) for n in range(20)]
    calls += [asyncio.ensure_future(cast("Coroutine[Any, Any, Any]", store.claim(wanted()))) for _ in range(5)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    proxy.thaw()

    ref = await add(store, "after")  # its answer is its own, whatever comes before
    record = await known(store, ref)
    await store.close()

    assert record is not None
    assert record.ref == ref
    assert len(proxy.tried_at_s) == 1


async def test_a_call_that_is_cancelled_while_it_connects_leaves_no_connection_of_its_own(
    server: RedisProcess, proxy: Proxy
) -> None:
    store = open_redis(proxy.url, timeout=20)
    proxy.freeze()
    for _ in range(5):
        adding = asyncio.ensure_future(add(store, "cancelled"))
        await proxy.until(lambda: len(proxy.tried_at_s) >= 1, "the add to connect")
        adding.cancel()
        await asyncio.wait([adding])
    proxy.thaw()
    await add(store, "after")

    assert server.connections() == 1
    await store.close()


async def test_a_ring_that_comes_while_its_wait_is_cancelled_is_heard_by_another(
    server: RedisProcess, proxy: Proxy
) -> None:
    store, other = open_redis(proxy.url, timeout=20), open_redis(server.url, timeout=20)
    for number in range(10):
        rounds = proxy.requests["BZPOPMIN"]
        waiting = asyncio.ensure_future(store.wait("w1", [QUEUE], None))
        await proxy.until(lambda: proxy.requests["BZPOPMIN"] > rounds, "the wait to reach the server")  # noqa: B023
        adding = asyncio.ensure_future(add(other, f"job-{number}"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(adding, asyncio.wait([waiting]))

        if waiting.cancelled():
            assert (await soon(other.wait("w2", [QUEUE], other.clock.now_ms() + 20_000))).queues == {QUEUE}
    await store.close()
    await other.close()

    assert server.connections() == 0


async def test_waits_that_are_cancelled_and_begun_anew_share_a_connection(server: RedisProcess, proxy: Proxy) -> None:
    store = open_redis(proxy.url, timeout=20)
    for _ in range(20):
        rounds = proxy.answers
        waiting = asyncio.ensure_future(store.wait("w1", [QUEUE], None))
        await proxy.until(lambda: proxy.requests["BZPOPMIN"] > 0, "the wait to reach the server")
        waiting.cancel()
        await asyncio.wait([waiting])
        assert proxy.answers > rounds
        assert server.connections() <= 2
    await store.close()


# ------------------------------------------------------------------ much at once


async def test_ten_thousand_adds_at_once_are_stored_on_one_connection(server: RedisProcess, proxy: Proxy) -> None:
    watch, count = Stopwatch(), size("redis_adds_at_once")
    store = open_redis(proxy.url, timeout=60)
    queue = Queue(QUEUE, store)
    large = {"text": "x" * (900 * 1024)}

    jobs = await asyncio.gather(*(queue.add("job", large if n == count // 2 else None) for n in range(count)))

    assert len(set(waiting(server))) == count
    record = await jobs[count // 2].record()
    assert json.loads(record.data) == large
    assert len(proxy.tried_at_s) == 1
    await store.close()
    shown("adds at once on one store (Redis)", f"{count:,} adds, one of 900 KiB", "all stored, 1 connection", watch)


# ------------------------------------------------------------------ settings of a connection


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that vouches for itself; its key lies beside it."""
    directory = tmp_path_factory.mktemp("tls")
    path = directory / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", directory / "key.pem", "-out", path),
        ],
        check=True,
        capture_output=True,
    )
    return path


def encrypting(directory: Path, certificate: Path) -> RedisProcess:
    """A server that takes TLS on a port of its own."""
    return RedisProcess(directory, certificate=certificate)


async def uses(store: Store) -> None:
    """Let a job go its whole way, with a wait before it."""
    assert (await store.wait("w1", [QUEUE], store.clock.now_ms() + 1)).queues == frozenset()
    await store.configure(QUEUE, QueueSettings(concurrency=5))
    await add(store, "job")
    assert (await soon(store.wait("w1", [QUEUE], None))).queues == {QUEUE}
    claim = await claim_one(store)
    await store.report([Report(claim, "50", ("a line",))])
    await store.settle([Settlement(claim, Completed('"é\\ud83d\\ude00"'))])
    record = await known(store, claim.ref)
    assert record is not None
    assert (record.state, record.result, record.progress) == (State.COMPLETED, '"é\\ud83d\\ude00"', "50")
    assert (await store.settings(QUEUE)).concurrency == 5
    assert [event.name for event in await store.read(QUEUE, None)][-2:] == ["completed", "drained"]
    assert [summary.name for summary in await store.summaries()] == [QUEUE]
    assert (await store.find(QUEUE, State.COMPLETED)).items[0].ref == claim.ref
    await store.logs(claim.ref)
    await store.check()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_protocols_are_spoken(server: RedisProcess, protocol: int) -> None:
    store = connect(f"{server.url}?protocol={protocol}&timeout=20")

    await uses(store)

    with server.client() as client:
        spoken = {one["resp"] for one in client.client_list() if one["cmd"] != "client|list"}
    await store.close()
    assert spoken == {str(protocol)}


async def test_a_unix_socket_will_do(redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with RedisProcess(tmp_path, "--unixsocket", str(path)) as server:
        store = connect(f"unix://{path}?timeout=20")
        await uses(store)
        server.kill()
        hasty = open_redis(f"unix://{path}")
        said = await refused(add(hasty, "meanwhile"))
        server.start()
        await insist_on(store, "after")
        await store.close()
        await hasty.close()

    assert str(path) in said


async def test_a_password_may_have_any_characters(server: RedisProcess) -> None:
    user, password = "kim@home", "p@ss:w/ö r?d%&#1"
    server.ask("ACL", "SETUSER", user, "on", f">{password}", "~*", "+@all")
    server.set(requirepass="nobody")
    store = connect(server.url.replace("//", f"//{quote(user, safe='')}:{quote(password, safe='')}@") + "?timeout=20")

    await uses(store)
    await store.close()

    assert store.place == server.url


async def test_the_number_of_a_database_and_the_name_of_a_client_are_used(server: RedisProcess) -> None:
    store = connect(server.url.replace("/0", "/3") + "?timeout=20&client_name=shop")

    await uses(store)
    names = [client["name"] for client in clients_of(server) if client["db"] == "3"]
    await store.close()

    assert "shop" in names
    assert server.ask("DBSIZE") == 0


def clients_of(server: RedisProcess) -> list[dict[str, str]]:
    with server.client() as client:
        return list(client.client_list())


async def test_tls_is_spoken_and_its_certificate_checked(redis_url: str, tmp_path: Path, certificate: Path) -> None:
    with encrypting(tmp_path, certificate) as server, Proxy(server.tls_port) as proxy:
        store = connect(f"rediss://localhost:{proxy.port}/0?ssl_ca_certs={certificate}&timeout=20")
        await uses(store)
        proxy.cut()
        await add(store, "after")
        await store.close()
        await proxy.until(lambda: proxy.connections == 0, "the connections to end")
        distrusting = open_redis(f"rediss://localhost:{server.tls_port}/0", timeout=2)
        said = await refused(add(distrusting, "never"))
        await distrusting.close()
        there = waiting(server)

    assert "CERTIFICATE_VERIFY_FAILED" in said or "certificate verify failed" in said
    assert there == ["after"]
