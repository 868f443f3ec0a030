"""The jobs that a worker holds: handed out to it and not yet recorded as settled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from toril.handlers import Context
from toril.model import Claim, JobRef


@dataclass(slots=True)
class Run:
    """A job in a worker's hands."""

    claim: Claim
    context: Context | None = None
    task: asyncio.Task[None] | None = None
    started: bool = False
    began_at_ms: int = 0  # by the worker's own clock
    lost: bool = False
    handed_back: bool = False
    settling: bool = False  # its handler has ended, and what became of it is not yet recorded


class Running:
    """All runs, by job. Read by the renewer's thread, changed by the worker's loop only."""

    def __init__(self) -> None:
        self._runs: dict[JobRef, Run] = {}
        self.empty = asyncio.Event()
        self.empty.set()

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: Run) -> None:
        """A job was claimed."""
        self._runs[run.claim.ref] = run
        self.empty.clear()

    def remove(self, claim: Claim) -> None:
        """A job was settled, or lost."""
        run = self._runs.get(claim.ref)
        if run is not None and run.claim.token == claim.token:
            del self._runs[claim.ref]
            if not self._runs:
                self.empty.set()

    def claims(self) -> list[Claim]:
        """The claims whose locks are to be renewed. Safe from any thread: a copy of a dict is atomic."""
        return [run.claim for run in list(self._runs.values()) if not run.lost]

    def runs(self) -> list[Run]:
        """All runs, as they are now."""
        return list(self._runs.values())

    def lose(self, refs: Iterable[JobRef]) -> list[Run]:
        """Somebody else owns these jobs now; the runs that were ours."""
        lost = [self._runs[ref] for ref in refs if ref in self._runs and not self._runs[ref].lost]
        for run in lost:
            run.lost = True
        return lost

    def cancel(self, run: Run, reason: str) -> None:
        """Ask a handler to end: an async one by cancelling it, one in a thread by `ctx.cancelled`."""
        if run.context is not None:
            run.context.cancel_reason = reason
        if run.task is not None and run.started and not run.settling:  # one that has not begun sees it when it does
            run.task.cancel(reason)
