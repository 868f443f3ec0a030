"""`toril doctor`."""

from __future__ import annotations

import base64
import contextlib
import sqlite3
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis

from cli.running import Toril, claim_one, given, given_flow, given_job, given_outcome
from cli.test_status import NOW_MS, summary, worker
from toril import Call, Queue, cron, every
from toril.cli.doctor import queue_findings
from toril.clock import SYSTEM_CLOCK
from toril.model import Completed, Failed, JobRecord, JobRef, QueueSummary, Settlement, WorkerInfo
from toril.options import ChildPolicy, Options
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


# ------------------------------------------------------------------ mending


@pytest.fixture
def miscounted(home: Path) -> Path:
    """A file whose queue counts two jobs that are not there."""
    given_job(home, delay=60)
    with contextlib.closing(sqlite3.connect(home / "toril.db")) as db:
        db.execute("UPDATE queue SET delayed = delayed + 2")
        db.commit()
    return home


def counted_delayed(home: Path) -> int:
    with contextlib.closing(sqlite3.connect(home / "toril.db")) as db:
        number: int = db.execute("SELECT delayed FROM queue").fetchone()[0]
        return number


@pytest.mark.usefixtures("miscounted")
def test_what_can_be_mended_is_shown_with_how(toril: Toril) -> None:
    answer = toril("doctor")

    assert answer.code == 1
    assert "error  bull:email: 3 delayed jobs are counted and 1 are there" in answer.out
    assert "what to do: `toril doctor --repair` counts anew" in answer.out
    assert "1 of these can be mended: `toril doctor --repair` asks first" in answer.out
    assert [finding["mendable"] for finding in toril("doctor", "--json").json["findings"]].count(True) == 1


def test_repair_shows_asks_mends_and_looks_again(toril: Toril, miscounted: Path) -> None:
    answer = toril("doctor", "--repair", given="y\n")

    assert answer.code == 0
    shown, _, mended = answer.out.partition("Mend what can be mended? Jobs go on meanwhile. [y/N]")
    assert "1 error, 0 warnings" in shown
    assert "ok  bull:email: 3 delayed jobs were counted and 1 are there: counted anew" in mended
    assert mended.rstrip().endswith("0 errors, 0 warnings")
    assert counted_delayed(miscounted) == 1
    assert "0 errors" in toril("doctor").out


@pytest.mark.parametrize("answered", ["n\n", "\n", "", "perhaps\n"])
def test_repair_changes_nothing_without_a_yes(answered: str, toril: Toril, miscounted: Path) -> None:
    answer = toril("doctor", "--repair", given=answered)

    assert answer.code == 1
    assert answer.out.rstrip().endswith("Nothing was changed.")
    assert counted_delayed(miscounted) == 3


def test_repair_asks_nobody_when_told_yes(toril: Toril, miscounted: Path) -> None:
    answer = toril("doctor", "--repair", "--yes")

    assert answer.code == 0
    assert "Mend what" not in answer.out
    assert counted_delayed(miscounted) == 1


@pytest.mark.usefixtures("miscounted")
def test_repair_answers_programs_too(toril: Toril) -> None:
    answer = toril("doctor", "--repair", "--yes", "--json")

    assert answer.code == 0
    assert [finding["about"] for finding in answer.json["repaired"]] == ["bull:email"]
    assert {finding["level"] for finding in answer.json["findings"]} == {"ok"}


def test_repair_asks_nothing_where_nothing_can_be_mended(toril: Toril, home: Path) -> None:
    given_job(home, delay=60)

    answer = toril("doctor", "--repair")

    assert answer.code == 0
    assert answer.out.rstrip().endswith("There is nothing that could be mended.")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--yes"], "--yes answers what --repair asks: give both, or neither"),
        (["--repair", "--json"], "--json leaves no room for a question: add --yes to mend without asking"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str], sentence: str, toril: Toril) -> None:
    answer = toril("doctor", *arguments)

    assert answer.code == 2
    assert sentence in answer.err


@pytest.mark.usefixtures("home")
def test_damage_in_redis_is_shown_and_mended(toril: Toril, redis_url: str) -> None:
    prefix = f"test-{uuid.uuid4().hex}"
    place = ["--url", redis_url, "--prefix", prefix]
    toril("add", "email", "welcome", *place)
    with contextlib.closing(cast("Any", Redis).from_url(redis_url)) as redis:
        redis.lpush(f"{prefix}:email:wait", "gone")

        shown = toril("doctor", *place)
        mended = toril("doctor", "--repair", "--yes", *place)

        assert redis.llen(f"{prefix}:email:wait") == 1
    assert shown.code == 1
    assert "error  queue email: id gone in wait has no job: Node runs it as a job without a name" in shown.out
    assert "what to do: `toril doctor --repair` takes it out" in shown.out
    assert "it writes nothing to its disk" in shown.out
    assert mended.code == 0
    assert "ok  queue email: id gone in wait has no job: taken out" in mended.out


