"""What a Redis holds, in the shape of the golden dumps, and how two such keyspaces differ."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

Dump = dict[str, Any]
Ask = Callable[..., Awaitable[Any]]

T0 = 1_700_000_000_000
FAR_MS = 1_000_000_000_000
"""How far ahead of the turned clock its keys expire."""

ANYTHING = "(anything)"
NOTHING = "(nothing)"
"""What stands in a row for any value, and for a value that is not there."""

_MOMENT = re.compile(r"<T0([+-]\d+)?>")
_SCORE = re.compile(r"<\(T0([+-]\d+)?\)\*4096(?:\+(\d+))?>")
_JSON_FIELDS = ("data", "opts", "parent", "returnvalue", "stacktrace", "progress")


class Deviation(NamedTuple):
    """A place where two keyspaces differ. `path` leads into the key."""

    key: str
    path: str
    ours: Any
    theirs: Any

    def __str__(self) -> str:
        return f"{self.key} {self.path}: ours {self.ours!r}, theirs {self.theirs!r}"


def with_moments(text: str) -> str:
    """Placeholders as the numbers that they stand for."""
    text = _SCORE.sub(lambda found: str((T0 + int(found[1] or 0)) * 4096 + int(found[2] or 0)), text)
    return _MOMENT.sub(lambda found: str(T0 + int(found[1] or 0)), text)


def expected(dump: Dump) -> tuple[Dump, list[Dump]]:
    """Keys and events of a golden dump or snapshot, as `taken` would give them."""
    keys: Dump = {}
    for key, entry in dump["keys"].items():
        keys[with_moments(key)] = {"type": entry["type"], "value": _expected_value(entry["type"], entry["value"])}
        if "ttl" in entry:
            keys[with_moments(key)]["ttl"] = int(entry["ttl"].removeprefix("<= "))
    events = [
        {"stream": entry["stream"], "fields": {name: with_moments(text) for name, text in entry["fields"].items()}}
        for entry in dump["events"]
    ]
    return keys, events


def _expected_value(kind: str, value: Any) -> Any:
    if kind == "hash":
        return {name: _field(name, with_moments(text)) for name, text in value.items()}
    if kind == "zset":
        return [[with_moments(member), float(with_moments(score))] for member, score in value]
    if kind in ("list", "set"):
        return [with_moments(member) for member in value]
    return with_moments(value) if kind == "string" else value


async def taken(ask: Ask, now_ms: int) -> tuple[Dump, list[Dump]]:
    """The whole database."""
    keys: Dump = {}
    events: list[Dump] = []
    for key in sorted(await ask("KEYS", "*")):
        kind = await ask("TYPE", key)
        if kind == "stream":
            entries = await ask("EVAL", "return redis.call('XRANGE', ARGV[1], '-', '+')", 0, key)
            events += [{"stream": key, "fields": _pairs(fields)} for _, fields in entries]
            keys[key] = {"type": kind, "value": {"length": len(entries)}}
            continue
        keys[key] = {"type": kind, "value": await _value(ask, kind, key)}
        expires_ms = await ask("PEXPIRETIME", key)
        if expires_ms > 0:
            remaining_ms = expires_ms - FAR_MS - now_ms
            keys[key]["ttl"] = -(-remaining_ms // 1000) * 1000
    return keys, events


async def _value(ask: Ask, kind: str, key: str) -> Any:
    if kind == "string":
        return await ask("GET", key)
    if kind == "list":
        return await ask("LRANGE", key, 0, -1)
    if kind == "set":
        return sorted(await ask("SMEMBERS", key))
    if kind == "zset":
        flat = await ask("EVAL", "return redis.call('ZRANGE', ARGV[1], 0, -1, 'WITHSCORES')", 0, key)
        return [[member, float(score)] for member, score in _pairs(flat).items()]
    flat = await ask("EVAL", "return redis.call('HGETALL', ARGV[1])", 0, key)
    return {name: _field(name, text) for name, text in _pairs(flat).items()}


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _field(name: str, text: str) -> Any:
    """JSON is compared by what it says."""
    return json.loads(text) if name in _JSON_FIELDS else text


def deviations(ours: Dump, theirs: Dump) -> Iterator[Deviation]:
    """Each place where two keyspaces differ."""
    for key in sorted(ours.keys() | theirs.keys()):
        if key in ours and key in theirs:
            yield from _inside(key, "", ours[key], theirs[key])
        else:
            yield Deviation(key, "", ours.get(key, NOTHING), theirs.get(key, NOTHING))


def _inside(key: str, path: str, ours: Any, theirs: Any) -> Iterator[Deviation]:
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        if ours != theirs:
            yield Deviation(key, path, ours, theirs)
        return
    mine, other = cast(Dump, ours), cast(Dump, theirs)
    for name in sorted(mine.keys() | other.keys()):
        yield from _inside(key, f"{path}/{name}", mine.get(name, NOTHING), other.get(name, NOTHING))
