"""Models of pydantic and msgspec: known by the names of their classes, so that nothing is imported for them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, cast

from toril.errors import InvalidData
from toril.shapes.messages import cut, inside, invalid, name_of, place
from toril.shapes.terms import Shape, Writer, descends, path_of
from toril.wirejson import Json


def is_pydantic(cls: Any) -> bool:
    """Whether `cls` is a model of pydantic."""
    return _is_model(cls, "pydantic.BaseModel")


def is_msgspec(cls: Any) -> bool:
    """Whether `cls` is a struct of msgspec."""
    return _is_model(cls, "msgspec.Struct")


def _is_model(cls: Any, base: str) -> bool:
    return path_of(cls) != base and descends(cls, base)


def pydantic_shape(cls: Any) -> Shape:
    """A model of pydantic, which validates its own data."""
    # What model_dump writes is by name, what JavaScript sends may be by alias: both are read, where pydantic can.
    options = {"by_alias": True, "by_name": True} if "by_name" in signature(cls.model_validate).parameters else {}

    def read(value: Any, where: str) -> Any:
        try:
            return cls.model_validate(value, **options)
        except ValueError as error:
            if not hasattr(error, "errors"):
                raise invalid(where, cls, error) from None
            first: dict[str, Any] = cast(Any, error).errors(include_url=False, include_input=False)[0]
            steps = (f"[{step}]" if isinstance(step, int) else place(step) for step in first["loc"])
            spot = "".join(step if step[0] == "[" else f".{step}" for step in steps).removeprefix(".")
            raise inside(where, InvalidData(spot, first["msg"])) from None

    return Shape(read, f"an object ({name_of(cls)})")


def msgspec_shape(cls: Any) -> Shape:
    """A struct of msgspec, which validates its own data."""
    msgspec: Any = sys.modules["msgspec"]

    def read(value: Any, where: str) -> Any:
        try:
            return msgspec.convert(value, cls, str_keys=True)
        except msgspec.ValidationError as error:
            problem, _, spot = str(error).partition(" - at `$")
            raise inside(where, InvalidData(spot.rstrip("`").removeprefix("."), problem)) from None
        except ValueError as error:
            raise invalid(where, cls, error) from None

    return Shape(read, f"an object ({name_of(cls)})")


def model_writer(cls: Any) -> Writer | None:
    """What writes a model by its own library; None when `cls` is no model."""
    if is_pydantic(cls):
        return lambda value: _dumped(value, partial(value.model_dump, mode="json"))
    if is_msgspec(cls):
        return lambda value: _dumped(value, partial(sys.modules["msgspec"].to_builtins, value, str_keys=True))
    return None


def _dumped(value: Any, dump: Callable[[], Json]) -> Json:
    try:
        return dump()
    except (TypeError, ValueError) as error:
        raise InvalidData("", f"{name_of(type(value))} cannot be written as JSON: {cut(str(error), 200)}") from None
