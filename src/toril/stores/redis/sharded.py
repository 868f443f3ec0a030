"""Queues that are spread over a cluster, each in a slot of its own: what names several is asked of each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from toril.errors import CrossSlot, StoreUnavailable, TorilError
from toril.model import (
    Answer,
    Claim,
    Claimed,
    Idle,
    JobRecord,
    JobRef,
    QueueSummary,
    Receipt,
    Recovered,
    Refusal,
    Report,
    Settled,
    Settlement,
    Unit,
    Update,
    Wanted,
    Woken,
)
from toril.stores.redis.calls import KIND, literal
from toril.stores.redis.store import RedisStore

T = TypeVar("T")
R = TypeVar("R")


class ShardedRedisStore(RedisStore):
    """A store whose queues lie in several slots, each with its name as hash tag, as in `bull:{email}:wait`: Node must name its
    queues so, as in `{email}`. A unit lies in one slot, or is refused."""

    sharded = True

    async def add(self, units: Sequence[Unit]) -> list[Receipt]:
        """Store units. When the nodes of some cannot be reached, these are refused with `StoreUnavailable`, and the others stand.

        Raises:
            StoreUnavailable: no node that was needed can be reached.
        """
        add, away = super().add, list[StoreUnavailable]()

        async def add_to_one(units: Sequence[Unit]) -> list[Receipt]:
            try:
                return await add(units)
            except StoreUnavailable as error:
                away.append(error)
                return [_refused(unit, error) for unit in units]

        refused = {place: receipt for place, unit in enumerate(units) if (receipt := _crossing(unit)) is not None}
        sound = [unit for place, unit in enumerate(units) if place not in refused]
        receipts = await self._each(sound, lambda unit: unit.jobs[0].queue, add_to_one)
        if away and all(receipt.refusal is not None and receipt.refusal.error in away for receipt in receipts):
            raise away[0]
        rest = iter(receipts)
        return [refused.get(place) or next(rest) for place in range(len(units))]

    async def claim(self, wanted: Wanted) -> Claimed:
        claim = super().claim
        return _together(await _all(claim(replace(wanted, slots=(slots,))) for slots in wanted.slots))

    async def settle(self, settled: Sequence[Settlement], then: Wanted | None = None) -> Settled:
        settle = super().settle
        by_queue: dict[str, list[Settlement]] = {}
        for settlement in settled:
            by_queue.setdefault(settlement.claim.ref.queue, []).append(settlement)
        slots = {one.queue: one for one in (then.slots if then else ())}
        answers = await _all(
            settle(by_queue.get(queue, ()), replace(then, slots=(slots[queue],)) if then and queue in slots else None)
            for queue in dict.fromkeys((*by_queue, *slots))
        )
        return Settled(
            tuple(ref for answer in answers for ref in answer.lost),
            tuple(ref for answer in answers for ref in answer.staying),
            tuple(refusal for answer in answers for refusal in answer.refused),
            None if then is None else _together(answer.claimed for answer in answers if answer.claimed is not None),
        )

    async def report(self, reports: Sequence[Report]) -> list[JobRef]:
        return await self._each(reports, lambda one: one.claim.ref.queue, super().report, named=False)

    async def extend(self, claims: Sequence[Claim], lock_ms: int) -> list[JobRef]:
        extend = super().extend
        return await self._each(claims, lambda one: one.ref.queue, lambda some: extend(some, lock_ms), named=False)

    async def recover(self, queues: Sequence[str], *, max_stalled: int, interval_ms: int) -> Recovered:
        recover = super().recover
        found = await _all(recover([queue], max_stalled=max_stalled, interval_ms=interval_ms) for queue in queues)
        return Recovered(
            tuple(ref for one in found for ref in one.requeued), tuple(ref for one in found for ref in one.deferred)
        )

    async def wait(self, worker: str, queues: Sequence[str], until_ms: int | None) -> Woken:
        wait = super().wait
        waits = [asyncio.ensure_future(wait(f"{worker} {queue}", [queue], until_ms)) for queue in queues]
        try:
            pending = set(waits)
            while pending and not any(map(_has_news, waits)):
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
            ended = await asyncio.gather(*waits, return_exceptions=True)
        rang = frozenset(queue for one in ended if isinstance(one, Woken) for queue in one.queues)
        broken = [one for one in ended if isinstance(one, Exception)]
        if broken and not rang:
            raise broken[0]
        return Woken(rang)

    async def promote(self, refs: Sequence[JobRef]) -> list[Answer]:
        return await self._each(refs, _queue_of, super().promote)

    async def retry(
        self, refs: Sequence[JobRef], *, reset_attempts: bool = False, data: str | None = None
    ) -> list[Answer]:
        retry = super().retry
        return await self._each(refs, _queue_of, lambda some: retry(some, reset_attempts=reset_attempts, data=data))

    async def remove(self, refs: Sequence[JobRef]) -> list[Answer]:
        return await self._each(refs, _queue_of, super().remove)

    async def cancel(self, refs: Sequence[JobRef], reason: str) -> list[Answer]:
        cancel = super().cancel
        return await self._each(refs, _queue_of, lambda some: cancel(some, reason))

    async def detach(self, refs: Sequence[JobRef]) -> list[Answer]:
        return await self._each(refs, _queue_of, super().detach)

    async def update(self, updates: Sequence[Update]) -> list[Answer]:
        return await self._each(updates, lambda one: one.ref.queue, super().update)

    async def get(self, refs: Sequence[JobRef]) -> list[JobRecord | None]:
        return await self._each(refs, _queue_of, super().get)

    async def summaries(self, queues: Sequence[str] | None = None) -> list[QueueSummary]:
        names = await self._queues() if queues is None else queues
        return await self._each(names, lambda name: name, super().summaries)

    async def age(self, ms: int) -> None:
        prefix = f"{self.prefix}:"
        names = {key.removeprefix(prefix).partition(":")[0] async for page in self._pages("*") for key in page}
        queues = [self._keys.queue_of(prefix + name) for name in names]
        await _all(
            self._run("age", self._place(queue), pattern=f"{literal(self._keys.base(queue))}*") for queue in queues
        )

    async def _each(
        self,
        items: Sequence[T],
        queue_of: Callable[[T], str],
        ask: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        named: bool = True,
    ) -> list[R]:
        """Ask for the items of each queue; the answers in the order of the items, or, not `named`, in any."""
        places: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            places.setdefault(queue_of(item), []).append(place)
        answers = await _all(ask([items[place] for place in some]) for some in places.values())
        if not named:
            return [answer for some in answers for answer in some]
        ordered: dict[int, R] = {}
        for some, answered in zip(places.values(), answers, strict=True):
            ordered.update(zip(some, answered, strict=True))
        return [ordered[place] for place in range(len(items))]


async def _all(calls: Iterable[Awaitable[R]]) -> list[R]:
    return list(await asyncio.gather(*calls))


def _queue_of(ref: JobRef) -> str:
    return ref.queue


def _has_news(wait: asyncio.Future[Woken]) -> bool:
    """Whether a wait has ended by a ring, or broken."""
    return wait.done() and (wait.exception() is not None or bool(wait.result().queues))


def _refused(unit: Unit, error: TorilError, number: int = 0) -> Receipt:
    job = unit.jobs[number]
    return Receipt(KIND, refusal=Refusal(JobRef(job.queue, job.id), error))


def _crossing(unit: Unit) -> Receipt | None:
    """The refusal of a unit of which a member, or its parent, lies in another slot than the first."""
    first = unit.jobs[0].queue
    for number, job in enumerate(unit.jobs):
        for queue in (job.queue, job.queue if job.parent is None else job.parent.ref.queue):
            if queue != first:
                return _refused(unit, CrossSlot(first, queue), number)
    return None


def _together(answers: Iterable[Claimed]) -> Claimed:
    claims: list[Claim] = []
    idle: dict[str, Idle] = {}
    for answer in answers:
        claims += answer.claims
        idle |= answer.idle
    return Claimed(tuple(claims), idle)
