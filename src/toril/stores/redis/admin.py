"""Change jobs and queues by hand. What may take long is done in pieces, so that no call holds up the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from toril.errors import QueueBusy, QueueNotPaused
from toril.model import Answer, JobRef, QueueSettings, Update
from toril.options import DEFAULT_KEEP_LOGS
from toril.states import State
from toril.stores.redis.calls import Calls, RefRow, literal
from toril.stores.redis.keys import COLLECTIONS, Places
from toril.stores.redis.wire import rows

PIECE = 1000
"""About how many jobs one call changes."""


class _Change(NamedTuple):
    """A job's update; an empty text leaves a field as it is."""

    queue: int
    id: str
    data: str
    progress: str
    clear_logs: int | str
    priority: int | str
    lifo: int
    delay: int | str


class _Line(NamedTuple):
    update: int
    text: str


class RedisAdmin(Calls):
    """What people change: jobs, and settings of queues."""

    # ------------------------------------------------------------------ jobs

    async def promote(self, refs: Sequence[JobRef]) -> list[Answer]:
        return await self._answers("promote", refs)

    async def retry(
        self, refs: Sequence[JobRef], *, reset_attempts: bool = False, data: str | None = None
    ) -> list[Answer]:
        return await self._answers(
            "retry", refs, reset_attempts=int(reset_attempts), with_data=int(data is not None), data=data or ""
        )

    async def remove(self, refs: Sequence[JobRef]) -> list[Answer]:
        answers: list[Answer] = []
        begun = 0
        while len(answers) < len(refs):
            places, piece = self._piece(refs[len(answers) :])
            words, begun = await self._run("remove", places, limit=PIECE, begun=begun, refs=piece)
            answers += map(Answer, words)
        return answers

    async def cancel(self, refs: Sequence[JobRef], reason: str) -> list[Answer]:
        return await self._answers("cancel", refs, limit=PIECE, reason=reason)

    async def detach(self, refs: Sequence[JobRef]) -> list[Answer]:
        return await self._answers("detach", refs)

    async def _answers(self, verb: str, refs: Sequence[JobRef], **values: Any) -> list[Answer]:
        """What became of each job."""
        answers: list[Answer] = []
        while len(answers) < len(refs):
            places, piece = self._piece(refs[len(answers) :])
            answers += map(Answer, await self._run(verb, places, refs=piece, **values))
        return answers

    def _piece(self, refs: Sequence[JobRef]) -> tuple[Places, list[RefRow]]:
        """As many of the jobs as one call takes."""
        places = Places(self._keys)
        return places, [RefRow(places.of(ref.queue), ref.id) for ref in refs[:PIECE]]

    async def update(self, updates: Sequence[Update]) -> list[Answer]:
        answers: list[Answer] = []
        while len(answers) < len(updates):
            places = Places(self._keys)
            piece = updates[len(answers) :][:PIECE]
            changes = [_change(update, places) for update in piece]
            lines = [_Line(n, text) for n, update in enumerate(piece, 1) for text in update.logs]
            answers += map(
                Answer,
                await self._run(
                    "update", places, limit=PIECE, keep_logs=DEFAULT_KEEP_LOGS, updates=changes, lines=lines
                ),
            )
        return answers

    # ------------------------------------------------------------------ queues

    async def configure(self, queue: str, settings: QueueSettings) -> None:
        await self._set(queue, rows.settings_rows(settings))

    async def pause(self, queue: str) -> None:
        await self._set(queue, [rows.SettingRow("paused", "1")])

    async def resume(self, queue: str) -> None:
        await self._set(queue, [rows.SettingRow("paused", "")])

    async def _set(self, queue: str, values: Sequence[rows.SettingRow]) -> None:
        while await self._run("configure", self._place(queue), limit=PIECE, values=values):
            pass

    async def throttle(self, queue: str, for_ms: int) -> None:
        await self._run("throttle", self._place(queue), for_ms=for_ms)

    async def drain(self, queue: str, *, delayed: bool = False) -> int:
        removed = 0
        while count := await self._drain_once(queue, delayed):  # what went may have put a parent in its place
            removed += count
        return removed

    async def _drain_once(self, queue: str, delayed: bool) -> int:
        """Look through all that waits; return how many jobs went."""
        removed, place, behind = 0, 1, ""
        while place:
            count, place, behind = await self._run(
                "drain", self._place(queue), limit=PIECE, delayed=int(delayed), place=place, behind=behind
            )
            removed += int(count)
        return removed

    async def clean(self, queue: str, state: State, *, grace_ms: int, limit: int) -> list[str]:
        before_ms = await self._connections.now_ms() - grace_ms
        removed: list[str] = []
        behind, finished = "", 0
        while not finished:
            ids, finished, behind = await self._run(
                "clean",
                self._place(queue),
                limit=PIECE,
                collection=COLLECTIONS[state],
                before=before_ms,
                most=limit - len(removed),
                behind=behind,
                removed=len(removed),
            )
            removed += ids
        return removed

    async def obliterate(self, queue: str, *, force: bool = False) -> int:
        remains = literal(self._keys.base(queue)) + "[dp]*"
        removed, code, cursor = 0, 1, "0"
        while code == 1:
            code, count, cursor = await self._run(
                "obliterate", self._place(queue), limit=PIECE, force=int(force), remains=remains, cursor=cursor
            )
            if code == -1:
                raise QueueNotPaused(queue)
            if code == -2:
                raise QueueBusy(queue, int(count))
            removed += int(count)
        return removed

    async def forget(self, queue: str, deduplication_id: str) -> bool:
        return bool(await self._run("forget", self._place(queue), deduplication_id=deduplication_id))


def _change(update: Update, places: Places) -> _Change:
    def said(value: int | None) -> int | str:
        return "" if value is None else value

    return _Change(
        places.of(update.ref.queue),
        update.ref.id,
        update.data or "",
        update.progress or "",
        said(update.clear_logs),
        said(update.priority),
        int(update.lifo),
        said(update.delay_ms),
    )
