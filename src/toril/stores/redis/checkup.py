"""Look for what is wrong with the server and with what is in it, and mend it.

Workers go on meanwhile. Whatever is called damage was seen by one script at one moment; what only several looks can show
is looked at once more by a script before it is told or mended. No script looks at more than `PIECE` ids, or reads through
much more than `READ` entries of lists.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from toril.model import Finding
from toril.stores.redis import fitness
from toril.stores.redis.calls import flat_of
from toril.stores.redis.damage import KINDS, Damage
from toril.stores.redis.keys import tagged
from toril.stores.redis.presence import RedisPresence

PIECE: Final = 250
READ: Final = 250_000
"""Both take a server some 5 ms."""

TEXT_BYTES: Final = 1024 * 1024
CLAIM_S: Final = 1.0
"""How long a worker that was woken may take to claim."""

FAMILIAR: Final = ("", "bullmq", "toril")
"""What may have made a queue whose jobs are in no other places than those known here; editions with groups have more."""

LISTS: Final = ("wait", "paused", "active")
SETS: Final = ("prioritized", "delayed", "waiting-children", "completed", "failed")
NEEDED: Final = frozenset({"meta", "events", "marker", "wait", "prioritized", "delayed"})
"""Where mending writes: a queue in which one of these is of a wrong kind is left as it is."""

DEDUPLICATION: Final = ("de:", "dn:")
"""What the keys of a deduplication id begin with: its owner, and what is kept until that has ended."""

PARTS_OF_JOBS: Final = ("lock", "logs", "dependencies", "processed", "failed", "unsuccessful")
TEXTS: Final = ("data", "opts", "progress", "parent")
OBJECTS: Final = ("opts", "parent")


class _KindRow(NamedTuple):
    suffix: str
    kind: str


class _JobRow(NamedTuple):
    id: str


class _IdRow(NamedTuple):
    id: str


_KIND_ROWS: Final = [_KindRow(*item) for item in KINDS.items()]


@dataclass
class _Queue:
    """What is known of a queue while it is looked at."""

    name: str
    damage: Damage
    unplaced: set[str] = field(default_factory=set[str])  # jobs that no sorted collection had
    listed: Counter[str] = field(default_factory=Counter[str])  # how often lists had an id
    sound: set[str] = field(default_factory=set[str])  # its keys that are there and of the right kind
    unsound: set[str] = field(default_factory=set[str])  # those of a wrong kind
    unlocked: set[str] = field(default_factory=set[str])
    unowned: set[str] = field(default_factory=set[str])  # deduplication ids that may have no owner any more
    familiar: bool = True  # whether all places are known in which its jobs can be


class RedisCheckup(RedisPresence):
    """`preflight`, `check`, `repair`."""

    async def preflight(self) -> list[Finding]:
        info: str | None = await self._asked("INFO")
        # The shortest list of clients there is: only whether it may be asked for counts.
        said = fitness.Said(
            info=None if info is None else fitness.info_of(info),
            settings=await self._settings_of_server(),
            lists_clients=await self._asked("CLIENT", "LIST", "TYPE", "pubsub") is not None,
            ahead_ms=await self._ahead_ms(),
        )
        prefix = self._keys.prefix
        one_slot = self._keys.sharded or tagged(prefix) == prefix
        return fitness.findings(said, self._connections.place, prefix=prefix, tagged=one_slot)

    async def check(self) -> list[Finding]:
        return [*await self.preflight(), *await self._walk(mend=False)]

    async def repair(self) -> list[Finding]:
        return await self._walk(mend=True)

    # ------------------------------------------------------------------ the server

    async def _settings_of_server(self) -> dict[str, str] | None:
        found: dict[str, str] = {}
        for name in fitness.ASKED:
            answer = await self._asked("CONFIG", "GET", name)
            if answer is None:
                return None
            flat = flat_of(answer)
            found |= zip(flat[::2], flat[1::2], strict=True)
        return found

    async def _ahead_ms(self) -> int | None:
        """How far the server's clock is ahead of this machine's; only what no delay of the answer can explain."""
        if self._clock.turned:
            return None
        before_ms = self._clock.now_ms()
        answer = await self._asked("TIME")
        after_ms = self._clock.now_ms()
        if answer is None:
            return None
        server_ms = int(answer[0]) * 1000 + int(answer[1]) // 1000
        return max(server_ms - after_ms, 0) + min(server_ms - before_ms, 0)

    # ------------------------------------------------------------------ all queues

    async def _walk(self, *, mend: bool) -> list[Finding]:
        queues = await self._look_at_keys(mend)
        served = {queue for worker in await self.workers() for queue in worker.queues}
        silent: dict[str, str] = {}
        for queue in queues:
            await self._look_at_queue(queue, mend, attended=queue.name in served)
            if next_id := await self._without_marker(queue):
                silent[queue.name] = next_id
        if silent and not self._clock.turned:
            await asyncio.sleep(CLAIM_S)
        for queue in queues:
            if queue.name in silent and await self._without_marker(queue, silent[queue.name], mend):
                queue.damage.add("marker", silent[queue.name])
        return [finding for queue in queues for finding in queue.damage.findings()]

    async def _look_at_keys(self, mend: bool) -> list[_Queue]:
        """Go through all keys once: find the queues, and look at their jobs one by one."""
        found: dict[str, _Queue] = {}
        known: set[str] = set()
        waiting: dict[str, list[str]] = {}
        owned: dict[str, set[str]] = {}
        async for page in self._pages("*"):
            for name, suffix in self._split(page):
                queue = found.setdefault(name, _Queue(name, Damage(name, mend)))
                if suffix in KINDS or suffix.startswith("py:"):
                    known.add(name)
                elif suffix.startswith(DEDUPLICATION):
                    owned.setdefault(name, set()).add(suffix[3:])
                    if len(owned[name]) == PIECE:
                        await self._look_at_owners(queue, owned.pop(name))
                elif _may_be_job(suffix):
                    waiting.setdefault(name, []).append(suffix)
                    if len(waiting[name]) == PIECE:
                        await self._look_at_jobs(queue, waiting.pop(name), mend)
        for name in waiting.keys() & known:
            await self._look_at_jobs(found[name], waiting[name], mend)
        for name in owned.keys() & known:
            await self._look_at_owners(found[name], owned[name])
        return [found[name] for name in sorted(known)]

    def _split(self, keys: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Keys as queue and suffix."""
        prefix = f"{self._keys.prefix}:"
        for key in keys:
            name, _, suffix = key.removeprefix(prefix).partition(":")
            if name and suffix:
                yield self._keys.queue_of(prefix + name), suffix

    # ------------------------------------------------------------------ one queue

    async def _look_at_jobs(self, queue: _Queue, ids: Sequence[str], mend: bool) -> None:
        """Note those that no sorted collection has, and those whose texts are no JSON, which nobody can mend."""
        while ids:
            rows = [_JobRow(job_id) for job_id in ids]
            answers = await self._run(
                "check_jobs", self._place(queue.name), room=TEXT_BYTES, with_texts=int(not mend), jobs=rows
            )
            for job_id, answer in zip(ids, answers, strict=False):
                if not answer:
                    continue
                placed, *texts = answer
                if not placed:
                    queue.unplaced.add(job_id)
                wrong = [name for name, text in zip(TEXTS, texts, strict=False) if not _is_sound(name, text)]
                if wrong:
                    queue.damage.add("json", job_id, " and ".join(wrong))
            ids = ids[len(answers) :]

    async def _look_at_queue(self, queue: _Queue, mend: bool, *, attended: bool) -> None:
        await self._look_at_settings(queue, mend)
        if mend and queue.unsound & NEEDED:
            return
        apart = 0
        for name in LISTS:
            async for ids in self._pieces(queue, name, mend):
                queue.listed.update(ids)
                apart += len(ids) if name == "paused" else 0
        for name in SETS:
            async for _ in self._pieces(queue, name, mend):
                pass
        await self._look_at_schedules(queue)
        await self._settle_unowned(queue, mend)
        await self._settle_twice(queue, mend)
        await self._settle_lost(queue, mend)
        if not attended and "stalled-check" not in queue.sound:
            for job_id in sorted(queue.unlocked):
                queue.damage.add("unlocked", job_id)
        if apart:
            queue.damage.add("paused-list", "paused", f"{apart:,}")
            while mend and await self._run("merge_paused", self._place(queue.name), limit=PIECE):
                pass
        queue.unplaced, queue.listed = set(), Counter()

    async def _look_at_settings(self, queue: _Queue, mend: bool) -> None:
        """Look at the keys that hold no jobs."""
        found, sound, version = await self._run(
            "check_queue", self._place(queue.name), mend=int(mend), kinds=_KIND_ROWS
        )
        queue.sound.update(sound)
        queue.familiar = version.partition(":")[0] in FAMILIAR
        for kind, suffix, detail in found:
            if kind == "wrong-kind":
                queue.unsound.add(suffix)
                detail = f"a {detail}, not a {KINDS[suffix]}"
            queue.damage.add(kind, suffix, detail)

    async def _pieces(self, queue: _Queue, name: str, mend: bool) -> AsyncGenerator[Sequence[str], None]:
        """Look through a collection; the jobs of each piece of a list."""
        cursor = "0" if name in queue.sound else ""
        while cursor:
            cursor, ids, found = await self._run(
                "check", self._place(queue.name), mend=int(mend), collection=name, cursor=cursor, limit=PIECE
            )
            for kind, job_id, detail in found:
                if kind == "unlocked":
                    queue.unlocked.add(job_id)
                else:
                    queue.damage.add(kind, job_id, detail)
            none = {job_id for kind, job_id, _ in found if kind in ("dangling", "old-marker")}
            yield [job_id for job_id in ids if job_id not in none]

    async def _look_at_schedules(self, queue: _Queue) -> None:
        cursor = "0" if "repeat" in queue.sound else ""
        while cursor:
            cursor, names = await self._run("check_schedules", self._place(queue.name), cursor=cursor, limit=PIECE)
            for name in names:
                queue.damage.add("old-schedule", name)

    async def _look_at_owners(self, queue: _Queue, ids: set[str]) -> None:
        """Note deduplication ids whose owner has ended or is gone, and those for which something is kept without one."""
        queue.unowned.update([id async for _, id, _ in self._unowned(queue, ids, mend=False)])

    async def _settle_unowned(self, queue: _Queue, mend: bool) -> None:
        async for kind, id, detail in self._unowned(queue, queue.unowned, mend):
            queue.damage.add(kind, id, detail)
        queue.unowned = set()

    async def _unowned(self, queue: _Queue, ids: set[str], mend: bool) -> AsyncGenerator[tuple[str, str, str], None]:
        ordered = sorted(ids)
        for first in range(0, len(ordered), PIECE):
            rows = [_IdRow(id) for id in ordered[first : first + PIECE]]
            found = await self._run("check_deduplication", self._place(queue.name), mend=int(mend), ids=rows)
            for kind, id, detail in found:
                yield kind, id, detail

    async def _settle_twice(self, queue: _Queue, mend: bool) -> None:
        """Ids that lists had twice: most have only moved while the lists were read, so the lists are read once more."""
        suspects = {job_id for job_id, count in queue.listed.items() if count > 1}
        if suspects:
            again = Counter([job_id async for job_id in self._ids_in_lists(queue) if job_id in suspects])
            suspects = {job_id for job_id, count in again.items() if count > 1}
        async for job_id, detail in self._judged("check_twice", queue, suspects, mend):
            queue.damage.add("twice", job_id, detail)

    async def _settle_lost(self, queue: _Queue, mend: bool) -> None:
        """Jobs that no sorted collection had and then no list."""
        suspects = queue.unplaced - queue.listed.keys() if queue.familiar else set[str]()
        async for job_id, belongs in self._judged("check_lost", queue, suspects, mend):
            queue.damage.add("locked" if belongs == "active" else "lost", job_id, belongs)

    async def _judged(
        self, script: str, queue: _Queue, suspects: set[str], mend: bool
    ) -> AsyncGenerator[tuple[str, str], None]:
        """What a script finds of jobs, for each of which it may have to read the lists."""
        at_once = max(1, min(PIECE, READ // (queue.listed.total() + 1)))
        ordered = sorted(suspects)
        for first in range(0, len(ordered), at_once):
            rows = [_JobRow(job_id) for job_id in ordered[first : first + at_once]]
            for job_id, detail in await self._run(script, self._place(queue.name), mend=int(mend), jobs=rows):
                yield job_id, detail

    async def _ids_in_lists(self, queue: _Queue) -> AsyncGenerator[str, None]:
        for name in LISTS:
            key, passed = self._keys.base(queue.name) + name, 0
            if name not in queue.sound:
                continue
            while ids := await self._connections.command("LRANGE", key, -passed - PIECE, -passed - 1):
                passed += len(ids)
                for job_id in ids:
                    yield job_id

    async def _without_marker(self, queue: _Queue, seen: str = "", mend: bool = False) -> str:
        """The next job of a queue, when no marker wakes a worker for it; `seen`: only if it was that one before."""
        if queue.unsound & NEEDED:
            return ""
        found = str(await self._run("check_marker", self._place(queue.name), mend=int(mend), id=seen))
        return found if found == (seen or found) else ""


def _may_be_job(suffix: str) -> bool:
    """Whether a key of this suffix could be a job's: ids have no colon, but for those of schedules and some old ones."""
    head, *more = suffix.split(":")
    if head in ("de", "dn", "metrics") and more:
        return False
    return not more or (more[-1] not in PARTS_OF_JOBS and (head == "repeat" or len(more) == 2))


def _is_sound(name: str, text: str | None) -> bool:
    """Whether a text of a job is what Node can read."""
    if text is None:
        return True
    try:
        value: Any = json.loads(text, parse_constant=_refuse, parse_int=float)
    except RecursionError:  # too deep for this reader only
        return True
    except ValueError:
        return False
    return name not in OBJECTS or isinstance(value, dict)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
