"""The steps of BullMQ's own recordings, taken through the seam, leave in Redis what Node has left there."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, cast

import pytest
from redis.asyncio import Redis

from interop.golden.keyspace import ANYTHING, T0, Difference, differences, expected, taken
from toril.clock import TurnedClock
from toril.errors import ConfigError
from toril.model import (
    Claim,
    Completed,
    Failed,
    JobRef,
    NewJob,
    Outcome,
    Parent,
    Retried,
    Settlement,
    Slots,
    Unit,
    Wanted,
)
from toril.options import Backoff, JobOptions, resolve
from toril.stores.redis.store import RedisStore

DUMPS = Path(__file__).parent / "dumps"
STEP_MS = 10
LOCK_MS = 30_000
JOB = r"bull:\w+:(\d+|[A-Z]\d?)"
KEEP_COMPLETED = {"age": 86_400, "count": 1_000}
KEEP_FAILED = {"age": 604_800, "count": 5_000}

DIFFERENCES = [
    Difference(
        JOB, "/value/opts/removeOnComplete", KEEP_COMPLETED, None, "our default rule is written, as Node keeps for ever"
    ),
    Difference(
        JOB, "/value/opts/removeOnFail", KEEP_FAILED, None, "our default rule is written, as Node keeps for ever"
    ),
    Difference(JOB, "/value/opts/attempts", 1, 0, "both mean one attempt; Node writes 0 when none was given"),
    Difference(JOB, "/value/opts/priority", None, 0, "the default is not written"),
    Difference(JOB, "/value/py:history", ANYTHING, None, "the attempts of a job, which Node passes over"),
    Difference(JOB, "/value/py:nonce", ANYTHING, None, "tells the repeat of an add with a chosen id from a second one"),
    Difference(
        r"bull:\w+:meta",
        "/value/version",
        None,
        "bullmq:6.7.0",
        "a label that each Node queue overwrites and none reads",
    ),
]
"""All that may differ, and why."""


class Replay:
    """Takes steps through the seam; the clock moves 10 ms after each, as in the recordings."""

    def __init__(self, name: str, store: RedisStore, clock: TurnedClock, redis: Any) -> None:
        [path] = DUMPS.glob(f"{name}-*.json")
        self.golden: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.store = store
        self.redis = redis
        self._clock = clock
        self._ids = itertools.count(1)
        self._steps = 0
        self._compared: set[int] = set()

    async def compare(self) -> None:
        """Compare with the snapshot of this step if there is one, or with the end."""
        keys, events = await taken(self.redis.execute_command, self._clock.now_ms())
        ends = [self.golden] if self._steps == len(self.golden["steps"]) else []
        for dump in [*(shot for shot in self.golden.get("snapshots", ()) if shot["after_step"] == self._steps), *ends]:
            wanted_keys, wanted_events = expected(dump)
            found = [
                difference
                for difference in differences(keys, wanted_keys)
                if not any(allowed.covers(*difference) for allowed in DIFFERENCES)
            ]
            assert found == [], f"after step {self._steps}"
            assert events == wanted_events, f"after step {self._steps}"
            assert [list(event["fields"]) for event in events] == [list(event["fields"]) for event in wanted_events]
            self._compared.add(self._steps)

    async def finish(self) -> None:
        """Every step was taken, and every dump compared."""
        steps: list[str] = self.golden["steps"]
        shots = {shot["after_step"] for shot in self.golden.get("snapshots", ())}
        assert self._compared == shots | {len(steps)}

    async def step(self, awaitable: Awaitable[Any] | None = None, *, same_ms: bool = False) -> Any:
        result = None if awaitable is None else await awaitable
        self._steps += 1
        await self.compare()
        if not same_ms:
            self._clock.advance(STEP_MS)
        return result

    def pass_ms(self, ms: int) -> None:
        self._clock.advance(ms)

    def job(self, name: str, data: str = "{}", *, queue: str = "golden", **options: Unpack[JobOptions]) -> NewJob:
        chosen = options.get("job_id")
        return NewJob(
            queue=queue,
            name=name,
            id=str(next(self._ids)) if chosen is None else chosen,
            data=data,
            options=resolve(options, self._clock.now_ms()),
            created_at_ms=self._clock.now_ms(),
            nonce=None if chosen is None else f"nonce-{chosen}",
        )

    async def add(self, *jobs: NewJob) -> None:
        [receipt] = await self.store.add([Unit(jobs)])
        assert receipt.refusal is None

    async def claim(self, token: str, *, queue: str = "golden", worker: str = "") -> Claim | None:
        claimed = await self.store.claim(Wanted(worker, token, LOCK_MS, (Slots(queue, 1),)))
        return claimed.claims[0] if claimed.claims else None

    async def settle(self, claim: Claim, outcome: Outcome) -> None:
        settled = await self.store.settle([Settlement(claim, outcome)])
        assert settled.lost == ()

    async def recover(self) -> list[str]:
        recovered = await self.store.recover(["golden"], max_stalled=1, interval_ms=30_000)
        return [ref.id for ref in (*recovered.requeued, *recovered.deferred)]

    async def expire(self, key: str) -> None:
        assert await self.redis.delete(f"bull:golden:{key}") == 1


@pytest.fixture
async def replay(request: pytest.FixtureRequest, redis_url: str, clock: TurnedClock) -> AsyncIterator[Replay]:
    """A replay of the recording of this number, on an empty database of its own."""
    url = redis_url.rpartition("/")[0] + "/15"
    redis: Any = cast("Any", Redis).from_url(url, decode_responses=True)
    await redis.flushdb()
    store = RedisStore(url, clock=clock)
    assert clock.now_ms() == T0
    replay = Replay(request.param, store, clock, redis)
    yield replay
    await replay.finish()
    await store.close()
    await redis.aclose()


def recording(number: str) -> Callable[..., Any]:
    return pytest.mark.parametrize("replay", [number], indirect=True)


@recording("01")
async def test_plain_jobs(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("paint", '{"color":"red"}')))
    await replay.step(replay.add(replay.job("paint", '{"color":"é"}')))


@recording("04")
async def test_delayed_jobs(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("d", delay=5)), same_ms=True)
    await replay.step(replay.add(replay.job("d", delay=5)), same_ms=True)
    await replay.step(replay.add(replay.job("d", delay=1)))
    await replay.step(replay.add(replay.job("d", delay=2, priority=3)))


@recording("05")
async def test_prioritized_jobs(replay: Replay) -> None:
    for priority in (5, 1, 5, 2_097_151):
        await replay.step(replay.add(replay.job("p", priority=priority)))
    with pytest.raises(ConfigError, match="2,097,151"):
        resolve({"priority": 2_097_152}, T0)
    await replay.step()
    await replay.step(replay.add(replay.job("p", priority=0)))


@recording("08")
async def test_jobs_that_become_active(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("p", priority=3)))
    await replay.step(replay.add(replay.job("n")))
    first = await replay.step(replay.claim("tok-a", worker="w-one"))
    second = await replay.step(replay.claim("tok-b", worker="w-one"))
    nothing = await replay.step(replay.claim("tok-c", worker="w-one"))

    assert [first.ref.id, second.ref.id, nothing] == ["2", "1", None]


@recording("09")
async def test_a_job_that_completes(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("n", '{"a":1}')))
    claim = await replay.step(replay.claim("t"))
    await replay.step(replay.settle(claim, Completed('{"ok":true,"s":"é"}')))


@recording("14")
async def test_a_job_that_fails_is_delayed_by_its_backoff_and_fails_for_good(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("n", attempts=3, backoff=Backoff.exponential(1))))
    claim = await replay.step(replay.claim("t1"))
    await replay.step(replay.settle(claim, Retried(1_000, "one", "<stack of Error: one>")))
    replay.pass_ms(1_000)
    claim = await replay.step(replay.claim("t2"))
    await replay.step(replay.settle(claim, Failed("stop", "<stack of UnrecoverableError: stop>")))


@recording("21")
async def test_a_job_that_stalls_twice(replay: Replay) -> None:
    reason = "job stalled more than allowable limit"
    await replay.step(replay.add(replay.job("n")))
    await replay.step(replay.claim("t1"))
    await replay.step(replay.expire("1:lock"))
    assert await replay.step(replay.recover()) == []
    assert await replay.step(replay.recover()) == []
    await replay.step(replay.expire("stalled-check"))
    assert await replay.step(replay.recover()) == ["1"]
    claim = await replay.step(replay.claim("t2"))
    await replay.step(replay.expire("stalled-check"))
    assert await replay.step(replay.recover()) == []
    assert await replay.step(replay.store.extend([claim], LOCK_MS)) == []
    await replay.step(replay.expire("stalled-check"))
    assert await replay.step(replay.recover()) == []
    await replay.step(replay.expire("1:lock"))
    await replay.step(replay.expire("stalled-check"))
    assert await replay.step(replay.recover()) == ["1"]
    claim = await replay.step(replay.claim("t3"))
    assert claim.deferred == reason
    await replay.step(replay.settle(claim, Failed(reason, f"<stack of UnrecoverableError: {reason}>")))


@recording("24")
async def test_a_flow_whose_children_complete(replay: Replay) -> None:
    flow = [
        replace(replay.job("parent", '{"p":1}', queue="parents", job_id="P"), has_children=True),
        *(
            replace(
                replay.job("child", f'{{"c":{n}}}', queue="kids", job_id=f"C{n}"), parent=Parent(JobRef("parents", "P"))
            )
            for n in (0, 1)
        ),
    ]
    await replay.step(replay.add(*flow))
    for n in (0, 1):
        claim = await replay.step(replay.claim(f"c{n}", queue="kids"))
        await replay.step(replay.settle(claim, Completed(f'{{"n":{n}}}')))
    parent = await replay.step(replay.claim("p", queue="parents"))
    children = await replay.step(replay.store.children(parent.ref))
    assert {child.ref.id: child.result for child in children} == {"C0": '{"n":0}', "C1": '{"n":1}'}
    await replay.step(replay.settle(parent, Completed('"done"')))
