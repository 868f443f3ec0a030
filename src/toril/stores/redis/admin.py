"""Change jobs and queues by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toril.errors import QueueBusy, QueueNotPaused
from toril.model import Answer, JobRef, QueueSettings
from toril.stores.redis.calls import Calls, RefRow
from toril.stores.redis.keys import Places
from toril.stores.redis.wire import rows

OBLITERATED_AT_ONCE = 1000


class RedisAdmin(Calls):
    """What people change: jobs, and settings of queues."""

    async def configure(self, queue: str, settings: QueueSettings) -> None:
        await self._run("configure", self._place(queue), values=rows.settings_rows(settings))

    async def pause(self, queue: str) -> None:
        await self._run("configure", self._place(queue), values=[rows.SettingRow("paused", "1")])

    async def resume(self, queue: str) -> None:
        await self._run("configure", self._place(queue), values=[rows.SettingRow("paused", "")])

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
        rows = [RefRow(places.of(ref.queue), ref.id) for ref in refs]
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
