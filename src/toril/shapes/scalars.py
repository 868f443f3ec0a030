"""Types without members: each has one JSON form, a scalar."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from math import isfinite
from typing import Any, Final, LiteralString

from toril.shapes.messages import wrong
from toril.shapes.terms import Shape, descends, path_of


def scalar(annotation: Any, *, exact: bool = False) -> Shape | None:
    """The shape of a scalar type, None when `annotation` is another type.

    An `exact` shape reads only what `to_json` would write.
    """
    try:
        found = (_EXACT if exact else _SCALARS).get(annotation)
    except TypeError:  # metadata of Annotated need not be hashable
        return None
    if found is not None or not isinstance(annotation, type):
        return found
    if is_uuid(annotation):
        return _from_text(annotation, "a UUID")
    if descends(annotation, "pathlib.PurePath"):
        return _from_text(annotation, "a path as text")
    return _decimal(annotation, exact=exact) if path_of(annotation) == "decimal.Decimal" else None


def is_uuid(annotation: Any) -> bool:
    """Whether `annotation` is UUID, whose module need not be imported for the question."""
    return isinstance(annotation, type) and path_of(annotation) == "uuid.UUID"


def read_any(value: Any, where: str) -> Any:
    return value


def _read_none(value: Any, where: str) -> None:
    if value is not None:
        raise wrong(where, "null", value)


def _read_bool(value: Any, where: str) -> Any:
    if value is True or value is False:
        return value
    raise wrong(where, "true or false", value)


def _read_int(value: Any, where: str) -> Any:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():  # JavaScript has one type of number
        return int(value)
    raise wrong(where, "a whole number", value)


def _read_exact_int(value: Any, where: str) -> Any:
    if type(value) is int:
        return value
    raise wrong(where, "a whole number", value)


def _read_float(value: Any, where: str) -> Any:
    if type(value) is float and isfinite(value):
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            pass
    raise wrong(where, "a number", value)


def read_str(value: Any, where: str) -> Any:
    if type(value) is str:
        return value
    raise wrong(where, "text", value)


def _read_timedelta(value: Any, where: str) -> timedelta:
    if type(value) is int or type(value) is float:
        try:
            return timedelta(seconds=value)
        except (OverflowError, ValueError):
            pass
    raise wrong(where, "a number of seconds", value)


def _from_text(convert: Callable[[str], Any], wants: str) -> Shape:
    def read(value: Any, where: str) -> Any:
        if type(value) is str:
            try:
                return convert(value)
            except (ValueError, ArithmeticError):
                pass
        raise wrong(where, wants, value)

    return Shape(read, wants)


def _bytes(text: str) -> bytes:
    from base64 import b64decode  # costs more to import than the rest of this module

    return b64decode(text, validate=True)


def _decimal(cls: Any, *, exact: bool) -> Shape:
    def convert(text: str) -> Any:
        number = cls(text)
        if not number.is_finite():
            raise ValueError(text)
        return number

    def read_number(value: Any, where: str) -> Any:
        if type(value) is int:
            return cls(value)
        return from_text.read(repr(value) if type(value) is float and isfinite(value) else value, where)

    from_text = _from_text(convert, "a decimal number")
    return from_text if exact else Shape(read_number, from_text.wants)


_text = Shape(read_str, "text", natives=frozenset((str,)))
_whole = frozenset((int,))

_SCALARS: Final[dict[Any, Shape]] = {
    Any: Shape(read_any, "any value"),
    object: Shape(read_any, "any value"),
    None: Shape(_read_none, "null"),
    type(None): Shape(_read_none, "null"),
    bool: Shape(_read_bool, "true or false", natives=frozenset((bool,))),
    int: Shape(_read_int, "a whole number", natives=_whole),
    float: Shape(_read_float, "a number"),
    str: _text,
    LiteralString: _text,
    timedelta: Shape(_read_timedelta, "a number of seconds"),
    datetime: _from_text(datetime.fromisoformat, "a date and time in ISO 8601"),
    date: _from_text(date.fromisoformat, "a date in ISO 8601"),
    time: _from_text(time.fromisoformat, "a time in ISO 8601"),
    bytes: _from_text(_bytes, "base64 text"),
}
_EXACT: Final = {**_SCALARS, int: Shape(_read_exact_int, "a whole number", natives=_whole)}
