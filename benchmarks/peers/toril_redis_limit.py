"""What the Redis store's scripts give without a worker around them: two loops that claim and settle, and call nothing."""

import asyncio
import json
import signal

from harness import CONCURRENCY, QUEUES, URL, on_job

from peers import toril_redis
from toril import connect
from toril.model import Completed, Settlement, Slots, Wanted

LOCK_MS = 30_000
DONE = Completed()


class PEER(toril_redis.PEER):
    async def work(self):
        store, stopped = connect(URL), asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)

        async def lane(number):
            slots, settled, turn = tuple(Slots(queue, CONCURRENCY // 2) for queue in QUEUES), [], 0
            while not stopped.is_set():
                turn += 1
                answer = await store.settle(settled, Wanted("limit", f"{number}:{turn}", LOCK_MS, slots))
                for claim in answer.claimed.claims:
                    await on_job(json.loads(claim.data))
                settled = [Settlement(claim, DONE) for claim in answer.claimed.claims]
                if not settled:
                    await asyncio.sleep(0.05)

        await asyncio.gather(lane(1), lane(2))
        await store.close()
