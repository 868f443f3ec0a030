"""`toril status`: the queues and the workers at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toril.cli.command import OK, Call, Commands, place_of
from toril.cli.output import Screen, counted
from toril.cli.times import ago, duration, iso, until
from toril.model import QueueSummary, WorkerInfo
from toril.states import CLAIMABLE, State

_COLUMNS = {
    State.WAITING: "WAITING",
    State.PRIORITIZED: "PRIO",
    State.DELAYED: "DELAYED",
    State.ACTIVE: "ACTIVE",
    State.WAITING_CHILDREN: "PARENTS",
    State.COMPLETED: "COMPLETED",
    State.FAILED: "FAILED",
}
_SELDOM = (State.PRIORITIZED, State.WAITING_CHILDREN)


def add_to(commands: Commands) -> None:
    parser = commands.add("status", run, "show queues and workers")
    parser.add_argument("--json", action="store_true", help="as JSON")


async def run(call: Call) -> int:
    async with call.store() as store:
        summaries = sorted(await store.summaries(), key=lambda summary: summary.name)
        workers = await store.workers()
        now_ms = store.clock.now_ms()
        off = call.settings.workers_off()
        if call.args.json:
            call.screen.json(
                {
                    "store": {"kind": store.kind, "place": store.place, "prefix": store.prefix},
                    "at_ms": now_ms,
                    "workers_off": off,
                    "queues": [_queue_json(summary, workers, now_ms) for summary in summaries],
                    "workers": workers,
                }
            )
            return OK
        call.screen.line(f"{place_of(store, call.settings)}, {iso(now_ms)}")
    if off is not None:
        call.screen.line(f"workers are switched off here by {off}: jobs that are added wait for another process")
    call.screen.line()
    _print_queues(call.screen, summaries, workers, now_ms)
    call.screen.line()
    _print_workers(call.screen, workers, now_ms)
    return OK


def remarks(summary: QueueSummary, workers: Sequence[WorkerInfo], now_ms: int) -> list[str]:
    """What should be known of a queue beside its counts."""
    settings, said = summary.settings, list[str]()
    if settings.paused:
        said.append("paused: its jobs are handed out again after resume")
    if settings.limited_until_ms is not None and settings.limited_until_ms > now_ms:
        said.append(f"limited until {until(settings.limited_until_ms, now_ms)}")
    if settings.rate_limit is not None:
        said.append(f"at most {counted(settings.rate_limit.max, 'job')} per {duration(settings.rate_limit.per_ms)}")
    if settings.concurrency is not None:
        said.append(f"at most {counted(settings.concurrency, 'job')} at once over all workers")
    waiting = ready(summary)
    if settings.max_waiting is not None:
        full = ": full, adds are refused" if waiting >= settings.max_waiting else ""
        said.append(f"admits {settings.max_waiting:,} waiting jobs{full}")
    if waiting and not serving(summary.name, workers):
        said.append("no worker serves this queue")
    return said


def ready(summary: QueueSummary) -> int:
    """How many jobs could run now."""
    return sum(summary.counts.get(state, 0) for state in CLAIMABLE)


def serving(queue: str, workers: Sequence[WorkerInfo]) -> list[WorkerInfo]:
    """The workers that take jobs of a queue."""
    return [worker for worker in workers if queue in worker.queues and worker.state == "running"]


def _print_queues(
    screen: Screen, summaries: Sequence[QueueSummary], workers: Sequence[WorkerInfo], now_ms: int
) -> None:
    if not summaries:
        screen.line("There are no queues yet: the first job added makes one.")
        return
    states = [
        state for state in _COLUMNS if state not in _SELDOM or any(summary.counts.get(state) for summary in summaries)
    ]
    rows = [
        [
            summary.name,
            *(f"{summary.counts.get(state, 0):,}" for state in states),
            "" if summary.oldest_ready_at_ms is None else duration(max(0, now_ms - summary.oldest_ready_at_ms)),
        ]
        for summary in summaries
    ]
    header = ["QUEUE", *(_COLUMNS[state] for state in states), "OLDEST"]
    screen.table(header, rows, right=range(1, len(header)), shrink=[0])
    for summary in summaries:
        for remark in remarks(summary, workers, now_ms):
            screen.line(f"{summary.name}: {remark}")


def _print_workers(screen: Screen, workers: Sequence[WorkerInfo], now_ms: int) -> None:
    if not workers:
        screen.line("No worker was seen lately: start one with `toril worker MODULE:APP`.")
        return
    rows = [
        [
            worker.name or f"{worker.host}:{worker.pid}",
            ", ".join(f"{name} ({slots})" for name, slots in sorted(worker.queues.items())),
            str(worker.running),
            ago(worker.started_at_ms, now_ms),
            ago(worker.seen_at_ms, now_ms),
            worker.state,
        ]
        for worker in workers
    ]
    screen.table(["WORKER", "QUEUES", "RUNS", "STARTED", "SEEN", "STATE"], rows, right=[2], shrink=[1, 0])


def _queue_json(summary: QueueSummary, workers: Sequence[WorkerInfo], now_ms: int) -> dict[str, Any]:
    oldest = summary.oldest_ready_at_ms
    return {
        "name": summary.name,
        "counts": {state.value: summary.counts.get(state, 0) for state in State},
        "settings": summary.settings,
        "oldest_waiting_ms": None if oldest is None else max(0, now_ms - oldest),
        "workers": len(serving(summary.name, workers)),
        "remarks": remarks(summary, workers, now_ms),
    }
