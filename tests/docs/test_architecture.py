"""ARCHITECTURE.md says what the source says."""

from __future__ import annotations

import re
from itertools import product
from typing import Protocol

from docs.pages import ROOT, rows, sections
from toril import store
from toril.states import MOVES, Move, State

PAGE = ROOT / "ARCHITECTURE.md"


def _states(cell: str) -> list[State | None]:
    states: list[State | None] = [State(name) for name in re.findall(r"`([a-z-]+)`", cell)]
    return [*states, None] if re.search(r"(?<!\S)-(?!\S)", cell) else states


def test_the_table_of_states_is_that_of_the_source() -> None:
    told = {
        Move(operation.strip("`"), before, after)
        for operation, befores, afters in rows(sections(PAGE)["States"])
        for before, after in product(_states(befores), _states(afters))
    }

    assert told == MOVES


def test_every_verb_of_the_seam_is_named_with_its_protocol() -> None:
    told = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in rows(sections(PAGE)["The seam"])}
    built = {
        name: {verb for verb in vars(value) if not verb.startswith("_")}
        for name, value in vars(store).items()
        if isinstance(value, type) and Protocol in value.__bases__ and value.__module__ == store.__name__
    }

    assert told == built


def test_every_file_that_is_named_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"`((?:[\w./]+/)?\w+\.(?:py|sql|md))`", text)
    places = (ROOT, ROOT / "src" / "toril", ROOT / "src" / "toril" / "stores" / "sqlite")

    assert [name for name in named if not any((place / name).exists() for place in places)] == []
    assert len(named) > 30


def test_every_module_is_named() -> None:
    text = PAGE.read_text(encoding="utf-8")
    source = ROOT / "src" / "toril"
    modules = {path.name for path in source.glob("*.py")} - {"__init__.py", "__main__.py"}
    folders = {f"{path.parent.name}/" for path in source.glob("*/__init__.py")}

    assert [name for name in sorted(modules | folders) if name not in text] == []


def test_every_loop_of_the_worker_is_named() -> None:
    text = PAGE.read_text(encoding="utf-8")
    loops = [path.name for path in (ROOT / "src" / "toril" / "worker").glob("*.py") if path.name != "__init__.py"]

    assert [name for name in loops if f"`worker/{name}`" not in text] == []
