"""What type checkers make of handlers. It is checked and never run: see test_types.py."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

from toril import (
    App,
    Backoff,
    Call,
    Context,
    Deduplication,
    Delay,
    Flow,
    Job,
    JobScheduler,
    Keep,
    QueueEvents,
    Throttle,
    chain,
    cron,
    every,
    group,
    inject,
)
from toril.events import Failed, JobEvent
from toril.handlers import AsyncHandler, SyncHandler

app = App("sqlite://:memory:", attempts=3, keep_failed=timedelta(days=7))
email = app.queue("email", concurrency=5, max_waiting=100, backoff=Backoff.exponential(1))


class Database:
    """What handlers are given."""


async def database() -> Database:
    return Database()


def settings() -> dict[str, str]:
    return {}


@dataclass
class Upload:
    path: str


@dataclass
class Report:
    lines: int


# ------------------------------------------------------------------ declarations


@email.handler("welcome-email")
async def welcome(user_id: str, address: str, copies: int = 1) -> dict[str, bool]:
    return {"sent": True}


@email.handler()
async def digest(ctx: Context, day: str) -> int:
    return ctx.attempt


@email.handler()
async def import_(upload: Upload, /) -> Report:
    return Report(1)


@email.handler()
def resize(width: int, *, height: int) -> bytes:
    return b""


@email.handler()
def thumbnail(ctx: Context, width: int) -> str:
    return ctx.job_id


@email.handler()
async def injected(name: str, *, db: Database = inject(database), conf: dict[str, str] = inject(settings)) -> str:  # noqa: B008
    assert_type(db, Database)
    assert_type(conf, dict[str, str])
    return name


@email.handler()
async def wishing(name: str) -> Report | Delay | Throttle:
    return Delay(30)


@email.handler()
def wishing_in_thread(ctx: Context) -> str | Throttle:
    return "done"


@email.handler()
async def nothing() -> None: ...


@email.handler(retry_on=[OSError], give_up_on=[FileNotFoundError], extra="forbid")
async def listing() -> list[tuple[int, str]]:
    return []


class Mailer:
    def __init__(self, db: Database) -> None:
        self.db = db

    async def send(self, to: str) -> Report:
        return Report(1)

    def count(self, ctx: Context, to: str) -> int:
        return 1


mailer = Mailer(Database())
send = email.handler("send")(mailer.send)
count = email.handler("count")(mailer.count)


@email.catch_all
async def anything(ctx: Context, data: dict[str, Any], /) -> str:
    return ctx.name


# ------------------------------------------------------------------ what adding gives


async def adding() -> None:
    assert_type(await welcome.add(user_id="u1", address="a@example.org"), Job[dict[str, bool]])
    assert_type(await welcome.add("u1", "a@example.org", 2), Job[dict[str, bool]])
    assert_type(await digest.add(day="monday"), Job[int])
    assert_type(await import_.add(Upload("a")), Job[Report])
    assert_type(await resize.add(1, height=2), Job[bytes])
    assert_type(await thumbnail.add(width=1), Job[str])
    assert_type(await injected.add("Ada"), Job[str])
    assert_type(await wishing.add("Ada"), Job[Report])
    assert_type(await wishing_in_thread.add(), Job[str])
    assert_type(await nothing.add(), Job[None])
    assert_type(await listing.add(), Job[list[tuple[int, str]]])
    assert_type(await send.add(to="Ada"), Job[Report])
    assert_type(await count.add(to="Ada"), Job[int])
    assert_type(await email.add("by-name", {"a": 1}, delay=timedelta(hours=1)), Job[Any])

    assert_type(await welcome.options(delay=60, priority=1).add("u1", "a@example.org"), Job[dict[str, bool]])
    assert_type(welcome.call("u1", address="a@example.org"), Call)
    await email.add_many([welcome.call("u1", "a"), ("by-name", {"a": 1}), ("by-name", 1, {"priority": 2})])


async def results() -> None:
    assert_type(await (await welcome.add("u1", "a")).result(timeout=30), dict[str, bool])
    assert_type(await (await wishing.add("Ada")).result(), Report)
    assert_type(await (await nothing.add()).result(), None)


async def calling() -> None:
    assert_type(await welcome("u1", "a"), dict[str, bool])
    assert_type(resize(1, height=2), bytes)
    assert_type(await digest(_context(), "monday"), int)
    assert_type(thumbnail(_context(), 1), str)
    assert_type(await injected("Ada", db=Database()), str)
    waiting: Awaitable[Report] = import_(Upload("a"))
    await waiting


def kinds() -> None:
    asynchronous: AsyncHandler[..., ..., dict[str, bool]] = welcome
    synchronous: SyncHandler[..., ..., bytes] = resize
    assert asynchronous.name != synchronous.name
    assert_type(welcome.name, str)


def _context() -> Context:
    raise NotImplementedError


# ------------------------------------------------------------------ flows, schedules, events


@email.handler("report", schedule=cron("0 9 * * *", tz="Europe/Berlin"))
async def report() -> None: ...


@email.on(Failed)
async def failed(event: Failed) -> None:
    assert_type(event.reason, str)


async def together() -> None:
    assert_type(await welcome.schedule("weekly-ada", cron("0 9 * * 1"), "u1", address="a"), JobScheduler)
    assert_type(
        await welcome.options(priority=1).schedule("hourly", every(3600), user_id="u1", address="a"), JobScheduler
    )
    welcome.declare_schedule("daily-ada", every(timedelta(days=1)), "u1", "a")
    flow = welcome.call("u1", "a").after(digest.call("monday"), resize.call(1, height=2))
    assert_type(await app.flow(flow), Flow)
    assert_type(await app.flow(chain(group(digest.call("monday")), welcome.call("u1", "a"))), Flow)
    assert_type(await email.deduplicated("import"), Job[Any] | None)
    await welcome.options(deduplication=Deduplication.throttle("u1", 60)).add("u1", "a")
    async for event in QueueEvents("email", app.store):
        assert_type(event, JobEvent)


# ------------------------------------------------------------------ what is wrong


async def wrong() -> None:
    await welcome.schedule("weekly", cron("0 9 * * 1"), 1, address="a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    welcome.declare_schedule("daily", every(60), "u1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await app.flow("welcome")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    email.on(Failed)(lambda: None)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
    await welcome.add()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await welcome.add(user_id="u1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await welcome.add(user_id=1, address="a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await welcome.add("u1", "a", adress="b")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await digest.add(_context(), "monday")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    await digest.add(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await import_.add({"path": "a"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await import_.add(upload=Upload("a"))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await resize.add(1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await send.add(mailer, "Ada")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    await nothing.add(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    welcome.options(prioritty=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    welcome.options(priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await email.add("by-name", None, delay="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.queue("images", attemps=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    late: int = await (await welcome.add("u1", "a")).result()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    assert late
    await email.add_many(["welcome"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    welcome(1)  # type: ignore[call-arg, arg-type, unused-coroutine]  # pyright: ignore[reportCallIssue, reportUnusedCoroutine]
    Keep.of("all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def wrong_declarations() -> None:
    email.handler(name=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    email.handler()(5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    email.backoff("mine")(lambda attempt: 1.0)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
