"""Lua scripts from files. A script's header declares its KEYS and ARGV by name, so nobody counts positions.

    -- Renew locks.
    -- KEYS  *queues
    -- ARGV  lock_ms *claims(queue id token)
    -- RETURNS  the places of the claims that are no longer the caller's
    -- FLAGS  allow-oom
    -- include: queue

`*queues` is a list of keys, `*claims(...)` a list of records; in Lua they are K.queues and A.claims, whose items have
the fields named. A line that begins with more blanks goes on with the one above. `include` puts files of `lua/lib` first.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

Argument = str | int | float | Sequence[tuple[str | int | float, ...]]

CALL: Final = "call"
"""A script that takes this name remembers its answer for half a minute, and gives it again to a call of the same name."""

_ONCE: Final = """
local answered = KEYS[1] .. "py:answer:" .. A.call
local said = redis.call("GET", answered)
if said then
  return cjson.decode(said)[1]
end
local function once()
{body}
end
local answer = once()
redis.call("SET", answered, cjson.encode({{ answer }}), "PX", 30000)
return answer
"""

_ITEM = re.compile(r"(\w+)|\*(\w+)\(([^)]*)\)")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One name of ARGV: a single value, or a list of records with these fields."""

    name: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Script:
    """A script that is ready to be sent."""

    name: str
    text: str
    sha: str
    parameters: tuple[Parameter, ...]

    @property
    def once(self) -> bool:
        """Whether a repeated call is answered as the first one was, and does nothing."""
        return any(parameter.name == CALL for parameter in self.parameters)

    def arguments(self, keys: Sequence[str], values: Mapping[str, Argument]) -> list[str | int | float]:
        """What follows the digest of EVALSHA.

        Raises:
            TypeError: the values are not those of the script's header.
        """
        if set(values) != {parameter.name for parameter in self.parameters}:
            raise TypeError(f"{self.name}.lua takes {[p.name for p in self.parameters]}, not {list(values)}")
        arguments: list[str | int | float] = [len(keys), *keys]
        for parameter in self.parameters:
            value = values[parameter.name]
            if isinstance(value, str | int | float):
                arguments.append(value)
                continue
            arguments.append(len(value))
            for record in value:
                arguments.extend(record)
            if value:
                self._check(parameter, value[0])
        return arguments

    def _check(self, parameter: Parameter, record: tuple[str | int | float, ...]) -> None:
        fields = getattr(record, "_fields", None)
        if fields != parameter.fields and (fields is not None or len(record) != len(parameter.fields)):
            raise TypeError(f"{self.name}.lua takes {parameter.name}{parameter.fields}, not {record!r}")


@cache
def script(name: str, *, turned: bool = False, flagged: bool = False) -> Script:
    """The script of `lua/<name>.lua`.

    `turned` is for keys that expire by a clock that somebody turns. `flagged` is for servers from Redis 7 on: they take the
    header's FLAGS, and refuse a script without `allow-oom` before its first write when memory is full.
    """
    source = _read(f"{name}.lua")
    header = _header(source)
    parameters = tuple(
        Parameter(single or group, tuple(fields.split())) for single, group, fields in _ITEM.findall(header["ARGV"])
    )
    included = ["turned", *_included(source)] if turned else _included(source)
    libraries = "\n".join(_read(f"lib/{library}.lua") for library in included)
    flags = f"#!lua flags={header['FLAGS']}\n" if "FLAGS" in header else "#!lua\n"
    body = _ONCE.format(body=source) if CALL in [parameter.name for parameter in parameters] else source
    text = f"{flags if flagged else ''}{_prelude(parameters)}\n{libraries}\n{body}"
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), parameters)


def _read(path: str) -> str:
    return resources.files("toril.stores.redis").joinpath("lua", *path.split("/")).read_text(encoding="utf-8")


def _header(source: str) -> dict[str, str]:
    """The declarations of a script by their first word."""
    found: dict[str, str] = {}
    word = ""
    for line in source.splitlines()[1:]:
        if not line.startswith("-- "):
            break
        if declared := re.match(r"-- ([A-Z]+|include:)(?:\s+|$)(.*)", line):
            word = declared[1]
            found[word] = declared[2]
        elif word:
            found[word] += " " + line[3:].strip()
    for wanted in ("KEYS", "ARGV", "RETURNS"):
        if wanted not in found:
            raise TypeError(
                f"a script begins with a sentence, KEYS, ARGV and RETURNS; {wanted} is missing in {source[:60]!r}"
            )
    return found


def _included(source: str) -> list[str]:
    """The libraries of a file, each after those that it includes itself."""
    order: list[str] = []
    for line in source.splitlines():
        if not line.startswith("-- include:"):
            continue
        for library in line.removeprefix("-- include:").split():
            order += [name for name in (*_included(_read(f"lib/{library}.lua")), library) if name not in order]
    return order


def _prelude(parameters: Sequence[Parameter]) -> str:
    """Lua that gives ARGV its names."""
    lines = ["local redis, K, A = redis, { queues = KEYS }, {}", "do", "local ARGV, at = ARGV, 1"]
    for parameter in parameters:
        if not parameter.fields:
            lines.append(f"A.{parameter.name} = ARGV[at]; at = at + 1")
            continue
        record = ", ".join(f"{field} = ARGV[at + {n}]" for n, field in enumerate(parameter.fields))
        lines += [
            f"local list, count = {{}}, tonumber(ARGV[at]); at = at + 1; A.{parameter.name} = list",
            f"for i = 1, count do list[i] = {{ {record} }}; at = at + {len(parameter.fields)} end",
        ]
    return "\n".join([*lines, "end"])
