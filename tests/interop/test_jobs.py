"""One side adds and the other works: what is asked arrives, and both sides read the same of what came of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interop.peers import PATIENCE_S, PeerError, Shared, Way
from toril.errors import JobFailed
from toril.states import State
from toril.wirejson import Json

DATA: list[Json] = [
    {},
    [],
    None,
    "",
    "text",
    0,
    -1.5,
    True,
    2**53,
    -(2**53),
    1e-7,
    1.7976931348623157e308,
    {"empty": {"list": [], "object": {}, "text": "", "null": None}},
    {"nested": [[[{"a": [{"b": [None, [[]]]}]}]]]},
    {"ünïcödé": "žluťoučký 马 🐂\u200d \u2028 \u0000 \u007f", "quotes": "\"'\\/\n\t"},
    {"__proto__x": 1, "constructor": {"length": 0}, "toString": "x"},
    {"long": "x" * 100_000, "many": list(range(2_000))},
]


async def test_data_comes_out_as_it_went_in_and_so_does_the_result(way: Way) -> None:
    ids = await way.add_all([("echo", data, {}) for data in DATA])

    async with way.working():
        ends = [await way.ended(job_id) for job_id in ids]

    seen = [await way.seen(job_id) for job_id in ids]
    assert ends == ["completed"] * len(DATA)
    assert [job.data for job in seen] == DATA
    assert [job.result for job in seen] == DATA


async def test_a_job_without_data_or_result_has_null(way: Way) -> None:
    job_id = await way.add("nothing", {"do": []})

    async with way.working():
        await way.ended(job_id)

    assert (await way.seen(job_id)).result is None


async def test_names_and_ids_of_any_script_are_the_same_on_both_sides(way: Way) -> None:
    names = ["work", "Ünïcode näme 马", "with blanks and: colons", "a/b?c=d&e", "x" * 200]

    ids = [await way.add(name, {}, jobId=f"chosen {n} 马/+é") for n, name in enumerate(names)]
    async with way.working():
        for job_id in ids:
            await way.ended(job_id)

    assert ids == [f"chosen {n} 马/+é" for n in range(len(names))]
    assert [(await way.seen(job_id)).name for job_id in ids] == names


async def test_a_chosen_id_is_taken_once_whoever_adds_it_again(way: Way) -> None:
    await way.add("first", {"first": True}, jobId="chosen")

    again = await way.ours.add("second", {}, job_id="chosen")
    node = await way.theirs.add("third", {}, jobId="chosen")
    async with way.working():
        await way.ended("chosen")
    late = await way.ours.add("fourth", {}, job_id="chosen")
    await way.theirs.add("fifth", {}, jobId="chosen")

    seen = await way.seen("chosen")
    assert (again.id, again.duplicate, node, late.duplicate) == ("chosen", True, "chosen", True)
    assert (seen.name, seen.data, seen.state, seen.started) == ("first", {"first": True}, State.COMPLETED, 1)
    assert await way.counts() == {State.COMPLETED: 1}


async def test_ids_of_both_sides_never_meet(shared: Shared) -> None:
    ids = [job_id for _ in range(20) for job_id in (await shared.theirs.add("n", {}), (await shared.ours.add("t")).id)]

    assert len(set(ids)) == 40
    assert len(await shared.ids(State.WAITING)) == 40


async def test_plain_jobs_come_before_prioritized_ones_and_lifo_before_all(way: Way) -> None:
    plan: list[tuple[str, dict[str, Any]]] = [
        ("low", {"priority": 2_097_151}),
        ("middle", {"priority": 5}),
        ("first plain", {}),
        ("high", {"priority": 1}),
        ("second plain", {}),
        ("also middle", {"priority": 5}),
        ("lifo", {"lifo": True}),
        ("later lifo", {"lifo": True}),
    ]
    ids = {name: await way.add(name, {}, **options) for name, options in plan}
    waiting = await way.ids(State.WAITING)
    prioritized = await way.ids(State.PRIORITIZED)
    assert waiting == [ids[name] for name in ("later lifo", "lifo", "first plain", "second plain")]
    assert prioritized == [ids[name] for name in ("high", "middle", "also middle", "low")]

    async with way.working(concurrency=1):
        for job_id in ids.values():
            await way.ended(job_id)

    assert await _order_of_runs(way) == [*waiting, *prioritized]
    assert [(await way.seen(job_id)).priority for job_id in prioritized] == [1, 5, 5, 2_097_151]


async def _order_of_runs(shared: Shared) -> list[str]:
    events = await shared.store.read(shared.name, None, limit=10_000)
    return [str(event.job_id) for event in events if event.name == "active"]


async def test_a_delayed_job_waits_until_it_is_due(way: Way) -> None:
    job_id = await way.add("later", {}, delay=300)
    seen = await way.seen(job_id)
    assert (seen.state, seen.delay_ms) == (State.DELAYED, 300)
    assert seen.toril.due_at_ms == seen.added_at_ms + 300

    async with way.working():
        await way.ended(job_id)

    seen = await way.seen(job_id)
    assert seen.run_at_ms is not None
    assert 298 <= seen.run_at_ms - seen.added_at_ms < 5_000
    assert seen.delay_ms == 0


async def test_delayed_jobs_run_in_the_order_in_which_they_are_due(way: Way) -> None:
    ids = [await way.add("later", {}, delay=delay) for delay in (200, 50, 120, 50)]

    listed = await way.ids(State.DELAYED)
    async with way.working(concurrency=1):
        for job_id in ids:
            await way.ended(job_id)

    assert listed == [ids[1], ids[3], ids[2], ids[0]]
    assert await _order_of_runs(way) == listed


async def test_a_delayed_job_with_a_priority_keeps_it(way: Way) -> None:
    job_id = await way.add("later", {"do": [["hold"]]}, delay=60_000, priority=7)

    await way.theirs.job(job_id, "promote")

    seen = await way.seen(job_id)
    assert (seen.state, seen.priority, seen.delay_ms) == (State.PRIORITIZED, 7, 0)
    assert await way.theirs.call("getCountsPerPriority", [0, 7]) == {"0": 0, "7": 1}


# ------------------------------------------------------------------ failing


async def test_a_failed_job_says_why_and_where(way: Way) -> None:
    job_id = await way.add("broken", {"do": [["throw", "the réason 马"]]})

    async with way.working():
        assert await way.ended(job_id) == "failed"

    seen = await way.seen(job_id)
    assert (seen.reason, seen.attempts, seen.started, seen.result) == ("the réason 马", 1, 1, None)
    assert len(seen.stacks) == 1
    assert "the réason 马" in seen.stacks[0]


async def test_a_job_is_tried_as_often_as_it_may_be(way: Way) -> None:
    tries = [[["throw", f"attempt {n}"]] for n in (1, 2, 3)]
    job_id = await way.add("broken", {"tries": tries}, attempts=3)

    async with way.working():
        assert await way.ended(job_id) == "failed"

    seen = await way.seen(job_id)
    assert (seen.reason, seen.attempts, seen.started) == ("attempt 3", 3, 3)
    assert [n for n, stack in enumerate(seen.stacks, 1) if f"attempt {n}" in stack] == [1, 2, 3]
    exhausted = await way.events.event("retries-exhausted", jobId=job_id)
    assert exhausted["attemptsMade"] == "3"


async def test_a_job_that_succeeds_at_last_is_completed(way: Way) -> None:
    tries = [[["throw", "not yet"]], [["throw", "not yet"]], [["return", "at last"]]]
    job_id = await way.add("tried", {"tries": tries}, attempts=5)

    async with way.working():
        assert await way.ended(job_id) == "completed"

    seen = await way.seen(job_id)
    assert (seen.result, seen.attempts, seen.started, len(seen.stacks)) == ("at last", 3, 3, 2)
    assert seen.node["failedReason"] == "not yet"


@pytest.mark.parametrize(
    ("backoff", "least_ms", "most_ms"),
    [
        ({"type": "fixed", "delay": 40_000}, [40_000] * 3, [40_000] * 3),
        ({"type": "exponential", "delay": 20_000}, [20_000, 40_000, 80_000], [20_000, 40_000, 80_000]),
        ({"type": "fixed", "delay": 80_000, "jitter": 0.25}, [60_000] * 3, [80_000] * 3),
        ({"type": "exponential", "delay": 40_000, "jitter": 1}, [1] * 3, [40_000, 80_000, 160_000]),
    ],
    ids=["fixed", "exponential", "fixed with jitter", "exponential with jitter"],
)
async def test_a_job_waits_between_attempts_as_its_backoff_says(
    way: Way, backoff: dict[str, Any], least_ms: list[int], most_ms: list[int]
) -> None:
    job_id = await way.add("broken", {"do": [["throw", "again"]]}, attempts=4, backoff=backoff)

    waits: list[int] = []
    async with way.working():
        for _ in range(3):
            due = await way.events.event("delayed", jobId=job_id)
            seen = await way.seen(job_id)
            assert (seen.state, seen.toril.due_at_ms) == (State.DELAYED, due["delay"])
            waits.append(seen.delay_ms)
            await way.theirs.job(job_id, "promote")
        await way.ended(job_id)

    assert (await way.seen(job_id)).node["opts"]["backoff"] == backoff
    assert all(least <= wait <= most for least, wait, most in zip(least_ms, waits, most_ms, strict=True)), waits


async def test_without_a_backoff_the_next_attempt_comes_at_once(way: Way) -> None:
    job_id = await way.theirs.add("broken", {"do": [["throw", "again"]]}, attempts=3)

    async with way.working():
        await way.ended(job_id)

    assert not way.node.heard("event", event="delayed")
    assert (await way.seen(job_id)).attempts == 3


async def test_an_unrecoverable_error_is_not_tried_again(way: Way) -> None:
    job_id = await way.add("broken", {"do": [["unrecoverable", "useless"]]}, attempts=5)

    async with way.working():
        assert await way.ended(job_id) == "failed"

    seen = await way.seen(job_id)
    assert (seen.reason, seen.attempts, seen.started) == ("useless", 1, 1)
    assert not way.node.heard("event", event="retries-exhausted", jobId=job_id)


async def test_a_handlers_wish_to_run_later_costs_no_attempt(way: Way) -> None:
    started = {"do": [["delay", 30]]}
    job_id = await way.add("later", started)

    async with way.working():
        await way.events.event("delayed", jobId=job_id)
        await way.theirs.job(job_id, "updateData", {"do": [["return", "now"]]})
        await way.ended(job_id)

    seen = await way.seen(job_id)
    assert (seen.result, seen.attempts) == ("now", 1)
    assert seen.started >= 2


# ------------------------------------------------------------------ what a job says while it runs


async def test_progress_and_log_lines_are_read_by_both_while_the_job_runs(way: Way) -> None:
    steps: list[Any] = [
        ["log", "first"],
        ["log", "zweite Zeile, žluťoučký 🐂"],
        ["progress", {"done": [1, 2]}],
        ["hold"],
    ]
    job_id = await way.add("talks", {"do": steps})

    async with way.working() as worker:
        await worker.held(job_id)
        told = await way.events.event("progress", jobId=job_id)
        seen = await way.seen(job_id)
        await worker.release(job_id)
        await way.ended(job_id)

    assert told["data"] == {"done": [1, 2]}
    assert seen.state is State.ACTIVE
    assert (seen.progress, seen.logs) == ({"done": [1, 2]}, ["first", "zweite Zeile, žluťoučký 🐂"])


async def test_a_job_keeps_as_many_log_lines_as_it_may(way: Way) -> None:
    job_id = await way.add("talks", {"do": [["log", str(n)] for n in range(10)]}, keepLogs=4)

    async with way.working():
        await way.ended(job_id)

    assert (await way.seen(job_id)).logs == ["6", "7", "8", "9"]


# ------------------------------------------------------------------ keeping


@pytest.mark.parametrize(
    ("rule", "kept"),
    [(True, 0), (False, 6), (0, 0), (2, 2), ({"count": 3}, 3), ({"age": 3600}, 6), ({"age": 3600, "count": 1}, 1)],
    ids=str,
)
@pytest.mark.parametrize("end", ["completed", "failed"])
async def test_ended_jobs_stay_as_their_rule_says(way: Way, end: str, rule: Any, kept: int) -> None:
    steps = [["return", 1]] if end == "completed" else [["throw", "no"]]
    option = "removeOnComplete" if end == "completed" else "removeOnFail"
    ids = await way.add_all([("ends", {"do": steps}, {option: rule}) for _ in range(6)])

    async with way.working(concurrency=1):
        for job_id in ids:
            assert await way.ended(job_id) == end

    assert await way.ids(State(end)) == ids[len(ids) - kept :]
    assert await way.counts() == ({State(end): kept} if kept else {})


async def test_jobs_that_ended_long_ago_go_when_another_ends(way: Way) -> None:
    old = await way.add("ends", {})
    new = await way.add("ends", {"do": [["hold"]]}, removeOnComplete={"age": 0.001})

    async with way.working() as worker:
        await way.ended(old)
        await worker.held(new)
        await worker.release(new)
        await way.ended(new)

    assert await way.ids(State.COMPLETED) == [new]


# ------------------------------------------------------------------ waiting for the result


async def test_who_added_a_job_gets_its_result(way: Way) -> None:
    result: Json = {"list": [1, None, "žluťoučký"], "empty": []}
    job_id = await way.add("returns", {"do": [["hold"], ["return", result]]})

    async with way.working() as worker:
        await worker.held(job_id)
        theirs = asyncio.create_task(way.theirs.job(job_id, "waitUntilFinished", way.events.reference))
        ours = asyncio.create_task(way.ours.job(job_id).result(timeout=PATIENCE_S))
        await worker.release(job_id)

        assert await theirs == result
        assert await ours == result


async def test_who_added_a_job_learns_why_it_failed(way: Way) -> None:
    job_id = await way.add("fails", {"do": [["hold"], ["throw", "the reason"]]})

    async with way.working() as worker:
        await worker.held(job_id)
        theirs = asyncio.create_task(way.theirs.job(job_id, "waitUntilFinished", way.events.reference))
        ours = asyncio.create_task(way.ours.job(job_id).result(timeout=PATIENCE_S))
        await worker.release(job_id)

        with pytest.raises(PeerError, match=r"^the reason$"):
            await theirs
        with pytest.raises(JobFailed, match=r"failed: the reason$"):
            await ours


async def test_toril_gives_the_result_of_a_job_that_its_rule_removed_at_once(shared: Shared) -> None:
    job = await shared.ours.add("returns", {"do": [["return", 7]]}, keep_completed=False)

    async with shared.worker().at_work():
        assert await job.result(timeout=PATIENCE_S) == 7

    assert await shared.theirs.see(job.id) is None


# ------------------------------------------------------------------ what JavaScript lets through

ODD_OPTIONS: list[dict[str, Any]] = [
    {"removeOnComplete": {"count": "3"}},
    {"removeOnComplete": {"age": "3600"}},
    {"removeOnComplete": {"age": None, "count": None}},
    {"removeOnComplete": "x"},
    {"removeOnComplete": {"count": -5}},
    {"removeOnFail": {"count": "many", "age": []}},
    {"attempts": "3"},
    {"attempts": -1},
    {"attempts": 2.5, "backoff": {"type": "fixed", "delay": "50"}},
    {"attempts": 2, "backoff": {"type": "exponential", "delay": 1.5, "jitter": "0.5"}},
    {"attempts": 2, "backoff": {"type": "nobody knows this one"}},
    {"attempts": 2, "backoff": "250"},
    {"keepLogs": "5"},
    {"stackTraceLimit": "1"},
    {"timestamp": 5},
    {"anything": {"else": [1, None, {"é": "🐂"}]}},
]


async def test_toril_works_on_jobs_with_options_that_make_no_sense(shared: Shared) -> None:
    ids = [await shared.theirs.add("odd", {"do": [["log", "line"]]}, **options) for options in ODD_OPTIONS]

    async with shared.worker().at_work():
        for job_id in ids:
            assert (await shared.events.event("completed", jobId=job_id))["returnvalue"] is None


async def test_toril_tries_jobs_again_whose_options_make_no_sense(shared: Shared) -> None:
    ids = [await shared.theirs.add("odd", {"do": [["throw", "no"]]}, **options) for options in ODD_OPTIONS]

    async with shared.worker().at_work():
        for job_id in ids:
            assert (await shared.events.event("failed", jobId=job_id))["failedReason"] == "no"
