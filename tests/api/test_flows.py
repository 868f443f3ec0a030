"""Flows: jobs that wait for others, whole or not at all, and what becomes of them when one fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import pytest

from conformance import given
from conformance.given import soon
from toril import (
    App,
    AwaitChildren,
    Call,
    ConfigError,
    Context,
    Deduplication,
    FlowProducer,
    InvalidJob,
    JobFailed,
    JobNotFound,
    JobOptions,
    JobRef,
    ParentTaken,
    Queue,
    QueueFull,
    QueueSettings,
    RateLimit,
    TooManyAdds,
    chain,
    group,
)
from toril.flow import FlowJob, blocked, flow_of, read_tree
from toril.model import Child, JobRecord
from toril.options import ChildPolicy
from toril.states import State
from toril.store import Store
from worker.stage import Gate, finished, known, running, told

MakeApp = Callable[..., App]


@pytest.fixture
def app(app_on: MakeApp) -> App:
    """An app that makes books: a book is printed when its pages are, which may fail."""
    app = app_on(ids=given.draw, backoff=0)
    books, pages = app.queue("books"), app.queue("pages")

    @books.handler("book")
    async def book(ctx: Context) -> list[str]:
        return sorted((await ctx.child_results()).values())

    @pages.handler("page")
    async def page(number: int) -> str:
        if number > 100:
            raise ValueError(f"no paper for page {number}")
        return f"page {number}"

    return app


def page(number: int, **options: Unpack[JobOptions]) -> Call:
    return Call("page", {"number": number}, options, "pages")


def book(*children: Call, **options: Unpack[JobOptions]) -> Call:
    return Call("book", None, options, "books", children)


async def states(store: Store, *refs: JobRef) -> list[State]:
    return [(await known(store, ref)).state for ref in refs]


async def stored(store: Store) -> int:
    """How many jobs there are in the queues of these tests."""
    return sum([sum((await Queue(name, store).counts()).values()) for name in ("books", "pages", "email")])


# ------------------------------------------------------------------ the shapes of a flow


async def test_a_parent_runs_when_its_children_have_ended_and_finds_what_they_returned(app: App, store: Store) -> None:
    flow = await app.flow(book().after(page(1), page(2)))
    assert await states(store, *(await flow.tree()).refs()) == [
        State.WAITING_CHILDREN,
        State.WAITING,
        State.WAITING,
    ]

    async with running(app.worker()):
        assert await soon(flow.result()) == ["page 1", "page 2"]

    assert await flow.job.child_results() == {JobRef("pages", "2"): "page 1", JobRef("pages", "3"): "page 2"}


async def test_a_handlers_calls_are_the_jobs_of_a_flow(app_on: MakeApp) -> None:
    app = app_on()
    sums = app.queue("sums")

    @sums.handler()
    async def double(n: int) -> int:
        return 2 * n

    @sums.handler()
    async def total(ctx: Context, start: int) -> int:
        return start + sum(int(n) for n in (await ctx.child_results()).values())

    flow = await app.flow(total.options(priority=3).call(100).after(double.call(1), double.call(2)))

    async with running(app.worker()):
        assert await soon(flow.result()) == 106
    assert (await flow.job.record()).priority == 3


@pytest.mark.claim("C-66", "C-67")
async def test_the_jobs_of_a_chain_run_one_after_the_other(app_on: MakeApp) -> None:
    """Four steps, the deepest first."""
    app = app_on()
    documents = app.queue("documents")
    ran: list[str] = []

    @documents.catch_all
    async def step(ctx: Context) -> str:
        ran.append(ctx.name)
        return "".join([*(await ctx.child_results()).values(), ctx.name[0]])

    steps = [
        Call(name, queue="documents")
        for name in ("parse-document", "extract-items", "match-skus", "complete-processing")
    ]
    flow = await app.flow(chain(*steps))

    async with running(app.worker()):
        assert await soon(flow.result()) == "pemc"
    assert ran == ["parse-document", "extract-items", "match-skus", "complete-processing"]
    assert (await flow.job.record()).name == "complete-processing"


async def test_a_chain_may_begin_with_jobs_side_by_side(app: App) -> None:
    flow = await app.flow(chain(group(page(1), page(2)), book()))

    async with running(app.worker()):
        assert await soon(flow.result()) == ["page 1", "page 2"]


async def test_a_chain_of_one_job_is_that_job() -> None:
    assert chain(page(1)) == page(1)


async def test_a_group_is_a_flow_of_its_own(app: App) -> None:
    flow = await app.flow(group(page(1), page(2), book(page(3))))

    async with running(app.worker()):
        assert await soon(flow.result()) == ["page 1", "page 2", ["page 3"]]
    assert [job.queue for job in flow.jobs] == ["pages", "pages", "books"]
    assert repr(flow) == "<Flow pages/1, pages/2, books/3>"


async def test_a_group_of_one_job_has_a_list_of_one_result(app: App) -> None:
    flow = await app.flow(group(page(1)))

    async with running(app.worker()):
        assert await soon(flow.result()) == ["page 1"]


async def test_each_job_of_a_flow_has_the_defaults_of_its_queue(app_on: MakeApp, store: Store) -> None:
    app = app_on(attempts=2)
    app.queue("books", attempts=5)
    app.queue("pages")

    flow = await app.flow(book(page(1), page(2, attempts=7)))

    records = (await flow.tree()).records()
    assert [record.options.attempts for record in records] == [5, 2, 7]


async def test_a_queue_that_is_not_declared_is_warned_of_once(app: App, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        await app.flow(book(Call("note", queue="email")))

    assert caplog.messages == ["queue 'email' is not declared: its jobs get the defaults of the app"]


async def test_a_child_that_is_delayed_is_waited_for(app: App, store: Store) -> None:
    flow = await app.flow(book(page(1, delay=60)))

    assert await states(store, *(await flow.tree()).refs()) == [State.WAITING_CHILDREN, State.DELAYED]


async def test_a_job_may_become_the_child_of_one_that_waits(app: App, store: Store) -> None:
    flow = await app.flow(book(page(1)))
    late = await app.queues["pages"].add("page", {"number": 2}, parent=flow.job)

    async with running(app.worker()):
        assert await soon(flow.result()) == ["page 1", "page 2"]
    record = await late.record()
    assert record.parent is not None
    assert record.parent.ref == flow.job.ref


# ------------------------------------------------------------------ whole or not at all


@pytest.mark.claim("C-65", "C-68")
async def test_a_flow_that_one_queue_does_not_admit_is_not_stored_at_all(app_on: MakeApp, store: Store) -> None:
    app = app_on()
    app.queue("books")
    app.queue("pages", max_waiting=1)

    with pytest.raises(QueueFull):
        await app.flow(book(page(1), page(2)))

    assert await stored(store) == 0


async def test_a_flow_counts_towards_max_adds_of_each_of_its_queues(app_on: MakeApp, store: Store) -> None:
    app = app_on()
    app.queue("books")
    app.queue("pages", max_adds=RateLimit(3, per=60))
    await app.flow(book(page(1), page(2)))

    with pytest.raises(TooManyAdds) as refused:
        await app.flow(book(page(3), page(4)))

    assert (refused.value.queue, refused.value.retry_after) == ("pages", 20)
    assert await stored(store) == 3


async def test_a_child_of_another_parent_is_refused_with_its_flow(app: App, store: Store) -> None:
    await app.flow(book(page(1, job_id="first")))

    with pytest.raises(ParentTaken, match=r"^pages/first exists and is a child of books/1 already"):
        await app.flow(book(page(1, job_id="first")))

    assert await stored(store) == 2


async def test_a_parent_that_is_not_there_is_refused(app: App, store: Store) -> None:
    with pytest.raises(JobNotFound, match=r"^there is no job books/nobody"):
        await app.queues["pages"].add("page", {"number": 1}, parent=JobRef("books", "nobody"))

    assert await stored(store) == 0


@pytest.mark.parametrize(
    ("flow", "sentence"),
    [
        (
            lambda: book(Call("page")),
            "the job 'page' of a flow names no queue: use a handler's call, or Call(…, queue=…)",
        ),
        (lambda: group(), "the group has no jobs"),
        (
            lambda: book(page(1), deduplication="one"),
            "the job 'book' has children and cannot be deduplicated: deduplicate the children, or choose its id",
        ),
        (
            lambda: book(page(1, deduplication=Deduplication.keep_last("one"))),
            "the job 'page' has a parent and cannot be kept for later: its parent would not wait for it",
        ),
        (
            lambda: book(page(1), parent_on_failure="fail"),
            "parent_on_failure is for a job that has a parent: give it one, or leave it out",
        ),
        (
            lambda: book(*(page(n) for n in range(1000))),
            "a flow of 1,001 jobs and 13,894 bytes is more than one unit holds (1,000 jobs, 4 MiB): "
            "let jobs add children while they run",
        ),
        (
            lambda: book(*(Call("page", "x" * 900_000, queue="pages") for _ in range(5))),
            "a flow of 6 jobs and 4,500,014 bytes is more than one unit holds (1,000 jobs, 4 MiB): "
            "let jobs add children while they run",
        ),
        (lambda: chain(*(page(n) for n in range(102))), "a flow is at most 100 jobs deep"),
    ],
)
async def test_what_cannot_be_a_flow_is_refused(app: App, store: Store, flow: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(InvalidJob) as refused:
        await app.flow(flow())

    assert str(refused.value) == sentence
    assert await stored(store) == 0


async def test_a_flow_as_large_and_as_deep_as_can_be_is_stored(app: App, store: Store) -> None:
    await app.flow(book(*(page(n) for n in range(999))))
    await app.flow(chain(*(page(n) for n in range(101))))

    assert await stored(store) == 1101


def test_what_cannot_be_a_chain_is_refused() -> None:
    with pytest.raises(InvalidJob, match=r"^chain\(\) wants the calls of at least one job$"):
        chain()
    with pytest.raises(InvalidJob, match=r"^a chain of a group alone has nothing that waits for it: give the group to"):
        chain(group(page(1)))
    with pytest.raises(InvalidJob, match=r"^a group can only be the first step of a chain"):
        chain(page(1), group(page(2)), book())


async def test_an_unknown_policy_is_refused(app: App, store: Store) -> None:
    with pytest.raises(ConfigError, match=r"^parent_on_failure is one of 'wait', 'fail', .*, not 'explode'$"):
        await app.flow(book(page(1, parent_on_failure="explode")))

    assert await stored(store) == 0


# ------------------------------------------------------------------ a child that fails


async def outcome(app: App, store: Store, policy: str | None) -> JobRecord:
    """The parent of a child that has failed under a policy, and of one that has completed, once nothing runs."""
    options: dict[str, Any] = {} if policy is None else {"parent_on_failure": policy}
    flow = await app.flow(book(page(1), page(200, **options)))
    async with running(app.worker()):
        await finished(store, JobRef("pages", "2"))
        await finished(store, JobRef("pages", "3"))
        return await finished(store, flow.job.ref) if policy != "wait" else await flow.job.record()


@pytest.mark.parametrize("policy", [None, "fail"])
async def test_a_child_that_fails_fails_its_parent_unless_told_otherwise(
    app: App, store: Store, policy: str | None
) -> None:
    parent = await outcome(app, store, policy)

    assert parent.state is State.FAILED
    assert parent.reason is not None
    assert "pages/3" in parent.reason.replace(":", "/")
    with pytest.raises(JobFailed):
        await flow_of(parent.ref, store).result()


@pytest.mark.parametrize("policy", ["continue", "ignore"])
async def test_a_parent_may_run_with_the_results_that_there_are(app: App, store: Store, policy: str) -> None:
    parent = await outcome(app, store, policy)

    assert (parent.state, parent.result) == (State.COMPLETED, '["page 1"]')
    assert await store.children(parent.ref) == [
        Child(JobRef("pages", "2"), "completed", result='"page 1"'),
        Child(JobRef("pages", "3"), "ignored", reason="no paper for page 200"),
    ]


async def test_a_child_may_be_forgotten_when_it_fails(app: App, store: Store) -> None:
    parent = await outcome(app, store, "remove")

    assert (parent.state, parent.result) == (State.COMPLETED, '["page 1"]')
    assert [child.ref.id for child in await store.children(parent.ref)] == ["2"]


async def test_a_parent_may_wait_for_a_person(app: App, store: Store) -> None:
    parent = await outcome(app, store, "wait")
    assert (parent.state, parent.pending_children) == (State.WAITING_CHILDREN, 1)

    child = app.queues["pages"].job("3")
    await child.retry(data={"number": 2})
    async with running(app.worker()):
        assert (await finished(store, parent.ref)).result == '["page 1","page 2"]'


async def test_a_parent_that_may_run_again_does_when_a_child_has_failed_it(app_on: MakeApp, store: Store) -> None:
    """The failure of a child is no error of the parent's: no attempt of its own can mend it."""
    app = app_on(backoff=0, attempts=3)
    books, pages = app.queue("books"), app.queue("pages")
    ran: list[str] = []

    @books.catch_all
    async def print_book(ctx: Context) -> None:
        ran.append("book")

    @pages.catch_all
    async def print_page(ctx: Context) -> None:
        ran.append(f"page {ctx.attempt}")
        raise ValueError("no paper")

    flow = await app.flow(book(page(1)))
    async with running(app.worker()):
        parent = await finished(store, flow.job.ref)

    assert parent.state is State.FAILED
    assert ran == ["page 1", "page 2", "page 3"]


