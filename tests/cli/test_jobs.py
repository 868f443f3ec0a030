"""`toril jobs`, `show`, `add` and `retry`."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.running import Toril, claim_one, given, given_job, given_outcome
from toril import Backoff, JobRef, Queue
from toril.model import Completed, Failed, JobRecord, Report, Retried
from toril.options import Options
from toril.states import State
from toril.store import Store

pytestmark = pytest.mark.usefixtures("home")


def record_of(home: Path, job_id: str) -> JobRecord:
    async def past(store: Store) -> JobRecord:
        (record,) = await store.get([JobRef("email", job_id)])
        assert record is not None
        return record

    return given(home, past)


# ------------------------------------------------------------------ add


def test_add_stores_a_job_and_prints_nothing_but_its_id(toril: Toril, home: Path) -> None:
    answer = toril("add", "email", "welcome-email", '{"user_id": "u1"}')

    record = record_of(home, answer.out.strip())
    assert answer.code == 0
    assert (record.name, record.data, record.state) == ("welcome-email", '{"user_id":"u1"}', State.WAITING)
    assert f"it is kept in sqlite {home / 'toril.db'}" in answer.err


def test_add_takes_data_from_the_standard_input(toril: Toril, home: Path) -> None:
    answer = toril("add", "email", "import", "-", given='["ä", 1]\n')

    assert record_of(home, answer.out.strip()).data == '["ä",1]'


def test_add_takes_delay_priority_attempts_and_an_id(toril: Toril, home: Path) -> None:
    toril("add", "email", "a", "--delay", "60", "--attempts", "3", "--job-id", "j1")
    toril("add", "email", "b", "--priority", "2", "--job-id", "j2")

    delayed, prioritized = record_of(home, "j1"), record_of(home, "j2")
    assert (delayed.state, delayed.options.delay_ms, delayed.options.attempts) == (State.DELAYED, 60_000, 3)
    assert (prioritized.state, prioritized.priority) == (State.PRIORITIZED, 2)


def test_adding_an_id_again_says_that_it_is_already_there(toril: Toril) -> None:
    toril("add", "email", "a", "--job-id", "j1")

    answer = toril("add", "email", "a", "--job-id", "j1")
    as_json = toril("add", "email", "a", "--job-id", "j1", "--json")

    assert (answer.code, answer.out) == (0, "j1\n")
    assert "email/j1 is already there" in answer.err
    assert as_json.json == {"id": "j1", "queue": "email", "duplicate": True, "store": "sqlite"}


@pytest.mark.claim("A-28")
def test_add_warns_where_workers_are_switched_off(toril: Toril, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_WORKERS", "false")

    answer = toril("add", "email", "a")

    assert answer.code == 0
    assert "workers are switched off here by ENABLE_WORKERS=false" in answer.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["email", "a", "{user_id: 1}"], "the data is not JSON"),
        (["email", "a", "9007199254740993"], "2^53"),
        (["e:mail", "a"], "the queue name 'e:mail' contains one of"),
        (["email", "a", "--job-id", "42"], "is all digits"),
        (["email", "a", "--attempts", "0"], "attempts must be a whole number"),
        (["email", "a", "--priority", "-1"], "priority must be a whole number"),
        (["email", "a", "--delay", "soon"], "seconds are wanted"),
        (["email", ""], "the job's name is empty"),
    ],
)
def test_what_cannot_be_a_job_is_refused_and_nothing_is_stored(
    arguments: list[str], sentence: str, toril: Toril
) -> None:
    answer = toril("add", *arguments)

    assert (answer.code, answer.out) == (2, "")
    assert sentence in answer.err


# ------------------------------------------------------------------ jobs


def test_jobs_lists_each_state_in_the_order_in_which_they_run(toril: Toril, home: Path) -> None:
    given_job(home, job_id="first")
    given_job(home, job_id="second")
    given_job(home, job_id="later", delay=60)

    answer = toril("jobs", "email")

    assert answer.code == 0
    lines = [line.split()[0] for line in answer.out.splitlines() if line]
    assert lines == ["waiting", "ID", "first", "second", "delayed", "ID", "later"]


def test_jobs_shows_why_a_failed_job_failed(toril: Toril, home: Path) -> None:
    given_job(home, job_id="j1")
    given_outcome(home, Failed("no such\naddress"))

    answer = toril("jobs", "email", "--state", "failed")

    assert answer.out.splitlines()[3] == "  no such address"


def test_a_page_says_how_to_read_the_next_and_a_newest_one_goes_the_other_way(toril: Toril, home: Path) -> None:
    for job_id in ("j1", "j2", "j3"):
        given_job(home, job_id=job_id)

    first = toril("jobs", "email", "--state", "waiting", "--limit", "2", "--json").json
    rest = toril("jobs", "email", "--state", "waiting", "--after", first["next"]["waiting"], "--json").json
    newest = toril("jobs", "email", "--state", "waiting", "--limit", "1", "--newest")

    assert [job["ref"]["id"] for job in first["jobs"]] == ["j1", "j2"]
    assert [job["ref"]["id"] for job in rest["jobs"]] == ["j3"]
    assert rest["next"] == {}
    assert "j3 " in newest.out
    assert "more: toril jobs email --state waiting --after " in newest.out
    assert newest.out.rstrip().endswith("--newest")


def test_jobs_of_an_unknown_queue_are_not_found_and_the_known_ones_are_named(toril: Toril, home: Path) -> None:
    given_job(home)

    answer = toril("jobs", "emial")

    assert answer.code == 1
    assert "there is no queue 'emial': known are email" in answer.err


def test_a_cursor_without_a_state_is_wrong_usage(toril: Toril, home: Path) -> None:
    given_job(home)

    assert toril("jobs", "email", "--after", "1.2.3").code == 2


def test_a_page_that_never_was_is_wrong_usage(toril: Toril, home: Path) -> None:
    given_job(home)

    answer = toril("jobs", "email", "--state", "waiting", "--after", "what")

    assert answer.code == 2
    assert "'what' is not where a page ended" in answer.err


# ------------------------------------------------------------------ show


def test_show_tells_all_that_is_known_of_a_job(toril: Toril, home: Path) -> None:
    given_job(home, data={"user_id": "u1"}, job_id="j1", attempts=3, backoff=Backoff.fixed(0))

    async def past(store: Store) -> None:
        claim = await claim_one(store)
        await store.report([Report(claim, progress="40", logs=tuple(f"line {n}" for n in range(5)))])

    given(home, past)
    answer = toril("show", "email/j1", "--logs", "2")
    as_json = toril("show", "email/j1", "--json").json

    assert answer.code == 0
    assert answer.out.startswith("email/j1 welcome-email: active\n")
    for words in ("tried       0 of 3 times", "worker      w1", '"user_id": "u1"', "progress\n  40"):
        assert words in answer.out
    assert answer.out.rstrip().endswith("log, 2 of 5 lines\n  line 3\n  line 4")
    assert as_json["job"]["data"] == {"user_id": "u1"}
    assert as_json["job"]["progress"] == 40
    assert as_json["logs"]["total"] == 5


def test_show_tells_each_attempt_with_its_stack(toril: Toril, home: Path) -> None:
    given_job(home, job_id="j1", attempts=3)
    given_outcome(home, Retried(0, "refused", 'Traceback:\n  File "mail.py"\nOSError: refused'))
    given_outcome(home, Completed('{"sent": true}'))

    answer = toril("show", "email/j1")

    assert "  1. retried after" in answer.out
    assert '       File "mail.py"\n     OSError: refused' in answer.out
    assert "  2. completed after" in answer.out
    assert '"sent": true' in answer.out


def test_what_a_job_says_cannot_command_the_terminal(toril: Toril, home: Path) -> None:
    given_job(home, name="\x1b[2Jboo", job_id="j1")
    given_outcome(home, Failed("\x1b]0;title\x07 \x9b31m"))

    for arguments in (["show", "email/j1"], ["jobs", "email"], ["why", "email/j1"]):
        said = toril(*arguments).out
        assert "\\x1b" in said
        assert not {"\x1b", "\x07", "\x9b"} & set(said)


def test_half_a_surrogate_pair_in_a_job_is_shown_rather_than_broken_on(toril: Toril, home: Path) -> None:
    given_job(home, data=None, job_id="j1")
    given_outcome(home, Completed('"\\ud83d"'))

    answer = toril("show", "email/j1")

    assert answer.code == 0
    assert "ud83d" in answer.out


@pytest.mark.parametrize("command", [["show", "email/nope"], ["retry", "email/nope"]])
def test_a_job_that_is_not_there_is_not_found(command: list[str], toril: Toril, home: Path) -> None:
    given_job(home)

    answer = toril(*command)

    assert answer.code == 1
    assert "there is no job email/nope" in answer.err


@pytest.mark.parametrize("written", ["email", "email/", "/42"])
def test_a_job_is_written_as_queue_and_id(written: str, toril: Toril) -> None:
    answer = toril("show", written)

    assert answer.code == 2
    assert "a job is written QUEUE/ID, as in email/42" in answer.err


# ------------------------------------------------------------------ retry


def test_retry_runs_a_failed_job_again_with_other_data(toril: Toril, home: Path) -> None:
    given_job(home, data={"to": "nobody"}, job_id="j1")
    given_outcome(home, Failed("no such address"))

    answer = toril("retry", "email/j1", "--data", '{"to": "ada"}', "--reset-attempts")

    record = record_of(home, "j1")
    assert (answer.code, answer.out) == (0, "email/j1 will run again\n")
    assert (record.state, record.data, record.attempts_made) == (State.WAITING, '{"to":"ada"}', 0)


def test_retry_says_of_each_job_what_became_of_it(toril: Toril, home: Path) -> None:
    given_job(home, job_id="j1")
    given_outcome(home, Failed("broken"))
    given_job(home, job_id="j2")

    answer = toril("retry", "email/j1", "email/j2", "email/j3")

    assert (answer.code, answer.out) == (1, "email/j1 will run again\n")
    assert "cannot retry email/j2: it is waiting, and must be completed or failed" in answer.err
    assert "there is no job email/j3" in answer.err


def test_retry_of_all_failed_jobs_counts_them(toril: Toril, home: Path) -> None:
    for job_id in ("j1", "j2"):
        given_job(home, job_id=job_id)
        given_outcome(home, Failed("broken"))

    answer = toril("retry", "--all-failed", "email")

    assert (answer.code, answer.out) == (0, "2 jobs of email will run again\n")
    assert record_of(home, "j2").state is State.WAITING


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name the jobs to run again"),
        (["email/j1", "--all-failed", "email"], "name the jobs to run again"),
        (["--all-failed", "email", "--data", "1"], "would give all jobs the same data"),
    ],
)
def test_retry_wants_either_jobs_or_a_queue(arguments: list[str], sentence: str, toril: Toril, home: Path) -> None:
    given_job(home)

    answer = toril("retry", *arguments)

    assert answer.code == 2
    assert sentence in answer.err


def test_options_that_differ_from_the_defaults_are_told_in_words(toril: Toril, home: Path) -> None:
    async def past(store: Store) -> Options:
        queue = Queue("email", store)
        backoff = Backoff.exponential(30, max_delay=600, jitter=0.5)
        job = await queue.add("a", job_id="j1", attempts=5, backoff=backoff, keep_completed=True, keep_failed=10)
        return (await job.record()).options

    given(home, past)

    said = toril("show", "email/j1").out

    assert "attempts 5, backoff exponential from 30 s up to 10 min, jitter 0.5" in said
    assert "keep completed all, keep failed 10" in said
