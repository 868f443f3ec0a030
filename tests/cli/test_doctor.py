"""`toril doctor`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cli.running import Toril, claim_one, given, given_job
from cli.test_status import NOW_MS, summary, worker
from toril.cli.doctor import queue_findings
from toril.clock import SYSTEM_CLOCK
from toril.model import JobRecord, JobRef, QueueSummary, WorkerInfo
from toril.options import Options
from toril.states import State
from toril.store import Store


def test_a_sound_store_has_nothing_wrong(toril: Toril, home: Path) -> None:
    given_job(home, delay=60)

    answer = toril("doctor")

    assert answer.code == 0
    assert "ok  settings: development, store named by default" in answer.out
    assert "the file is sound" in answer.out
    assert answer.out.rstrip().endswith("0 errors, 0 warnings")


def test_a_damaged_file_is_an_error(toril: Toril, home: Path) -> None:
    (home / "toril.db").write_bytes(b"this was never a database" * 100)

    answer = toril("doctor")
    as_json = toril("doctor", "--json")

    assert answer.code == 1
    assert "error  sqlite" in answer.out
    assert "not a sound SQLite database" in answer.out
    assert as_json.code == 1
    assert "error" in [finding["level"] for finding in as_json.json["findings"]]


def test_an_implicit_file_in_production_is_an_error(toril: Toril, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORIL_ENV", "production")

    answer = toril("doctor")

    assert answer.code == 1
    assert "error  settings: no store is named" in answer.out


def test_a_store_that_is_not_known_is_an_error_without_its_password(toril: Toril) -> None:
    answer = toril("doctor", "--url", "mysql://ada:hunter2@h/shop")

    assert answer.code == 1
    assert "error  store: no store is known for mysql://" in answer.out
    assert "hunter2" not in answer.out + answer.err


def test_switched_off_workers_and_a_private_memory_are_warnings(toril: Toril, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_WORKERS", "no")

    answer = toril("doctor", "--url", "sqlite://:memory:")

    assert answer.code == 0
    assert "workers are switched off here by ENABLE_WORKERS=no" in answer.out
    assert "what one adds, no other sees" in answer.out


@pytest.mark.claim("C-76", "C-77", "C-78")
@pytest.mark.usefixtures("jobs_py")
def test_a_cap_that_no_attempt_reaches_is_a_warning(toril: Toril) -> None:
    answer = toril("doctor", "jobs:app")

    assert answer.code == 0
    assert "queue email: max_delay of 10 min is never reached" in answer.out
    assert "with 5 attempts the longest wait is 4 min" in answer.out


def test_a_worker_that_has_gone_quiet_is_a_warning(toril: Toril, home: Path) -> None:
    async def past(store: Store) -> None:
        await store.announce(worker("w1", seen_at_ms=SYSTEM_CLOCK.now_ms() - 20_000))

    given(home, past)

    assert "worker w1: it was last seen 20 s ago" in toril("doctor").out


def test_jobs_that_nobody_works_on_are_warnings(toril: Toril, home: Path) -> None:
    given_job(home, job_id="j1")
    given_job(home, job_id="j2")

    async def past(store: Store) -> None:
        await claim_one(store, lock_ms=0)

    given(home, past)
    answer = toril("doctor")

    assert answer.code == 0
    assert "queue email: 1 job waits, and no worker serves it" in answer.out
    assert "1 active job has lost the lock, email/j1 among them" in answer.out


ACTIVE = JobRecord(JobRef("email", "j1"), "a", "null", Options(), State.ACTIVE, locked_until_ms=NOW_MS - 1)


@pytest.mark.parametrize(
    ("queue", "workers", "active", "said"),
    [
        (summary(waiting=1), [worker()], [], []),
        (summary(), [], [replace(ACTIVE, locked_until_ms=NOW_MS + 1)], []),
        (summary(waiting=2), [], [], ["2 jobs wait, and no worker serves it"]),
        (summary(), [worker()], [ACTIVE], ["1 active job has lost the lock, email/j1 among them"]),
        (summary(waiting=1, paused=True), [worker()], [], ["it is paused, and 1 job waits"]),
        (
            summary(waiting=5, max_waiting=5),
            [worker()],
            [],
            ["it is full: 5 wait and 5 are admitted, so that adds are refused"],
        ),
    ],
)
def test_what_is_wrong_with_a_queue_is_found(
    queue: QueueSummary, workers: list[WorkerInfo], active: list[JobRecord], said: list[str]
) -> None:
    assert [finding.message for finding in queue_findings(queue, workers, active, NOW_MS)] == said