# ------------------------------------------------------------------ FlowProducer


def tree(number: int, **options: Unpack[JobOptions]) -> FlowJob:
    opts: JobOptions = {"attempts": 2, "backoff": 0, **options}
    child: FlowJob = {"name": "page", "queue_name": "pages", "data": {"number": number}, "opts": opts}
    return {"name": "book", "queue_name": "books", "children": [child]}


async def test_a_flow_producer_takes_trees_as_bullmq_writes_them(app: App, store: Store) -> None:
    producer = FlowProducer(store)

    flow = await producer.add(tree(1))
    first, second = await producer.add_bulk([tree(2), tree(3)])

    async with running(app.worker()):
        assert [await soon(each.result()) for each in (flow, first, second)] == [["page 1"], ["page 2"], ["page 3"]]
    [child] = (await producer.get_flow("books", flow.job.id).tree()).children
    assert child.record is not None
    assert child.record.options.attempts == 2


async def test_a_flow_producers_parents_wait_for_failed_children_and_that_is_said_once(
    app: App, store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toril.flow._said", set[str]())
    producer = FlowProducer(store)
    flow = await producer.add(tree(200))
    failing = await producer.add(tree(200, parent_on_failure="fail"))
    said = [message for message in caplog.messages if message.startswith("FlowProducer")]

    async with running(app.worker()):
        assert (await finished(store, failing.job.ref)).state is State.FAILED
        [child] = (await flow.tree()).children
        await finished(store, child.ref)

    assert await flow.job.state() is State.WAITING_CHILDREN
    assert said == [
        "FlowProducer lets a parent wait for a failed child until that is retried or removed, as BullMQ does: "
        "give children parent_on_failure='fail' for another rule, or add flows by App.flow"
    ]


async def test_flows_added_together_are_stored_all_or_none(store: Store) -> None:
    await store.configure("books", QueueSettings(max_waiting=1))

    with pytest.raises(QueueFull):
        await FlowProducer(store).add_bulk([tree(1), *[FlowJob(name="book", queue_name="books")] * 2])

    assert await stored(store) == 0


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        ({"name": "book", "queueName": "books"}, "unknown member 'queueName'"),
        ({"name": "book"}, "name or queue_name is missing"),
        (
            {"name": "book", "queue_name": "books", "children": [{"queue_name": "pages"}]},
            "name or queue_name is missing",
        ),
    ],
)
async def test_a_node_of_another_shape_is_refused(store: Store, node: Any, problem: str) -> None:
    with pytest.raises(InvalidJob) as refused:
        await FlowProducer(store).add(node)

    assert str(refused.value) == (
        f"a node of a flow has name, queue_name, and data, opts, children if needed: {problem}"
    )


