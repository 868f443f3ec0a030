"""The embedded store: what `toril.store` asks, on one SQLite file."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from toril.clock import SYSTEM_CLOCK, Clock
from toril.errors import ConfigError, UnsupportedStore
from toril.model import (
    MAX_METRICS_MINUTES,
    Answer,
    Child,
    Claim,
    Claimed,
    Event,
    Finding,
    JobRecord,
    JobRef,
    LogPage,
    Page,
    Placed,
    QueueSettings,
    QueueSummary,
    Receipt,
    Recovered,
    Refusal,
    Report,
    Schedule,
    ScheduleRecord,
    Series,
    Settled,
    Settlement,
    Unit,
    Update,
    Wanted,
    Woken,
    WorkerInfo,
)
from toril.states import FINISHED, State
from toril.stores.sqlite.connection import Place
from toril.stores.sqlite.database import Database, database_at, leave
from toril.stores.sqlite.transaction import Transaction
from toril.stores.sqlite.verbs import admin, checkup, deduplication, hold, look, schedules
from toril.stores.sqlite.verbs.add import Repeated, add
from toril.stores.sqlite.verbs.claim import claim
from toril.stores.sqlite.verbs.settle import settle

R = TypeVar("R")

_readers = itertools.count()


class SqliteStore:
    """A store in one file, or with `:memory:` in this process. Any loop, thread or forked child may use it."""

    kind = "sqlite"
    lanes = 1  # one writer: what finishes while it commits gathers for the next commit

    def __init__(
        self,
        path: str | Path,
        *,
        prefix: str = "bull",
        clock: Clock = SYSTEM_CLOCK,
        durability: Literal["full", "relaxed"] = "full",
    ) -> None:
        self._place = Place(None if str(path) == ":memory:" else Path(path).absolute(), durability)
        self._prefix = prefix
        self._clock = clock
        self._database: Database | None = None
        self._pid = 0

    @property
    def place(self) -> str:
        """The path of the file, or `:memory:`."""
        return str(self._place)

    @property
    def prefix(self) -> str:
        """What keeps its queues apart from others in the same file."""
        return self._prefix

    @property
    def clock(self) -> Clock:
        """What tells it the time."""
        return self._clock

    async def close(self) -> None:
        """Give back the threads and connections."""
        database, self._database = self._database, None
        if database is not None and self._pid == os.getpid():
            await asyncio.to_thread(leave, database)  # which waits for the writer to end

    # ---------------------------------------------------------------- Producer

    async def add(self, units: Sequence[Unit]) -> list[Receipt]:
        refusals = [self._refusal_to_confirm(unit) for unit in units]
        if any(refusals):
            stored = iter(await self.add([unit for unit, no in zip(units, refusals, strict=True) if no is None]))
            return [next(stored) if no is None else Receipt(self.kind, refusal=no) for no in refusals]
        try:
            return await self._write(lambda tx: add(tx, self._prefix, units, careful=False))
        except Repeated:
            return await self._write(lambda tx: add(tx, self._prefix, units))

    def _refusal_to_confirm(self, unit: Unit) -> Refusal | None:
        """A commit is on the disk, unless it was to be relaxed; replicas there are none."""
        if unit.confirm is None or not (unit.confirm.replicas or self._place.durability == "relaxed"):
            return None
        what = "has no replicas: leave out wait_replicas" if unit.confirm.replicas else "does not wait for the disk"
        return Refusal(
            JobRef(unit.jobs[0].queue, unit.jobs[0].id), UnsupportedStore(f"the SQLite file {self.place} {what}")
        )

    # ---------------------------------------------------------------- Consumer

    async def claim(self, wanted: Wanted) -> Claimed:
        # From before the look into its queues on, so that nothing can ring between a claim and the wait that follows.
        queues = [f"{self._prefix}:{slots.queue}" for slots in wanted.slots]
        self._opened().bell.attend(f"{self._prefix}:{wanted.worker}", "jobs", queues)
        return await self._write(lambda tx: claim(tx, self._prefix, wanted))

    async def settle(self, settled: Sequence[Settlement], then: Wanted | None = None) -> Settled:
        return await self._write(lambda tx: settle(tx, self._prefix, settled, then))

    async def report(self, reports: Sequence[Report]) -> list[JobRef]:
        return await self._write(lambda tx: hold.report(tx, self._prefix, reports))

    async def extend(self, claims: Sequence[Claim], lock_ms: int) -> list[JobRef]:
        return await self._write(lambda tx: hold.extend(tx, claims, lock_ms))

    async def recover(self, queues: Sequence[str], *, max_stalled: int, interval_ms: int) -> Recovered:
        return await self._write(lambda tx: hold.recover(tx, self._prefix, queues, max_stalled, interval_ms))

    async def advance_schedule(self, seen: ScheduleRecord, next_at_ms: int, *, running: str | None = None) -> Placed:
        return await self._write(lambda tx: schedules.advance_schedule(tx, self._prefix, seen, next_at_ms, running))

    async def wait(self, worker: str, queues: Sequence[str], until_ms: int | None) -> Woken:
        names = {f"{self._prefix}:{name}": name for name in queues}
        rung = await self._opened().bell.wait(f"{self._prefix}:{worker}", "jobs", names, until_ms, self._clock)
        return Woken(frozenset(names[name] for name in rung))

    async def announce(self, worker: WorkerInfo) -> None:
        text = json.dumps(asdict(worker), ensure_ascii=False)
        stopped = worker.state == "stopped"

        def write(tx: Transaction) -> None:
            tx.run("worker.forget", prefix=self._prefix, id=worker.id if stopped else "", now=tx.now_ms)
            if not stopped:
                tx.run(
                    "worker.announce",
                    prefix=self._prefix,
                    id=worker.id,
                    seen_at_ms=worker.seen_at_ms,
                    ttl_ms=worker.ttl_ms,
                    info=text,
                )

        await self._write(write)
        if stopped:
            self._opened().bell.forget(f"{self._prefix}:{worker.id}")

    # ---------------------------------------------------------------- Admin

    async def promote(self, refs: Sequence[JobRef]) -> list[Answer]:
        return await self._write(lambda tx: admin.promote(tx, self._prefix, refs))

    async def retry(
        self, refs: Sequence[JobRef], *, reset_attempts: bool = False, data: str | None = None
    ) -> list[Answer]:
        return await self._write(lambda tx: admin.retry(tx, self._prefix, refs, reset_attempts, data))

    async def remove(self, refs: Sequence[JobRef]) -> list[Answer]:
        return await self._write(lambda tx: admin.remove(tx, self._prefix, refs))

    async def cancel(self, refs: Sequence[JobRef], reason: str) -> list[Answer]:
        return await self._write(lambda tx: admin.cancel(tx, self._prefix, refs, reason))

    async def detach(self, refs: Sequence[JobRef]) -> list[Answer]:
        return await self._write(lambda tx: admin.detach(tx, self._prefix, refs))

    async def update(self, updates: Sequence[Update]) -> list[Answer]:
        return await self._write(lambda tx: admin.update(tx, self._prefix, updates))

    async def configure(self, queue: str, settings: QueueSettings) -> None:
        await self._write(lambda tx: admin.configure(tx, self._prefix, queue, settings))

    async def pause(self, queue: str) -> None:
        await self._write(lambda tx: admin.set_paused(tx, self._prefix, queue, True))

    async def resume(self, queue: str) -> None:
        await self._write(lambda tx: admin.set_paused(tx, self._prefix, queue, False))

    async def throttle(self, queue: str, for_ms: int) -> None:
        await self._write(lambda tx: admin.throttle(tx, self._prefix, queue, for_ms))

    async def drain(self, queue: str, *, delayed: bool = False) -> int:
        return await self._in_pieces(lambda tx: admin.drain_piece(tx, self._prefix, queue, delayed))

    async def clean(self, queue: str, state: State, *, grace_ms: int, limit: int) -> list[str]:
        return await self._write(lambda tx: admin.clean(tx, self._prefix, queue, state, grace_ms, limit))

    async def obliterate(self, queue: str, *, force: bool = False) -> int:
        return await self._in_pieces(lambda tx: admin.obliterate_piece(tx, self._prefix, queue, force))

    async def forget(self, queue: str, deduplication_id: str) -> bool:
        return await self._write(lambda tx: deduplication.forget(tx, self._prefix, queue, deduplication_id))

    async def put_schedule(
        self, schedule: Schedule, seen: ScheduleRecord | None, next_at_ms: int | None, *, count: int = 1
    ) -> Placed:
        return await self._write(lambda tx: schedules.put_schedule(tx, self._prefix, schedule, seen, next_at_ms, count))

    async def remove_schedule(self, queue: str, id: str) -> bool:
        return await self._write(lambda tx: schedules.remove_schedule(tx, self._prefix, queue, id))

    async def repair(self) -> list[Finding]:
        done: list[Finding] = []
        for prefix, qid in await self._read(checkup.everywhere):
            more = True
            while more:
                findings, more = await self._write(partial(checkup.repair, prefix=prefix, qid=qid))
                done += findings
        return done

    # ---------------------------------------------------------------- Inspector

    async def get(self, refs: Sequence[JobRef]) -> list[JobRecord | None]:
        return await self._read(lambda db: look.get(db, self._prefix, refs, self._clock.now_ms()))

    async def find(
        self, queue: str, state: State, *, after: str | None = None, limit: int = 50, newest_first: bool = False
    ) -> Page[JobRecord]:
        if limit < 1:
            raise ConfigError(f"limit must be at least 1, not {limit}")
        return await self._read(lambda db: look.find(db, self._prefix, queue, state, after, limit, newest_first))

    async def summaries(self, queues: Sequence[str] | None = None) -> list[QueueSummary]:
        return await self._read(lambda db: look.summaries(db, self._prefix, queues, self._clock.now_ms()))

    async def series(self, queue: str, state: State, *, limit: int = 1440) -> Series:
        if state not in FINISHED:
            raise ConfigError(f"only completed and failed jobs are counted by the minute, not {state.value!r} ones")
        if not 1 <= limit <= MAX_METRICS_MINUTES:
            raise ConfigError(f"limit must be from 1 to {MAX_METRICS_MINUTES:,} minutes, not {limit!r}")
        return await self._read(lambda db: look.series(db, self._prefix, queue, state, limit, self._clock.now_ms()))

    async def children(self, ref: JobRef) -> list[Child]:
        return await self._read(lambda db: look.children(db, self._prefix, ref))

    async def owner(self, queue: str, deduplication_id: str) -> JobRef | None:
        return await self._read(lambda db: look.owner(db, self._prefix, queue, deduplication_id, self._clock.now_ms()))

    async def schedules(self, queue: str | None = None, id: str | None = None) -> list[ScheduleRecord]:
        return await self._read(lambda db: schedules.schedules(db, self._prefix, queue, id))

    async def logs(self, ref: JobRef, *, first: int = 0, limit: int = 1000) -> LogPage:
        return await self._read(lambda db: look.logs(db, self._prefix, ref, first, limit))

    async def settings(self, queue: str) -> QueueSettings:
        return await self._read(lambda db: look.settings(db, self._prefix, queue, self._clock.now_ms()))

    async def workers(self) -> list[WorkerInfo]:
        return await self._read(lambda db: look.workers(db, self._prefix, self._clock.now_ms()))

    async def preflight(self) -> list[Finding]:
        return await self._read(lambda db: checkup.preflight(db, self._place))

    async def check(self) -> list[Finding]:
        if self._place.path is None:  # where reading and writing share a transaction, counts may be still to be written
            return await self._write(lambda tx: checkup.check(tx.connection, self._place, tx.queue_of))
        return await self._read(lambda db: checkup.check(db, self._place, checkup.queue_of(db)))

    # ---------------------------------------------------------------- EventLog

    async def publish(self, queue: str, name: str, fields: dict[str, str]) -> str:
        def write(tx: Transaction) -> str:
            row = tx.queue(self._prefix, queue, create=True)
            assert row is not None
            job_id = fields.get("job_id")
            tx.emit(row, name, job_id, **{key: value for key, value in fields.items() if key != "job_id"})
            return str(row.event_tail + tx.emitted(row))

        return await self._write(write)

    async def read(
        self, queue: str, after: str | None, *, limit: int = 1000, until_ms: int | None = None
    ) -> list[Event]:
        number = _event_number(after)
        listener, name = f"reader {next(_readers)}", f"{self._prefix}:{queue}"
        if until_ms is not None:
            self._opened().bell.attend(listener, "events", [name])
        try:
            while True:
                found = await self._read(lambda db: look.events(db, self._prefix, queue, number, limit))
                now_ms = self._clock.now_ms()
                if found or until_ms is None or now_ms >= until_ms:
                    return found
                await self._opened().bell.wait(listener, "events", [name], until_ms, self._clock)
        finally:
            self._opened().bell.forget(listener)

    async def last_event(self, queue: str) -> str:
        row = await self._read(lambda db: look.queue(db, self._prefix, queue))
        return "0" if row is None else str(row.event_tail)

    async def trim(self, queue: str, keep: int) -> int:
        def write(tx: Transaction) -> int:
            row = tx.queue(self._prefix, queue)
            return 0 if row is None else tx.run("event.trim", qid=row.qid, last=row.event_tail - keep)

        return await self._write(write)

    # ---------------------------------------------------------------- the file

    def _opened(self) -> Database:
        """The file in this process; a forked child has its own."""
        if self._database is None or self._pid != os.getpid():
            self._pid = os.getpid()
            self._database = database_at(self._place)
        return self._database

    async def _write(self, verb: Callable[[Transaction], R]) -> R:
        def operation(tx: Transaction) -> R:
            tx.now_ms = self._clock.now_ms()
            return verb(tx)

        return await self._opened().write(operation)

    async def _read(self, look_at: Callable[[sqlite3.Connection], R]) -> R:
        return await self._opened().read(look_at)

    async def _in_pieces(self, piece: Callable[[Transaction], int]) -> int:
        """Repeat a verb that removes some of many until nothing is left, so that no transaction holds up the others."""
        removed = 0
        while count := await self._write(piece):
            removed += count
        return removed


def _event_number(after: str | None) -> int:
    if after is None:
        return 0
    if not after.isdigit():
        raise ConfigError(f"{after!r} is not the id of an event of this store: pass one that it gave")
    return int(after)
