"""`toril flow`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from cli.running import Toril, claim_one, given, given_flow
from toril import Call
from toril.cli.output import Screen
from toril.model import Completed, Failed, Outcome, Settlement
from toril.options import ChildPolicy, JobOptions
from toril.store import Store

pytestmark = pytest.mark.usefixtures("home")


def call(id: str, queue: str, *children: Call, policy: ChildPolicy | None = None) -> Call:
    options: JobOptions = {"job_id": id}
    if policy is not None:
        options["parent_on_failure"] = policy
    return Call(id, None, options, queue, children)


WAIT = ChildPolicy.WAIT
REPORT = call(
    "report",
    "reports",
    call("page-1", "pages", policy=WAIT),
    call("section", "sections", call("figure-1", "figures", policy=WAIT), call("figure-2", "figures", policy=WAIT)),
)


def given_ended(home: Path, queue: str, *outcomes: Outcome) -> None:
    """The next jobs of a queue have run, and this is what became of them."""

    async def past(store: Store) -> None:
        for outcome in outcomes:
            await store.settle([Settlement(await claim_one(store, queue=queue), outcome)])

    given(home, past)


@pytest.fixture
def blocked(home: Path) -> None:
    """A report that waits for a page, which has failed, and for a section, which waits for a figure that has."""
    given_flow(home, REPORT)
    given_ended(home, "pages", Failed("no title"))
    given_ended(home, "figures", Completed(), Failed("disk full"))


@pytest.mark.usefixtures("blocked")
def test_a_flow_is_drawn_with_what_holds_it_up_and_the_next_step(toril: Toril) -> None:
    answer = toril("flow", "reports/report")

    waits = "(its parent waits until it is retried or removed)"
    assert answer.code == 0
    assert answer.out.splitlines() == [
        "◌ report reports/report waiting-children",
        f"├─ ✗ page-1 pages/page-1 failed: no title {waits}",
        "└─ ◌ section sections/section waiting-children",
        "   ├─ ✓ figure-1 figures/figure-1 completed",
        f"   └─ ✗ figure-2 figures/figure-2 failed: disk full {waits}",
        "",
        "2 jobs wait for 2 that failed:",
        "reports/report waits for pages/page-1.",
        "sections/section waits for figures/figure-2.",
        "`toril retry pages/page-1 figures/figure-2` runs them again.",
    ]


@pytest.mark.usefixtures("blocked")
def test_the_next_step_that_is_said_lets_the_flow_go_on(toril: Toril, home: Path) -> None:
    command = toril("flow", "reports/report").out.splitlines()[-1].split("`")[1]

    assert toril(*command.split()[1:]).code == 0
    given_ended(home, "pages", Completed())
    given_ended(home, "figures", Completed())
    given_ended(home, "sections", Completed())

    assert toril("flow", "reports/report").out.startswith("· report reports/report waiting\n├─ ✓ page-1")


@pytest.mark.usefixtures("blocked")
def test_part_of_a_flow_says_where_it_belongs(toril: Toril) -> None:
    said = toril("flow", "sections/section").out

    assert said.startswith("◌ section sections/section waiting-children\n├─ ✓ figure-1")
    assert "1 job waits for one that failed:\nsections/section waits for figures/figure-2.\n" in said
    assert "`toril retry figures/figure-2` runs it again." in said
    assert said.endswith("It is a child of reports/report: `toril flow reports/report` draws that.\n")


@pytest.mark.usefixtures("blocked")
def test_a_flow_is_drawn_as_deep_as_is_asked(toril: Toril) -> None:
    said = toril("flow", "reports/report", "--depth", "1").out

    assert "figure" not in said
    assert said.endswith("Drawn 1 level deep; what is below that, --depth 2 shows.\n")


@pytest.mark.usefixtures("blocked")
def test_programs_are_told_the_tree_and_what_is_blocked(toril: Toril) -> None:
    said = toril("flow", "reports/report", "--json").json

    page, section = said["flow"]["children"]
    assert (said["flow"]["record"]["state"], page["record"]["reason"], page["pending"]) == (
        "waiting-children",
        "no title",
        True,
    )
    assert [child["record"]["state"] for child in section["children"]] == ["completed", "failed"]
    assert [(found["parent"]["id"], found["child"]["id"]) for found in said["blocked"]] == [
        ("report", "page-1"),
        ("section", "figure-2"),
    ]


def test_a_flow_that_nothing_holds_up_has_nothing_below_it(toril: Toril, home: Path) -> None:
    given_flow(home, REPORT)

    assert len(toril("flow", "reports/report").out.splitlines()) == 5


def test_of_many_failed_jobs_the_first_ten_are_named(toril: Toril, home: Path) -> None:
    pages = [call(f"page-{n:02}", "pages", policy=WAIT) for n in range(12)]
    given_flow(home, call("report", "reports", *pages))
    given_ended(home, "pages", *[Failed("no title")] * 12)

    *waits, more, step = toril("flow", "reports/report").out.splitlines()[14:]

    assert waits[0] == "1 job waits for 12 that failed:"
    assert waits[1:] == [f"reports/report waits for pages/page-{n:02}." for n in range(10)]
    assert more == "… and 2 more."
    assert step.endswith(" pages/page-09` runs the first 10 again.")


def test_a_job_that_is_not_there_ends_with_1(toril: Toril) -> None:
    toril("add", "email", "a")

    answer = toril("flow", "email/nosuch")

    assert answer.code == 1
    assert answer.err.startswith("toril: there is no job email/nosuch")


@pytest.mark.usefixtures("blocked")
def test_on_a_narrow_screen_lines_are_cut_and_the_tree_keeps_its_shape(
    toril: Toril, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")

    drawn = toril("flow", "reports/report").out.splitlines()[:5]

    assert max(map(len, drawn)) == 40
    assert drawn[1] == "├─ ✗ page-1 pages/page-1 failed: no tit…"
    assert drawn[3] == "   ├─ ✓ figure-1 figures/figure-1 compl…"


def test_states_in_a_drawing_have_their_colour_and_jobs_cannot_command_the_terminal() -> None:
    out = io.StringIO()
    screen = Screen(out, io.StringIO(), colour=True, width=60)

    screen.drawn("├─ ✗ failed\x1b[31m\x1b[2J pages/1 failed: it has failed", "failed", after="pages/1")
    screen.drawn("├─ … 3 more")

    assert out.getvalue().splitlines() == [
        "├─ ✗ failed\\x1b[31m\\x1b[2J pages/1 \x1b[31mfailed\x1b[0m: it has failed",
        "├─ … 3 more",
    ]
