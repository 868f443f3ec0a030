"""Schedules at work: each run once, at its time, whichever workers there are and whatever happens to them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from conformance import given
from conformance.given import soon
from toril import App, ConfigError, Context, Deduplication, Queue, Served, cron, every
from toril.errors import InvalidJob, ScheduleNotFound
from toril.handlers import HandlerTable
from toril.model import JobRecord, JobRef, Placed, Schedule, ScheduleRecord
from toril.options import HOUR_MS, MINUTE_MS, SECOND_MS
from toril.schedule import advance, turn_of
from toril.states import State
from toril.store import Store
from toril.timing import Missed, Timing
from worker.stage import Gate, WatchedStore, at_work, clock_of, finished, known, quiet, running, told, turn

HOURLY = cron("0 * * * *")


class Ran:
    """A handler that notes its runs."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.at_ms: list[int] = []

    async def __call__(self, ctx: Context) -> None:
        self.ids.append(ctx.job_id)
        self.at_ms.append(ctx.claim.claimed_at_ms)

    @property
    def times(self) -> int:
        return len(self.ids)


@pytest.fixture
def ran() -> Ran:
    return Ran()


@pytest.fixture
def app(store: Store) -> App:
    return App(store=store, clock=store.clock)


async def record_of(queue: Queue, id: str = "report") -> ScheduleRecord:
    return await queue.scheduler(id).record()


async def go_to(store: Store, at_ms: int) -> None:
    """Turn the clock to a moment at once, as if the machine had slept, and let everything happen that is due."""
    clock_of(store).advance(at_ms - given.now_ms(store))
    await quiet(store, 12)


async def run_on(queue: Queue, record: ScheduleRecord, times: int = 1) -> ScheduleRecord:
    """Let the times of the run to come and of those after it be, each when the one before has ended; what comes then."""
    for _ in range(times):
        await go_to(queue.store, max(given.now_ms(queue.store), record.next_at_ms))
        await finished(queue.store, record.iteration)
        record = await record_of(queue, record.schedule.id)
    return record


async def run_next(queue: Queue, id: str = "report") -> JobRecord:
    """Let the time of the run to come be, and wait until it has ended."""
    record = await record_of(queue, id)
    assert record.pending
    await run_on(queue, record)
    return await known(queue.store, record.iteration)


async def runs_to_come(queue: Queue) -> list[str]:
    return [job.ref.id for state in (State.WAITING, State.DELAYED) for job in (await queue.find(state)).items]


