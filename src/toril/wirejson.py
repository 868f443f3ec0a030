"""JSON that JavaScript reads back: no NaN, no integer beyond 2^53, valid UTF-8."""

from __future__ import annotations

import json
from typing import Any

from toril.errors import InvalidJob, PayloadTooLarge

Json = Any
"""None, bool, int, float, str, list, tuple or dict with text keys, nested."""

MAX_INTEGER = 2**53


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_scalar_types = frozenset((str, bool, type(None)))


def encode(value: Json, what: str = "data", limit: int | None = None) -> str:
    """JSON text of `value`, without blanks.

    Raises:
        InvalidJob: it holds what JSON or JavaScript cannot: the message says where.
        PayloadTooLarge: the text is longer than `limit` bytes of UTF-8.
    """
    _check(value, what)
    try:
        text = _encoder.encode(value)
        size = len(text) if text.isascii() else len(text.encode())
    except RecursionError:
        raise InvalidJob(f"{what} is nested too deeply, or contains itself") from None
    except (TypeError, ValueError) as error:
        raise InvalidJob(f"{what} is not JSON: {error}") from None
    if limit is not None and size > limit:
        raise PayloadTooLarge(size, limit)
    return text


def decode(text: str) -> Json:
    """The value of JSON text. Raises ValueError when it is not JSON."""
    return json.loads(text)


def _check(value: Json, where: str) -> None:
    """Refuse what the encoder would let through and JavaScript or the other side would read differently."""
    kind = type(value)
    if kind in _scalar_types:
        return
    if kind is dict:
        for key, member in value.items():
            if type(key) is not str:
                raise InvalidJob(f"{where} has the key {key!r}: keys of JSON objects are text")
            if type(member) not in _scalar_types:
                _check_member(member, where, key)
    elif kind is list or kind is tuple:
        for n, member in enumerate(value):
            if type(member) not in _scalar_types:
                _check_member(member, where, n)
    elif kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise InvalidJob(f"{where} is {value}: JavaScript reads integers only up to 2^53 exactly; pass it as text")
    elif kind is float and (value != value or value in (float("inf"), float("-inf"))):
        raise InvalidJob(f"{where} is {value}, which JSON has no number for: use null or text")


def _check_member(member: Json, where: str, key: object) -> None:
    try:
        _check(member, f"{where}.{key}" if isinstance(key, str) else f"{where}[{key}]")
    except RecursionError:
        raise InvalidJob(f"{where.split('.')[0]} is nested too deeply, or contains itself") from None
