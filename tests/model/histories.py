"""Random lives of a queue, with all that can be done to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from hypothesis import HealthCheck, Phase, settings, stateful

from model.families import Families
from model.machine import Machine
from model.schedules import Schedules
from model.windows import Windows
from toril.clock import TurnedClock
from toril.store import Store
from toril.stores.sqlite.store import SqliteStore


class QueueMachine(Families, Windows, Schedules):
    """All rules together, so that what one theme does meets the others."""


def _in_memory(clock: TurnedClock) -> Store:
    return SqliteStore(":memory:", clock=clock)


def run_histories(
    *,
    examples: int,
    steps: int,
    shrink: bool = True,
    open_store: Callable[[TurnedClock], Store] = _in_memory,
    machine: Callable[[Store, TurnedClock], Machine] = QueueMachine,
) -> None:
    """Lead this many random lives of so many steps, each in an empty store; the first that goes wrong is made short and
    raised."""

    def begin() -> Machine:
        clock = TurnedClock()
        return machine(open_store(clock), clock)

    run = cast("Callable[..., None]", vars(stateful)["run_state_machine_as_test"])
    run(
        begin,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
            deadline=None,
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
