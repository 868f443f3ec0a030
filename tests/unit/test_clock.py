"""Time that stands still until it is turned."""

from __future__ import annotations

import asyncio
import threading
import time

from conformance.given import soon
from toril.clock import SYSTEM_CLOCK, TurnedClock, reached


async def test_a_turned_clock_stands_still() -> None:
    clock = TurnedClock(5)

    assert clock.turned
    assert clock.now_ms() == 5
    clock.advance(10)
    assert clock.now_ms() == 15


async def test_sleepers_wake_in_the_order_of_their_time() -> None:
    clock, woken = TurnedClock(), list[int]()

    async def sleep(ms: int) -> None:
        await clock.sleep_ms(ms)
        woken.append(ms)

    async with asyncio.TaskGroup() as group:
        for ms in (30, 10, 20):
            group.create_task(sleep(ms))
        await asyncio.sleep(0)
        clock.advance(100)

    assert woken == [10, 20, 30]


async def test_a_sleeper_sleeps_until_its_time_has_come() -> None:
    clock = TurnedClock()
    asleep = asyncio.ensure_future(clock.sleep_ms(10))
    await asyncio.sleep(0)

    clock.advance(9)
    await asyncio.sleep(0)
    assert not asleep.done()

    clock.advance(1)
    await soon(asleep)


async def test_no_time_at_all_is_not_slept() -> None:
    clock = TurnedClock()

    await soon(clock.sleep_ms(0))
    await soon(clock.sleep_ms(-5))


async def test_the_clock_says_when_the_next_sleeper_wakes_and_forgets_those_that_gave_up() -> None:
    clock = TurnedClock(0)
    assert clock.next_ms() is None
    early, late = asyncio.ensure_future(clock.sleep_ms(10)), asyncio.ensure_future(clock.sleep_ms(20))
    await asyncio.sleep(0)
    assert clock.next_ms() == 10

    early.cancel()
    await asyncio.wait([early])

    assert clock.next_ms() == 20
    clock.advance(20)
    await soon(late)
    assert clock.next_ms() is None


async def test_a_sleeper_on_another_loop_wakes_too() -> None:
    clock, asleep, awake = TurnedClock(), threading.Event(), threading.Event()

    async def sleep() -> None:
        sleeping = asyncio.ensure_future(clock.sleep_ms(10))
        await asyncio.sleep(0)
        asleep.set()
        await sleeping
        awake.set()

    thread = threading.Thread(target=lambda: asyncio.run(sleep()))
    thread.start()
    assert await asyncio.to_thread(asleep.wait, 20)

    clock.advance(10)

    assert await asyncio.to_thread(awake.wait, 20)
    thread.join()


async def test_a_sleeper_whose_loop_has_closed_does_not_trouble_the_clock() -> None:
    clock = TurnedClock()

    async def leave_asleep() -> None:
        asyncio.ensure_future(clock.sleep_ms(10))  # noqa: RUF006
        await asyncio.sleep(0)

    await asyncio.to_thread(asyncio.run, leave_asleep())

    clock.advance(10)
    assert clock.next_ms() is None


async def test_reached_says_whether_it_was_done_in_time() -> None:
    clock, loop = TurnedClock(), asyncio.get_running_loop()
    in_time, too_late = loop.create_future(), loop.create_future()
    first = asyncio.ensure_future(reached(clock, in_time, clock.now_ms() + 10))
    second = asyncio.ensure_future(reached(clock, too_late, clock.now_ms() + 10))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    in_time.set_result(None)
    assert await soon(first)
    clock.advance(10)
    assert not await soon(second)
    assert clock.next_ms() is None


async def test_reached_waits_for_ever_when_no_end_is_given() -> None:
    clock, future = TurnedClock(), asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(reached(clock, future, None))
    await asyncio.sleep(0)

    clock.advance(10**12)
    await asyncio.sleep(0)
    assert not waiting.done()

    future.set_result(None)
    assert await soon(waiting)


async def test_the_machines_clock_tells_the_time_and_is_not_turned() -> None:
    before_ms = time.time_ns() // 1_000_000
    shown_ms = SYSTEM_CLOCK.now_ms()

    assert not SYSTEM_CLOCK.turned
    assert before_ms <= shown_ms <= time.time_ns() // 1_000_000
    await soon(SYSTEM_CLOCK.sleep_ms(-1))
