"""Random histories: whatever is done to a queue, every job is where the model says, moved as the table of moves allows."""

from __future__ import annotations

from model.machine import run_histories
from sizes import size


def test_random_histories_keep_to_the_model() -> None:
    run_histories(examples=size("model_examples"), steps=size("model_steps"))