# ------------------------------------------------------------------ children that come while the parent runs


async def test_a_running_job_may_add_children_and_wait_for_them(app_on: MakeApp, store: Store) -> None:
    app = app_on(ids=given.draw)
    books = app.queue("books")
    ran: list[int] = []

    @books.handler()
    async def write(ctx: Context, chapters: int) -> list[str] | AwaitChildren:
        ran.append(ctx.attempt)
        results = await ctx.child_results()
        if not results:
            await ctx.add_children(*(chapter.options(job_id=f"chapter-{n}").call(n) for n in range(chapters)))
            return AwaitChildren()
        return sorted(results.values())

    @books.handler()
    async def chapter(n: int) -> str:
        return f"chapter {n}"

    async with running(app.worker()):
        assert await soon((await write.add(3)).result()) == ["chapter 0", "chapter 1", "chapter 2"]
    assert ran == [1, 1]


async def test_a_run_that_is_repeated_adds_named_children_once(app_on: MakeApp, store: Store) -> None:
    app = app_on()
    books = app.queue("books", attempts=3, backoff=0)

    @books.handler()
    async def write(ctx: Context) -> int | AwaitChildren:
        if ctx.attempt < 3:
            await ctx.add_children(Call("chapter", options={"job_id": "one"}))
            raise ValueError("the power is cut")
        results = await ctx.child_results()
        return len(results) or AwaitChildren()

    @books.handler()
    async def chapter() -> None: ...

    async with running(app.worker()):
        assert await soon((await write.add()).result()) == 1
    assert (await books.counts())[State.COMPLETED] == 2


