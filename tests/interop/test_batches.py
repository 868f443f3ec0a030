"""What is done in one call leaves what the same things leave that are done one after the other."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from interop.golden.keyspace import Deviation, Dump, deviations
from interop.snapshot import Keyspace, snapshot
from interop.workload import Workload
from sizes import size
from toril.clock import TurnedClock
from toril.model import Receipt, Settled, Settlement, Unit, Wanted
from toril.stores.redis.store import RedisStore

STEPS_BETWEEN_SNAPSHOTS = 10
KEEPS = (True, True, False)
"""Rules that remove nothing later: when a batch has ended, a stricter rule in it may have removed more."""


class OneByOne(RedisStore):
    """A store that makes of each call on many things a call for each."""

    async def add(self, units: Sequence[Unit]) -> list[Receipt]:
        return [receipt for unit in units for receipt in await super(OneByOne, self).add([unit])]

    async def settle(self, settled: Sequence[Settlement], then: Wanted | None = None) -> Settled:
        answers = [await super(OneByOne, self).settle([one]) for one in settled]
        claimed = None if then is None else await self.claim(then)
        return Settled(
            tuple(ref for answer in answers for ref in answer.lost),
            tuple(ref for answer in answers for ref in answer.staying),
            tuple(refusal for answer in answers for refusal in answer.refused),
            claimed,
        )


async def life_of(store: RedisStore, clock: TurnedClock, redis: Any, seed: int) -> list[Keyspace]:
    """Lead a random life, and forget it; say how the keys stood now and then, and at the end."""
    life = Workload(seed, [store], clock, redis, keeps=KEEPS)
    spaces: list[Keyspace] = []
    try:
        for step in range(1, size("batched_steps") + 1):
            await life.step()
            if step % STEPS_BETWEEN_SNAPSHOTS == 0:
                spaces.append(await snapshot(redis.execute_command, store.prefix))
    finally:
        await store.close()
    await redis.delete(*spaces[-1].entries)
    return spaces


def values_of(space: Keyspace) -> Dump:
    """All keys but events, which have another order, markers, which may have been rung for what has gone by now, and what is
    kept for calls that are repeated, each under a name of its own."""
    return {
        key: sorted(entry.value) if entry.kind == "set" else entry.value
        for key, entry in space.entries.items()
        if not key.endswith((":events", ":marker")) and ":py:answer:" not in key
    }


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_batch_leaves_what_its_parts_leave_one_after_the_other(seed: int, redis_url: str, redis: Any) -> None:
    prefix = f"test-{uuid.uuid4().hex}"
    lives: list[list[Keyspace]] = []
    for kind in (RedisStore, OneByOne):
        clock = TurnedClock()
        lives.append(await life_of(kind(redis_url, prefix=prefix, clock=clock), clock, redis, seed))

    for place, (batched, single) in enumerate(zip(*lives, strict=True), 1):
        found: list[Deviation] = list(deviations(values_of(batched), values_of(single)))
        assert found == [], f"seed {seed}, step {place * STEPS_BETWEEN_SNAPSHOTS}"
