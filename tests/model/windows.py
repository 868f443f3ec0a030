"""Rules for deduplication: the ways to ask for it, the time that an id is kept, and what is kept for later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from model.expected import QUEUE
from model.machine import Machine, delays, ends, picks
from toril.model import Parent, Unit
from toril.options import ChildPolicy, Deduplication, JobOptions

names = st.sampled_from(["one", "two"])
ways = st.sampled_from(
    [
        Deduplication.simple("-"),
        Deduplication.throttle("-", 1),
        Deduplication.throttle("-", 60, extend=True),
        Deduplication.debounce("-"),
        Deduplication.debounce("-", 60),
        Deduplication.keep_last("-"),
        replace(Deduplication.simple("-"), reschedule=True),
    ]
)


class Windows(Machine):
    """At most one job under each of a few ids."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.used: set[str] = set()

    @rule(name=names, way=ways, delay=delays, lifo=st.booleans(), kept=st.booleans(), pick=picks)
    def add_deduplicated(self, name: str, way: Deduplication, delay: int, lifo: bool, kept: bool, pick: int) -> None:
        """An add under an id, sometimes of a child."""
        asked = replace(way, id=name)
        self.used.add(name)
        options = JobOptions(deduplication=asked, delay=delay, lifo=lifo, keep_completed=kept)
        fit = [
            job
            for job in self.model.jobs.values()
            if self.may_be_a_parent(job) and job.new.options.deduplication is None  # whose place it could take
        ]
        is_child = fit and pick % 4 == 0 and not asked.keep_last_if_active
        parent = Parent(self.ref(fit[pick % len(fit)].id), ChildPolicy.IGNORE) if is_child else None
        new = self.new_job(options, parent=parent)
        self.operations = {"add"}

        [receipt] = self.run(self.store.add([Unit((new,))]))

        assert receipt.refusal is None
        assert receipt.added == (self.model.deduplicate(new),)
        if not receipt.added[0].duplicate:
            self.news.append(new)

    @rule(name=names, way=ways, kind=ends)
    def keep_the_last_of_two(self, name: str, way: Deduplication, kind: str) -> None:
        """Two adds while the owner runs, if it can be let run, and then its end."""
        self.add_deduplicated(name, way, 0, lifo=True, kept=True, pick=1)
        self.every_job_is_what_it_must_be()
        self.claim("w1", 1)
        for _ in range(2):
            self.every_job_is_what_it_must_be()
            self.add_deduplicated(name, Deduplication.keep_last(name), 0, lifo=False, kept=True, pick=1)
        if self.claims:
            self.every_job_is_what_it_must_be()
            self.settle(0, kind)

    @rule(name=names)
    def forget(self, name: str) -> None:
        owner = self.model.owner(name)

        assert self.run(self.store.forget(QUEUE, name)) == (owner is not None)

        self.model.owners.pop(name, None)

    @invariant()
    def each_id_has_its_owner(self) -> None:
        for name in self.used:
            found, owner = self.run(self.store.owner(QUEUE, name)), self.model.owner(name)
            assert (None if found is None else found.id) == (None if owner is None else owner.job_id)
