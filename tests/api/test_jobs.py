"""A job seen from outside: its result, its state, and what can be done to it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import pytest

from conformance.given import soon
from toril import (
    App,
    Context,
    Delay,
    InvalidJob,
    Job,
    JobFailed,
    JobNotFound,
    JobRef,
    Queue,
    ResultTimeout,
    Throttle,
    WrongState,
)
from toril.errors import InvalidData
from toril.model import Claim, Completed, Failed, Settlement, Slots, Wanted
from toril.states import State
from toril.store import Store
from worker.stage import at_work, clock_of, handlers, quiet


async def claimed(store: Store) -> Claim:
    """The next job, taken by hand."""
    wanted = Wanted("hand", f"hand:{claimed.__name__}:{id(object())}", 30_000, (Slots("email", 1),))
    [claim] = (await store.claim(wanted)).claims
    return claim


async def complete(store: Store, result: str = "null") -> None:
    await store.settle([Settlement(await claimed(store), Completed(result))])


async def fail(store: Store, reason: str = "no") -> None:
    await store.settle([Settlement(await claimed(store), Failed(reason))])


# ------------------------------------------------------------------ results


async def test_a_result_is_waited_for(queue: Queue, store: Store) -> None:
    job = await queue.add("a")
    waiting = asyncio.ensure_future(job.result())
    await quiet(store)
    assert not waiting.done()

    await complete(store, '{"sent":true}')

    assert await soon(waiting) == {"sent": True}


async def test_the_result_of_a_job_that_has_ended_is_there_at_once(queue: Queue, store: Store) -> None:
    job = await queue.add("a")
    await complete(store, "5")

    assert await soon(job.result(timeout=0)) == 5


async def test_many_may_wait_for_one_result(queue: Queue, store: Store) -> None:
    job = await queue.add("a")
    waiting = [asyncio.ensure_future(queue.job(job.id).result()) for _ in range(20)]
    await quiet(store)

    await complete(store, "5")

    assert await soon(asyncio.gather(*waiting)) == [5] * 20


async def test_a_failed_job_says_why_to_those_who_wait(queue: Queue, store: Store) -> None:
    job = await queue.add("a")
    waiting = asyncio.ensure_future(job.result())
    await quiet(store)

    await fail(store, "no such user")

    with pytest.raises(JobFailed) as failed:
        await soon(waiting)
    assert (failed.value.ref, failed.value.reason) == (job.ref, "no such user")
    assert str(failed.value) == f"email/{job.id} failed: no such user"


async def test_waiting_for_a_result_ends_when_its_time_is_up(queue: Queue, store: Store) -> None:
    job = await queue.add("a")
    waiting = asyncio.ensure_future(job.result(timeout=90))
    await quiet(store)

    for _ in range(2):
        clock_of(store).advance(40_000)
        await quiet(store)
        assert not waiting.done()
    clock_of(store).advance(10_000)

    with pytest.raises(ResultTimeout) as late:
        await soon(waiting)
    assert isinstance(late.value, TimeoutError)
    assert (late.value.ref, late.value.state) == (job.ref, "waiting")
    assert str(late.value) == f"email/{job.id} has not finished after 90 s: it is waiting"


async def test_other_jobs_events_do_not_lengthen_the_wait(queue: Queue, store: Store) -> None:
    job = await queue.add("a", delay=3600)
    waiting = asyncio.ensure_future(job.result(timeout=10))
    for _ in range(5):
        await queue.add("b")
        await quiet(store)
        clock_of(store).advance(2_000)

    with pytest.raises(ResultTimeout):
        await soon(waiting)


async def test_a_result_is_readable_for_a_while_after_its_job_was_removed_at_once(queue: Queue, store: Store) -> None:
    job = await queue.add("a", keep_completed=False)
    waiting = asyncio.ensure_future(job.result())
    await quiet(store)
    await complete(store, '"done"')

    assert await soon(waiting) == "done"
    assert await soon(queue.job(job.id).result()) == "done"
    assert (await queue.counts())[State.COMPLETED] == 0

    clock_of(store).advance(600_001)
    with pytest.raises(JobNotFound):
        await job.result()


async def test_the_failure_of_a_job_that_was_removed_at_once_is_readable_too(queue: Queue, store: Store) -> None:
    job = await queue.add("a", keep_failed=False)
    await fail(store, "no such user")

    with pytest.raises(JobFailed, match=r"no such user$"):
        await soon(job.result())


async def test_a_result_that_nobody_can_bring_any_more_is_not_waited_for(queue: Queue, store: Store) -> None:
    job = await queue.add("a")
    waiting = asyncio.ensure_future(job.result())
    await quiet(store)

    await job.remove()

    with pytest.raises(JobNotFound, match=f"^there is no job email/{job.id}: "):
        await soon(waiting)


async def test_a_result_is_found_also_where_events_are_switched_off(queue: Queue, store: Store) -> None:
    await queue.configure(replace(await queue.settings(), events=False))
    job = await queue.add("a")
    waiting = asyncio.ensure_future(job.result())
    await quiet(store)
    await complete(store, "5")

    clock_of(store).advance(30_000)

    assert await soon(waiting) == 5


@dataclass
class Sent:
    to: str
    copies: int = 1


async def test_a_typed_result_comes_back_as_its_type(store: Store) -> None:
    app = App(store=store, clock=store.clock)
    email = app.queue("email")

    @email.handler()
    async def welcome(name: str) -> Sent:
        return Sent(name, 2)

    async with at_work(store, email.handlers):
        sent = await soon((await welcome.add(name="Ada")).result())

    assert sent == Sent("Ada", 2)


async def test_the_result_of_a_handler_that_may_wish_is_read_without_the_wish(store: Store) -> None:
    app = App(store=store, clock=store.clock)
    email = app.queue("email")

    @email.handler()
    async def welcome(name: str) -> Sent | Delay | Throttle:
        return Sent(name)

    @email.handler()
    async def only(ctx: Context) -> Delay | None:
        return None

    async with at_work(store, email.handlers):
        assert await soon((await welcome.add(name="Ada")).result()) == Sent("Ada")
        await soon((await only.add()).result())


async def test_a_result_that_is_not_what_was_declared_says_where(store: Store) -> None:
    app = App(store=store, clock=store.clock)
    email = app.queue("email")

    @email.handler()
    async def welcome() -> Sent:
        return Sent("Ada")

    job = await welcome.add()
    await complete(store, '{"to":5}')

    with pytest.raises(InvalidData, match=r"^result\.to: "):
        await job.result()


# ------------------------------------------------------------------ looking


async def test_a_job_that_is_gone_is_not_found(queue: Queue) -> None:
    gone = queue.job("gone")

    for looking in (gone.record(), gone.state(), gone.progress(), gone.result()):
        with pytest.raises(JobNotFound):
            await looking
    assert await queue.get("gone") is None
    assert (await gone.logs()).lines == ()


async def test_a_job_is_written_as_its_queue_and_id(queue: Queue) -> None:
    job = queue.job("42")

    assert repr(job) == "<Job email/42>"
    assert (job.ref, job.id, job.queue) == (JobRef("email", "42"), "42", "email")


async def test_progress_is_nothing_until_somebody_tells(queue: Queue, store: Store) -> None:
    async def work(ctx: Context) -> None:
        await ctx.progress({"percent": 40})

    job = await queue.add("work")
    assert await job.progress() is None
    async with at_work(store, handlers(work)):
        await soon(job.result())
    assert await job.progress() == {"percent": 40}


# ------------------------------------------------------------------ changing


async def test_a_job_may_be_removed_while_it_waits(queue: Queue) -> None:
    job = await queue.add("a")

    assert await job.remove() is True
    assert await job.remove() is False
    assert await queue.remove((await queue.add("a")).id) is True
    assert await queue.remove("gone") is False


async def test_a_running_job_is_not_removed(queue: Queue, store: Store) -> None:
    job = await queue.add("a")
    await claimed(store)

    assert await job.remove() is False
    assert await job.state() is State.ACTIVE


async def test_a_delayed_job_may_be_promoted(queue: Queue) -> None:
    job = await queue.add("a", delay=60)
    await job.promote()

    assert await job.state() is State.WAITING
    with pytest.raises(WrongState) as wrong:
        await job.promote()
    assert str(wrong.value) == f"cannot promote email/{job.id}: it is waiting, and must be delayed"
    with pytest.raises(JobNotFound):
        await queue.job("gone").promote()


async def test_a_finished_job_may_be_run_again_with_other_data(queue: Queue, store: Store) -> None:
    job = await queue.add("a", {"n": 1})
    with pytest.raises(WrongState, match=r"cannot retry .*: it is waiting, and must be completed or failed$"):
        await job.retry()
    await fail(store)

    await job.retry(data={"n": 2})

    record = await job.record()
    assert (record.state, record.data) == (State.WAITING, '{"n":2}')
    with pytest.raises(TypeError, match="unexpected keyword argument 'dat'"):
        await job.retry(dat=1)


async def test_attempts_may_be_counted_anew(queue: Queue, store: Store) -> None:
    job = await queue.add("a")
    await fail(store)
    await job.retry()
    assert (await job.record()).attempts_made == 1
    await fail(store)

    await job.retry(reset_attempts=True)

    assert (await job.record()).attempts_made == 0


async def test_data_may_be_changed(queue: Queue) -> None:
    job = await queue.add("a", {"n": 1})

    await job.update_data({"n": 2})

    assert (await job.record()).data == '{"n":2}'
    with pytest.raises(InvalidJob):
        await job.update_data(float("nan"))
    with pytest.raises(JobNotFound):
        await queue.job("gone").update_data(1)


async def test_a_job_may_go_before_others(queue: Queue) -> None:
    first, second = await queue.add("a", priority=5), await queue.add("a", priority=5)

    await second.change_priority(1)

    assert [record.ref for record in (await queue.find("prioritized")).items] == [second.ref, first.ref]
    await first.change_priority(0)
    assert await first.state() is State.WAITING


async def test_a_delay_may_be_counted_anew(queue: Queue, store: Store) -> None:
    job = await queue.add("a", delay=60)
    await job.change_delay(5)
    assert (await job.record()).due_at_ms == clock_of(store).now_ms() + 5_000

    await job.promote()

    with pytest.raises(WrongState, match=r"it is waiting, and must be delayed$"):
        await job.change_delay(5)


@pytest.mark.parametrize("priority", [-1, 2_097_152, True, 1.5])
async def test_a_priority_that_cannot_be_is_refused_when_it_is_changed_too(queue: Queue, priority: Any) -> None:
    job: Job[Any] = await queue.add("a", priority=3)

    with pytest.raises(ValueError, match="priority"):
        await job.change_priority(priority)

    assert (await job.record()).priority == 3