async def test_a_child_that_a_running_job_adds_fails_it_unless_told_otherwise(app_on: MakeApp, store: Store) -> None:
    app = app_on()
    books = app.queue("books")

    @books.handler()
    async def write(ctx: Context, policy: str | None) -> str | AwaitChildren:
        if not await ctx.children():
            options: Any = {} if policy is None else {"parent_on_failure": policy}
            await ctx.add_children(chapter.options(**options).call())
            return AwaitChildren()
        return "written"

    @books.handler()
    async def chapter() -> None:
        raise ValueError("no ink")

    async with running(app.worker()):
        failing, going_on = await write.add(None), await write.add("ignore")
        with pytest.raises(JobFailed):
            await soon(failing.result())
        assert await soon(going_on.result()) == "written"


async def test_a_child_may_bring_children_of_its_own(app_on: MakeApp, store: Store) -> None:
    app = app_on()
    books = app.queue("books")

    @books.catch_all
    async def work(ctx: Context) -> str | AwaitChildren:
        results = await ctx.child_results()
        if ctx.name == "book" and not results:
            await ctx.add_children(Call("chapter").after(Call("page", queue="books")))
            return AwaitChildren()
        return "".join([*results.values(), ctx.name[0]])

    async with running(app.worker()):
        assert await soon(books.add_and_wait("book")) == "pcb"


