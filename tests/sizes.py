"""Every size of a test that has two: smoke for each run, prove for `TORIL_PROVE=1`."""

from __future__ import annotations

import os

SIZES: dict[str, tuple[int, int]] = {
    # name: (smoke, prove)
    "model_examples": (60, 2000),
    "model_steps": (30, 60),
    "planted_bug_examples": (200, 1000),
}


def size(name: str) -> int:
    """The size of this name for this run."""
    smoke, prove = SIZES[name]
    return prove if os.environ.get("TORIL_PROVE") == "1" else smoke
