"""The store on Redis: each verb is one script call, which speaks BullMQ's wire format."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from toril.clock import SYSTEM_CLOCK, Clock, reached
from toril.errors import (
    InvalidJob,
    JobNotFound,
    QueueBusy,
    QueueFull,
    QueueNotPaused,
    TorilError,
    Unrecoverable,
    WrongState,
)
from toril.model import (
    Added,
    Answer,
    Child,
    Claim,
    Claimed,
    Event,
    Idle,
    JobRecord,
    JobRef,
    LogPage,
    NewJob,
    Page,
    QueueSettings,
    QueueSummary,
    Receipt,
    Recovered,
    Refusal,
    Report,
    Settled,
    Settlement,
    Slots,
    Unit,
    Wanted,
    Woken,
    WorkerInfo,
)
from toril.states import State
from toril.stores.redis import wire
from toril.stores.redis.connection import Bell, Connections
from toril.stores.redis.keys import COLLECTIONS, Keys, Places

LONGEST_BLOCK_S = 10.0
WISHES_REMEMBERED = 512
OBLITERATED_AT_ONCE = 1000
PENDING_CHILDREN, FAILED_CHILD, STAYING = -4, -9, 1


class _Slot(NamedTuple):
    queue: int
    free: int
    max: int | str
    per_ms: int | str


class _Named(NamedTuple):
    slot: int
    id: str


class _Ref(NamedTuple):
    queue: int
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


class _Queue(NamedTuple):
    queue: int


class RedisStore:
    """Jobs in Redis, under keys that begin with `prefix`. Opening does no I/O; the first verb connects."""

    def __init__(self, url: str, *, prefix: str = "bull", clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._keys = Keys(prefix)
        self._connections = Connections(url, clock)
        self._wishes: dict[str, None] = {}

    @property
    def kind(self) -> str:
        return "redis"

    @property
    def place(self) -> str:
        return self._connections.place

    @property
    def prefix(self) -> str:
        return self._keys.prefix

    @property
    def clock(self) -> Clock:
        return self._clock

    async def close(self) -> None:
        await self._connections.close()

    # ------------------------------------------------------------------ producer

    async def add(self, units: Sequence[Unit]) -> list[Receipt]:
        if not units:
            return []
        places = Places(self._keys)
        jobs = [
            wire.job_row(job, number, places.of(job.queue), self._keys)
            for number, unit in enumerate(units, 1)
            for job in unit.jobs
        ]
        answers = await self._run("add", places, jobs=jobs)
        return [self._receipt(unit, answer) for unit, answer in zip(units, answers, strict=True)]

    def _receipt(self, unit: Unit, answer: Sequence[Any]) -> Receipt:
        code, *details = answer
        if code == 0:
            return Receipt(
                self.kind,
                tuple(Added(_ref(job), bool(flag)) for job, flag in zip(unit.jobs, details, strict=True)),
            )
        job = unit.jobs[int(details[0]) - 1]
        return Receipt(self.kind, refusal=Refusal(_ref(job), self._refused(job, code, details[1:])))

    def _refused(self, job: NewJob, code: int, details: Sequence[Any]) -> TorilError:
        if code == -20:
            return QueueFull(job.queue, int(details[0]), int(details[1]))
        assert job.parent is not None
        if code == -5:
            return JobNotFound(job.parent.ref)
        other = self._keys.ref_of(str(details[0]))
        return InvalidJob(
            f"job {_ref(job)} is a child of {other} already and cannot be one of {job.parent.ref} too: give it an id of its own"
        )

    # ------------------------------------------------------------------ consumer

    async def claim(self, wanted: Wanted) -> Claimed:
        if not wanted.slots:
            return Claimed()
        places = Places(self._keys)
        wish = self._wish(wanted, places)
        claims, idle = await self._run("claim", places, **wish)
        return self._claimed(wanted, places, claims, idle)

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

    def _claimed(self, wanted: Wanted, places: Places, claims: Iterable[Any], idle: Iterable[Any]) -> Claimed:
        return Claimed(
            tuple(
                wire.read_claim(places.queue_at(place), job_id, flat, wanted.token, wanted.worker, self._keys)
                for place, job_id, flat in claims
            ),
            {places.queue_at(place): Idle(reason, until_ms or None) for place, reason, until_ms in idle},
        )

    async def settle(self, settled: Sequence[Settlement], then: Wanted | None = None) -> Settled:
        if not settled and then is None:
            return Settled()
        places = Places(self._keys)
        now_ms = await self._connections.now_ms()
        rows = [wire.settled_row(one.claim, one.outcome, places.of(one.claim.ref.queue), now_ms) for one in settled]
        codes, claims, idle = await self._run("settle", places, settled=rows, **self._wish(then, places))
        lost, staying, refused = _sorted(settled, codes)
        claimed = None if then is None else self._claimed(then, places, claims, idle)
        return Settled(tuple(lost), tuple(staying), tuple(refused), claimed)

    async def report(self, reports: Sequence[Report]) -> list[JobRef]:
        if not reports:
            return []
        places = Places(self._keys)
        rows = [
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
        lost = await self._run("report", places, reports=rows, lines=lines)
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
        checked = [_Queue(places.of(queue)) for queue in queues]
        moved = await self._run("recover", places, max_stalled=max_stalled, interval_ms=interval_ms, checked=checked)
        refs = [(JobRef(places.queue_at(place), job_id), bool(deferred)) for place, job_id, deferred in moved]
        return Recovered(
            tuple(ref for ref, deferred in refs if not deferred), tuple(ref for ref, deferred in refs if deferred)
        )

    async def wait(self, worker: str, queues: Sequence[str], until_ms: int | None) -> Woken:
        while until_ms is None or self._clock.now_ms() < until_ms:
            queue = await self._ring(worker, queues, until_ms)
            if queue is not None:
                return Woken(frozenset((queue,)))
        places = Places(self._keys)
        for queue in queues:
            places.of(queue)
        rang = await self._run("hear", places)
        return Woken(frozenset(places.queue_at(place) for place in rang))

    async def _ring(self, worker: str, queues: Sequence[str], until_ms: int | None) -> str | None:
        """The first queue that rings. None when a while has passed, so that a connection that has died is noticed."""
        markers = {self._keys.base(queue) + "marker": queue for queue in queues}
        async with self._connections.bell(worker, self._client_name(worker, queues)) as bell:
            popping = asyncio.ensure_future(bell.pop(list(markers), self._block_s(until_ms)))
            try:
                await reached(self._clock, cast("asyncio.Future[None]", popping), until_ms)
            except asyncio.CancelledError:
                await self._hand_back(bell, popping)
                raise
            marker = await popping if popping.done() else await bell.stop(popping)
        return None if marker is None else markers[marker]

    def _block_s(self, until_ms: int | None) -> float:
        if until_ms is None or self._clock.turned:
            return LONGEST_BLOCK_S
        return min(LONGEST_BLOCK_S, (until_ms - self._clock.now_ms()) / 1000)

    async def _hand_back(self, bell: Bell, popping: asyncio.Future[str | None]) -> None:
        """Ring again for somebody else when the ring came while its wait was being cancelled."""
        marker = await bell.stop(popping)
        if marker is not None:
            await self._connections.command("ZADD", marker, 0, "0")

    def _client_name(self, worker: str, queues: Sequence[str]) -> str:
        """What BullMQ lists workers by. A connection has one name, so it is that of the first queue."""
        queue = base64.b64encode(queues[0].encode()).decode()
        return f"{self.prefix}:{queue}:w:{worker}"

    async def announce(self, worker: WorkerInfo) -> None:
        """Nothing to say: peers list workers by the name of the connection on which they wait."""

    # ------------------------------------------------------------------ admin

    async def configure(self, queue: str, settings: QueueSettings) -> None:
        await self._run("configure", self._place(queue), values=wire.settings_rows(settings))

    async def pause(self, queue: str) -> None:
        await self._run("configure", self._place(queue), values=[wire.SettingRow("paused", "1")])

    async def resume(self, queue: str) -> None:
        await self._run("configure", self._place(queue), values=[wire.SettingRow("paused", "")])

    async def promote(self, refs: Sequence[JobRef]) -> list[Answer]:
        return await self._answers("promote", refs)

    async def retry(
        self, refs: Sequence[JobRef], *, reset_attempts: bool = False, data: str | None = None
    ) -> list[Answer]:
        return await self._answers(
            "retry", refs, reset_attempts=int(reset_attempts), with_data=int(data is not None), data=data or ""
        )

    async def _answers(self, verb: str, refs: Sequence[JobRef], **values: Any) -> list[Answer]:
        if not refs:
            return []
        places = Places(self._keys)
        rows = [_Ref(places.of(ref.queue), ref.id) for ref in refs]
        return [Answer(word) for word in await self._run(verb, places, refs=rows, **values)]

    async def obliterate(self, queue: str, *, force: bool = False) -> int:
        removed: int = 0
        while True:
            code, count = await self._run("obliterate", self._place(queue), force=int(force), limit=OBLITERATED_AT_ONCE)
            if code == -1:
                raise QueueNotPaused(queue)
            if code == -2:
                raise QueueBusy(queue, int(count))
            removed += int(count)
            if code == 0:
                return removed

    # ------------------------------------------------------------------ inspector

    async def get(self, refs: Sequence[JobRef]) -> list[JobRecord | None]:
        if not refs:
            return []
        places = Places(self._keys)
        now_ms = await self._connections.now_ms()
        rows = [_Ref(places.of(ref.queue), ref.id) for ref in refs]
        answers = await self._run("get", places, refs=rows)
        return [wire.read_record(ref, answer, now_ms, self._keys) for ref, answer in zip(refs, answers, strict=True)]

    async def find(
        self, queue: str, state: State, *, after: str | None = None, limit: int = 50, newest_first: bool = False
    ) -> Page[JobRecord]:
        place, _, after_id = (after or "").partition(":")
        found = await self._run(
            "find",
            self._place(queue),
            collection=COLLECTIONS[state],
            after_id=after_id,
            after_place=place,
            limit=limit + 1,
            reversed=int(newest_first),
        )
        shown = found[:limit]
        records = await self.get([JobRef(queue, job_id) for job_id, _ in shown])
        more = f"{shown[-1][1]}:{shown[-1][0]}" if len(found) > limit and shown else None
        return Page(tuple(record for record in records if record is not None), more)

    async def summaries(self, queues: Sequence[str] | None = None) -> list[QueueSummary]:
        names = await self._queues() if queues is None else queues
        if not names:
            return []
        places = Places(self._keys)
        now_ms = await self._connections.now_ms()
        asked = [_Queue(places.of(name)) for name in names]
        answers = await self._run("summaries", places, asked=asked)
        return [_summary(name, answer, now_ms) for name, answer in zip(names, answers, strict=True)]

    async def _queues(self) -> list[str]:
        pattern = f"{_literal(self.prefix)}:*:meta"
        found: set[str] = set()
        cursor = "0"
        while True:
            cursor, page = await self._connections.command("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            found.update(key.removeprefix(f"{self.prefix}:").removesuffix(":meta") for key in page)
            if cursor in ("0", 0):
                return sorted(name for name in found if name and ":" not in name)

    async def children(self, ref: JobRef) -> list[Child]:
        found = await self._run("children", self._place(ref.queue), id=ref.id)
        return [
            Child(
                self._keys.ref_of(key),
                state,
                result=text if state == "completed" else None,
                reason=text if state in ("failed", "ignored") else None,
            )
            for key, state, text in found
        ]

    async def logs(self, ref: JobRef, *, first: int = 0, limit: int = 1000) -> LogPage:
        key = self._keys.job(ref) + ":logs"
        lines = await self._connections.command("LRANGE", key, first, first + limit - 1)
        return LogPage(tuple(lines), first, await self._connections.command("LLEN", key))

    async def settings(self, queue: str) -> QueueSettings:
        flat = await self._connections.command("HGETALL", self._keys.base(queue) + "meta")
        return wire.read_settings(_flat(flat), await self._connections.now_ms())

    # ------------------------------------------------------------------ events

    async def publish(self, queue: str, name: str, fields: dict[str, str]) -> str:
        kept = (await self.settings(queue)).max_events
        flat = [word for field in fields.items() for word in field]
        key = self._keys.base(queue) + "events"
        return str(await self._connections.command("XADD", key, "MAXLEN", "~", kept, "*", "event", name, *flat))

    async def read(
        self, queue: str, after: str | None, *, limit: int = 1000, until_ms: int | None = None
    ) -> list[Event]:
        """As the seam says; waiting for the first event comes with the readers that need it."""
        first = "-" if after is None else f"({after}"
        key = self._keys.base(queue) + "events"
        entries = await self._connections.command("XRANGE", key, first, "+", "COUNT", limit)
        return [wire.read_event(queue, entry_id, _flat(fields)) for entry_id, fields in entries]

    async def last_event(self, queue: str) -> str:
        entries = await self._connections.command("XREVRANGE", self._keys.base(queue) + "events", "+", "-", "COUNT", 1)
        return str(entries[0][0]) if entries else "0-0"

    async def trim(self, queue: str, keep: int) -> int:
        return int(await self._connections.command("XTRIM", self._keys.base(queue) + "events", "MAXLEN", "~", keep))

    # ------------------------------------------------------------------ tests

    async def age(self, ms: int) -> None:
        """Let the keys expire that are due by a clock that a test has turned `ms` milliseconds forward."""
        await self._run("age", Places(self._keys), pattern=f"{_literal(self.prefix)}:*")

    # ------------------------------------------------------------------

    async def _run(self, name: str, places: Places, **values: Any) -> Any:
        now_ms = await self._connections.now_ms()
        return await self._connections.run(name, places.bases, now=now_ms, **values)

    def _place(self, queue: str) -> Places:
        places = Places(self._keys)
        places.of(queue)
        return places


def _ref(job: NewJob) -> JobRef:
    return JobRef(job.queue, job.id)


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


def _summary(name: str, answer: Sequence[Any], now_ms: int) -> QueueSummary:
    *counts, settings, oldest = answer
    states = (
        State.WAITING,
        State.PRIORITIZED,
        State.DELAYED,
        State.ACTIVE,
        State.WAITING_CHILDREN,
        State.COMPLETED,
        State.FAILED,
    )
    return QueueSummary(
        name,
        dict(zip(states, counts, strict=True)),
        wire.read_settings(settings, now_ms),
        int(oldest) if oldest else None,
    )


def _flat(fields: Mapping[str, str] | Sequence[str]) -> Sequence[str]:
    """A hash, which redis-py has made a dict of where it knew the command."""
    if isinstance(fields, Mapping):
        return [word for field in fields.items() for word in field]
    return fields


def _literal(text: str) -> str:
    """A glob pattern that fits this text only."""
    return "".join(f"\\{c}" if c in "*?[]^-\\" else c for c in text)
