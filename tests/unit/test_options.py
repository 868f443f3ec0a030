"""What people write as options, and what it comes to."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.errors import ConfigError
from toril.options import (
    DAY_MS,
    DEFAULT_OPTIONS,
    HOUR_MS,
    KEEP_ALL,
    KEEP_COMPLETED,
    KEEP_FAILED,
    KEEP_NONE,
    MAX_DELAY_MS,
    MAX_PRIORITY,
    MINUTE_MS,
    Backoff,
    JobOptions,
    Keep,
    Options,
    RateLimit,
    resolve,
    to_ms,
)

NOW_MS = 1_700_000_000_000
YEAR_S = 365 * 24 * 3600


def resolved(**options: Any) -> Options:
    return resolve(cast(JobOptions, options), NOW_MS)


# ------------------------------------------------------------------ durations


@pytest.mark.parametrize(
    ("duration", "ms"),
    [
        (0, 0),
        (1, 1000),
        (0.0005, 0),
        (0.0015, 2),
        (1.2345, 1234),
        (timedelta(0), 0),
        (timedelta(hours=1, milliseconds=7), HOUR_MS + 7),
        (100 * YEAR_S, MAX_DELAY_MS),
    ],
)
def test_a_duration_becomes_whole_milliseconds(duration: float | timedelta, ms: int) -> None:
    assert to_ms(duration) == ms


@pytest.mark.parametrize(
    "duration",
    [-1, -0.001, timedelta(seconds=-1), math.nan, math.inf, -math.inf, 100 * YEAR_S + 1, timedelta(days=36501)],
)
def test_a_duration_lies_between_nothing_and_100_years(duration: float | timedelta) -> None:
    with pytest.raises(ConfigError) as refused:
        to_ms(duration, "grace")

    assert str(refused.value) == f"grace must be between 0 s and 100 years, not {duration!r}"


@pytest.mark.parametrize("duration", [True, False, "5", None, 1j, [1]])
def test_a_duration_is_seconds_or_a_timedelta(duration: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        to_ms(duration, "lock")

    assert str(refused.value) == f"lock must be seconds or a timedelta, not {duration!r}"


# ------------------------------------------------------------------ every option


def test_no_options_are_the_defaults_said_once() -> None:
    assert resolved() is DEFAULT_OPTIONS
    assert (
        Options(
            delay_ms=0,
            priority=0,
            lifo=False,
            attempts=1,
            backoff=None,
            keep_completed=Keep(1000, DAY_MS),
            keep_failed=Keep(5000, 7 * DAY_MS),
            keep_result_ms=10 * MINUTE_MS,
            keep_logs=1000,
            size_limit=1024 * 1024,
        )
        == DEFAULT_OPTIONS
    )


def test_every_option_arrives() -> None:
    options = resolved(
        job_id="welcome-1",
        delay=timedelta(seconds=2),
        priority=7,
        lifo=True,
        attempts=4,
        backoff=Backoff.fixed(3),
        keep_completed=10,
        keep_failed=timedelta(hours=1),
        keep_result=30,
        keep_logs=5,
        size_limit=64,
    )

    assert options == Options(
        delay_ms=2000,
        priority=7,
        lifo=True,
        attempts=4,
        backoff=Backoff("fixed", 3000),
        keep_completed=Keep(count=10),
        keep_failed=Keep(age_ms=HOUR_MS),
        keep_result_ms=30_000,
        keep_logs=5,
        size_limit=64,
    )


@pytest.mark.parametrize(
    ("option", "low", "high", "range_text"),
    [
        ("priority", 0, MAX_PRIORITY, "0 and 2,097,151"),
        ("attempts", 1, 1_000_000, "1 and 1,000,000"),
        ("retries", 0, 999_999, "0 and 999,999"),
        ("keep_logs", 0, 1_000_000, "0 and 1,000,000"),
        ("size_limit", 1, 512 * 1024 * 1024, "1 and 536,870,912"),
    ],
)
def test_a_number_has_its_range_and_the_message_names_it(option: str, low: int, high: int, range_text: str) -> None:
    resolved(**{option: low})
    resolved(**{option: high})
    for value in (low - 1, high + 1, True, 1.0, "1", None):
        with pytest.raises(ConfigError) as refused:
            resolved(**{option: value})
        assert str(refused.value) == f"{option} must be a whole number between {range_text}, not {value!r}"


@pytest.mark.parametrize("option", ["delay", "keep_result"])
def test_an_option_that_is_a_duration_says_its_name_when_it_is_wrong(option: str) -> None:
    with pytest.raises(ConfigError, match=f"^{option} must be between 0 s and 100 years, not -1$"):
        resolved(**{option: -1})


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("prioritty", "known are at, attempts, backoff, "),
        ("repeat", "use a schedule"),
        ("removeOnComplete", "called `keep_completed` here"),
        ("removeOnFail", "called `keep_failed` here"),
        ("jobId", "called `job_id` here"),
        ("timeout", "BullMQ has no job timeout"),
    ],
)
def test_an_unknown_option_is_refused_with_what_to_write_instead(option: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolved(**{option: 1})

    assert str(refused.value).startswith(f"unknown option {option!r}: ")
    assert hint in str(refused.value)


def test_at_is_the_delay_until_then_and_nothing_for_the_past() -> None:
    now = datetime.fromtimestamp(NOW_MS / 1000, UTC)

    assert resolved(at=now + timedelta(hours=1)).delay_ms == HOUR_MS
    assert resolved(at=now - timedelta(hours=1)).delay_ms == 0


def test_at_wants_a_time_zone() -> None:
    with pytest.raises(
        ConfigError, match=r"^at must be a datetime with a time zone, not datetime.datetime\(2030, 1, 1"
    ):
        resolved(at=datetime(2030, 1, 1))


def test_delay_and_at_are_not_given_together() -> None:
    with pytest.raises(ConfigError, match=r"^give delay or at, not both$"):
        resolved(delay=1, at=datetime(2030, 1, 1, tzinfo=UTC))


# ------------------------------------------------------------------ attempts and retries


def test_retries_are_the_attempts_after_the_first() -> None:
    assert resolved(retries=3).attempts == 4
    assert resolved(retries=0).attempts == 1


def test_attempts_and_retries_are_not_given_together() -> None:
    with pytest.raises(
        ConfigError, match=r"^give attempts \(all tries\) or retries \(tries after the first\), not both$"
    ):
        resolved(attempts=3, retries=2)


def test_a_job_that_is_tried_again_has_a_backoff_by_default() -> None:
    assert resolved(attempts=3).backoff == Backoff("exponential", 1000, 0.5, HOUR_MS)
    assert resolved(attempts=1).backoff is None


def test_a_backoff_that_is_a_duration_is_fixed() -> None:
    assert resolved(attempts=3, backoff=5).backoff == Backoff("fixed", 5000)
    assert resolved(attempts=3, backoff=timedelta(minutes=1)).backoff == Backoff("fixed", 60_000)


# ------------------------------------------------------------------ backoff


def test_five_attempts_with_exponential_backoff_wait_four_times() -> None:
    assert Backoff.exponential(1).waits_ms(5) == [1000, 2000, 4000, 8000]


def test_three_attempts_wait_twice() -> None:
    assert Backoff.exponential(1).waits_ms(3) == [1000, 2000]
    assert Backoff.exponential(2).waits_ms(3) == [2000, 4000]
    assert Backoff.fixed(7).waits_ms(3) == [7000, 7000]


def test_one_attempt_never_waits() -> None:
    assert Backoff.exponential(1).waits_ms(1) == []


def test_what_a_custom_backoff_waits_is_not_known_beforehand() -> None:
    assert Backoff.custom("mine").waits_ms(5) == []
    assert Backoff.custom("mine").is_custom


def test_a_wait_doubles_until_its_cap() -> None:
    assert Backoff.exponential(1, max_delay=5).waits_ms(6) == [1000, 2000, 4000, 5000, 5000]


def test_a_wait_never_exceeds_what_a_delay_may_be() -> None:
    assert Backoff.exponential(1).wait_ms(1_000_000) == MAX_DELAY_MS


@pytest.mark.parametrize(
    ("base_s", "attempts", "cap", "longest_ms"),
    [
        (30, 5, timedelta(minutes=10), 240_000),
        (60, 3, timedelta(minutes=15), 120_000),
        (10, 5, timedelta(minutes=5), 80_000),
    ],
)
def test_a_cap_that_is_never_reached_is_told_with_the_longest_real_wait(
    base_s: int, attempts: int, cap: timedelta, longest_ms: int
) -> None:
    backoff = Backoff.exponential(base_s, max_delay=cap)

    assert backoff.unreachable_cap_ms(attempts) == longest_ms
    assert max(backoff.waits_ms(attempts)) == longest_ms


@pytest.mark.parametrize(
    "backoff",
    [
        Backoff.exponential(30, max_delay=240),  # reached by the last wait
        Backoff.exponential(30, max_delay=100),
        Backoff.exponential(30),
        Backoff.fixed(30),
        Backoff.custom("mine"),
    ],
)
def test_a_cap_that_is_reached_or_not_there_is_not_complained_about(backoff: Backoff) -> None:
    assert backoff.unreachable_cap_ms(5) is None
    assert backoff.unreachable_cap_ms(1) is None


@given(
    wait_s=st.integers(0, 100_000),
    attempt=st.integers(1, 40),
    jitter=st.floats(0, 1),
    seed=st.integers(0, 1_000),
)
def test_jitter_draws_from_the_last_part_of_the_wait(wait_s: int, attempt: int, jitter: float, seed: int) -> None:
    backoff = Backoff.exponential(wait_s, jitter=jitter)
    wait_ms = backoff.wait_ms(attempt)

    drawn_ms = backoff.draw_ms(attempt, random.Random(seed))

    assert math.floor(wait_ms * (1 - jitter)) - 1 <= drawn_ms <= wait_ms


def test_jitter_draws_the_whole_of_its_range() -> None:
    backoff = Backoff.fixed(10, jitter=0.5)
    rng = random.Random(1)

    drawn = [backoff.draw_ms(1, rng) for _ in range(2_000)]

    assert 5000 <= min(drawn) < 5050
    assert 9950 < max(drawn) <= 10_000


def test_without_jitter_a_wait_is_exact() -> None:
    assert Backoff.exponential(1).draw_ms(3, random.Random()) == 4000


@pytest.mark.parametrize("jitter", [-0.1, 1.1, math.nan, True])
def test_jitter_lies_between_0_and_1(jitter: float) -> None:
    with pytest.raises(ConfigError, match=r"^jitter must be between 0 and 1, not "):
        Backoff.fixed(1, jitter=jitter)


def test_a_custom_backoff_bears_the_name_of_its_function() -> None:
    def patient(attempt: int, error: BaseException) -> float:
        return attempt * 2.0

    assert Backoff.custom(patient).kind == "patient"
    assert Backoff.custom(patient).strategy is patient
    assert Backoff.custom("patient") == Backoff("patient")


@pytest.mark.parametrize("name", ["fixed", "exponential"])
def test_a_custom_backoff_cannot_take_the_name_of_a_formula(name: str) -> None:
    def strategy(attempt: int, error: BaseException) -> float:
        return 5.0

    strategy.__name__ = name

    with pytest.raises(ConfigError, match=name):
        Backoff.custom(strategy)


# ------------------------------------------------------------------ keep rules


@pytest.mark.parametrize(
    ("given_rule", "rule"),
    [
        (True, KEEP_ALL),
        (False, KEEP_NONE),
        (0, KEEP_NONE),
        (7, Keep(count=7)),
        (timedelta(hours=2), Keep(age_ms=2 * HOUR_MS)),
        (Keep(3, 4), Keep(3, 4)),
    ],
)
def test_a_keep_rule_may_be_written_in_five_ways(given_rule: Any, rule: Keep) -> None:
    assert Keep.of(given_rule) == rule


@pytest.mark.parametrize("wrong", [-1, 1.5, "all", None])
def test_a_keep_rule_that_means_nothing_is_refused_with_all_that_do(wrong: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        Keep.of(wrong)

    assert str(refused.value) == (
        f"a keep rule is True, False, a count from 0, a timedelta or Keep(count, age_ms), not {wrong!r}"
    )


def test_finished_jobs_stay_by_default_for_a_day_and_a_week() -> None:
    assert Keep(count=1_000, age_ms=DAY_MS) == KEEP_COMPLETED
    assert Keep(count=5_000, age_ms=7 * DAY_MS) == KEEP_FAILED


# ------------------------------------------------------------------ rates


def test_a_rate_is_per_second_unless_it_says_otherwise() -> None:
    assert (RateLimit(100).max, RateLimit(100).per_ms) == (100, 1000)
    assert RateLimit(5, per=timedelta(minutes=1)).per_ms == MINUTE_MS


@pytest.mark.parametrize(("jobs", "per"), [(0, 1), (-1, 1), (1, 0), (True, 1)])
def test_a_rate_wants_at_least_one_job_per_millisecond(jobs: int, per: float) -> None:
    with pytest.raises(ConfigError, match=r"^a rate limit wants at least 1 job per at least 1 ms, not "):
        RateLimit(jobs, per=per)
