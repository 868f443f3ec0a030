"""The app: declarations, handlers, and its life on loops, threads and in forks."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance.given import soon
from toril import App, Backoff, ConfigError, Context, InvalidData, Queue, inject
from toril.states import State
from toril.store import Store
from worker.stage import WatchedStore, at_work, finished, quiet

# ------------------------------------------------------------------ declarations


def test_making_an_app_and_declaring_queues_opens_nothing(tmp_path: Path) -> None:
    app = App()
    app.queue("email")

    assert app.settings.implicit
    assert list(tmp_path.iterdir()) == []


def test_a_queue_is_declared_once_and_got_by_its_name(app_on: Callable[..., App]) -> None:
    app = app_on()
    email = app.queue("email", concurrency=5)

    assert app.queue("email") is email
    with pytest.raises(
        ConfigError, match=r"^queue 'email' is declared already: declare it once, and get it by app\.queue"
    ):
        app.queue("email", concurrency=6)


def test_a_name_has_one_handler(app_on: Callable[..., App]) -> None:
    email = app_on().queue("email")

    @email.handler("welcome")
    async def first() -> None: ...

    with pytest.raises(ConfigError, match=r"^the name 'welcome' is taken by .*first: give .*second another name$"):

        @email.handler("welcome")
        async def second() -> None: ...


def test_a_handler_stays_the_function_it_was(app_on: Callable[..., App]) -> None:
    email = app_on().queue("email")

    @email.handler()
    def double(n: int) -> int:
        return 2 * n

    @email.handler()
    async def greet(name: str) -> str:
        return f"hello {name}"

    assert double(4) == 8
    assert asyncio.run(greet("Ada")) == "hello Ada"
    assert (double.name, greet.name) == ("double", "greet")


async def test_a_handlers_add_takes_its_own_parameters(app_on: Callable[..., App], store: Store) -> None:
    email = app_on(keys="camel").queue("email")

    @email.handler("welcome-email")
    async def welcome(ctx: Context, user_id: str, copies: int = 1, *, db: str = inject(lambda: "db")) -> list[Any]:
        return [user_id, copies, db]

    job = await welcome.add("u1", copies=2)
    assert (await job.record()).data == '{"userId":"u1","copies":2}'
    assert (await (await welcome.options(priority=3).add("u2")).record()).priority == 3
    [third] = await email.add_many([welcome.call("u3")])

    untyped: Any = welcome
    with pytest.raises(InvalidData, match="is missing a required argument: 'user_id'"):
        await untyped.add()
    async with at_work(store, email.handlers):
        assert await soon(job.result()) == ["u1", 2, "db"]
        assert await soon(third.result()) == ["u3", 1, "db"]


async def test_a_bound_method_is_a_handler(app_on: Callable[..., App], store: Store) -> None:
    email = app_on().queue("email")

    class Mailer:
        def __init__(self, sender: str) -> None:
            self.sender = sender

        async def send(self, to: str) -> str:
            return f"{self.sender} to {to}"

    send = email.handler("send")(Mailer("toril").send)

    async with at_work(store, email.handlers):
        assert await soon((await send.add(to="Ada")).result()) == "toril to Ada"


async def test_an_apps_worker_serves_every_queue_that_has_handlers(app_on: Callable[..., App], store: Store) -> None:
    app = app_on()
    email, images = app.queue("email", concurrency=2), app.queue("images")
    app.queue("nobodys")

    @email.handler()
    async def welcome() -> str:
        return "email"

    @images.catch_all
    async def anything(ctx: Context) -> str:
        return ctx.name

    worker = app.worker()
    assert dict(worker.info().queues) == {"email": 2, "images": 10}
    async with worker:
        assert await soon((await welcome.add()).result()) == "email"
        assert await soon((await images.add("resize")).result()) == "resize"


def test_a_worker_for_nothing_is_refused_with_what_to_do(app_on: Callable[..., App]) -> None:
    app = app_on()
    with pytest.raises(ConfigError, match=r"^no queue of this app has a handler: declare one with"):
        app.worker()
    app.queue("email")
    with pytest.raises(ConfigError, match=r"^queue 'email' has no handler: its jobs would all fail as unknown$"):
        app.worker(["email"])
    with pytest.raises(ConfigError, match=r"^queue 'emial' is not declared: declared are email$"):
        app.worker(["emial"])


async def test_a_declared_strategy_is_asked(app_on: Callable[..., App], store: Store) -> None:
    email = app_on().queue("email")
    asked: list[int] = []

    @email.backoff("patient")
    def patient(attempt: int, error: BaseException) -> float:
        asked.append(attempt)
        return 0

    @email.handler()
    async def welcome() -> None:
        raise ValueError("no")

    async with app_worker(email, store):
        await finished(store, (await welcome.options(attempts=3, backoff=Backoff.custom("patient")).add()).ref)

    assert asked == [1, 2]


async def test_a_strategy_given_as_a_function_with_one_add_is_asked(app_on: Callable[..., App], store: Store) -> None:
    """The job's data and options cross to the worker; the function itself must be known there by its name."""
    asked: list[int] = []

    def patient(attempt: int, error: BaseException) -> float:
        asked.append(attempt)
        return 0

    email = app_on().queue("email", attempts=2, backoff=Backoff.custom(patient))

    @email.handler()
    async def welcome() -> None:
        raise ValueError("no")

    async with app_worker(email, store):
        await finished(store, (await welcome.add()).ref)

    assert asked == [1]


