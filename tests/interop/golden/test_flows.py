"""Parents and children stand and end as Node's do."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Unpack

from interop.golden.replay import Replay, recording, ref
from toril.errors import JobNotFound, ParentTaken, TorilError
from toril.model import (
    Answer,
    AwaitingChildren,
    Child,
    Claim,
    Completed,
    Failed,
    JobRef,
    NewJob,
    Parent,
    Settlement,
    Unit,
)
from toril.options import KEEP_NONE, ChildPolicy, JobOptions


def parent_of(replay: Replay, data: str = "{}", **options: Unpack[JobOptions]) -> NewJob:
    return replace(replay.job("parent", data, queue="parents", **options), has_children=True)


def child_of(job: NewJob, parent: JobRef, policy: ChildPolicy = ChildPolicy.WAIT) -> NewJob:
    return replace(job, parent=Parent(parent, policy))


def flow(replay: Replay, policy: ChildPolicy = ChildPolicy.WAIT) -> list[NewJob]:
    """The tree of most recordings: P with the children C0, which has this policy, and C1."""
    parent = parent_of(replay, '{"p":1}', job_id="P")
    first, second = (replay.job("child", f'{{"c":{n}}}', queue="kids", job_id=f"C{n}") for n in (0, 1))
    return [parent, child_of(first, ref("P", "parents"), policy), child_of(second, ref("P", "parents"))]


async def refused(replay: Replay, job: NewJob) -> TorilError:
    """Add a job that must not be taken; why it was not."""
    [receipt] = await replay.store.add([Unit((job,))])
    assert receipt.refusal is not None
    return receipt.refusal.error


async def fail_first_child(replay: Replay, policy: ChildPolicy) -> Claim:
    """The first steps of four recordings: C0 fails, C1 completes, and P runs."""
    await replay.step(replay.add(*flow(replay, policy)))
    first = await replay.step(replay.claim_one("t1", queue="kids"))
    await replay.step(replay.settle(first, Failed("bad", "<stack of Error: bad>")))
    second = await replay.step(replay.claim_one("t2", queue="kids"))
    await replay.step(replay.settle(second, Completed("1")))
    return await replay.step(replay.claim_one("t3", queue="parents"))


@recording("23")
async def test_a_flow_of_three_levels(replay: Replay) -> None:
    parent, first, second = flow(replay, ChildPolicy.FAIL)
    middle = replace(second, options=replace(second.options, priority=2), has_children=True)
    leaf = replace(replay.job("grand", queue="kids", delay=1), id="<uuid1>")
    await replay.step(replay.add(parent, first, middle, child_of(leaf, ref("C1", "kids"))))


@recording("24")
async def test_a_flow_whose_children_complete(replay: Replay) -> None:
    await replay.step(replay.add(*flow(replay)))
    for n in (0, 1):
        claim = await replay.step(replay.claim_one(f"c{n}", queue="kids"))
        await replay.step(replay.settle(claim, Completed(f'{{"n":{n}}}')))
    parent = await replay.step(replay.claim_one("p", queue="parents"))
    children = await replay.step(replay.store.children(parent.ref))
    assert {child.ref.id: child.result for child in children} == {"C0": '{"n":0}', "C1": '{"n":1}'}
    await replay.step(replay.settle(parent, Completed('"done"')))


@recording("25")
async def test_a_child_that_fails_its_parent(replay: Replay) -> None:
    parent = await fail_first_child(replay, ChildPolicy.FAIL)
    assert parent.deferred == "child bull:kids:C0 failed"

    async def complete() -> None:
        settled = await replay.store.settle([Settlement(parent, Completed("1"))])
        assert [refusal.ref for refusal in settled.refused] == [parent.ref]

    await replay.step(complete())
    stack = f"<stack of UnrecoverableError: {parent.deferred}>"
    await replay.step(replay.settle(parent, Failed(parent.deferred, stack)))


async def complete_beside_a_failed_child(replay: Replay, policy: ChildPolicy, *seen: Child) -> None:
    parent = await fail_first_child(replay, policy)
    for _ in range(2):
        children = await replay.step(replay.store.children(parent.ref))
        assert sorted(children, key=lambda child: child.ref) == [
            *seen,
            Child(ref("C1", "kids"), "completed", result="1"),
        ]
    await replay.step(replay.settle(parent, Completed('"ok"')))


@recording("26")
async def test_a_child_that_lets_its_parent_go_on(replay: Replay) -> None:
    failed = Child(ref("C0", "kids"), "ignored", reason="bad")
    await complete_beside_a_failed_child(replay, ChildPolicy.CONTINUE, failed)


@recording("27")
async def test_a_child_whose_failure_is_ignored(replay: Replay) -> None:
    failed = Child(ref("C0", "kids"), "ignored", reason="bad")
    await complete_beside_a_failed_child(replay, ChildPolicy.IGNORE, failed)


@recording("28")
async def test_a_child_whose_failure_is_forgotten(replay: Replay) -> None:
    await complete_beside_a_failed_child(replay, ChildPolicy.REMOVE)


@recording("29")
async def test_a_job_that_adds_a_child_and_waits_for_it(replay: Replay) -> None:
    async def wait_for_none() -> None:
        settled = await replay.store.settle([Settlement(parent, AwaitingChildren())])
        assert settled.staying == (parent.ref,)

    async def complete() -> None:
        settled = await replay.store.settle([Settlement(parent, Completed("1"))])
        assert [refusal.ref for refusal in settled.refused] == [parent.ref]

    await replay.step(replay.add(replay.job("parent", queue="parents")))
    parent = await replay.step(replay.claim_one("t1", queue="parents"))
    await replay.step(wait_for_none())
    await replay.step(replay.add(child_of(replay.job("child", queue="kids"), parent.ref)))
    await replay.step(complete())
    await replay.step(replay.settle(parent, AwaitingChildren()))
    orphan = child_of(replay.job("child", queue="kids"), ref("nope", "parents"))
    assert isinstance(await replay.step(refused(replay, orphan)), JobNotFound)
    child = await replay.step(replay.claim_one("t2", queue="kids"))
    await replay.step(replay.settle(child, Completed('"v"')))


@recording("30")
async def test_a_flow_that_is_removed(replay: Replay) -> None:
    async def remove(job_id: str, queue: str) -> None:
        assert await replay.store.remove([ref(job_id, queue)]) == [Answer.DONE]

    await replay.step(replay.add(*flow(replay)))
    await replay.step(remove("C0", "kids"))
    await replay.step(remove("C1", "kids"))
    await replay.step(remove("P", "parents"))
    await replay.step(replay.add(*flow(replay)))
    await replay.step(remove("P", "parents"))


@recording("44")
async def test_a_child_that_was_there_and_parents_with_a_place_of_their_own(replay: Replay) -> None:
    def child(job_id: str, parent: str) -> NewJob:
        return child_of(replay.job("child", queue="kids", job_id=job_id), ref(parent, "parents"))

    await replay.step(replay.add(replay.job("child", queue="kids", job_id="C0")))
    claim = await replay.step(replay.claim_one("t1", queue="kids"))
    await replay.step(replay.settle(claim, Completed('"early"')))
    await replay.step(replay.add(parent_of(replay, job_id="P", priority=4), child("C0", "P")))
    await replay.step(replay.add(parent_of(replay, job_id="Q", delay=5), child("K", "Q")))
    claim = await replay.step(replay.claim_one("t2", queue="kids"))
    await replay.step(replay.settle(claim, Completed("null")))
    assert isinstance(await replay.step(refused(replay, child("C0", "Q"))), ParentTaken)


@recording("45")
async def test_children_without_a_policy(replay: Replay) -> None:
    async def done(answers: Awaitable[list[Answer]]) -> None:
        assert set(await answers) == {Answer.DONE}

    parent, first, second = flow(replay)
    second = replace(second, options=replace(second.options, keep_failed=KEEP_NONE))
    await replay.step(replay.add(parent, first, second))
    claim = await replay.step(replay.claim_one("t1", queue="kids"))
    await replay.step(replay.settle(claim, Failed("x", "<stack of Error: x>")))
    claim = await replay.step(replay.claim_one("t2", queue="kids"))
    await replay.step(replay.settle(claim, Failed("y", "<stack of Error: y>")))
    await replay.step(done(replay.store.retry([ref("C0", "kids")])))
    await replay.step(done(replay.store.detach([ref("C0", "kids")])))
    children = [replay.job("child", queue="kids", job_id=f"D{n}") for n in (0, 1)]
    leaves = [child_of(child, ref("R", "parents")) for child in children]
    await replay.step(replay.add(parent_of(replay, job_id="R"), *leaves))
    await replay.step(done(replay.store.remove([ref("D0", "kids"), ref("D1", "kids")])))
