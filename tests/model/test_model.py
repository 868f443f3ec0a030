"""Random histories: whatever is done to a queue, every job is where the model says, moved as the table of moves allows."""

from __future__ import annotations

from typing import Any, cast

from redis import Redis

from model.histories import run_histories
from sizes import size
from toril.clock import TurnedClock
from toril.store import Store
from toril.stores.redis.store import RedisStore


def test_random_histories_keep_to_the_model() -> None:
    run_histories(examples=size("model_examples"), steps=size("model_steps"))


def test_random_histories_on_redis_keep_to_the_model(redis_url: str) -> None:
    url = redis_url.rpartition("/")[0] + "/14"  # a turn of the clock looks through the whole database: one of its own

    def open_redis(clock: TurnedClock) -> Store:
        with cast("Any", Redis).from_url(url) as redis:
            redis.flushdb()
        return RedisStore(url, prefix="model", clock=clock)

    run_histories(examples=size("model_redis_examples"), steps=size("model_steps"), open_store=open_redis)
