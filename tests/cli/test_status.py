"""`toril status`."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.running import Toril, given, given_job
from toril.cli.status import remarks
from toril.clock import SYSTEM_CLOCK
from toril.model import QueueSettings, QueueSummary, WorkerInfo
from toril.options import RateLimit
from toril.states import State
from toril.store import Store

NOW_MS = 1_700_000_000_000


def worker(name: str = "w1", *, seen_at_ms: int = NOW_MS, **changed: object) -> WorkerInfo:
    told: dict[str, object] = {
        "id": name,
        "name": name,
        "host": "h",
        "pid": 7,
        "queues": {"email": 2},
        "started_at_ms": seen_at_ms,
        "seen_at_ms": seen_at_ms,
        "ttl_ms": 30_000,
    }
    return WorkerInfo(**{**told, **changed})  # type: ignore[arg-type]


def summary(waiting: int = 0, **settings: object) -> QueueSummary:
    return QueueSummary("email", {State.WAITING: waiting}, QueueSettings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("queue", "workers", "said"),
    [
        (summary(), [], []),
        (summary(waiting=1), [worker()], []),
        (summary(waiting=1), [], ["no worker serves this queue"]),
        (summary(waiting=1), [worker(queues={"other": 1})], ["no worker serves this queue"]),
        (summary(waiting=1), [worker(state="draining")], ["no worker serves this queue"]),
        (summary(paused=True), [], ["paused: its jobs are handed out again after resume"]),
        (summary(limited_until_ms=NOW_MS + 5000), [], ["limited until 2023-11-14T22:13:25Z, in 5 s"]),
        (summary(limited_until_ms=NOW_MS - 1), [], []),
        (summary(rate_limit=RateLimit(100, per=60)), [], ["at most 100 jobs per 1 min"]),
        (summary(concurrency=1), [], ["at most 1 job at once over all workers"]),
        (summary(max_waiting=9), [], ["admits 9 waiting jobs"]),
        (summary(waiting=9, max_waiting=9), [worker()], ["admits 9 waiting jobs: full, adds are refused"]),
    ],
)
def test_what_should_be_known_of_a_queue_is_said(
    queue: QueueSummary, workers: list[WorkerInfo], said: list[str]
) -> None:
    assert remarks(queue, workers, NOW_MS) == said


def test_status_counts_jobs_by_state_and_names_the_queue_that_nobody_serves(toril: Toril, home: Path) -> None:
    given_job(home)
    given_job(home, delay=60)

    answer = toril("status")

    assert answer.code == 0
    assert answer.out.startswith(f"sqlite {home / 'toril.db'}, prefix bull (default)")
    assert ["QUEUE", "WAITING", "DELAYED", "ACTIVE", "COMPLETED", "FAILED", "OLDEST"] in [
        line.split() for line in answer.out.splitlines()
    ]
    assert ["email", "1", "1", "0", "0", "0"] in [line.split()[:6] for line in answer.out.splitlines()]
    assert "email: no worker serves this queue" in answer.out
    assert "No worker was seen lately" in answer.out


def test_status_shows_the_workers_that_were_seen(toril: Toril, home: Path) -> None:
    async def past(store: Store) -> None:
        await store.announce(worker("mail-1", seen_at_ms=SYSTEM_CLOCK.now_ms(), running=1))

    given_job(home)
    given(home, past)

    answer = toril("status")
    as_json = toril("status", "--json").json

    assert "mail-1  email (2)     1  just now  just now  running" in answer.out
    assert "no worker serves" not in answer.out
    assert [told["id"] for told in as_json["workers"]] == ["mail-1"]
    assert as_json["queues"][0]["counts"]["waiting"] == 1
    assert as_json["queues"][0]["workers"] == 1


@pytest.mark.claim("A-28")
def test_status_says_when_workers_are_switched_off(toril: Toril, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_job(home)
    monkeypatch.setenv("TORIL_ENABLE_WORKERS", "off")

    assert "workers are switched off here by TORIL_ENABLE_WORKERS=off" in toril("status").out


def test_status_fits_80_columns_though_names_are_long(
    toril: Toril, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def past(store: Store) -> None:
        queues = {f"queue-number-{n}": 10 for n in range(9)}
        await store.announce(worker("w" * 40, seen_at_ms=SYSTEM_CLOCK.now_ms(), queues=queues))
        await store.pause("a-queue-with-a-name-that-is-much-longer-than-it-should-be")

    given_job(home, priority=1)
    given(home, past)
    monkeypatch.setenv("COLUMNS", "80")

    answer = toril("status")

    lines = answer.out.partition("\n\n")[2].splitlines()  # what is before has the path of the file
    assert any(line.startswith("a-queue-with-a") and "…" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_looking_where_nothing_is_makes_no_file(toril: Toril, home: Path) -> None:
    answer = toril("status")

    assert answer.code == 1
    assert f"there is no file {home / 'toril.db'}" in answer.err
    assert list(home.iterdir()) == []
