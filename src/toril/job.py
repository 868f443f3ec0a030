"""A job from outside: the handle that `add` returns, and the call that is not yet added."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from toril.errors import InvalidJob, JobFailed, JobNotFound, ResultTimeout, WrongState
from toril.model import Answer, Child, Event, JobRecord, JobRef, LogPage, Receipt, Update
from toril.options import Duration, JobOptions, Rule, check_priority, to_ms
from toril.shapes import reader
from toril.states import FINISHED, State
from toril.store import Store
from toril.wirejson import Json, decode, encode

R = TypeVar("R")

NOT_BEGUN = "not begun, and not the run that a schedule waits for (pause or remove the schedule)"

UNBEGUN = frozenset({State.WAITING, State.PRIORITIZED, State.DELAYED, State.WAITING_CHILDREN})
"""Where jobs stand that no worker holds and that have not ended."""

NET_MS = 30_000
"""How long a wait for a result trusts events alone before it looks at the job itself."""


@dataclass(frozen=True, slots=True)
class Call:
    """A job to be: a name, its data and its options. `add_many` takes a list of them, and `App.flow` a tree.

    `queue` names its queue where that is not said otherwise; a handler's call names the handler's. `children` are the jobs
    that it waits for.
    """

    name: str
    data: Json = None
    options: JobOptions = field(default_factory=JobOptions)
    queue: str | None = None
    children: tuple[Call, ...] = ()

    def after(self, *calls: Call) -> Call:
        """The same job, which runs when these have ended: its children.

        Raises:
            InvalidJob: one of them is no call.
        """
        for call in calls:
            if not isinstance(call, Call):
                raise InvalidJob(f"after() takes calls, such as handler.call(…), not {call!r}")
        return replace(self, children=(*self.children, *calls))


class Job(Generic[R]):
    """A job that was added. `duplicate`: one that was there already stands in its place, and this is it.

    `rule` says by what that one was found: "id", or the way of deduplication ("simple", "throttle", "debounce",
    "keep-last"). With "debounce" and no duplicate, this job took the place of one that was delayed. `store` says which store
    took it.
    """

    def __init__(
        self,
        ref: JobRef,
        store: Store,
        *,
        duplicate: bool = False,
        rule: Rule | None = None,
        taken_by: str = "",
        returns: Any = Any,
    ) -> None:
        self.ref = ref
        self.duplicate = duplicate
        self.rule = rule
        self.store = taken_by or store.kind
        self._store = store
        self._returns = returns

    @property
    def id(self) -> str:
        """Its id."""
        return self.ref.id

    @property
    def queue(self) -> str:
        """The name of its queue."""
        return self.ref.queue

    def __repr__(self) -> str:
        return f"<Job {self.ref}>"

    # ---------------------------------------------------------------- looking

    async def record(self) -> JobRecord:
        """All that the store knows of it.

        Raises:
            JobNotFound: it is gone.
        """
        (record,) = await self._store.get([self.ref])
        if record is None:
            raise JobNotFound(self.ref)
        return record

    async def state(self) -> State:
        """Where it stands. Raises JobNotFound when it is gone."""
        return (await self.record()).state

    async def progress(self) -> Json:
        """What it last said of how far it is; None before that."""
        text = (await self.record()).progress
        return None if text is None else decode(text)

    async def logs(self, *, first: int = 0, limit: int = 1000) -> LogPage:
        """Lines of its log, oldest first."""
        return await self._store.logs(self.ref, first=first, limit=limit)

    async def children(self) -> list[Child]:
        """Its children and what became of them."""
        return await self._store.children(self.ref)

    async def result(self, timeout: Duration | None = None) -> R:
        """What its handler returned, once it has; read as the handler's return type says.

        Raises:
            JobFailed: it has failed for good.
            ResultTimeout: it has not finished within `timeout` (seconds or a timedelta).
            JobNotFound: it is gone, and its result with it.
        """
        clock = self._store.clock
        until_ms = None if timeout is None else clock.now_ms() + to_ms(timeout, "timeout")
        after = await self._store.last_event(self.queue)
        while True:
            record = await self.record()
            if record.state in FINISHED:
                return self._value(record)
            now_ms = clock.now_ms()
            if until_ms is not None and now_ms >= until_ms:
                raise ResultTimeout(self.ref, record.state, to_ms(timeout or 0))
            net_ms = now_ms + NET_MS
            after = await self._until_told(after, net_ms if until_ms is None else min(until_ms, net_ms))

    async def _until_told(self, after: str, until_ms: int) -> str:
        """Wait for an event about this job that may end it; return where the next wait begins."""
        while True:
            events = await self._store.read(self.queue, after, until_ms=until_ms)
            if not events:
                return after
            after = events[-1].id
            if any(_ends(event, self.id) for event in events):
                return after

    def _value(self, record: JobRecord) -> R:
        if record.state is State.FAILED:
            raise JobFailed(self.ref, record.reason or "no reason given")
        value: R = reader(self._returns)(decode(record.result or "null"), "result")
        return value

    async def child_results(self) -> dict[JobRef, Any]:
        """What its children have returned, those that have completed so far."""
        return results_of(await self.children())

    # ---------------------------------------------------------------- changing

    async def remove(self) -> bool:
        """Remove it with all that belongs to it; False when it is running, awaited by its schedule, or gone."""
        return await self._store.remove([self.ref]) == [Answer.DONE]

    async def cancel(self, reason: str = "cancelled") -> None:
        """Fail it before it runs; it is never tried again.

        Raises:
            JobNotFound: it is gone.
            WrongState: it runs, or has ended.
        """
        await self._expect((await self._store.cancel([self.ref], reason))[0], "cancel", NOT_BEGUN)

    async def leave_parent(self) -> None:
        """Be its parent's child no longer; a parent that waits for nothing else runs. Raises JobNotFound, WrongState."""
        await self._expect((await self._store.detach([self.ref]))[0], "leave its parent", "one that a parent waits for")

    async def remove_children(self) -> int:
        """Remove its children that have not begun, with theirs, so that it waits for them no longer; return how many."""
        pending = [child.ref for child in await self.children() if child.state == "pending"]
        records = await self._store.get(pending)
        waiting = [record.ref for record in records if record is not None and record.state in UNBEGUN]
        return (await self._store.remove(waiting)).count(Answer.DONE)

    async def promote(self) -> None:
        """Let it run now, if it is delayed. Raises JobNotFound, WrongState."""
        await self._expect((await self._store.promote([self.ref]))[0], "promote", State.DELAYED)

    async def retry(self, *, reset_attempts: bool = False, **changed: Json) -> None:
        """Run it again, if it has finished; `data=` gives it other data. Raises JobNotFound, WrongState."""
        unknown = changed.keys() - {"data"}
        if unknown:
            raise TypeError(f"retry() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        data = encode(changed["data"]) if "data" in changed else None
        (answer,) = await self._store.retry([self.ref], reset_attempts=reset_attempts, data=data)
        await self._expect(answer, "retry", "completed or failed")

    async def update_data(self, data: Json) -> None:
        """Give it other data. Raises JobNotFound."""
        await self._update(Update(self.ref, data=encode(data)))

    async def change_priority(self, priority: int, *, lifo: bool = False) -> None:
        """Let it run sooner or later than others. Raises JobNotFound, ConfigError."""
        await self._update(Update(self.ref, priority=check_priority(priority), lifo=lifo))

    async def change_delay(self, delay: Duration) -> None:
        """Count its delay anew from now. Raises JobNotFound; WrongState when it is not delayed."""
        await self._update(Update(self.ref, delay_ms=to_ms(delay, "delay")))

    async def _update(self, update: Update) -> None:
        await self._expect((await self._store.update([update]))[0], "change", State.DELAYED)

    async def _expect(self, answer: Answer, operation: str, wanted: str) -> None:
        if answer is Answer.MISSING:
            raise JobNotFound(self.ref)
        if answer is not Answer.DONE:
            raise WrongState(self.ref, operation, await self.state(), wanted)


def jobs_of(receipt: Receipt, store: Store, returns: Any = Any) -> list[Job[Any]]:
    """Handles to the jobs of a unit that was added, in its order. Raises what it was refused with."""
    if receipt.refusal is not None:
        raise receipt.refusal.error
    return [
        Job(
            added.ref,
            store,
            duplicate=added.duplicate,
            rule=added.rule,
            taken_by=receipt.store,
            returns=returns,
        )
        for added in receipt.added
    ]


def results_of(children: Iterable[Child]) -> dict[JobRef, Any]:
    """What children have returned, those that have completed."""
    return {child.ref: decode(child.result or "null") for child in children if child.state == "completed"}


def _ends(event: Event, job_id: str) -> bool:
    return event.job_id == job_id and event.name in ("completed", "failed", "removed")
