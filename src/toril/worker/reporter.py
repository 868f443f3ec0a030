"""Record what running jobs say of themselves: in batches, and always before what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Generator, Sequence
from dataclasses import replace
from typing import Any

from toril.errors import StoreUnavailable
from toril.flow import QueueOf, add_flows
from toril.job import Call, Job
from toril.model import Child, Claim, JobRef, Report
from toril.store import Store
from toril.worker.outage import Outage

log = logging.getLogger(__name__)


class _Said:
    """A report on its way. Awaiting it, on any loop, waits until it is recorded."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def done(self) -> None:
        self._event.set()
        for loop, future in self._waiting:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda f=future: f.done() or f.set_result(None))  # type: ignore[misc]

    def __await__(self) -> Generator[None, None, None]:
        if not self._event.is_set():
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            self._waiting.append((loop, future))
            if self._event.is_set() and not future.done():
                future.set_result(None)
            yield from future


class Reports:
    """Gathers reports from the loop and from threads; one round trip is in flight at a time."""

    def __init__(self, store: Store, outage: Outage, queue_of: QueueOf) -> None:
        self._store = store
        self._queue_of = queue_of
        self._outage = outage
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._said: list[tuple[Report, _Said]] = []
        self._something = asyncio.Event()
        self._recorded = asyncio.Condition()
        self.pending: dict[JobRef, int] = {}

    def report(self, claim: Claim, *, progress: str | None = None, line: str | None = None) -> Awaitable[None]:
        """Take a report; safe from any thread."""
        said = _Said()
        with self._lock:
            self._said.append((Report(claim, progress, () if line is None else (line,)), said))
            self.pending[claim.ref] = self.pending.get(claim.ref, 0) + 1
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._something.set)
        return said

    async def children(self, ref: JobRef) -> list[Child]:
        """The children of a job."""
        return await self._store.children(ref)

    async def add_children(self, ref: JobRef, calls: Sequence[Call]) -> list[Job[Any]]:
        """Add children to a job, in its own queue where they name none."""
        named = [replace(call, queue=call.queue or ref.queue) for call in calls]
        return await add_flows(self._store, self._queue_of, named, parent=ref)

    async def settled(self, ref: JobRef) -> None:
        """Return when all that a job has said is recorded."""
        async with self._recorded:
            await self._recorded.wait_for(lambda: ref not in self.pending)

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._something.set()
        while True:
            await self._something.wait()
            self._something.clear()
            with self._lock:
                batch, self._said = self._said, []
            if batch:
                await self._record(batch)

    async def _record(self, batch: list[tuple[Report, _Said]]) -> None:
        reports = _merged([report for report, _ in batch])
        while True:
            try:
                for ref in await self._store.report(reports):
                    log.debug("%s is no longer ours: what it said was not recorded", ref)
                self._outage.over("report")
                break
            except StoreUnavailable as error:
                await self._outage.pause("report", error)
        with self._lock:
            for report, _ in batch:
                left = self.pending[report.claim.ref] - 1
                if left:
                    self.pending[report.claim.ref] = left
                else:
                    del self.pending[report.claim.ref]
        for _, said in batch:
            said.done()
        async with self._recorded:
            self._recorded.notify_all()


def _merged(reports: list[Report]) -> list[Report]:
    """One report per job: its last progress and all its lines. A flood of progress costs one write."""
    merged: dict[JobRef, Report] = {}
    for report in reports:
        before = merged.get(report.claim.ref)
        if before is None:
            merged[report.claim.ref] = report
        else:
            progress = before.progress if report.progress is None else report.progress
            merged[report.claim.ref] = Report(report.claim, progress, before.logs + report.logs)
    return list(merged.values())
