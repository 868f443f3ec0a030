"""What errors say: the place of a value, what was wanted there, and what was found."""

from __future__ import annotations

import json
from typing import Any, Final

from toril.errors import InvalidData
from toril.shapes.terms import PLAIN, ROWS, Writer, type_of
from toril.wirejson import Json

_LONGEST_PLACE: Final = 200


def place(key: str) -> str:
    """The member `key`, as a message names it."""
    return key if key.isidentifier() and len(key) <= 60 else f"[{json.dumps(cut(key, 60), ensure_ascii=False)}]"


def inside(where: str, error: InvalidData) -> InvalidData:
    """The same error, seen from outside: its place is within `where`."""
    inner = error.where
    dot = "." if where and inner and inner[0] != "[" else ""
    return InvalidData(cut(f"{where}{dot}{inner}", _LONGEST_PLACE), error.problem)


def within(where: str, write: Writer, value: Any) -> Json:
    """`write(value)`, with `where` in front of the place of an error."""
    try:
        return write(value)
    except InvalidData as error:
        raise inside(where, error) from None


def wrong(where: str, wants: str, value: Any) -> InvalidData:
    """The error of a value that is something else than `wants`."""
    return InvalidData(where, f"must be {wants}, not {shown(value)}")


def invalid(where: str, cls: Any, error: Exception) -> InvalidData:
    """The error of an object that `cls` itself has refused."""
    return InvalidData(where, f"is not a valid {name_of(cls)}: {cut(str(error), 200)}")


def shown(value: Any) -> str:
    """A value as messages quote it: short, whatever it holds."""
    kind = type_of(value)
    if kind is str:
        return repr(cut(value, 40))
    if kind is int and value.bit_length() > 64:
        return f"an integer of {value.bit_length():,} bits"
    if kind is float and value != value:
        return "NaN"
    if kind in PLAIN:
        return json.dumps(value)
    return "an object" if kind is dict else "a list" if kind in ROWS else f"a {name_of(kind)}"


def cut(text: str, longest: int) -> str:
    """`text`, without its middle when it is longer than `longest` characters."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[1 - half :]}"


def name_of(annotation: Any) -> str:
    """A type as messages name it."""
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
