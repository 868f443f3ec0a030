"""What Python tells of a type: its annotations resolved, its wrappers taken off."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Annotated, Any, Final, NewType, TypeVar

from toril.errors import ConfigError

_WRAPPERS: Final = frozenset(("Required", "NotRequired", "ReadOnly", "Final"))


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


def is_wrapper(origin: Any) -> bool:
    """Whether `origin` says something about a type without changing it, as Annotated and Required do."""
    return origin is Annotated or getattr(origin, "_name", None) in _WRAPPERS


def requirement(hint: Any) -> bool | None:
    """Whether a member of a TypedDict is wrapped in Required or NotRequired; None when it is in neither."""
    while is_wrapper(origin := typing.get_origin(hint)):
        form = getattr(origin, "_name", None)
        if form in ("Required", "NotRequired"):
            return bool(form == "Required")
        hint = typing.get_args(hint)[0]
    return None


def bare(annotation: Any) -> Any:
    """`annotation` without NewType and Annotated around it."""
    while isinstance(annotation, NewType) or typing.get_origin(annotation) is Annotated:
        annotation = annotation.__supertype__ if isinstance(annotation, NewType) else typing.get_args(annotation)[0]
    return annotation


def filled(annotation: Any, variables: Sequence[Any], args: Sequence[Any]) -> Any:
    """`annotation` with the type variables of a generic class replaced by what it was subscripted with."""
    meaning = dict(zip(variables, args, strict=False))
    if type(annotation) is TypeVar:
        return meaning.get(annotation, annotation)
    open_ones: Any = getattr(annotation, "__parameters__", ()) if typing.get_origin(annotation) is not None else ()
    return annotation[tuple(meaning.get(v, v) for v in open_ones)] if open_ones and meaning else annotation
