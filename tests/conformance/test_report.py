"""Reporting: what a running job says of itself, under its token."""

from __future__ import annotations

from conformance.given import QUEUE, claim_one, complete, given_active, record_of, stall, told
from toril.model import JobRef, Report
from toril.store import Store


async def lines_of(store: Store, ref: JobRef) -> list[str]:
    return list((await store.logs(ref)).lines)


async def test_progress_is_kept_with_the_job(store: Store) -> None:
    one = await given_active(store)

    assert await store.report([Report(one, progress='{"done":40}')]) == []

    assert (await record_of(store, one.ref)).progress == '{"done":40}'


async def test_the_last_progress_counts(store: Store) -> None:
    one = await given_active(store)

    await store.report([Report(one, progress="10"), Report(one, progress="20")])

    assert (await record_of(store, one.ref)).progress == "20"


async def test_progress_that_is_left_unsaid_stays(store: Store) -> None:
    one = await given_active(store)
    await store.report([Report(one, progress="10")])

    await store.report([Report(one, logs=("line",))])

    assert (await record_of(store, one.ref)).progress == "10"


async def test_lines_are_appended_to_the_log(store: Store) -> None:
    one = await given_active(store)

    await store.report([Report(one, logs=("one", "two"))])
    await store.report([Report(one, logs=("three",))])

    assert await lines_of(store, one.ref) == ["one", "two", "three"]


async def test_the_log_keeps_its_last_lines(store: Store) -> None:
    one = await given_active(store, keep_logs=2)

    await store.report([Report(one, logs=("one", "two", "three"))])

    assert await lines_of(store, one.ref) == ["two", "three"]


async def test_a_job_that_keeps_no_logs_has_none(store: Store) -> None:
    one = await given_active(store, keep_logs=0)

    await store.report([Report(one, logs=("one",))])

    assert await lines_of(store, one.ref) == []


async def test_progress_and_logs_outlive_the_run(store: Store) -> None:
    one = await given_active(store)
    await store.report([Report(one, progress="10", logs=("one",))])

    await complete(store, one)

    assert (await record_of(store, one.ref)).progress == "10"
    assert await lines_of(store, one.ref) == ["one"]


async def test_a_stale_report_is_lost_and_changes_nothing(store: Store) -> None:
    stale = await given_active(store)
    await stall(store)
    fresh = await claim_one(store, worker="w2")
    await store.report([Report(fresh, progress="1", logs=("by w2",))])
    told_before = await told(store)

    lost = await store.report([Report(stale, progress="99", logs=("by w1",))])

    assert lost == [stale.ref]
    assert (await record_of(store, stale.ref)).progress == "1"
    assert await lines_of(store, stale.ref) == ["by w2"]
    assert await told(store) == told_before


async def test_a_report_of_a_finished_run_is_lost(store: Store) -> None:
    one = await given_active(store)
    await complete(store, one)

    assert await store.report([Report(one, progress="99")]) == [one.ref]
    assert (await record_of(store, one.ref)).progress is None


async def test_a_lost_report_does_not_touch_the_others(store: Store) -> None:
    stale = await given_active(store)
    await complete(store, stale)
    good = await given_active(store)

    assert await store.report([Report(stale, progress="1"), Report(good, progress="2")]) == [stale.ref]
    assert (await record_of(store, good.ref)).progress == "2"


async def test_progress_is_told_and_logs_are_not(store: Store) -> None:
    one = await given_active(store)

    await store.report([Report(one, progress='{"done":40}'), Report(one, logs=("line",))])

    assert (await told(store, QUEUE))[3:] == [("progress", {"data": '{"done":40}'})]
