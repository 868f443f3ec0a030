"""The terms of this package: what a compiled type consists of, and what counts as plain."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from toril.wirejson import Json

Reader = Callable[[Any, str], Any]
"""Turns a JSON value, found at a place, into a typed value. Raises InvalidData."""

Writer = Callable[[Any], Json]
"""Turns a typed value into a JSON value. Raises InvalidData."""

Extra = Literal["ignore", "forbid"]
"""What becomes of members that nobody declared."""

Keys = Literal["snake", "camel"]
"""How the names of members are spelled on the wire: as in Python, or `userId` for `user_id`."""

PLAIN: Final = frozenset((str, int, float, bool, type(None)))
"""The types of JSON's scalars."""

ROWS: Final = frozenset((list, tuple))
"""The types of JSON's lists."""

MISSING: Final = object()

# `type` and `issubclass`, as type checkers should see them: nothing is known of what they are asked about.
type_of: Callable[[Any], Any] = type
is_subclass: Callable[[Any, Any], bool] = issubclass


@dataclass(frozen=True, slots=True)
class Shape:
    """A compiled type: how to read it, what to call it, and how to write it where `to_json` would not do.

    `natives` are the types whose values `read` takes as they are; `members` the names that an object may have.
    """

    read: Reader
    wants: str
    write: Writer | None = None
    members: frozenset[str] | None = None
    natives: frozenset[type] = frozenset()


@dataclass(frozen=True, slots=True)
class Member:
    """One named part of an object: `name` in Python, `wire` in the data."""

    name: str
    wire: str
    shape: Shape
    required: bool


class Compiler(Protocol):
    """Gives the types that a type refers to their shapes."""

    @property
    def extra(self) -> Extra: ...

    @property
    def keys(self) -> Keys: ...

    def shape(self, annotation: Any) -> Shape: ...


def camel(name: str) -> str:
    """`user_id` as JavaScript spells it: `userId`."""
    return re.sub(r"(?<=[^_])_+([^_])", lambda found: found[1].upper(), name)


def snake(name: str) -> str:
    """`userId` as Python spells it: `user_id`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"_{found[1].lower()}", name)


def wire_name(name: str, keys: Keys) -> str:
    """The member `name` as the data spells it."""
    return camel(name) if keys == "camel" else name


def path_of(cls: Any) -> str:
    """A class by its package and name, as in "uuid.UUID": what nobody has imported needs no import to be told apart."""
    return f"{cls.__module__.split('.')[0]}.{cls.__name__}"


def descends(cls: Any, path: str) -> bool:
    """Whether `cls` is, or inherits from, the class at `path`."""
    return any(path_of(each) == path for each in cls.__mro__)
