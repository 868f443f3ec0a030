"""The small vocabulary of the conformance tests: how a history begins, goes on, and is looked at.

Durations are seconds in the options of `given`, as people write them, and milliseconds everywhere else.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import TypeVar, Unpack

from toril.clock import TurnedClock
from toril.model import (
    Added,
    Attempt,
    Claim,
    Claimed,
    Completed,
    Event,
    Failed,
    JobRecord,
    JobRef,
    NewJob,
    Outcome,
    Parent,
    QueueSettings,
    QueueSummary,
    Receipt,
    Retried,
    Settlement,
    Slots,
    Unit,
    Wanted,
    Woken,
)
from toril.options import ChildPolicy, JobOptions, RateLimit, resolve
from toril.states import State
from toril.store import EventLog, Inspector, Store

T = TypeVar("T")

QUEUE = "email"
LOCK_MS = 30_000
INTERVAL_MS = 30_000
PATIENCE_S = 20.0

_numbers = itertools.count(1)


def count_from_one() -> None:
    """Begin the ids, nonces and tokens of a test."""
    global _numbers
    _numbers = itertools.count(1)


def draw(word: str = "") -> str:
    """The next id, nonce or token of this test."""
    return f"{word}{next(_numbers)}"


# ------------------------------------------------------------------ time


def turned(store: Store) -> TurnedClock:
    """The store's clock, which only `advance` moves."""
    assert isinstance(store.clock, TurnedClock)
    return store.clock


def now_ms(store: Store) -> int:
    return store.clock.now_ms()


async def advance(store: Store, ms: int) -> None:
    """Turn the clock, and age whatever the store has entrusted to another clock."""
    turned(store).advance(ms)
    age = getattr(store, "age", None)
    if age is not None:
        await age(ms)


async def soon(awaitable: Awaitable[T]) -> T:
    """What a signal brings. The limit is real time, and is only reached when the signal is lost."""
    return await asyncio.wait_for(awaitable, PATIENCE_S)


# ------------------------------------------------------------------ adding


def new_job(
    store: Store,
    *,
    queue: str = QUEUE,
    name: str = "welcome",
    data: str = "{}",
    nonce: str | None = None,
    policy: ChildPolicy = ChildPolicy.WAIT,
    has_children: bool = False,
    **options: Unpack[JobOptions],
) -> NewJob:
    """A job on its way: with `job_id` it has a chosen id and a nonce, else a drawn id."""
    chosen, parent = options.get("job_id"), options.get("parent")
    return NewJob(
        queue=queue,
        name=name,
        id=draw() if chosen is None else chosen,
        data=data,
        options=resolve(options, now_ms(store)),
        created_at_ms=now_ms(store),
        nonce=nonce if chosen is None or nonce is not None else draw("nonce-"),
        parent=None if parent is None else Parent(JobRef(parent.queue, parent.id), policy),
        has_children=has_children,
    )


def ref_of(job: NewJob) -> JobRef:
    return JobRef(job.queue, job.id)


async def add(store: Store, *jobs: NewJob) -> Receipt:
    """Add one unit."""
    [receipt] = await store.add([Unit(jobs)])
    return receipt


async def added(store: Store, *jobs: NewJob) -> list[Added]:
    """Add one unit that must not be refused."""
    receipt = await add(store, *jobs)
    assert receipt.refusal is None
    assert [member.ref for member in receipt.added] == [ref_of(job) for job in jobs]
    return list(receipt.added)


async def given(
    store: Store,
    *,
    queue: str = QUEUE,
    name: str = "welcome",
    data: str = "{}",
    policy: ChildPolicy = ChildPolicy.WAIT,
    has_children: bool = False,
    **options: Unpack[JobOptions],
) -> JobRef:
    """A job in the store."""
    job = new_job(
        store,
        queue=queue,
        name=name,
        data=data,
        policy=policy,
        has_children=has_children,
        **options,
    )
    await added(store, job)
    return ref_of(job)


async def given_many(store: Store, count: int, *, queue: str = QUEUE, **options: Unpack[JobOptions]) -> list[JobRef]:
    """Jobs alike, added one after another."""
    return [await given(store, queue=queue, **options) for _ in range(count)]


async def given_flow(
    store: Store,
    *,
    children: int = 1,
    policy: ChildPolicy = ChildPolicy.WAIT,
    queue: str = QUEUE,
    child_queue: str = "images",
    **options: Unpack[JobOptions],
) -> tuple[JobRef, list[JobRef]]:
    """A parent with children in a queue of their own, stored as one unit. The options are the parent's."""
    parent = new_job(store, queue=queue, name="album", has_children=True, **options)
    leaves = [
        new_job(store, queue=child_queue, name="resize", parent=ref_of(parent), policy=policy) for _ in range(children)
    ]
    await added(store, parent, *leaves)
    return ref_of(parent), [ref_of(leaf) for leaf in leaves]


async def given_settings(store: Store, queue: str = QUEUE, **changes: object) -> QueueSettings:
    """Settings of a queue, the rest as they are by default."""
    settings = replace(QueueSettings(), **changes)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await store.configure(queue, settings)
    return settings


# ------------------------------------------------------------------ running


def wanted(
    *queues: str,
    free: int = 1,
    worker: str = "w1",
    token: str | None = None,
    lock_ms: int = LOCK_MS,
    limiter: RateLimit | None = None,
    ids: Sequence[str] = (),
) -> Wanted:
    """A worker's wish, under a new token unless one is given."""
    slots = tuple(Slots(queue, free, limiter, tuple(ids)) for queue in queues or (QUEUE,))
    return Wanted(worker, draw(f"{worker}-token-") if token is None else token, lock_ms, slots)


