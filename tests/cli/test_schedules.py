"""`toril schedules`."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from cli.running import Toril, claim_one, given
from cli.test_status import NOW_MS
from toril import Queue, cron, every
from toril.cli.schedules import lines, standing, when
from toril.model import Completed, Schedule, ScheduleRecord, Settlement
from toril.options import HOUR_MS
from toril.schedule import preview
from toril.states import State
from toril.store import Store
from toril.timing import Timing

pytestmark = pytest.mark.usefixtures("home")

NIGHTLY = """
from datetime import UTC, datetime
from toril import App, cron, every

app = App()
email = app.queue("email")


@email.handler("nightly", schedule=cron("0 3 * * *", tz="Europe/Berlin", missed="skip", overlap="queue"))
async def nightly() -> None: ...
"""
SWEEP = """

@email.handler("sweep", schedule=every(3600, limit=10))
async def sweep() -> None: ...
"""
OVER = """

@email.handler("over", schedule=every(3600, end=datetime(2020, 1, 1, tzinfo=UTC)))
async def over() -> None: ...
"""


class Code:
    """The module `jobs`, which may say something else each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def says(self, text: str) -> None:
        self._path.write_text(text)
        sys.modules.pop("jobs", None)


@pytest.fixture
def code(jobs_py: Path, monkeypatch: pytest.MonkeyPatch) -> Code:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Code(jobs_py)


def given_schedule(home: Path, id: str, timing: Timing, queue: str = "email") -> None:
    """A schedule that somebody has made by hand."""

    async def past(store: Store) -> None:
        await Queue(queue, store).schedule(id, timing)

    given(home, past)


def given_run(home: Path) -> None:
    """The next run of `email` has ended, and whoever took it has made none after it."""

    async def past(store: Store) -> None:
        await store.settle([Settlement(await claim_one(store), Completed())])

    given(home, past)


def ids(home: Path) -> list[str]:
    async def past(store: Store) -> list[str]:
        return sorted(record.schedule.id for record in await store.schedules())

    return given(home, past)


# ------------------------------------------------------------------ list


def test_schedules_are_listed_with_when_they_run_and_who_made_them(toril: Toril, home: Path, code: Code) -> None:
    code.says(NIGHTLY)
    toril("schedules", "put", "jobs:app")
    given_schedule(home, "sweep", every(3600, start=datetime.now(UTC) + timedelta(minutes=30, seconds=30)))

    answer = toril("schedules")

    head, *rows = answer.out.splitlines()
    sweep = next(row for row in rows if " sweep " in row)
    nightly = next(row for row in rows if " nightly " in row)
    assert answer.code == 0
    assert head.split() == ["QUEUE", "ID", "WHEN", "NEXT", "RUN", "RUNS", "BY", "STATE"]
    assert sweep.startswith("email  sweep    every 1 h                in 30 min ")
    assert sweep.split()[-3:] == ["0", "hand", "ok"]
    assert nightly.startswith("email  nightly  0 3 * * * Europe/Berlin  in ")
    assert nightly.split()[-3:] == ["0", "code", "ok"]
    assert rows[rows.index(nightly) + 1] == "  missed skip; overlap queue"


def test_list_may_be_said_and_a_queue_may_be_named(toril: Toril, home: Path) -> None:
    given_schedule(home, "sweep", cron("0 3 * * *"))
    given_schedule(home, "list", cron("0 3 * * *"), queue="other")

    assert toril("schedules", "list").out == toril("schedules").out
    assert [found["id"] for found in toril("schedules", "email", "--json").json["schedules"]] == ["sweep"]
    assert [found["id"] for found in toril("schedules", "list", "other", "--json").json["schedules"]] == ["list"]
    assert toril("schedules", "--url", f"sqlite:///{home / 'toril.db'}").out == toril("schedules").out


