"""Everything that Redis holds under a prefix at one moment, told apart by queue and by what it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, cast

Ask = Callable[..., Awaitable[Any]]
Fields = dict[str, str]

COLLECTIONS = ("wait", "active", "prioritized", "delayed", "waiting-children", "completed", "failed")
FINISHED = ("completed", "failed")
QUEUE_KEYS = {
    "meta": "hash",
    "id": "string",
    "wait": "list",
    "paused": "list",
    "active": "list",
    "prioritized": "zset",
    "pc": "string",
    "delayed": "zset",
    "waiting-children": "zset",
    "completed": "zset",
    "failed": "zset",
    "marker": "zset",
    "stalled": "set",
    "stalled-check": "string",
    "limiter": "string",
    "events": "stream",
    "repeat": "zset",
    "metrics:completed": "hash",
    "metrics:failed": "hash",
    "metrics:completed:data": "list",
    "metrics:failed:data": "list",
}
"""Keys of a queue that have a fixed name, and their types."""

DEDUPLICATION_KEYS = {"de:": "string", "dn:": "hash"}
CHILD_KEYS = {"dependencies": "set", "processed": "hash", "failed": "hash", "unsuccessful": "zset"}
JOB_KEYS = {"lock": "string", "logs": "list", **CHILD_KEYS}
OURS = "py:"

_DUMP = """
local found = {}
for _, key in ipairs(redis.call("KEYS", ARGV[1])) do
  local kind = redis.call("TYPE", key).ok
  local value
  if kind == "string" then value = redis.call("GET", key)
  elseif kind == "hash" then value = redis.call("HGETALL", key)
  elseif kind == "list" then value = redis.call("LRANGE", key, 0, -1)
  elseif kind == "set" then value = redis.call("SMEMBERS", key)
  elseif kind == "zset" then value = redis.call("ZRANGE", key, 0, -1, "WITHSCORES")
  else value = redis.call("XRANGE", key, "-", "+")
  end
  found[#found + 1] = { key, kind, redis.call("PTTL", key), value }
end
return found
"""


class Entry(NamedTuple):
    """A key: a hash is a dict, a sorted set a list of (member, score), a stream a list of lists of (field, text)."""

    kind: str
    value: Any
    expires: bool = False


Entries = dict[str, Entry]


@dataclass(frozen=True)
class Queue:
    """The keys of one queue, by what follows their base."""

    base: str
    keys: Entries

    def fields(self, name: str) -> Fields:
        return cast("Fields", self._value(name, "hash", {}))

    def items(self, name: str) -> list[str]:
        """The members of a list or a set."""
        entry = self.keys.get(name)
        return list(entry.value) if entry is not None and entry.kind in ("list", "set") else []

    def scores(self, name: str) -> list[tuple[str, float]]:
        return cast("list[tuple[str, float]]", self._value(name, "zset", []))

    def text(self, name: str) -> str | None:
        return cast("str | None", self._value(name, "string", None))

    def _value(self, name: str, kind: str, default: Any) -> Any:
        entry = self.keys.get(name)
        return entry.value if entry is not None and entry.kind == kind else default

    def members(self, name: str) -> list[str]:
        """The ids of a collection."""
        return self.items(name) or [member for member, _ in self.scores(name)]

    def matching(self, start: str) -> Iterator[tuple[str, Entry]]:
        """What follows `start` in the names that begin with it, and the entries."""
        for name, entry in self.keys.items():
            if name.startswith(start):
                yield name.removeprefix(start), entry

    @cached_property
    def jobs(self) -> dict[str, Fields]:
        """The hashes of jobs, by id."""
        return {name: entry.value for name, entry in self.keys.items() if self._is_job(name) and entry.kind == "hash"}

    @cached_property
    def places(self) -> dict[str, list[str]]:
        """The collections that an id is in, once for each time."""
        found: dict[str, list[str]] = {}
        for name in COLLECTIONS:
            for job_id in self.members(name):
                found.setdefault(job_id, []).append(name)
        return found

    def jobs_in(self, *collections: str) -> Iterator[tuple[str, Fields]]:
        """Jobs whose hashes are there."""
        for name in collections:
            for job_id in self.members(name):
                if job_id in self.jobs:
                    yield job_id, self.jobs[job_id]

    @property
    def is_paused(self) -> bool:
        return "paused" in self.fields("meta")

    @property
    def is_full(self) -> bool:
        limit = self.fields("meta").get("concurrency")
        return limit is not None and len(self.items("active")) >= int(limit)

    def _is_job(self, name: str) -> bool:
        return not (
            name in QUEUE_KEYS
            or name.startswith((*DEDUPLICATION_KEYS, OURS))
            or self.is_scheduler(name)
            or self.owner_of(name) is not None
        )

    def is_scheduler(self, name: str) -> bool:
        """Whether it is the record of a scheduler rather than an iteration, which has the times of a job."""
        start, _, scheduler = name.partition(":")
        entry = self.keys[name]
        return start == "repeat" and bool(scheduler) and entry.kind == "hash" and "timestamp" not in entry.value

    def owner_of(self, name: str) -> tuple[str, str] | None:
        """The id and the rest of a name that belongs to a job."""
        job_id, colon, rest = name.rpartition(":")
        return (job_id, rest) if colon and rest in JOB_KEYS else None


@dataclass(frozen=True)
class Keyspace:
    """Everything under a prefix."""

    prefix: str
    entries: Entries

    @cached_property
    def queues(self) -> list[Queue]:
        found: dict[str, Entries] = {}
        for key, entry in self.entries.items():
            name, _, rest = key.removeprefix(f"{self.prefix}:").partition(":")
            if name:
                found.setdefault(f"{self.prefix}:{name}:", {})[rest] = entry
        return [Queue(base, keys) for base, keys in sorted(found.items())]

    def job(self, key: str) -> Fields | None:
        """The hash of a full job key."""
        entry = self.entries.get(key)
        return entry.value if entry is not None and entry.kind == "hash" else None

    def queue_of(self, key: str) -> Queue | None:
        """The queue of a full job key."""
        return next((queue for queue in self.queues if key.startswith(queue.base)), None)


async def snapshot(ask: Ask, prefix: str) -> Keyspace:
    """Everything under a prefix at one moment."""
    pattern = "".join(f"\\{c}" if c in "*?[]^-\\" else c for c in prefix) + ":*"
    found = await ask("EVAL", _DUMP, 0, pattern)
    return Keyspace(prefix, {key: Entry(kind, _read(kind, value), ttl_ms >= 0) for key, kind, ttl_ms, value in found})


def _read(kind: str, value: Any) -> Any:
    if kind == "hash":
        return dict(_pairs(value))
    if kind == "zset":
        return [(member, float(score)) for member, score in _pairs(value)]
    return [_pairs(fields) for _, fields in value] if kind == "stream" else value


def _pairs(flat: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
