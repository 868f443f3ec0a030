"""Toril on its embedded SQLite file."""

import sys

from harness import CONCURRENCY, QUEUES, URL, Peer, on_job

from toril import App


class PEER(Peer):
    url = f"sqlite:///{URL}"

    def open(self):
        self.app = App(self.url)
        # Jobs are kept, so that W3S can see every one of them completed with its result.
        each = CONCURRENCY if len(QUEUES) == 1 else 10
        self.queues = {name: self.app.queue(name, concurrency=each, keep_completed=True) for name in QUEUES}

    async def add(self, queue, p):
        await self.queues[queue].add("job", p)

    async def add_many(self, queue, payloads):
        await self.queues[queue].add_many([("job", p) for p in payloads])

    async def close(self):
        await self.app.close()

    async def work(self):
        sys.setswitchinterval(0.0005)  # as the command `toril worker` does
        self.open()
        for queue in self.queues.values():

            @queue.handler("job")
            async def job(payload: dict, /):
                await on_job(payload)

        await self.app.worker().run()