async def test_a_job_that_waits_for_no_children_runs_again_at_once(app_on: MakeApp, store: Store) -> None:
    app = app_on()
    books = app.queue("books")
    ran: list[int] = []

    @books.handler()
    def write(ctx: Context) -> str:
        ran.append(ctx.attempt)
        if len(ran) == 1:
            raise AwaitChildren()
        return "written"

    async with running(app.worker()):
        assert await soon((await write.add()).result()) == "written"
    assert ran == [1, 1]


# ------------------------------------------------------------------ looking


async def test_a_tree_is_drawn(app: App, store: Store) -> None:
    flow = await app.flow(
        book(
            page(1),
            page(200, parent_on_failure="wait"),
            Call("book", None, {}, "books", (page(2, delay=60), page(300, parent_on_failure="wait"))),
        )
    )
    before = str(await flow.tree())

    async with running(app.worker()):
        for id in ("2", "3", "6"):
            await finished(store, JobRef("pages", id))
    after = await flow.tree()

    assert before == (
        "◌ book books/1 waiting-children\n"
        "├─ ◌ book books/4 waiting-children\n"
        "│  ├─ ◷ page pages/5 delayed\n"
        "│  └─ · page pages/6 waiting\n"
        "├─ · page pages/2 waiting\n"
        "└─ · page pages/3 waiting"
    )
    assert str(after) == (
        "◌ book books/1 waiting-children\n"
        "├─ ◌ book books/4 waiting-children\n"
        "│  ├─ ◷ page pages/5 delayed\n"
        "│  └─ ✗ page pages/6 failed: no paper for page 300 (its parent waits until it is retried or removed)\n"
        "├─ ✓ page pages/2 completed\n"
        "└─ ✗ page pages/3 failed: no paper for page 200 (its parent waits until it is retried or removed)"
    )
    assert [record.ref.id for record in after.blocked_by] == ["3", "6"]


