"""Rules for schedules: what they are, the run that each has to come, and who may change them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from model.expected import QUEUE
from model.machine import Machine, picks
from toril.model import Placed, Schedule, ScheduleRecord, iteration_id
from toril.options import JobOptions, resolve
from toril.states import State
from toril.timing import Missed, Overlap, Timing

IDS = ("tick", "tick:tock")
HOURLY = "0 * * * *"

ids = st.sampled_from(IDS)
ways = st.sampled_from(["anew", "anew", "same time", "pause", "resume"])
steps_ms = st.sampled_from([0, 1_000, 60_000, 600_000])
options = resolve(JobOptions(keep_completed=True, keep_failed=True), 0)


class Schedules(Machine):
    """A few schedules, as they are and as somebody saw them before."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.has_any = False
        self.sights: dict[str, list[ScheduleRecord | None]] = {id: [None] for id in IDS}

    @rule(
        id=ids, how=ways, in_ms=steps_ms, missed=st.sampled_from(Missed), overlap=st.sampled_from(Overlap), pick=picks
    )
    def put(self, id: str, how: str, in_ms: int, missed: Missed, overlap: Overlap, pick: int) -> None:
        """Put a schedule as those above the store do, upon what they have seen of it."""
        seen, at_ms = self._sight(id, pick), self.clock.now_ms() + in_ms
        if how == "anew" or seen is None:
            timing = Timing(pattern=HOURLY, tz="UTC", missed=missed, overlap=overlap)
            schedule = Schedule(QUEUE, id, timing, self.draw("name"), f'{{"n":{pick}}}', options)
            self._put(schedule, seen, at_ms, 1 + pick % 3)
        elif how == "same time":
            self._put(replace(seen.schedule, data=f'{{"n":{pick}}}'), seen, seen.next_at_ms, seen.count)
        elif how == "pause":
            self._put(replace(seen.schedule, paused=True), seen, None, seen.count - seen.pending)
        else:
            self._put(replace(seen.schedule, paused=False), seen, at_ms, seen.count + 1)

    def _put(self, schedule: Schedule, seen: ScheduleRecord | None, at_ms: int | None, count: int) -> None:
        id, model = schedule.id, self.model
        self.has_any, known = True, model.record(id)
        expected = self._put_as(known, seen, id, at_ms)

        placed = self.run(self.store.put_schedule(schedule, seen, at_ms, count=count))

        self.operations = {"add", "remove"}
        assert placed is expected
        if expected is not Placed.DONE:
            return
        if known is not None and known.pending:
            self._take_back(known.iteration.id)
        iterations = 0 if known is None else known.iterations
        stays_at_ms = self.clock.now_ms() if known is None else known.next_at_ms
        model.schedules[id] = ScheduleRecord(
            schedule,
            stays_at_ms if at_ms is None else at_ms,
            iterations if at_ms is None else max(1, iterations),
            count,
            running=None if known is None else known.running,
        )
        if at_ms is not None:
            model.make_run(schedule, at_ms)

    def _put_as(self, known: ScheduleRecord | None, seen: ScheduleRecord | None, id: str, at_ms: int | None) -> Placed:
        if (known is None) != (seen is None) or (known and seen and self._differ(known, seen)):
            return Placed.CHANGED
        if known is not None and seen is not None and known.pending != seen.pending:
            return Placed.CHANGED
        run_id = None if at_ms is None else iteration_id(id, at_ms)
        replaced = known is not None and known.pending and known.iteration.id == run_id
        return Placed.TAKEN if run_id in self.model.jobs and not replaced else Placed.DONE

    def _take_back(self, run_id: str) -> None:
        self.model.remove(self.model.jobs[run_id])
        self.forget_claims_of(run_id)
        self.seen.pop(run_id, None)  # another may come under its id

    @rule(id=ids, pick=picks, by_ms=steps_ms, running=st.booleans())
    def advance_a_schedule(self, id: str, pick: int, by_ms: int, running: bool) -> None:
        """One who has seen a schedule makes its next run, and another one, who has seen the same, would too."""
        seen = self._sight(id, pick)
        if seen is not None:
            self._advance(seen, by_ms, running=running)
            self._advance(seen, by_ms + 1_000, running=running)

    def _advance(self, seen: ScheduleRecord, by_ms: int, *, running: bool) -> None:
        id = seen.schedule.id
        at_ms, let_run = seen.next_at_ms + by_ms, seen.iteration.id if running else None
        expected = self._advance_as(seen, at_ms)

        placed = self.run(self.store.advance_schedule(seen, at_ms, running=let_run))

        self.operations = {"add"}
        assert placed is expected
        if expected is Placed.DONE:
            known = self.model.schedules[id]
            further = at_ms != known.next_at_ms
            self.model.schedules[id] = replace(
                known,
                next_at_ms=at_ms,
                iterations=known.iterations + further,
                count=known.count + further,
                running=let_run or known.running,
            )
            self.model.make_run(known.schedule, at_ms)

    def _advance_as(self, seen: ScheduleRecord, at_ms: int) -> Placed:
        known = self.model.schedules.get(seen.schedule.id)
        if known is None or known.schedule.paused or self._differ(known, seen):
            return Placed.CHANGED
        if iteration_id(seen.schedule.id, at_ms) in self.model.jobs:
            return Placed.CHANGED if at_ms == seen.next_at_ms else Placed.TAKEN
        return Placed.DONE

    @precondition(lambda self: self.model.schedules)
    @rule(id=ids)
    def remove_a_schedule(self, id: str) -> None:
        known = self.model.record(id)

        assert self.run(self.store.remove_schedule(QUEUE, id)) == (known is not None)

        self.operations = {"remove"}
        if known is not None:
            del self.model.schedules[id]
            if known.state is State.DELAYED:
                self._take_back(known.iteration.id)

    def _sight(self, id: str, pick: int) -> ScheduleRecord | None:
        """A schedule as it is, mostly, or as it was seen before."""
        sights = self.sights[id]
        return sights[pick % len(sights)] if pick % 4 == 0 else sights[-1]

    def _differ(self, known: ScheduleRecord, seen: ScheduleRecord) -> bool:
        """Whether a schedule is not as it was seen, in what those who change it go by."""
        return self._traits(known) != self._traits(seen)

    def _traits(self, record: ScheduleRecord) -> tuple[Any, ...]:
        timing = record.schedule.timing
        told = record.count if record.schedule.paused else None
        return (record.next_at_ms, record.running, timing.missed, timing.overlap, record.schedule.paused, told)

    # ---------------------------------------------------------------- comparing

    @invariant()
    def each_schedule_is_what_it_must_be(self) -> None:
        if not self.has_any:
            return
        expected = [record for id in IDS if (record := self.model.record(id)) is not None]
        found = self.run(self.store.schedules(QUEUE))
        for id in IDS:
            self.sights[id].append(next((record for record in found if record.schedule.id == id), None))
        assert found == sorted(expected, key=lambda record: (record.next_at_ms, record.schedule.id))
