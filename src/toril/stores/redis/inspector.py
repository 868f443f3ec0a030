"""Look, and change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toril.errors import ConfigError
from toril.model import (
    MAX_METRICS_MINUTES,
    Child,
    JobRecord,
    JobRef,
    LogPage,
    Page,
    QueueSettings,
    QueueSummary,
    Series,
)
from toril.states import FINISHED, State
from toril.stores.redis.calls import Calls, QueueRow, RefRow, flat_of, literal
from toril.stores.redis.keys import COLLECTIONS, Places
from toril.stores.redis.wire import records
from toril.stores.redis.wire.texts import as_list, encode, parsed

MINUTE_MS = 60_000


PIECE = 1000
"""About how many jobs one call reads."""


class RedisInspector(Calls):
    """What people and dashboards read."""

    async def get(self, refs: Sequence[JobRef]) -> list[JobRecord | None]:
        found: list[JobRecord | None] = []
        for first in range(0, len(refs), PIECE):
            found += await self._get(refs[first : first + PIECE])
        return found

    async def _get(self, refs: Sequence[JobRef]) -> list[JobRecord | None]:
        places = Places(self._keys)
        now_ms = await self._connections.now_ms()
        rows = [RefRow(places.of(ref.queue), ref.id) for ref in refs]
        answers = await self._run("get", places, refs=rows)
        return [records.read_record(ref, answer, now_ms, self._keys) for ref, answer in zip(refs, answers, strict=True)]

    async def find(
        self, queue: str, state: State, *, after: str | None = None, limit: int = 50, newest_first: bool = False
    ) -> Page[JobRecord]:
        if limit < 1:
            raise ConfigError(f"limit must be at least 1, not {limit}")
        last_id, next_id, place = _cursor(after)
        found = await self._run(
            "find",
            self._place(queue),
            collection=COLLECTIONS[state],
            last_id=last_id,
            next_id=next_id,
            place=place,
            limit=limit + 1,
            reversed=int(newest_first),
        )
        shown, behind = found[:limit], found[limit:]
        records = await self.get([JobRef(queue, job_id) for job_id, _ in shown])
        more = encode([shown[-1][0], behind[0][0], shown[-1][1]]) if behind else None
        return Page(tuple(record for record in records if record is not None), more)

    async def summaries(self, queues: Sequence[str] | None = None) -> list[QueueSummary]:
        names = await self._queues() if queues is None else queues
        if not names:
            return []
        places = Places(self._keys)
        now_ms = await self._connections.now_ms()
        asked = [QueueRow(places.of(name)) for name in names]
        answers = await self._run("summaries", places, asked=asked)
        return [_summary(name, answer, now_ms) for name, answer in zip(names, answers, strict=True)]

    async def _queues(self) -> list[str]:
        found: set[str] = set()
        async for page in self._connections.scan(f"{literal(self._keys.prefix)}:*:meta"):
            found.update(self._keys.queue_of(key.removesuffix(":meta")) for key in page)
        return sorted(name for name in found if name and ":" not in name)

    async def series(self, queue: str, state: State, *, limit: int = 1440) -> Series:
        if state not in FINISHED:
            raise ConfigError(f"only completed and failed jobs are counted by the minute, not {state.value!r} ones")
        if not 1 <= limit <= MAX_METRICS_MINUTES:
            raise ConfigError(f"limit must be from 1 to {MAX_METRICS_MINUTES:,} minutes, not {limit!r}")
        now_ms = await self._connections.now_ms()
        answer = await self._run("series", self._place(queue), state=state.value, limit=limit)
        return _series(answer, now_ms, limit)

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

    async def owner(self, queue: str, deduplication_id: str) -> JobRef | None:
        owner = await self._run("owner", self._place(queue), deduplication_id=deduplication_id)
        return JobRef(queue, owner) if owner else None

    async def logs(self, ref: JobRef, *, first: int = 0, limit: int = 1000) -> LogPage:
        key = self._keys.job(ref) + ":logs"
        lines = await self._connections.command("LRANGE", key, first, first + limit - 1)
        return LogPage(tuple(lines), first, await self._connections.command("LLEN", key))

    async def settings(self, queue: str) -> QueueSettings:
        flat = await self._connections.command("HGETALL", self._keys.base(queue) + "meta")
        return records.read_settings(flat_of(flat), await self._connections.now_ms())


def _cursor(after: str | None) -> tuple[str, str, str]:
    """The last id of a page, the id that came next, and the place of the last."""
    if after is None:
        return "", "", ""
    words = as_list(parsed(after))
    if len(words) != 3 or not all(isinstance(word, str) for word in words):
        raise ConfigError(f"{after!r} is not where a page ended: pass a page's `next`")
    return words[0], words[1], words[2]


def _series(answer: Sequence[Any], now_ms: int, limit: int) -> Series:
    """What was counted up to now; or up to the last job, should the clock of its worker be ahead."""
    total, begun_ms, before, *earlier = map(int, answer or (0, now_ms, 0))
    begun, now = begun_ms // MINUTE_MS, now_ms // MINUTE_MS
    newest_first = [*[0] * min(now - begun, limit), total - before, *earlier, *[0] * limit][:limit]
    return Series(total, tuple(reversed(newest_first)), (max(begun, now) + 1) * MINUTE_MS)


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
        records.read_settings(settings, now_ms),
        int(oldest) if oldest else None,
    )
