"""Names of BullMQ's keys: `<prefix>:<queue>:<suffix>`, where a suffix is one of the queue's own or a job's id."""

from __future__ import annotations

from toril.model import JobRef
from toril.states import State

COLLECTIONS: dict[State, str] = {
    State.WAITING: "wait",
    State.PRIORITIZED: "prioritized",
    State.DELAYED: "delayed",
    State.ACTIVE: "active",
    State.WAITING_CHILDREN: "waiting-children",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
}
"""Where the jobs of a state are."""

STATES: dict[str, State] = {name: state for state, name in COLLECTIONS.items()} | {"paused": State.WAITING}
"""The state of the jobs of a collection; `paused` is one that only old versions write."""


class Keys:
    """The keys under one prefix. With `sharded`, each queue's name is a hash tag of its own, as in `bull:{email}:wait`."""

    def __init__(self, prefix: str, *, sharded: bool = False) -> None:
        self.prefix = prefix
        self.sharded = sharded
        self._bases: dict[str, str] = {}

    def qualified(self, queue: str) -> str:
        """The queue's name in BullMQ's data, as in `bull:email`."""
        return f"{self.prefix}:{self.shown(queue)}"

    def shown(self, queue: str) -> str:
        """The queue's name as Node has it."""
        return f"{{{queue}}}" if self.sharded else queue

    def base(self, queue: str) -> str:
        """What all keys of a queue begin with, as in `bull:email:`."""
        base = self._bases.get(queue)
        if base is None:
            base = self._bases[queue] = f"{self.qualified(queue)}:"
        return base

    def job(self, ref: JobRef) -> str:
        return self.base(ref.queue) + ref.id

    def queue_of(self, qualified: str) -> str:
        """The queue of a qualified name. One under another prefix keeps its whole name: a ref cannot say it otherwise."""
        queue = qualified.removeprefix(f"{self.prefix}:")
        return queue[1:-1] if self.sharded and queue.startswith("{") and queue.endswith("}") else queue

    def ref_of(self, job_key: str) -> JobRef:
        """The job of a full job key.

        Ids may have colons, as those of schedules' runs have, and names of queues have none. A key under another prefix is
        cut at its last colon, as Node cuts all.
        """
        prefix = f"{self.prefix}:"
        if not job_key.startswith(prefix):
            qualified, _, job_id = job_key.rpartition(":")
            return JobRef(self.queue_of(qualified), job_id)
        name, _, job_id = job_key.removeprefix(prefix).partition(":")
        return JobRef(self.queue_of(prefix + name), job_id)


def tagged(prefix: str) -> str:
    """A prefix that keeps all queues in one slot of a cluster, as in `{bull}`."""
    tag, closed, _ = prefix.partition("{")[2].partition("}")
    return prefix if tag and closed else f"{{{prefix}}}"


class Places:
    """The queues of one script call, each named by its place in KEYS."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._places: dict[str, int] = {}
        self.bases: list[str] = []
        self.queues: list[str] = []

    def queue_at(self, place: int) -> str:
        return self.queues[place - 1]

    def of(self, queue: str) -> int:
        place = self._places.get(queue)
        if place is None:
            self.queues.append(queue)
            self.bases.append(self._keys.base(queue))
            place = self._places[queue] = len(self.bases)
        return place
