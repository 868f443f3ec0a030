"""A year of the schedules of the five systems: each runs as often, and when, as the calendar says."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from conformance.given import soon
from sizes import size
from toril import Context, Queue, Served, cron, every
from toril.clock import TurnedClock
from toril.events import Completed, Listeners
from toril.handlers import HandlerTable, registered
from toril.options import HOUR_MS, SECOND_MS
from toril.store import Store
from toril.timing import Timing
from worker.stage import at_work, clock_of

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
"""Within the month after it the clocks are changed in New York and in Berlin."""
ZONES = ("UTC", "Europe/Berlin", "America/New_York")
MONDAY = 0

Runs = dict[tuple[str, str], list[int]]
"""When each schedule has run, in ms, by queue and id."""


@dataclass(frozen=True)
class Daily:
    """A schedule that runs at an hour of each day, or of one day of the week, by the clocks of each zone."""

    queue: str
    id: str
    hour: int
    weekday: int | None = None

    def timing(self, tz: str) -> Timing:
        day = "*" if self.weekday is None else str(self.weekday + 1)
        return cron(f"0 {self.hour} * * {day}", tz=tz)

    def calendar(self, tz: str, end: datetime) -> list[int]:
        """When it runs until `end`. An hour that a zone leaves out is, by the offset before it, the hour after it."""
        days = (date(2026, 2, 28) + timedelta(days=n) for n in range((end - BEGIN).days + 3))
        moments = [
            datetime.combine(day, time(self.hour), ZoneInfo(tz))
            for day in days
            if self.weekday in (None, day.weekday())
        ]
        return [round(moment.timestamp() * SECOND_MS) for moment in moments if BEGIN < moment <= end]


DAILY = (
    Daily("trust", "recalculate-trust-scores", 3),
    Daily("payouts", "batch-payouts", 6, MONDAY),
    Daily("usage", "aggregate-daily", 0),  # B-39
    Daily("data-import", "sync-impa-catalog", 2),  # C-59
    Daily("order", "daily-report", 9),  # D-63
    Daily("analytics-reporting", "daily-analytics", 1),  # E-14
    Daily("weekly-analytics-reporting", "weekly-analytics", 4, MONDAY),  # E-15
)
HOURLY = (("data-import", "cleanup-expired-sessions"), ("inventory", "stock-sync"))  # C-61, D-64


def calendar(end: datetime) -> Runs:
    """When each schedule is to run until `end`."""
    runs: Runs = {(daily.queue, f"{daily.id} {tz}"): daily.calendar(tz, end) for daily in DAILY for tz in ZONES}
    begin_ms, end_ms = (round(moment.timestamp() * SECOND_MS) for moment in (BEGIN, end))
    return runs | {hourly: list(range(begin_ms, end_ms + 1, HOUR_MS)) for hourly in HOURLY}


async def put_all(store: Store) -> None:
    for daily in DAILY:
        for tz in ZONES:
            await Queue(daily.queue, store).schedule(f"{daily.id} {tz}", daily.timing(tz))
    for queue, id in HOURLY:
        await Queue(queue, store).schedule(id, every(3600))


class Log:
    """Notes when each schedule runs, and can be waited for."""

    def __init__(self) -> None:
        self.runs: Runs = defaultdict(list)
        self._left = 0
        self._none_left = asyncio.Event()

    async def work(self, ctx: Context) -> None:
        assert ctx.claim.schedule is not None
        self.runs[ctx.queue, ctx.claim.schedule].append(ctx.claim.claimed_at_ms)

    def recorded(self, event: Completed) -> None:
        self._left -= 1
        if self._left == 0:
            self._none_left.set()

    async def until_recorded(self, runs: int) -> None:
        """Return when so many more runs have ended."""
        self._left += runs
        self._none_left.clear()
        await soon(self._none_left.wait())


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock(round(BEGIN.timestamp() * SECOND_MS))


@pytest.mark.timeout(600)
@pytest.mark.claim("A-40", "A-41", "B-39", "C-59", "C-61", "D-63", "D-64", "E-14", "E-15")
@pytest.mark.parametrize("open_store", ["sqlite-memory", "sqlite-file", "redis"], indirect=True)
async def test_each_schedule_runs_as_often_as_the_calendar_says(store: Store) -> None:
    expected = calendar(BEGIN + timedelta(days=size("schedule_days")))
    due: dict[int, int] = defaultdict(int)
    for moments in expected.values():
        for moment in moments:
            due[moment] += 1
    log, listeners = Log(), Listeners()
    table = HandlerTable(catch_all=registered(None, log.work))
    listeners.on(Completed)(log.recorded)
    served = [Served(queue, table, listeners=listeners) for queue in sorted({queue for queue, _ in expected})]
    await put_all(store)

    async with at_work(store, served, scheduler=False):  # so that no chain that breaks is mended
        for at_ms in sorted(due):
            clock_of(store).advance(at_ms - clock_of(store).now_ms())
            await log.until_recorded(due[at_ms])

    assert log.runs == expected


def test_the_calendar_knows_the_days_on_which_the_clocks_are_changed() -> None:
    """The days are not all alike, so that the test above shows something."""
    runs = calendar(BEGIN + timedelta(days=30))["data-import", "sync-impa-catalog Europe/Berlin"]

    gaps = [(later - earlier) // HOUR_MS for earlier, later in itertools.pairwise(runs)]
    assert sorted(set(gaps)) == [23, 24]
    changed = datetime.fromtimestamp(runs[gaps.index(23)] / SECOND_MS, ZoneInfo("Europe/Berlin"))
    assert changed.date() == date(2026, 3, 29)
