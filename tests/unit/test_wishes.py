"""What a handler may wish for its own job."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from toril.errors import ConfigError
from toril.model import AwaitingChildren, Delayed, Outcome, Throttled
from toril.wishes import AwaitChildren, Delay, Throttle, Wish

NOW_MS = 1_700_000_000_000
NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)


@pytest.mark.parametrize(
    ("wish", "outcome"),
    [
        (Delay(30), Delayed(NOW_MS + 30_000)),
        (Delay(0), Delayed(NOW_MS)),
        (Delay(timedelta(minutes=1)), Delayed(NOW_MS + 60_000)),
        (Delay(NOW + timedelta(hours=1)), Delayed(NOW_MS + 3_600_000)),
        (Delay((NOW + timedelta(hours=1)).astimezone(timezone(timedelta(hours=9)))), Delayed(NOW_MS + 3_600_000)),
        (Delay(NOW - timedelta(hours=1)), Delayed(NOW_MS)),
        (Throttle(2.5), Throttled(2_500)),
        (Throttle(timedelta(seconds=1)), Throttled(1_000)),
        (AwaitChildren(), AwaitingChildren()),
    ],
)
def test_a_wish_becomes_what_the_store_is_told(wish: Wish, outcome: Outcome) -> None:
    assert wish.as_outcome(NOW_MS) == outcome


def test_a_handler_that_catches_every_exception_does_not_swallow_a_wish() -> None:
    for wish in (Delay, Throttle, AwaitChildren):
        assert issubclass(wish, BaseException)
        assert not issubclass(wish, Exception)


@pytest.mark.parametrize("wrong", [-1, "soon", None, True, float("nan")])
def test_a_wish_that_cannot_be_is_refused_where_it_is_made(wrong: Any) -> None:
    with pytest.raises(ConfigError):
        Throttle(wrong)
    with pytest.raises(ConfigError):
        Delay(wrong)


def test_a_delay_until_a_moment_wants_a_time_zone() -> None:
    with pytest.raises(ConfigError, match=r"^Delay wants a datetime with a time zone, not "):
        Delay(datetime(2030, 1, 1))
