"""The worker's look at how its store is set up."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path

import pytest

from conformance.given import soon
from toril import App, ConfigError, Queue, QueueSettings, Worker, cron
from toril.errors import StoreUnavailable
from toril.model import Finding, WorkerInfo
from toril.settings import Settings
from toril.store import Store
from toril.worker import preflight
from toril.worker.outage import Outage
from worker.stage import WatchedStore, at_work, handlers, quiet, running, turn

EVICTS = Finding("error", "redis://h", "it throws away jobs", "set maxmemory-policy to noeviction")
FORGETS = Finding("warning", "redis://h", "it writes nothing to its disk", "set appendonly to yes")
RELAXED = Finding("ok", "redis://h", "all is as it should be")


class SetUp(WatchedStore):
    """A store of which these things are to be said."""

    def __init__(self, store: Store, *findings: Finding) -> None:
        super().__init__(store)
        self.findings = list(findings)
        self.away = False
        self.looks = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def preflight(self) -> list[Finding]:
        self.looks += 1
        await self.answers.wait()
        if self.away:
            raise StoreUnavailable("the line is cut")
        return self.findings


async def work() -> None: ...


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(line.levelno, line.getMessage()) for line in caplog.records if line.name == "toril.worker.preflight"]


# ------------------------------------------------------------------ a worker that is not strict


async def test_what_is_wrong_is_logged_once_a_line_each(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    unfit = SetUp(store, EVICTS, FORGETS, RELAXED)

    async with at_work(unfit.as_store, work):
        await quiet(store)

    assert unfit.looks == 1
    assert said(caplog) == [
        (logging.ERROR, "redis://h: it throws away jobs (set maxmemory-policy to noeviction)"),
        (logging.WARNING, "redis://h: it writes nothing to its disk (set appendonly to yes)"),
    ]


async def test_a_store_that_is_set_up_well_is_not_spoken_of(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async with at_work(store, work):
        await quiet(store)

    assert said(caplog) == []


async def test_jobs_run_while_the_look_is_still_under_way(store: Store, queue: Queue) -> None:
    slow = SetUp(store, EVICTS)
    slow.answers.clear()

    async with at_work(slow.as_store, handlers(work)):
        await soon((await queue.add("work")).result())

    assert slow.looks == 1


async def test_a_store_that_is_away_is_looked_at_when_it_is_back(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    away = SetUp(store, FORGETS)
    away.away = True

    async with at_work(away.as_store, work):
        await turn(store, 1_000)
        assert said(caplog) == []
        away.away = False
        await turn(store, 2_000)

    assert len(said(caplog)) == 1


async def test_a_look_that_fails_for_any_reason_does_not_end_the_worker(
    store: Store, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(SetUp):
        async def preflight(self) -> list[Finding]:
            raise ZeroDivisionError("oops")

    async with at_work(Broken(store).as_store, handlers(work)):
        await soon((await queue.add("work")).result())

    assert said(caplog) == [(logging.WARNING, "how the store is set up could not be looked at: oops")]


# ------------------------------------------------------------------ Node's workers


class Shared(SetUp):
    """A store on which a worker of Node serves a queue, too."""

    async def workers(self) -> list[WorkerInfo]:
        if self.away:
            raise StoreUnavailable("the line is cut")
        return [WorkerInfo("10.0.0.7:4711", "renderer", "10.0.0.7", 0, {"email": 1}, 0, 0, 30_000)]


PASSED_OVER = (
    "queue email: Node's worker renderer serves it too, and Node passes over what it does not know: "
    'missed="skip" of schedule daily; max_waiting (let Toril\'s workers alone serve it, or do without these)'
)


@pytest.fixture
async def asking(store: Store, queue: Queue) -> None:
    """A queue that is asked for what Node does not know."""
    await queue.configure(QueueSettings(max_waiting=10))
    await queue.schedule("daily", cron("0 9 * * *", missed="skip"))


def outage_of(store: Store) -> Outage:
    return Outage(store.clock, random.Random(1))


@pytest.mark.usefixtures("asking")
async def test_what_nodes_workers_pass_over_is_logged_a_line_a_queue(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await preflight.tell_peers(Shared(store).as_store, ["email", "other"], outage_of(store))

    assert said(caplog) == [(logging.WARNING, PASSED_OVER)]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.usefixtures("asking")
async def test_a_worker_says_at_its_start_what_nodes_pass_over(
    strict: bool, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async with at_work(Shared(store).as_store, work, strict=strict):
        await quiet(store)

    assert said(caplog) == [(logging.WARNING, PASSED_OVER)]


@pytest.mark.usefixtures("asking")
async def test_without_nodes_workers_nothing_is_said(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    await preflight.tell_peers(store, ["email"], outage_of(store))

    assert said(caplog) == []


@pytest.mark.usefixtures("asking")
async def test_nodes_workers_are_looked_for_when_the_store_is_back(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    away = Shared(store)
    away.away = True

    looking = asyncio.create_task(preflight.tell_peers(away.as_store, ["email"], outage_of(store)))
    await turn(store, 1_000)
    assert said(caplog) == []
    away.away = False
    await turn(store, 2_000)
    await soon(looking)

    assert said(caplog) == [(logging.WARNING, PASSED_OVER)]


async def test_a_look_for_nodes_workers_that_fails_ends_nothing(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SetUp):
        async def workers(self) -> list[WorkerInfo]:
            raise ZeroDivisionError("oops")

    await preflight.tell_peers(Broken(store).as_store, ["email"], outage_of(store))

    assert said(caplog) == [(logging.WARNING, "Node's workers could not be looked for: oops")]


# ------------------------------------------------------------------ a strict one


async def test_a_strict_worker_refuses_a_store_by_which_jobs_may_be_lost(store: Store, queue: Queue) -> None:
    unfit = SetUp(store, EVICTS, FORGETS)
    await queue.add("work")

    with pytest.raises(ConfigError, match=r"throws away jobs \(set maxmemory-policy to noeviction\)$") as caught:
        await soon(Worker("email", work, unfit.as_store, strict=True).run())

    assert FORGETS.message not in str(caught.value)
    assert unfit.asked == []


async def test_a_strict_worker_only_speaks_of_what_is_less_than_an_error(
    store: Store, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    async with at_work(SetUp(store, FORGETS).as_store, handlers(work), strict=True):
        await soon((await queue.add("work")).result())

    assert [level for level, _ in said(caplog)] == [logging.WARNING]


async def test_a_strict_worker_waits_for_a_store_that_is_away(store: Store, queue: Queue) -> None:
    away = SetUp(store)
    away.away = True

    async with at_work(away.as_store, handlers(work), strict=True):
        await turn(store, 1_000)
        assert away.asked == []
        away.away = False
        await turn(store, 2_000)
        await soon((await queue.add("work")).result())


async def test_a_strict_worker_can_be_stopped_while_the_store_is_away(store: Store) -> None:
    away = SetUp(store)
    away.away = True
    worker = Worker("email", work, away.as_store, strict=True)

    async with running(worker) as run:
        await quiet(store)
        worker.stop()

        assert await soon(run) == 0


# ------------------------------------------------------------------ who says strict


@pytest.mark.parametrize(
    ("environ", "table", "argument", "strict", "origin"),
    [
        ({}, "", None, False, "default"),
        ({"TORIL_STRICT": "1"}, "strict = false", None, True, "TORIL_STRICT"),
        ({}, "strict = true", None, True, "[tool.toril] in pyproject.toml"),
        ({"TORIL_STRICT": "yes"}, "", False, False, "argument"),
    ],
)
def test_strictness_is_a_setting(
    environ: dict[str, str], table: str, argument: bool | None, strict: bool, origin: str, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.toril]\n{table}\n")

    settings = Settings.load(strict=argument, environ=environ, directory=tmp_path)

    assert (settings.strict, settings.origins["strict"]) == (strict, origin)


def test_strictness_is_true_or_false(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TORIL_STRICT must be true or false"):
        Settings.load(environ={"TORIL_STRICT": "very"}, directory=tmp_path)


@pytest.mark.parametrize("strict", [True, False])
async def test_workers_of_a_strict_app_are_strict(strict: bool, store: Store) -> None:
    app = App(store=SetUp(store, EVICTS).as_store, strict=strict)
    app.queue("email").catch_all(work)
    worker = app.worker()

    async with running(worker) as run:
        await quiet(store)

        assert run.done() is strict
        if strict:
            assert isinstance(run.exception(), ConfigError)
