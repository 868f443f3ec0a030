"""A process that writes is killed, or the power is cut, at random moments: the file is sound, and what was acknowledged is there."""

from __future__ import annotations

import asyncio
import random
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from faults.crew import Crew, crew, moment
from faults.history import said
from faults.powercut import SYNC, WRITE, Record, build_recorder, contents, cut, read_journal, survivors, synced
from faults.programs import ref
from faults.proof import Stopwatch, shown
from sizes import size
from toril.states import State
from toril.stores.sqlite.store import SqliteStore

SEED = 7
FRESH_EVERY = 5
MOST_ADDS = 40
MOST_ADDS_OF_A_CUT = 120


@dataclass(slots=True)
class Tally:
    """What became of the adds and settlements that a store had acknowledged."""

    acknowledged: int = 0
    missing: list[str] = field(default_factory=list[str])
    damage: list[str] = field(default_factory=list[str])


def test_a_killed_writer_leaves_a_sound_file_with_all_that_was_acknowledged(tmp_path: Path) -> None:
    watch, rng, tally, kills = Stopwatch(), random.Random(SEED), Tally(), size("writer_kills")
    with crew(tmp_path) as hired:
        for trial in range(kills):
            if trial % FRESH_EVERY == 0:
                begin_anew(hired)
            child = hired.start("write", seed=trial, bytes=2_000)
            kill_after(hired, child, rng.randrange(MOST_ADDS), rng)
            asyncio.run(verify(hired, tally))

    assert tally.acknowledged > kills
    assert (tally.missing, tally.damage) == ([], [])
    result = f"0 of {tally.acknowledged:,} acknowledged lost, integrity ok"
    shown("SIGKILL of a writing process (SQLite)", f"{kills} kills", result, watch)


def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    watch, rng, tally, cuts = Stopwatch(), random.Random(SEED), Tally(), size("power_cuts")
    recorder = build_recorder(tmp_path)
    syncs = checkpoints = 0
    with crew(tmp_path / "crew") as hired:
        for trial in range(cuts):
            if trial % FRESH_EVERY == 0:
                begin_anew(hired)
            records = cut_power(hired, recorder, trial, rng, drawn=trial % 2 == 1)
            syncs += synced(records, 1) > 0
            checkpoints += any(record.file == 0 and record.kind == SYNC for record in records)
            asyncio.run(verify(hired, tally))

    assert syncs > cuts // 2, "the recorder has seen too few syncs of the WAL"
    assert tally.acknowledged > cuts
    assert (tally.missing, tally.damage) == ([], [])
    result = f"0 of {tally.acknowledged:,} acknowledged lost, integrity ok, {checkpoints} cuts with a checkpoint before"
    shown("power cut, unsynced writes dropped, torn or reordered (SQLite)", f"{cuts} cuts", result, watch)


def test_a_power_cut_may_lose_the_last_commits_where_durability_is_relaxed(tmp_path: Path) -> None:
    watch, rng, tally, cuts = Stopwatch(), random.Random(SEED), Tally(), size("relaxed_power_cuts")
    recorder = build_recorder(tmp_path)
    with crew(tmp_path / "crew") as hired:
        for trial in range(cuts):
            begin_anew(hired)
            cut_power(hired, recorder, trial, rng, drawn=trial % 2 == 1, durability="relaxed", least=10)
            asyncio.run(verify(hired, tally))

    assert tally.missing, "nothing was lost: the model of a power cut takes nothing away"
    assert tally.damage == []
    result = f"{len(tally.missing):,} of {tally.acknowledged:,} acknowledged lost, as documented; integrity ok"
    shown("power cut with durability=relaxed (SQLite)", f"{cuts} cuts", result, watch)


def test_the_model_keeps_what_was_synced_and_drops_the_rest(tmp_path: Path) -> None:
    records = [Record(WRITE, 1, 0, b"ab"), Record(SYNC, 1, 0), Record(WRITE, 1, 2, b"cd"), Record(WRITE, 0, 0, b"x")]

    cut([b"", b""], records, tmp_path / "toril.db", None)

    assert contents(tmp_path / "toril.db") == [b"", b"ab"]


def test_the_model_may_keep_a_later_write_without_an_earlier_one() -> None:
    records = [Record(WRITE, 1, n, b"x") for n in range(2)]
    kept = {tuple(record.offset for record in survivors(records, 1, random.Random(seed))) for seed in range(50)}

    assert kept == {(), (0,), (1,), (0, 1)}


# ------------------------------------------------------------------ the faults


def begin_anew(hired: Crew) -> None:
    """A store that does not exist yet, and a history without a word."""
    for path in hired.directory.glob("toril.db*"):
        if path.is_file():
            path.unlink()
    hired.forget()


def kill_after(hired: Crew, child: subprocess.Popen[bytes], adds: int, rng: random.Random) -> None:
    """Kill a writer a drawn moment after it was told of so many adds; of none: while it opens the store."""
    hired.until(lambda: hired.count("ready", child.pid) > 0 and hired.count("added", child.pid) >= adds)
    moment(rng.random() * 0.005)
    hired.kill(child)
    hired.listen()


def cut_power(
    hired: Crew,
    recorder: Path,
    trial: int,
    rng: random.Random,
    *,
    drawn: bool,
    durability: str = "full",
    least: int = 0,
) -> list[Record]:
    """Let a writer write, cut the power, and leave its files as they may be then."""
    journal = hired.directory / f"journal-{trial}"
    before = contents(hired.store_path)
    environment = {"LD_PRELOAD": str(recorder), "RECORDED": str(hired.store_path), "JOURNAL": str(journal)}
    child = hired.start("write", environment=environment, seed=trial, bytes=30_000, durability=durability)
    kill_after(hired, child, rng.randrange(least, MOST_ADDS_OF_A_CUT), rng)
    records = read_journal(journal)
    journal.unlink(missing_ok=True)
    cut(before, records, hired.store_path, rng if drawn else None)
    return records


# ------------------------------------------------------------------ the look afterwards


async def verify(hired: Crew, tally: Tally) -> None:
    """Open the store, and look for what the writers were told."""
    store = SqliteStore(hired.store_path)
    tally.damage += [finding.message for finding in await store.check() if finding.level == "error"]
    added, settled = said(hired.lines, "added"), said(hired.lines, "settled")
    records = await store.get([ref(job_id) for job_id in [*added, *settled]])
    tally.missing += [job_id for job_id, record in zip(added, records, strict=False) if record is None]
    ended = zip(settled, records[len(added) :], strict=True)
    tally.missing += [job_id for job_id, record in ended if record is None or record.state is not State.COMPLETED]
    pid = hired.children[-1].pid if hired.children else 0
    tally.acknowledged += hired.count("added", pid) + hired.count("settled", pid)
    await store.close()


def test_a_settlement_counts_as_lost_when_its_job_is_not_completed(tmp_path: Path) -> None:
    """The look afterwards finds what is not there."""
    with crew(tmp_path) as hired:
        tally = Tally()
        hired.pen().tell("added", "never-added")
        hired.pen().tell("settled", "never-settled")
        hired.listen()

        asyncio.run(verify(hired, tally))

    assert tally.missing == ["never-added", "never-settled"]
