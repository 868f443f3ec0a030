"""Schedules, and the runs that they make, stand in Redis as Node's job schedulers do."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from interop.golden.keyspace import T0
from interop.golden.replay import Replay, recording, ref
from toril.model import Answer, Claim, Completed, Placed, Schedule, ScheduleRecord, iteration_id
from toril.options import JobOptions, resolve
from toril.timing import Timing

FIVE_MINUTELY = "0 */5 * * * *"
HOURLY = "0 0 * * * *"


async def seen(replay: Replay, id: str) -> ScheduleRecord | None:
    found = await replay.store.schedules("golden", id)
    return found[0] if found else None


async def put(
    replay: Replay,
    id: str,
    timing: Timing,
    at_ms: int,
    *,
    name: str = "",
    data: str = "{}",
    **options: Unpack[JobOptions],
) -> None:
    """Put a schedule whose next run is at a time."""
    wanted = replace(resolve(options, replay.now_ms()), backoff=None)
    schedule = Schedule("golden", id, timing, name or id, data, wanted)
    assert await replay.store.put_schedule(schedule, await seen(replay, id), at_ms) is Placed.DONE


async def take(replay: Replay, token: str, at_ms: int) -> Claim:
    """Take a run, and make the one after it."""
    claim = await replay.claim_one(token)
    assert claim.schedule is not None
    record = await seen(replay, claim.schedule)
    assert record is not None
    assert record.iteration == claim.ref
    assert await replay.store.advance_schedule(record, at_ms) is Placed.DONE
    return claim


@recording("35")
async def test_a_schedule_at_an_interval(replay: Replay) -> None:
    minutely = Timing(every_ms=60_000)
    pending = ref(iteration_id("s1", T0 + 60_000))

    await replay.step(put(replay, "s1", minutely, T0, name="tick", data='{"a":1}', attempts=2))
    claim = await replay.step(take(replay, "t1", T0 + 60_000))
    assert await replay.step(replay.settle(claim, Completed("1")))
    assert await replay.step(replay.store.remove([pending])) == [Answer.WRONG_STATE]
    await replay.step(put(replay, "s1", minutely, T0 + 60_000, name="tick", data='{"a":2}'))
    [record] = await replay.step(replay.store.schedules("golden"))

    assert (record.iteration, record.iterations, record.count) == (pending, 2, 1)
    assert (record.schedule.name, record.schedule.data) == ("tick", '{"a":2}')
    assert record.schedule.timing == Timing(every_ms=60_000, offset_ms=20_000)


@recording("36")
async def test_an_interval_with_an_offset_a_start_or_a_limit(replay: Replay) -> None:
    await replay.step(put(replay, "off", Timing(every_ms=60_000, offset_ms=5_000), T0 + 45_000))
    await replay.step(put(replay, "start", Timing(every_ms=60_000, start_at_ms=T0 + 90_000), T0 + 90_000))
    await replay.step(put(replay, "lim", Timing(every_ms=1_000, limit=2), T0 + 20))
    await replay.step(take(replay, "t1", T0 + 1_020))
    replay.pass_ms(1_000)
    last = await replay.step(replay.claim_one("t2"))

    record = await seen(replay, "lim")
    assert record is not None
    assert (record.iteration, record.count) == (last.ref, 2)


@recording("37")
async def test_a_schedule_by_a_pattern(replay: Replay) -> None:
    limited = Timing(FIVE_MINUTELY, "UTC", limit=10, end_at_ms=T0 + 86_400_000)
    hourly = Timing(HOURLY, "UTC", immediately=True)

    await replay.step(put(replay, "c1", limited, T0 + 100_000, data='{"z":1}', priority=3, keep_completed=0))
    await replay.step(put(replay, "c2", hourly, T0 + 10, name="now"))
    await replay.step(take(replay, "t1", T0 + 2_800_000))
    assert await replay.step(replay.store.remove_schedule("golden", "c1"))
    assert not await replay.step(replay.store.remove_schedule("golden", "nope"))
