"""Typed values as JSON: each type's writer is found once."""

from __future__ import annotations

import dataclasses
from collections import abc
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, timedelta
from enum import Enum
from functools import lru_cache, partial
from typing import Any, Final

from toril.errors import InvalidData
from toril.shapes.libraries import model_writer
from toril.shapes.messages import inside, place, shown, within
from toril.shapes.terms import PLAIN, Writer, descends, is_subclass, type_of
from toril.wirejson import Json


def to_json(value: Any) -> Json:
    """`value` as JSON: the inverse of `reader`. Plain JSON comes back as it is.

    Raises:
        InvalidData: (an InvalidJob) it holds something that JSON has no form for; the message names place and type.
    """
    try:
        return _write_dict(value) if type_of(value) is dict else write_plainly(value)
    except RecursionError:
        raise InvalidData("", "the value is nested too deeply, or contains itself") from None


def write_plainly(value: Any) -> Json:
    """What `to_json` does inside a value, where a RecursionError is left to the outermost call."""
    kind = type_of(value)
    if kind in PLAIN:
        return value
    if kind is dict:
        return _write_dict(value)
    return _write_list(value) if kind is list else _writer_of(kind)(value)


def write_enum(member: Enum) -> Json:
    """An enum member is written as its value, or by name when the value is no scalar."""
    try:
        written = to_json(member.value)
    except InvalidData:
        return member.name
    return written if type(written) in PLAIN else member.name


def write_rows(write: Writer, value: Any) -> Json:
    """A collection as a list, each of its members by `write`."""
    if is_subclass(type(value), abc.Set):
        return _write_set(write, value)
    if is_subclass(type(value), str | bytes | abc.Mapping) or not hasattr(value, "__iter__"):
        return to_json(value)
    rows: Iterable[Any] = value
    return [within(f"[{n}]", write, member) for n, member in enumerate(rows)]


def write_fixed(writes: Sequence[Writer], value: Any) -> Json:
    """A tuple as a list, each of its members by a writer of its own."""
    if not issubclass(type(value), list | tuple) or len(value) > len(writes):
        return to_json(value)
    return [within(f"[{n}]", write, member) for n, (write, member) in enumerate(zip(writes, value, strict=False))]


def write_mapping(write: Writer, value: Any) -> Json:
    """A mapping as an object, each of its members by `write`."""
    if not is_subclass(type(value), abc.Mapping):
        return to_json(value)
    mapping: abc.Mapping[Any, Any] = value
    written: dict[str, Json] = {}
    for key, member in mapping.items():
        text = _write_key(key)
        if text in written:
            raise InvalidData(place(text), "is the JSON form of two keys")
        written[text] = within(place(text), write, member)
    return written


def _write_dict(value: dict[Any, Any]) -> Json:
    changed: dict[Any, Any] | None = None
    for key, member in value.items():
        if type(key) is not str:
            return write_mapping(write_plainly, value)
        if type(member) not in PLAIN:
            try:
                written = write_plainly(member)
            except InvalidData as error:
                raise inside(place(key), error) from None
            if written is not member:
                changed = dict(value) if changed is None else changed
                changed[key] = written
    return value if changed is None else changed


def _write_list(value: list[Any]) -> Json:
    changed: list[Any] | None = None
    for n, member in enumerate(value):
        if type(member) not in PLAIN:
            try:
                written = write_plainly(member)
            except InvalidData as error:
                raise inside(f"[{n}]", error) from None
            if written is not member:
                changed = list(value) if changed is None else changed
                changed[n] = written
    return value if changed is None else changed


def _write_set(write: Writer, value: Iterable[Any]) -> Json:
    members = [write(member) for member in value]
    try:
        return sorted(members)  # the order of a set differs from process to process; the job's data should not
    except TypeError:
        return sorted(members, key=repr)


def _write_key(key: Any) -> str:
    plain = write_enum(key) if isinstance(key, Enum) else key
    if isinstance(plain, bool) or not (isinstance(plain, str | int) or descends(type(plain), "uuid.UUID")):
        raise InvalidData("", f"has the key {shown(key)}: keys are text, whole numbers, enum members or UUIDs")
    return str(plain)


def _write_timedelta(value: timedelta) -> Json:
    seconds = value.total_seconds()
    return int(seconds) if seconds.is_integer() else seconds


def _write_decimal(value: Any) -> Json:
    if not value.is_finite():
        raise InvalidData("", f"is Decimal {value}, which is no number: use None or text")
    return str(value)


def _write_bytes(value: Any) -> Json:
    from base64 import b64encode  # costs more to import than the rest of this module

    return b64encode(value).decode("ascii")


_WRITERS: Final[tuple[tuple[Any, Writer], ...]] = (
    (Enum, write_enum),
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (datetime | date | time, lambda value: value.isoformat()),
    (timedelta, _write_timedelta),
    ("decimal.Decimal", _write_decimal),
    ("uuid.UUID", str),
    ("pathlib.PurePath", str),
    (bytes | bytearray | memoryview, _write_bytes),
    (abc.Set, partial(_write_set, write_plainly)),
    (abc.Sequence, partial(write_rows, write_plainly)),
    (abc.Mapping, partial(write_mapping, write_plainly)),
)
"""The first row whose class a value is an instance of says how to write it."""


@lru_cache(maxsize=4096)
def _writer_of(kind: Any) -> Writer:
    if write_model := model_writer(kind):
        return write_model
    if dataclasses.is_dataclass(kind):
        names = tuple(field.name for field in dataclasses.fields(kind))
        return lambda value: {name: within(name, write_plainly, getattr(value, name)) for name in names}
    return next((write for base, write in _WRITERS if _is_a(kind, base)), _refuse)


def _is_a(kind: Any, base: Any) -> bool:
    return descends(kind, base) if isinstance(base, str) else issubclass(kind, base)


def _refuse(value: Any) -> Json:
    kind = type_of(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    raise InvalidData(
        "", f"a {name} cannot be written as JSON: pass what the job needs of it, as plain values or a dataclass"
    )