def test_programs_are_told_the_same(toril: Toril, home: Path) -> None:
    given_schedule(home, "sweep", cron("0 3 * * *", tz="Asia/Tokyo", limit=3))

    said = toril("schedules", "--json").json
    (found,) = said["schedules"]

    assert {name: found[name] for name in ("queue", "id", "when", "state", "runs", "declared")} == {
        "queue": "email",
        "id": "sweep",
        "when": "0 3 * * * Asia/Tokyo",
        "state": "ok",
        "runs": 0,
        "declared": False,
    }
    assert found["schedule"]["timing"]["limit"] == 3
    assert 0 < found["next_at_ms"] - said["at_ms"] <= 24 * HOUR_MS


def test_a_schedule_whose_run_was_taken_and_not_followed_is_broken(toril: Toril, home: Path) -> None:
    given_schedule(home, "sweep", every(3600))
    given_run(home)

    row, below = toril("schedules").out.splitlines()[1:]

    assert row.split()[-3:] == ["1", "hand", "broken"]
    assert below == "  it has no run to come: `toril doctor --repair` makes it"


def test_a_schedule_after_its_last_run_is_over(toril: Toril, home: Path) -> None:
    given_schedule(home, "once", every(3600, limit=1))
    given_run(home)

    row, below = toril("schedules").out.splitlines()[1:]

    assert row.split()[-4:] == ["-", "1", "hand", "over"]
    assert below == "  1 of 1 run since it was put"


def test_no_schedules_and_no_queue_are_said(toril: Toril) -> None:
    toril("add", "email", "a")

    assert toril("schedules").out.startswith("There are no schedules: code declares them")
    assert toril("schedules", "email").out.startswith("There are no schedules of queue email: code")
    unknown = toril("schedules", "emial")
    assert (unknown.code, unknown.err) == (1, "toril: there is no queue 'emial': known are email\n")


RECORD = ScheduleRecord(Schedule("email", "sweep", every(3600), "sweep"), NOW_MS + HOUR_MS, 2, 2)


@pytest.mark.parametrize(
    ("record", "stands"),
    [
        (replace(RECORD, state=State.DELAYED), "ok"),
        (replace(RECORD, state=State.ACTIVE), "ok"),
        (replace(RECORD, state=State.WAITING_CHILDREN), "ok"),
        (RECORD, "broken"),
        (replace(RECORD, next_at_ms=NOW_MS - 1), "broken"),
        (replace(RECORD, next_at_ms=NOW_MS - 1, state=State.FAILED), "broken"),
        (replace(RECORD, schedule=replace(RECORD.schedule, paused=True)), "paused"),
        (
            replace(RECORD, schedule=replace(RECORD.schedule, timing=every(3600, limit=2)), state=State.COMPLETED),
            "over",
        ),
    ],
)
def test_a_schedule_stands_well_or_not(record: ScheduleRecord, stands: str) -> None:
    assert standing(record, NOW_MS) == stands


def test_when_is_told_with_the_zone_of_a_pattern() -> None:
    assert [when(cron("0 9 * * 1")), when(cron("@daily", tz="Asia/Tokyo")), when(every(90))] == [
        "0 9 * * 1 UTC",
        "@daily Asia/Tokyo",
        "every 1 min 30 s",
    ]


# ------------------------------------------------------------------ one schedule


def test_a_schedule_is_paused_and_goes_on(toril: Toril, home: Path) -> None:
    given_schedule(home, "sweep", cron("0 3 * * *"))

    paused = toril("schedules", "pause", "email", "sweep")
    assert paused.code == 0
    assert "email/sweep is paused: it makes no more runs until `toril schedules resume email sweep`." in paused.out
    assert toril("schedules").out.splitlines()[1].split()[-4:] == ["-", "0", "hand", "paused"]
    assert "it is paused, or over" in toril("schedules", "preview", "email", "sweep").out

    resumed = toril("schedules", "resume", "email", "sweep")
    assert resumed.code == 0
    assert "email/sweep goes on: its next run is " in resumed.out
    assert toril("schedules").out.splitlines()[1].split()[-3:] == ["0", "hand", "ok"]


