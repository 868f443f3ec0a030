"""What a cron pattern is, and when it fires."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import cast
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.crontab import Pattern, check_tz, parse
from toril.errors import ConfigError
from toril.options import DAY_MS, MINUTE_MS, SECOND_MS

BERLIN, NEW_YORK, SANTIAGO = "Europe/Berlin", "America/New_York", "America/Santiago"
LORD_HOWE, CASABLANCA = "Australia/Lord_Howe", "Africa/Casablanca"


def ms(text: str, tz: str = "UTC") -> int:
    """What the clocks of a zone show, in ms; it may have an offset, too."""
    at = datetime.fromisoformat(text)
    return round((at if at.tzinfo else at.replace(tzinfo=ZoneInfo(tz))).timestamp() * 1000)


def fires(text: str, after: str, tz: str = "UTC", *, times: int = 3, seed: str = "") -> list[str]:
    """The next times, as the clocks of the zone show them, with their distance from UTC."""
    pattern = parse(text, seed=seed)
    found: list[str] = []
    at_ms: int | None = ms(after, tz)
    for _ in range(times):
        assert at_ms is not None
        at_ms = pattern.next_ms(at_ms, tz)
        found.append(
            "never" if at_ms is None else f"{datetime.fromtimestamp(at_ms / 1000, ZoneInfo(tz)):%m-%d %H:%M%z}"
        )
    return found


def days(text: str, after: str = "2026-01-01T00:00:01", *, times: int = 3) -> list[str]:
    return [time.split(" ")[0] for time in fires(text, after, times=times)]


# ------------------------------------------------------------------ times


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("* * * * *", "2026-01-15T10:18:00"),
        ("* * * * * *", "2026-01-15T10:17:24"),
        ("*/5 * * * *", "2026-01-15T10:20:00"),
        ("5/20 * * * *", "2026-01-15T10:25:00"),
        ("10-20/3 * * * *", "2026-01-15T10:19:00"),
        ("30 9 * * *", "2026-01-16T09:30:00"),
        ("0 9 * * 1-5", "2026-01-16T09:00:00"),
        ("0 9 * * MON", "2026-01-19T09:00:00"),
        ("0 9 * feb,mar *", "2026-02-01T09:00:00"),
        ("15 30 9 1 1 *", "2027-01-01T09:30:15"),
        ("? ? ? ? ?", "2026-01-15T10:18:00"),
        ("*/100 * * * *", "2026-01-15T11:00:00"),
        (" 0\t0  1 * *\n", "2026-02-01T00:00:00"),
    ],
)
def test_a_pattern_fires_first_strictly_after_a_time(text: str, first: str) -> None:
    assert parse(text).next_ms(ms("2026-01-15T10:17:23.500")) == ms(first)
    assert parse(text).next_ms(ms(first) - 1) == ms(first)
    assert cast(int, parse(text).next_ms(ms(first))) > ms(first)


@pytest.mark.parametrize(
    ("nickname", "pattern"),
    [
        ("@yearly", "0 0 0 1 1 *"),
        ("@annually", "0 0 0 1 1 *"),
        ("@monthly", "0 0 0 1 * *"),
        ("@weekly", "0 0 0 * * 0"),
        ("@daily", "0 0 0 * * *"),
        ("@hourly", "0 0 * * * *"),
        ("@minutely", "0 * * * * *"),
        ("@secondly", "* * * * * *"),
        ("@weekdays", "0 0 0 * * 1-5"),
        ("@weekends", "0 0 0 * * 0,6"),
    ],
)
def test_a_nickname_stands_for_a_pattern(nickname: str, pattern: str) -> None:
    assert fires(nickname, "2026-01-02T23:59:58", times=6) == fires(pattern, "2026-01-02T23:59:58", times=6)


@pytest.mark.parametrize(("short", "whole"), [("5", "* * * * 5"), ("5 6", "* * * 5 6"), ("1 2 3", "* * 1 2 3")])
def test_what_is_left_out_on_the_left_is_any(short: str, whole: str) -> None:
    assert fires(short, "2026-01-01T00:00") == fires(whole, "2026-01-01T00:00")


def test_sunday_is_0_and_7() -> None:
    for text in ("0 0 * * 0", "0 0 * * 7", "0 0 * * sun", "0 0 * * 7-7", "0 0 * * */7"):
        assert days(text) == ["01-04", "01-11", "01-18"], text
    assert days("0 0 * * 6-7") == ["01-03", "01-04", "01-10"]


def test_days_are_counted_from_the_end_of_a_month() -> None:
    assert days("0 0 L * *") == ["01-31", "02-28", "03-31"]
    assert days("0 0 L 2 *", "2026-03-01", times=2) == ["02-28", "02-29"]
    assert days("0 0 * * 5L") == ["01-30", "02-27", "03-27"]
    assert days("0 0 * * FRIL,7L") == ["01-25", "01-30", "02-22"]


def test_days_are_counted_by_their_number_in_a_month() -> None:
    assert days("0 0 * * 1#2") == ["01-12", "02-09", "03-09"]
    assert days("0 0 * * WED#5") == ["04-29", "07-29", "09-30"]


def test_either_day_is_enough_when_both_are_told() -> None:
    assert days("0 0 13 * FRI") == ["01-02", "01-09", "01-13"]
    assert days("0 0 L * 1#2") == ["01-12", "01-31", "02-09"]
    assert days("0 0 13 * ?") == days("0 0 13 * *") == ["01-13", "02-13", "03-13"]
    assert days("0 0 ? * FRI") == days("0 0 * * FRI") == ["01-02", "01-09", "01-16"]
    assert days("0 0 */1 * FRI") == ["01-02", "01-03", "01-04"]  # told, though it is every day


def test_rare_days_are_found_and_days_that_never_come_are_not() -> None:
    assert parse("0 0 * 2 MON#5").next_ms(ms("2026-01-01")) == ms("2044-02-29")
    assert parse("0 0 29 2 *").next_ms(ms("2096-03-01")) == ms("2104-02-29")
    assert parse("0 0 31 2,4,6,9,11 *").next_ms(ms("2026-01-01")) is None


def test_there_is_nothing_after_the_last_year() -> None:
    assert parse("* * * * *").next_ms(ms("9999-12-31")) is None
    assert parse("@yearly").next_ms(10**20, BERLIN) is None
    assert parse("@secondly").next_ms(-(10**20)) is not None


def test_a_year_of_five_minutes_has_each_of_them() -> None:
    pattern, at, end = parse("*/5 * * * *"), ms("2026-01-01", BERLIN), ms("2027-01-01", BERLIN)
    count = 0
    while at < end:
        assert pattern.next_ms(at, BERLIN) == at + 5 * MINUTE_MS
        at += 5 * MINUTE_MS
        count += 1
    assert count == 365 * 288


@given(st.integers(0, 4_000_000_000_000), st.sampled_from([BERLIN, SANTIAGO, CASABLANCA, LORD_HOWE, "UTC"]))
def test_every_second_fires_each_second_wherever_the_clocks_are(after_ms: int, tz: str) -> None:
    assert parse("@secondly").next_ms(after_ms, tz) == after_ms - after_ms % SECOND_MS + SECOND_MS


@given(
    st.sampled_from(["30 9 * * *", "0 4 L * *", "15 12 * * 1#2", "*/7 5-8 * 3,10 *", "5 5 5 5 * 5"]),
    st.integers(0, 4_000_000_000_000),
    st.sampled_from([BERLIN, NEW_YORK, SANTIAGO, CASABLANCA, LORD_HOWE]),
)
def test_whoever_asks_between_two_times_is_told_the_second(text: str, after_ms: int, tz: str) -> None:
    pattern = parse(text)
    first = cast(int, pattern.next_ms(after_ms, tz))
    second = cast(int, pattern.next_ms(first, tz))

    assert after_ms < first < second
    assert pattern.next_ms((after_ms + first) // 2, tz) == first
    assert pattern.next_ms((first + second) // 2, tz) == second


# ------------------------------------------------------------------ where clocks change


def test_what_the_clock_skips_fires_as_much_later_as_it_jumps() -> None:
    assert fires("30 2 * * *", "2026-03-28T12:00", BERLIN, times=2) == ["03-29 03:30+0200", "03-30 02:30+0200"]
    assert fires("30 2 * * *", "2026-03-07T12:00", NEW_YORK, times=2) == ["03-08 03:30-0400", "03-09 02:30-0400"]
    assert fires("30 2 * * *", "2026-03-21T12:00", CASABLANCA, times=2) == ["03-22 03:30+0100", "03-23 02:30+0100"]


def test_what_the_clock_skips_is_made_up_for_once() -> None:
    assert fires("15,45 2 * * *", "2026-03-28T12:00", BERLIN, times=2) == ["03-29 03:15+0200", "03-30 02:15+0200"]
    assert fires("30 2,3 * * *", "2026-03-28T12:00", BERLIN, times=2) == ["03-29 03:30+0200", "03-30 02:30+0200"]
    assert fires("0 */2 * * *", "2026-03-29T00:00", BERLIN) == [
        "03-29 03:00+0200",
        "03-29 04:00+0200",
        "03-29 06:00+0200",
    ]


def test_who_asks_after_the_jump_is_told_what_the_clocks_show() -> None:
    assert fires("30 2 * * *", "2026-03-29T03:00", BERLIN, times=1) == ["03-30 02:30+0200"]


def test_what_a_jump_at_midnight_skips_is_made_up_for_only_from_the_hour_before() -> None:
    assert fires("0 0 * * *", "2026-09-05T12:00", SANTIAGO, times=1) == ["09-07 00:00-0300"]
    assert fires("15 0,23 * * *", "2026-09-05T23:30", SANTIAGO, times=2) == ["09-06 01:15-0300", "09-06 23:15-0300"]
    assert fires("15 0,23 6 9 *", "2026-09-05T23:30", SANTIAGO, times=1) == ["09-06 23:15-0300"]


def test_what_the_clock_repeats_fires_the_first_time() -> None:
    assert fires("30 2 * * *", "2026-10-24T12:00", BERLIN, times=2) == ["10-25 02:30+0200", "10-26 02:30+0100"]
    assert fires("30 23 * * *", "2026-04-04T12:00", SANTIAGO, times=2) == ["04-04 23:30-0300", "04-05 23:30-0400"]
    assert fires("*/30 1-3 * * *", "2026-10-25T02:15", BERLIN) == [
        "10-25 02:30+0200",
        "10-25 03:00+0100",
        "10-25 03:30+0100",
    ]


def test_who_asks_in_the_hour_that_is_repeated_is_told_what_the_clocks_show() -> None:
    assert fires("30 2 * * *", "2026-10-25T02:10+01:00", BERLIN, times=1) == ["10-25 02:30+0100"]


@pytest.mark.parametrize("hours", ["*", "?", "*/1", "0-23"])
def test_a_pattern_of_every_hour_fires_in_the_hour_that_is_repeated(hours: str) -> None:
    assert fires(f"30 {hours} * * *", "2026-10-25T01:45", BERLIN) == [
        "10-25 02:30+0200",
        "10-25 02:30+0100",
        "10-25 03:30+0100",
    ]


def test_an_hour_that_is_repeated_at_the_end_of_a_day_belongs_to_the_day() -> None:
    assert fires("30 * 4 4 *", "2026-04-04T22:45", SANTIAGO) == [
        "04-04 23:30-0300",
        "04-04 23:30-0400",
        "04-04 00:30-0400",
    ]


def test_clocks_that_change_by_half_an_hour_follow_the_same_rules() -> None:
    assert fires("0 2 * * *", "2026-10-03T12:00", LORD_HOWE, times=2) == ["10-04 02:30+1100", "10-05 02:00+1100"]
    assert fires("15,40 2 * * *", "2026-10-03T12:00", LORD_HOWE) == [
        "10-04 02:40+1100",
        "10-05 02:15+1100",
        "10-05 02:40+1100",
    ]
    assert fires("0 * * * *", "2026-10-04T01:00", LORD_HOWE, times=2) == ["10-04 03:00+1100", "10-04 04:00+1100"]
    assert fires("30 * * * *", "2026-10-04T01:30", LORD_HOWE, times=2) == ["10-04 02:30+1100", "10-04 03:30+1100"]
    assert fires("45 1 * * *", "2026-04-04T12:00", LORD_HOWE, times=2) == ["04-05 01:45+1100", "04-06 01:45+1030"]
    assert fires("45 * * * *", "2026-04-05T01:00", LORD_HOWE, times=2) == ["04-05 01:45+1100", "04-05 01:45+1030"]
    assert fires("0 2 * * *", "2026-04-04T12:00", LORD_HOWE, times=1) == ["04-05 02:00+1030"]


def test_a_day_that_a_zone_leaves_out_is_left_out() -> None:
    assert fires("0 12 * * *", "2011-12-29T12:00", "Pacific/Apia", times=1) == ["12-31 12:00+1400"]


# ------------------------------------------------------------------ H


def test_h_is_drawn_from_the_seed() -> None:
    text = "H H H H H H"
    patterns = {seed: parse(text, seed=seed) for seed in map(str, range(20))}

    assert all(parse(text, seed=seed) == pattern for seed, pattern in patterns.items())
    assert len({pattern.next_ms(0) for pattern in patterns.values()}) == 20


def test_h_is_the_same_on_every_machine() -> None:
    assert fires("H H * * *", "2026-01-01T00:00", times=1, seed="report") == ["01-01 07:31+0000"]


@pytest.mark.parametrize(
    ("text", "per_day"), [("H * * * *", 24), ("H/20 * * * *", 72), ("H H * * *", 1), ("H/70 0 * * *", 1)]
)
def test_h_is_one_value_and_with_a_step_several(text: str, per_day: int) -> None:
    for seed in map(str, range(30)):
        pattern, at_ms, end_ms = parse(text, seed=seed), ms("2026-01-01") - 1, ms("2026-01-02") - 1
        count = 0
        while (at_ms := cast(int, pattern.next_ms(at_ms))) <= end_ms:
            count += 1
        assert count == per_day


@pytest.mark.parametrize(
    ("text", "position", "allowed"),
    [
        ("0 0 H * *", "day", range(1, 29)),
        ("0 0 H(28-40) 1 *", "day", range(28, 32)),
        ("0 0 1 H *", "month", range(1, 13)),
        ("0 H(9-17) * * *", "hour", range(9, 18)),
        ("H(0-100) 0 * * *", "minute", range(60)),
    ],
)
def test_h_stays_in_its_range(text: str, position: str, allowed: range) -> None:
    drawn: set[int] = set()
    for seed in map(str, range(1000)):
        at_ms = cast(int, parse(text, seed=seed).next_ms(ms("2025-12-31T23:59")))
        drawn.add(getattr(datetime.fromtimestamp(at_ms / 1000, ZoneInfo("UTC")), position))

    assert drawn == set(allowed)


def test_h_can_be_a_weekday() -> None:
    for text in ("0 0 * * H(MON-FRI)", "0 0 * * H#1", "0 0 * * HL"):
        drawn = {parse(text, seed=seed).next_ms(ms("2026-01-01")) for seed in map(str, range(200))}
        assert len(drawn) == (5 if "-" in text else 7), text


def test_h_may_fall_on_a_value_of_the_same_list() -> None:
    for seed in map(str, range(100)):
        assert isinstance(parse("H(0-3),0,1,2,3 * * * *", seed=seed), Pattern)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("60 * * * *", "minute 60 is not allowed: it must be 0-59"),
        ("60 0 0 * * *", "second 60 is not allowed: it must be 0-59"),
        ("0 24 * * *", "hour 24 is not allowed: it must be 0-23"),
        ("0 0 0 * *", "day of month 0 is not allowed: it must be 1-31"),
        ("0 0 * 13 *", "month 13 is not allowed: it must be 1-12 or JAN-DEC"),
        ("0 0 * MON *", "month MON is not allowed: it must be 1-12 or JAN-DEC"),
        ("0 0 * * 8", "day of week 8 is not allowed: it must be 0-7 or SUN-SAT"),
        ("*/0 * * * *", "minute has steps of 0: a step must be 1 or more"),
        ("H/0 * * * *", "minute has steps of 0: a step must be 1 or more"),
        ("0 22-2 * * *", "hour 22-2 runs backwards: write 22-23,0-2"),
        ("0 0 * * FRI-MON", "day of week FRI-MON runs backwards: write 5-6,0-1"),
        ("1,,2 * * * *", "minute '1,,2' has a comma without a value on each side"),
        ("5,5 * * * *", "minute '5,5' has 5 twice: leave one out"),
        ("1-5,3 * * * *", "minute '1-5,3' has 3 twice: leave one out"),
        ("0 0 * * 0,7", "day of week '0,7' has 0 twice: leave one out"),
        ("H(60-70) * * * *", "minute H(60-70) has no value to draw: it must be within 0-59"),
        ("0 0 30 FEB *", "day of month 30 never comes: month FEB has 29 days at most"),
        (
            "0 0 15W * *",
            "day of month '15W' is not understood: it can be *, a value of 1-31, a range a-b, a step */n, L, or",
        ),
        (
            "0 0 * * L",
            "day of week 'L' is not understood: it can be *, a value of 0-7 or SUN-SAT, a range a-b, a step */n, 5L",
        ),
        (
            "0 0 * * 1#6",
            "day of week '1#6' is not understood: with #, it is one weekday and its number in the month, 1 to 5",
        ),
        ("* * * * * * *", "it has 7 fields, and can have six at most"),
        ("", "it is empty: write five fields, such as '0 9 * * 1-5'"),
        (" \t", "it is empty"),
        ("@reboot", "@reboot is not known: it can be @yearly, "),
        ("@Daily", "@Daily is not known"),
        ("*," * 600, "characters, more than 1000"),
    ],
)
def test_a_refusal_names_the_field_the_value_and_what_is_allowed(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text)

    assert str(refused.value).startswith(f"cron pattern {text[:100]!r}: ")
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        *("0 0 15W * *", "0 0 LW * *", "0 0 L-2 * *", "0 0 15L * *", "0 0 L/2 * *", "0 0 l * *", "L 0 * * *"),
        *("0 0 * * L", "0 0 * * 8L", "0 0 * * 1-3L", "0 0 * * 5L#2", "0 0 * * 1#0", "0 0 * * 1#6", "0 0 * * 1#2,3"),
        *("0 0 1#2 * *", "5* * * * *", "** * * * *", "-1 * * * *", "1.5 * * * *", "1- * * * *", "1-2-3 * * * *"),
        *("*/5/2 * * * *", "/5 * * * *", "*/ * * * *", "JANUARY * * * *", "0 0 * jan5 *", "٣ * * * *", "h * * * *"),
        *("H-5 * * * *", "1-H * * * *", "*/H * * * *", "H/H * * * *", "H() * * * *", "H,H * * * *"),
    ],
)
def test_what_is_not_a_pattern_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cron pattern"):
        parse(text)


@given(st.text("0123456789*/-,?LHW#()JANMON @\t", max_size=20))
def test_any_text_is_a_pattern_or_a_config_error(text: str) -> None:
    try:
        pattern = parse(text)
    except ConfigError:
        return
    found = pattern.next_ms(ms("2026-01-01"))
    assert found is None or found > ms("2026-01-01")


def test_only_text_is_a_pattern() -> None:
    with pytest.raises(ConfigError, match="a cron pattern is a text"):
        parse(cast(str, 5))


def test_a_pattern_is_known_by_its_text_and_parsed_once() -> None:
    assert parse("0 9 * * *") is parse("0 9 * * *")
    assert repr(parse("0 9 * * *")) == "Pattern(text='0 9 * * *')"


# ------------------------------------------------------------------ zones


def test_a_time_zone_is_its_own_name() -> None:
    assert [check_tz(tz) for tz in ("UTC", BERLIN, "Asia/Kolkata")] == ["UTC", BERLIN, "Asia/Kolkata"]


@pytest.mark.parametrize(
    ("tz", "hint"),
    [("europe/berlin", BERLIN), ("Berlin", BERLIN), ("Europe/Brelin", BERLIN), ("US/Easter", "US/Eastern")],
)
def test_a_zone_that_is_not_known_is_told_with_its_neighbours(tz: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no time zone '{tz}': did you mean .*{hint}"):
        check_tz(tz)


@pytest.mark.parametrize("tz", ["", "Mars", "+02:00", "..", "/etc/localtime", "posix/UTC", "zone.tab"])
def test_a_zone_without_neighbours_is_told_with_an_example(tz: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no time zone .*: write the name of .*Europe/Berlin"):
        check_tz(tz)
    with pytest.raises(ConfigError, match="there is no time zone"):
        parse("@daily").next_ms(0, tz)


def test_a_zone_is_a_text() -> None:
    with pytest.raises(ConfigError, match="a time zone is a name"):
        check_tz(cast(str, None))


def test_each_day_of_a_year_has_its_run_in_every_zone_of_note() -> None:
    for tz in (BERLIN, NEW_YORK, SANTIAGO, CASABLANCA, LORD_HOWE):
        at_ms, times = ms("2026-01-01", tz), [0]
        while times[-1] < ms("2027-01-01", tz):
            times.append(cast(int, parse("30 2 * * *").next_ms(times[-1] or at_ms, tz)))
        runs = times[1:-1]
        assert len(runs) == 365
        assert {round((b - a) / DAY_MS) for a, b in pairwise(runs)} == {1}