async def test_a_tree_leaves_out_what_is_too_deep_or_too_much(app: App, store: Store) -> None:
    flow = await app.flow(book(*(book(page(n)) for n in range(4))))

    assert str(await flow.tree(depth=1, max_children=2)) == (
        "◌ book books/1 waiting-children\n"
        "├─ ◌ book books/2 waiting-children\n"
        "├─ ◌ book books/4 waiting-children\n"
        "└─ … 2 more"
    )


async def test_a_long_reason_is_cut_and_in_one_line(app: App, store: Store) -> None:
    flow = await app.flow(book(page(1)))
    await store.cancel([JobRef("pages", "2")], "no\npaper " + "at all " * 20)

    drawn = str(await read_tree(store, JobRef("pages", "2")))

    assert drawn == "✗ page pages/2 failed: no paper at all at all at all at all at all at all at all a…"
    assert flow.job.id == "1"


async def test_a_job_of_a_tree_that_is_gone_is_drawn_as_such(app: App, store: Store) -> None:
    flow = await app.flow(book(page(1, keep_completed=False), page(2, delay=60)))
    async with running(app.worker()):
        await told(store, "completed", queue="pages")
    await given.advance(store, 3_600_000)

    drawn = str(await flow.tree())

    assert drawn.count("? pages/2 gone") == 1


async def test_the_tree_of_a_job_that_is_gone_is_refused(store: Store) -> None:
    with pytest.raises(JobNotFound):
        await read_tree(store, JobRef("books", "nobody"))


async def test_parents_that_wait_for_a_failed_child_are_found(app: App, store: Store) -> None:
    await app.flow(book(page(1)))
    await app.flow(book(page(200, parent_on_failure="wait"), page(2, delay=60)))
    assert await blocked(store, "books") == []

    async with running(app.worker()):
        await finished(store, JobRef("pages", "4"))
        await finished(store, JobRef("books", "1"))

    assert await blocked(store, "books") == [(JobRef("books", "3"), JobRef("pages", "4"))]
    assert await blocked(store, "books", limit=0) == []


# ------------------------------------------------------------------ changing


async def test_cancelling_a_flow_fails_what_has_not_begun_and_names_what_runs(app_on: MakeApp, store: Store) -> None:
    app = app_on(ids=given.draw)
    app.queue("books")
    pages, gate = app.queue("pages"), Gate()

    @pages.catch_all
    async def print_page(ctx: Context) -> None:
        await gate.passed(ctx.job_id)

    flow = await app.flow(book(page(1), page(2, delay=60), book(page(3, delay=60))))
    async with running(app.worker()):
        await gate.arrivals()

        assert await flow.cancel("not wanted") == [JobRef("pages", "2")]

        assert [record.ref.id for record in (await flow.tree()).records() if record.state is State.FAILED] == list(
            "1453"
        )
        with pytest.raises(JobFailed, match=r"not wanted$"):
            await flow.result()
        gate.open()
        await finished(store, JobRef("pages", "2"))
    assert await flow.cancel() == []
    assert await flow.job.state() is State.FAILED


