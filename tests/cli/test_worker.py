"""`toril worker`, as a process that people start and stop."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from cli.running import JOBS, Toril, run, started

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to wait for")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(JOBS)
    return tmp_path


def test_a_worker_runs_a_job_that_is_added_says_so_and_ends_with_0_on_sigterm(project: Path) -> None:
    with started(project, "worker", "jobs:app") as worker:
        worker.line_with("serves email (2) on sqlite")
        job_id = run(project, "add", "email", "welcome-email", '{"user_id": "u1"}').out.strip()
        line = worker.line_with("completed in")
        worker.signal(signal.SIGTERM)

        assert worker.end() == 0
    assert f"INFO  toril.worker email/{job_id} welcome-email completed in" in line
    assert "completed" in run(project, "why", f"email/{job_id}").out


def test_a_second_signal_hands_back_what_runs_and_the_worker_ends_with_3_though_its_thread_goes_on(
    project: Path,
) -> None:
    run(project, "add", "email", "stuck", "--job-id", "s1")
    with started(project, "worker", "jobs:app") as worker:
        worker.line_with("stuck has begun")
        worker.signal(signal.SIGTERM)
        worker.line_with("SIGTERM: finishing what runs")
        worker.signal(signal.SIGTERM)

        assert worker.end() == 3
    assert "is waiting" in run(project, "why", "email/s1").out


def test_after_the_grace_what_runs_is_handed_back_without_a_second_signal(project: Path) -> None:
    run(project, "add", "email", "stuck", "--job-id", "s1")
    with started(project, "worker", "jobs:app", "--grace", "0.05") as worker:
        worker.line_with("stuck has begun")
        worker.signal(signal.SIGINT)

        assert worker.end() == 3


def test_a_log_for_machines_is_one_object_a_line_with_the_job_in_it(project: Path) -> None:
    run(project, "add", "email", "welcome-email", '{"user_id": "u1"}', "--job-id", "j1")
    with started(project, "worker", "jobs:app", "--log-format", "json") as worker:
        line = worker.line_with("completed in")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0

    entries = [json.loads(line) for line in worker.lines]
    entry = json.loads(line)
    assert all({"ts", "level", "logger", "message"} <= entry.keys() for entry in entries)
    assert (entry["queue"], entry["job_id"], entry["job_name"]) == ("email", "j1", "welcome-email")
    assert (entry["attempt"], entry["level"]) == (1, "info")
    assert entry["ms"] >= 0


def test_an_option_names_the_store_of_an_app_that_names_none(project: Path) -> None:
    url = f"sqlite:///{project}/elsewhere.db"
    run(project, "add", "email", "welcome-email", '{"user_id": "u1"}', "--url", url)
    with started(project, "--url", url, "worker", "jobs:app", "-c", "3") as worker:
        assert "email (3) on sqlite" in worker.line_with("serves")
        worker.line_with("completed in")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    assert not (project / "toril.db").exists()


@pytest.mark.claim("A-28")
def test_a_worker_that_is_switched_off_says_by_whom_and_ends_with_0(project: Path) -> None:
    answer = run(project, "worker", "jobs:app", environ={"ENABLE_WORKERS": "false"})

    assert answer.code == 0
    assert "switched off by ENABLE_WORKERS=false" in answer.out


# ------------------------------------------------------------------ what cannot be started


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name the app as MODULE:APP"),
        (["nosuch:app"], "there is no module 'nosuch'"),
        (["jobs.nosuch:app"], "there is no module 'jobs.nosuch'"),
        (["jobs.py:app"], "as in jobs:app"),
        (["./shop/jobs.py"], "as in shop.jobs:app"),
        (["jobs:ap"], "jobs has no 'ap': its app is app"),
        (["jobs:other"], "jobs:other is of type object, not a toril.App: its app is app"),
        (["jobs:email"], "jobs:email is of type toril.app.AppQueue"),
        (["jobs:app", "-q", "emial"], "queue 'emial' is not declared: declared are email"),
        (["jobs:app", "-c", "0"], "a whole number between 1 and 100,000 is wanted, not '0'"),
        (["jobs:app", "--lock", "0"], "lock must be at least 0.1 s"),
        (["jobs:app", "--grace", "-1"], "seconds are wanted, as in 30 or 0.5, not '-1'"),
    ],
)
@pytest.mark.usefixtures("jobs_py", "quiet_root")
def test_what_cannot_be_a_worker_is_refused_in_a_sentence(arguments: list[str], sentence: str, toril: Toril) -> None:
    answer = toril("worker", *arguments)

    assert answer.code == 2
    assert sentence in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("import nosuchthing", "ModuleNotFoundError: No module named 'nosuchthing'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("app.queue('email', attempts=4)", "ConfigError: queue 'email' is declared already"),
        ("raise RuntimeError('no answer from redis://:hunter2@h')", "redis://:***@h"),
    ],
)
@pytest.mark.usefixtures("quiet_root")
def test_a_module_that_breaks_is_named_with_the_line_and_without_a_traceback(
    line: str, sentence: str, toril: Toril, jobs_py: Path
) -> None:
    jobs_py.write_text(f"{JOBS}\n{line}\n")

    answer = toril("worker", "jobs:app")

    assert answer.code == 2
    last = len(jobs_py.read_text().splitlines())
    assert f"jobs cannot be imported at {jobs_py}:{last}: " in answer.err
    assert sentence in answer.err
    assert "Traceback" not in answer.err
    assert "hunter2" not in answer.err


@pytest.mark.usefixtures("quiet_root")
def test_debug_shows_the_traceback_without_secrets(toril: Toril, jobs_py: Path) -> None:
    jobs_py.write_text("raise RuntimeError('no answer from redis://:hunter2@h')\n")

    answer = toril("--debug", "worker", "jobs:app")

    assert "Traceback" in answer.err
    assert "hunter2" not in answer.err
