"""When schedules are due: BullMQ's rules, as functions of numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest

from toril import Backoff, ConfigError, Queue, cron, every
from toril.model import JobRef, Schedule, ScheduleRecord
from toril.options import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Options
from toril.schedule import fingerprint, first_ms, is_broken, local, next_ms, preview
from toril.states import State
from toril.stores.sqlite.store import SqliteStore
from toril.timing import Missed, Overlap, Timing

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * SECOND_MS)


NOW_MS = ms(NOON)


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0, tz: str = "UTC") -> int:
    return ms(datetime(year, month, day, hour, minute, tzinfo=ZoneInfo(tz)))


def in_a_row(timing: Timing, count: int, now_ms: int = NOW_MS) -> list[int]:
    """The times of a schedule that is put now and never late, from now."""
    return [ms(moment) - now_ms for moment in preview(timing, count, now_ms)]


# ------------------------------------------------------------------ what people write


def test_a_pattern_is_in_utc_and_runs_missed_times_once_unless_told_otherwise() -> None:
    assert cron("0 9 * * *") == Timing(pattern="0 9 * * *", tz="UTC", missed=Missed.ONCE, overlap=Overlap.ALLOW)


def test_every_option_of_a_pattern_is_kept() -> None:
    end = NOON + timedelta(days=1)

    timing = cron("0 9 * * *", tz=BERLIN, limit=3, start=NOON, end=end, missed="all", overlap=Overlap.SKIP)

    assert timing == Timing(
        pattern="0 9 * * *",
        tz=BERLIN,
        limit=3,
        start_at_ms=NOW_MS,
        end_at_ms=NOW_MS + DAY_MS,
        missed=Missed.ALL,
        overlap=Overlap.SKIP,
    )
    assert cron("@daily", immediately=True) == Timing(pattern="@daily", tz="UTC", immediately=True)


def test_an_interval_is_in_seconds_or_a_timedelta() -> None:
    assert every(3600) == every(timedelta(hours=1)) == Timing(every_ms=HOUR_MS)
    assert every(0.25, offset=0.125) == Timing(every_ms=250, offset_ms=125)
    assert every(1, limit=2, start=NOON, end=NOON, missed="skip", overlap="queue") == Timing(
        every_ms=SECOND_MS,
        limit=2,
        start_at_ms=NOW_MS,
        end_at_ms=NOW_MS,
        missed=Missed.SKIP,
        overlap=Overlap.QUEUE,
    )


def test_a_moment_is_the_same_in_every_zone() -> None:
    start = NOON.astimezone(timezone(timedelta(hours=-5)))

    assert cron("0 9 * * *", start=start).start_at_ms == NOW_MS


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: cron("0 25 * * *"),
            "cron pattern '0 25 * * *': hour 25 is not allowed: it must be 0-23",
        ),
        (
            lambda: cron("0 9 * * *", tz="Europe/Berlim"),
            "there is no time zone 'Europe/Berlim': did you mean Europe/Berlin",
        ),
        (
            lambda: cron("0 9 * * *", immediately=True, start=NOON),
            "give immediately or start, not both: the first run is now, or not before then",
        ),
        (lambda: cron("0 9 * * *", limit=0), "limit must be a whole number from 1, not 0"),
        (lambda: every(1, limit=True), "limit must be a whole number from 1, not True"),
        (
            lambda: cron("0 9 * * *", start=datetime(2026, 1, 1)),
            "start must be a datetime with a time zone, not datetime.datetime(2026, 1, 1, 0, 0): use datetime.now(UTC) + …",
        ),
        (
            lambda: every(1, end=datetime(2026, 1, 1)),
            "end must be a datetime with a time zone, not datetime.datetime(2026, 1, 1, 0, 0): use datetime.now(UTC) + …",
        ),
        (lambda: cron("0 9 * * *", missed="never"), "missed is one of 'skip', 'once', 'all', not 'never'"),
        (lambda: every(1, overlap="forbid"), "overlap is one of 'allow', 'skip', 'queue', not 'forbid'"),
        (lambda: every(0), "the interval of a schedule must be at least 0.001 s, not 0"),
        (lambda: every(0.0004), "the interval of a schedule must be at least 0.001 s, not 0.0004"),
        (lambda: every(-1), "the interval of a schedule must be between 0 s and 100 years, not -1"),
        (lambda: every(60, offset=60), "offset must be less than the interval of 60 s, not 60"),
        (lambda: every(60, offset=-1), "offset must be between 0 s and 100 years, not -1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make: Callable[[], Timing], sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make()

    assert str(refused.value).startswith(sentence)


# ------------------------------------------------------------------ the first run


def test_a_patterns_first_run_is_its_next_time() -> None:
    assert first_ms(cron("0 9 * * *"), NOW_MS) == at(2026, 3, 11, 9)
    assert first_ms(cron("0 13 * * *"), NOW_MS) == NOW_MS + HOUR_MS


def test_a_time_that_is_now_is_not_next() -> None:
    assert first_ms(cron("0 12 * * *"), NOW_MS) == NOW_MS + DAY_MS
    assert first_ms(cron("0 12 * * *"), NOW_MS - 1) == NOW_MS


def test_a_pattern_may_begin_at_once() -> None:
    assert in_a_row(cron("0 9 * * *", immediately=True), 2) == [0, 21 * HOUR_MS]


def test_none_is_before_the_start() -> None:
    start = NOON + timedelta(days=2)

    assert first_ms(cron("0 * * * *", start=start), NOW_MS) == NOW_MS + 2 * DAY_MS + HOUR_MS
    assert first_ms(cron("0 * * * *", start=NOON - timedelta(days=2)), NOW_MS) == NOW_MS + HOUR_MS
    assert first_ms(every(3600, start=start), NOW_MS) == NOW_MS + 2 * DAY_MS
    assert first_ms(every(3600, start=NOON - timedelta(days=2)), NOW_MS) == NOW_MS


def test_an_interval_begins_now() -> None:
    assert in_a_row(every(3600), 3, NOW_MS + 7) == [0, HOUR_MS, 2 * HOUR_MS]


def test_an_interval_with_an_offset_begins_at_that_distance_from_the_full_interval() -> None:
    hourly = every(3600, offset=300)

    assert in_a_row(hourly, 2) == [300_000, HOUR_MS + 300_000]
    assert first_ms(hourly, NOW_MS + 299_999) == NOW_MS + 300_000
    assert first_ms(hourly, NOW_MS + 300_000) == NOW_MS + HOUR_MS + 300_000
    assert first_ms(every(3600, offset=0), NOW_MS + 7) == NOW_MS + 7  # BullMQ takes 0 for none


@pytest.mark.parametrize(
    "timing",
    [
        cron("0 9 * * *", end=NOON + timedelta(hours=20)),
        cron("0 9 * * *", immediately=True, end=NOON - timedelta(seconds=1)),
        every(3600, end=NOON - timedelta(seconds=1)),
        every(3600, offset=300, end=NOON + timedelta(minutes=4)),
        every(3600, start=NOON + timedelta(days=1), end=NOON + timedelta(hours=1)),
        cron("0 0 30,31 2,4 *", end=NOON + timedelta(days=10)),
    ],
)
def test_there_is_no_first_run_after_the_end(timing: Timing) -> None:
    assert first_ms(timing, NOW_MS) is None
    assert preview(timing, 3, NOW_MS) == []


def test_a_run_may_be_at_the_end_itself() -> None:
    assert in_a_row(every(3600, end=NOON + timedelta(hours=2)), 9) == [0, HOUR_MS, 2 * HOUR_MS]
    assert in_a_row(cron("0 * * * *", end=NOON + timedelta(hours=2)), 9) == [HOUR_MS, 2 * HOUR_MS]


# ------------------------------------------------------------------ the runs after it


@pytest.mark.parametrize(
    ("late_ms", "next_in_ms"),
    [
        (0, HOUR_MS),
        (HOUR_MS - 1, HOUR_MS),
        (HOUR_MS, HOUR_MS),  # due this moment
        (HOUR_MS + 1, 2 * HOUR_MS),
        (5 * HOUR_MS + 1, 6 * HOUR_MS),
    ],
)
def test_an_interval_that_is_late_goes_on_with_its_beat(late_ms: int, next_in_ms: int) -> None:
    first = NOW_MS + 7
    hourly = replace(every(3600), offset_ms=first % HOUR_MS)

    assert next_ms(hourly, first, first + late_ms) == first + next_in_ms


def test_a_pattern_that_is_late_leaves_out_what_has_passed() -> None:
    hourly = cron("0 * * * *")

    assert next_ms(hourly, NOW_MS, NOW_MS) == NOW_MS + HOUR_MS
    assert next_ms(hourly, NOW_MS, NOW_MS + 5 * HOUR_MS + 1) == NOW_MS + 6 * HOUR_MS


def test_a_run_that_is_early_does_not_bring_its_own_time_again() -> None:
    """One that was promoted by hand begins before its time."""
    assert next_ms(cron("0 13 * * *"), NOW_MS + HOUR_MS, NOW_MS) == NOW_MS + HOUR_MS + DAY_MS
    assert next_ms(every(3600), NOW_MS + HOUR_MS, NOW_MS) == NOW_MS + 2 * HOUR_MS


@pytest.mark.parametrize("timing", [cron("0 * * * *", missed="all"), every(3600, missed="all")])
def test_with_all_no_time_is_left_out_however_late(timing: Timing) -> None:
    assert next_ms(timing, NOW_MS, NOW_MS + 5 * HOUR_MS + 1) == NOW_MS + HOUR_MS


@pytest.mark.parametrize("missed", ["skip", "once", "all"])
def test_none_follows_after_the_end(missed: str) -> None:
    end = NOON + timedelta(hours=3)

    for timing in (cron("0 * * * *", end=end, missed=missed), every(3600, end=end, missed=missed)):
        assert next_ms(timing, NOW_MS + 2 * HOUR_MS, NOW_MS + 2 * HOUR_MS) == NOW_MS + 3 * HOUR_MS
        assert next_ms(timing, NOW_MS + 3 * HOUR_MS, NOW_MS + 3 * HOUR_MS) is None


def test_missed_runs_before_the_end_are_made_up_for_after_it() -> None:
    timing = cron("0 * * * *", end=NOON + timedelta(hours=3), missed="all")

    assert next_ms(timing, NOW_MS + 2 * HOUR_MS, NOW_MS + DAY_MS) == NOW_MS + 3 * HOUR_MS


# ------------------------------------------------------------------ days that are longer or shorter


@pytest.mark.parametrize(
    ("tz", "before", "hours"),
    [
        (BERLIN, (2026, 3, 28), 23),
        (BERLIN, (2026, 10, 24), 25),
        (NEW_YORK, (2026, 3, 7), 23),
        (NEW_YORK, (2026, 10, 31), 25),
        ("UTC", (2026, 3, 28), 24),
    ],
)
def test_nine_in_the_morning_stays_nine_when_the_clock_is_changed(
    tz: str, before: tuple[int, int, int], hours: int
) -> None:
    timing = cron("0 9 * * *", tz=tz)
    day_before = at(*before, 9, tz=tz)

    following = next_ms(timing, day_before, day_before)

    assert following is not None
    assert following == day_before + hours * HOUR_MS
    assert local(timing, following).strftime("%H:%M") == "09:00"


def test_a_time_that_the_clock_jumps_over_comes_an_hour_later_and_one_that_is_repeated_comes_once() -> None:
    timing = cron("30 2 * * *", tz=BERLIN)

    spring = preview(timing, 3, at(2026, 3, 28, tz=BERLIN))
    autumn = preview(timing, 3, at(2026, 10, 24, tz=BERLIN))

    assert [moment.isoformat() for moment in spring] == [
        "2026-03-28T02:30:00+01:00",
        "2026-03-29T03:30:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]
    assert [moment.isoformat() for moment in autumn] == [
        "2026-10-24T02:30:00+02:00",
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]


def test_an_interval_knows_no_time_zones() -> None:
    daily = every(timedelta(days=1))
    start_ms = at(2026, 3, 28, 9, tz=BERLIN)

    assert next_ms(daily, start_ms, start_ms) == start_ms + 24 * HOUR_MS


# ------------------------------------------------------------------ looking ahead


def test_a_preview_is_in_the_schedules_own_zone_and_no_longer_than_it_runs() -> None:
    timing = cron("0 9 * * *", tz=NEW_YORK, limit=2)

    assert [moment.isoformat() for moment in preview(timing, 5, NOW_MS)] == [
        "2026-03-10T09:00:00-04:00",
        "2026-03-11T09:00:00-04:00",
    ]
    assert len(preview(timing, 1, NOW_MS)) == 1
    assert [moment.isoformat() for moment in preview(every(60), 2, NOW_MS)] == [
        "2026-03-10T12:00:00+00:00",
        "2026-03-10T12:01:00+00:00",
    ]


def test_a_preview_draws_what_is_left_open_from_the_schedules_id() -> None:
    drawn = {seed: preview(cron("H H * * *"), 1, NOW_MS, seed)[0] for seed in ("a", "b", "c", "d")}

    assert len(set(drawn.values())) > 1
    assert preview(cron("H H * * *"), 1, NOW_MS, "a") == [drawn["a"]]


# ------------------------------------------------------------------ fingerprints


def schedule(**changes: Any) -> Schedule:
    known = Schedule("email", "digest", cron("0 9 * * *"), "digest", '{"to":"ada"}', Options(attempts=3))
    return replace(known, **changes)


def test_a_fingerprint_tells_declarations_apart() -> None:
    others = [
        schedule(timing=cron("0 9 * * *", tz=BERLIN)),
        schedule(timing=cron("0 9 * * *", limit=1)),
        schedule(timing=cron("0 9 * * *", missed="all")),
        schedule(timing=every(3600)),
        schedule(name="digests"),
        schedule(data="{}"),
        schedule(options=Options(attempts=4)),
        schedule(options=Options(attempts=3, backoff=Backoff.fixed(1))),
    ]

    assert len({fingerprint(schedule()), *map(fingerprint, others)}) == 1 + len(others)


def test_a_fingerprint_is_that_of_the_declaration_and_of_nothing_else() -> None:
    assert fingerprint(schedule()) == fingerprint(schedule(paused=True, declared="abc", queue="images"))


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    program = "from unit.test_schedule import fingerprint, schedule; print(fingerprint(schedule()))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"}

    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )

    assert printed.stdout.strip() == fingerprint(schedule())


# ------------------------------------------------------------------ standing still


def record(state: State | None, *, in_ms: int = HOUR_MS, count: int = 1, **changes: Any) -> ScheduleRecord:
    return ScheduleRecord(schedule(**changes), NOW_MS + in_ms, iterations=count, count=count, state=state)


def test_the_run_to_come_is_named_as_bullmq_names_it() -> None:
    assert record(None).iteration == JobRef("email", f"repeat:digest:{NOW_MS + HOUR_MS}")


@pytest.mark.parametrize(
    "state", [State.DELAYED, State.WAITING, State.PRIORITIZED, State.ACTIVE, State.WAITING_CHILDREN]
)
def test_a_schedule_whose_run_is_to_come_or_runs_is_sound(state: State) -> None:
    assert not is_broken(record(state, in_ms=-HOUR_MS), NOW_MS)


@pytest.mark.parametrize("in_ms", [-DAY_MS, HOUR_MS])
def test_a_schedule_whose_run_has_vanished_is_broken(in_ms: int) -> None:
    assert is_broken(record(None, in_ms=in_ms), NOW_MS)


@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED])
def test_a_schedule_whose_run_has_ended_without_one_that_follows_is_broken(state: State) -> None:
    assert is_broken(record(state, in_ms=-MINUTE_MS), NOW_MS)


def test_a_schedule_that_is_over_or_paused_is_not_broken() -> None:
    over = cron("0 9 * * *", end=NOON)

    assert not is_broken(record(State.COMPLETED, in_ms=-MINUTE_MS, timing=over), NOW_MS)
    assert not is_broken(record(None, in_ms=-DAY_MS, count=3, timing=cron("0 9 * * *", limit=3)), NOW_MS)
    assert not is_broken(record(None, paused=True), NOW_MS)


def test_an_interval_begins_at_an_offset_or_at_a_start() -> None:
    with pytest.raises(ConfigError, match=r"^give offset or start, not both"):
        every(3600, offset=300, start=datetime(2026, 1, 1, tzinfo=UTC))


def test_an_offset_that_is_longer_than_the_interval_counts_as_what_is_left_of_it() -> None:
    timing = Timing(every_ms=60_000, offset_ms=3_000_000)  # as an upsert leaves it that shortens the interval

    assert next_ms(timing, 0, 600_000) == 660_000


async def test_what_is_no_timing_is_refused() -> None:
    queue = Queue("email", SqliteStore(":memory:"))

    with pytest.raises(ConfigError, match=r"^the times of a schedule are made by cron\(…\) or every\(…\), not '0 9"):
        await queue.schedule("daily", cast("Timing", "0 9 * * *"))
