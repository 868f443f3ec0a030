"""BullMQ's invariants hold for what BullMQ has left behind, for whatever Toril does, and are missed when they are broken."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conformance.given import claim_one, given, given_active
from faults.proof import Stopwatch, shown
from interop.golden.keyspace import with_moments
from interop.invariants import RULES, violations
from interop.snapshot import Entries, Entry, Keyspace, snapshot
from interop.workload import Workload
from sizes import size
from toril.clock import TurnedClock
from toril.model import Failed, Settlement
from toril.options import ChildPolicy
from toril.stores.redis.store import RedisStore

DUMPS = sorted((Path(__file__).parent / "golden" / "dumps").glob("*.json"))
STEPS_BETWEEN_SNAPSHOTS = 10

KNOWN_MOVES = {
    "19": {"Q9", "Q10"},  # promoting in bulk forgets priorities and keeps delays
    "21": {"Q12"},  # a lock expires, which nobody has noticed yet
    "40": {"Q9"},  # retrying in bulk forgets priorities
}
"""Rules of kind Q that a recording breaks, by its number."""


def keyspace_of(dump: Any) -> Keyspace:
    """What was recorded, as a snapshot would have read it."""
    entries: Entries = {}
    for key, entry in dump["keys"].items():
        kind, value = entry["type"], json.loads(with_moments(json.dumps(entry["value"])))
        if kind == "zset":
            value = [(member, float(score)) for member, score in value]
        elif kind == "stream":
            told = [event["fields"] for event in dump["events"] if event["stream"] == key]
            value = [[(name, with_moments(text)) for name, text in fields.items()] for fields in told]
        entries[with_moments(key)] = Entry(kind, value, "ttl" in entry)
    return Keyspace(next(iter(entries)).partition(":")[0], entries)


def recorded(path: Path) -> list[Keyspace]:
    """The snapshots of a recording, and its end."""
    golden = json.loads(path.read_text(encoding="utf-8"))
    return [keyspace_of(dump) for dump in (*golden.get("snapshots", ()), golden)]


# ------------------------------------------------------------------ what BullMQ has left


@pytest.mark.parametrize("path", DUMPS, ids=lambda path: path.stem)
def test_every_recording_of_bullmq_keeps_the_rules(path: Path) -> None:
    broken = [sentence for space in recorded(path) for sentence in violations(space, at_rest=True)]

    assert {sentence.partition(":")[0] for sentence in broken} == KNOWN_MOVES.get(path.stem[:2], set()), broken


# ------------------------------------------------------------------ what the rules find


class Planted(NamedTuple):
    """A rule, the number of a recording, and what to do to its end so that the rule is broken."""

    rule: str
    recording: str
    plant: Callable[[Entries], object]
    says: str


def put(key: str, kind: str, value: Any, *, expires: bool = False) -> Callable[[Entries], object]:
    return lambda entries: entries.update({key: Entry(kind, value, expires)})


def take(key: str) -> Callable[[Entries], object]:
    return lambda entries: entries.pop(key)


def lasting(key: str) -> Callable[[Entries], object]:
    return lambda entries: entries.update({key: entries[key]._replace(expires=False)})


def insert(key: str, item: Any) -> Callable[[Entries], object]:
    return lambda entries: entries[key].value.append(item)


def write(key: str, field: str, text: str) -> Callable[[Entries], object]:
    return lambda entries: entries[key].value.update({field: text})


def erase(key: str, field: str) -> Callable[[Entries], object]:
    return lambda entries: entries[key].value.pop(field)


def each(*plants: Callable[[Entries], object]) -> Callable[[Entries], object]:
    return lambda entries: [plant(entries) for plant in plants]


ONE = "bull:golden:1"
C0, C1, P = "bull:kids:C0", "bull:kids:C1", "bull:parents:P"

PLANTED = [
    Planted("H1", "01", put("bull:golden:wait", "zset", []), "wait is a zset, not a list"),
    Planted("H1", "01", put("bull:golden:foreign", "string", "x"), "foreign is a string, not a hash"),
    Planted("H1", "01", put("bull:golden:9:logs", "list", ["x"]), "9:logs belongs to no job"),
    Planted("H1", "01", put("bull:golden:de:x", "list", ["1"]), "de:x is a list, not a string"),
    Planted("H1", "01", put("bull:golden:1:lock", "list", ["x"], expires=True), "1:lock is a list, not a string"),
    Planted("H2", "01", take(ONE), "1 in bull:golden:wait has no hash"),
    Planted("H2", "04", insert("bull:golden:delayed", ("9", 1.0)), "9 in bull:golden:delayed has no hash"),
    Planted("H3", "01", insert("bull:golden:wait", "1"), "1 is in wait and wait"),
    Planted("H3", "09", put("bull:golden:wait", "list", ["1"]), "1 is in wait and completed"),
    Planted("Q4", "01", put("bull:golden:wait", "list", ["2"]), "1 is in no collection"),
    Planted("H5", "01", erase(ONE, "priority"), "1 has no priority"),
    Planted("H5", "01", write(ONE, "data", "{"), "data of bull:golden:1 is not JSON"),
    Planted("H5", "01", write(ONE, "progress", "NaN"), "progress of bull:golden:1 is not JSON"),
    Planted("H5", "01", write(ONE, "opts", "[]"), "opts of bull:golden:1 is not an object"),
    Planted("H5", "12", write(ONE, "stacktrace", "[1]"), "stacktrace of bull:golden:1 is not an array of strings"),
    Planted("H6", "01", write(ONE, "timestamp", "1.5"), "timestamp of bull:golden:1 is not a whole number"),
    Planted("H6", "09", write(ONE, "atm", "-1"), "atm of bull:golden:1 is not a whole number"),
    Planted("H6", "01", write(ONE, "priority", "2097152"), "priority of bull:golden:1 is 2097152"),
    Planted("H7", "09", write(ONE, "finishedOn", "1"), "and finishedOn 1"),
    Planted("H7", "09", write(ONE, "returnvalue", "undefined"), "has the returnvalue 'undefined'"),
    Planted("H7", "12", erase(ONE, "failedReason"), "has no failedReason"),
    Planted("H7", "12", write(ONE, "defa", "child failed"), "has a deferred failure still"),
    Planted("H8", "01", write(ONE, "finishedOn", "1"), "has not finished and has finishedOn"),
    Planted("H8", "01", write(ONE, "returnvalue", "1"), "has not finished and has returnvalue"),
    Planted("H9", "05", write(ONE, "priority", "6"), "1 is prioritized at 21474836481 with priority 6"),
    Planted("H9", "05", write(ONE, "priority", "0"), "with priority 0"),
    Planted("Q9", "01", write(ONE, "priority", "1"), "1 is in wait with priority 1"),
    Planted("H10", "04", insert("bull:golden:delayed", ("9", -1.0)), "9 is delayed until -1"),
    Planted("Q10", "04", write(ONE, "delay", "0"), "1 is delayed by nothing"),
    Planted("Q10", "01", write(ONE, "delay", "5"), "1 is wait with a delay of 5"),
    Planted("H11", "01", insert("bull:golden:marker", ("2", 0.0)), "marker has 2"),
    Planted("H11", "01", put("bull:golden:marker", "zset", [("0", 5.0)]), "marker has 0 at 5.0"),
    Planted("Q11", "01", take("bull:golden:marker"), "has jobs to run and its marker has no 0"),
    Planted("Q11", "04", take("bull:golden:marker"), "has delayed jobs and its marker has no 1"),
    Planted("Q11", "01", write("bull:golden:meta", "paused", "1"), "is paused and its marker has 0"),
    Planted("H12", "08", lasting("bull:golden:1:lock"), "1:lock does not expire"),
    Planted("H12", "08", put("bull:golden:1:lock", "string", "0", expires=True), "has the token '0'"),
    Planted("Q12", "08", take("bull:golden:1:lock"), "1 is locked, or active, but not both"),
    Planted("Q12", "01", put("bull:golden:1:lock", "string", "t", expires=True), "1 is locked, or active"),
    Planted("Q13", "08", erase(ONE, "ats"), "1 is active and was never started"),
    Planted("Q13", "09", erase(ONE, "processedOn"), "1 is completed and was never started"),
    Planted("Q13", "09", write(ONE, "atm", "2"), "1 has made 2 attempts of 1 started"),
    Planted("H14", "23", take(C0), "P waits for bull:kids:C0, which is not there"),
    Planted("H14", "23", write(C0, "parentKey", "bull:parents:R"), "C0, whose parent is bull:parents:R"),
    Planted("H14", "23", put(f"{P}:processed", "hash", {C0: "1"}), f"tells of its child {C0} in 2 ways"),
    Planted(
        "Q14", "23", put("bull:kids:completed", "zset", [("C0", 1.0)]), "waits for bull:kids:C0, which has completed"
    ),
    Planted("Q15", "23", take(f"{P}:dependencies"), "P waits for children and has none"),
    Planted("Q15", "24", put(f"{P}:unsuccessful", "zset", [(C0, 1.0)]), "has completed with children in unsuccessful"),
    Planted("H16", "23", erase(C0, "parent"), "C0 has parent None and parentKey bull:parents:P"),
    Planted("H16", "23", erase(C0, "parentKey"), "C0 has parent bull:parents:P and parentKey None"),
    Planted(
        "H16",
        "23",
        write(C0, "parent", '{"id":"P","queueKey":"bull:parents","fpof":true,"idof":true}'),
        "has the policies fpof and idof",
    ),
    Planted("Q17", "24", write(f"{P}:processed", C0, "undefined"), "has the result 'undefined'"),
    Planted("H18", "31", put("bull:golden:de:d", "string", "9"), "de:d is owned by 9, which is gone or another's"),
    Planted("H18", "34", erase(ONE, "deid"), "de:d is owned by 1, which is gone or another's"),
    Planted("H18", "31", put("bull:golden:dn:d", "hash", {}), "dn:d waits for nobody who is active"),
    Planted("H18", "31", put("bull:golden:dn:d", "hash", {"name": "n", "data": "{}"}), "dn:d has no opts"),
    Planted("Q19", "35", erase("bull:golden:repeat:s1", "ic"), "s1 has no name or no count"),
    Planted("Q19", "35", write("bull:golden:repeat:s1", "pattern", "* * * * *"), "s1 has not one of every and pattern"),
    Planted("Q19", "35", put("bull:golden:repeat", "zset", [("s1", 1.0)]), "s1 has no iteration at 1"),
    Planted(
        "Q19",
        "35",
        each(
            put("bull:golden:7", "hash", {"rjk": "s1", "timestamp": "1"}),
            put("bull:golden:wait", "list", ["7"]),
        ),
        "s1 has the pending iterations",
    ),
    Planted("H20", "01", put("bull:golden:id", "string", "1"), "id is 1, and there is a job 2"),
    Planted("H20", "05", put("bull:golden:pc", "string", "-1"), "pc is -1"),
    Planted("H21", "17", lasting("bull:golden:limiter"), "limiter does not expire"),
    Planted("H21", "43", lasting("bull:golden:stalled-check"), "stalled-check does not expire"),
    Planted("H22", "01", write("bull:golden:meta", "opts.maxLenEvents", "many"), "opts.maxLenEvents 'many'"),
    Planted("H22", "01", write("bull:golden:meta", "paused", "true"), "paused 'true'"),
    Planted("H23", "41", write("bull:golden:metrics:completed", "prevCount", "9"), "metrics:completed counts"),
    Planted("H23", "41", insert("bull:golden:metrics:completed:data", "1.5"), "data has '1.5'"),
    Planted(
        "H24", "01", insert("bull:golden:events", [("jobId", "1"), ("event", "mine")]), "does not begin with its name"
    ),
    Planted(
        "H24",
        "01",
        insert("bull:golden:events", [("event", "completed"), ("jobId", "1"), ("returnvalue", "x")]),
        "a completed event without JSON in returnvalue",
    ),
    Planted(
        "H24", "01", insert("bull:golden:events", [("event", "progress")]), "a progress event without JSON in data"
    ),
    Planted("Q25", "01", put("bull:golden:paused", "list", ["9"]), "paused is there"),
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: f"{planted.rule}-{planted.says}")
def test_a_broken_rule_is_found(planted: Planted) -> None:
    [path] = [path for path in DUMPS if path.stem.startswith(planted.recording)]
    sound = recorded(path)[-1]
    entries = copy.deepcopy(sound.entries)
    planted.plant(entries)

    found = violations(Keyspace(sound.prefix, entries), at_rest=True)

    assert violations(sound, at_rest=True) == []
    assert [s for s in found if s.startswith(f"{planted.rule}: ") and planted.says in s], found


def test_every_rule_is_shown_to_find_what_breaks_it() -> None:
    assert {planted.rule for planted in PLANTED} == set(RULES)


def test_what_is_ours_breaks_no_rule() -> None:
    entries = copy.deepcopy(recorded(DUMPS[0])[-1].entries)
    entries["bull:golden:py:receipt:7"] = Entry("string", "{}", expires=True)
    entries["bull:golden:py:lines"] = Entry("list", ["x"])
    entries[ONE].value["py:history"] = "[]"

    assert violations(Keyspace("bull", entries), at_rest=True) == []


def test_rules_of_kind_q_are_asked_at_rest_only() -> None:
    entries = copy.deepcopy(recorded(DUMPS[0])[-1].entries)
    entries["bull:golden:paused"] = Entry("list", ["9"])

    assert violations(Keyspace("bull", entries)) == []


async def test_a_snapshot_reads_every_type_of_key_and_nothing_of_another_prefix(redis: Any) -> None:
    prefix = f"test[-{uuid.uuid4().hex}"
    await redis.set(f"{prefix}:q:id", "3")
    await redis.set(f"{prefix}:q:limiter", "1", px=60_000)
    await redis.hset(f"{prefix}:q:1", "name", "é")
    await redis.rpush(f"{prefix}:q:wait", "2", "1")
    await redis.sadd(f"{prefix}:q:stalled", "1")
    await redis.zadd(f"{prefix}:q:delayed", {"1": 6963200000000001})
    await redis.xadd(f"{prefix}:q:events", {"event": "added", "jobId": "1"})
    await redis.set(f"{prefix.replace('[', 't')}:q:id", "9")

    space = await snapshot(redis.execute_command, prefix)

    [queue] = space.queues
    assert queue.base == f"{prefix}:q:"
    assert queue.keys == {
        "id": Entry("string", "3"),
        "limiter": Entry("string", "1", expires=True),
        "1": Entry("hash", {"name": "é"}),
        "wait": Entry("list", ["2", "1"]),
        "stalled": Entry("set", ["1"]),
        "delayed": Entry("zset", [("1", 6963200000000001.0)]),
        "events": Entry("stream", [[("event", "added"), ("jobId", "1")]]),
    }


# ------------------------------------------------------------------ what Toril does


def is_excused(sentence: str, life: Workload) -> bool:
    """Whether a rule of kind Q was broken by something that may do so."""
    rule, _, about = sentence.partition(": ")
    if rule in ("Q9", "Q10"):  # the last child of a parent was evicted: it runs now, whatever its priority or delay
        return about.partition(" ")[0] in life.parents
    return rule == "Q15" and "has completed with" in about  # a child was retried under it, or added to it, afterwards


@pytest.fixture
async def stores(redis_url: str, clock: TurnedClock) -> AsyncIterator[list[RedisStore]]:
    """Two stores under one prefix."""
    prefix = f"test-{uuid.uuid4().hex}"
    opened = [RedisStore(redis_url, prefix=prefix, clock=clock) for _ in range(2)]
    yield opened
    for store in opened:
        await store.close()


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_happens_to_queues_leaves_the_rules_whole(
    seed: int, stores: list[RedisStore], redis: Any, clock: TurnedClock
) -> None:
    life = Workload(seed, stores, clock, redis)
    steps, watch = size("workload_steps"), Stopwatch()

    async def broken(*, at_rest: bool) -> list[str]:
        found = violations(await snapshot(redis.execute_command, stores[0].prefix), at_rest=at_rest)
        return [sentence for sentence in found if not is_excused(sentence, life)]

    for step in range(steps):
        await life.step()
        if step % STEPS_BETWEEN_SNAPSHOTS == 0:
            assert await broken(at_rest=False) == [], f"seed {seed}, step {step}"
    await life.rest()
    assert await broken(at_rest=True) == [], f"seed {seed}, at rest"
    await life.run_out()
    assert await broken(at_rest=True) == [], f"seed {seed}, when all had run"
    shown("invariants in a random life (Redis)", f"{steps:,} steps, seed {seed}", "all hold", watch)


async def test_a_parent_that_fails_together_with_its_child_has_nothing_left_to_fail_of(
    stores: list[RedisStore], redis: Any
) -> None:
    store = stores[0]
    parent = await given_active(store, "albums", job_id="parent")
    await given(store, parent=parent.ref, policy=ChildPolicy.FAIL, job_id="child")
    child = await claim_one(store)

    await store.settle([Settlement(one, Failed("no")) for one in (parent, child)])

    assert violations(await snapshot(redis.execute_command, store.prefix)) == []