def test_the_job_of_a_schedule_is_added_now_besides_its_runs(toril: Toril, home: Path) -> None:
    given_schedule(home, "sweep", cron("0 3 * * *"))

    answer = toril("schedules", "run", "email", "sweep")

    added, _, _ = answer.out.partition(" ")
    jobs = toril("jobs", "email", "--json").json["jobs"]
    assert answer.code == 0
    assert [(job["name"], job["state"]) for job in jobs] == [("sweep", "waiting"), ("sweep", "delayed")]
    assert added == f"email/{jobs[0]['ref']['id']}"
    assert "schedule    sweep" in toril("show", f"email/{jobs[1]['ref']['id']}").out
    assert "schedule" not in toril("show", added).out


def test_a_schedule_is_removed(toril: Toril, home: Path) -> None:
    given_schedule(home, "sweep", cron("0 3 * * *"))

    answer = toril("schedules", "remove", "email", "sweep")

    assert (answer.code, answer.out) == (
        0,
        "email/sweep is removed; a run that waits for a worker, or has begun, goes on\n",
    )
    assert ids(home) == []


def test_who_removes_a_declared_schedule_hears_that_it_comes_again(toril: Toril, home: Path, code: Code) -> None:
    code.says(NIGHTLY)
    toril("schedules", "put", "jobs:app")

    answer = toril("schedules", "remove", "email", "nightly")

    assert ids(home) == []
    assert "the next start of a worker puts it again" in answer.out


@pytest.mark.parametrize("action", ["pause", "resume", "run", "remove", "preview"])
def test_a_schedule_that_is_not_there_ends_with_1(action: str, toril: Toril) -> None:
    toril("add", "email", "a")

    answer = toril("schedules", action, "email", "nosuch")

    assert answer.code == 1
    assert answer.err == "toril: queue 'email' has no schedule 'nosuch': `toril schedules` lists those there are\n"


# ------------------------------------------------------------------ what code declares


def test_what_is_declared_is_put_and_what_became_of_it_is_said(toril: Toril, home: Path, code: Code) -> None:
    code.says(NIGHTLY + SWEEP)

    put, again = toril("schedules", "put", "jobs:app"), toril("schedules", "put", "jobs:app")

    nightly, sweep = put.out.splitlines()
    assert (put.code, again.code) == (0, 0)
    assert nightly.startswith("email/nightly (0 3 * * * Europe/Berlin) is put as it is declared: its next run is ")
    assert sweep.startswith("email/sweep (every 1 h) is put as it is declared: its next run is ")
    assert again.out.count("is there already as it is declared") == 2
    assert ids(home) == ["nightly", "sweep"]


def test_put_puts_an_older_version_that_workers_would_let_alone(toril: Toril, home: Path, code: Code) -> None:
    for text in (NIGHTLY, NIGHTLY.replace("0 3", "0 4"), NIGHTLY):
        code.says(text)
        assert "is put as it is declared" in toril("schedules", "put", "jobs:app").out

    assert toril("schedules", "--json").json["schedules"][0]["when"] == "0 3 * * * Europe/Berlin"


def test_what_operators_have_paused_stays_paused(toril: Toril, code: Code) -> None:
    code.says(NIGHTLY)
    toril("schedules", "put", "jobs:app")
    toril("schedules", "pause", "email", "nightly")
    code.says(NIGHTLY.replace("0 3", "0 4"))

    answer = toril("schedules", "put", "jobs:app")

    assert (
        answer.out == "email/nightly (0 4 * * * Europe/Berlin) is put as it is declared; it is paused, and stays so\n"
    )


def test_a_schedule_that_cannot_be_put_leaves_the_others(toril: Toril, home: Path, code: Code) -> None:
    code.says(NIGHTLY + OVER + SWEEP)

    answer = toril("schedules", "put", "jobs:app")

    assert answer.code == 1
    assert "email/over is not put: the schedule 'over' has no run to come" in answer.err
    assert ids(home) == ["nightly", "sweep"]


def test_an_app_that_declares_none_is_told_how(toril: Toril, jobs_py: Path) -> None:
    answer = toril("schedules", "put", "jobs:app")

    assert (answer.code, answer.out) == (0, "The app declares no schedules: @queue.handler(schedule=…) does.\n")
    assert not jobs_py.with_name("toril.db").exists()


