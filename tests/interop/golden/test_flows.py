"""Parents and children stand and end as Node's do."""

from __future__ import annotations

from dataclasses import replace

from interop.golden.replay import Replay, recording, ref
from toril.model import Answer, Completed, JobRef, NewJob, Parent


def flow(replay: Replay) -> list[NewJob]:
    """The tree of most recordings: P with the children C0 and C1."""
    parent = replace(replay.job("parent", '{"p":1}', queue="parents", job_id="P"), has_children=True)
    children = [replay.job("child", f'{{"c":{n}}}', queue="kids", job_id=f"C{n}") for n in (0, 1)]
    return [parent, *(replace(child, parent=Parent(JobRef("parents", "P"))) for child in children)]


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
