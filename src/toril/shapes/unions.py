"""A choice among types: the first one that a value fits, those that it fits exactly before all others."""

from __future__ import annotations

import threading
from typing import Any, Final

from toril.errors import InvalidData
from toril.shapes.messages import cut, inside, wrong
from toril.shapes.terms import PLAIN, Reader, Shape
from toril.shapes.writing import to_json
from toril.wirejson import Json

_LONGEST_PROBLEM: Final = 500


def optional(inner: Shape) -> Shape:
    """A type or None."""
    read_inner, write_inner = inner.read, inner.write or to_json

    def read(value: Any, where: str) -> Any:
        return None if value is None else read_inner(value, where)

    def write(value: Any) -> Json:
        return None if value is None else write_inner(value)

    natives = inner.natives and inner.natives | {type(None)}
    return Shape(read, f"{inner.wants} or null", write if inner.write else None, inner.members, natives)


def first_of(passes: list[list[Shape]], natives: frozenset[type], outcomes: Outcomes | None) -> Shape:
    """A union, tried pass by pass. `natives`: the types whose values are taken as they are: their option comes first."""
    reads = [option.read for options in passes for option in options]
    exact, last = passes[0], passes[-1]
    wants = " or ".join(dict.fromkeys(option.wants for option in last))

    def read(value: Any, where: str) -> Any:
        if type(value) in natives:
            return value
        errors: list[InvalidData] = []
        for read_option in reads:
            try:
                return read_option(value, "")
            except InvalidData as error:
                errors.append(error)
        inner = [(option.wants, error) for option, error in zip(last, errors[-len(last) :], strict=True) if error.where]
        if not inner:
            raise wrong(where, wants, value)
        if len(inner) == 1:
            raise inside(where, inner[0][1])
        misfits = "; ".join(f"as {option}: {error}" for option, error in inner)
        raise InvalidData(where, cut(f"must be {wants}: {misfits}", _LONGEST_PROBLEM))

    def write(value: Any) -> Json:
        for option in exact:
            try:
                written = (option.write or to_json)(value)
                option.read(written, "")
            except InvalidData:
                continue
            return written
        return to_json(value)

    once = _each_once(read, outcomes) if outcomes else read
    return Shape(once, wants, write if any(option.write for option in exact) else None, natives=natives)


class Outcomes(threading.local):
    """What became of the values that this thread is reading, by union and identity."""

    def __init__(self) -> None:
        self.depth = 0
        self.known: dict[tuple[Reader, int], tuple[Any, InvalidData | None]] = {}


def _each_once(read: Reader, outcomes: Outcomes) -> Reader:
    """Read each value once, however many options of an outer union ask for it.

    Without it a union that contains itself doubles the work with every level of nesting, and data can be nested
    by whoever may add a job. All unions of a type share their outcomes, kept until the outermost has been read.
    """

    def once(value: Any, where: str) -> Any:
        if type(value) in PLAIN:  # its identity may be used again while the data lives; that of a container is its own
            return read(value, where)
        outcome = outcomes.known.get((read, id(value)))
        if outcome is None:
            outcomes.depth += 1
            try:
                outcome = _outcome(read, value)
                outcomes.known[read, id(value)] = outcome
            finally:
                outcomes.depth -= 1
                if not outcomes.depth:
                    outcomes.known.clear()
        if outcome[1] is not None:
            raise inside(where, outcome[1])
        return outcome[0]

    return once


def _outcome(read: Reader, value: Any) -> tuple[Any, InvalidData | None]:
    try:
        return read(value, ""), None
    except InvalidData as error:
        return None, error.with_traceback(None)
