"""What Node's workers on a shared queue pass over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from toril import Backoff, Queue, RateLimit, cron, every
from toril.model import Finding, QueueSettings, Schedule, ScheduleRecord, WorkerInfo
from toril.options import DEFAULT_BACKOFF, DEFAULT_OPTIONS, Options
from toril.peers import Used, check, draws, is_node, peer_findings
from toril.store import Store
from toril.timing import Timing

NOW_MS = 1_700_000_000_000


def worker(name: str, pid: int = 0, queue: str = "email") -> WorkerInfo:
    return WorkerInfo(f"id of {name}", name, "h", pid, {queue: 1}, NOW_MS, NOW_MS, 30_000)


NODE = worker("renderer")


def scheduled(timing: Timing, id: str = "daily", *, paused: bool = False) -> ScheduleRecord:
    return ScheduleRecord(Schedule("email", id, timing, "welcome", paused=paused), NOW_MS, 1, 1)


def used(*schedules: ScheduleRecord, settings: QueueSettings | None = None, options: Sequence[Options] = ()) -> Used:
    return Used(settings or QueueSettings(), schedules, options)


def capped(attempts: int, max_delay: float | None = 60) -> Options:
    return replace(DEFAULT_OPTIONS, attempts=attempts, backoff=Backoff.exponential(1, max_delay=max_delay))


def wishes(of: Used, nodes: Sequence[WorkerInfo] = (NODE,)) -> list[str]:
    return [finding.message.partition("does not know: ")[2] for finding in peer_findings("email", nodes, of, NOW_MS)]


@pytest.mark.parametrize(
    ("of", "passed_over"),
    [
        (used(scheduled(cron("0 9 * * *", missed="skip"))), 'missed="skip" of schedule daily'),
        (used(scheduled(every(60, missed="all"))), 'missed="all" of schedule daily'),
        (used(scheduled(every(60, overlap="skip"))), 'overlap="skip" of schedule daily'),
        (used(scheduled(every(60, overlap="queue"))), 'overlap="queue" of schedule daily'),
        (used(scheduled(every(60), paused=True)), "the pause of schedule daily, which ends when it puts that anew"),
        (used(scheduled(cron("H 3 * * *"))), "H in the pattern of schedule daily, for which it draws other times"),
        (used(options=[capped(8)]), "max_delay of backoffs"),
        (used(options=[replace(DEFAULT_OPTIONS, keep_result_ms=1)]), "keep_result of jobs"),
        (used(settings=QueueSettings(max_waiting=10)), "max_waiting"),
        (used(settings=QueueSettings(events=False)), "events=False"),
        (used(settings=QueueSettings(metrics_minutes=0)), "metrics_minutes"),
        (
            used(settings=QueueSettings(limited_until_ms=NOW_MS + 1)),
            "the throttle, where they have no limiter",
        ),
    ],
)
def test_node_passes_over_what_is_torils_own(of: Used, passed_over: str) -> None:
    assert wishes(of) == [passed_over]


@pytest.mark.parametrize(
    "of",
    [
        used(),
        used(scheduled(cron("0 9 * * THU", tz="Asia/Tokyo", limit=3)), scheduled(every(60, offset=5))),
        used(options=[DEFAULT_OPTIONS, replace(DEFAULT_OPTIONS, attempts=5, backoff=DEFAULT_BACKOFF)]),
        used(options=[capped(8, None), capped(1), capped(3), replace(capped(8), backoff=Backoff.fixed(5))]),
        used(settings=QueueSettings(paused=True, concurrency=3, rate_limit=RateLimit(5), max_events=7)),
        used(settings=QueueSettings(rate_limit=RateLimit(5), limited_until_ms=NOW_MS + 1)),
        used(settings=QueueSettings(limited_until_ms=NOW_MS)),
    ],
)
def test_what_node_honours_is_not_spoken_of(of: Used) -> None:
    assert wishes(of) == []


def test_all_of_a_queue_is_one_finding_that_names_the_workers() -> None:
    of = used(*(scheduled(every(60, missed="skip"), f"s{n}") for n in range(7)), settings=QueueSettings(max_waiting=10))

    assert peer_findings("email", [worker("b"), worker("a"), replace(NODE, name="", id="[::1]:7")], of, NOW_MS) == [
        Finding(
            "warning",
            "queue email",
            "Node's workers [::1]:7, a, b serve it too, and Node passes over what it does not know: "
            'missed="skip" of schedules s0, s1, s2, s3, s4 and 2 more; max_waiting',
            "let Toril's workers alone serve it, or do without these",
        )
    ]


def test_without_nodes_workers_there_is_nothing_to_say() -> None:
    assert wishes(used(settings=QueueSettings(max_waiting=10)), []) == []


@pytest.mark.parametrize(
    ("pattern", "drawn"),
    [
        ("H 3 * * *", True),
        ("0 3,H * * *", True),
        ("H(0-5)/2 * * * *", True),
        ("0 0 * * HL", True),
        ("0 0 * * H#2", True),
        ("0 0 * * THU", False),
        ("0 0 * MAR THUL", False),
        ("@hourly", False),
    ],
)
def test_a_drawn_value_is_told_from_a_name(pattern: str, drawn: bool) -> None:
    assert draws(pattern) is drawn


async def test_each_queue_that_node_serves_is_looked_at(store: Store) -> None:
    for name in ("email", "report", "other"):
        queue = Queue(name, store)
        await queue.configure(QueueSettings(max_waiting=10))
        await queue.schedule("daily", cron("0 9 * * *", missed="skip"))
        await queue.add("welcome", attempts=8, backoff=Backoff.exponential(1, max_delay=60))
    workers = [NODE, worker("ours", 7), worker("ours", 7, "report"), worker("n", queue="other")]
    declared = {"other": replace(DEFAULT_OPTIONS, keep_result_ms=1), "report": DEFAULT_OPTIONS}

    found = await check(store, workers, ["email", "report"], declared)
    other = await check(store, workers, ["other"], declared)

    assert [is_node(one) for one in workers] == [True, False, False, True]
    assert [(finding.about, finding.message.partition(": ")[2]) for finding in found] == [
        ("queue email", 'missed="skip" of schedule daily; max_delay of backoffs; max_waiting'),
    ]
    assert other[0].message.endswith("max_delay of backoffs; keep_result of jobs; max_waiting")
