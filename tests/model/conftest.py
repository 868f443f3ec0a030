"""What the random tests share."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(autouse=True)
def _same_lives_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis draws constants, too, of those modules that happen to be loaded: with them, no two machines would lead the
    same lives, and what a run of all tests finds would not be found again."""
    providers = importlib.import_module("hypothesis.internal.conjecture.providers")
    none = providers.Constants()
    monkeypatch.setattr(providers, "_get_local_constants", lambda: none)
