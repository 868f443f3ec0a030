"""JSON and numbers as peers write them, wrongly too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Flat = Sequence[str]
"""A hash as Redis answers it: name, text, name, text…"""


def fields_of(flat: Flat) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def whole(text: str | None) -> int:
    """A number as it is written in a hash; 0 for none, and for what is none."""
    if not text:
        return 0
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return 0


def number(job: Mapping[str, str], name: str) -> int:
    return whole(job.get(name))


def moment(job: Mapping[str, str], name: str) -> int | None:
    return number(job, name) if job.get(name) else None


def parsed(text: str | None) -> Any:
    """The value of JSON text that a peer may have written wrongly; None then."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def as_object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value if isinstance(value, dict) else {})


def as_list(value: Any) -> list[Any]:
    return list(cast("Iterable[Any]", value)) if isinstance(value, list) else []
