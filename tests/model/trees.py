"""Random flows as plain trees, and what must become of them: said by recursion, without a store."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from toril.options import ChildPolicy

End = Literal["completed", "failed", "blocked"]

MAX_DEPTH = 6


@dataclass(eq=False)
class Node:
    """A job of a flow: what becomes of its runs when it may run, and what its failure does to its parent."""

    id: str
    queue: str
    policy: ChildPolicy
    completes: bool
    tries: int = 1  # runs until then; the ones before the last are retried
    parent: Node | None = None
    children: list[Node] = field(default_factory=list["Node"])

    def below(self) -> Iterator[Node]:
        """It and all jobs below it, each parent before its children."""
        yield self
        for child in self.children:
            yield from child.below()


def grow(size: int, seed: int, queues: tuple[str, ...]) -> Node:
    """A tree of so many nodes, no deeper than MAX_DEPTH."""
    rng = random.Random(seed)
    fails = rng.choice([0.05, 0.2, 0.5])
    policies = [*ChildPolicy]
    nodes: list[Node] = []
    depths: dict[Node, int] = {}
    for number in range(size):
        parents = [node for node in nodes if depths[node] < MAX_DEPTH]
        parent = rng.choice(parents[-20:] if rng.random() < 0.5 else parents) if nodes else None
        completes, tries = rng.random() >= fails, rng.choice([1, 1, 1, 2])
        node = Node(f"job-{number}", rng.choice(queues), rng.choice(policies), completes, tries, parent)
        depths[node] = 1 if parent is None else depths[parent] + 1
        nodes.append(node)
        if parent is not None:
            parent.children.append(node)
    return nodes[0]


def ends(root: Node) -> dict[Node, End]:
    """What each job of a tree ends as when nobody steps in: "blocked" if it waits for a child that has failed, or that is
    blocked itself."""
    known: dict[Node, End] = {}
    for node in reversed([*root.below()]):
        known[node] = _end(node, known)
    return known


def _end(node: Node, known: dict[Node, End]) -> End:
    failed = {child.policy for child in node.children if known[child] == "failed"}
    if ChildPolicy.FAIL in failed:
        return "failed"
    waits = ChildPolicy.WAIT in failed or any(known[child] == "blocked" for child in node.children)
    if waits and (node.completes or ChildPolicy.CONTINUE not in failed):
        return "blocked"
    return "completed" if node.completes else "failed"


def blocking(known: dict[Node, End]) -> list[Node]:
    """Failed jobs for which a parent waits that is blocked."""
    return [
        node
        for node, end in known.items()
        if end == "failed"
        and node.policy is ChildPolicy.WAIT
        and node.parent is not None
        and known[node.parent] == "blocked"
    ]
