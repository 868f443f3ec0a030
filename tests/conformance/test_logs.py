"""Logs: the lines of a job, oldest first, page by page."""

from __future__ import annotations

from conformance.given import given, given_active
from toril.model import JobRef, LogPage, Report, Update
from toril.store import Store


async def given_lines(store: Store, count: int, keep_logs: int = 1000) -> JobRef:
    ref = await given(store, keep_logs=keep_logs)
    await store.update([Update(ref, logs=tuple(f"line {n}" for n in range(count)))])
    return ref


async def test_a_job_without_lines_has_an_empty_page(store: Store) -> None:
    assert await store.logs(await given(store)) == LogPage((), 0, 0)


async def test_an_unknown_job_has_an_empty_page(store: Store) -> None:
    assert await store.logs(JobRef("email", "nobody")) == LogPage((), 0, 0)


async def test_lines_come_oldest_first(store: Store) -> None:
    ref = await given_lines(store, 3)

    assert await store.logs(ref) == LogPage(("line 0", "line 1", "line 2"), 0, 3)


async def test_a_page_begins_and_ends_where_asked(store: Store) -> None:
    ref = await given_lines(store, 12)

    assert await store.logs(ref, first=9, limit=2) == LogPage(("line 9", "line 10"), 9, 12)
    assert await store.logs(ref, first=10) == LogPage(("line 10", "line 11"), 10, 12)


async def test_a_page_beyond_the_end_is_empty(store: Store) -> None:
    ref = await given_lines(store, 2)

    page = await store.logs(ref, first=5)

    assert (page.lines, page.total) == ((), 2)


async def test_the_last_lines_are_kept_and_counted_from_nought(store: Store) -> None:
    ref = await given_lines(store, 5, keep_logs=2)

    assert await store.logs(ref) == LogPage(("line 3", "line 4"), 0, 2)


async def test_lines_keep_what_they_say(store: Store) -> None:
    one = await given_active(store)
    lines = ("", "two\nlines", 'quoted "text" with \\', "Zoë 🐂", "x" * 10_000)

    await store.report([Report(one, logs=lines)])

    assert (await store.logs(one.ref)).lines == lines


async def test_the_lines_of_a_job_are_its_own(store: Store) -> None:
    await given_lines(store, 3)

    assert (await store.logs(await given(store))).total == 0
