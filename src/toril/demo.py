"""`toril demo`: real work on an embedded file, watched while it runs.

One job has a child for each Python file, which reads and parses it, with progress; when they have ended it adds up what
they counted. One job fails twice and then succeeds, one ends failed, one is delayed, and each second a report is made. The file
of jobs stays: interrupted, the demo goes on where it was when it is run again.
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
from toril.schedule import every
from toril.states import FINISHED, State
from toril.wirejson import decode
from toril.wishes import AwaitChildren

LEFT_OUT = frozenset({"test", "tests", "site-packages", "dist-packages", "idlelib", "__pycache__", "lib2to3"})
FRAME_S = 0.1
PIECE = 500
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


async def add_up(ctx: Context, path: str) -> Figures | AwaitChildren:
    """The parent: adds a child for each file, waits for them, and adds up what they counted."""
    calls = calls_for(python_files(Path(path)))
    if len(await ctx.children()) < len(calls):
        for start in range(0, len(calls), PIECE):
            await ctx.add_children(*calls[start : start + PIECE])
        return AwaitChildren()
    return sum((Figures(**figures) for figures in (await ctx.child_results()).values()), Figures())


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
    files.handler("add-up")(add_up)
    cases = app.queue("demo-cases", concurrency=4, attempts=3, backoff=Backoff.fixed(0.3))
    cases.handler("fetch-figures")(fetch_figures)
    cases.handler("send-to-nobody")(send_to_nobody)
    cases.handler("wake-up")(wake_up)
    reports = app.queue("demo-reports", concurrency=1)

    @reports.handler("report")
    async def report() -> str:
        counts = await files.counts()
        return f"{counts[State.COMPLETED]:,} of {sum(counts.values()):,} files parsed"

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
    """One job per file. Its id comes from the path, so that adding it again finds the one that is there; should it fail, what
    is added up goes without it."""
    return [
        Call(
            "parse-file",
            {"path": str(file)},
            {"job_id": _id("file", file), "parent_on_failure": "ignore"},
            queue="demo-files",
        )
        for file in files
    ]


def _id(word: str, path: Path) -> str:
    return f"{word}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"


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
    reports: int = 0
    flow: str = ""
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    figures: Figures = field(default_factory=Figures)
    failed: list[str] = field(default_factory=list[str])
    problems: list[str] = field(default_factory=list[str])


async def run_once(url: str, path: Path, screen: Screen) -> Summary:
    """Add what is not there yet, work until nothing is left, and gather the figures."""
    files = list(python_files(path))
    if not files:
        raise ConfigError(f"there are no Python files at {path}: name a file or a folder that has some")
    app = build(url)
    try:
        queues = [app.queue("demo-files"), app.queue("demo-cases")]
        reports = app.queue("demo-reports")
        resumed = await _begin([*queues, reports])
        total = await queues[0].add("add-up", {"path": str(path)}, job_id=_id("sum", path))
        await queues[1].add_many(cases())
        progress = await reports.schedule("progress", every(1, overlap="skip"), "report")
        summary = Summary(app.store.place, len(files) + len(cases()) + 1, resumed, flow=str(total.ref))
        screen.begin(summary, await _counts(queues))
        started = time.monotonic()
        await _work(app, queues, screen)
        await progress.remove()
        summary.seconds = time.monotonic() - started
        await _account(queues, summary, [total.id, *(_id("file", file) for file in files)])
        summary.reports = (await reports.counts())[State.COMPLETED]
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
        await queue.obliterate(force=True)
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


async def _account(queues: Sequence[Queue], summary: Summary, ids: Sequence[str]) -> None:
    """Read every job, and say what does not fit. `ids` are those that must be among the files' jobs, the parent's first."""
    records: dict[str, JobRecord] = {}
    for queue in queues:
        for state in State:
            async for record in queue.iterate(state):
                records[str(record.ref)] = record
    counts = await _counts(queues)
    summary.counts = {state.value: count for state, count in counts.items()}
    summary.added = len(records)
    summary.failed = [f"{r.ref}: {r.reason}" for r in records.values() if r.state is State.FAILED]
    total = records.get(f"demo-files/{ids[0]}")
    summary.figures = Figures(**decode((total and total.result) or "{}"))
    summary.problems = [f"the job demo-files/{id} is not there" for id in ids if f"demo-files/{id}" not in records]
    summary.problems += _problems(summary, records, counts, [f"demo-files/{id}" for id in ids[1:]])


def _problems(
    summary: Summary, records: Mapping[str, JobRecord], counts: Mapping[State, int], files: Sequence[str]
) -> Iterator[str]:
    if counts[State.COMPLETED] + counts[State.FAILED] != summary.added:
        yield f"{summary.added} jobs are there, {counts[State.COMPLETED]} completed and {counts[State.FAILED]} failed"
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
    parsed = sum(1 for file in files if file in records and records[file].state is State.COMPLETED)
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
        total = max(self._total, sum(counts.values()))  # the files' jobs are added while it runs
        share = done / total if total else 1.0
        bar = ("━" * round(share * 24)).ljust(24, "─" if self._colour else "·")
        if self._colour:
            bar = f"\x1b[32m{bar}\x1b[0m"
        rate = (done - self._done_before) / max(now - self._started, 0.001)
        rest = [f"{count} {state}" for state, count in counts.items() if count and state is not State.COMPLETED]
        return f"{bar} {done:,}/{total:,}  {rate:,.0f}/s  {', '.join(rest)}"

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def report(summary: Summary) -> str:
    """The summary, for people."""
    figures = summary.figures
    counts = [f"{count:,} {state}" for state, count in summary.counts.items() if count]
    lines = [
        "",
        f"{figures.files:,} files parsed in {summary.seconds:.1f} s, {figures.bytes / 1e6:.1f} MB: {figures.lines:,} lines,",
        f"{figures.functions:,} functions, {figures.classes:,} classes, {figures.imports:,} imports",
        f"{summary.added:,} jobs = {' + '.join(counts)}, and {summary.reports:,} reports, one each second",
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
            f"  toril --url sqlite:///{summary.place} flow {summary.flow}",
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