@pytest.fixture
def undeclared(toril: Toril, home: Path, code: Code) -> None:
    """Two schedules that were declared, of which the code has one no more, and one that was made by hand."""
    code.says(NIGHTLY + SWEEP)
    toril("schedules", "put", "jobs:app")
    given_schedule(home, "by-hand", cron("0 3 * * *"))
    given_schedule(home, "elsewhere", cron("0 3 * * *"), queue="other")
    code.says(NIGHTLY)


@pytest.mark.usefixtures("undeclared")
def test_prune_shows_what_it_would_remove_and_asks(toril: Toril, home: Path) -> None:
    answer = toril("schedules", "prune", "jobs:app", given="y\n", terminal=True)

    shown, _, done = answer.out.partition("Remove 1 schedule? [y/N]\n")
    assert answer.code == 0
    assert shown.splitlines()[1:] == ["QUEUE  ID     WHEN", "email  sweep  every 1 h"]
    assert shown.startswith(f"Declared once and no more, in sqlite {home / 'toril.db'}, prefix bull (default):")
    assert done == "1 schedule removed; runs that wait for a worker, or have begun, go on\n"
    assert ids(home) == ["by-hand", "elsewhere", "nightly"]


@pytest.mark.usefixtures("undeclared")
def test_prune_changes_nothing_without_a_yes(toril: Toril, home: Path) -> None:
    answer = toril("schedules", "prune", "jobs:app", given="n\n", terminal=True)

    assert answer.code == 0
    assert answer.out.endswith("Nothing was changed.\n")
    assert len(ids(home)) == 4


@pytest.mark.usefixtures("undeclared")
def test_prune_refuses_where_nobody_can_be_asked(toril: Toril, home: Path) -> None:
    answer = toril("schedules", "prune", "jobs:app", given="y\n")

    assert answer.code == 2
    assert answer.err == "toril: nobody is there to be asked: add --yes to remove 1 schedule\n"
    assert len(ids(home)) == 4


@pytest.mark.usefixtures("undeclared")
def test_prune_asks_nobody_when_told_yes(toril: Toril, home: Path) -> None:
    answer = toril("schedules", "prune", "jobs:app", "--yes")

    assert answer.code == 0
    assert "[y/N]" not in answer.out
    assert "sweep" not in ids(home)
    assert toril("schedules", "prune", "jobs:app").out.startswith("There is nothing to prune: every schedule")


def test_schedules_on_redis_are_put_paused_and_pruned_too(toril: Toril, code: Code, redis_url: str) -> None:
    place = ["--url", redis_url, "--prefix", f"test-{uuid.uuid4().hex}"]

    def rows() -> list[list[str]]:
        return [line.split()[-3:] for line in toril("schedules", *place).out.splitlines()[1::2]]

    code.says(NIGHTLY)
    toril("schedules", "put", "jobs:app", *place)
    assert rows() == [["0", "code", "ok"]]
    toril("schedules", "pause", "email", "nightly", *place)
    assert rows() == [["0", "code", "paused"]]
    toril("schedules", "resume", "email", "nightly", *place)
    assert rows() == [["0", "code", "ok"]]
    code.says(NIGHTLY.replace('"nightly"', '"daily"'))
    assert "1 schedule removed" in toril("schedules", "prune", "jobs:app", "--yes", *place).out
    assert rows() == []


def test_there_is_nothing_to_prune_where_there_is_no_file(toril: Toril, jobs_py: Path) -> None:
    answer = toril("schedules", "prune", "jobs:app")

    assert answer.code == 0
    assert answer.out.startswith("There is nothing to prune: there is no file ")
    assert not jobs_py.with_name("toril.db").exists()


# ------------------------------------------------------------------ preview


def test_a_pattern_is_previewed_without_any_store(toril: Toril, home: Path) -> None:
    answer = toril("schedules", "preview", "--cron", "30 2 * * 1", "--tz", "Asia/Tokyo", "-n", "3")

    assert answer.code == 0
    assert [line[:4] for line in answer.out.splitlines()] == ["1. M", "2. M", "3. M"]
    assert all(" 02:30:00+09:00  in " in line for line in answer.out.splitlines())
    assert list(home.iterdir()) == []


