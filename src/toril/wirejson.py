"""JSON that JavaScript reads back: no NaN, no integer beyond 2^53, valid UTF-8."""

from __future__ import annotations

import json
import json.encoder
from typing import Any, cast

from toril.errors import InvalidJob, PayloadTooLarge

Json = Any
"""None, bool, int, float, str, list, tuple or dict with text keys, nested."""

MAX_INTEGER = 2**53


_scan: Any = json.JSONDecoder().scan_once  # type: ignore[attr-defined] # what `loads` calls between two looks for blanks
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_scalars = frozenset((str, bool, type(None)))


def encode(value: Json, what: str = "data", limit: int | None = None) -> str:
    """JSON text of `value`, without blanks.

    Raises:
        InvalidJob: it holds what JSON or JavaScript cannot: the message says where.
        PayloadTooLarge: the text is longer than `limit` bytes of UTF-8.
    """
    try:
        _check(value, what)
        text = _text(value)
        size = len(text) if text.isascii() else len(text.encode())
    except RecursionError:
        raise InvalidJob(f"{what} is nested too deeply, or contains itself") from None
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, InvalidJob) else InvalidJob(f"{what} is not JSON: {error}") from None
    if limit is not None and size > limit:
        raise PayloadTooLarge(size, limit)
    return text


def _text(value: Json) -> str:
    """What `_encoder` writes; through its C part at once, since making that anew for each value costs most of the time."""
    return "".join(_write(value, 0)) if _write is not None else _encoder.encode(value)


_make: Any = getattr(json.encoder, "c_make_encoder", None)
_write: Any = _make and _make(
    None, _encoder.default, json.encoder.encode_basestring, None, ":", ",", False, False, False
)


def decode(text: str) -> Json:
    """The value of JSON text. Raises ValueError when it is not JSON."""
    try:
        value, end = _scan(text, 0)
    except StopIteration:  # how the scanner says that there is nothing to read
        return json.loads(text)
    return value if end == len(text) else json.loads(text)


def _check(value: Json, where: str) -> None:
    """Refuse what the encoder would let through and JavaScript or the other side would read differently."""
    kind = cast("type[object]", type(value))
    if kind in _scalars:
        return
    if kind is dict:
        for key, member in value.items():
            if type(key) is not str:
                raise InvalidJob(f"{where} has the key {key!r}: keys of JSON objects are text")
            if not _is_plain(member):
                _check(member, f"{where}.{key}")
    elif kind is list or kind is tuple:
        for n, member in enumerate(value):
            if not _is_plain(member):
                _check(member, f"{where}[{n}]")
    elif isinstance(value, dict | list | tuple):
        _check(_plain(value), where)
    elif isinstance(value, int) and not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise InvalidJob(f"{where} is {value}: JavaScript reads integers only up to 2^53 exactly; pass it as text")
    elif isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        raise InvalidJob(f"{where} is {value}, which JSON has no number for: use null or text")


def _plain(value: Any) -> Json:
    """A dict or list for what is derived from one."""
    make: Any = dict if isinstance(value, dict) else list
    return make(value)


def _is_plain(value: Json) -> bool:
    """Whether a value needs no closer look; the commonest ones do not, and their place is not spelled out."""
    kind = cast("type[object]", type(value))
    return kind in _scalars or (kind is int and -MAX_INTEGER <= value <= MAX_INTEGER)
