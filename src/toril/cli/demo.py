"""`toril demo`: what it takes and does is said by `toril.demo`, which is loaded only for it."""

from __future__ import annotations

import importlib
from typing import Any

from toril.cli.command import Call, Commands


def add_to(commands: Commands, *, asked: bool) -> None:
    """Add the command; its own arguments only where it is asked for, since that loads it."""
    parser = commands.add("demo", _run, "see Toril at work")
    if asked:
        _demo().add_arguments(parser)


def _run(call: Call) -> int:
    code: int = _demo().run(call.args)
    return code


def _demo() -> Any:
    return importlib.import_module("toril.demo")