def hour(store: Store, hours: int) -> int:
    """The start of an hour, from the next one on."""
    return (given.now_ms(store) // HOUR_MS + hours) * HOUR_MS


# ------------------------------------------------------------------ each run once


async def test_a_run_is_followed_by_the_next_one(queue: Queue, store: Store, ran: Ran) -> None:
    first_ms = hour(store, 1)
    await queue.schedule("report", HOURLY, "send", {"to": "ada"}, priority=3, attempts=2)

    async with at_work(store, ran):
        records = [await run_next(queue) for _ in range(3)]

    assert [record.ref.id for record in records] == [f"repeat:report:{first_ms + n * HOUR_MS}" for n in range(3)]
    assert [record.processed_at_ms for record in records] == [first_ms + n * HOUR_MS for n in range(3)]
    assert {(record.name, record.data, record.priority, record.options.attempts) for record in records} == {
        ("send", '{"to":"ada"}', 3, 2)
    }
    assert [record.schedule for record in records] == ["report"] * 3
    now = await record_of(queue)
    assert (now.next_at_ms, now.iterations, now.count, now.state) == (first_ms + 3 * HOUR_MS, 4, 4, State.DELAYED)


@pytest.mark.parametrize("open_store", ["sqlite-memory", "sqlite-file", "redis"], indirect=True)
async def test_of_two_workers_neither_skips_nor_doubles_a_run(queue: Queue, store: Store, ran: Ran) -> None:
    await queue.schedule("report", HOURLY)
    await queue.schedule("clean", every(3600, offset=3000))
    first_ms = {record.schedule.id: record.next_at_ms for record in await queue.schedules()}

    async with at_work(store, ran), at_work(store, ran):
        for _ in range(24):
            await run_next(queue, "clean")
            await run_next(queue, "report")

    assert sorted(ran.ids) == sorted(
        f"repeat:{id}:{at_ms + n * HOUR_MS}" for id, at_ms in first_ms.items() for n in range(24)
    )
    assert len(await runs_to_come(queue)) == 2


async def test_an_interval_begins_when_it_is_put(queue: Queue, store: Store, ran: Ran) -> None:
    put_at_ms = given.now_ms(store)
    await queue.schedule("report", every(timedelta(minutes=90)))
    first = await record_of(queue)

    async with at_work(store, ran):
        await run_on(queue, first, 3)

    assert ran.at_ms == [put_at_ms + n * 90 * MINUTE_MS for n in range(3)]


async def test_a_run_that_is_tried_again_makes_no_second_next_run(queue: Queue, store: Store) -> None:
    async def fail(ctx: Context) -> str:
        if ctx.attempt < 3:
            raise ValueError("no line")
        return "sent"

    first_ms = hour(store, 1)
    await queue.schedule("report", HOURLY, attempts=3, backoff=0)

    async with at_work(store, fail):
        record = await run_next(queue)

    assert (record.result, record.attempts_made) == ('"sent"', 3)
    assert await runs_to_come(queue) == [f"repeat:report:{first_ms + HOUR_MS}"]
    assert (await record_of(queue)).iterations == 2


async def test_a_run_that_fails_for_good_is_followed_all_the_same(queue: Queue, store: Store) -> None:
    async def fail() -> None:
        raise ValueError("no line")

    await queue.schedule("report", HOURLY)

    async with at_work(store, fail):
        assert (await run_next(queue)).state is State.FAILED
        assert (await run_next(queue)).state is State.FAILED


@pytest.mark.parametrize("advanced", [False, True])
async def test_a_run_whose_worker_vanished_runs_again_and_has_one_that_follows(
    queue: Queue, store: Store, ran: Ran, advanced: bool
) -> None:
    """Whether the worker had come to make the next one or not."""
    first_ms = hour(store, 1)
    await queue.schedule("report", HOURLY)
    clock_of(store).advance(first_ms - given.now_ms(store))
    claim = await given.claim_one(store)
    if advanced:
        made = await turn_of(store, claim)
        assert made is not None
        assert await advance(store, made.record)

    await given.stall(store)
    async with at_work(store, ran):
        await finished(store, claim.ref)

    assert ran.ids == [f"repeat:report:{first_ms}"]
    assert await runs_to_come(queue) == [f"repeat:report:{first_ms + HOUR_MS}"]
    assert (await record_of(queue)).iterations == 2


async def test_a_run_that_nobody_handles_is_followed_too(queue: Queue, store: Store) -> None:
    await queue.schedule("report", HOURLY, "nobodys")

    async with at_work(store, HandlerTable()):
        record = await run_next(queue)

    assert (record.state, record.reason) == (State.FAILED, "Unknown job: nobodys")
    assert (await record_of(queue)).pending


# ------------------------------------------------------------------ while no worker was there


@pytest.mark.parametrize("timing", [HOURLY, every(3600, offset=1)])
@pytest.mark.parametrize(
    ("missed", "late_runs"),
    [("once", 1), ("skip", 0), ("all", 5)],
)
async def test_runs_that_were_missed(
    queue: Queue, store: Store, ran: Ran, timing: Timing, missed: str, late_runs: int
) -> None:
    await queue.schedule("report", replace(timing, missed=Missed(missed)))
    first_ms = (await record_of(queue)).next_at_ms
    back_ms = first_ms + 4 * HOUR_MS + HOUR_MS // 2
    clock_of(store).advance(back_ms - given.now_ms(store))

    async with at_work(store, ran):
        await told(store, "completed", times=max(1, late_runs))
        await quiet(store)
        assert ran.ids == [f"repeat:report:{first_ms + n * HOUR_MS}" for n in range(late_runs)]
        assert ran.at_ms == [back_ms] * late_runs

        await run_next(queue)
        assert ran.at_ms[late_runs:] == [first_ms + 5 * HOUR_MS]


async def test_a_run_that_is_skipped_says_so(queue: Queue, store: Store, ran: Ran) -> None:
    await queue.schedule("report", cron("0 * * * *", missed="skip"))
    late = await record_of(queue)
    clock_of(store).advance(late.next_at_ms + 60_001 - given.now_ms(store))

    async with at_work(store, ran):
        record = await finished(store, late.iteration)

    assert (record.state, record.result, ran.times) == (State.COMPLETED, '{"skipped":"missed"}', 0)


async def test_a_run_is_not_missed_within_a_minute(queue: Queue, store: Store, ran: Ran) -> None:
    await queue.schedule("report", cron("0 * * * *", missed="skip"))
    late = await record_of(queue)
    clock_of(store).advance(late.next_at_ms + 60_000 - given.now_ms(store))

    async with at_work(store, ran):
        await finished(store, late.iteration)

    assert ran.ids == [late.iteration.id]


async def test_a_run_that_is_tried_again_much_later_is_not_missed(queue: Queue, store: Store) -> None:
    async def fail(ctx: Context) -> int:
        if ctx.attempt == 1:
            raise ValueError("no line")
        return ctx.attempt

    await queue.schedule("report", cron("0 0 * * *", missed="skip"), attempts=2, backoff=3600)
    async with at_work(store, fail):
        run = (await record_of(queue)).iteration
        await go_to(store, (await record_of(queue)).next_at_ms)
        await told(store, "delayed", job_id=run.id, times=2)
        await go_to(store, given.now_ms(store) + HOUR_MS)

        assert (await finished(store, run)).result == "2"


# ------------------------------------------------------------------ while the run before has not ended


async def test_runs_may_go_on_side_by_side(queue: Queue, store: Store) -> None:
    gate = Gate()
    await queue.schedule("report", HOURLY)

    async with at_work(store, lambda: gate.passed(), lock=100_000):
        for times in (1, 2, 3):
            await go_to(store, (await record_of(queue)).next_at_ms)
            await gate.arrivals()
            assert gate.inside == times
        gate.open()


async def test_a_run_is_skipped_while_the_one_before_goes_on(queue: Queue, store: Store) -> None:
    gate = Gate()

    async def work(ctx: Context) -> None:
        await gate.passed(ctx.job_id)

    await queue.schedule("report", cron("0 * * * *", overlap="skip"))
    async with at_work(store, work, lock=10_000):
        first = await record_of(queue)
        await go_to(store, first.next_at_ms)
        assert await gate.arrivals() == [first.iteration.id]
        skipped = [await run_next(queue), await run_next(queue)]
        assert [record.result for record in skipped] == ['{"skipped":"overlap"}'] * 2

        gate.open()
        await finished(store, first.iteration)
        fourth = await run_next(queue)

    assert await gate.arrivals() == [fourth.ref.id]
    assert fourth.ref.id == f"repeat:report:{first.next_at_ms + 3 * HOUR_MS}"


async def test_a_run_waits_for_the_one_before_and_what_passes_meanwhile_is_missed(queue: Queue, store: Store) -> None:
    gate = Gate()

    async def work(ctx: Context) -> None:
        await gate.passed(ctx.job_id)

    await queue.schedule("report", cron("0 * * * *", overlap="queue"))
    first = await record_of(queue)
    run_at = [f"repeat:report:{first.next_at_ms + n * HOUR_MS}" for n in range(5)]
    async with at_work(store, work, lock=10_000):
        await go_to(store, first.next_at_ms)
        assert await gate.arrivals() == run_at[:1]
        for hours in (1, 2, 3):
            await go_to(store, first.next_at_ms + hours * HOUR_MS)
            await told(store, "delayed", job_id=run_at[1], times=hours + 1)  # made, and put back each time
        assert (gate.inside, await runs_to_come(queue)) == (1, run_at[1:2])

        gate.open()
        await finished(store, first.iteration)
        await turn(store, 15_000)
        assert await gate.arrivals() == run_at[1:2]
        await finished(store, JobRef("email", run_at[1]))
        assert await runs_to_come(queue) == run_at[4:]
    assert (await known(store, JobRef("email", run_at[1]))).attempts_made == 1


async def test_a_run_that_is_to_be_tried_again_goes_on(queue: Queue, store: Store) -> None:
    async def fail(ctx: Context) -> None:
        if ctx.attempt == 1 and ctx.job_id == first.iteration.id:
            raise ValueError("no line")

    await queue.schedule("report", cron("0 * * * *", overlap="skip"), attempts=2, backoff=5400)
    first = await record_of(queue)
    async with at_work(store, fail):
        await go_to(store, first.next_at_ms)
        await told(store, "delayed", job_id=first.iteration.id, times=2)
        assert (await run_next(queue)).result == '{"skipped":"overlap"}'

        await go_to(store, first.next_at_ms + 5_400_000)
        await finished(store, first.iteration)
        assert (await run_next(queue)).result == "null"


async def test_a_run_begins_once_a_vanished_one_before_it_has_ended(queue: Queue, store: Store) -> None:
    """A run that is removed by hand while it counts as going on blocks nobody."""
    await queue.schedule("report", cron("0 * * * *", overlap="skip"), attempts=2, backoff=86_400)

    async def fail(ctx: Context) -> None:
        if ctx.job_id == first.iteration.id:
            raise ValueError("no line")

    first = await record_of(queue)
    async with at_work(store, fail):
        await go_to(store, first.next_at_ms)
        await told(store, "delayed", job_id=first.iteration.id, times=2)
        assert await queue.remove(first.iteration.id)

        assert (await run_next(queue)).result == "null"


# ------------------------------------------------------------------ pausing, running by hand, ending


@pytest.mark.claim("C-62")
@pytest.mark.parametrize("timing", [HOURLY, every(3600, offset=1)])
async def test_a_pause_keeps_everything_and_none_of_its_runs_is_made_up_for(
    queue: Queue, store: Store, ran: Ran, timing: Timing
) -> None:
    schedule = await queue.schedule("report", timing, "send", {"to": "ada"})
    first_ms = (await record_of(queue)).next_at_ms
    async with at_work(store, ran):
        await run_next(queue)
        await run_next(queue)
        before = await record_of(queue)

        await schedule.pause()
        await schedule.pause()
        paused = await record_of(queue)
        assert (paused.schedule.paused, paused.iterations, paused.state) == (True, before.iterations, None)
        assert replace(paused.schedule, paused=False) == before.schedule
        assert await runs_to_come(queue) == []
        assert await schedule.next_runs() == []

        await go_to(store, first_ms + 10 * HOUR_MS + HOUR_MS // 2)
        assert ran.times == 2

        await schedule.resume()
        await schedule.resume()
        resumed = await record_of(queue)
        assert (resumed.schedule, resumed.next_at_ms) == (before.schedule, first_ms + 11 * HOUR_MS)
        assert resumed.iterations >= before.iterations
        await run_next(queue)

    assert ran.at_ms == [first_ms, first_ms + HOUR_MS, first_ms + 11 * HOUR_MS]
    assert (await queue.counts())[State.COMPLETED] == 3


@pytest.mark.parametrize("timing", [HOURLY, every(3600, offset=1)])
async def test_a_pause_that_is_over_before_the_next_time_costs_no_run(queue: Queue, timing: Timing) -> None:
    schedule = await queue.schedule("report", timing)
    before = await schedule.record()

    await schedule.pause()
    await schedule.resume()

    assert await schedule.record() == before


async def test_a_run_that_is_under_way_ends_during_the_pause(queue: Queue, store: Store) -> None:
    gate = Gate()
    schedule = await queue.schedule("report", HOURLY)

    async with at_work(store, lambda: gate.passed()):
        run = (await schedule.record()).iteration
        await go_to(store, (await schedule.record()).next_at_ms)
        await gate.arrivals()
        await schedule.pause()
        gate.open()
        assert (await finished(store, run)).state is State.COMPLETED

    assert await runs_to_come(queue) == []


async def test_a_paused_schedule_is_not_healed(queue: Queue, store: Store, ran: Ran) -> None:
    await (await queue.schedule("report", HOURLY)).pause()

    async with at_work(store, ran):
        await turn(store, 2 * MINUTE_MS)

    assert await runs_to_come(queue) == []


async def test_a_schedule_runs_now_besides_its_times(queue: Queue, store: Store, ran: Ran) -> None:
    schedule = await queue.schedule("report", HOURLY, "send", {"to": "ada"}, attempts=4)
    before = await schedule.record()

    async with at_work(store, ran):
        job = await schedule.run_now()
        await soon(job.result())

    record = await job.record()
    assert (record.name, record.data, record.options.attempts, record.schedule) == ("send", '{"to":"ada"}', 4, None)
    assert await schedule.record() == before


async def test_a_paused_schedule_can_be_run_now(queue: Queue, store: Store, ran: Ran) -> None:
    schedule = await queue.schedule("report", HOURLY)
    await schedule.pause()

    async with at_work(store, ran):
        await soon((await schedule.run_now()).result())

    assert ran.times == 1


@pytest.mark.parametrize("timing", [cron("0 * * * *", limit=3), every(3600, limit=3, offset=1)])
async def test_a_limit_ends_it(queue: Queue, store: Store, ran: Ran, timing: Timing) -> None:
    schedule = await queue.schedule("report", timing)
    assert len(await schedule.next_runs(9)) == 3

    async with at_work(store, ran):
        for left in (2, 1, 0):
            await run_next(queue)
            assert len(await schedule.next_runs(9)) == left
        await turn(store, 2 * MINUTE_MS)

    assert ran.times == 3
    assert await runs_to_come(queue) == []
    assert (await schedule.record()).count == 3


async def test_a_pause_does_not_count_towards_a_limit_and_gives_no_more(queue: Queue, store: Store, ran: Ran) -> None:
    schedule = await queue.schedule("report", cron("0 * * * *", limit=2))

    async with at_work(store, ran):
        await run_next(queue)
        await schedule.pause()
        await schedule.resume()
        await run_next(queue)
        assert await runs_to_come(queue) == []

        await schedule.pause()
        with pytest.raises(
            ConfigError,
            match=r"^the schedule 'report' has no run to come: it has made all 2 runs; put it with a higher limit",
        ):
            await schedule.resume()

    assert ran.times == 2


@pytest.mark.parametrize("make", [partial(cron, "0 * * * *"), partial(every, 3600)])
async def test_an_end_ends_it(queue: Queue, store: Store, ran: Ran, make: Callable[..., Timing]) -> None:
    schedule = await queue.schedule("report", make(end=datetime.fromtimestamp(hour(store, 3) / SECOND_MS, UTC)))

    first = await schedule.record()
    async with at_work(store, ran):
        await run_on(queue, first, 3)
        await go_to(store, hour(store, 9))
        await turn(store, 2 * MINUTE_MS)

    assert ran.times == 3
    assert await runs_to_come(queue) == []
    assert await schedule.next_runs() == []


@pytest.mark.claim("C-63")
async def test_a_schedule_can_be_listed_and_removed(queue: Queue, store: Store, ran: Ran) -> None:
    await queue.schedule("late", cron("0 12 * * *"))
    schedule = await queue.schedule("soon", HOURLY)
    assert [record.schedule.id for record in await queue.schedules()] == ["soon", "late"]

    assert await schedule.remove()
    assert not await schedule.remove()

    assert [record.schedule.id for record in await queue.schedules()] == ["late"]
    with pytest.raises(ScheduleNotFound, match=r"^queue 'email' has no schedule 'soon': `toril schedules` lists"):
        await schedule.record()
    for verb in (schedule.pause, schedule.resume, schedule.run_now, schedule.next_runs):
        with pytest.raises(ScheduleNotFound):
            await verb()


async def test_the_next_times_are_told_in_the_schedules_zone(queue: Queue) -> None:
    schedule = await queue.schedule("report", cron("0 9 * * *", tz="Europe/Berlin"))

    assert [moment.isoformat() for moment in await schedule.next_runs(2)] == [
        "2023-11-15T09:00:00+01:00",
        "2023-11-16T09:00:00+01:00",
    ]


# ------------------------------------------------------------------ putting it again


@pytest.mark.claim("C-60")
@pytest.mark.parametrize("timing", [HOURLY, every(3600), every(3600, offset=60), cron("0 * * * *", immediately=True)])
async def test_putting_a_schedule_again_at_each_start_changes_nothing(
    queue: Queue, store: Store, ran: Ran, timing: Timing
) -> None:
    await queue.schedule("report", timing, "send", {"to": "ada"})
    before = await record_of(queue)

    for _ in range(3):
        clock_of(store).advance(10 * MINUTE_MS)
        await queue.schedule("report", timing, "send", {"to": "ada"})
        again = await record_of(queue)
        assert (again.schedule, again.next_at_ms, again.count) == (before.schedule, before.next_at_ms, 1)
        assert await runs_to_come(queue) == [before.iteration.id]

    async with at_work(store, ran):
        await run_on(queue, before)
        await queue.schedule("report", timing, "send", {"to": "ada"})
        await run_next(queue)
    assert (ran.ids[0], ran.times) == (before.iteration.id, 2)


async def test_a_run_that_is_late_is_not_lost_when_its_schedule_is_put_again(
    queue: Queue, store: Store, ran: Ran
) -> None:
    """As it is when a new version starts after a downtime."""
    await queue.schedule("report", cron("0 9 * * *"))
    late = await record_of(queue)
    clock_of(store).advance(late.next_at_ms + HOUR_MS - given.now_ms(store))

    await queue.schedule("report", cron("0 9 * * *"), "report", {"to": "bob"})

    async with at_work(store, ran):
        record = await finished(store, late.iteration)
    assert record.data == '{"to":"bob"}'
    assert (await record_of(queue)).next_at_ms == late.next_at_ms + 24 * HOUR_MS


async def test_other_times_take_the_place_of_the_run_to_come(queue: Queue, store: Store) -> None:
    await queue.schedule("report", cron("0 9 * * *"))
    await queue.schedule("report", HOURLY)
    assert await runs_to_come(queue) == [f"repeat:report:{hour(store, 1)}"]

    await queue.schedule("report", every(60, offset=30))
    record = await record_of(queue)
    assert await runs_to_come(queue) == [record.iteration.id]
    assert (record.next_at_ms - given.now_ms(store), record.schedule.timing.pattern) == (10 * SECOND_MS, None)


async def test_a_pause_of_the_operators_survives_what_programs_put(queue: Queue) -> None:
    schedule = await queue.schedule("report", HOURLY)
    await schedule.pause()

    await queue.schedule("report", cron("0 9 * * *"))

    assert (await schedule.record()).schedule.paused
    assert await runs_to_come(queue) == []
    await schedule.resume()
    assert (await schedule.record()).schedule.timing == cron("0 9 * * *")


async def test_a_time_that_there_is_a_job_of_is_not_run_twice(queue: Queue, store: Store, ran: Ran) -> None:
    schedule = await queue.schedule("report", every(3600))
    first = await schedule.record()
    async with at_work(store, ran):
        await run_on(queue, first)
        await schedule.remove()

        await queue.schedule("report", every(3600))

        await run_next(queue)
    assert ran.at_ms[1] - ran.at_ms[0] == HOUR_MS


@pytest.mark.parametrize(
    ("timing", "sentence"),
    [
        (
            cron("0 9 * * *", end=datetime(2023, 1, 1, tzinfo=UTC)),
            "the schedule 'report' has no run to come: its end has passed, or no day matches its pattern",
        ),
        (
            every(60, end=datetime(2023, 1, 1, tzinfo=UTC)),
            "the schedule 'report' has no run to come: its end has passed, or no day matches its pattern",
        ),
    ],
)
async def test_a_schedule_that_would_never_run_is_refused(queue: Queue, timing: Timing, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        await queue.schedule("report", timing)

    assert str(refused.value) == sentence
    assert await queue.schedules() == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("job_id", "one"),
        ("parent", JobRef("email", "1")),
        ("delay", 5),
        ("at", datetime(2030, 1, 1, tzinfo=UTC)),
        ("deduplication", Deduplication.simple("one")),
    ],
)
async def test_an_option_that_is_for_one_job_alone_is_refused(queue: Queue, option: str, value: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        await queue.schedule("report", HOURLY, **{option: value})

    assert str(refused.value) == (
        f"the schedule 'report' cannot have the option {option}: each of its runs is a job of its own"
    )


@pytest.mark.parametrize("id", ["", "a\nb", "x" * 600])
async def test_an_id_that_cannot_be_is_refused(queue: Queue, id: str) -> None:
    with pytest.raises(InvalidJob, match="schedule id"):
        await queue.schedule(id, HOURLY, "send")


async def test_an_id_may_hold_colons(queue: Queue, store: Store, ran: Ran) -> None:
    await queue.schedule("tenant:7:report", HOURLY, "send")

    async with at_work(store, ran):
        await run_next(queue, "tenant:7:report")
        await run_next(queue, "tenant:7:report")


# ------------------------------------------------------------------ declared in code


async def scheduled(watched: WatchedStore) -> None:
    """Return when a worker has put what it declares, reported what nobody does, and looked for what stands still."""

    def looks() -> int:
        return sum(len(call.arguments) == 1 for call in watched.calls("schedules", watched.answered))

    before = looks()
    await watched.until(lambda: looks() >= before + 2)


async def test_what_is_declared_is_put_when_a_worker_starts(
    store: Store, watched: WatchedStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ENABLE_SCHEDULER", "true")
    caplog.set_level(logging.INFO, "toril")
    app = App(store=watched.as_store, clock=store.clock)
    email = app.queue("email", attempts=4)
    greeted: list[str] = []

    @email.handler(schedule=HOURLY)
    async def clean() -> None: ...

    @email.handler()
    async def greet(name: str) -> None:
        greeted.append(name)

    greet.declare_schedule("greet-ada", HOURLY, "ada")
    greet.options(priority=2).declare_schedule("greet-bob", every(60, offset=1), name="bob")
    assert await Queue("email", store).schedules() == []

    async with running(app.worker()):
        await scheduled(watched)
        records = {record.schedule.id: record for record in await Queue("email", store).schedules()}
        assert {id: (r.schedule.name, r.schedule.data, r.pending) for id, r in records.items()} == {
            "clean": ("clean", "{}", True),
            "greet-ada": ("greet", '{"name":"ada"}', True),
            "greet-bob": ("greet", '{"name":"bob"}', True),
        }
        assert [records["greet-bob"].schedule.options.priority, records["clean"].schedule.options.attempts] == [2, 4]
        await run_next(Queue("email", store), "greet-ada")

    assert "ada" in greeted
    assert "the schedule 'clean' of queue email is put as it is declared" in caplog.messages


def declaring(store: Store, timing: Timing, id: str = "clean") -> App:
    """A version of the code that declares a schedule."""
    app = App(store=store, clock=store.clock)
    email = app.queue("email")

    @email.handler()
    async def clean() -> None: ...

    clean.declare_schedule(id, timing)
    return app


async def start(store: Store, app: App, **options: Any) -> None:
    """Let a worker of a version start, and stop it when it has put what it declares."""
    watched = WatchedStore(store)
    async with at_work(watched.as_store, served(app), **options):
        await scheduled(watched)


def served(app: App) -> list[Served]:
    return [
        Served(queue.name, queue.handlers, schedules=tuple(queue.declared.values())) for queue in app.queues.values()
    ]


NINE, TEN = cron("0 9 * * *"), cron("0 10 * * *")


async def test_a_restart_puts_nothing_anew_and_changed_code_does(queue: Queue, store: Store) -> None:
    await start(store, declaring(store, NINE))
    first = await record_of(queue, "clean")
    await start(store, declaring(store, NINE))
    assert await record_of(queue, "clean") == first

    await start(store, declaring(store, TEN))

    changed = await record_of(queue, "clean")
    assert changed.schedule.timing == TEN
    assert changed.next_at_ms == first.next_at_ms + HOUR_MS
    assert await runs_to_come(queue) == [changed.iteration.id]


async def test_in_production_an_older_version_does_not_undo_a_newer_one_within_the_hour(
    queue: Queue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = declaring(store, NINE), declaring(store, TEN)
    await start(store, older, production=True)
    await start(store, newer, production=True)
    clock_of(store).advance(HOUR_MS - 1)

    await start(store, older, production=True)
    assert (await record_of(queue, "clean")).schedule.timing == TEN
    assert caplog.messages[-1] == (
        "the schedule 'clean' of queue email stays as another version of the code has put it within the last hour: "
        "`toril schedules put MODULE:APP` puts this one"
    )

    clock_of(store).advance(1)
    await start(store, older, production=True)
    assert (await record_of(queue, "clean")).schedule.timing == NINE


async def test_a_third_version_is_put_in_production_at_once(queue: Queue, store: Store) -> None:
    for timing in (NINE, TEN, HOURLY):
        await start(store, declaring(store, timing), production=True)

    assert (await record_of(queue, "clean")).schedule.timing == HOURLY


async def test_in_development_what_was_started_last_counts(queue: Queue, store: Store) -> None:
    for timing in (NINE, TEN, NINE):
        await start(store, declaring(store, timing))

    assert (await record_of(queue, "clean")).schedule.timing == NINE


async def test_an_app_is_careful_in_production(
    queue: Queue, watched: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORIL_ENV", "production")
    for timing in (NINE, TEN, NINE):
        async with running(declaring(watched.as_store, timing).worker()):
            await scheduled(watched)

    assert (await record_of(queue, "clean")).schedule.timing == TEN


async def test_what_operators_have_paused_stays_paused_when_the_code_changes(queue: Queue, store: Store) -> None:
    await start(store, declaring(store, NINE))
    await queue.scheduler("clean").pause()

    await start(store, declaring(store, TEN))

    record = await record_of(queue, "clean")
    assert (record.schedule.timing, record.schedule.paused, record.state) == (TEN, True, None)
    await queue.scheduler("clean").resume()
    assert (await record_of(queue, "clean")).pending


async def test_what_is_no_longer_declared_goes_on_and_is_reported(
    queue: Queue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.schedule("by-hand", NINE)
    await start(store, declaring(store, NINE))

    await start(store, declaring(store, NINE, "tidy"))

    assert {record.schedule.id for record in await queue.schedules()} == {"by-hand", "clean", "tidy"}
    assert caplog.messages == [
        "the schedule 'clean' of queue email is not declared any more, and goes on: `toril schedules prune MODULE:APP` removes it"
    ]


async def test_one_that_cannot_be_put_keeps_no_other_from_it(
    app: App, queue: Queue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    email = app.queue("email")

    @email.handler()
    async def clean() -> None: ...

    clean.declare_schedule("past", cron("0 9 * * *", end=datetime(2023, 1, 1, tzinfo=UTC)))
    clean.declare_schedule("sound", NINE)
    await start(store, app)

    assert [record.schedule.id for record in await queue.schedules()] == ["sound"]
    assert caplog.messages == [
        "the schedule 'past' of queue email is not put: the schedule 'past' has no run to come: "
        "its end has passed, or no day matches its pattern"
    ]


def test_declarations_that_contradict_each_other_are_refused(app: App) -> None:
    email = app.queue("email")

    @email.handler(schedule=NINE)
    async def clean() -> None: ...

    clean.declare_schedule("clean", NINE)
    with pytest.raises(
        ConfigError, match=r"^queue 'email' has another schedule 'clean' already: give this one another id$"
    ):
        clean.declare_schedule("clean", TEN)


def test_a_schedule_in_a_declaration_is_for_handlers_that_need_no_data(app: App) -> None:
    with pytest.raises(ConfigError, match=r"^the handler 'greet' needs data, .*name.*: use its declare_schedule\(…\)$"):

        @app.queue("email").handler(schedule=NINE)
        async def greet(name: str) -> None: ...


async def test_declared_schedules_are_put_once_an_outage_is_over(
    queue: Queue, store: Store, watched: WatchedStore
) -> None:
    watched.fail("put_schedule", "schedules")
    async with at_work(watched.as_store, served(declaring(store, NINE))):
        await watched.until_refused("schedules")
        watched.mend()
        await turn(store, 2_000)
        await watched.until_answered("put_schedule")

    assert (await record_of(queue, "clean")).pending


@pytest.mark.claim("A-29")
@pytest.mark.parametrize(
    ("variables", "level"),
    [({}, logging.INFO), ({"TORIL_ENV": "production", "ENABLE_SCHEDULER": "false"}, logging.WARNING)],
)
async def test_without_a_scheduler_nothing_is_put_and_runs_are_followed_all_the_same(
    queue: Queue,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variables: dict[str, str],
    level: int,
) -> None:
    """As in development, unless it is switched on."""
    caplog.set_level(logging.INFO, "toril")
    monkeypatch.delenv("ENABLE_SCHEDULER", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    await queue.schedule("report", HOURLY, "clean")

    async with running(declaring(store, NINE).worker()):
        for _ in range(3):
            await run_next(queue)

    assert [record.schedule.id for record in await queue.schedules()] == ["report"]
    assert (await record_of(queue)).pending
    said = "the schedules of queue email are not put here: clean (set ENABLE_SCHEDULER=true)"
    assert [record.levelno for record in caplog.records if record.message == said] == [level]


# ------------------------------------------------------------------ healing


async def given_vanished(queue: Queue, store: Store) -> ScheduleRecord:
    """A schedule whose run to come is not there: it was taken by hand, and removed as soon as it had ended."""
    await queue.schedule("report", HOURLY, keep_completed=False)
    await taken_by_hand(store, await record_of(queue))
    record = await record_of(queue)
    assert record.state is None
    return record


async def taken_by_hand(store: Store, record: ScheduleRecord) -> None:
    """Complete the run of a schedule that is to come, and make none that follows."""
    await store.promote([record.iteration])
    claim = await given.claim_one(store)
    assert claim.ref == record.iteration
    await given.complete(store, claim)


HEALED = "the schedule 'report' of queue email had no run to come: it has one again"


async def test_a_run_that_vanished_before_its_time_is_made_again(
    queue: Queue, store: Store, watched: WatchedStore, ran: Ran, caplog: pytest.LogCaptureFixture
) -> None:
    before = await given_vanished(queue, store)

    async with at_work(watched.as_store, ran), at_work(watched.as_store, ran):
        await watched.until_answered("advance_schedule")
        healed = await record_of(queue)
        assert (healed.iteration, healed.state) == (before.iteration, State.DELAYED)
        await run_next(queue)

    assert ran.ids == [before.iteration.id]
    assert caplog.messages.count(HEALED) == 1


async def test_of_a_run_that_vanished_after_its_time_the_next_one_is_made(
    queue: Queue, store: Store, watched: WatchedStore, ran: Ran, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have run."""
    before = await given_vanished(queue, store)
    clock_of(store).advance(before.next_at_ms - given.now_ms(store))

    async with at_work(watched.as_store, ran), at_work(watched.as_store, ran):
        await watched.until_answered("advance_schedule")
        assert (await record_of(queue)).next_at_ms == before.next_at_ms + HOUR_MS
        await run_next(queue)

    assert ran.ids == [f"repeat:report:{before.next_at_ms + HOUR_MS}"]
    assert caplog.messages.count(HEALED) == 1


async def test_a_run_that_has_ended_without_one_that_follows_is_followed(
    queue: Queue, store: Store, watched: WatchedStore, ran: Ran, caplog: pytest.LogCaptureFixture
) -> None:
    """Node makes none when a job of the next time is there already."""
    await queue.schedule("report", HOURLY)
    before = await record_of(queue)
    await taken_by_hand(store, before)
    clock_of(store).advance(before.next_at_ms - given.now_ms(store))

    async with at_work(watched.as_store, ran):
        await watched.until_answered("advance_schedule")
        await run_next(queue)

    assert ran.ids == [f"repeat:report:{before.next_at_ms + HOUR_MS}"]
    assert caplog.messages == [HEALED]


async def test_a_schedule_that_stands_still_is_found_within_a_minute(
    queue: Queue, store: Store, watched: WatchedStore, ran: Ran, caplog: pytest.LogCaptureFixture
) -> None:
    async with at_work(watched.as_store, ran):
        await scheduled(watched)
        left = Schedule("email", "report", cron("0 0 * * *"), "report")
        assert await store.put_schedule(left, None, None) is Placed.DONE

        await turn(store, MINUTE_MS)
        await watched.until_answered("advance_schedule")

        assert (await record_of(queue)).pending
    assert caplog.messages == [HEALED]


@pytest.mark.parametrize(
    ("timing", "problem"),
    [
        (Timing(pattern="every full moon", tz="UTC"), "cron pattern 'every full moon': "),
        (Timing(pattern="0 9 * * *", tz="Moon/Tycho"), "there is no time zone 'Moon/Tycho'"),
        (Timing(), "it has neither a pattern nor an interval"),
    ],
)
async def test_a_schedule_that_cannot_be_read_stops_neither_its_run_nor_the_worker(
    queue: Queue, store: Store, ran: Ran, caplog: pytest.LogCaptureFixture, timing: Timing, problem: str
) -> None:
    """Some other program has put it."""
    schedule = Schedule("email", "report", timing, "report")
    assert await store.put_schedule(schedule, None, hour(store, 1)) is Placed.DONE

    async with at_work(store, ran):
        record = await run_next(queue)
        await turn(store, 3 * MINUTE_MS)
        assert (record.state, ran.times) == (State.COMPLETED, 1)
        await queue.schedule("sound", every(60, offset=30))
        await run_next(queue, "sound")

    said = [message for message in caplog.messages if message.startswith("the schedule 'report' of queue email makes")]
    assert len(said) == 2  # as its run was taken, and as it stands still
    assert said[0].startswith(f"the schedule 'report' of queue email makes no more runs: {problem}")


# ------------------------------------------------------------------ the store goes away


@pytest.mark.parametrize("verb", ["schedules", "advance_schedule"])
async def test_a_run_waits_for_the_store_before_it_begins(
    queue: Queue, store: Store, watched: WatchedStore, ran: Ran, verb: str
) -> None:
    await queue.schedule("report", HOURLY)
    first = await record_of(queue)
    async with at_work(watched.as_store, ran):
        await quiet(store)
        watched.fail(verb)
        clock_of(store).advance(first.next_at_ms - given.now_ms(store))
        await watched.until_refused(verb)
        await turn(store, 5_000)
        assert ran.times == 0

        watched.mend()
        await turn(store, 1_000)
        await finished(store, first.iteration)

    assert ran.ids == [first.iteration.id]
    assert await runs_to_come(queue) == [f"repeat:report:{first.next_at_ms + HOUR_MS}"]


@pytest.mark.parametrize(("missed", "times"), [("once", 1), ("skip", 0)])
async def test_an_answer_that_is_lost_changes_nothing(
    queue: Queue, store: Store, watched: WatchedStore, ran: Ran, missed: str, times: int
) -> None:
    """What was decided for a run holds, though the next one is there when the store is asked again."""
    await queue.schedule("report", cron("0 * * * *", missed=missed))
    late = await record_of(queue)
    clock_of(store).advance(late.next_at_ms + 10 * MINUTE_MS - given.now_ms(store))

    answer = watched.hold("advance_schedule")
    async with at_work(watched.as_store, ran):
        await watched.until(lambda: len(watched.calls("advance_schedule")) == 1)
        await quiet(store)
        watched.fail("advance_schedule")
        answer.set()
        await watched.until_refused("advance_schedule")
        watched.mend()
        await turn(store, 1_000)
        await finished(store, late.iteration)

    assert ran.times == times
    assert await runs_to_come(queue) == [f"repeat:report:{late.next_at_ms + HOUR_MS}"]
    assert (await record_of(queue)).iterations == 2


# ------------------------------------------------------------------ changed times


async def test_a_schedule_whose_times_were_changed_in_a_pause_goes_on_by_the_new_ones(
    queue: Queue, store: Store
) -> None:
    scheduler = await queue.schedule("report", cron("0 0 1 1 *"))
    await scheduler.pause()
    await queue.schedule("report", cron("*/5 * * * *"))

    await scheduler.resume()

    assert (await record_of(queue)).next_at_ms - clock_of(store).now_ms() <= 5 * 60_000


async def test_a_changed_offset_moves_the_run_to_come(queue: Queue, store: Store) -> None:
    await queue.schedule("report", every(3600, offset=300))
    await queue.schedule("report", every(3600, offset=600))

    assert (await record_of(queue)).next_at_ms % HOUR_MS == 600_000
    await queue.schedule("report", every(3600))  # says nothing of it
    assert (await record_of(queue)).next_at_ms % HOUR_MS == 600_000
