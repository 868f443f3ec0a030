"""What was asked has happened, and the answer is lost: asking again makes no second job, run or record."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar, Unpack

import pytest

from conformance.given import QUEUE, claim_all, complete, given, given_many, names_told, new_job, ref_of, told, wanted
from faults.proof import Stopwatch, shown
from toril.clock import SYSTEM_CLOCK, Clock, TurnedClock
from toril.errors import StoreUnavailable
from toril.handlers import Context
from toril.model import Added, Claimed, Completed, NewJob, Receipt, Settled, Settlement, Unit, Wanted
from toril.options import JobOptions
from toril.queue import Queue
from toril.states import State
from toril.store import Store
from toril.stores.sqlite.store import SqliteStore
from toril.worker import Worker

R = TypeVar("R")

ADDS = 100
LOST = frozenset(range(3, ADDS, 9))
"""Which of a hundred calls lose their answer: eleven of them."""


class Deaf(SqliteStore):
    """A store that does what it is asked, and whose answers to the calls numbered in `lost` never arrive."""

    def __init__(
        self, path: Path, clock: Clock = SYSTEM_CLOCK, *, lost: Collection[int] = LOST, verb: str = ""
    ) -> None:
        super().__init__(path, clock=clock)
        self.lost = lost
        self.calls: Counter[str] = Counter()
        self._verb = verb

    async def add(self, units: Sequence[Unit]) -> list[Receipt]:
        return self._lose("add", await super().add(units))

    async def claim(self, wanted: Wanted) -> Claimed:
        return self._lose("claim", await super().claim(wanted))

    async def settle(self, settled: Sequence[Settlement], then: Wanted | None = None) -> Settled:
        return self._lose("settle", await super().settle(settled, then))

    def _lose(self, verb: str, answer: R) -> R:
        number = self.calls[verb]
        self.calls[verb] += 1
        if verb == self._verb and number in self.lost:
            raise StoreUnavailable(f"the answer to {verb} number {number} was lost")
        return answer


async def insist(ask: Callable[[], Awaitable[R]], meanwhile: Callable[[], Awaitable[None]] | None = None) -> R:
    """Ask until there is an answer."""
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            if meanwhile is not None:
                await meanwhile()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "toril.db"


async def counts_of(store: Store) -> dict[State, int]:
    [summary] = await store.summaries([QUEUE])
    return {state: count for state, count in summary.counts.items() if count}


async def finish_all(store: Store) -> None:
    """What a worker does that is faster than the repeat of an add."""
    for claim in await claim_all(store):
        await complete(store, claim)


# ------------------------------------------------------------------ adds


def job_number(n: int, store: Store, *, chosen: bool, **options: Unpack[JobOptions]) -> NewJob:
    """A job under an id that its caller chose, or under one that is drawn."""
    if chosen:
        options["job_id"] = f"order-{n}"
    return new_job(store, **options)


@pytest.mark.parametrize("chosen", [False, True], ids=["with drawn ids", "with chosen ids"])
async def test_a_hundred_adds_with_eleven_lost_answers_make_a_hundred_jobs(
    path: Path, clock: TurnedClock, chosen: bool
) -> None:
    watch, store = Stopwatch(), Deaf(path, clock, verb="add")

    for n in range(ADDS):
        job = job_number(n, store, chosen=chosen)
        [receipt] = await insist(lambda job=job: store.add([Unit((job,))]))  # type: ignore[misc]
        assert receipt.added == (Added(ref_of(job)),)

    assert store.calls["add"] == ADDS + len([n for n in LOST if n < store.calls["add"]])
    assert await counts_of(store) == {State.WAITING: ADDS}
    assert Counter(await names_told(store)) == {"added": ADDS, "waiting": ADDS}
    await store.close()
    shown("adds whose answer is lost (SQLite)", f"{ADDS} adds, {len(LOST)} lost", f"{ADDS} jobs", watch)


@pytest.mark.parametrize("chosen", [False, True], ids=["with drawn ids", "with chosen ids"])
async def test_a_lost_add_is_not_repeated_when_its_job_has_already_run_and_been_removed(
    path: Path, clock: TurnedClock, chosen: bool
) -> None:
    watch, store, runs = Stopwatch(), Deaf(path, clock, verb="add"), 0

    async def finish() -> None:
        nonlocal runs
        for claim in await claim_all(store):
            runs += 1
            await complete(store, claim)

    for n in range(ADDS):
        job = job_number(n, store, chosen=chosen, keep_completed=0)
        [receipt] = await insist(lambda job=job: store.add([Unit((job,))]), finish)  # type: ignore[misc]
        assert receipt.added == (Added(ref_of(job)),)
    await finish()

    assert runs == ADDS
    assert await counts_of(store) == {}
    assert (await names_told(store)).count("added") == ADDS
    await store.close()
    size = f"{ADDS} adds, {len(LOST)} lost"
    shown("the same with keep_completed=0 and a worker that was faster (SQLite)", size, f"{ADDS} runs", watch)


async def test_a_lost_add_is_not_repeated_though_its_result_is_kept_for_no_time(path: Path, clock: TurnedClock) -> None:
    store = Deaf(path, clock, verb="add", lost={0})
    job = new_job(store, keep_completed=0, keep_result=0)

    await insist(lambda: store.add([Unit((job,))]), lambda: finish_all(store))

    assert await counts_of(store) == {}
    await store.close()


async def test_a_lost_add_of_a_real_worker_runs_once(path: Path) -> None:
    store, ran, removed = Deaf(path, verb="add"), Counter[str](), asyncio.Event()

    async def process(ctx: Context) -> None:
        ran[ctx.job_id] += 1

    async def see_removed() -> None:
        async for event in Queue(QUEUE, store).events("0"):
            if event.name == "completed":
                removed.set()

    async def until_removed() -> None:
        await asyncio.wait_for(removed.wait(), 20)

    await store.summaries([QUEUE])  # the file is there before several look into it at once
    async with Worker(QUEUE, process, store), background(see_removed()):
        for _ in range(ADDS // 5):
            removed.clear()
            job = new_job(store, keep_completed=0)
            await insist(lambda job=job: store.add([Unit((job,))]), until_removed)  # type: ignore[misc]
            await until_removed()
    await store.close()

    assert set(ran.values()) == {1}
    assert len(ran) == ADDS // 5


@contextlib.asynccontextmanager
async def background(coroutine: Awaitable[None]) -> AsyncGenerator[None]:
    """Something that goes on beside the block."""
    task = asyncio.ensure_future(coroutine)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


async def test_a_lost_unit_of_many_is_stored_once(path: Path, clock: TurnedClock) -> None:
    store = Deaf(path, clock, verb="add", lost={0, 1})
    units = [Unit(tuple(new_job(store) for _ in range(50))) for _ in range(2)]

    receipts = await insist(lambda: store.add(units))

    assert [len(receipt.added) for receipt in receipts] == [50, 50]
    assert await counts_of(store) == {State.WAITING: 100}
    await store.close()


async def test_a_lost_unit_of_which_some_have_run_and_gone_is_stored_once(path: Path, clock: TurnedClock) -> None:
    store = Deaf(path, clock, verb="add", lost={0})
    unit = Unit(tuple(new_job(store, keep_completed=n % 2 == 0) for n in range(10)))

    await insist(lambda: store.add([unit]), lambda: finish_all(store))

    assert await counts_of(store) == {State.COMPLETED: 5}
    await store.close()


async def test_a_lost_flow_is_stored_once_and_its_parent_runs_once(path: Path, clock: TurnedClock) -> None:
    store = Deaf(path, clock, verb="add", lost={0})
    parent = new_job(store, has_children=True, keep_completed=0)
    children = [new_job(store, parent=ref_of(parent), keep_completed=0) for _ in range(3)]

    async def run_children() -> None:
        await finish_all(store)

    await insist(lambda: store.add([Unit((parent, *children))]), run_children)
    await finish_all(store)
    await finish_all(store)

    assert await counts_of(store) == {}
    completed = [fields for name, fields in await told(store) if name == "completed"]
    assert len(completed) == 4
    await store.close()


async def test_a_second_add_under_the_same_id_is_told_from_a_repeat(path: Path, clock: TurnedClock) -> None:
    store = Deaf(path, clock, verb="add", lost={0})
    job = new_job(store, job_id="order-1")

    [first] = await insist(lambda: store.add([Unit((job,))]))
    [second] = await store.add([Unit((new_job(store, job_id="order-1"),))])

    assert [first.added[0].duplicate, second.added[0].duplicate] == [False, True]
    assert await counts_of(store) == {State.WAITING: 1}
    await store.close()


# ------------------------------------------------------------------ claims and settlements


async def test_a_lost_claim_gives_the_same_jobs_again(path: Path, clock: TurnedClock) -> None:
    store = Deaf(path, clock, verb="claim", lost={0})
    await given_many(store, 10)
    wish = wanted(free=5)

    claimed = await insist(lambda: store.claim(wish))

    assert [claim.started for claim in claimed.claims] == [1] * 5
    assert await counts_of(store) == {State.ACTIVE: 5, State.WAITING: 5}
    await store.close()


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "removed at once"])
async def test_a_lost_settlement_is_recorded_once(path: Path, clock: TurnedClock, keep: bool) -> None:
    store = Deaf(path, clock, verb="settle", lost={0})
    await given(store, keep_completed=keep)
    [claim] = await claim_all(store)

    settled = await insist(lambda: store.settle([Settlement(claim, Completed("1"))]))

    assert settled.lost == ()
    assert (await names_told(store)).count("completed") == 1
    [record] = await store.get([claim.ref])
    assert record is not None
    assert (record.state, record.result, record.attempts_made) == (State.COMPLETED, "1", 1)
    await store.close()


async def test_a_lost_settlement_gives_the_same_next_jobs_again(path: Path, clock: TurnedClock) -> None:
    store = Deaf(path, clock, verb="settle", lost={0})
    await given_many(store, 3)
    claim = (await store.claim(wanted())).claims[0]
    then = wanted()

    settled = await insist(lambda: store.settle([Settlement(claim, Completed())], then))

    assert settled.claimed is not None
    assert len(settled.claimed.claims) == 1
    assert await counts_of(store) == {State.COMPLETED: 1, State.ACTIVE: 1, State.WAITING: 1}
    await store.close()


@pytest.mark.parametrize("verb", ["claim", "settle"])
async def test_a_worker_whose_answers_get_lost_runs_each_job_once_and_soon(path: Path, verb: str) -> None:
    store, ran = Deaf(path, verb=verb, lost={0, 1}), Counter[str]()
    await given_many(store, 30)

    async def process(ctx: Context) -> None:
        ran[ctx.job_id] += 1

    async def until_drained() -> None:
        async for event in Queue(QUEUE, store).events("0"):
            if event.name == "drained" and len(ran) == 30:
                return

    async with Worker(QUEUE, process, store, concurrency=5):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(until_drained(), 3)
        counts = await counts_of(store)
    await store.close()

    assert counts == {State.COMPLETED: 30}
    assert set(ran.values()) == {1}


def test_the_double_loses_answers_and_not_questions(path: Path, clock: TurnedClock) -> None:
    async def ask_once() -> int:
        store = Deaf(path, clock, verb="add", lost={0})
        job: NewJob = new_job(store)
        with pytest.raises(StoreUnavailable):
            await store.add([Unit((job,))])
        counts = await counts_of(store)
        await store.close()
        return counts[State.WAITING]

    assert asyncio.run(ask_once()) == 1
