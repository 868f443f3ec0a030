"""Lists, tuples, sets and dicts: each member is read by the shape of its type.

Members are read with a place of their own, relative to the value that holds them; the full place is put together on
the way out, and only when something does not fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast

from toril.errors import InvalidData
from toril.shapes.messages import inside, place, wrong
from toril.shapes.scalars import read_any, read_str
from toril.shapes.terms import ROWS, Reader, Shape
from toril.shapes.writing import write_fixed, write_mapping, write_plainly, write_rows


def rows(item: Shape, make: Callable[[Any], Any] = list) -> Shape:
    """A list of any length. A list whose members are taken as they are is taken as it is."""
    read_item, as_they_are = item.read, _as_they_are(item)

    def read_each(members: Iterable[Any], where: str) -> list[Any]:
        found: list[Any] = []
        try:
            for member in members:
                found.append(read_item(member, ""))  # noqa: PERF401 - its length says where reading stopped
        except InvalidData as error:
            raise inside(f"{where}[{len(found)}]", error) from None
        return found

    def read(value: Any, where: str) -> Any:
        if type(value) not in ROWS:
            raise wrong(where, "a list", value)
        found: Any = value if as_they_are(value) else read_each(value, where)
        try:
            return found if type(found) is make else make(found)
        except TypeError:
            raise InvalidData(where, "has a member that a set cannot hold: a list or an object") from None

    return Shape(read, "a list", item.write and partial(write_rows, item.write))


def fixed(items: Sequence[Shape], wants: str, make: Callable[[list[Any]], Any], optional: int = 0) -> Shape:
    """A list of a shape for each member, of which the last `optional` may be absent."""
    reads = [item.read for item in items]
    count = len(items)
    needed = str(count) if not optional else f"{count - optional} to {count}"

    def read(value: Any, where: str) -> Any:
        if type(value) not in ROWS:
            raise wrong(where, wants, value)
        if not count - optional <= len(value) <= count:
            raise InvalidData(where, f"must have {needed} members, not {len(value)}")
        found: list[Any] = []
        try:
            for read_item, member in zip(reads, value, strict=False):
                found.append(read_item(member, ""))
        except InvalidData as error:
            raise inside(f"{where}[{len(found)}]", error) from None
        return make(found)

    writes = [item.write or write_plainly for item in items]
    return Shape(read, wants, partial(write_fixed, writes) if any(item.write for item in items) else None)


def mapping(read_key: Reader, item: Shape) -> Shape:
    """A dict. One with text keys whose members are taken as they are is taken as it is."""
    read_item, as_they_are, any_key = item.read, _as_they_are(item), read_key in (read_any, read_str)

    def read(value: Any, where: str) -> dict[Any, Any]:
        if type(value) is not dict:
            raise wrong(where, "an object", value)
        data = cast("dict[str, Any]", value)
        if any_key and as_they_are(data.values()):
            return data
        found: dict[Any, Any] = {}
        key = ""
        try:
            for key, member in data.items():
                found[key if any_key else read_key(key, "")] = read_item(member, "")
        except InvalidData as error:
            raise inside(where, inside(place(key), error)) from None
        if len(found) < len(data):
            raise InvalidData(where, "has two keys that mean the same")
        return found

    return Shape(read, "an object", item.write and partial(write_mapping, item.write))


def read_int_key(value: Any, where: str) -> int:
    if re.fullmatch(r"0|-?[1-9][0-9]{0,999}", value):  # one spelling for each number, so that no two keys are the same
        return int(value)
    raise wrong(where, "a whole number", value)


def _as_they_are(item: Shape) -> Callable[[Iterable[Any]], bool]:
    """Asks of some members whether all of them are taken as they are, without a call for each."""
    if item.read is read_any:
        return lambda members: True
    natives = item.natives
    return (lambda members: natives.issuperset(map(type, members))) if natives else (lambda members: False)
