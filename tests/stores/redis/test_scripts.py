"""Scripts from files: their headers are what Python calls them by."""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

import pytest

from toril.stores.redis.scripts import script

NAMES = sorted(
    file.name.removesuffix(".lua")
    for file in resources.files("toril.stores.redis").joinpath("lua").iterdir()
    if file.name.endswith(".lua")
)


class Claims(NamedTuple):
    queue: int
    id: str
    token: str


class Misspelled(NamedTuple):
    queue: int
    token: str
    id: str


@pytest.mark.parametrize("name", NAMES)
def test_every_script_declares_what_it_takes_and_returns(name: str) -> None:
    loaded = script(name)

    assert loaded.parameters
    assert len(loaded.sha) == 40


def test_arguments_follow_the_header() -> None:
    arguments = script("extend").arguments(
        ["a:", "b:"], {"claims": [Claims(1, "x", "t"), Claims(2, "y", "u")], "lock_ms": 5, "now": 9}
    )

    assert arguments == [2, "a:", "b:", 9, 5, 2, 1, "x", "t", 2, "y", "u"]


def test_arguments_of_other_names_are_refused() -> None:
    with pytest.raises(TypeError, match=r"extend\.lua takes"):
        script("extend").arguments([], {"claims": [], "now": 9})


def test_records_of_other_fields_are_refused() -> None:
    with pytest.raises(TypeError, match=r"extend\.lua takes claims"):
        script("extend").arguments([], {"claims": [Misspelled(1, "t", "x")], "lock_ms": 5, "now": 9})
