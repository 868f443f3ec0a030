"""Workers that can be seen: ours say what they are in a registry, and Node lists workers by the names of connections."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from toril.clock import Clock
from toril.errors import StoreError, StoreUnavailable
from toril.model import WorkerInfo
from toril.options import DAY_MS
from toril.stores.redis.calls import Calls, literal
from toril.stores.redis.connection import Connections
from toril.stores.redis.fitness import pair
from toril.stores.redis.keys import Keys
from toril.stores.redis.line import Refused

log = logging.getLogger(__name__)

T = TypeVar("T")

REMEMBERED_MS: Final = DAY_MS
"""For how long the connections of a worker that fell silent are known to be ours."""

PEER_TTL_MS: Final = 30_000
"""For how long a connection that is open now counts as a worker that lives."""

_KNOWN: Final = frozenset(field.name for field in fields(WorkerInfo))


@dataclass
class _Shown:
    """The names that the workers of one loop show to Node, besides those of their bells."""

    names: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class RedisPresence(Calls):
    """`announce`, `workers`.

    On a worker's first queue its bell is the connection that Node sees; on each further one it is an idle connection, up to
    `visible_connections` in all.
    """

    def __init__(self, keys: Keys, connections: Connections, clock: Clock, visible_connections: int) -> None:
        super().__init__(keys, connections, clock, visible_connections)
        self._shown: WeakKeyDictionary[asyncio.AbstractEventLoop, _Shown] = WeakKeyDictionary()
        self._bells: dict[str, str] = {}

    async def announce(self, worker: WorkerInfo) -> None:
        gone = worker.state == "stopped"
        self._bells.pop(worker.id, None)
        if not gone and worker.queues:
            self._bells[worker.id] = client_name(self._keys, next(iter(worker.queues)), worker.name or worker.id)
        info = "" if gone else json.dumps(asdict(await self._moved(worker, 1)), ensure_ascii=False)
        ttl_ms = 0 if gone else worker.ttl_ms
        says = zip(
            worker.queues, [info, *[""] * len(worker.queues)], strict=False
        )  # on its first queue, and just there
        told = {"id": worker.id, "ttl_ms": ttl_ms, "remember_ms": REMEMBERED_MS}
        await asyncio.gather(*(self._run("announce", self._place(queue), info=said, **told) for queue, said in says))
        await self._show(worker, gone)
        if gone:
            self._connections.hang_up(worker.id)

    async def workers(self) -> list[WorkerInfo]:
        answers = await asyncio.gather(*(self._run("workers", self._place(queue)) for queue in await self._attended()))
        told = [(bool(lives), _read(text)) for answer in answers for lives, text in answer]
        ours = [await self._moved(worker, -1) for lives, worker in told if lives]
        ours.sort(key=lambda worker: worker.id)
        return [*ours, *await self._peers([worker for _, worker in told])]

    async def _moved(self, worker: WorkerInfo, sign: int) -> WorkerInfo:
        """What a worker says with its times by the server's clock, or, with -1, by this machine's."""
        ahead_ms = sign * (await self._connections.now_ms() - self._clock.now_ms())
        seen_at_ms, started_at_ms = worker.seen_at_ms + ahead_ms, worker.started_at_ms + ahead_ms
        return replace(worker, seen_at_ms=seen_at_ms, started_at_ms=started_at_ms)

    # ------------------------------------------------------------------ what Node sees of ours

    def _bell_name(self, worker: str, queues: Sequence[str]) -> str:
        """What the connection on which a worker waits goes by: its first queue, whichever it waits for now. "" for no name.

        With a slot for each queue a worker waits on several, called `worker queue`, and each goes by its own.
        """
        if not self._visible_connections:
            return ""
        if self._keys.sharded:
            return client_name(self._keys, queues[0], worker.removesuffix(f" {queues[0]}"))
        return self._bells.get(worker) or client_name(self._keys, queues[0], worker)

    async def _show(self, worker: WorkerInfo, gone: bool) -> None:
        shown = self._shown.setdefault(asyncio.get_running_loop(), _Shown())
        queues = list(worker.queues)
        if worker.id not in shown.names and not gone:
            self._say_unseen(worker, queues[self._visible_connections :])
        # With a slot for each queue, each has a bell of its own.
        further = [] if gone or self._keys.sharded else queues[1 : self._visible_connections]
        shown.names[worker.id] = [client_name(self._keys, queue, worker.name or worker.id) for queue in further]
        if gone:
            del shown.names[worker.id]
        async with shown.turn:
            with contextlib.suppress(StoreUnavailable):  # it is tried again with the worker's next word
                await self._connections.hold(sorted({name for names in shown.names.values() for name in names}))

    def _say_unseen(self, worker: WorkerInfo, queues: list[str]) -> None:
        if queues:
            log.log(
                logging.WARNING if self._visible_connections else logging.INFO,
                "Node's tools will not list worker %s on %s: they see a worker by a connection for each queue, and "
                "visible_connections is %d",
                worker.id,
                ", ".join(queues),
                self._visible_connections,
            )

    # ------------------------------------------------------------------ looking

    async def _attended(self) -> list[str]:
        """The queues on which a worker of ours has said that it lives."""
        found: set[str] = set()
        async for page in self._pages("*:py:workers"):
            found.update(self._keys.queue_of(key.removesuffix(":py:workers")) for key in page)
        return sorted(queue for queue in found if queue and ":" not in queue)

    async def _peers(self, ours: Collection[WorkerInfo]) -> list[WorkerInfo]:
        """Node's workers: none where this user may not see who is connected. `ours` are known, those that froze too."""
        listed: dict[str, str] | None = await _if_allowed(self._connections.everywhere("CLIENT", "LIST"))
        now_ms = self._clock.now_ms()
        known = {
            client_name(self._keys, queue, called)
            for worker in ours
            for queue in worker.queues
            for called in (worker.id, worker.name or worker.id)
        }
        peers: list[WorkerInfo] = []
        for node, lines in (listed or {}).items():
            clients = [dict(pair(word, "=") for word in line.split(" ")) for line in lines.splitlines()]
            found = (self._peer(client, now_ms) for client in clients if client.get("name", "") not in known)
            peers += [peer for peer in found if peer is not None and await self._waits_at(peer, node)]
        return peers

    async def _waits_at(self, peer: WorkerInfo, node: str) -> bool:
        """Whether a server holds the queue of a peer, which has a connection of its name to each node of a cluster."""
        return node == await self._connections.node_of(self._keys.base(next(iter(peer.queues))))

    def _peer(self, client: Mapping[str, str], now_ms: int) -> WorkerInfo | None:
        """The worker behind a connection, if its name is one that BullMQ gives to those of workers."""
        name, prefix = client.get("name", ""), f"{self._keys.prefix}:"
        encoded, colon, rest = name.removeprefix(prefix).partition(":")
        queue = _decoded(encoded)
        if not name.startswith(prefix) or queue is None or (colon and not rest.startswith("w:")):
            return None
        address = client.get("addr", "")
        return WorkerInfo(
            id=address,
            name=rest.removeprefix("w:"),
            host=address.rpartition(":")[0],
            pid=0,
            queues={self._keys.queue_of(prefix + queue): 1},  # BullMQ's default, since the server does not know
            started_at_ms=now_ms - 1000 * int(client.get("age", 0)),
            seen_at_ms=now_ms,
            ttl_ms=PEER_TTL_MS,
        )

    # ------------------------------------------------------------------ asking the server itself

    async def _asked(self, *words: str | int) -> Any:
        """The answer of a command that is not about keys; None where the server does not allow or know it."""
        return await _if_allowed(self._connections.command(*words, key=self._anywhere))

    def _pages(self, pattern: str) -> AsyncGenerator[list[str], None]:
        """The keys under the prefix that fit a pattern, some at a time; one may come twice."""
        return self._connections.scan(f"{literal(self._keys.prefix)}:{pattern}")

    @property
    def _anywhere(self) -> str:
        """Stands for the keys of all queues."""
        return f"{self._keys.prefix}:"


async def _if_allowed(asking: Awaitable[T]) -> T | None:
    """An answer; None where the server does not allow or know the question."""
    try:
        return await asking
    except StoreError as error:
        if isinstance(error.__cause__, Refused) and error.__cause__.code in ("NOPERM", "ERR"):
            return None
        raise


def client_name(keys: Keys, queue: str, worker: str) -> str:
    """What a connection must be called for Node to list a worker on a queue. Redis allows no blanks and no accents."""
    encoded = base64.b64encode(keys.shown(queue).encode()).decode()
    return f"{keys.prefix}:{encoded}:w:" + "".join(sign if "!" <= sign <= "~" else "-" for sign in worker)


def _decoded(encoded: str) -> str | None:
    try:
        return base64.b64decode(encoded, validate=True).decode() or None
    except ValueError:
        return None


def _read(text: str) -> WorkerInfo:
    """What a worker has said; one of a later Toril may say more."""
    return WorkerInfo(**{name: value for name, value in json.loads(text).items() if name in _KNOWN})