@pytest.mark.usefixtures("home")
def test_what_was_found_is_shown_also_where_damage_ends_the_look(toril: Toril, redis_url: str) -> None:
    prefix = f"test-{uuid.uuid4().hex}"
    with contextlib.closing(cast("Any", Redis).from_url(redis_url)) as redis:
        redis.hset(f"{prefix}:email:meta", "opts.maxLenEvents", 10)
        redis.set(f"{prefix}:email:wait", "oops")

        answer = toril("doctor", "--url", redis_url, "--prefix", prefix)

    assert answer.code == 1
    assert "error  queue email: its key 'wait' is a string, not a list" in answer.out
    assert "is not of the kind it should be" in answer.out


# ------------------------------------------------------------------ schedules and flows


@pytest.fixture
def broken(home: Path) -> None:
    """A schedule whose run has ended without one after it, beside one that is paused and one that is well."""

    async def past(store: Store) -> None:
        queue = Queue("email", store)
        await queue.schedule("sweep", every(3600))
        await store.settle([Settlement(await claim_one(store), Completed())])
        await queue.schedule("daily", cron("0 9 * * *"))
        await (await queue.schedule("weekly", cron("0 9 * * 1"))).pause()

    given(home, past)


@pytest.mark.usefixtures("broken")
def test_a_schedule_that_stands_still_is_an_error_that_can_be_mended(toril: Toril) -> None:
    shown = toril("doctor")
    mended = toril("doctor", "--repair", "--yes")

    assert shown.code == 1
    assert "error  schedule sweep of queue email: it has no run to come, and stands still" in shown.out
    assert "what to do: `toril doctor --repair` makes its next run" in shown.out
    assert "1 of these can be mended" in shown.out
    assert mended.code == 0
    assert "ok  schedule sweep of queue email: it had no run to come: it has one again" in mended.out
    assert "stands still" not in toril("doctor").out


@pytest.mark.usefixtures("broken")
def test_programs_are_told_of_schedules_that_were_mended(toril: Toril) -> None:
    answer = toril("doctor", "--repair", "--yes", "--json")

    assert [finding["about"] for finding in answer.json["repaired"]] == ["schedule sweep of queue email"]


def test_parents_that_wait_for_failed_children_are_a_warning_with_the_next_step(toril: Toril, home: Path) -> None:
    pages = [Call("page", queue="email", options={"job_id": f"p{n}"}) for n in (1, 2)]
    given_flow(home, Call("report", queue="reports", options={"job_id": "r1"}).after(*pages), policy=ChildPolicy.WAIT)
    given_outcome(home, Failed("refused"))

    one = toril("doctor").out
    given_outcome(home, Failed("refused"))
    two = toril("doctor").out

    assert "warning  queue reports: 1 job waits for a child that has failed: reports/r1 for email/p1\n" in one
    assert "what to do: `toril retry email/p1` runs it again; `toril flow reports/r1` shows what waits" in one
    assert "1 job waits for children that have failed: reports/r1 for email/p1, and 1 more such" in two
    assert "`toril retry email/p1 email/p2` runs them again" in two


# ------------------------------------------------------------------ Node


@pytest.mark.usefixtures("home")
def test_what_nodes_workers_pass_over_is_a_warning(toril: Toril, redis_url: str) -> None:
    prefix = f"test-{uuid.uuid4().hex}"
    place = ["--url", redis_url, "--prefix", prefix]
    toril("add", "email", "welcome", *place)
    with contextlib.closing(cast("Any", Redis).from_url(redis_url)) as redis:
        redis.hset(f"{prefix}:email:meta", "py:max-waiting", 10)
        before = toril("doctor", *place)
        with redis.client() as node:
            node.client_setname(f"{prefix}:{base64.b64encode(b'email').decode()}:w:renderer")
            found = toril("doctor", *place)

    assert "Node" not in before.out
    assert (
        "warning  queue email: Node's worker renderer serves it too, and Node passes over what it does not know: "
        "max_waiting\n"
    ) in found.out


# ------------------------------------------------------------------ queues


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