async def test_retrying_a_flow_runs_its_failed_jobs_again_each_parent_after_its_children(
    app_on: MakeApp, store: Store
) -> None:
    app = app_on(ids=given.draw, backoff=0)
    books, pages = app.queue("books"), app.queue("pages")
    ran: list[str] = []
    paper = False

    @books.catch_all
    async def print_book(ctx: Context) -> int:
        ran.append(ctx.job_id)
        return len(await ctx.child_results())

    @pages.catch_all
    async def print_page(ctx: Context) -> None:
        ran.append(ctx.job_id)
        if not paper and ctx.job_id != "3":
            raise ValueError("no paper")

    flow = await app.flow(book(book(page(1), page(2))))  # 1, 2, 3, 4
    async with running(app.worker()):
        assert (await finished(store, flow.job.ref)).state is State.FAILED
    assert sorted(ran) == ["3", "4"]

    paper = True
    ran.clear()
    assert await flow.retry() == 3
    assert await states(store, *(await flow.tree()).refs()) == [
        State.WAITING_CHILDREN,
        State.WAITING_CHILDREN,
        State.COMPLETED,
        State.WAITING,
    ]
    async with running(app.worker()):
        assert await soon(flow.result()) == 1

    assert ran == ["4", "2", "1"]
    assert await flow.retry() == 0


async def test_a_cancelled_flow_can_be_retried(app: App, store: Store) -> None:
    flow = await app.flow(book(page(1), page(2)))
    await flow.cancel()

    assert await flow.retry() == 3

    async with running(app.worker()):
        assert await soon(flow.result()) == ["page 1", "page 2"]


# ------------------------------------------------------------------ what is refused, and what it says


async def test_two_jobs_of_a_flow_cannot_be_one(app: App) -> None:
    child = Call("page", {}, {"job_id": "same"}, queue="pages")

    with pytest.raises(InvalidJob, match=r"^two jobs of the flow are called pages/same: give each its own job_id"):
        await app.flow(Call("report", queue="reports").after(child, child))


async def test_a_call_that_waits_for_others_is_added_by_a_flow_alone(app: App) -> None:
    call = Call("report", queue="reports").after(Call("page", queue="pages"))

    with pytest.raises(InvalidJob, match=r"^the job 'report' waits for others, which a flow alone adds"):
        await app.queue("reports").add_many([call])


async def test_a_job_cannot_be_its_own_child(app: App) -> None:
    with pytest.raises(InvalidJob, match=r"^the job 'j1' cannot be its own child"):
        await app.queue("reports").add("report", job_id="j1", parent=JobRef("reports", "j1"))


@pytest.mark.parametrize(
    ("given", "sentence"), [("report", "a flow is a call"), ({"name": "report"}, "a flow is a call")]
)
async def test_what_is_no_flow_is_refused_by_what_it_is(app: App, given: Any, sentence: str) -> None:
    with pytest.raises(InvalidJob, match=f"^{sentence}"):
        await app.flow(given)
    with pytest.raises(InvalidJob, match=r"^after\(\) takes calls"):
        Call("report").after(given)
    with pytest.raises(InvalidJob, match=r"^a job is named by a Job or a JobRef"):
        app.get_flow(given)


async def test_the_policy_of_a_queue_is_that_of_its_jobs(app: App) -> None:
    pages = app.queue("lenient", parent_on_failure="ignore")
    report = await app.queue("reports").add("report", delay=60)

    child = await pages.add("page", parent=report)

    parent = (await child.record()).parent
    assert parent is not None
    assert parent.policy is ChildPolicy.IGNORE
