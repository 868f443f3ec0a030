"""The real Bull Board, in a real browser, shows what Toril keeps in Redis, and Toril obeys what is pressed there."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio
from playwright.async_api import Locator, async_playwright, expect

from conformance import given
from interop.board import WIDE, Board, Screen, as_shown, midday_zone
from interop.peers import NODE
from toril import App, Context, Queue, RateLimit, Served, Worker
from toril.clock import TurnedClock
from toril.flow import Flow
from toril.handlers import HandlerTable, registered
from toril.model import JobRecord, JobRef
from toril.options import ChildPolicy
from toril.schedule import cron, every
from toril.states import FINISHED, State
from toril.store import Store
from toril.stores.redis.store import RedisStore
from worker.stage import Gate, at_work, handlers

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUE = "email"
QUEUES = [QUEUE, "albums", "images", "thumbs", "invoices"]
FAR_MS = 4_000_000_000_000
PATIENCE_MS = 30_000
ZONE = midday_zone()


def _require_board() -> None:
    if not (NODE / "node_modules" / "@bull-board").is_dir() or not shutil.which("node"):
        missing = "Bull Board"
    elif not shutil.which("chromium"):
        missing = "chromium"
    else:
        return
    sentence = f"{missing} is not installed: `tools/setup.sh test` installs it"
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)


@pytest.fixture(scope="module")
def board(redis_url: str) -> Iterator[Board]:
    """The board's server, without queues."""
    _require_board()
    board = Board(redis_url)
    yield board
    board.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def window(board: Board) -> AsyncIterator[Screen]:
    """A window on the board, in a browser of Debian's that finds no host."""
    arguments = ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = await browser.new_page(viewport=WIDE, timezone_id=ZONE, locale="en-US")
        page.set_default_timeout(PATIENCE_MS)
        window = Screen(page, board, await board.address())
        await window.watch()
        yield window
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def store(redis_url: str) -> AsyncIterator[Store]:
    """A store of this test's own, under the machine's clock."""
    opened = RedisStore(redis_url, prefix=f"board-{uuid.uuid4().hex}")
    yield opened
    await opened.close()


@pytest_asyncio.fixture(loop_scope="module")
async def screen(window: Screen, store: Store) -> AsyncIterator[Screen]:
    """The window on this test's own queues."""
    await window.look_at(store.prefix, QUEUES)
    yield window
    assert window.troubles() == []


