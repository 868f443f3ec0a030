"""Run the fault and model tests at full size and write what they have shown into one table, docs/proof/README.md.

    python tools/prove.py [--fresh] [--minutes 60] [PART ...]      (make prove ARGS=...)

A part is one file of tests/faults or tests/model. Parts that passed are remembered in .prove/ under a digest of src, tests
and pyproject.toml: a second run takes up what is left, and a change to any of them starts over. A test states what it has
shown by adding a line of JSON to the file named by TORIL_PROOF_ROWS: {"what": ..., "size": ..., "result": ..., "seconds": ...}.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
MEMORY = ROOT / ".prove"
TABLE = ROOT / "docs" / "proof" / "README.md"
PROVED = ("src", "tests", "pyproject.toml")
FOLDERS = ("tests/faults", "tests/interop", "tests/model")
STOP_GRACE_S = 20
PYTEST_FOUND_NO_TEST = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One thing shown, as a test or this tool states it."""

    what: str
    size: str
    result: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What running one part came to. Only a part that passed is remembered."""

    part: str
    passed: bool
    rows: list[Row]


# ---- what is proved


def digest() -> str:
    """Name the state of src, tests and pyproject.toml, committed or not; the same content gives the same name anywhere."""
    found = hashlib.sha256()
    for top in PROVED:
        path = ROOT / top
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not {"__pycache__", "node_modules"} & set(file.parts):
                found.update(f"{file.relative_to(ROOT).as_posix()}\0".encode())
                found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:16]


def all_parts() -> list[str]:
    """The test files that have a full size, in a fixed order."""
    found = (file for folder in FOLDERS for file in sorted((ROOT / folder).glob("test_*.py")))
    return [file.relative_to(ROOT).as_posix() for file in found]


# ---- what is remembered


def remembered(memory: Path, part: str) -> Outcome | None:
    """The outcome of a part that passed before, on this very code."""
    file = memory / f"{part.replace('/', '.')}.json"
    if not file.exists():
        return None
    kept = json.loads(file.read_text(encoding="utf-8"))
    return Outcome(part, passed=True, rows=[Row(**row) for row in kept["rows"]])


def remember(memory: Path, outcome: Outcome) -> None:
    """Keep the outcome of a part; written aside and moved, so that a kill leaves no half of it."""
    file = memory / f"{outcome.part.replace('/', '.')}.json"
    aside = file.with_suffix(".new")
    aside.write_text(json.dumps(asdict(outcome), indent=1), encoding="utf-8")
    aside.replace(file)


# ---- running a part


def read_rows(file: Path) -> tuple[list[Row], list[str]]:
    """The rows that the tests of a part have stated, and a complaint for each line that is none."""
    rows: list[Row] = []
    wrong: list[str] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines() if file.exists() else [], start=1):
        try:
            said: dict[str, Any] = json.loads(line)
            rows.append(Row(str(said["what"]), str(said["size"]), str(said["result"]), float(said["seconds"])))
        except (ValueError, KeyError, TypeError) as error:
            wrong.append(
                f"line {number} of TORIL_PROOF_ROWS is no object with what, size, result and seconds ({error!r})"
            )
    return rows, wrong


def not_passed(report: Path) -> list[str]:
    """A line for each test of a part that failed or was skipped, from pytest's report."""
    if not report.exists():
        return ["pytest ended without a report"]
    lines: list[str] = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        for kind in ("failure", "error", "skipped"):
            for found in case.findall(kind):
                why = (found.get("message") or "").strip().splitlines()
                lines.append(f"{kind}: {case.get('name')}" + (f" ({why[0][:160]})" if why else ""))
    return lines


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a part and the servers it started: politely, then for good."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the part leads a session of its own: this ends nobody else
    process.wait()


