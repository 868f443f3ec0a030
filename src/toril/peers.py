"""Node's workers on a queue that Toril uses too, and what is asked there that they do not know and pass over."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from toril.model import DEFAULT_METRICS_MINUTES, Finding, QueueSettings, ScheduleRecord, WorkerInfo
from toril.options import DEFAULT_OPTIONS, Options
from toril.states import State
from toril.store import Store
from toril.timing import Missed, Overlap

LOOKED_AT: Final = 50
"""How many jobs of a state are looked at for their options."""

SHOWN: Final = 5
_UNENDED: Final = (State.WAITING, State.PRIORITIZED, State.DELAYED, State.ACTIVE, State.WAITING_CHILDREN)
_DRAWN: Final = re.compile("(?<![A-Za-z])H(?![A-KM-Za-z])")


@dataclass(frozen=True, slots=True)
class Used:
    """What is asked of a queue: its settings, its schedules, and options of jobs there."""

    settings: QueueSettings
    schedules: Sequence[ScheduleRecord] = ()
    options: Collection[Options] = ()


def is_node(worker: WorkerInfo) -> bool:
    """Whether a worker is Node's: a server knows them by their connections, which do not tell their process."""
    return worker.pid == 0


def draws(pattern: str) -> bool:
    """Whether a cron pattern has a value that is drawn, `H`."""
    return _DRAWN.search(pattern) is not None


def peer_findings(queue: str, nodes: Sequence[WorkerInfo], used: Used, now_ms: int) -> list[Finding]:
    """What Node's workers of a queue do not honour of what is asked of it; one finding, or none."""
    wishes = [*_of_schedules(used.schedules), *_of_jobs(used.options), *_of_settings(used.settings, now_ms)]
    if not nodes or not wishes:
        return []
    names = sorted(worker.name or worker.id for worker in nodes)
    serve = f"worker {names[0]} serves" if len(names) == 1 else f"workers {_listed(names)} serve"
    message = f"Node's {serve} it too, and Node passes over what it does not know: {'; '.join(wishes)}"
    return [Finding("warning", f"queue {queue}", message, "let Toril's workers alone serve it, or do without these")]


def _of_schedules(records: Sequence[ScheduleRecord]) -> Iterable[str]:
    for missed in (Missed.SKIP, Missed.ALL):
        yield from _wish(f'missed="{missed}"', (it for it in records if it.schedule.timing.missed is missed))
    for overlap in (Overlap.SKIP, Overlap.QUEUE):
        yield from _wish(f'overlap="{overlap}"', (it for it in records if it.schedule.timing.overlap is overlap))
    drawn = (it for it in records if draws(it.schedule.timing.pattern or ""))
    yield from _wish("H in the pattern", drawn, ", for which it draws other times")
    yield from _wish("the pause", (it for it in records if it.schedule.paused), ", which ends when it puts that anew")


def _wish(wish: str, records: Iterable[ScheduleRecord], besides: str = "") -> Iterable[str]:
    ids = [record.schedule.id for record in records]
    if ids:
        yield f"{wish} of {'schedule' if len(ids) == 1 else 'schedules'} {_listed(ids)}{besides}"


def _of_jobs(options: Collection[Options]) -> Iterable[str]:
    if any(_is_capped(one) for one in options):
        yield "max_delay of backoffs"
    if any(one.keep_result_ms != DEFAULT_OPTIONS.keep_result_ms for one in options):
        yield "keep_result of jobs"


def _is_capped(options: Options) -> bool:
    """Whether the cap of a backoff is reached within the attempts."""
    backoff = options.backoff
    if backoff is None or backoff.kind != "exponential" or backoff.max_delay_ms is None or options.attempts < 2:
        return False
    return backoff.unreachable_cap_ms(options.attempts) is None


def _of_settings(settings: QueueSettings, now_ms: int) -> Iterable[str]:
    if settings.max_waiting is not None:
        yield "max_waiting"
    if not settings.events:
        yield "events=False"
    if settings.metrics_minutes != DEFAULT_METRICS_MINUTES:
        yield "metrics_minutes"
    if settings.rate_limit is None and settings.limited_until_ms is not None and settings.limited_until_ms > now_ms:
        yield "the throttle, where they have no limiter"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# -------------------------------------------------------------------- looking


async def check(
    store: Store,
    workers: Iterable[WorkerInfo],
    queues: Iterable[str],
    declared: Mapping[str, Options] | None = None,
) -> list[Finding]:
    """Of each queue that Node's workers serve too, what they do not honour. `declared`: options that code gives its jobs."""
    nodes = [worker for worker in workers if is_node(worker)]
    found: list[Finding] = []
    for queue in queues:
        here = [worker for worker in nodes if queue in worker.queues]
        if here:
            used = await _used(store, queue, (declared or {}).get(queue))
            found += peer_findings(queue, here, used, store.clock.now_ms())
    return found


async def _used(store: Store, queue: str, declared: Options | None) -> Used:
    schedules = await store.schedules(queue)
    options = {record.schedule.options for record in schedules}
    if declared is not None:
        options.add(declared)
    for state in _UNENDED:
        options |= {record.options for record in (await store.find(queue, state, limit=LOOKED_AT)).items}
    return Used(await store.settings(queue), schedules, options)