@pytest_asyncio.fixture(loop_scope="module")
async def view(window: Screen, scene: Scene) -> AsyncIterator[Screen]:
    """The window on the queues of the scene."""
    await window.look_at(scene.store.prefix, QUEUES)
    yield window
    assert window.troubles() == []


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the screens go; `TORIL_SHOTS` says where they are to be kept."""
    kept = os.environ.get("TORIL_SHOTS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("shots")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"pictures of the board's screens are in {folder}")
    return folder


# ------------------------------------------------------------------ waiting


async def until(store: Store, so: Callable[[], Awaitable[bool]], queue: str = QUEUE) -> None:
    """Return when it is so; looked at with every event of the queue."""
    after = await store.last_event(queue)
    while not await so():
        for event in await given.soon(store.read(queue, after, until_ms=FAR_MS)):
            after = event.id


async def has_result(store: Store, ref: JobRef, result: Any) -> bool:
    record = await given.record_of(store, ref)
    return record.state is State.COMPLETED and json.loads(record.result or "null") == result


async def reached(store: Store, ref: JobRef, *states: State) -> JobRecord:
    """The record of a job, once it is in one of these states."""

    async def so() -> bool:
        return await given.state_of(store, ref) in states

    await until(store, so, ref.queue)
    return await given.record_of(store, ref)


# ------------------------------------------------------------------ what there is to see

HOSTILE_NAME = "<script>window.hacked = 'name'</script>"
HOSTILE_DATA = {"<b>key</b>": "<script>window.hacked = 'data'</script>", "href": "javascript:window.hacked='href'"}
HOSTILE_LINE = "<svg onload=\"window.hacked = 'log'\">"
HOSTILE_REASON = "<img src=x onerror=\"window.hacked = 'reason'\">"


async def welcome(ctx: Context, to: str = "nobody") -> dict[str, Any]:
    ctx.log(f"writing to {to}")
    ctx.progress({"written": 1, "of": 1})
    await ctx.log("the server says 250")
    return {"sent": True, "to": to}


async def bounce(ctx: Context) -> None:
    await ctx.log(f"attempt {ctx.attempt}")
    raise ConnectionError(f"550 no such user, said {ctx.attempt} times")


async def flaky(ctx: Context) -> str:
    if ctx.attempt == 1:
        raise TimeoutError("the server does not answer")
    return "at last"


async def hostile(ctx: Context, data: Any, /) -> None:
    await ctx.log(HOSTILE_LINE)
    raise ValueError(HOSTILE_REASON)


class Scene:
    """Jobs in every state, most of them brought there by a worker, which goes on with one of them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.gate = Gate()
        self.worker: Worker
        self.digest = JobRef(QUEUE, "digest-1")
        self.sent = JobRef(QUEUE, "sent-1")
        self.mended = JobRef(QUEUE, "mended-1")
        self.bounced = JobRef(QUEUE, "bounced-1")
        self.hostile = JobRef(QUEUE, "hostile-1")
        self.later = JobRef(QUEUE, "later-1")
        self.album = JobRef("albums", "album-1")
        self.image = JobRef("images", "image-1")

    async def _digest(self, ctx: Context) -> None:
        ctx.log("400 of 1000 rows")
        await ctx.progress(40)
        await self.gate.passed()

    @asynccontextmanager
    async def played(self) -> AsyncGenerator[None]:
        table = handlers(welcome, bounce, flaky)
        table.put(registered("digest", self._digest))
        table.put(registered(HOSTILE_NAME, hostile))
        email = Queue(QUEUE, self.store)
        async with at_work(self.store, [Served(QUEUE, table, 1)]) as worker:
            await email.add("welcome", {"to": "ada@example.org"}, job_id=self.sent.id)
            await reached(self.store, self.sent, State.COMPLETED)
            await email.add("flaky", job_id=self.mended.id, attempts=2, backoff=0)
            await reached(self.store, self.mended, State.COMPLETED)
            await email.add("bounce", job_id=self.bounced.id, attempts=3, backoff=0)
            await reached(self.store, self.bounced, State.FAILED)
            await email.add(HOSTILE_NAME, HOSTILE_DATA, job_id=self.hostile.id)
            await reached(self.store, self.hostile, State.FAILED)
            await email.add("digest", {"day": "Monday"}, job_id=self.digest.id)
            await self.gate.arrivals()
            await email.add("welcome", {"to": "bob@example.org"}, job_id="waits-1")
            await email.add("welcome", {"to": "eve@example.org"}, job_id="waits-2")
            await email.add("welcome", {"to": "bob@example.org"}, job_id="normal-1", priority=5)
            await email.add("welcome", {"to": "eve@example.org"}, job_id="urgent-1", priority=1)
            await email.add("welcome", {"to": "ada@example.org"}, job_id=self.later.id, delay=3600)
            await self._grow()
            await self._stall()
            self.worker = worker
            yield
            self.gate.open()

    async def _grow(self) -> None:
        """A flow of two levels, in which a leaf has completed, one has failed and one waits."""
        store = self.store
        album = given.new_job(store, queue="albums", name="album", job_id=self.album.id, has_children=True)
        image = given.new_job(
            store, queue="images", name="image", job_id=self.image.id, parent=self.album, has_children=True
        )
        cover = given.new_job(store, queue="images", name="cover", job_id="cover-1", parent=self.album)
        thumbs = [
            given.new_job(
                store, queue="thumbs", name="thumb", job_id=job_id, parent=self.image, policy=ChildPolicy.IGNORE
            )
            for job_id in ("small-1", "large-1", "broken-1", "blurred-1")
        ]
        await given.added(store, album, image, cover, *thumbs)
        await given.complete(store, await given.claim_one(store, "thumbs"), '{"px": 64}')
        await given.claim_one(store, "thumbs")
        await given.fail(store, await given.claim_one(store, "thumbs"), "no such picture")

    async def _stall(self) -> None:
        """A job whose worker has vanished, and one that has lost too many."""
        for job_id, allowance in (("lost-1", 1), ("doomed-1", 0)):
            await given.given(self.store, queue="invoices", name="invoice", job_id=job_id)
            await given.claim(self.store, "invoices", ids=[job_id], lock_ms=1)
            recovered = await self.store.recover(["invoices"], max_stalled=allowance, interval_ms=1)
            while not recovered.requeued and not recovered.deferred:
                recovered = await self.store.recover(["invoices"], max_stalled=allowance, interval_ms=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(redis_url: str) -> AsyncIterator[Scene]:
    store = RedisStore(redis_url, prefix=f"board-{uuid.uuid4().hex}")
    scene = Scene(store)
    async with scene.played():
        yield scene
    await store.close()


async def grown(store: Store) -> tuple[Flow, dict[str, HandlerTable]]:
    """A flow of an app, of three levels, and the handlers of its queues. Of its leaves one fails and one comes later."""
    app = App(store=store)
    albums, images, thumbs = app.queue("albums"), app.queue("images"), app.queue("thumbs")

    @thumbs.handler()
    async def thumb(px: int) -> dict[str, int]:
        return {"px": 4096 // px}

    @images.handler()
    async def image(ctx: Context, of: str) -> int:
        return len(await ctx.child_results())

    @albums.handler()
    async def album(ctx: Context, title: str) -> dict[str, int]:
        return {"images": len(await ctx.child_results())}

    ignored, later = thumb.options(parent_on_failure="ignore"), thumb.options(delay=3600)
    beach = image.call("beach").after(thumb.call(64), thumb.call(128), ignored.call(0), later.call(256))
    added = await app.flow(album.call("summer").after(beach, image.call("cover")))
    return added, {queue.name: queue.handlers for queue in (albums, images, thumbs)}


async def has_ended(flow: Flow, count: int) -> bool:
    """Whether so many jobs of a flow have."""
    return sum(record.state in FINISHED for record in (await flow.tree()).records()) == count


async def has_made(queue: Queue, id: str, runs: int) -> bool:
    return (await queue.scheduler(id).record()).iterations >= runs


# ------------------------------------------------------------------ looking


async def open_schedules(screen: Screen) -> None:
    """The page of all schedules."""
    await screen.open_overview()
    await screen.page.get_by_role("link", name="Schedulers", exact=True).click()
    await expect(screen.main.get_by_role("table")).to_be_visible()


def row_of(screen: Screen, schedule_id: str) -> Locator:
    """A schedule on that page."""
    name = screen.page.get_by_text(schedule_id, exact=True)
    return screen.main.get_by_role("row").filter(has=name)


LISTS = {
    "active": ["digest-1"],
    "waiting": ["waits-2", "waits-1"],
    "prioritized": ["normal-1", "urgent-1"],
    "completed": ["mended-1", "sent-1"],
    "failed": ["hostile-1", "bounced-1"],
    "delayed": ["later-1"],
}


async def test_every_queue_and_its_counts_are_on_the_overview(view: Screen, shots: Path) -> None:
    await view.open_overview()

    await expect(view.queue(QUEUE)).to_contain_text(re.compile(r"Active.*1.*Failed.*2.*10 Jobs", re.I | re.S))
    await expect(view.queue(QUEUE)).not_to_contain_text("No workers")
    await expect(view.queue("albums")).to_contain_text(re.compile(r"No workers.*1 Job", re.S))
    await expect(view.queue("thumbs")).to_contain_text(re.compile(r"Active.*1.*Failed.*1.*4 Jobs", re.I | re.S))
    await view.photograph("overview", shots)


async def test_every_list_shows_its_jobs_and_no_other(view: Screen, shots: Path) -> None:
    await view.open_list(QUEUE)
    await expect(view.ids).to_have_count(10)
    await view.photograph("list-latest", shots)

    for state, ids in LISTS.items():
        await view.turn_to(state)
        await expect(view.ids).to_have_text(ids)
        await expect(view.badge(state)).to_have_text(str(len(ids)))
        if state in ("completed", "failed", "delayed"):  # which have buttons of their own
            await view.photograph(f"list-{state}", shots)
    await expect(view.badge("waiting-children")).to_have_count(0)
    await view.open_list("albums", "waiting-children")
    await expect(view.ids).to_have_text(["album-1"])
    await expect(view.badge("waiting-children")).to_have_text("1")


async def test_only_jobs_that_have_failed_show_an_error_first(view: Screen) -> None:
    await view.open_list(QUEUE)

    for job_id in ("digest-1", "waits-1", "waits-2", "normal-1", "urgent-1", "sent-1", "later-1"):
        await expect(view.part(job_id, "Data")).to_be_visible()
    for job_id in ("bounced-1", "hostile-1", "mended-1"):  # an attempt of the last has failed; Node's look the same
        await expect(view.part(job_id, "Error")).to_be_visible()


async def test_a_completed_job_shows_all_that_it_was_and_did(view: Screen, scene: Scene, shots: Path) -> None:
    record = await given.record_of(scene.store, scene.sent)
    await view.open_job(scene.sent)

    card = view.card(scene.sent.id)
    await expect(card).to_contain_text("welcome")
    for at_ms in (record.created_at_ms, record.processed_at_ms, record.finished_at_ms):
        await expect(card).to_contain_text(as_shown(at_ms, ZONE))
    await expect(card).to_contain_text(f"by {scene.worker.id}")
    data = view.part(scene.sent.id, "Data")
    await expect(data).to_contain_text(re.compile(r'jobData:\{\s*to:\s*"ada@example.org"\s*\}'))
    await expect(data).to_contain_text(re.compile(r'returnValue:\{\s*sent:\s*true,\s*to:\s*"ada@example.org"\s*\}'))
    progress = await view.opened(scene.sent.id, "Progress")
    await expect(progress).to_contain_text(re.compile(r"written:\s*1,\s*of:\s*1"))
    await expect(await view.opened(scene.sent.id, "Options")).to_contain_text('jobId:"sent-1"')
    logs = await view.opened(scene.sent.id, "Logs")
    await expect(logs).to_contain_text(re.compile("writing to ada@example.org.*the server says 250", re.S))
    await view.photograph("job-completed", shots)


async def test_a_failed_job_shows_the_stack_of_every_attempt(view: Screen, scene: Scene, shots: Path) -> None:
    record = await given.record_of(scene.store, scene.bounced)
    await view.open_job(scene.bounced)

    error = view.part(scene.bounced.id, "Error")
    stacks = r".*".join(f"Traceback.*in bounce.*ConnectionError: 550 no such user, said {n} times" for n in (3, 2, 1))
    await expect(error).to_contain_text(re.compile(stacks, re.S))
    await expect(view.card(scene.bounced.id)).to_contain_text("Failed at" + as_shown(record.finished_at_ms, ZONE))
    await view.photograph("job-failed", shots)
    await expect(await view.opened(scene.bounced.id, "Options")).to_contain_text("attempts:3")
    logs = await view.opened(scene.bounced.id, "Logs")
    await expect(logs).to_contain_text(re.compile("attempt 1.*attempt 2.*attempt 3", re.S))


async def test_a_running_job_shows_its_progress_its_log_and_its_worker(view: Screen, scene: Scene, shots: Path) -> None:
    await view.open_job(scene.digest)

    await expect(view.card(scene.digest.id)).to_contain_text(re.compile(f"by {scene.worker.id}.*40%", re.S))
    await expect(await view.opened(scene.digest.id, "Logs")).to_contain_text("400 of 1000 rows")
    await view.photograph("job-active", shots)


async def test_a_delayed_job_says_when_it_will_run(view: Screen, scene: Scene) -> None:
    record = await given.record_of(scene.store, scene.later)
    await view.open_list(QUEUE, "delayed")

    await expect(view.card(scene.later.id)).to_contain_text("Will run at" + as_shown(record.due_at_ms, ZONE))


async def test_a_prioritized_job_says_how_urgent_it_is(view: Screen) -> None:
    await view.open_list(QUEUE, "prioritized")

    await expect(view.card("urgent-1")).to_contain_text("priority 1")
    await expect(view.card("normal-1")).to_contain_text("priority 5")


async def test_a_job_that_lost_its_worker_says_so(view: Screen, shots: Path) -> None:
    await view.open_list("invoices", "waiting")

    await expect(view.card("lost-1")).to_contain_text("stalled 1")
    await expect(view.card("lost-1")).not_to_contain_text("will fail")
    await expect(view.card("doomed-1")).to_contain_text("will fail")
    await expect(await view.opened("doomed-1", "Error")).to_contain_text("stalled more than allowable limit")
    await view.photograph("list-stalled", shots)


async def test_a_flow_is_drawn_from_its_root_to_its_leaves(view: Screen, scene: Scene, shots: Path) -> None:
    await view.open_job(JobRef("thumbs", "small-1"))  # the board climbs from any of its jobs

    states = {
        "album-1": "waiting-children",
        "cover-1": "waiting",
        "image-1": "waiting-children",
        "small-1": "completed",
        "large-1": "active",
        "broken-1": "failed",
        "blurred-1": "waiting",
    }
    for job_id, state in states.items():
        await expect(view.node(job_id)).to_contain_text(state)
    await expect(view.page.get_by_role("application").get_by_role("group", name="Edge from")).to_have_count(6)
    await view.open_job(scene.album)
    await expect(view.node("small-1")).to_be_visible()
    await view.photograph("job-flow", shots)


async def test_a_flow_that_an_app_has_added_is_drawn_with_where_each_of_its_jobs_stands(
    screen: Screen, store: Store, shots: Path
) -> None:
    added, tables = await grown(store)
    async with at_work(store, [Served("thumbs", tables["thumbs"])]):
        await until(store, lambda: has_ended(added, 3), "thumbs")

    await screen.open_job(added.job.ref)

    tree = await added.tree()
    states = sorted(record.state for record in tree.records())
    assert states == ["completed"] * 2 + ["delayed", "failed", "waiting"] + ["waiting-children"] * 2
    for record in tree.records():
        node = screen.node(record.ref.id)
        await expect(node).to_contain_text(record.name)
        await expect(node).to_contain_text(record.state)
        await expect(node).to_contain_text(record.ref.queue)
    edges = screen.page.get_by_role("application").get_by_role("group", name="Edge from")
    await expect(edges).to_have_count(len(tree.refs()) - 1)
    await screen.photograph("job-flow-of-app", shots)

    await Queue("thumbs", store).promote_all()
    async with at_work(store, [Served(name, table) for name, table in tables.items()]):
        await reached(store, added.job.ref, State.COMPLETED)
    await screen.open_job(added.job.ref)
    for record in (await added.tree()).records():
        await expect(screen.node(record.ref.id)).to_contain_text(record.state)
    await expect(screen.part(added.job.ref.id, "Data")).to_contain_text("images:2")
    await screen.photograph("job-flow-of-app-done", shots)


async def test_every_schedule_is_listed_with_its_times(screen: Screen, store: Store, shots: Path) -> None:
    email, invoices = Queue(QUEUE, store), Queue("invoices", store)
    await email.schedule("nightly", cron("30 2 * * *", tz="Europe/Amsterdam", limit=10), "report", {"of": "the day"})
    await email.schedule("every:hour", every(3600, offset=300), "welcome")
    await invoices.schedule("beat", every(90), "welcome")
    async with at_work(store, [Served("invoices", handlers(welcome))]):
        await until(store, lambda: has_made(invoices, "beat", 2), "invoices")

    await open_schedules(screen)

    records = [*await email.schedules(), *await invoices.schedules()]
    said = {
        "nightly": r"report.*email.*30 2 \* \* \*\s*Europe/Amsterdam.*in \d+ (hours?|minutes?|day).*-\s*1\s*of 10",
        "every:hour": r"welcome.*email.*every 1h.*in \d+ (minutes?|hour).*-\s*1",
        "beat": r"welcome.*invoices.*every 90s.*in \d+ (seconds?|minute).*ago\s*2",
    }
    assert {record.schedule.id for record in records} == said.keys()
    for record in records:
        row = row_of(screen, record.schedule.id)
        await expect(row).to_contain_text(re.compile(said[record.schedule.id], re.S))
        next_at = datetime.fromtimestamp(record.next_at_ms / 1000, UTC).isoformat(timespec="milliseconds")
        await expect(row.locator("time").first).to_have_attribute("datetime", next_at.replace("+00:00", "Z"))
    await row_of(screen, "nightly").get_by_role("button", name="Job template").click()
    await expect(screen.main).to_contain_text(re.compile(r'of:\s*"the day"'))
    await screen.photograph("schedules", shots)

    [beat] = await invoices.schedules()
    await row_of(screen, "beat").locator("time").first.click()
    await expect(screen.card(beat.iteration.id)).to_contain_text(re.compile(r"Will run at.*welcome\s*repeat 2", re.S))
    await screen.photograph("job-of-schedule", shots)


async def test_what_a_hostile_job_says_is_text(view: Screen, scene: Scene, shots: Path) -> None:
    await view.open_list(QUEUE, "failed")
    await expect(view.card(scene.hostile.id)).to_contain_text(HOSTILE_NAME)
    await view.open_job(scene.hostile)

    for name, text in (
        ("Error", HOSTILE_REASON.split("'")[0].split('"')[0]),
        ("Data", HOSTILE_DATA["<b>key</b>"]),
        ("Options", scene.hostile.id),
        ("Logs", HOSTILE_LINE),
    ):
        await expect(await view.opened(scene.hostile.id, name)).to_contain_text(text)
    await view.photograph("job-hostile", shots)
    assert await view.page.evaluate("window.hacked") is None


async def test_what_has_ended_is_on_the_chart_of_its_queue(view: Screen, scene: Scene, shots: Path) -> None:
    await view.open_list(QUEUE)

    chart = view.main.locator("[class^=card-]").filter(has_text="Throughput (jobs / min)")
    await expect(chart).to_contain_text(re.compile(r"Peak / min\s*2\s*Completed \(last 60 min\)"))
    await expect(chart.locator("svg.recharts-surface").first).to_be_visible()


async def test_a_worker_is_listed_on_each_of_its_queues_while_it_runs(
    screen: Screen, store: Store, shots: Path
) -> None:
    table = handlers(welcome)
    async with at_work(store, [Served(QUEUE, table), Served("images", table)]) as worker:
        for queue in (QUEUE, "images"):
            await screen.open_list(queue)
            await expect(screen.main).not_to_contain_text("No workers")
            await screen.open_info("Connected workers")
            await expect(screen.dialog).to_contain_text(worker.id)
            await screen.photograph(f"workers-{queue}", shots)
            await screen.dismiss()
    for queue in (QUEUE, "images"):
        await screen.open_list(queue)
        await expect(screen.main).to_contain_text("No workers")


# ------------------------------------------------------------------ pressing


async def test_a_failed_job_is_retried_and_completes(screen: Screen, store: Store) -> None:
    ref = await given.given_failed(store, "no such user", job_id="a-1")
    await screen.open_list(QUEUE, "failed")

    await screen.button(ref.id, "retry").click()
    await screen.answer("Confirm")

    assert await given.state_of(store, ref) is State.WAITING
    await expect(screen.badge("failed")).to_have_count(0)
    async with at_work(store, welcome):
        record = await reached(store, ref, State.COMPLETED)
    assert (record.attempts_made, record.reason) == (2, None)
    await screen.turn_to("completed")
    await expect(screen.ids).to_have_text([ref.id])
    await expect(screen.card(ref.id)).to_contain_text("sent:true")


async def test_all_failed_jobs_are_retried_at_once(screen: Screen, store: Store) -> None:
    refs = [await given.given_failed(store, job_id=job_id) for job_id in ("a-1", "a-2", "a-3")]
    await screen.open_list(QUEUE, "failed")

    async with at_work(store, welcome):
        await screen.main.get_by_role("button", name="Retry all").click()
        await screen.answer("Confirm")
        for ref in refs:
            await reached(store, ref, State.COMPLETED)

    await expect(screen.badge("completed")).to_have_text("3")
    await expect(screen.badge("failed")).to_have_count(0)


async def test_a_completed_job_is_run_again(screen: Screen, store: Store) -> None:
    ref = await given.given_completed(store, '"first"', job_id="a-1")
    await screen.open_list(QUEUE, "completed")

    async with at_work(store, welcome):
        await screen.button(ref.id, "retry").click()
        await screen.answer("Confirm")
        await until(store, lambda: has_result(store, ref, {"sent": True, "to": "nobody"}))

    await expect(screen.card(ref.id)).to_contain_text("sent:true")


async def test_a_delayed_job_is_promoted_and_runs(screen: Screen, store: Store) -> None:
    ref = await given.given(store, job_id="a-1", delay=3600)
    await given.given(store, job_id="a-2", delay=3600)
    await screen.open_list(QUEUE, "delayed")

    async with at_work(store, welcome):
        await screen.button(ref.id, "promote").click()
        await screen.answer("Confirm")
        await reached(store, ref, State.COMPLETED)

    await expect(screen.ids).to_have_text(["a-2"])
    await expect(screen.badge("completed")).to_have_text("1")


async def test_all_delayed_jobs_are_promoted_at_once(screen: Screen, store: Store) -> None:
    refs = [await given.given(store, job_id=job_id, delay=3600) for job_id in ("a-1", "a-2")]
    await screen.open_list(QUEUE, "delayed")

    async with at_work(store, welcome):
        await screen.main.get_by_role("button", name="Promote all").click()
        await screen.answer("Confirm")
        for ref in refs:
            await reached(store, ref, State.COMPLETED)

    await expect(screen.badge("completed")).to_have_text("2")


async def test_a_delayed_job_is_put_off(screen: Screen, store: Store, shots: Path) -> None:
    ref = await given.given(store, job_id="a-1", delay=60)
    await screen.open_list(QUEUE, "delayed")
    tomorrow = datetime.now(ZoneInfo(ZONE)).replace(second=0, microsecond=0) + timedelta(days=1)

    await screen.button(ref.id, "reschedule").click()
    await expect(screen.field("Run at")).not_to_have_value("")
    await screen.field("Run at").fill(tomorrow.strftime("%Y-%m-%dT%H:%M"))
    await screen.photograph("dialog-reschedule", shots)
    await screen.answer("Save")

    due_at_ms = (await given.record_of(store, ref)).due_at_ms
    assert due_at_ms is not None
    assert abs(due_at_ms - tomorrow.timestamp() * 1000) < 1_000
    await expect(screen.card(ref.id)).to_contain_text("Delay changed")  # the board does not know until when


async def test_a_job_is_made_urgent(screen: Screen, store: Store, shots: Path) -> None:
    first, second = [await given.given(store, job_id=job_id, priority=7) for job_id in ("a-1", "a-2")]
    await screen.open_list(QUEUE, "prioritized")

    await screen.button(second.id, "prioritize").click()
    await expect(screen.field("Priority")).to_have_value("7")
    await screen.field("Priority").fill("3")
    await screen.photograph("dialog-priority", shots)
    await screen.answer("Save")

    assert (await given.record_of(store, second)).priority == 3
    assert given.refs(await given.claim_all(store)) == [second, first]


async def test_a_waiting_job_is_removed(screen: Screen, store: Store) -> None:
    ref = await given.given(store, job_id="a-1")
    other = await given.given(store, job_id="a-2")
    await screen.open_list(QUEUE, "waiting")

    await screen.button(ref.id, "remove").click()
    await screen.answer("Confirm")

    assert await given.known(store, ref) is None
    assert await given.found(store, State.WAITING) == [other]
    await expect(screen.ids).to_have_text([other.id])


async def test_completed_jobs_are_cleaned_and_others_stay(screen: Screen, store: Store, redis_url: str) -> None:
    past = RedisStore(redis_url, prefix=store.prefix, clock=TurnedClock())  # the board spares what has just ended
    done = [await given.given_completed(past, job_id=job_id) for job_id in ("a-1", "a-2")]
    failed = await given.given_failed(past, job_id="a-3")
    await past.close()
    await screen.open_list(QUEUE, "completed")

    await screen.main.get_by_role("button", name="Clean all").click()
    await screen.answer("Confirm")

    assert await store.get([*done, failed]) == [None, None, await given.record_of(store, failed)]
    await expect(screen.badge("completed")).to_have_count(0)
    await expect(screen.badge("failed")).to_have_text("1")


async def test_a_worker_obeys_pause_and_resume(screen: Screen, store: Store) -> None:
    await screen.open_list(QUEUE)
    async with at_work(store, welcome):
        await screen.choose("Pause")
        await screen.answer("Confirm")
        assert (await store.settings(QUEUE)).paused
        await expect(screen.page.get_by_role("complementary")).to_contain_text(re.compile(r"email\s*\[ Paused \]"))
        ref = await given.given(store, job_id="a-1")
        assert (await given.claim(store)).idle[QUEUE].reason == "paused"
        await expect(screen.badge("waiting")).to_have_text("1")

        await screen.choose("Resume")
        await screen.answer("Confirm")

        assert not (await store.settings(QUEUE)).paused
        await reached(store, ref, State.COMPLETED)
    await expect(screen.badge("completed")).to_have_text("1")


async def test_a_job_added_on_the_board_is_run(screen: Screen, store: Store, shots: Path) -> None:
    await screen.open_list(QUEUE)
    await screen.choose("Add job")
    await expect(screen.field("Job options")).to_have_text("{}")
    await screen.field("Job name").fill("welcome")
    await screen.field("Job data").fill('{"to": "ada@example.org"}')
    await screen.field("Job options").fill(
        '{"jobId": "by-hand", "priority": 2, "attempts": 3, "removeOnComplete": false}'
    )
    await screen.photograph("dialog-add", shots)
    await screen.answer("Add")

    ref = JobRef(QUEUE, "by-hand")
    record = await given.record_of(store, ref)
    assert (record.state, record.priority, record.options.attempts) == (State.PRIORITIZED, 2, 3)
    async with at_work(store, welcome):
        assert (await reached(store, ref, State.COMPLETED)).result == '{"sent":true,"to":"ada@example.org"}'
    await expect(screen.badge("completed")).to_have_text("1")


async def test_a_job_is_duplicated(screen: Screen, store: Store) -> None:
    ref = await given.given_failed(store, data='{"to": "ada@example.org"}', attempts=4)
    await screen.open_list(QUEUE, "failed")

    await screen.button(ref.id, "duplicate").click()
    await expect(screen.field("Job data")).to_contain_text("ada@example.org")
    await screen.answer("Duplicate")

    [copy] = await given.found(store, State.WAITING)
    record = await given.record_of(store, copy)
    assert copy != ref
    assert (record.name, json.loads(record.data), record.options.attempts) == ("welcome", {"to": "ada@example.org"}, 4)
    await expect(screen.badge("waiting")).to_have_text("1")


async def test_data_edited_on_the_board_is_what_runs(screen: Screen, store: Store, shots: Path) -> None:
    ref = await given.given(store, data='{"to": "adda@example.org"}', job_id="a-1")
    await screen.open_job(ref)

    await screen.button(ref.id, "edit").click()
    await expect(screen.field("Job data")).to_contain_text("adda@example.org")
    await screen.field("Job data").fill('{"to": "ada@example.org"}')
    await screen.photograph("dialog-edit", shots)
    await screen.answer("Update")

    assert json.loads((await given.record_of(store, ref)).data) == {"to": "ada@example.org"}
    async with at_work(store, welcome):
        assert (await reached(store, ref, State.COMPLETED)).result == '{"sent":true,"to":"ada@example.org"}'
    await expect(screen.part(ref.id, "Data")).to_contain_text('to:"ada@example.org"')


async def test_workers_obey_the_concurrency_of_the_board(screen: Screen, store: Store, shots: Path) -> None:
    gate = Gate()
    await screen.open_list(QUEUE)
    await screen.choose("Set concurrency")
    await screen.field("Concurrency").fill("1")
    await screen.photograph("dialog-concurrency", shots)
    await screen.answer("Save")

    assert (await store.settings(QUEUE)).concurrency == 1
    refs = await given.given_many(store, 3)
    async with at_work(store, lambda: gate.passed(), concurrency=5):
        await gate.arrivals()
        assert (await given.claim(store)).idle[QUEUE].reason == "full"
        await expect(screen.badge("active")).to_have_text("1")
        await expect(screen.badge("waiting")).to_have_text("2")
        gate.open()
        for ref in refs:
            await reached(store, ref, State.COMPLETED)
    assert gate.most == 1
    await screen.choose("Set concurrency")
    await expect(screen.field("Concurrency")).to_have_value("1")
    await screen.field("Concurrency").fill("0")
    await screen.answer("Save")
    assert (await store.settings(QUEUE)).concurrency is None


async def test_workers_obey_the_rate_limit_of_the_board(screen: Screen, store: Store, shots: Path) -> None:
    await screen.open_list(QUEUE)
    await screen.choose("Set rate limit")
    await screen.field("Max jobs").fill("2")
    await screen.field("Duration (ms)").fill("3600000")
    await screen.photograph("dialog-rate-limit", shots)
    await screen.answer("Save")

    assert (await store.settings(QUEUE)).rate_limit == RateLimit(2, per=3600)
    refs = await given.given_many(store, 3)
    async with at_work(store, welcome):
        for ref in refs[:2]:
            await reached(store, ref, State.COMPLETED)
        assert (await given.claim(store)).idle[QUEUE].reason == "limited"
        await expect(screen.badge("waiting")).to_have_text("1")
        await screen.main.get_by_role("button", name="rate limited").click()
        await screen.answer("Confirm")
        await reached(store, await given.given(store, job_id="a-4"), State.COMPLETED)  # which rings for the third, too
        await reached(store, refs[2], State.COMPLETED)
    await screen.choose("Set rate limit")
    await expect(screen.field("Max jobs")).to_have_value("2")
    await screen.field("Max jobs").fill("")
    await screen.field("Duration (ms)").fill("")
    await screen.answer("Save")
    assert (await store.settings(QUEUE)).rate_limit is None


async def test_an_emptied_queue_keeps_what_does_not_wait(screen: Screen, store: Store, shots: Path) -> None:
    stays = [await given.given_completed(store), await given.given(store, delay=3600)]
    gone = [await given.given(store), await given.given(store, priority=1)]
    await screen.open_list(QUEUE)

    await screen.choose("Empty")
    await screen.photograph("dialog-empty", shots)
    await screen.answer("Confirm")

    assert await store.get(gone) == [None, None]
    assert None not in await store.get(stays)
    await expect(screen.badge("waiting")).to_have_count(0)
    await expect(screen.badge("delayed")).to_have_text("1")


async def test_an_obliterated_queue_has_nothing_left(screen: Screen, store: Store, shots: Path) -> None:
    refs = [await given.given_completed(store), await given.given_failed(store)]
    refs += [(await given.given_active(store)).ref, await given.given(store), await given.given(store, delay=3600)]
    await store.pause(QUEUE)
    await screen.open_list(QUEUE)

    await screen.choose("Obliterate")
    await screen.dialog.get_by_role("checkbox").check()
    await screen.photograph("dialog-obliterate", shots)
    await screen.answer("Confirm")

    assert await store.get(refs) == [None] * 5
    assert sum((await given.summary_of(store)).counts.values()) == 0
    await expect(screen.ids).to_have_count(0)


async def test_a_parent_runs_once_its_unfinished_children_are_removed(screen: Screen, store: Store) -> None:
    album, images = await given.given_flow(store, children=2, job_id="album-1")
    await given.complete(store, await given.claim_one(store, "images"))
    await screen.open_job(album)

    await screen.button(album.id, "remove children").click()
    await screen.answer("Confirm")

    assert await given.known(store, images[1]) is None
    async with at_work(store, welcome):
        await reached(store, album, State.COMPLETED)
    assert [child.state for child in await store.children(album)] == ["completed"]
    await expect(screen.node(images[0].id)).to_contain_text("completed")
    await expect(screen.node(images[1].id)).to_have_count(0)


async def test_a_schedule_that_is_removed_on_the_board_makes_no_more_runs(
    screen: Screen, store: Store, shots: Path
) -> None:
    email = Queue(QUEUE, store)
    for id in ("nightly", "hourly"):
        await email.schedule(id, every(3600, offset=300), "welcome")
    await open_schedules(screen)

    await row_of(screen, "nightly").get_by_role("button", name="Remove scheduler").click()
    await expect(screen.dialog).to_contain_text("nightly")
    await screen.photograph("dialog-schedule-remove", shots)
    await screen.press(screen.dialog.get_by_role("button", name="Confirm"))

    await expect(row_of(screen, "nightly")).to_have_count(0)
    await expect(row_of(screen, "hourly")).to_have_count(1)
    [left] = await email.schedules()
    assert left.schedule.id == "hourly"
    assert await given.found(store, State.DELAYED) == [left.iteration]


async def test_a_schedule_that_is_run_on_the_board_keeps_its_times(screen: Screen, store: Store) -> None:
    email = Queue(QUEUE, store)
    await email.schedule("nightly", every(3600, offset=300), "welcome", {"to": "ada@example.org"})
    [before] = await email.schedules()
    await open_schedules(screen)

    await row_of(screen, "nightly").get_by_role("button", name="Run now").click()
    await screen.press(screen.dialog.get_by_role("button", name="Confirm"))

    assert await email.schedules() == [before]
    [ref] = await given.found(store, State.WAITING)
    async with at_work(store, welcome):
        assert (await reached(store, ref, State.COMPLETED)).result == '{"sent":true,"to":"ada@example.org"}'
    assert await email.schedules() == [before]


async def test_a_schedule_that_is_edited_on_the_board_has_other_times(
    screen: Screen, store: Store, shots: Path
) -> None:
    email = Queue(QUEUE, store)
    await email.schedule("nightly", cron("30 2 * * *"), "welcome", {"to": "ada@example.org"}, attempts=3)
    await open_schedules(screen)

    await row_of(screen, "nightly").get_by_role("button", name="Edit schedule").click()
    pattern = screen.dialog.get_by_role("textbox", name="Cron pattern")
    await expect(pattern).to_have_value("30 2 * * *")
    await pattern.fill("0 4 * * 1")
    await screen.photograph("dialog-schedule-edit", shots)
    await screen.press(screen.dialog.get_by_role("button", name="Save"))

    await expect(row_of(screen, "nightly")).to_contain_text("0 4 * * 1")
    [record] = await email.schedules()
    schedule = record.schedule
    assert (schedule.timing.pattern, schedule.name, schedule.options.attempts) == ("0 4 * * 1", "welcome", 3)
    assert json.loads(schedule.data) == {"to": "ada@example.org"}
    assert datetime.fromtimestamp(record.next_at_ms / 1000, UTC).strftime("%a %H:%M") == "Mon 04:00"
    assert await given.found(store, State.DELAYED) == [record.iteration]