def test_an_interval_is_previewed_too(toril: Toril) -> None:
    said = toril("schedules", "preview", "--every", "90", "--json").json

    assert [time["at_ms"] - said["at_ms"] for time in said["times"]] == [0, 90_000, 180_000, 270_000, 360_000]


def test_a_schedule_is_previewed_in_any_zone(toril: Toril, home: Path) -> None:
    given_schedule(home, "sweep", cron("0 3 * * *", tz="UTC"))

    own = toril("schedules", "preview", "email", "sweep", "-n", "2").out.splitlines()
    there = toril("schedules", "preview", "email", "sweep", "--tz", "Asia/Tokyo").out.splitlines()

    assert [" 03:00:00+00:00  in " in line for line in own] == [True, True]
    assert [" 12:00:00+09:00  in " in line for line in there] == [True] * 5


def test_a_pattern_that_never_matches_is_said_to(toril: Toril) -> None:
    answer = toril("schedules", "preview", "--cron", "0 0 31 4,6 *")

    assert (answer.code, answer.out) == (0, "There is no run to come: no day matches.\n")


def test_drawn_values_are_said_to_differ_by_schedule(toril: Toril) -> None:
    answer = toril("schedules", "preview", "--cron", "H 3 * * *")

    assert answer.out.endswith("H is drawn from the id of a schedule: each has times of its own.\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name a schedule as QUEUE ID, or give one of --cron PATTERN and --every SECONDS"),
        (["email"], "name a schedule as QUEUE ID"),
        (["email", "--every", "5"], "name a schedule as QUEUE ID"),
        (["email", "sweep", "--every", "5"], "name a schedule as QUEUE ID"),
        (["--cron", "* * * * *", "--every", "5"], "name a schedule as QUEUE ID"),
        (["--cron", "61 * * * *"], "minute 61 is not allowed: it must be 0-59"),
        (["--cron", "* * * * *", "--tz", "Berlin"], "did you mean Europe/Berlin?"),
        (["--every", "0"], "the interval of a schedule must be at least"),
    ],
)
def test_what_cannot_be_previewed_ends_with_2(arguments: Sequence[str], sentence: str, toril: Toril) -> None:
    answer = toril("schedules", "preview", *arguments)

    assert answer.code == 2
    assert sentence in answer.err


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("put_at", "said"),
    [
        (
            datetime(2026, 3, 28, 0, tzinfo=BERLIN),
            [
                "1. Sat 2026-03-28 02:30:00+01:00  in 2 h 30 min",
                "   the clocks are put forward by 1 h",
                "2. Sun 2026-03-29 03:30:00+02:00  in 1 d 2 h",
                "3. Mon 2026-03-30 02:30:00+02:00  in 2 d 1 h",
            ],
        ),
        (
            datetime(2026, 10, 25, 0, tzinfo=BERLIN),
            [
                "1. Sun 2026-10-25 02:30:00+02:00  in 2 h 30 min",
                "   the clocks are put back by 1 h",
                "2. Mon 2026-10-26 02:30:00+01:00  in 1 d 3 h",
                "3. Tue 2026-10-27 02:30:00+01:00  in 2 d 3 h",
            ],
        ),
    ],
)
def test_a_change_of_the_clocks_between_two_times_is_marked(put_at: datetime, said: list[str]) -> None:
    now_ms = round(put_at.timestamp() * 1000)
    times = preview(cron("30 2 * * *", tz="Europe/Berlin"), 3, now_ms)

    assert list(lines(times, now_ms)) == said


def test_parts_of_a_second_are_shown_where_they_matter() -> None:
    whole, parts = preview(every(60), 2, NOW_MS + 250), preview(every(0.5), 2, NOW_MS)

    assert [line[:26] for line in lines(whole, NOW_MS)] == ["1. Tue 2023-11-14 22:13:20", "2. Tue 2023-11-14 22:14:20"]
    assert [line[18:30] for line in lines(parts, NOW_MS)] == ["22:13:20.000", "22:13:20.500"]
