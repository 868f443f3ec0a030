"""Types with named members: dataclasses, TypedDicts and NamedTuples."""

from __future__ import annotations

import dataclasses
import typing
from collections import abc
from collections.abc import Callable, Iterable, Sequence
from inspect import signature
from typing import Any, cast

from toril.errors import ConfigError, InvalidData
from toril.shapes.annotations import filled, hints_of, requirement
from toril.shapes.containers import fixed
from toril.shapes.messages import inside, invalid, name_of, place, within, wrong
from toril.shapes.terms import MISSING, ROWS, Compiler, Extra, Member, Reader, Shape, Writer, type_of, wire_name
from toril.shapes.writing import to_json, write_plainly
from toril.wirejson import Json


def members_reader(members: Sequence[Member], extra: Extra, wants: str, ignored: Iterable[str] = ()) -> Reader:
    """Reads an object into a dict by Python names; a member that is absent and not required stays out of it."""
    plan = tuple(
        (member.wire, place(member.wire), member.name, member.shape.read, member.required) for member in members
    )
    known = frozenset((*(member.wire for member in members), *ignored))
    if len({member.wire for member in members}) < len(members):
        raise ConfigError(f"two members of {wants} have the same name on the wire: rename one")
    forbid = extra == "forbid"

    def read(value: Any, where: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise wrong(where, wants, value)
        data = cast("dict[str, Any]", value)
        values: dict[str, Any] = {}
        try:
            for wire, spot, name, read_member, required in plan:
                member = data.get(wire, MISSING)
                if member is not MISSING:
                    values[name] = read_member(member, spot)
                elif required:
                    raise InvalidData(spot, "is missing")
            if forbid and not known.issuperset(data):
                unknown = next(key for key in data if key not in known)
                raise InvalidData(place(unknown), f"is unknown: the members are {', '.join(sorted(known)) or 'none'}")
        except InvalidData as error:
            raise inside(where, error) from None
        return values

    return read


def dataclass_shape(compiler: Compiler, cls: Any, args: tuple[Any, ...]) -> Shape:
    """A dataclass, whose fields are the members. `args`: what a generic class was subscripted with."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if extra := [name for name in signature(cls).parameters if name not in fields]:
        raise ConfigError(f"{name_of(cls)} wants {extra[0]!r}, which is not a field: job data holds the fields alone")

    def required(name: str, hint: Any) -> bool:
        field = fields[name]
        return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING

    members = _members(compiler, cls, args, [name for name, field in fields.items() if field.init], required)
    made_here = [wire_name(name, compiler.keys) for name, field in fields.items() if not field.init]
    return _object(compiler, cls, members, cls, made_here)


def typed_dict_shape(compiler: Compiler, cls: Any, args: tuple[Any, ...]) -> Shape:
    """A TypedDict: read into a dict, written from any mapping."""

    def required(name: str, hint: Any) -> bool:
        # Under postponed annotations Python 3.11 files every NotRequired member as required: the hint decides.
        said = requirement(hint)
        return bool(name in cls.__required_keys__) if said is None else said

    return _object(compiler, cls, _members(compiler, cls, args, cls.__annotations__, required), dict)


def named_tuple_shape(compiler: Compiler, cls: Any, args: tuple[Any, ...]) -> Shape:
    """A NamedTuple: written as a list, as tuples are, and read from a list or from an object."""
    members = _members(compiler, cls, args, cls._fields, lambda name, hint: name not in cls._field_defaults)
    by_name = _object(compiler, cls, members, cls)
    shapes = [member.shape for member in members]
    by_place = fixed(shapes, by_name.wants, lambda row: cls(*row), len(cls._field_defaults))

    def read(value: Any, where: str) -> Any:
        return (by_place.read if type(value) in ROWS else by_name.read)(value, where)

    return Shape(read, by_name.wants, by_place.write, by_name.members)


def _members(
    compiler: Compiler,
    cls: Any,
    args: tuple[Any, ...],
    names: Iterable[str],
    required: Callable[[str, Any], bool],
) -> list[Member]:
    members: list[Member] = []
    hints = hints_of(cls, name_of(cls))
    for name in names:
        hint = hints.get(name, Any)
        try:
            part = compiler.shape(filled(hint, getattr(cls, "__parameters__", ()), args))
        except ConfigError as error:
            raise ConfigError(f"{name_of(cls)}.{name}: {error}") from None
        members.append(Member(name, wire_name(name, compiler.keys), part, required(name, hint)))
    return members


def _object(
    compiler: Compiler,
    cls: Any,
    members: Sequence[Member],
    make: Callable[..., Any],
    ignored: Iterable[str] = (),
) -> Shape:
    wants = f"an object ({name_of(cls)})"
    read_members = members_reader(members, compiler.extra, wants, ignored)

    def read(value: Any, where: str) -> Any:
        values = read_members(value, where)
        try:
            return make(**values)
        except (TypeError, ValueError) as error:
            raise invalid(where, cls, error) from None

    known = frozenset((*(member.wire for member in members), *ignored))
    write = _camel_writer(compiler, cls, members) if compiler.keys == "camel" else None
    return Shape(read_members if make is dict else read, wants, write, known)


def _camel_writer(compiler: Compiler, cls: Any, members: Sequence[Member]) -> Writer:
    plan = {member.name: (member.wire, member.shape.write or write_plainly) for member in members}
    is_dict = issubclass(cls, dict)

    def write(value: Any) -> Json:
        kind = type_of(value)
        if not isinstance(value, abc.Mapping if is_dict else cls):
            return to_json(value)
        if not is_dict and kind is not cls and kind is not typing.get_origin(cls):
            return (compiler.shape(kind).write or to_json)(value)  # a subclass has members of its own
        return {
            wire: within(place(wire), write_member, member)
            for wire, write_member, member in (
                (*plan.get(name, (wire_name(name, compiler.keys), write_plainly)), member)
                for name, member in _items(value)
            )
        }

    return write


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, abc.Mapping):
        return cast("abc.Mapping[str, Any]", value).items()
    return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
