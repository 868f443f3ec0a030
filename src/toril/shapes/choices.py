"""A choice among values: literals and enums."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum, Flag
from typing import Any

from toril.shapes.messages import shown, wrong
from toril.shapes.terms import MISSING, PLAIN, Reader, Shape
from toril.shapes.writing import to_json, write_enum
from toril.wirejson import Json


def literal(values: Iterable[Any]) -> Shape:
    """One of some values, each read from its JSON form."""
    return _one_of([(to_json(value), value) for value in values])


def enum(cls: type[Enum], *, exact: bool) -> Shape:
    """A member of an enum, read from what `to_json` writes; if not `exact`, from its name too."""
    written = [(write_enum(member), member) for member in cls]
    by_value = _one_of(written, cls if issubclass(cls, Flag) else None)
    return by_value if exact else _one_of([*written, *cls.__members__.items()], cls, by_value.wants)


def enum_key(cls: type[Enum]) -> Reader:
    """Reads the key of a dict, which is text, as a member of an enum."""
    return _one_of([*((str(write_enum(member)), member) for member in cls), *cls.__members__.items()]).read


def _one_of(
    choices: Iterable[tuple[Json, Any]], otherwise: Callable[[Any], Any] | None = None, wants: str = ""
) -> Shape:
    """A choice among values, each with its JSON form. True is not 1 here; 1.0 is."""
    table: dict[Any, Any] = {}
    for written, value in choices:
        table.setdefault((written is True or written is False, written), value)
    names = [shown(written) for _, written in table]
    listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    wants = wants or ("one of " if len(names) > 1 else "") + listed

    def read(value: Any, where: str) -> Any:
        if type(value) in PLAIN:
            found = table.get((value is True or value is False, value), MISSING)
            if found is not MISSING:
                return found
            if otherwise is not None and type(value) is not bool:
                try:
                    return otherwise(value)
                except (ValueError, TypeError, KeyError):
                    pass
        raise wrong(where, wants, value)

    return Shape(read, wants)
