"""`toril demo`: real work on an embedded file, watched while it runs.

One job per Python file reads and parses it, with progress. One job fails twice and then succeeds, one ends failed, one
is delayed. The file of jobs stays: interrupted, the demo goes on where it was when it is run again.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toril.app import App
from toril.errors import ConfigError, InvalidJob, Unrecoverable
from toril.handlers import Context
from toril.job import Call
from toril.model import JobRecord
from toril.options import Backoff, JobOptions
from toril.posix import signals_to
from toril.queue import Queue
from toril.states import FINISHED, State
from toril.wirejson import decode

LEFT_OUT = frozenset({"test", "tests", "site-packages", "dist-packages", "idlelib", "__pycache__", "lib2to3"})
FRAME_S = 0.1
DELAY_S = 2.0


# -------------------------------------------------------------------- the work


@dataclass(frozen=True, slots=True)
class Figures:
    """What is counted in Python files."""

    files: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    imports: int = 0
    bytes: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))


def parse_file(ctx: Context, path: str) -> Figures:
    """Read a file, parse it, and count what is in it. A plain `def`: it runs in a thread."""
    try:
        source = Path(path).read_bytes()
        ctx.progress(50)
        tree = ast.parse(source, path)
    except (OSError, SyntaxError, ValueError) as error:
        raise Unrecoverable(f"{Path(path).name}: {error}") from error
    kinds = [type(node) for node in ast.walk(tree)]
    ctx.progress(100)
    return Figures(
        files=1,
        lines=source.count(b"\n"),
        functions=kinds.count(ast.FunctionDef) + kinds.count(ast.AsyncFunctionDef),
        classes=kinds.count(ast.ClassDef),
        imports=kinds.count(ast.Import) + kinds.count(ast.ImportFrom),
        bytes=len(source),
    )


async def fetch_figures(ctx: Context) -> dict[str, int]:
    """Fails twice, as a service that is starting up would, and then succeeds."""
    if ctx.attempt < 3:
        raise ConnectionError(f"the service answered 503 (attempt {ctx.attempt})")
    return {"attempt": ctx.attempt}


async def send_to_nobody() -> None:
    """Can never succeed, and says so."""
    raise Unrecoverable("nobody@example.invalid: no such recipient")


async def wake_up(ctx: Context, asked_ms: int) -> dict[str, int]:
    """Was delayed: says by how much."""
    return {"waited_ms": ctx.claim.claimed_at_ms - asked_ms}


def build(url: str) -> App:
    """The app of the demo: two queues on one file."""
    app = App(url, keep_completed=True, keep_failed=True)
    files = app.queue("demo-files", concurrency=8)
    files.handler("parse-file")(parse_file)
    cases = app.queue("demo-cases", concurrency=4, attempts=3, backoff=Backoff.fixed(0.3))
    cases.handler("fetch-figures")(fetch_figures)
    cases.handler("send-to-nobody")(send_to_nobody)
    cases.handler("wake-up")(wake_up)
    return app


def python_files(path: Path) -> Iterator[Path]:
    """The Python files at or below a path; tests and installed packages are left out below it."""
    if path.is_file():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT and not name.startswith("."))
        for name in sorted(names):
            if name.endswith(".py"):
                yield Path(folder) / name


def calls_for(files: Iterable[Path]) -> list[Call]:
    """One job per file. Its id comes from the path, so that adding it again finds the one that is there."""
    calls: list[Call] = []
    for file in files:
        digest = hashlib.sha256(os.fsencode(file)).hexdigest()[:16]
        calls.append(Call("parse-file", {"path": str(file)}, {"job_id": f"file-{digest}"}))
    return calls


def cases() -> list[Call]:
    """The three jobs that do not simply succeed."""
    now: JobOptions = {"job_id": "succeeds-third-time"}
    never: JobOptions = {"job_id": "ends-failed"}
    later: JobOptions = {"job_id": "delayed-job", "delay": DELAY_S}
    return [
        Call("fetch-figures", {}, now),
        Call("send-to-nobody", {}, never),
        Call("wake-up", {"asked_ms": time.time_ns() // 1_000_000}, later),
    ]


# -------------------------------------------------------------------- one run


@dataclass(slots=True)
class Summary:
    """What the run came to. `problems` is empty when every job is accounted for."""

    place: str
    added: int
    resumed: bool
    seconds: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    figures: Figures = field(default_factory=Figures)
    failed: list[str] = field(default_factory=list[str])
    problems: list[str] = field(default_factory=list[str])


async def run_once(url: str, path: Path, screen: Screen) -> Summary:
    """Add what is not there yet, work until nothing is left, and gather the figures."""
    app = build(url)
    try:
        queues = [app.queue("demo-files"), app.queue("demo-cases")]
        resumed = await _begin(queues)
        calls = calls_for(python_files(path))
        if not calls:
            raise ConfigError(f"there are no Python files at {path}: name a file or a folder that has some")
        await queues[0].add_many(calls)
        await queues[1].add_many(cases())
        before = await _counts(queues)
        summary = Summary(app.store.place, sum(before.values()), resumed)
        screen.begin(summary, before)
        started = time.monotonic()
        await _work(app, queues, screen)
        summary.seconds = time.monotonic() - started
        await _account(queues, summary)
        return summary
    finally:
        await app.close()


async def _begin(queues: Sequence[Queue]) -> bool:
    """Clear a run that has ended; leave one that was interrupted, and say so."""
    counts = await _counts(queues)
    if sum(counts.values()) == 0:
        return False
    if any(counts[state] for state in State if state not in FINISHED):
        return True
    for queue in queues:
        await queue.pause()
        await queue.obliterate()
    return False


async def _counts(queues: Sequence[Queue]) -> dict[State, int]:
    total = dict.fromkeys(State, 0)
    for queue in queues:
        for state, count in (await queue.counts()).items():
            total[state] += count
    return total


async def _work(app: App, queues: Sequence[Queue], screen: Screen) -> None:
    """Run a worker until every job has ended, or somebody interrupts."""
    worker = app.worker(grace=5, stalled_interval=5)
    interrupted = asyncio.Event()
    with signals_to(lambda _: interrupted.set()):
        running = asyncio.create_task(worker.run())
        try:
            while not interrupted.is_set():
                counts = await _counts(queues)
                screen.show(counts)
                if not any(counts[state] for state in State if state not in FINISHED):
                    return
                if running.done():
                    await running
                    raise RuntimeError("the worker has ended before its work")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(interrupted.wait(), FRAME_S)
        finally:
            worker.stop()
            await running
        raise KeyboardInterrupt


async def _account(queues: Sequence[Queue], summary: Summary) -> None:
    """Read every job, add up, and say what does not fit."""
    records: dict[str, JobRecord] = {}
    for queue in queues:
        for state in State:
            async for record in queue.iterate(state):
                records[str(record.ref)] = record
    counts = await _counts(queues)
    summary.counts = {state.value: count for state, count in counts.items()}
    completed = [record for record in records.values() if record.state is State.COMPLETED]
    summary.failed = [f"{r.ref}: {r.reason}" for r in records.values() if r.state is State.FAILED]
    for record in completed:
        if record.name == "parse-file":
            summary.figures += Figures(**decode(record.result or "{}"))
    summary.problems = list(_problems(summary, records, counts))


def _problems(summary: Summary, records: Mapping[str, JobRecord], counts: Mapping[State, int]) -> Iterator[str]:
    if len(records) != summary.added:
        yield f"{summary.added} jobs were added and {len(records)} are there"
    if counts[State.COMPLETED] + counts[State.FAILED] != summary.added:
        yield f"{summary.added} jobs were added, {counts[State.COMPLETED]} completed and {counts[State.FAILED]} failed"
    third = records.get("demo-cases/succeeds-third-time")
    if third is None or third.state is not State.COMPLETED or third.attempts_made != 3:
        yield "the job that fails twice did not succeed at its third attempt"
    failed = records.get("demo-cases/ends-failed")
    if failed is None or failed.state is not State.FAILED or failed.attempts_made != 1:
        yield "the job that cannot succeed did not end failed at once"
    delayed = records.get("demo-cases/delayed-job")
    waited = decode(delayed.result or "{}").get("waited_ms", 0) if delayed is not None else 0
    if waited < DELAY_S * 1000:
        yield f"the delayed job started {waited} ms after it was added, before its {DELAY_S:g} s were over"
    parsed = sum(1 for r in records.values() if r.name == "parse-file" and r.state is State.COMPLETED)
    if summary.figures.files != parsed:
        yield f"{parsed} files were parsed and the figures are of {summary.figures.files}"


# -------------------------------------------------------------------- what is seen


class Screen:
    """Shows the run: a moving bar on a terminal, a line a second elsewhere, nothing when asked to be quiet."""

    def __init__(self, *, quiet: bool, colour: bool) -> None:
        self._quiet = quiet
        self._live = not quiet and sys.stderr.isatty()
        self._colour = colour and self._live
        self._total = 0
        self._done_before = 0
        self._started = 0.0
        self._last = 0.0

    def begin(self, summary: Summary, counts: Mapping[State, int]) -> None:
        """Say what is about to happen."""
        self._total, self._started = summary.added, time.monotonic()
        self._done_before = counts[State.COMPLETED] + counts[State.FAILED]
        if not self._quiet:
            how = "going on with" if summary.resumed else "working on"
            self._print(f"{how} {summary.added:,} jobs in {summary.place}")
            self._print("look at them from another terminal: toril --url sqlite:///" + f"{summary.place} status")

    def show(self, counts: Mapping[State, int]) -> None:
        """Show how far the run is."""
        now = time.monotonic()
        if self._quiet or (not self._live and now - self._last < 1):
            return
        self._last = now
        line = self._line(counts, now)
        if self._live:
            width = shutil.get_terminal_size().columns
            sys.stderr.write("\r\x1b[2K" + line[: max(20, width + 9 * line.count("\x1b") - 1)])
            sys.stderr.flush()
        else:
            self._print(line)

    def end(self) -> None:
        """Leave the bar standing."""
        if self._live:
            sys.stderr.write("\n")

    def _line(self, counts: Mapping[State, int], now: float) -> str:
        done = counts[State.COMPLETED] + counts[State.FAILED]
        share = done / self._total if self._total else 1.0
        bar = ("━" * round(share * 24)).ljust(24, "─" if self._colour else "·")
        if self._colour:
            bar = f"\x1b[32m{bar}\x1b[0m"
        rate = (done - self._done_before) / max(now - self._started, 0.001)
        rest = [f"{count} {state}" for state, count in counts.items() if count and state is not State.COMPLETED]
        return f"{bar} {done:,}/{self._total:,}  {rate:,.0f}/s  {', '.join(rest)}"

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def report(summary: Summary) -> str:
    """The summary, for people."""
    figures = summary.figures
    counts = [f"{count:,} {state}" for state, count in summary.counts.items() if count]
    lines = [
        "",
        f"{figures.files:,} files parsed in {summary.seconds:.1f} s: {figures.lines:,} lines, {figures.functions:,} functions, "
        f"{figures.classes:,} classes, {figures.imports:,} imports, {figures.bytes / 1e6:.1f} MB",
        f"{summary.added:,} jobs added = {' + '.join(counts)}",
        *(f"  failed as it should: {text}" for text in summary.failed),
        "",
    ]
    if summary.problems:
        lines += ["This does not add up:", *(f"  {problem}" for problem in summary.problems)]
    else:
        lines += [
            "Every job is accounted for. Look at one of them:",
            f"  toril --url sqlite:///{summary.place} show demo-cases/succeeds-third-time",
            f"  toril --url sqlite:///{summary.place} why demo-cases/ends-failed",
        ]
    return "\n".join(lines)


# -------------------------------------------------------------------- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `toril demo`."""
    parser.add_argument("path", nargs="?", type=Path, help="a Python file or a folder of them (the standard library)")
    parser.add_argument("--db", type=Path, default=Path("toril-demo.db"), help="the file of jobs (toril-demo.db)")
    parser.add_argument("--once", action="store_true", help="no moving display: for scripts")
    parser.add_argument("--json", action="store_true", help="the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the demo: 0 when every job is accounted for, 1 when not, 130 when interrupted."""
    path: Path = args.path or Path(sysconfig.get_path("stdlib"))
    if not path.exists():
        raise ConfigError(f"{path} does not exist: name a Python file or a folder of them")
    logging.getLogger("toril").addHandler(logging.NullHandler())
    logging.getLogger("toril").propagate = False  # the failures of the demo are meant; its summary tells of them
    screen = Screen(quiet=args.once or args.json, colour="NO_COLOR" not in os.environ)
    try:
        summary = asyncio.run(run_once(f"sqlite:///{args.db.absolute()}", path.resolve(), screen))
    except KeyboardInterrupt:
        screen.end()
        print("interrupted: nothing is lost, and running it again goes on", file=sys.stderr)
        return 130
    except InvalidJob as error:
        raise ConfigError(str(error)) from error
    screen.end()
    print(json.dumps(_plain(summary)) if args.json else report(summary))
    return 1 if summary.problems else 0


def _plain(summary: Summary) -> dict[str, Any]:
    return asdict(summary)
