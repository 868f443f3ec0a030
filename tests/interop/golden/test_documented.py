"""The table of differences says no more than it must, and every recording is replayed."""

from __future__ import annotations

import importlib
from pathlib import Path

from interop.golden.documented import DIFFERENCES, Difference
from interop.golden.keyspace import NOTHING, Deviation, Dump, deviations
from interop.golden.replay import DUMPS, SCENARIOS, replaying

HERE = Path(__file__).parent


def load_scenarios() -> None:
    """Enter the tests of all files in SCENARIOS, which pytest may not have loaded in this process."""
    for path in HERE.glob("test_*.py"):
        importlib.import_module(f"interop.golden.{path.stem}")


def test_every_recording_is_replayed() -> None:
    load_scenarios()
    replayed = {number for number, _ in SCENARIOS}

    assert sorted(replayed) == sorted(path.stem[:2] for path in DUMPS.glob("*.json"))


def test_what_differs_is_named_by_key_and_path_with_both_values() -> None:
    ours: Dump = {"a": {"type": "hash", "value": {"data": None, "opts": {"lifo": True}}}, "b": {"type": "list"}}
    theirs: Dump = {"a": {"type": "hash", "value": {"opts": {"lifo": False}}}}

    assert list(deviations(ours, theirs)) == [
        Deviation("a", "/value/data", None, NOTHING),
        Deviation("a", "/value/opts/lifo", True, False),
        Deviation("b", "", {"type": "list"}, NOTHING),
    ]


async def test_every_difference_is_needed_by_a_recording(redis_url: str) -> None:
    load_scenarios()
    used: set[Difference] = set()
    for (number, _), scenario in SCENARIOS.items():
        async with replaying(number, redis_url) as replay:
            await scenario(replay)
            used |= replay.used

    assert [row for row in DIFFERENCES if row not in used] == []
