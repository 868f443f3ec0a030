"""One file, many stores, processes and threads: who wakes whom, and what is left when all have gone."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from pathlib import Path

import pytest

from conformance.given import soon
from faults.crew import Crew, crew
from faults.programs import QUEUE, ref
from toril.model import Slots, Wanted
from toril.queue import Queue
from toril.states import State
from toril.stores.sqlite import bell, database
from toril.stores.sqlite.connection import Place, open_reader
from toril.stores.sqlite.store import SqliteStore

NEVER_S = 3_600


def add(path: Path) -> None:
    """Add a job from this process."""

    async def add() -> None:
        store = SqliteStore(path)
        await Queue(QUEUE, store).add("job")
        await store.close()

    asyncio.run(add())


def hears(hired: Crew) -> None:
    """See that the child hears of each add."""
    hired.until(lambda: hired.count("ready") == 1)
    for n in range(3):
        add(hired.store_path)
        hired.until(lambda n=n: hired.count("heard") > n, patience_s=10)  # type: ignore[misc]


# ------------------------------------------------------------------ processes


def test_an_add_wakes_a_worker_of_another_process_by_its_bell_alone(tmp_path: Path) -> None:
    with crew(tmp_path) as hired:
        hired.start("listen", net_s=NEVER_S)

        hears(hired)


def test_where_the_path_is_too_long_for_a_bell_an_add_wakes_a_worker_all_the_same(tmp_path: Path) -> None:
    with crew(tmp_path / ("long" * 30)) as hired:
        hired.start("listen")

        hears(hired)

        assert list(Path(f"{hired.store_path}-bell").glob("*")) == []


def test_where_the_path_is_too_long_for_a_bell_a_process_that_writes_itself_is_woken_too(tmp_path: Path) -> None:
    with crew(tmp_path / ("long" * 30)) as hired:
        hired.start("listen", busy=True)

        hears(hired)


async def test_what_is_written_before_the_bell_first_looks_is_heard_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path / "toril.db")
    await store.pause("elsewhere")

    def write_first(place: Place) -> sqlite3.Connection:
        with contextlib.closing(sqlite3.connect(place.path or "")) as other, other:
            other.execute("UPDATE queue SET paused = 0")
        return open_reader(place)

    monkeypatch.setattr(bell, "open_datagram", no_socket)
    monkeypatch.setattr(bell, "open_reader", write_first)
    try:
        woken = await asyncio.wait_for(store.wait("w", [QUEUE], None), 2)
    finally:
        await store.close()

    assert woken.queues == {QUEUE}


def no_socket(_: Path) -> None:
    return None


async def test_own_writes_wake_nobody_who_waits_for_another_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()
    asked = database.Database.look_for_others

    def look_for_others(self: database.Database) -> bool:
        answer = asked(self)
        looked.set()
        return answer

    monkeypatch.setattr(database.Database, "look_for_others", look_for_others)
    store = SqliteStore(tmp_path / "t.db")
    waiting = asyncio.ensure_future(store.wait("w1", [QUEUE], None))
    while not looked.is_set():  # until the bell, which begins with what is there, has seen that somebody writes
        await Queue("other", store).add("job")
        await asyncio.to_thread(looked.wait, 1)
    await Queue("other", store).add("job")  # by now the writer has said that it was itself
    assert not waiting.done()

    await Queue(QUEUE, store).add("job")
    assert (await soon(waiting)).queues == {QUEUE}
    await store.close()


def test_a_killed_process_leaves_a_bell_that_disturbs_nobody(tmp_path: Path) -> None:
    with crew(tmp_path) as hired:
        hired.kill_when_ready(hired.start("listen", net_s=NEVER_S))
        left = list(Path(f"{hired.store_path}-bell").iterdir())
        assert len(left) == 1

        add(hired.store_path)

        assert not left[0].exists()


def test_a_forked_child_uses_a_connection_of_its_own(tmp_path: Path) -> None:
    with crew(tmp_path) as hired:
        child = hired.start("fork")

        assert child.wait(60) == 0, hired.errors()

        hired.until(lambda: hired.count("done") == 1)
        assert asyncio.run(waiting(hired.store_path)) == ["before", "child", "after"]


async def waiting(path: Path) -> list[str]:
    store = SqliteStore(path)
    page = await store.find(QUEUE, State.WAITING)
    errors = [finding.message for finding in await store.check() if finding.level == "error"]
    await store.close()
    assert errors == []
    return [record.ref.id for record in page.items]


# ------------------------------------------------------------------ threads


def left_of_the_bell(path: Path) -> bool:
    return Path(f"{path}-bell").exists()


def own_threads() -> list[str]:
    """The store threads of this process, less their numbers."""
    return sorted(thread.name.split("_")[0] for thread in threading.enumerate() if thread.name.startswith("toril-"))


async def test_stores_of_one_file_share_a_writer_and_leave_nothing_when_all_have_closed(tmp_path: Path) -> None:
    before = own_threads()
    path = tmp_path / "toril.db"
    stores = [SqliteStore(path), SqliteStore(path, prefix="other"), SqliteStore(tmp_path / "." / "toril.db")]
    for n, store in enumerate(stores):
        await Queue(QUEUE, store).add("job", job_id=f"job-{n}")
        await store.claim(Wanted(f"w{n}", f"t{n}", 30_000, (Slots(QUEUE, 1),)))
        await store.wait(f"w{n}", [QUEUE], store.clock.now_ms())
        await store.summaries()
    assert own_threads().count("toril-writer") - before.count("toril-writer") == 1
    assert own_threads().count("toril-bell") - before.count("toril-bell") == 1

    for store in stores[:-1]:
        await store.close()
    assert (await stores[-1].get([ref("job-0")]))[0] is not None
    await stores[-1].close()

    assert own_threads() == before
    assert not left_of_the_bell(path)


async def test_closing_closes_every_reading_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[sqlite3.Connection] = []

    def remembered(place: Place) -> sqlite3.Connection:
        opened.append(open_reader(place))
        return opened[-1]

    monkeypatch.setattr(database, "open_reader", remembered)
    file, together = database.database_at(Place(tmp_path / "toril.db")), threading.Barrier(database.READERS)
    await file.write(lambda tx: None)
    await asyncio.gather(*(file.read(lambda _: together.wait(20)) for _ in range(database.READERS)))

    database.leave(file)

    assert len(opened) == database.READERS
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


async def test_a_closed_store_opens_again_when_it_is_used(tmp_path: Path) -> None:
    before = own_threads()  # of other tests
    store = SqliteStore(tmp_path / "toril.db")
    await Queue(QUEUE, store).add("job", job_id="one")
    await store.close()
    await store.close()

    assert (await store.get([ref("one")]))[0] is not None

    await store.close()
    assert own_threads() == before


def test_loops_one_after_the_other_use_one_store(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "toril.db")

    async def add_and_count() -> int:
        await Queue(QUEUE, store).add("job")
        [summary] = await store.summaries([QUEUE])
        return summary.counts[State.WAITING]

    assert [asyncio.run(add_and_count()) for _ in range(3)] == [1, 2, 3]
    asyncio.run(store.close())


async def test_a_loop_on_another_thread_wakes_this_one(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "toril.db")
    await store.claim(Wanted("w", "t", 30_000, (Slots(QUEUE, 1),)))
    waits = asyncio.ensure_future(store.wait("w", [QUEUE], None))

    async def add() -> None:
        await Queue(QUEUE, store).add("job")

    await asyncio.to_thread(lambda: asyncio.run(add()))

    assert (await soon(waits)).queues == {QUEUE}
    await store.close()