def run_part(memory: Path, part: str, left_s: float) -> Outcome:
    """Run one test file at full size, for at most `left_s` seconds."""
    stem = memory / part.replace("/", ".")
    rows_file, report, log = stem.with_suffix(".rows"), stem.with_suffix(".xml"), stem.with_suffix(".log")
    rows_file.unlink(missing_ok=True)
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", part, "--timeout", str(round(left_s)), "--junitxml", str(report)]
    env = {**os.environ, "TORIL_PROVE": "1", "TORIL_PROOF_ROWS": str(rows_file)}
    began = time.monotonic()
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
        try:
            status: int | None = process.wait(left_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            stop(process)
    seconds = round(time.monotonic() - began, 1)
    rows, wrong = read_rows(rows_file)
    if status is None:
        return Outcome(part, passed=False, rows=[*rows, Row(part, "", "not finished: the time was up", seconds)])
    wrong += not_passed(report)
    if status and not wrong:
        wrong = ["no test ran" if status == PYTEST_FOUND_NO_TEST else f"pytest ended with status {status}"]
    if wrong:
        result = f"{'; '.join(wrong[:5])}; see {log.relative_to(ROOT)}"
        return Outcome(part, passed=False, rows=[*rows, Row(part, "", result, seconds)])
    return Outcome(part, passed=True, rows=rows or [Row(part, "", "passed", seconds)])


# ---- the table


def cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def table(outcomes: list[Outcome], waiting: list[str], code: str) -> str:
    """The page: one row for each thing shown, and for each part that is still to run."""
    rows = [row for outcome in outcomes for row in outcome.rows]
    rows += [Row(part, "", "not run yet", 0.0) for part in waiting]
    shown = sum(outcome.passed for outcome in outcomes)
    lines = [
        "# Proof",
        "",
        "What the fault and model tests have shown at full size. `make prove` writes this page; it is not edited by hand.",
        "",
        f"{shown} of {len(outcomes) + len(waiting)} parts passed, on code `{code}` (`python tools/prove.py --digest`), "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores.",
        "",
        "| what is shown | size | result | seconds |",
        "| --- | --- | --- | ---: |",
        *(f"| {cell(row.what)} | {cell(row.size)} | {cell(row.result)} | {row.seconds:.1f} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def write_table(outcomes: list[Outcome], waiting: list[str], code: str) -> None:
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(table(outcomes, waiting, code), encoding="utf-8")


def prove(parts: list[str], memory: Path, code: str, minutes: float) -> list[Outcome]:
    """Run the parts that are left, in order, until they or the minutes are used up; the table is right at any moment."""
    deadline = time.monotonic() + minutes * 60
    known = {part: remembered(memory, part) for part in parts}
    outcomes = [outcome for outcome in known.values() if outcome]
    waiting = [part for part, outcome in known.items() if outcome is None]
    if outcomes:
        print(f"{len(outcomes)} of {len(parts)} parts passed before on this code; --fresh runs them again", flush=True)
    write_table(outcomes, waiting, code)
    while waiting and (left_s := deadline - time.monotonic()) > 1:
        part = waiting.pop(0)
        print(f"{part} ...", end=" ", flush=True)
        try:
            outcome = run_part(memory, part, left_s)
        except KeyboardInterrupt:
            print("interrupted; run `make prove` again to go on from here")
            raise SystemExit(130) from None
        if outcome.passed:
            remember(memory, outcome)
        outcomes.append(outcome)
        print("passed" if outcome.passed else outcome.rows[-1].result, flush=True)
        write_table(outcomes, waiting, code)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="only these test files (default: all)")
    parser.add_argument("--fresh", action="store_true", help="forget what passed before")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so many minutes")
    parser.add_argument(
        "--digest", action="store_true", help="print the name of this state of the code, and nothing else"
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the running part as Ctrl-C does
    code = digest()
    if args.digest:
        print(code)
        return
    unknown = sorted(set(args.parts) - set(all_parts()))
    if unknown:
        sys.exit(f"{', '.join(unknown)}: no such part; there are {', '.join(all_parts()) or 'none yet'}")
    parts = [part for part in all_parts() if part in args.parts or not args.parts]
    if not parts:
        sys.exit(f"nothing to prove: no test_*.py in {' or '.join(FOLDERS)}")
    memory = MEMORY / code
    if args.fresh:
        shutil.rmtree(memory, ignore_errors=True)
    memory.mkdir(parents=True, exist_ok=True)
    outcomes = prove(parts, memory, code, args.minutes)
    passed = sum(outcome.passed for outcome in outcomes)
    print(f"{passed} of {len(parts)} parts passed; the table is in {TABLE.relative_to(ROOT)}")
    if passed < len(parts):
        sys.exit("run `make prove` again: it takes up what is left")


if __name__ == "__main__":
    main()
