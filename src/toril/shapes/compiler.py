"""From an annotation to its shape: each type is compiled once, into closures."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections import abc
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, Literal, NewType, TypeVar, Union

from toril.errors import ConfigError, InvalidData
from toril.shapes.annotations import bare, filled, is_wrapper
from toril.shapes.choices import enum, enum_key, literal
from toril.shapes.containers import fixed, mapping, read_int_key, rows
from toril.shapes.libraries import is_msgspec, is_pydantic, msgspec_shape, pydantic_shape
from toril.shapes.messages import name_of
from toril.shapes.records import dataclass_shape, named_tuple_shape, typed_dict_shape
from toril.shapes.scalars import is_uuid, scalar
from toril.shapes.terms import PLAIN, Extra, Keys, Reader, Shape, Writer, is_subclass
from toril.shapes.unions import Outcomes, first_of, optional
from toril.shapes.writing import to_json
from toril.wirejson import Json

SUPPORTED: Final = (
    "None, bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID, Path, Enum, Literal, list, tuple, "
    "set, frozenset, dict, Union, a dataclass, NamedTuple, TypedDict, pydantic or msgspec model, or Any"
)

_LISTS: Final = frozenset(
    (list, abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Collection, abc.Container, abc.Reversible)
)
_SETS: Final = frozenset((set, frozenset, abc.Set, abc.MutableSet))
_DICTS: Final = frozenset((dict, abc.Mapping, abc.MutableMapping))


def reader(annotation: Any, *, extra: Extra = "ignore", keys: Keys = "snake") -> Reader:
    """The function that reads JSON values as `annotation`. Data that needs no conversion comes back as it is.

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
            f"{name_of(annotation)} refers to itself with ever larger types: give it a plain form"
        ) from None


class _Compiler:
    """Compiles one annotation and the types it refers to.

    `exact` readers take only what `to_json` would write; a union asks them before the lenient ones.
    """

    def __init__(self, extra: Extra, keys: Keys, exact_with: Outcomes | None = None) -> None:
        self.extra: Extra = extra
        self.keys: Keys = keys
        self._outcomes = exact_with or Outcomes()
        self._exact = self if exact_with else _Compiler("forbid", keys, self._outcomes)
        self._known: dict[Any, Shape] = {}

    def shape(self, annotation: Any) -> Shape:
        if found := scalar(annotation, exact=self is self._exact):
            return found
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if is_wrapper(origin):
            return self.shape(args[0])
        if origin is Union or origin is types.UnionType:
            return self._union(args)
        if origin is Literal:
            return literal(args)
        if isinstance(annotation, NewType):
            return self.shape(annotation.__supertype__)
        if isinstance(annotation, TypeVar):
            return self._variable(annotation)
        whole: Any = origin or annotation
        if type(whole).__name__ == "TypeAliasType":
            value = filled(whole.__value__, whole.__type_params__, args)
            return self._named(annotation, lambda: self.shape(value))
        return self._class(whole, args, annotation)

    def _variable(self, variable: TypeVar) -> Shape:
        if variable.__constraints__:
            return self._union(variable.__constraints__)
        return self.shape(Any if variable.__bound__ is None else variable.__bound__)

    def _class(self, cls: Any, args: tuple[Any, ...], annotation: Any) -> Shape:
        if cls in _LISTS:
            return rows(self.shape(args[0] if args else Any))
        if cls in _SETS:
            return rows(self.shape(args[0] if args else Any), frozenset if cls is frozenset else set)
        if cls in _DICTS:
            key, value = args or (Any, Any)
            return mapping(self._key(key), self.shape(value))
        if cls is tuple and not getattr(annotation, "__unpacked__", False):
            return self._tuple((Any, ...) if annotation is tuple else args)
        if not isinstance(cls, type) or cls is tuple:
            raise _unsupported(annotation)
        if issubclass(cls, Enum):
            return enum(cls, exact=self is self._exact)
        return self._named(annotation, self._record(cls, args))

    def _tuple(self, args: tuple[Any, ...]) -> Shape:
        if args[1:] == (...,):
            return rows(self.shape(args[0]), tuple)
        return fixed([self.shape(arg) for arg in args], "a list", tuple)

    def _record(self, cls: Any, args: tuple[Any, ...]) -> Callable[[], Shape]:
        if is_pydantic(cls):
            return lambda: pydantic_shape(cls)
        if is_msgspec(cls):
            return lambda: msgspec_shape(cls[args] if args else cls)
        if dataclasses.is_dataclass(cls):
            return lambda: dataclass_shape(self, cls, args)
        if is_subclass(cls, dict) and hasattr(cls, "__required_keys__"):
            return lambda: typed_dict_shape(self, cls, args)
        if is_subclass(cls, tuple) and hasattr(cls, "_fields"):
            return lambda: named_tuple_shape(self, cls, args)
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

        self._known[key] = Shape(read, f"a {name_of(key)}", write if self.keys == "camel" else None)
        built.append(build())
        # The outermost level keeps the guard too: it is where a caller without much stack left arrives.
        self._known[key] = dataclasses.replace(built[0], read=read)
        return self._known[key]

    def _union(self, options: Sequence[Any]) -> Shape:
        rest = [option for option in options if option is not None and option is not type(None)]
        if len(rest) < len(options):
            return optional(self.shape(rest[0]) if len(rest) == 1 else self._union(rest))
        passes = [[self._exact.shape(option) for option in rest]]
        if self is not self._exact:
            passes.append([self.shape(option) for option in rest])
        natives: set[type] = set()
        for option in rest:
            if scalar(option) is None or option not in PLAIN:
                break
            natives.add(option)
        several = sum(scalar(option) is None for option in rest) > 1
        return first_of(passes, frozenset(natives - {float}), self._outcomes if several else None)

    def _key(self, annotation: Any) -> Reader:
        key = bare(annotation)
        if key is int:
            return read_int_key
        if isinstance(key, type) and issubclass(key, Enum):
            return enum_key(key)
        if key in (Any, object, str) or is_uuid(key) or typing.get_origin(key) is Literal:
            return self.shape(key).read
        raise ConfigError(f"{name_of(key)} cannot be the key of a dict in job data: use str, int, an Enum or UUID")


def _unsupported(annotation: Any) -> ConfigError:
    return ConfigError(f"job data cannot be read as {name_of(annotation)}: use {SUPPORTED}")
