"""What holds for every command, `toril config` and `toril backoff`."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from cli.running import Toril, environment, given_job, run
from toril import __version__
from toril.cli.output import Screen
from toril.cli.times import ago, duration, iso, moment

pytestmark = pytest.mark.usefixtures("home")


def test_the_command_says_its_version(tmp_path: Path) -> None:
    answer = run(tmp_path, "--version")

    assert (answer.code, answer.out) == (0, f"toril {__version__}\n")


def test_without_a_command_the_help_is_shown_as_wrong_usage(toril: Toril) -> None:
    answer = toril()

    assert answer.code == 2
    assert "exit codes: 0 done" in answer.out


@pytest.mark.parametrize("arguments", [["nosuch"], ["status", "--nosuch"], ["jobs"], ["status", "--js"]])
def test_wrong_usage_ends_with_2(arguments: list[str], toril: Toril) -> None:
    assert toril(*arguments).code == 2


def test_options_for_every_command_may_stand_before_or_after_its_name(toril: Toril, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/other.db"
    toril("--url", url, "add", "email", "a", "--job-id", "j1")

    before, after = toril("--url", url, "why", "email/j1"), toril("why", "email/j1", "--url", url)

    assert (before.code, after.code) == (0, 0)
    assert toril("--url", "sqlite:///nosuch.db", "why", "email/j1", "--url", url).code == 0


def test_another_prefix_is_another_world(toril: Toril) -> None:
    toril("add", "email", "a", "--job-id", "j1", "--prefix", "shop")

    assert toril("why", "email/j1", "--prefix", "shop").code == 0
    assert toril("why", "email/j1").code == 1


def test_a_store_that_is_not_available_ends_with_4(toril: Toril, tmp_path: Path) -> None:
    answer = toril("add", "email", "a", "--url", f"sqlite:///{tmp_path}/nosuch/jobs.db")

    assert answer.code == 4
    assert "does not exist: create it" in answer.err
    assert "Traceback" not in answer.err


def test_an_error_is_one_sentence_unless_debug_is_wanted(toril: Toril) -> None:
    plain, debug = toril("status", "--url", "what"), toril("status", "--url", "what", "--debug")

    assert len(plain.err.splitlines()) == 1
    assert plain.err.startswith("toril: no store is known")
    assert "Traceback" in debug.err


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    for n in range(50):
        given_job(tmp_path, data="x" * 2000, job_id=f"j{n}")

    with subprocess.Popen(
        [sys.executable, "-m", "toril", "jobs", "email", "--json", "--limit", "50"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        said = process.stderr.read()

    assert (process.returncode, said) == (0, "")


# ------------------------------------------------------------------ config


def test_config_names_each_setting_its_value_and_its_origin(toril: Toril, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:hunter2@h:6379?token=hunter2")
    monkeypatch.setenv("WORKER_CONCURRENCY", "4")
    monkeypatch.setenv("EMAIL_WORKER_CONCURRENCY", "7")

    answer, as_json = toril("config"), toril("config", "--json")

    rows = [line.split(maxsplit=2) for line in answer.out.splitlines()]
    assert ["url", "redis://:***@h:6379?token=***", "REDIS_URL"] in rows
    assert ["worker_concurrency", "4", "WORKER_CONCURRENCY"] in rows
    assert ["prefix", "bull", "default"] in rows
    assert "EMAIL_WORKER_CONCURRENCY=7 sets queue email" in answer.out
    assert as_json.json["url"] == {"value": "redis://:***@h:6379?token=***", "origin": "REDIS_URL"}
    assert "hunter2" not in answer.out + as_json.out + answer.err


def test_config_still_answers_where_production_has_no_store(toril: Toril, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORIL_ENV", "production")

    answer = toril("config")

    assert answer.code == 0
    assert "In production this file is refused: set TORIL_URL." in answer.out


def test_a_setting_that_cannot_be_ends_every_command_with_2(toril: Toril, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_WORKERS", "perhaps")

    for command in (["config"], ["status"], ["add", "email", "a"]):
        answer = toril(*command)
        assert answer.code == 2
        assert "ENABLE_WORKERS must be true or false" in answer.err


# ------------------------------------------------------------------ backoff


@pytest.mark.claim("D-53", "C-76")
def test_five_attempts_have_four_waits_and_a_cap_may_be_out_of_reach(toril: Toril) -> None:
    answer = toril("backoff", "--attempts", "5", "--exponential", "30", "--max-delay", "600")

    assert [line.split(maxsplit=3)[3] for line in answer.out.splitlines()[:4]] == ["30 s", "1 min", "2 min", "4 min"]
    assert "5 attempts, 4 waits: the job fails for good after 7 min 30 s of waiting." in answer.out
    assert "The cap of 10 min is never reached: the longest wait is 4 min; 7 attempts would reach it." in answer.out


def test_a_cap_that_is_reached_is_not_spoken_of(toril: Toril) -> None:
    answer = toril("backoff", "--attempts", "7", "--exponential", "30", "--max-delay", "600")

    assert "cap" not in answer.out


@pytest.mark.claim("A-24", "B-37")
def test_three_attempts_are_two_waits_and_three_retries_are_three(toril: Toril) -> None:
    attempts = toril("backoff", "--attempts", "3", "--exponential", "1", "--json").json
    retries = toril("backoff", "--retries", "3", "--exponential", "1", "--json").json

    assert [wait["to_ms"] for wait in attempts["waits"]] == [1000, 2000]
    assert [wait["to_ms"] for wait in retries["waits"]] == [1000, 2000, 4000]


def test_jitter_gives_each_wait_a_shortest_and_a_longest(toril: Toril) -> None:
    answer = toril("backoff", "--attempts", "2", "--fixed", "10", "--jitter", "0.5")

    assert answer.out.splitlines()[0] == "after attempt 1   5 s to 10 s"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fixed", "1", "--max-delay", "2"],
        ["--jitter", "2", "--fixed", "1"],
        ["--attempts", "0"],
        ["--max-delay", "1"],
    ],
)
def test_a_backoff_that_cannot_be_is_wrong_usage(arguments: list[str], toril: Toril) -> None:
    assert toril("backoff", *arguments).code == 2


# ------------------------------------------------------------------ how things are written


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1500, "1.5 s"),
        (59_999, "60 s"),
        (60_000, "1 min"),
        (185_000, "3 min 5 s"),
        (7_380_000, "2 h 3 min"),
        (187_200_000, "2 d 4 h"),
    ],
)
def test_a_duration_is_written_in_its_two_largest_units(ms: int, text: str) -> None:
    assert duration(ms) == text


def test_a_moment_is_written_relative_and_absolute() -> None:
    now_ms = 1_700_000_000_000

    assert moment(now_ms - 180_000, now_ms) == "3 min ago (2023-11-14T22:10:20Z)"
    assert ago(now_ms + 5000, now_ms) == "in 5 s"
    assert ago(now_ms, now_ms) == "just now"
    assert iso(10**18) == f"{10**18} ms after 1970"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "no_color", "coloured"),
    [
        (Terminal(), {}, False, True),
        (Terminal(), {}, True, False),
        (Terminal(), {"NO_COLOR": "1"}, False, False),
        (Terminal(), {"NO_COLOR": ""}, False, True),
        (Terminal(), {"TERM": "dumb"}, False, False),
        (io.StringIO(), {}, False, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(
    stream: io.StringIO, environ: dict[str, str], no_color: bool, coloured: bool
) -> None:
    screen = Screen.of(stream, io.StringIO(), environ, no_color=no_color)

    assert (screen.state("failed") != "failed") is coloured


def test_sentences_are_folded_on_a_terminal_and_left_whole_in_a_pipe() -> None:
    sentence = "word " * 40
    narrow, pipe = io.StringIO(), io.StringIO()

    Screen(narrow, narrow, width=80).line(sentence, indent=2)
    Screen(pipe, pipe).line(sentence)

    assert max(map(len, narrow.getvalue().splitlines())) <= 80
    assert len(pipe.getvalue().splitlines()) == 1


def test_json_has_no_bare_control_character(toril: Toril, tmp_path: Path) -> None:
    given_job(tmp_path, name="\x9b2J\x7f", job_id="j1")

    answer = toril("show", "email/j1", "--json")

    assert "\x9b" not in answer.out
    assert answer.json["job"]["name"] == "\x9b2J\x7f"


def test_a_colour_that_a_job_asks_for_is_written_out_even_where_there_are_colours() -> None:
    terminal = Terminal()
    screen = Screen(terminal, terminal, colour=True)

    screen.table(["A", "STATE"], [["\x1b[31mx", "failed"]])

    assert terminal.getvalue().splitlines()[1] == "\\x1b[31mx  \x1b[31mfailed\x1b[0m"


# ------------------------------------------------------------------ interruptions, and what is loaded


def test_an_interrupted_command_ends_with_130(toril: Toril, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("toril.cli.config.run", interrupted)

    assert toril("config").code == 130


def test_only_the_demo_loads_the_demo(tmp_path: Path) -> None:
    code = (
        "import sys; from toril.cli.main import main; main(sys.argv[1:]); "
        "print('demo loaded:', 'toril.demo' in sys.modules)"
    )

    def said(*arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=True
        )
        return ended.stdout

    assert "demo loaded: False" in said("config")
    assert "demo loaded: True" in said("demo", "--help")