async def claim(
    store: Store,
    *queues: str,
    free: int = 1,
    worker: str = "w1",
    token: str | None = None,
    lock_ms: int = LOCK_MS,
    limiter: RateLimit | None = None,
    ids: Sequence[str] = (),
) -> Claimed:
    """Wish for jobs once."""
    return await store.claim(
        wanted(*queues, free=free, worker=worker, token=token, lock_ms=lock_ms, limiter=limiter, ids=ids)
    )


async def claim_one(store: Store, queue: str = QUEUE, *, worker: str = "w1", lock_ms: int = LOCK_MS) -> Claim:
    """The next job of a queue, which must have one to give."""
    [one] = (await claim(store, queue, worker=worker, lock_ms=lock_ms)).claims
    return one


async def claim_all(store: Store, queue: str = QUEUE) -> list[Claim]:
    """Whatever a queue has to give, in its order."""
    return list((await claim(store, queue, free=1000)).claims)


def refs(claims: Sequence[Claim]) -> list[JobRef]:
    return [one.ref for one in claims]


async def settle(store: Store, one: Claim, outcome: Outcome) -> None:
    """Record an outcome that is not too late."""
    settled = await store.settle([Settlement(one, outcome)])
    assert (settled.lost, settled.refused, settled.claimed) == ((), (), None)


async def complete(store: Store, one: Claim, result: str = "null") -> None:
    await settle(store, one, Completed(result))


async def fail(store: Store, one: Claim, reason: str = "no") -> None:
    await settle(store, one, Failed(reason))


async def retry_after(store: Store, one: Claim, after_ms: int = 0, reason: str = "no") -> None:
    await settle(store, one, Retried(after_ms, reason))


async def given_active(
    store: Store, queue: str = QUEUE, *, worker: str = "w1", data: str = "{}", **options: Unpack[JobOptions]
) -> Claim:
    """A job that runs."""
    ref = await given(store, queue=queue, data=data, **options)
    one = await claim_one(store, queue, worker=worker)
    assert one.ref == ref
    return one


async def given_completed(
    store: Store, result: str = "null", *, queue: str = QUEUE, data: str = "{}", **options: Unpack[JobOptions]
) -> JobRef:
    """A job that has completed."""
    one = await given_active(store, queue, data=data, **options)
    await complete(store, one, result)
    return one.ref


async def given_failed(
    store: Store, reason: str = "no", *, queue: str = QUEUE, data: str = "{}", **options: Unpack[JobOptions]
) -> JobRef:
    """A job that has failed for good."""
    one = await given_active(store, queue, data=data, **options)
    await fail(store, one, reason)
    return one.ref


async def stall(store: Store, queue: str = QUEUE, *, max_stalled: int = 1) -> None:
    """Let the locks of all running jobs of a queue lapse, seen by one check, found by the next."""
    await advance(store, INTERVAL_MS)
    await store.recover([queue], max_stalled=max_stalled, interval_ms=INTERVAL_MS)
    await advance(store, LOCK_MS + INTERVAL_MS)
    await store.recover([queue], max_stalled=max_stalled, interval_ms=INTERVAL_MS)


async def rest(store: Store, *queues: str, worker: str = "w1") -> None:
    """Take notice of every ring so far, so that the next wait of this worker has to wait."""
    while (await soon(store.wait(worker, queues or (QUEUE,), now_ms(store)))).queues:
        pass


async def wait(store: Store, *queues: str, worker: str = "w1", for_ms: int | None = None) -> Woken:
    """Wait until a ring, or until `for_ms` have passed on the turned clock."""
    until_ms = None if for_ms is None else now_ms(store) + for_ms
    return await soon(store.wait(worker, queues or (QUEUE,), until_ms))


# ------------------------------------------------------------------ looking


async def known(store: Inspector, ref: JobRef) -> JobRecord | None:
    """What the store knows of a job, removed ones included as long as their result is readable."""
    [found] = await store.get([ref])
    return found


async def record_of(store: Inspector, ref: JobRef) -> JobRecord:
    """The record of a job that must be there."""
    found = await known(store, ref)
    assert found is not None, f"{ref} is not known"
    return found


async def state_of(store: Inspector, ref: JobRef) -> State | None:
    """Where a job stands; None when it is gone."""
    found = await known(store, ref)
    return found.state if found is not None and found.kept else None


async def history_of(store: Inspector, ref: JobRef) -> list[Attempt]:
    return list((await record_of(store, ref)).history)


async def found(store: Inspector, state: State, queue: str = QUEUE, *, newest_first: bool = False) -> list[JobRef]:
    """All jobs of a state, in the order of `find`, asked for two at a time."""
    items: list[JobRef] = []
    after: str | None = None
    while True:
        page = await store.find(queue, state, after=after, limit=2, newest_first=newest_first)
        assert len(page.items) <= 2
        items += [record.ref for record in page.items]
        if page.next is None:
            return items
        after = page.next


async def summary_of(store: Inspector, queue: str = QUEUE) -> QueueSummary:
    [summary] = await store.summaries([queue])
    assert summary.name == queue
    return summary


async def count_of(store: Inspector, state: State, queue: str = QUEUE) -> int:
    return (await summary_of(store, queue)).counts.get(state, 0)


async def events_of(store: EventLog, queue: str = QUEUE, *, after: str | None = None) -> list[Event]:
    return await store.read(queue, after)


async def told(store: EventLog, queue: str = QUEUE, *, after: str | None = None) -> list[tuple[str, dict[str, str]]]:
    """Names and fields of the events of a queue."""
    return [(event.name, dict(event.fields)) for event in await events_of(store, queue, after=after)]


async def names_told(store: EventLog, queue: str = QUEUE, *, after: str | None = None) -> list[str]:
    return [name for name, _ in await told(store, queue, after=after)]
