"""Random flows under workers in random order: each job ends as the plain recursion says, and none runs before its turn."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Iterator
from typing import cast

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from model.trees import Node, blocking, ends, grow
from sizes import size
from toril.clock import TurnedClock
from toril.errors import WrongState
from toril.flow import add_flows, blocked, flow_of
from toril.job import Call
from toril.model import (
    AwaitingChildren,
    Child,
    Claim,
    Completed,
    Failed,
    JobRef,
    Outcome,
    Retried,
    Settlement,
    Slots,
    Wanted,
)
from toril.options import ChildPolicy, JobOptions
from toril.queue import Queue
from toril.states import FINISHED, State
from toril.store import Store
from toril.stores.redis.store import RedisStore
from toril.stores.sqlite.store import SqliteStore

QUEUES = ("albums", "images", "pixels")
LOCK_MS = 30_000
HANDS = 5

OpenStore = Callable[[], Store]


def run_flows(open_store: OpenStore, *, examples: int) -> None:
    """Lead this many random flows to their ends, each in an empty store."""

    @settings(
        max_examples=examples,
        phases=[Phase.generate, Phase.shrink],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(nodes=st.integers(2, size("flow_nodes")), seed=st.integers(0, 2**32))
    def lead(nodes: int, seed: int) -> None:
        asyncio.run(_lead(open_store(), grow(nodes, seed, QUEUES), random.Random(seed)))

    lead()


async def _lead(store: Store, root: Node, rng: random.Random) -> None:
    try:
        await Flow(store, root, rng).run()
    finally:
        await store.close()


def ref_of(node: Node) -> JobRef:
    return JobRef(node.queue, node.id)


def call_of(node: Node) -> Call:
    options = JobOptions(job_id=node.id, attempts=node.tries)
    if node.parent is not None:
        options["parent_on_failure"] = node.policy
    return Call("job", node.id, options, node.queue, tuple(map(call_of, node.children)))


class Flow:
    """A flow, the workers that run it, and what they have seen of it."""

    def __init__(self, store: Store, root: Node, rng: random.Random) -> None:
        self.store, self.root, self.rng = store, root, rng
        self.nodes = {node.id: node for node in root.below()}
        self.ended: dict[Node, State] = {}
        self.results: dict[Node, str] = {}
        self.reasons: dict[Node, str] = {}
        self.let_go: set[Node] = set()  # parents that a failed child has released before their time
        self.runs = 0

    async def run(self) -> None:
        """Work until nothing is left, and step in where a failed child blocks its parent."""
        queues = {name: Queue(name, self.store) for name in QUEUES}
        await add_flows(self.store, queues.__getitem__, [call_of(self.root)])
        await self._work()
        while await self._step_in():
            await self._work()
        await self._compare()
        assert set(self.ended) == set(self.nodes.values())

    # ---------------------------------------------------------------- workers

    async def _work(self) -> None:
        """Claim and settle in random order until no queue has anything."""
        held: list[Claim] = []
        while True:
            if len(held) < HANDS and self.rng.random() < 0.6:
                held += await self._claim()
            elif held:
                await self._settle(held.pop(self.rng.randrange(len(held))), held)
            else:
                held += await self._claim()
                if not held:
                    return

    async def _claim(self) -> list[Claim]:
        self.runs += 1
        free = self.rng.randint(1, 3)
        slots = tuple(Slots(queue, free) for queue in self.rng.sample(QUEUES, len(QUEUES)))
        claimed = await self.store.claim(Wanted("w1", f"token-{self.runs}", LOCK_MS, slots))
        for claim in claimed.claims:
            await self._check_turn(self.nodes[claim.ref.id])
        return list(claimed.claims)

    async def _check_turn(self, node: Node) -> None:
        """A job runs when it waits for no child any more, or a failed one has let it go."""
        assert node not in self.ended, f"{node.id} runs again, though it has ended"
        waits_for = [child.id for child in node.children if self._is_awaited(child)]
        assert not waits_for or node in self.let_go, f"{node.id} runs, and {waits_for} have not ended"
        await self._check_children(node)

    def _is_awaited(self, child: Node) -> bool:
        end = self.ended.get(child)
        return end is None or (end is State.FAILED and child.policy is ChildPolicy.WAIT)

    async def _settle(self, claim: Claim, held: list[Claim]) -> None:
        node = self.nodes[claim.ref.id]
        outcome = self._outcome(node, claim)
        settled = await self.store.settle([Settlement(claim, outcome)])
        if settled.refused:
            outcome = await self._settle_refused(node, claim, settled.refused[0].error)
        self._note(node, outcome)

    def _outcome(self, node: Node, claim: Claim) -> Outcome:
        if claim.deferred is not None:
            return Failed(claim.deferred)
        if claim.attempt < node.tries:
            return Retried(0, "once more")
        if node.completes:
            return Completed(f'"{node.id} in run {claim.started}"')
        return Failed(f"{node.id} cannot")

    async def _settle_refused(self, node: Node, claim: Claim, error: Exception) -> Outcome:
        """A parent that was let go cannot complete: it waits for the rest of its children, or fails with the failed one."""
        assert node in self.let_go, f"{node.id} may not complete: {error}"
        outcome = AwaitingChildren() if isinstance(error, WrongState) else Failed(str(error))
        settled = await self.store.settle([Settlement(claim, outcome)])
        if settled.refused:
            outcome = Failed(str(settled.refused[0].error))
            settled = await self.store.settle([Settlement(claim, outcome)])
        assert (settled.lost, settled.staying, settled.refused) == ((), (), ())
        return outcome

    def _note(self, node: Node, outcome: Outcome) -> None:
        match outcome:
            case Completed(result=result):
                self.ended[node], self.results[node] = State.COMPLETED, result
            case Failed(reason=reason):
                self.ended[node], self.reasons[node] = State.FAILED, reason
                if node.parent is not None and node.policy in (ChildPolicy.FAIL, ChildPolicy.CONTINUE):
                    self.let_go.add(node.parent)
            case AwaitingChildren():
                self.let_go.discard(node)
            case _:
                pass

    # ---------------------------------------------------------------- stepping in

    async def _step_in(self) -> bool:
        """Retry the failed jobs that others wait for, with all that has failed below them; they complete now."""
        await self._compare()
        known = ends(self.root)
        found = [pair for queue in QUEUES for pair in await blocked(self.store, queue)]
        top = blocking(known)
        assert sorted(child for _, child in found) == sorted(map(ref_of, top))
        for node in reversed(top):
            again = [below for below in self._linked(node) if self.ended.get(below) is State.FAILED]
            assert await flow_of(ref_of(node), self.store).retry() == len(again)
            for below in again:
                below.completes, below.tries = True, 1
                self.let_go.discard(below)
                del self.ended[below], self.reasons[below]
        return bool(top)

    def _linked(self, node: Node) -> Iterator[Node]:
        """It and those below that their parents still know."""
        yield node
        for child in node.children:
            if self._as_seen(child) is not None:
                yield from self._linked(child)

    # ---------------------------------------------------------------- comparing

    async def _compare(self) -> None:
        """Nothing runs or may run: each job is where the recursion says, and each parent knows what became of its children."""
        for node, end in ends(self.root).items():
            [record] = await self.store.get([ref_of(node)])
            assert record is not None, f"{node.id} is lost"
            state = State.WAITING_CHILDREN if end == "blocked" else State(end)
            assert record.state is state, f"{node.id} is {record.state} and should be {state}"
            assert (record.state in FINISHED) == (node in self.ended)
            if node.children:
                await self._check_children(node)

    async def _check_children(self, node: Node) -> None:
        found = {child.ref: child for child in await self.store.children(ref_of(node))}
        expected = {ref_of(child): seen for child in node.children if (seen := self._as_seen(child)) is not None}
        assert found == expected

    def _as_seen(self, node: Node) -> Child | None:
        """A child as its parent must see it."""
        ref, end = ref_of(node), self.ended.get(node)
        if end is State.COMPLETED:
            return Child(ref, "completed", result=self.results[node])
        if end is None or node.policy is ChildPolicy.WAIT:
            return Child(ref, "pending")
        if node.policy is ChildPolicy.REMOVE:
            return None
        return Child(ref, "failed" if node.policy is ChildPolicy.FAIL else "ignored", reason=self.reasons[node])


def test_random_flows_end_as_the_recursion_says() -> None:
    run_flows(lambda: SqliteStore(":memory:", clock=TurnedClock()), examples=size("flow_examples"))


def test_random_flows_on_redis_end_as_the_recursion_says(redis_url: str) -> None:
    def open_store() -> Store:
        return cast("Store", RedisStore(redis_url, prefix=f"flow-{uuid.uuid4().hex}", clock=TurnedClock()))

    run_flows(open_store, examples=size("flow_redis_examples"))
