"""Hand jobs out and take their outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from toril.clock import reached
from toril.errors import Unrecoverable, WrongState
from toril.model import (
    Claim,
    Claimed,
    Idle,
    JobRef,
    Recovered,
    Refusal,
    Report,
    Settled,
    Settlement,
    Slots,
    Wanted,
    Woken,
)
from toril.stores.redis.calls import QueueRow
from toril.stores.redis.connection import Bell
from toril.stores.redis.keys import Places
from toril.stores.redis.presence import RedisPresence
from toril.stores.redis.wire import records
from toril.stores.redis.wire.rows import SettledRows

LONGEST_BLOCK_S = 5.0
WISHES_REMEMBERED = 512
PENDING_CHILDREN, FAILED_CHILD, STAYING = -4, -9, 1


class _Slot(NamedTuple):
    queue: int
    free: int
    max: int | str
    per_ms: int | str


class _Named(NamedTuple):
    slot: int
    id: str


class _Held(NamedTuple):
    queue: int
    id: str
    token: str


class _Reported(NamedTuple):
    queue: int
    id: str
    token: str
    progress: str
    keep_logs: int


class _Line(NamedTuple):
    report: int
    text: str


class RedisConsumer(RedisPresence):
    """`claim`, `settle`, `report`, `extend`, `recover`, `wait`."""

    async def claim(self, wanted: Wanted) -> Claimed:
        if not wanted.slots:
            return Claimed()
        places = Places(self._keys)
        wish = self._wish(wanted, places)
        claims, idle = await self._run("claim", places, **wish)
        return self._claimed(wanted, places, claims, idle, await self._connections.ahead_ms())

    def _wish(self, wanted: Wanted | None, places: Places) -> dict[str, Any]:
        """The arguments that hand_out.lua takes."""
        if wanted is None:
            wanted = Wanted("", "", 0, ())
        again = wanted.token in self._wishes
        if wanted.slots and not again:
            self._wishes[wanted.token] = None
            if len(self._wishes) > WISHES_REMEMBERED:
                del self._wishes[next(iter(self._wishes))]
        return {
            "token": wanted.token,
            "lock_ms": wanted.lock_ms,
            "worker": wanted.worker,
            "again": int(again),
            "slots": [_slot(slots, places) for slots in wanted.slots],
            "named": [_Named(n, one) for n, slots in enumerate(wanted.slots, 1) for one in slots.ids],
        }

    def _claimed(
        self, wanted: Wanted, places: Places, claims: Iterable[Any], idle: Iterable[Any], ahead_ms: int
    ) -> Claimed:
        return Claimed(
            tuple(
                records.read_claim(places.queue_at(place), job_id, flat, wanted.token, wanted.worker, self._keys)
                for place, job_id, flat in claims
            ),
            {
                places.queue_at(place): Idle(reason, until_ms - ahead_ms if until_ms else None)
                for place, reason, until_ms in idle
            },
        )

    async def settle(self, settled: Sequence[Settlement], then: Wanted | None = None) -> Settled:
        if not settled and then is None:
            return Settled()
        places = Places(self._keys)
        rows = SettledRows(await self._connections.now_ms(), await self._connections.ahead_ms())
        for one in settled:
            rows.append(one.claim, one.outcome, places.of(one.claim.ref.queue))
        codes, claims, idle = await self._run(
            "settle",
            places,
            terms=rows.terms,
            details=rows.details,
            settled=rows.settled,
            **self._wish(then, places),
        )
        lost, staying, refused = _sorted(settled, codes)
        ahead_ms = await self._connections.ahead_ms()
        claimed = None if then is None else self._claimed(then, places, claims, idle, ahead_ms)
        return Settled(tuple(lost), tuple(staying), tuple(refused), claimed)

    async def report(self, reports: Sequence[Report]) -> list[JobRef]:
        if not reports:
            return []
        places = Places(self._keys)
        told = [
            _Reported(
                places.of(one.claim.ref.queue),
                one.claim.ref.id,
                one.claim.token,
                one.progress or "",
                one.claim.options.keep_logs,
            )
            for one in reports
        ]
        lines = [_Line(n, line) for n, one in enumerate(reports, 1) for line in one.logs]
        lost = await self._run("report", places, reports=told, lines=lines)
        return [reports[int(place) - 1].claim.ref for place in lost]

    async def extend(self, claims: Sequence[Claim], lock_ms: int) -> list[JobRef]:
        if not claims:
            return []
        places = Places(self._keys)
        held = [_Held(places.of(claim.ref.queue), claim.ref.id, claim.token) for claim in claims]
        lost = await self._run("extend", places, lock_ms=lock_ms, claims=held)
        return [claims[int(place) - 1].ref for place in lost]

    async def recover(self, queues: Sequence[str], *, max_stalled: int, interval_ms: int) -> Recovered:
        if not queues:
            return Recovered()
        places = Places(self._keys)
        checked = [QueueRow(places.of(queue)) for queue in queues]
        moved = await self._run("recover", places, max_stalled=max_stalled, interval_ms=interval_ms, checked=checked)
        refs = [(JobRef(places.queue_at(place), job_id), bool(deferred)) for place, job_id, deferred in moved]
        return Recovered(
            tuple(ref for ref, deferred in refs if not deferred), tuple(ref for ref, deferred in refs if deferred)
        )

    async def wait(self, worker: str, queues: Sequence[str], until_ms: int | None) -> Woken:
        markers = {self._keys.base(queue) + "marker": queue for queue in queues}
        first = next(iter(markers))
        async with self._connections.bell(worker, self._bell_name(worker, queues), first) as bell:
            while until_ms is None or self._clock.now_ms() < until_ms:
                marker = await self._pop(bell, list(markers), until_ms)
                if marker is not None:
                    return Woken(frozenset((markers[marker],)))
        places = Places(self._keys)
        for queue in queues:
            places.of(queue)
        rang = await self._run("hear", places)
        return Woken(frozenset(places.queue_at(place) for place in rang))

    async def _pop(self, bell: Bell, markers: Sequence[str], until_ms: int | None) -> str | None:
        """The first marker that is there. None when a while has passed, so that a connection that has died is noticed."""
        seconds = self._block_s(until_ms)
        popping = bell.block(("BZPOPMIN", *markers, f"{seconds:.3f}"), seconds)
        try:
            if self._clock.turned:
                await reached(self._clock, popping, until_ms)
            else:
                await asyncio.wait((popping,))
        except asyncio.CancelledError:
            await self._hand_back(bell, popping)
            raise
        answer = await popping if popping.done() else await bell.stop(popping)
        return None if answer is None else str(answer[0])

    def _block_s(self, until_ms: int | None) -> float:
        if until_ms is None or self._clock.turned:
            return LONGEST_BLOCK_S
        return max(0.001, min(LONGEST_BLOCK_S, (until_ms - self._clock.now_ms()) / 1000))

    async def _hand_back(self, bell: Bell, popping: asyncio.Future[Any]) -> None:
        """Ring again for somebody else when the ring came while its wait was being cancelled."""
        answer = await bell.stop(popping)
        if answer is not None:
            await self._connections.command("ZADD", str(answer[0]), 0, "0")


def _slot(slots: Slots, places: Places) -> _Slot:
    limiter = slots.limiter
    return _Slot(
        places.of(slots.queue),
        slots.free,
        "" if limiter is None else limiter.max,
        "" if limiter is None else limiter.per_ms,
    )


def _sorted(
    settled: Sequence[Settlement], codes: Iterable[Sequence[int]]
) -> tuple[list[JobRef], list[JobRef], list[Refusal]]:
    """Those lost, those that stay, and those whose children forbid it."""
    lost: list[JobRef] = []
    staying: list[JobRef] = []
    refused: list[Refusal] = []
    for place, code in codes:
        claim = settled[place - 1].claim
        if code == STAYING:
            staying.append(claim.ref)
        elif code == PENDING_CHILDREN:
            refused.append(Refusal(claim.ref, WrongState(claim.ref, "complete", "waiting for children", "without any")))
        elif code == FAILED_CHILD:
            reason = f"cannot complete {claim.ref}: at least one of its children has failed"
            refused.append(Refusal(claim.ref, Unrecoverable(reason)))
        else:
            lost.append(claim.ref)
    return lost, staying, refused
