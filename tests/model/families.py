"""Rules for flows: parents that wait, what their children do to them, and those that go between them."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from model.expected import PENDING, QUEUE
from model.machine import Machine, ends, picks, priorities
from toril.model import Answer, Child, JobRef, NewJob, Parent, Unit
from toril.options import ChildPolicy, JobOptions

policies = st.sampled_from(ChildPolicy)


class Families(Machine):
    """Flows, children that come later, and children that leave."""

    @rule(
        below=st.booleans(),
        pick=picks,
        delayed=st.booleans(),
        priority=priorities,
        kept=st.booleans(),
        children=st.lists(policies, min_size=1, max_size=3),
    )
    def add_flow(
        self, below: bool, pick: int, delayed: bool, priority: int, kept: bool, children: list[ChildPolicy]
    ) -> None:
        """A parent with children, perhaps as a child itself of a job that is there."""
        above = self._above(pick, children[0]) if below else None
        own_ms = 777 + 13 * self.drawn  # no other job is due then: BullMQ lets a released parent pass those that are
        options = JobOptions(
            delay=own_ms / 1000 if delayed else 0, priority=priority, keep_completed=kept, keep_failed=kept
        )
        parent = self.new_job(options, parent=above, has_children=True)
        self._add_unit(
            parent, *(self._new_child(Parent(self.ref(parent.id), policy), kept=True) for policy in children)
        )

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks, policy=policies, kept=st.booleans())
    def add_a_child(self, pick: int, policy: ChildPolicy, kept: bool) -> None:
        """A child of a job that is there, wherever that stands."""
        above = self._above(pick, policy)
        if above is not None:
            self._add_unit(self._new_child(above, kept=kept))

    def _above(self, pick: int, policy: ChildPolicy) -> Parent | None:
        fit = [job for job in self.model.jobs.values() if self.may_be_a_parent(job)]
        return Parent(self.ref(fit[pick % len(fit)].id), policy) if fit else None

    def _new_child(self, parent: Parent, *, kept: bool) -> NewJob:
        return self.new_job(JobOptions(keep_completed=kept, keep_failed=kept), parent=parent)

    def _add_unit(self, *news: NewJob) -> None:
        [receipt] = self.run(self.store.add([Unit(news)]))
        self.operations = {"add"}
        assert receipt.refusal is None
        assert [(added.ref.id, added.duplicate) for added in receipt.added] == [(new.id, False) for new in news]
        for new in news:
            self.model.add(new)

    @precondition(lambda self: not self.model.paused)
    @rule(pick=picks, kind=ends, again=st.booleans())
    def end_a_child(self, pick: int, kind: str, again: bool) -> None:
        """A worker takes a child, before its turn, and settles it; perhaps somebody retries it then."""
        ready = [job for job in self.model.jobs.values() if job.parent in self.model.jobs and job.state in PENDING]
        if not ready or not self.model.room(1):
            return
        child = ready[pick % len(ready)]
        self.take_by_name("w1", child)
        self.every_job_is_what_it_must_be()
        self.settle(0, kind)
        if again and child.id in self.model.jobs:
            self.every_job_is_what_it_must_be()
            self.each_parent_knows_what_became_of_its_children()
            self.operations = {"retry"}
            self.retry(child, reset=False)

    @precondition(lambda self: not self.model.paused)
    @rule(pick=picks, policy=policies, kind=ends, wish=st.sampled_from(["completed", "awaiting-children"]))
    def end_a_child_with_its_parent(self, pick: int, policy: ChildPolicy, kind: str, wish: str) -> None:
        """A running job has added a child, and both are settled in one call."""
        held = [claim for claim in self.claims if self.model.judge(claim) == "held"]
        held = [claim for claim in held if self.may_be_a_parent(self.model.jobs[claim.ref.id])]
        if not held or not self.model.room(1):
            return
        parent = held[pick % len(held)]
        child = self._new_child(Parent(parent.ref, policy), kept=True)
        self._add_unit(child)
        self.every_job_is_what_it_must_be()
        self.take_by_name("w1", self.model.jobs[child.id])
        self.every_job_is_what_it_must_be()
        self.settle_all([(self.claims[-1], kind), (parent, wish)])

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks)
    def detach(self, pick: int) -> None:
        children = [job for job in self.model.jobs.values() if job.parent is not None]
        job = children[pick % len(children)] if children else self.any_job(pick)
        parent = self.model.parent_of(job)
        tied = parent is not None and parent.children.get(job.id) == Child(self.ref(job.id), "pending")

        answer = self.run(self.store.detach([self.ref(job.id)]))

        assert answer == [Answer.DONE if tied else Answer.WRONG_STATE]
        if tied:
            self.model.drop_child(job)
            job.parent = None

    # ---------------------------------------------------------------- comparing

    @invariant()
    def each_parent_knows_what_became_of_its_children(self) -> None:
        for job in self.model.jobs.values():
            if job.new.has_children or job.children:
                found = {child.ref.id: child for child in self.run(self.store.children(JobRef(QUEUE, job.id)))}
                told, expected = self._told(found), self._told(job.children)
                assert told == expected, f"{job.id} has {told}, and not {expected}"

    def _told(self, children: dict[str, Child]) -> dict[str, tuple[str, str | None, str | None]]:
        """What children are for their parent. Why one has failed that is gone is nobody's promise."""
        return {
            name: (
                child.state,
                child.result,
                child.reason if child.state == "ignored" and name in self.model.jobs else None,
            )
            for name, child in children.items()
        }
