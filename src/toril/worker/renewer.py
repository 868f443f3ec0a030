"""Keep the locks of running jobs from expiring, and see when the worker's loop is blocked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence

from toril.clock import Clock
from toril.errors import StoreError
from toril.model import JobRef
from toril.store import Consumer
from toril.worker.running import Running

log = logging.getLogger(__name__)

BEAT_S = 0.5
BLOCKED_S = 1.0


class Renewer:
    """Renews each lock at a third of its time.

    Runs on a thread and loop of its own, so that a handler that blocks the worker's loop cannot stop it. With a turned
    clock it is one more task of the worker's loop.
    """

    def __init__(
        self, store: Consumer, clock: Clock, running: Running, *, lock_ms: int, lose: Callable[[Sequence[JobRef]], None]
    ) -> None:
        self._store = store
        self._clock = clock
        self._running = running
        self._lock_ms = lock_ms
        self._lose = lose

    @property
    def busy(self) -> bool:
        """Whether any job is in the worker's hands."""
        return len(self._running) > 0

    async def run(self) -> None:
        while True:
            await self._clock.sleep_ms(self._lock_ms / 3)
            claims = self._running.claims()
            if not claims:
                continue
            try:
                lost = await self._store.extend(claims, self._lock_ms)
            except StoreError as error:
                log.warning("%d locks could not be renewed, trying again: %s", len(claims), error)
                continue
            still = {claim.ref for claim in self._running.claims()}
            self._lose([ref for ref in lost if ref in still])


class SideThread:
    """A thread with a loop of its own beside the worker's: the renewer lives there, and a look at the worker's loop."""

    def __init__(self, renewer: Renewer) -> None:
        self._renewer = renewer
        self._main = asyncio.get_running_loop()
        self._main_thread = threading.get_ident()
        self._beaten_at_s = time.monotonic()
        self._told = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="toril-renewer", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    async def stop(self) -> None:
        """End the thread."""
        self._ending = True
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(task.cancel)
        await self._main.run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except asyncio.CancelledError:
            pass
        except BaseException:
            log.exception("locks are no longer renewed: this worker's long jobs will be taken for stalled")

    async def _live(self) -> None:
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        if self._ending:  # it was stopped before it had begun, when there was no task to cancel
            return
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._renewer.run())
            loops.create_task(self._watch())

    # ---------------------------------------------------------------- is the worker's loop alive?

    async def _watch(self) -> None:
        """Say with a stack when the worker's loop has not moved for a second, once per blockage."""
        while True:
            with contextlib.suppress(RuntimeError):
                self._main.call_soon_threadsafe(self._beat)
            await asyncio.sleep(BEAT_S)
            blocked_s = time.monotonic() - self._beaten_at_s
            if blocked_s > BLOCKED_S + BEAT_S and not self._told and self._renewer.busy:
                self._told = True
                log.warning(
                    "the worker's loop has been blocked for %.1f s: no other job of this process can go on; "
                    "make the handler a plain def, which runs in a thread\n%s",
                    blocked_s,
                    self._stack(),
                )

    def _beat(self) -> None:
        self._beaten_at_s = time.monotonic()
        self._told = False

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._main_thread)  # pyright: ignore[reportPrivateUsage] - the documented way
        return "" if frame is None else "".join(traceback.format_stack(frame)).rstrip()
