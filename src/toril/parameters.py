"""A handler's parameters, seen as the members of its job's data."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, Final, cast

from toril.errors import ConfigError, InvalidData
from toril.shapes import (
    Extra,
    Keys,
    Member,
    Reader,
    Shape,
    hints_of,
    members_reader,
    place,
    shape,
    snake,
    to_json,
    wire_name,
    within,
)
from toril.wirejson import Json

_UNRESOLVED: Final = object()
_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class _Call:
    """What `Parameters` needs to know of a function."""

    name: str
    positional: tuple[str, ...]  # parameters that data gives and a caller may pass by position
    positional_only: tuple[str, ...]
    defaults: Mapping[str, Any]  # of positional-only parameters: they cannot be left out of the middle of a call
    reserved: frozenset[str]  # names that the worker fills in, or that Python has taken already
    rest: Shape | None  # the type of **kwargs


class Parameters:
    """Reads a job's data into a call of its handler, and writes a call as a job's data.

    `takes_data`: some parameter is read from the job's data.
    `takes_context`: the handler wants its context as first argument, in front of what `read` returns.
    `injected`: the parameters the worker fills in, by name, with their defaults.
    `returns`: the handler's return annotation, Any when it has none.
    `required`: the members that data must have, as they are spelled in the data.
    """

    def __init__(
        self,
        call: _Call,
        members: Sequence[Member],
        payload: Member | None,
        *,
        takes_context: bool,
        injected: Mapping[str, Any],
        returns: Any,
        extra: Extra,
        keys: Keys,
    ) -> None:
        self.takes_context = takes_context
        self.injected = injected
        self.returns = returns
        self.required = tuple(member.wire for member in members if member.required)
        self.takes_data = bool(members) or payload is not None or call.rest is not None
        self._call = call
        self._members = {member.name: member for member in members}
        self._payload = payload
        self._keys: Keys = keys
        self._known = payload.shape.members if payload else frozenset(member.wire for member in members)
        names = ", ".join(member.wire for member in members)
        wants = f"an object with the members {names}" if names else "an object"
        self._read_members: Reader = members_reader(members, "ignore" if call.rest else extra, wants)

    def read(self, data: Json) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the handler's call, less its context and what is injected.

        Raises:
            InvalidData: a member is missing, does not fit its parameter or, under extra="forbid", is unknown.
        """
        if self._payload is not None:
            if data is None and not self._payload.required:
                return (), {}
            return (self._payload.shape.read(data, ""),), {}
        kwargs = self._read_members({} if data is None else data, "")  # a job without data has no members
        call = self._call
        if call.rest is not None and data:
            self._read_rest(data, call.rest.read, kwargs)
        if not call.positional_only:
            return (), kwargs
        return tuple(kwargs.pop(n) if n in kwargs else call.defaults[n] for n in call.positional_only), kwargs

    def unknown(self, data: Json) -> tuple[str, ...]:
        """The members of `data` that no parameter takes, and `read` drops."""
        if self._call.rest is not None or self._known is None or type(data) is not dict:
            return ()
        members = cast("dict[str, Any]", data)
        return () if self._known.issuperset(members) else tuple(key for key in members if key not in self._known)

    def write(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Json:
        """The data of a job that calls the handler with these arguments, bound as Python would bind them.

        Parameters left to their defaults are left out: the handler's default counts when the job runs.

        Raises:
            InvalidData: an argument is missing, unexpected or given twice, or JSON has no form for it.
        """
        if self._payload is not None:
            return self._write_payload(self._payload, args, kwargs)
        call, data = self._call, dict[str, Json]()
        if len(args) > len(call.positional):
            raise self._refused(
                f"takes {_count(len(call.positional), 'positional argument')} but {len(args)} were given"
            )
        for name, value in zip(call.positional, args, strict=False):
            self._write_member(self._members[name], value, data)
        for name, value in kwargs.items():
            member = self._members.get(name)
            if member is None or name in call.positional_only:
                self._write_rest(name, value, data)
            elif member.wire in data:
                raise self._refused(f"got multiple values for argument {name!r}")
            else:
                self._write_member(member, value, data)
        if missing := [m.name for m in self._members.values() if m.required and m.wire not in data]:
            raise self._missing(missing)
        return data

    def _write_payload(self, payload: Member, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Json:
        if kwargs:
            raise self._refused(f"got an unexpected keyword argument {next(iter(kwargs))!r}")
        if len(args) > 1:
            raise self._refused(f"takes 1 positional argument but {len(args)} were given")
        if not args:
            if payload.required:
                raise self._missing([payload.name])
            return None
        return (payload.shape.write or to_json)(args[0])

    def _write_member(self, member: Member, value: Any, data: dict[str, Json]) -> None:
        data[member.wire] = within(place(member.wire), member.shape.write or to_json, value)

    def _write_rest(self, name: str, value: Any, data: dict[str, Json]) -> None:
        rest = self._call.rest
        if rest is None or name in self._call.reserved or name in self._call.positional_only:
            raise self._refused(f"got an unexpected keyword argument {name!r}")
        wire = wire_name(name, self._keys)
        if wire in data:
            raise self._refused(f"got multiple values for argument {name!r}")
        data[wire] = within(place(wire), rest.write or to_json, value)

    def _read_rest(self, data: dict[str, Any], read: Reader, kwargs: dict[str, Any]) -> None:
        taken = self._call.reserved.union(self._members)
        for wire, value in data.items():
            if self._known is not None and wire in self._known:
                continue
            name = snake(wire) if self._keys == "camel" else wire
            if name in taken or name in kwargs:
                raise InvalidData(place(wire), f"cannot be a member: {self._call.name}() gets {name!r} from elsewhere")
            kwargs[name] = read(value, place(wire))

    def _missing(self, names: list[str]) -> InvalidData:
        what = "a required argument" if len(names) == 1 else f"{len(names)} required arguments"
        return self._refused(f"is missing {what}: {', '.join(map(repr, names))}")

    def _refused(self, problem: str) -> InvalidData:
        return InvalidData("", f"{self._call.name}() {problem}")


def parameters_of(
    function: Callable[..., Any],
    *,
    context_type: type | None = None,
    injected_type: type | None = None,
    extra: Extra = "ignore",
    keys: Keys = "snake",
) -> Parameters:
    """Inspect a handler.

    A first parameter annotated as `context_type`, and parameters whose default is an `injected_type`, are the worker's
    to fill in. One positional-only parameter is the whole payload; otherwise each parameter is a member of the data.

    Raises:
        ConfigError: a parameter can hold no job data, or the parameters contradict each other.
    """
    name = getattr(function, "__name__", None) or type(function).__name__
    parameters = _signature(function, name)
    hints = _hints(function, name)
    takes_context = bool(parameters) and _is_context(parameters[0], hints, context_type)
    own = parameters[1:] if takes_context else parameters
    injected = {p.name: p.default for p in own if injected_type is not None and isinstance(p.default, injected_type)}
    _check(name, own, injected, hints, context_type)

    given = [p for p in own if p.name not in injected]
    shapes = {p.name: _shape_of(p, name, hints, extra, keys) for p in given}
    members = [
        Member(p.name, wire_name(p.name, keys), shapes[p.name], p.default is Parameter.empty)
        for p in given
        if p.kind is not Parameter.VAR_KEYWORD
    ]
    worker_fills = {_bound_name(function), *injected, *(p.name for p in parameters[:1] if takes_context)}
    call = _call(name, given, shapes, frozenset(worker_fills))
    payload = members[0] if len(call.positional_only) == 1 else None
    if payload is not None and len(given) > 1:
        raise ConfigError(
            f"{name}() has a positional-only parameter, which is the whole payload, and {given[1].name!r} beside it: "
            "drop the / to make both members of the data"
        )
    return Parameters(
        call,
        [] if payload else members,
        payload,
        takes_context=takes_context,
        injected=types.MappingProxyType(injected),
        returns=Any if hints.get("return", Any) is _UNRESOLVED else hints.get("return", Any),
        extra=extra,
        keys=keys,
    )


def _shape_of(parameter: Parameter, name: str, hints: Mapping[str, Any], extra: Extra, keys: Keys) -> Shape:
    hint = hints.get(parameter.name, Any)
    if hint is _UNRESOLVED:
        raise ConfigError(
            f"parameter {parameter.name!r} of {name}() has an annotation that is unknown at run time: define it at module level, outside TYPE_CHECKING"
        )
    try:
        return shape(hint, extra=extra, keys=keys)
    except ConfigError as error:
        raise ConfigError(f"parameter {parameter.name!r} of {name}(): {error}") from None


def _call(name: str, given: Sequence[Parameter], shapes: Mapping[str, Shape], reserved: frozenset[str]) -> _Call:
    positional_only = [p for p in given if p.kind is Parameter.POSITIONAL_ONLY]
    return _Call(
        name=name,
        positional=tuple(p.name for p in given if p.kind in _POSITIONAL),
        positional_only=tuple(p.name for p in positional_only),
        defaults={p.name: p.default for p in positional_only},
        reserved=reserved,
        rest=next((shapes[p.name] for p in given if p.kind is Parameter.VAR_KEYWORD), None),
    )


def _bound_name(function: Any) -> str:
    """The name under which a method takes its object, mostly "self"; nothing for a function."""
    return next(iter(inspect.signature(function.__func__).parameters)) if isinstance(function, types.MethodType) else ""


def _signature(function: Callable[..., Any], name: str) -> list[Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError, NameError) as error:
        raise ConfigError(f"the parameters of {name}() cannot be inspected: {error}") from None


def _hints(function: Any, name: str) -> dict[str, Any]:
    """The function's annotations; one that has no meaning at run time matters only where data must be read by it."""
    while isinstance(function, functools.partial):
        function = function.func
    holder = function if hasattr(function, "__annotations__") and not isinstance(function, type) else function.__call__
    try:
        return hints_of(holder, f"{name}()")
    except ConfigError:
        return {key: _hint(holder, key, raw, name) for key, raw in holder.__annotations__.items()}


def _hint(holder: Any, key: str, raw: Any, name: str) -> Any:
    module = getattr(inspect.unwrap(holder), "__globals__", {})
    alone = types.FunctionType((lambda: None).__code__, module)
    alone.__annotations__ = {key: raw}
    try:
        return hints_of(alone, f"{name}()")[key]
    except ConfigError as error:
        if "unknown at run time" not in str(error):
            raise
        return _UNRESOLVED


def _is_context(first: Parameter, hints: Mapping[str, Any], context_type: type | None) -> bool:
    if context_type is None or first.kind not in _POSITIONAL:
        return False
    if hints.get(first.name) is _UNRESOLVED:  # imported for type checkers only: its name says enough
        return str(first.annotation).split(".")[-1] == context_type.__name__
    return hints.get(first.name) is context_type


def _check(
    name: str,
    own: Sequence[Parameter],
    injected: Mapping[str, Any],
    hints: Mapping[str, Any],
    context_type: type | None,
) -> None:
    for parameter in own:
        if parameter.kind is Parameter.VAR_POSITIONAL:
            raise ConfigError(
                f"{name}() takes *{parameter.name}, and the members of job data have names: declare each parameter"
            )
        if context_type is not None and hints.get(parameter.name) is context_type:
            raise ConfigError(f"{name}() takes its context as {parameter.name!r}: make it the first parameter")
        if parameter.name in injected and parameter.kind is Parameter.POSITIONAL_ONLY:
            raise ConfigError(
                f"{name}() cannot be given {parameter.name!r} by name: put the injected parameter after the /"
            )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
