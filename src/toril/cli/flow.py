"""`toril flow`: the jobs below a job, as a tree."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from toril.cli.command import OK, Call, Commands, job_ref, whole_number
from toril.cli.output import counted
from toril.flow import Tree, read_tree
from toril.model import JobRecord, JobRef

SHOWN = 10


def add_to(commands: Commands) -> None:
    parser = commands.add(
        "flow", run, "draw the tree of a flow", "Draw a job and those below it, and say which of them hold up others."
    )
    parser.add_argument("job", type=job_ref, metavar="QUEUE/ID", help="the job at the top, or any other of the flow")
    parser.add_argument("--depth", type=whole_number, default=10, metavar="N", help="at most N levels below it (10)")
    parser.add_argument("--json", action="store_true", help="as JSON")


async def run(call: Call) -> int:
    ref: JobRef = call.args.job
    async with call.store() as store:
        tree = await read_tree(store, ref, depth=call.args.depth)
    if call.args.json:
        blocked = [{"parent": _parent(record), "child": record.ref} for record in tree.blocked_by]
        call.screen.json({"flow": tree, "blocked": blocked})
        return OK
    for line, job in itertools.zip_longest(str(tree).split("\n"), _jobs(tree)):
        if job is None or job.record is None:
            call.screen.drawn(line or "")
        else:
            call.screen.drawn(line or "", job.record.state, after=str(job.ref))
    for sentence in _remarks(tree, call.args.depth):
        call.screen.line(sentence)
    return OK


def _jobs(tree: Tree) -> Iterable[Tree | None]:
    """Its jobs in the order of its lines; None for a line about those that are hidden."""
    yield tree
    for child in tree.children:
        yield from _jobs(child)
    if tree.hidden:
        yield None


def _remarks(tree: Tree, depth: int) -> list[str]:
    """What should be known besides the tree: what holds it up, and what of it is not seen."""
    said: list[str] = []
    blocking = tree.blocked_by
    if blocking:
        waiting = len({_parent(record) for record in blocking})
        waits = counted(waiting, "job waits", "jobs wait")
        said += ["", f"{waits} for {'one' if len(blocking) == 1 else f'{len(blocking):,}'} that failed:"]
        said += [f"{_parent(record)} waits for {record.ref}." for record in blocking[:SHOWN]]
        if len(blocking) > SHOWN:
            said.append(f"… and {len(blocking) - SHOWN:,} more.")
        said.append(f"{retrying([record.ref for record in blocking])}.")
    parent = None if tree.record is None else tree.record.parent
    if parent is not None:
        said += ["", f"It is a child of {parent.ref}: `toril flow {parent.ref}` draws that."]
    if _levels(tree) > depth:
        said += ["", f"Drawn {counted(depth, 'level')} deep; what is below that, --depth {depth * 2} shows."]
    return said


def _parent(record: JobRecord) -> JobRef | None:
    return None if record.parent is None else record.parent.ref


def _levels(tree: Tree) -> int:
    return 1 + max((_levels(child) for child in tree.children), default=0)


def retrying(refs: Sequence[JobRef]) -> str:
    """By which command failed jobs run again."""
    them = "it" if len(refs) == 1 else "them" if len(refs) <= SHOWN else f"the first {SHOWN}"
    return f"`toril retry {' '.join(map(str, refs[:SHOWN]))}` runs {them} again"
