"""What can be wrong in a queue's keys, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from toril.model import Finding

TOLD_ONE_BY_ONE: Final = 20
EXAMPLES: Final = 3

KINDS: Final = {
    "meta": "hash",
    "id": "string",
    "pc": "string",
    "wait": "list",
    "paused": "list",
    "active": "list",
    "prioritized": "zset",
    "delayed": "zset",
    "waiting-children": "zset",
    "completed": "zset",
    "failed": "zset",
    "marker": "zset",
    "stalled": "set",
    "stalled-check": "string",
    "limiter": "string",
    "events": "stream",
    "repeat": "zset",
    "metrics:completed": "hash",
    "metrics:failed": "hash",
    "metrics:completed:data": "list",
    "metrics:failed:data": "list",
}
"""The keys that a queue has besides its jobs, and what Redis calls their kinds."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of damage.

    `one` and `many` say what is wrong, with {id}, {detail} and {count}; `so` what comes of it. `mends` says what `repair` does
    about it and `done` what it has done; both are empty where it does nothing. `cure` is what people can do.
    """

    level: Literal["warning", "error"]
    one: str
    many: str
    so: str
    mends: str = ""
    done: str = ""
    cure: str = ""


DAMAGE: Final = {
    "wrong-kind": Kind(
        "error",
        "its key {id!r} is {detail}",
        "{count} of its keys are of a wrong kind",
        "what needs it fails",
        cure="find out who else writes under this prefix, and delete or rename the key",
    ),
    "dangling": Kind(
        "error",
        "id {id} in {detail} has no job",
        "{count} ids have no job",
        "Node runs it as a job without a name",
        mends="takes it out",
        done="taken out",
    ),
    "no-job": Kind(
        "error",
        "the key of job {id} is {detail}, not a hash",
        "the keys of {count} jobs are no hashes",
        "whoever takes it fails",
        cure="find out who else writes under this prefix; delete the key, and repair",
    ),
    "twice": Kind(
        "error",
        "job {id} is in {detail}",
        "{count} jobs are in several places at once",
        "it may run twice, and is counted twice",
        mends="leaves it there only",
        done="left there only",
    ),
    "lost": Kind(
        "warning",
        "job {id} is in no list, and belongs in {detail}",
        "{count} jobs are in no list",
        "nobody finds it",
        mends="puts it there",
        done="put there",
    ),
    "locked": Kind(
        "warning",
        "job {id} is in no list, and under a lock",
        "{count} jobs are in no list, and under a lock",
        "its worker cannot record how it ends",
        cure="look again when its worker has given it up; then it can be put back",
    ),
    "json": Kind(
        "error",
        "{detail} of job {id} is not JSON as it must be",
        "texts of {count} jobs are not JSON as they must be",
        "Node's workers, lists and dashboards fail on it",
        cure="remove the job, or write the field anew",
    ),
    "marker": Kind(
        "warning",
        "jobs wait, {id} first, and no marker wakes a worker",
        "jobs wait, and no marker wakes a worker",
        "idle workers see them only when they look by themselves, after some seconds",
        mends="sets the marker",
        done="the marker is back",
    ),
    "paused-list": Kind(
        "warning",
        "{detail} jobs are in the list `paused` of BullMQ 5",
        "{detail} jobs are in the list `paused` of BullMQ 5",
        "no worker of today takes them",
        mends="moves them to wait, in their order",
        done="moved to wait, in their order",
        cure="first stop what uses BullMQ 5 on this queue",
    ),
    "old-schedule": Kind(
        "warning",
        "{id!r} is a repeatable job of BullMQ 5 or older",
        "{count} repeatable jobs are of BullMQ 5 or older",
        "nobody adds its next run",
        cure="remove it with the BullMQ that made it, and make a schedule in its place",
    ),
    "limiter": Kind(
        "warning",
        "the counter of its rate limit never expires",
        "the counter of its rate limit never expires",
        "the limit does not hold",
        mends="deletes it, and the next job begins a new window",
        done="deleted, so that the next job begins a new window",
    ),
    "stalled-check": Kind(
        "error",
        "the note that somebody has looked for stalled jobs never expires",
        "the note that somebody has looked for stalled jobs never expires",
        "nobody looks again, and jobs of workers that died stay active",
        mends="deletes it, and workers look again",
        done="deleted, so that workers look again",
    ),
    "old-marker": Kind(
        "warning",
        "{id!r} in {detail} is a marker of an old BullMQ, and no job",
        "{count} entries are markers of an old BullMQ, and no jobs",
        "it is counted as a job",
        mends="takes it out",
        done="taken out",
    ),
    "childless": Kind(
        "warning",
        "job {id} waits for children, and has none",
        "{count} jobs wait for children, and have none",
        "it waits for ever",
        mends="lets it run",
        done="put where it waits for a worker",
    ),
    "owned": Kind(
        "warning",
        "deduplication id {id!r} is owned by job {detail}, which has ended or is gone",
        "{count} deduplication ids are owned by jobs that have ended or are gone",
        "Node makes no job under it",
        mends="forgets its owner",
        done="its owner is forgotten",
    ),
    "kept": Kind(
        "warning",
        "a job {detail!r} was kept until the owner of deduplication id {id!r} has ended, and it has none",
        "{count} jobs were kept until the owners of their deduplication ids have ended, and these have none",
        "nobody adds it",
        mends="adds it",
        done="added",
    ),
    "unlocked": Kind(
        "warning",
        "job {id} is active without a lock, and nobody looks for stalled jobs",
        "{count} jobs are active without a lock, and nobody looks for stalled jobs",
        "it stays so",
        cure="start a worker: it puts it back within two checks",
    ),
}


@dataclass
class Damage:
    """What was found in one queue, and with `mended` what was mended."""

    queue: str
    mended: bool
    found: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])

    def add(self, kind: str, id: str, detail: str = "") -> None:
        """Note one case. The same id is noted once for each kind; what was looked at for mending and cannot be, never."""
        if DAMAGE[kind].mends or not self.mended:
            self.found.setdefault(kind, {}).setdefault(id, detail)

    def findings(self) -> list[Finding]:
        """Each case, or, of one kind that is frequent, how many there are."""
        told: list[Finding] = []
        for kind in (kind for kind in DAMAGE if kind in self.found):
            cases = self.found[kind]
            if len(cases) > TOLD_ONE_BY_ONE:
                told.append(self._finding(kind, _summed(DAMAGE[kind], cases)))
            else:
                told += [self._finding(kind, _said(DAMAGE[kind], *case)) for case in cases.items()]
        return told

    def _finding(self, kind: str, said: str) -> Finding:
        known, about = DAMAGE[kind], f"queue {self.queue}"
        if self.mended:
            return Finding("ok", about, f"{said}: {known.done}")
        steps = [known.cure] if known.cure else []
        if known.mends:
            steps.append(f"`toril doctor --repair` {known.mends}")
        return Finding(known.level, about, f"{said}: {known.so}", "; ".join(steps), mendable=bool(known.mends))


def _said(kind: Kind, id: str, detail: str) -> str:
    return kind.one.format(id=id, detail=detail)


def _summed(kind: Kind, cases: dict[str, str]) -> str:
    examples = [_said(kind, *case) for case, _ in zip(cases.items(), range(EXAMPLES), strict=False)]
    return f"{kind.many.format(count=f'{len(cases):,}')}, as in: {'; '.join(examples)}"
