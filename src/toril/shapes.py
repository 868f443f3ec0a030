"""JSON values into typed Python values and back: each type is compiled once, into closures.

A reader is called with the value and its place. Members are read with a place of their own, relative to the value
that holds them; the full place is put together on the way out, and only when something does not fit.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import sys
import threading
import types
import typing
from collections import abc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from functools import lru_cache, partial
from inspect import signature
from math import isfinite
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal, LiteralString, NewType, TypeVar, Union, cast
from uuid import UUID

from toril.errors import ConfigError, InvalidData
from toril.wirejson import Json

Reader = Callable[[Any, str], Any]
"""Turns a JSON value, found at a place, into a typed value. Raises InvalidData."""

Writer = Callable[[Any], Json]
"""Turns a typed value into a JSON value. Raises InvalidData."""

Extra = Literal["ignore", "forbid"]
"""What becomes of members that nobody declared."""

Keys = Literal["snake", "camel"]
"""How the names of members are spelled on the wire: as in Python, or `userId` for `user_id`."""

SUPPORTED: Final = (
    "None, bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID, Path, Enum, Literal, list, tuple, "
    "set, frozenset, dict, Union, a dataclass, NamedTuple, TypedDict, pydantic or msgspec model, or Any"
)

_is_subclass: Callable[[Any, Any], bool] = issubclass
_type_of: Callable[[Any], Any] = type  # `type`, as type checkers should see it: its members are not known
_MISSING: Final = object()
_PLAIN: Final = frozenset((str, int, float, bool, type(None)))
_ROWS: Final = frozenset((list, tuple))
_LONGEST_PLACE: Final = 200
_LONGEST_PROBLEM: Final = 500


@dataclass(frozen=True, slots=True)
class Shape:
    """A compiled type: how to read it, what to call it, and how to write it where `to_json` would not do."""

    read: Reader
    wants: str
    write: Writer | None = None
    members: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One named part of an object: `name` in Python, `wire` in the data."""

    name: str
    wire: str
    shape: Shape
    required: bool


def reader(annotation: Any, *, extra: Extra = "ignore", keys: Keys = "snake") -> Reader:
    """The function that reads JSON values as `annotation`.

    Raises:
        ConfigError: job data cannot hold such a type.
    """
    return shape(annotation, extra=extra, keys=keys).read


def writer(annotation: Any, *, keys: Keys = "snake") -> Writer:
    """The function that writes values of `annotation`, with the names that `reader` expects under the same `keys`."""
    return shape(annotation, keys=keys).write or to_json


def shape(annotation: Any, *, extra: Extra = "ignore", keys: Keys = "snake") -> Shape:
    """`annotation`, compiled. Raises ConfigError when job data cannot hold such a type."""
    try:
        return _Compiler(extra, keys).shape(annotation)
    except RecursionError:
        raise ConfigError(
            f"{_name(annotation)} refers to itself with ever larger types: give it a plain form"
        ) from None


def camel(name: str) -> str:
    """`user_id` as JavaScript spells it: `userId`."""
    return re.sub(r"(?<=[^_])_+([^_])", lambda found: found[1].upper(), name)