def app_worker(email: Any, store: Store) -> Any:
    return at_work(store, email.handlers)


# ------------------------------------------------------------------ where workers run


async def test_an_open_app_runs_a_worker_in_development(app_on: Callable[..., App]) -> None:
    app = app_on()
    email = app.queue("email")

    @email.handler()
    async def welcome() -> str:
        return "done"

    async with app:
        assert await soon((await welcome.add()).result()) == "done"


async def test_an_open_app_runs_no_worker_in_production(
    app_on: Callable[..., App], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORIL_ENV", "production")
    app = app_on()
    email = app.queue("email")

    @email.handler()
    async def welcome() -> None: ...

    async with app:
        job = await welcome.add()
        await quiet(store)
        assert await email.workers() == []
        assert await job.state() is State.WAITING


async def test_workers_that_are_switched_off_are_told_of_once(
    app_on: Callable[..., App], store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ENABLE_WORKERS", "false")
    app = app_on()
    email = app.queue("email")

    @email.handler()
    async def welcome() -> None: ...

    async with app:
        job = await welcome.add()
        await welcome.add()
        await quiet(store)
        assert await job.state() is State.WAITING

    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "workers are switched off here by ENABLE_WORKERS" in warnings[0]


def test_production_refuses_the_file_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORIL_ENV", "production")
    app = App()

    with pytest.raises(ConfigError, match="set TORIL_URL"):
        app.queue("email")

    assert os.listdir(tmp_path) == []


async def test_a_file_that_nobody_asked_for_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "toril")
    app = App()
    email = app.queue("email")
    await email.add("a")
    await email.add("a")
    await app.close()

    told = [message for message in caplog.messages if message.startswith("jobs are kept in ")]
    assert len(told) == 1
    assert str(tmp_path / "toril.db") in told[0]
    assert "set TORIL_URL for another place" in told[0]


async def test_an_open_app_whose_worker_cannot_start_says_so(
    watched: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    from toril.errors import StoreDamaged

    app = App(store=watched.as_store, clock=watched.as_store.clock)
    email = app.queue("email")

    @email.handler()
    async def welcome() -> None: ...

    watched.fail("claim", error=StoreDamaged("a page is gone"))
    said: list[str] = []

    async def serve() -> None:
        async with app:
            await watched.until_refused("claim")
            await quiet(watched.as_store)
            said.extend(r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR)

    with pytest.raises(StoreDamaged):
        await serve()
    assert any("a page is gone" in message for message in said)


async def test_what_the_lifespan_gives_a_framework_is_state_that_it_can_take(app_on: Callable[..., App]) -> None:
    app = app_on()
    state: dict[str, Any] = {}

    async with app.lifespan(object()) as given:
        handed: Any = given
        if handed is not None:
            state.update(handed)  # what ASGI frameworks do with it

    assert state == {}


# ------------------------------------------------------------------ loops, threads, forks


def test_one_app_serves_one_loop_after_another(tmp_path: Path) -> None:
    app = App(f"sqlite:///{tmp_path / 'jobs.db'}")
    email = app.queue("email")

    @email.handler()
    async def welcome(n: int) -> int:
        return n

    async def main(n: int) -> int:
        async with app:
            return await soon((await welcome.add(n=n)).result())

    assert [asyncio.run(main(n)) for n in range(3)] == [0, 1, 2]


def test_one_app_serves_one_loop_after_another_without_being_closed(tmp_path: Path) -> None:
    app = App(f"sqlite:///{tmp_path / 'jobs.db'}")
    email = app.queue("email")

    async def main(n: int) -> int:
        await asyncio.gather(*(email.add("a", n) for _ in range(5)))
        return (await email.counts())[State.WAITING]

    assert [asyncio.run(main(n)) for n in range(3)] == [5, 10, 15]
    asyncio.run(app.close())


def test_one_app_serves_two_threads_with_a_loop_each(tmp_path: Path) -> None:
    app = App(f"sqlite:///{tmp_path / 'jobs.db'}")
    email = app.queue("email")
    together = threading.Barrier(2)
    errors: list[BaseException] = []

    async def main(n: int) -> None:
        for _ in range(20):
            await asyncio.gather(*(email.add("a", n) for _ in range(10)))

    def thread(n: int) -> None:
        try:
            together.wait(20)
            asyncio.run(main(n))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=thread, args=(n,)) for n in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    async def count() -> int:
        found = (await email.counts())[State.WAITING]
        await app.close()
        return found

    assert errors == []
    assert asyncio.run(count()) == 400


def test_two_apps_in_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    first, second = (App(f"sqlite:///{tmp_path / f'{n}.db'}") for n in range(2))

    async def main() -> list[int]:
        await first.queue("email").add("a")
        await asyncio.gather(*(second.queue("email").add("a") for _ in range(3)))
        counts = [(await app.queue("email").counts())[State.WAITING] for app in (first, second)]
        await first.close()
        await second.close()
        return counts

    assert asyncio.run(main()) == [1, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_adds_after_its_parent_has(tmp_path: Path) -> None:
    script = """
        import asyncio, json, os, sys
        from toril import App

        app = App(sys.argv[1])
        email = app.queue("email")

        async def add(n):
            await asyncio.gather(*(email.add("a", n) for _ in range(10)))

        asyncio.run(add(0))          # the parent has opened the file
        children = []
        for n in (1, 2, 3):
            child = os.fork()
            if child == 0:
                asyncio.run(add(n))
                os._exit(0)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

        async def look():
            await add(4)             # the parent goes on
            ids = [record.ref.id async for record in email.iterate("waiting")]
            await app.close()
            return {"codes": codes, "jobs": len(ids), "different": len(set(ids))}

        print(json.dumps(asyncio.run(look())))
    """
    ran = subprocess.run(
        [
            *(sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)),
            f"sqlite:///{(tmp_path / 'jobs.db').as_posix()}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"codes": [0, 0, 0], "jobs": 50, "different": 50}


async def test_a_queue_stands_alone_without_an_app(store: Store) -> None:
    queue = Queue("email", store)

    assert repr(queue) == "<Queue 'email' on sqlite>"
    assert await (await queue.add("a")).state() is State.WAITING
