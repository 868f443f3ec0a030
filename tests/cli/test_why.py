"""`toril why`: the sentences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli.running import Toril, claim_one, given, given_flow, given_job, given_outcome
from cli.test_status import NOW_MS, worker
from toril import Call, Queue
from toril.cli.why import View, explain
from toril.model import (
    Attempt,
    Child,
    Failed,
    JobRecord,
    JobRef,
    Parent,
    QueueSettings,
    QueueSummary,
    Schedule,
    ScheduleRecord,
)
from toril.options import ChildPolicy, Deduplication, Options
from toril.schedule import cron
from toril.states import State
from toril.store import Store


def job(state: State, **changed: Any) -> JobRecord:
    record = JobRecord(JobRef("email", "j1"), "welcome", "null", Options(attempts=3), state)
    return replace(record, created_at_ms=NOW_MS - 60_000, **changed)


def view(settings: QueueSettings | None = None, *, active: int = 0, **changed: Any) -> View:
    summary = QueueSummary("email", {State.ACTIVE: active, State.WAITING: 4}, settings or QueueSettings())
    told: dict[str, Any] = {"workers": (worker(),), "ahead": 3}
    return View(NOW_MS, summary, **{**told, **changed})


def said(record: JobRecord, around: View) -> str:
    return "\n".join(explain(record, around))


@pytest.mark.parametrize(
    ("around", "sentence"),
    [
        (view(), "3 jobs run before it."),
        (view(ahead=0), "It is the next to run."),
        (view(ahead=None), "More than 10,000 jobs run before it."),
        (view(), "Nothing else holds it up: w1 takes the jobs of email."),
        (view(QueueSettings(paused=True)), "Queue email is paused: none of its jobs is handed out until"),
        (
            view(QueueSettings(limited_until_ms=NOW_MS + 5000)),
            "Queue email is limited: it hands out no job before 2023-11-14T22:13:25Z, in 5 s.",
        ),
        (view(workers=()), "No worker serves queue email: start one with `toril worker MODULE:APP`."),
        (view(workers=(), workers_off="ENABLE_WORKERS=0"), "they are switched off here by ENABLE_WORKERS=0."),
        (view(workers=(worker(state="draining"),)), "The workers of queue email are ending (w1)"),
        (view(active=2), "All 2 slots of its 1 worker are busy: it runs when one is free."),
        (view(QueueSettings(concurrency=1), active=1), "Queue email runs at most 1 jobs at once, and 1 are running."),
    ],
)
def test_a_waiting_job_waits_for_a_reason(around: View, sentence: str) -> None:
    text = said(job(State.WAITING), around)

    assert "email/j1 (welcome) is waiting; it was added 1 min ago (2023-11-14T22:12:20Z)." in text
    assert sentence in text


def test_a_job_that_was_tried_before_says_what_went_wrong() -> None:
    history = (Attempt(1, "w1", NOW_MS, NOW_MS, "retried", "refused.\n"),)

    text = said(job(State.WAITING, attempts_made=1, stalled=2, history=history), view())

    assert "It was tried 1 of 3 times; the last time: refused." in text
    assert "Its worker vanished 2 times while it ran." in text


def test_a_job_that_stalled_too_often_will_be_failed_unseen() -> None:
    text = said(job(State.WAITING, deferred="it stalled more than 1 time"), view())

    assert "will fail it without running it: it stalled more than 1 time." in text


def test_a_delayed_job_says_when_it_is_due_and_for_which_attempt() -> None:
    history = (Attempt(1, "w1", NOW_MS, NOW_MS, "retried", "refused"),)

    first = said(job(State.DELAYED, due_at_ms=NOW_MS + 90_000), view())
    later = said(job(State.DELAYED, due_at_ms=NOW_MS + 90_000, attempts_made=1, history=history), view())

    assert "is delayed: it is due in 1 min 30 s (2023-11-14T22:14:50Z)." in first
    assert "is delayed for attempt 2 of 3: it is due" in later
    assert "the last time: refused" in later


def test_a_delayed_job_that_is_overdue_says_what_holds_it_up() -> None:
    text = said(job(State.DELAYED, due_at_ms=NOW_MS - 5000), view(workers=()))

    assert "was due 5 s ago" in text
    assert "No worker serves queue email" in text


@pytest.mark.parametrize(
    ("changed", "around", "sentence"),
    [
        ({"worker": "w1"}, view(), "Worker w1 works on it, and was seen just now."),
        ({"worker": "gone"}, view(), "Worker gone took it, and was not seen lately."),
        (
            {"locked_until_ms": NOW_MS + 20_000},
            view(),
            "Its lock holds until 2023-11-14T22:13:40Z, in 20 s, unless it is renewed.",
        ),
        ({"locked_until_ms": NOW_MS - 20_000}, view(), "Its lock lapsed 20 s ago"),
        ({"locked_until_ms": NOW_MS - 20_000}, view(), "another worker puts it back in front"),
        ({"locked_until_ms": NOW_MS - 20_000}, view(workers=()), "No worker is there to put it back"),
    ],
)
def test_an_active_job_says_who_works_on_it_and_whether_they_still_do(
    changed: dict[str, Any], around: View, sentence: str
) -> None:
    text = said(job(State.ACTIVE, processed_at_ms=NOW_MS - 3000, attempts_made=1, **changed), around)

    assert "is active: attempt 2 of 3, which began 3 s ago" in text
    assert sentence in text


def test_a_parent_names_the_children_it_waits_for_and_those_that_failed() -> None:
    children = (
        Child(JobRef("mail", "c1"), "pending"),
        Child(JobRef("mail", "c2"), "completed", "1"),
        Child(JobRef("mail", "c3"), "failed", None, "refused"),
    )

    text = said(job(State.WAITING_CHILDREN), view(children=children))

    assert "waits for its children: it has 3, and waits for 2 of them." in text
    assert "Pending: mail/c1." in text
    assert "Failed: mail/c3 (refused); it waits until it is retried or removed." in text
    assert "`toril retry mail/c3` runs it again." in text
    assert "`toril flow email/j1` draws all of it." in text


def test_a_pending_child_that_has_failed_is_told_with_its_reason() -> None:
    refs = [JobRef("mail", name) for name in ("c1", "c2", "c3")]
    children = [Child(ref, "pending") for ref in refs]
    failed = {ref: replace(job(State.FAILED, reason=f"refused {ref.id}"), ref=ref) for ref in refs[1:]}

    text = said(job(State.WAITING_CHILDREN), view(children=children, failed=failed))

    assert "it has 3, and waits for 3 of them." in text
    assert "Pending: mail/c1." in text
    assert "Failed: mail/c2 (refused c2), mail/c3 (refused c3); it waits until they are retried or removed." in text
    assert "`toril retry mail/c2 mail/c3` runs them again." in text


WAITING_PARENT = job(State.WAITING_CHILDREN)


@pytest.mark.parametrize(
    ("policy", "fate"),
    [
        (ChildPolicy.WAIT, "the parent goes on waiting until it is retried or removed."),
        (ChildPolicy.FAIL, "the parent fails too."),
        (ChildPolicy.CONTINUE, "the parent runs at once."),
        (ChildPolicy.IGNORE, "once its other children have ended, and can ask for the reason."),
        (ChildPolicy.REMOVE, "the parent runs all the same, once its other children have ended."),
    ],
)
def test_a_child_says_who_waits_for_it_and_what_its_failure_would_do(policy: ChildPolicy, fate: str) -> None:
    child = job(State.WAITING, parent=Parent(JobRef("reports", "r1"), policy))

    sentence = said(child, view(parent=WAITING_PARENT)).splitlines()[-1]

    assert sentence.startswith("Its parent reports/r1 waits for it; if it fails, the parent ")
    assert sentence.endswith(fate)


@pytest.mark.parametrize(
    ("state", "policy", "parent", "waited_for"),
    [
        (State.FAILED, ChildPolicy.WAIT, WAITING_PARENT, True),
        (State.FAILED, ChildPolicy.FAIL, WAITING_PARENT, False),
        (State.COMPLETED, ChildPolicy.WAIT, WAITING_PARENT, False),
        (State.WAITING, ChildPolicy.WAIT, job(State.FAILED), False),
        (State.WAITING, ChildPolicy.WAIT, None, False),
    ],
)
def test_a_parent_waits_for_what_can_still_release_it(
    state: State, policy: ChildPolicy, parent: JobRecord | None, waited_for: bool
) -> None:
    child = job(state, parent=Parent(JobRef("reports", "r1"), policy))

    assert ("Its parent reports/r1 waits for it" in said(child, view(parent=parent))) is waited_for


DAILY = Schedule("email", "daily", cron("0 9 * * *"), "welcome")
RECORD = ScheduleRecord(DAILY, NOW_MS + 90_000, 2, 2, State.DELAYED)


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        (None, "It is a run of the schedule 'daily', which is gone: no other follows."),
        (
            RECORD,
            "It is a run of the schedule 'daily' (0 9 * * * UTC), whose next is in 1 min 30 s (2023-11-14T22:14:50Z).",
        ),
        (
            replace(RECORD, schedule=replace(DAILY, paused=True), state=None),
            "which is paused: `toril schedules resume email daily` lets it go on.",
        ),
        (replace(RECORD, state=None), "which has no run to come, though it should: `toril doctor --repair` makes it."),
        (
            replace(RECORD, schedule=replace(DAILY, timing=cron("0 9 * * *", limit=2)), state=State.FAILED),
            "which is over: no other follows.",
        ),
        (replace(RECORD, state=State.ACTIVE), "which has made no other yet."),
    ],
)
def test_a_run_says_whose_it_is_and_when_the_next_comes(schedule: ScheduleRecord | None, sentence: str) -> None:
    text = said(job(State.ACTIVE, schedule="daily"), view(schedule=schedule))

    assert sentence in text


def test_the_run_to_come_says_that_it_is_that() -> None:
    record = replace(job(State.DELAYED, due_at_ms=NOW_MS + 90_000, schedule="daily"), ref=RECORD.iteration)

    assert "It is the next run of the schedule 'daily' (0 9 * * * UTC); the one after it is made" in said(
        record, view(schedule=RECORD)
    )


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (Deduplication.simple("u1"), "deduplicated, and make no other job, until this one has ended."),
        (Deduplication.throttle("u1", 60), "deduplicated, and make no other job, for 1 min from its own."),
        (Deduplication.throttle("u1", 60, extend=True), "for 1 min from the last of them."),
        (Deduplication.debounce("u1"), "deduplicated; one that debounces takes its place."),
    ],
)
def test_a_job_that_owns_a_deduplication_id_says_what_becomes_of_adds(rule: Deduplication, sentence: str) -> None:
    record = job(State.DELAYED, due_at_ms=NOW_MS + 90_000, options=Options(deduplication=rule))

    owning, not_owning = said(record, view(owner=record.ref)), said(record, view(owner=JobRef("email", "other")))

    assert "It owns the deduplication id 'u1': adds under it are deduplicated" in owning
    assert sentence in owning
    assert "deduplication" not in not_owning


def test_a_failed_job_says_why_and_how_to_run_it_again() -> None:
    history = tuple(Attempt(n, "w1", NOW_MS, NOW_MS, "retried", f"refused {n}") for n in range(1, 6))
    record = job(State.FAILED, reason="refused 5", attempts_made=3, finished_at_ms=NOW_MS, history=history)

    text = said(record, view())

    assert "failed just now (2023-11-14T22:13:20Z), 3 of 3 attempts made: refused 5." in text
    assert "Attempt 3, just now: retried, refused 3." in text
    assert "Attempt 2" not in text
    assert "`toril retry email/j1` runs it again." in text


def test_a_parent_that_a_child_has_failed_says_to_retry_both() -> None:
    failed = Child(JobRef("pages", "c3"), "failed", reason="no page")

    sentences = said(job(State.FAILED, reason="child pages/c3 failed"), view(children=(failed,)))

    assert (
        "`toril retry pages/c3 email/j1` runs them again, the children first; alone, it would run without them."
        in sentences
    )


def test_a_completed_job_says_what_it_returned_also_when_only_that_is_left() -> None:
    record = job(State.COMPLETED, result='{"sent":true}', processed_at_ms=NOW_MS - 1500, finished_at_ms=NOW_MS)

    kept, removed = said(record, view()), said(replace(record, kept=False), view())

    assert "completed just now (2023-11-14T22:13:20Z), after 1.5 s." in kept
    assert 'It returned {"sent":true}.' in kept
    assert "removed it" not in kept
    assert "Its keep rule has removed it since" in removed


# ------------------------------------------------------------------ the command


def test_why_counts_the_jobs_that_run_before(toril: Toril, home: Path) -> None:
    for job_id in ("j1", "j2", "j3"):
        given_job(home, job_id=job_id)
    given_job(home, job_id="p1", priority=5)
    given_job(home, job_id="p2", priority=1)

    assert "2 jobs run before it." in toril("why", "email/j3").out
    assert "4 jobs run before it." in toril("why", "email/p1").out


def test_why_finds_a_job_that_was_removed_at_once(toril: Toril, home: Path) -> None:
    given_job(home, job_id="j1", keep_failed=False)
    given_outcome(home, Failed("refused"))

    answer = toril("why", "email/j1")

    assert answer.code == 0
    assert "email/j1 (welcome-email) failed" in answer.out
    assert "Its keep rule has removed it since" in answer.out
    assert "toril retry" not in answer.out


def test_why_tells_who_has_an_active_job(toril: Toril, home: Path) -> None:
    given_job(home, job_id="j1")

    async def past(store: Store) -> None:
        await claim_one(store, worker="w7")

    given(home, past)

    assert "Worker w7 took it" in toril("why", "email/j1").out


def test_why_says_of_an_unknown_job_where_it_looked_and_what_may_be_meant(toril: Toril, home: Path) -> None:
    given_job(home, job_id="j1")

    answer = toril("why", "emial/j1")

    assert answer.code == 1
    assert "There is no job emial/j1" in answer.out
    assert "known are email; was email/j1 meant?" in answer.out
    assert f"Looked in sqlite {home / 'toril.db'}, prefix bull (default)." in answer.out


def test_why_looks_around_a_job_of_a_flow(toril: Toril, home: Path) -> None:
    given_flow(home, Call("report", queue="reports").after(Call("page", queue="email")), policy=ChildPolicy.WAIT)
    given_outcome(home, Failed("refused"))
    (child,) = toril("jobs", "email", "--json").json["jobs"]
    (parent,) = toril("jobs", "reports", "--json").json["jobs"]
    page, report = f"email/{child['ref']['id']}", f"reports/{parent['ref']['id']}"

    assert f"Failed: {page} (refused); it waits until it is retried or removed." in toril("why", report).out
    assert f"Its parent {report} waits for it." in toril("why", page).out


def test_why_looks_for_the_schedule_and_the_owner(toril: Toril, home: Path) -> None:
    given_job(home, job_id="j1", delay=60, deduplication="u1")

    async def past(store: Store) -> None:
        await Queue("email", store).schedule("daily", cron("0 9 * * *"))

    given(home, past)
    run = next(
        job for job in toril("jobs", "email", "--json").json["jobs"] if job["ref"]["id"].startswith("repeat:daily:")
    )

    assert "It owns the deduplication id 'u1'" in toril("why", "email/j1").out
    assert "It is the next run of the schedule 'daily'" in toril("why", f"email/{run['ref']['id']}").out