def snake(name: str) -> str:
    """`userId` as Python spells it: `user_id`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"_{found[1].lower()}", name)


# Places and messages


def place(key: str) -> str:
    """The member `key`, as a message names it."""
    return key if key.isidentifier() and len(key) <= 60 else f"[{json.dumps(_cut(key, 60), ensure_ascii=False)}]"


def inside(where: str, error: InvalidData) -> InvalidData:
    """The same error, seen from outside: its place is within `where`."""
    inner = error.where
    dot = "." if where and inner and inner[0] != "[" else ""
    return InvalidData(_cut(f"{where}{dot}{inner}", _LONGEST_PLACE), error.problem)


def wrong(where: str, wants: str, value: Any) -> InvalidData:
    """The error of a value that is something else than `wants`."""
    return InvalidData(where, f"must be {wants}, not {shown(value)}")


def shown(value: Any) -> str:
    """A value as messages quote it: short, whatever it holds."""
    kind = _type_of(value)
    if kind is str:
        return repr(_cut(value, 40))
    if kind is int and value.bit_length() > 64:
        return f"an integer of {value.bit_length():,} bits"
    if kind is float and value != value:
        return "NaN"
    if kind in _PLAIN:
        return json.dumps(value)
    return "an object" if kind is dict else "a list" if kind in _ROWS else f"a {_name(kind)}"


def _cut(text: str, longest: int) -> str:
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[1 - half :]}"


def _name(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


# Scalars


def _read_any(value: Any, where: str) -> Any:
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


def _read_str(value: Any, where: str) -> Any:
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


def _decimal(text: str) -> Decimal:
    number = Decimal(text)
    if not number.is_finite():
        raise ValueError(text)
    return number


def _from_text(convert: Callable[[str], Any], wants: str) -> Shape:
    def read(value: Any, where: str) -> Any:
        if type(value) is str:
            try:
                return convert(value)
            except (ValueError, ArithmeticError):
                pass
        raise wrong(where, wants, value)

    return Shape(read, wants)


_exact_decimal = _from_text(_decimal, "a decimal number")


def _read_decimal(value: Any, where: str) -> Any:
    if type(value) is int:
        return Decimal(value)
    return _exact_decimal.read(repr(value) if type(value) is float and isfinite(value) else value, where)


_SCALARS: Final[dict[Any, Shape]] = {
    Any: Shape(_read_any, "any value"),
    object: Shape(_read_any, "any value"),
    None: Shape(_read_none, "null"),
    type(None): Shape(_read_none, "null"),
    bool: Shape(_read_bool, "true or false"),
    int: Shape(_read_int, "a whole number"),
    float: Shape(_read_float, "a number"),
    str: Shape(_read_str, "text"),
    LiteralString: Shape(_read_str, "text"),
    timedelta: Shape(_read_timedelta, "a number of seconds"),
    Decimal: Shape(_read_decimal, "a decimal number"),
    datetime: _from_text(datetime.fromisoformat, "a date and time in ISO 8601"),
    date: _from_text(date.fromisoformat, "a date in ISO 8601"),
    time: _from_text(time.fromisoformat, "a time in ISO 8601"),
    UUID: _from_text(UUID, "a UUID"),
    bytes: _from_text(partial(base64.b64decode, validate=True), "base64 text"),
}
_EXACT: Final[dict[Any, Shape]] = {
    **_SCALARS,
    int: Shape(_read_exact_int, "a whole number"),
    Decimal: _exact_decimal,
}

_LISTS: Final = frozenset(
    (list, abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Collection, abc.Container, abc.Reversible)
)
_SETS: Final = frozenset((set, frozenset, abc.Set, abc.MutableSet))
_DICTS: Final = frozenset((dict, abc.Mapping, abc.MutableMapping))
_WRAPPERS: Final = frozenset(("Required", "NotRequired", "ReadOnly", "Final"))


class _Compiler:
    """Compiles one annotation and the types it refers to.

    `exact` readers take only what `to_json` would write; a union asks them before the lenient ones.
    """

    def __init__(self, extra: Extra, keys: Keys, exact_with: _Outcomes | None = None) -> None:
        self._extra: Extra = extra
        self._keys: Keys = keys
        self._outcomes = exact_with or _Outcomes()
        self._scalars = _EXACT if exact_with else _SCALARS
        self._exact = self if exact_with else _Compiler("forbid", keys, self._outcomes)
        self._known: dict[Any, Shape] = {}

    def shape(self, annotation: Any) -> Shape:
        if _is_scalar(annotation):
            return self._scalars[annotation]
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is Annotated or getattr(origin, "_name", None) in _WRAPPERS:
            return self.shape(args[0])
        if origin is Union or origin is types.UnionType:
            return self._union(args)
        if origin is Literal:
            return _one_of([(to_json(value), value) for value in args])
        if isinstance(annotation, NewType):
            return self.shape(annotation.__supertype__)
        if isinstance(annotation, TypeVar):
            return self._union(annotation.__constraints__) if annotation.__constraints__ else self._bound(annotation)
        whole: Any = origin or annotation
        if type(whole).__name__ == "TypeAliasType":
            value = _filled(whole.__value__, whole.__type_params__, args)
            return self._named(annotation, lambda: self.shape(value))
        return self._class(whole, args, annotation)

    def _bound(self, variable: TypeVar) -> Shape:
        return self._scalars[Any] if variable.__bound__ is None else self.shape(variable.__bound__)

    def _class(self, cls: Any, args: tuple[Any, ...], annotation: Any) -> Shape:
        if cls in _LISTS:
            return _rows(self.shape(args[0] if args else Any), None)
        if cls in _SETS:
            return _rows(self.shape(args[0] if args else Any), frozenset if cls is frozenset else set)
        if cls in _DICTS:
            key, value = args or (Any, Any)
            return _mapping(self._key(key), self.shape(value))
        if cls is tuple and not getattr(annotation, "__unpacked__", False):
            if not args and annotation is tuple:
                args = (Any, ...)
            if args[1:] == (...,):
                return _rows(self.shape(args[0]), tuple)
            return _fixed([self.shape(arg) for arg in args], "a list", tuple)
        if not isinstance(cls, type) or cls is tuple:
            raise _unsupported(annotation)
        if issubclass(cls, Enum):
            return _enum(cls, by_name=self is not self._exact)
        if issubclass(cls, PurePath):
            return _from_text(cls, "a path as text")
        build = self._record(cls, args)
        return self._named(annotation, build)

    def _record(self, cls: Any, args: tuple[Any, ...]) -> Callable[[], Shape]:
        if _is_model(cls, "pydantic", "BaseModel"):
            return lambda: _pydantic(cls)
        if _is_model(cls, "msgspec", "Struct"):
            return lambda: _msgspec(cls[args] if args else cls)
        if dataclasses.is_dataclass(cls):
            return lambda: self._dataclass(cls, args)
        if _is_subclass(cls, dict) and hasattr(cls, "__required_keys__"):
            return lambda: self._typed_dict(cls, args)
        if _is_subclass(cls, tuple) and hasattr(cls, "_fields"):
            return lambda: self._named_tuple(cls, args)
        raise _unsupported(cls)

    def _named(self, key: Any, build: Callable[[], Shape]) -> Shape:
        """The shape of a type that may contain itself: meeting it again while it is built gives a forward reference."""
        if known := self._known.get(key):
            return known
        built: list[Shape] = []

        def read(value: Any, where: str) -> Any:
            try:
                return built[0].read(value, where)
            except RecursionError:
                raise InvalidData(where, "is nested too deeply") from None

        def write(value: Any) -> Json:
            return (built[0].write or to_json)(value)

        self._known[key] = Shape(read, f"a {_name(key)}", write if self._keys == "camel" else None)
        built.append(build())
        # The outermost level keeps the guard too: it is where a caller without much stack left arrives.
        self._known[key] = dataclasses.replace(built[0], read=read)
        return self._known[key]

    def _union(self, options: Sequence[Any]) -> Shape:
        rest = [option for option in options if option is not None and option is not type(None)]
        if len(rest) < len(options):
            return _optional(self.shape(rest[0]) if len(rest) == 1 else self._union(rest))
        passes = [[self._exact.shape(option) for option in rest]]
        if self is not self._exact:
            passes.append([self.shape(option) for option in rest])
        natives: set[Any] = set()
        for option in rest:
            if not _is_scalar(option) or option not in _PLAIN:
                break
            natives.add(option)
        several = sum(not _is_scalar(option) for option in rest) > 1
        return _first_of(passes, frozenset(natives - {float}), self._outcomes if several else None)

    def _key(self, annotation: Any) -> Reader:
        while isinstance(annotation, NewType) or typing.get_origin(annotation) is Annotated:
            annotation = annotation.__supertype__ if isinstance(annotation, NewType) else typing.get_args(annotation)[0]
        if annotation is int:
            return _read_int_key
        if isinstance(annotation, type) and issubclass(annotation, Enum):
            members = [(str(write_enum(member)), member) for member in annotation]
            return _one_of([*members, *annotation.__members__.items()]).read
        if annotation in (Any, object, str, UUID) or typing.get_origin(annotation) is Literal:
            return self.shape(annotation).read
        raise ConfigError(f"{_name(annotation)} cannot be the key of a dict in job data: use str, int, an Enum or UUID")

    def _members(
        self, cls: Any, args: tuple[Any, ...], names: Iterable[str], required: Callable[[str, Any], bool]
    ) -> list[Member]:
        members: list[Member] = []
        hints = hints_of(cls, _name(cls))
        for name in names:
            hint = hints.get(name, Any)
            try:
                part = self.shape(_filled(hint, getattr(cls, "__parameters__", ()), args))
            except ConfigError as error:
                raise ConfigError(f"{_name(cls)}.{name}: {error}") from None
            members.append(Member(name, self._wire(name), part, required(name, hint)))
        return members

    def _wire(self, name: str) -> str:
        return camel(name) if self._keys == "camel" else name

    def _object(
        self, cls: Any, members: Sequence[Member], make: Callable[..., Any], ignored: Iterable[str] = ()
    ) -> Shape:
        wants = f"an object ({_name(cls)})"
        read_members = members_reader(members, self._extra, wants, ignored)

        def read(value: Any, where: str) -> Any:
            values = read_members(value, where)
            try:
                return make(**values)
            except (TypeError, ValueError) as error:
                raise InvalidData(where, f"is not a valid {_name(cls)}: {_cut(str(error), 200)}") from None

        known = frozenset((*(member.wire for member in members), *ignored))
        write = self._object_writer(cls, members) if self._keys == "camel" else None
        return Shape(read_members if make is dict else read, wants, write, known)

    def _object_writer(self, cls: Any, members: Sequence[Member]) -> Writer:
        plan = {member.name: (member.wire, member.shape.write or _plain) for member in members}
        is_dict = issubclass(cls, dict)

        def write(value: Any) -> Json:
            kind = _type_of(value)
            if not isinstance(value, abc.Mapping if is_dict else cls):
                return to_json(value)
            if not is_dict and kind is not cls and kind is not typing.get_origin(cls):
                return (self.shape(kind).write or to_json)(value)  # a subclass has members of its own
            return {
                wire: within(place(wire), write_member, member)
                for wire, write_member, member in (
                    (*plan.get(name, (self._wire(name), _plain)), member) for name, member in _items(value)
                )
            }

        return write

    def _dataclass(self, cls: Any, args: tuple[Any, ...]) -> Shape:
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if extra := [name for name in signature(cls).parameters if name not in fields]:
            raise ConfigError(f"{_name(cls)} wants {extra[0]!r}, which is not a field: job data holds the fields alone")

        def required(name: str, hint: Any) -> bool:
            field = fields[name]
            return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING

        members = self._members(cls, args, [name for name, field in fields.items() if field.init], required)
        made_here = [self._wire(name) for name, field in fields.items() if not field.init]
        return self._object(cls, members, cls, made_here)

    def _typed_dict(self, cls: Any, args: tuple[Any, ...]) -> Shape:
        def required(name: str, hint: Any) -> bool:
            # Under postponed annotations Python 3.11 files every NotRequired member as required: the hint decides.
            while (origin := typing.get_origin(hint)) is not None:
                form = getattr(origin, "_name", None)
                if form in ("Required", "NotRequired"):
                    return bool(form == "Required")
                if form not in _WRAPPERS and origin is not Annotated:
                    break
                hint = typing.get_args(hint)[0]
            return bool(name in cls.__required_keys__)

        return self._object(cls, self._members(cls, args, cls.__annotations__, required), dict)

    def _named_tuple(self, cls: Any, args: tuple[Any, ...]) -> Shape:
        members = self._members(cls, args, cls._fields, lambda name, hint: name not in cls._field_defaults)
        by_name = self._object(cls, members, cls)
        shapes = [member.shape for member in members]
        by_place = _fixed(shapes, by_name.wants, lambda row: cls(*row), len(cls._field_defaults))

        def read(value: Any, where: str) -> Any:
            return (by_place.read if type(value) in _ROWS else by_name.read)(value, where)

        return Shape(read, by_name.wants, by_place.write, by_name.members)


def _is_scalar(annotation: Any) -> bool:
    try:
        return annotation in _SCALARS
    except TypeError:  # metadata of Annotated need not be hashable
        return False


def _unsupported(annotation: Any) -> ConfigError:
    return ConfigError(f"job data cannot be read as {_name(annotation)}: use {SUPPORTED}")


def hints_of(holder: Any, what: str) -> dict[str, Any]:
    """The annotations of a class or function, resolved. Raises ConfigError for a name that is unknown at run time."""
    try:
        return typing.get_type_hints(holder, include_extras=True)
    except NameError as error:
        raise ConfigError(
            f"{what} has an annotation that is unknown at run time ({error}): define it at module level, outside TYPE_CHECKING"
        ) from None
    except (TypeError, SyntaxError, AttributeError) as error:
        raise ConfigError(f"{what} has an annotation that is no type: {error}") from None


def _filled(annotation: Any, variables: Sequence[Any], args: Sequence[Any]) -> Any:
    """`annotation` with the type variables of a generic class replaced by what it was subscripted with."""
    meaning = dict(zip(variables, args, strict=False))
    if type(annotation) is TypeVar:
        return meaning.get(annotation, annotation)
    open_ones: Any = getattr(annotation, "__parameters__", ()) if typing.get_origin(annotation) is not None else ()
    return annotation[tuple(meaning.get(v, v) for v in open_ones)] if open_ones and meaning else annotation


# Readers of what has members


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, abc.Mapping):
        return cast("abc.Mapping[str, Any]", value).items()
    return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]


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
                member = data.get(wire, _MISSING)
                if member is not _MISSING:
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


def _rows(item: Shape, make: Callable[[list[Any]], Any] | None) -> Shape:
    read_item = item.read

    def read(value: Any, where: str) -> Any:
        if type(value) not in _ROWS:
            raise wrong(where, "a list", value)
        rows: list[Any] = []
        try:
            for member in value:
                rows.append(read_item(member, ""))  # noqa: PERF401 - its length says where reading stopped
        except InvalidData as error:
            raise inside(f"{where}[{len(rows)}]", error) from None
        try:
            return rows if make is None else make(rows)
        except TypeError:
            raise InvalidData(where, "has a member that a set cannot hold: a list or an object") from None

    return Shape(read, "a list", item.write and partial(_write_rows, item.write))


def _fixed(items: Sequence[Shape], wants: str, make: Callable[[list[Any]], Any], optional: int = 0) -> Shape:
    reads = [item.read for item in items]
    count = len(items)
    needed = str(count) if not optional else f"{count - optional} to {count}"

    def read(value: Any, where: str) -> Any:
        if type(value) not in _ROWS:
            raise wrong(where, wants, value)
        if not count - optional <= len(value) <= count:
            raise InvalidData(where, f"must have {needed} members, not {len(value)}")
        rows: list[Any] = []
        try:
            for read_item, member in zip(reads, value, strict=False):
                rows.append(read_item(member, ""))
        except InvalidData as error:
            raise inside(f"{where}[{len(rows)}]", error) from None
        return make(rows)

    writes = [item.write or _plain for item in items]
    return Shape(read, wants, partial(_write_fixed, writes) if any(item.write for item in items) else None)


def _mapping(read_key: Reader, item: Shape) -> Shape:
    read_item, any_key = item.read, read_key in (_read_any, _read_str)

    def read(value: Any, where: str) -> dict[Any, Any]:
        if type(value) is not dict:
            raise wrong(where, "an object", value)
        data = cast("dict[str, Any]", value)
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

    return Shape(read, "an object", item.write and partial(_write_mapping, item.write))


def _read_int_key(value: Any, where: str) -> int:
    if re.fullmatch(r"0|-?[1-9][0-9]{0,999}", value):  # one spelling for each number, so that no two keys are the same
        return int(value)
    raise wrong(where, "a whole number", value)


def _optional(inner: Shape) -> Shape:
    read_inner, write_inner = inner.read, inner.write

    def read(value: Any, where: str) -> Any:
        return None if value is None else read_inner(value, where)

    def write(value: Any) -> Json:
        return None if value is None else (write_inner or to_json)(value)

    return Shape(read, f"{inner.wants} or null", write if write_inner else None, inner.members)


def _first_of(passes: list[list[Shape]], natives: frozenset[Any], outcomes: _Outcomes | None) -> Shape:
    """A union. `natives`: the types whose values are taken as they are, since their option comes first."""
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
        raise InvalidData(where, _cut(f"must be {wants}: {misfits}", _LONGEST_PROBLEM))

    def write(value: Any) -> Json:
        for option in exact:
            try:
                written = (option.write or to_json)(value)
                option.read(written, "")
            except InvalidData:
                continue
            return written
        return to_json(value)

    writes = any(option.write for option in exact)
    return Shape(_each_once(read, outcomes) if outcomes else read, wants, write if writes else None)


class _Outcomes(threading.local):
    """What became of the values that this thread is reading, by union and identity."""

    def __init__(self) -> None:
        self.depth = 0
        self.known: dict[tuple[Reader, int], tuple[Any, InvalidData | None]] = {}


def _each_once(read: Reader, outcomes: _Outcomes) -> Reader:
    """Read each value once, however many options of an outer union ask for it.

    Without it a union that contains itself doubles the work with every level of nesting, and data can be nested
    by whoever may add a job. All unions of a type share their outcomes, kept until the outermost has been read.
    """

    def once(value: Any, where: str) -> Any:
        if type(value) in _PLAIN:  # its identity may be used again while the data lives; that of a container is its own
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
        if type(value) in _PLAIN:
            found = table.get((value is True or value is False, value), _MISSING)
            if found is not _MISSING:
                return found
            if otherwise is not None and type(value) is not bool:
                try:
                    return otherwise(value)
                except (ValueError, TypeError, KeyError):
                    pass
        raise wrong(where, wants, value)

    return Shape(read, wants)


def _enum(cls: type[Enum], *, by_name: bool) -> Shape:
    written = [(write_enum(member), member) for member in cls]
    exact = _one_of(written, cls if issubclass(cls, Flag) else None)
    if not by_name:
        return exact
    return _one_of([*written, *cls.__members__.items()], cls, exact.wants)


# Models of other libraries: known by the names of their classes, so that nothing is imported for them


def _is_model(cls: type, package: str, base: str) -> bool:
    return any(each.__name__ == base and each.__module__.split(".")[0] == package for each in cls.__mro__[1:])


def _pydantic(cls: Any) -> Shape:
    # What model_dump writes is by name, what JavaScript sends may be by alias: both are read, where pydantic can.
    options = {"by_alias": True, "by_name": True} if "by_name" in signature(cls.model_validate).parameters else {}

    def read(value: Any, where: str) -> Any:
        try:
            return cls.model_validate(value, **options)
        except ValueError as error:
            if not hasattr(error, "errors"):
                raise InvalidData(where, f"is not a valid {_name(cls)}: {_cut(str(error), 200)}") from None
            first: dict[str, Any] = cast(Any, error).errors(include_url=False, include_input=False)[0]
            steps = (f"[{step}]" if isinstance(step, int) else place(step) for step in first["loc"])
            spot = "".join(step if step[0] == "[" else f".{step}" for step in steps).removeprefix(".")
            raise inside(where, InvalidData(spot, first["msg"])) from None

    return Shape(read, f"an object ({_name(cls)})")


def _msgspec(cls: Any) -> Shape:
    msgspec: Any = sys.modules["msgspec"]

    def read(value: Any, where: str) -> Any:
        try:
            return msgspec.convert(value, cls, str_keys=True)
        except msgspec.ValidationError as error:
            problem, _, spot = str(error).partition(" - at `$")
            raise inside(where, InvalidData(spot.rstrip("`").removeprefix("."), problem)) from None
        except ValueError as error:
            raise InvalidData(where, f"is not a valid {_name(cls)}: {_cut(str(error), 200)}") from None

    return Shape(read, f"an object ({_name(cls)})")


# Writing


def to_json(value: Any) -> Json:
    """`value` as JSON: the inverse of `reader`. Plain JSON comes back as it is.

    Raises:
        InvalidData: (an InvalidJob) it holds something that JSON has no form for; the message names place and type.
    """
    if type(value) in _PLAIN:
        return value
    try:
        return _plain(value)
    except RecursionError:
        raise InvalidData("", "the value is nested too deeply, or contains itself") from None


def within(where: str, write: Writer, value: Any) -> Json:
    """`write(value)`, with `where` in front of the place of an error."""
    try:
        return write(value)
    except InvalidData as error:
        raise inside(where, error) from None


def write_enum(member: Enum) -> Json:
    """An enum member is written as its value, or by name when the value is no scalar."""
    try:
        written = to_json(member.value)
    except InvalidData:
        return member.name
    return written if type(written) in _PLAIN else member.name


def _plain(value: Any) -> Json:
    kind = _type_of(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        return _plain_dict(value)
    return _plain_list(value) if kind is list else _writer_of(kind)(value)


def _plain_dict(value: dict[Any, Any]) -> Json:
    changed: dict[Any, Any] | None = None
    for key, member in value.items():
        if type(key) is not str:
            return _write_mapping(_plain, value)
        if type(member) not in _PLAIN:
            try:
                written = _plain(member)
            except InvalidData as error:
                raise inside(place(key), error) from None
            if written is not member:
                changed = dict(value) if changed is None else changed
                changed[key] = written
    return value if changed is None else changed


def _plain_list(value: list[Any]) -> Json:
    changed: list[Any] | None = None
    for n, member in enumerate(value):
        if type(member) not in _PLAIN:
            try:
                written = _plain(member)
            except InvalidData as error:
                raise inside(f"[{n}]", error) from None
            if written is not member:
                changed = list(value) if changed is None else changed
                changed[n] = written
    return value if changed is None else changed


def _write_rows(write: Writer, value: Any) -> Json:
    if _is_subclass(type(value), abc.Set):
        return _write_set(write, value)
    if isinstance(value, str | bytes) or _is_subclass(type(value), abc.Mapping) or not hasattr(value, "__iter__"):
        return to_json(value)
    rows: Iterable[Any] = value
    return [within(f"[{n}]", write, member) for n, member in enumerate(rows)]


def _write_fixed(writes: Sequence[Writer], value: Any) -> Json:
    if not issubclass(type(value), list | tuple) or len(value) > len(writes):
        return to_json(value)
    return [within(f"[{n}]", write, member) for n, (write, member) in enumerate(zip(writes, value, strict=False))]


def _write_set(write: Writer, value: Iterable[Any]) -> Json:
    members = [write(member) for member in value]
    try:
        return sorted(members)  # the order of a set differs from process to process; the job's data should not
    except TypeError:
        return sorted(members, key=repr)


def _write_mapping(write: Writer, value: Any) -> Json:
    if not _is_subclass(type(value), abc.Mapping):
        return to_json(value)
    mapping: abc.Mapping[Any, Any] = value
    written: dict[str, Json] = {}
    for key, member in mapping.items():
        text = _write_key(key)
        if text in written:
            raise InvalidData(place(text), "is the JSON form of two keys")
        written[text] = within(place(text), write, member)
    return written


def _write_key(key: Any) -> str:
    plain = write_enum(key) if isinstance(key, Enum) else key
    if isinstance(plain, str | int | UUID) and not isinstance(plain, bool):
        return str(plain)
    raise InvalidData("", f"has the key {shown(key)}: keys are text, whole numbers, enum members or UUIDs")


def _write_timedelta(value: timedelta) -> Json:
    seconds = value.total_seconds()
    return int(seconds) if seconds.is_integer() else seconds


def _write_decimal(value: Decimal) -> Json:
    if not value.is_finite():
        raise InvalidData("", f"is Decimal {value}, which is no number: use None or text")
    return str(value)


def _write_bytes(value: Any) -> Json:
    return base64.b64encode(value).decode("ascii")


_WRITERS: Final[tuple[tuple[Any, Writer], ...]] = (
    (Enum, write_enum),
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (datetime | date | time, lambda value: value.isoformat()),
    (timedelta, _write_timedelta),
    (Decimal, _write_decimal),
    (UUID | PurePath, str),
    (bytes | bytearray | memoryview, _write_bytes),
    (abc.Set, partial(_write_set, _plain)),
    (abc.Sequence, partial(_write_rows, _plain)),
    (abc.Mapping, partial(_write_mapping, _plain)),
)


@lru_cache(maxsize=4096)
def _writer_of(kind: Any) -> Writer:
    if _is_model(kind, "pydantic", "BaseModel"):
        return lambda value: _by_library(value, partial(value.model_dump, mode="json"))
    if _is_model(kind, "msgspec", "Struct"):
        return lambda value: _by_library(value, partial(sys.modules["msgspec"].to_builtins, value, str_keys=True))
    if dataclasses.is_dataclass(kind):
        names = tuple(field.name for field in dataclasses.fields(kind))
        return lambda value: {name: within(name, _plain, getattr(value, name)) for name in names}
    return next((write for base, write in _WRITERS if issubclass(kind, base)), _refuse)


def _by_library(value: Any, dump: Callable[[], Json]) -> Json:
    try:
        return dump()
    except (TypeError, ValueError) as error:
        raise InvalidData("", f"{_name(type(value))} cannot be written as JSON: {_cut(str(error), 200)}") from None


def _refuse(value: Any) -> Json:
    kind = _type_of(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    raise InvalidData(
        "", f"a {name} cannot be written as JSON: pass what the job needs of it, as plain values or a dataclass"
    )
