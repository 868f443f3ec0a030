"""`toril jobs`, `show`, `add` and `retry`: jobs by hand."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from toril.cli.command import NOT_FOUND, OK, Call, Commands, NothingThere, job_ref, seconds, whole_number
from toril.cli.output import Screen, counted, folded_json
from toril.cli.times import ago, duration, moment
from toril.errors import ConfigError, JobNotFound, TorilError, WrongState
from toril.ids import check_queue_name
from toril.model import Answer, Attempt, Child, JobRecord, JobRef, LogPage, Page
from toril.options import DEFAULT_OPTIONS, Backoff, JobOptions, Keep, Options
from toril.queue import Queue
from toril.states import FINISHED, State
from toril.store import Store
from toril.wirejson import encode


def add_to(commands: Commands) -> None:
    _add_jobs(commands)
    show = commands.add("show", _run_show, "show one job with its history, log and children")
    show.add_argument("job", type=job_ref, metavar="QUEUE/ID", help="the job")
    show.add_argument("--logs", type=whole_number, default=20, metavar="N", help="the last N lines of its log (20)")
    show.add_argument("--json", action="store_true", help="as JSON")
    _add_add(commands)
    _add_retry(commands)


def _add_jobs(commands: Commands) -> None:
    parser = commands.add(
        "jobs", _run_jobs, "list jobs of a queue", "List jobs in the order in which they run or ended."
    )
    parser.add_argument("queue", metavar="QUEUE")
    parser.add_argument("--state", choices=[state.value for state in State], help="only jobs of this state")
    parser.add_argument("--limit", type=whole_number, default=20, metavar="N", help="at most N of each state (20)")
    parser.add_argument("--after", metavar="CURSOR", help="go on where the last page ended; wants --state")
    parser.add_argument("--newest", action="store_true", help="the other way round")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_add(commands: Commands) -> None:
    parser = commands.add("add", _run_add, "add a job", "Add a job, and print its id.")
    parser.add_argument("queue", metavar="QUEUE")
    parser.add_argument("name", metavar="NAME", help="says which handler works on it")
    parser.add_argument("data", nargs="?", metavar="JSON", help="its data; - reads it from the standard input")
    parser.add_argument("--delay", type=seconds, metavar="S", help="seconds before it may run")
    parser.add_argument("--priority", type=int, metavar="N", help="1 runs first; 0, the default, before all of them")
    parser.add_argument("--job-id", metavar="ID", help="an id of your own: a second add of it changes nothing")
    parser.add_argument("--attempts", type=int, metavar="N", help="how often it is tried in all (1)")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_retry(commands: Commands) -> None:
    parser = commands.add("retry", _run_retry, "run finished jobs again")
    parser.add_argument("jobs", nargs="*", type=job_ref, metavar="QUEUE/ID", help="failed or completed jobs")
    parser.add_argument("--all-failed", metavar="QUEUE", help="all failed jobs of a queue")
    parser.add_argument("--data", metavar="JSON", help="other data for the job; - reads it from the standard input")
    parser.add_argument("--reset-attempts", action="store_true", help="count its attempts from 1 again")


# -------------------------------------------------------------------- jobs


async def _run_jobs(call: Call) -> int:
    args, screen = call.args, call.screen
    if args.after is not None and args.state is None:
        raise ConfigError("--after wants --state: each state is a list of its own")
    check_queue_name(args.queue)
    states = list(State) if args.state is None else [State(args.state)]
    async with call.store() as store:
        pages = {
            state: await store.find(args.queue, state, after=args.after, limit=args.limit, newest_first=args.newest)
            for state in states
        }
        now_ms = store.clock.now_ms()
        known = [summary.name for summary in await store.summaries()]
    if args.json:
        jobs = [record for page in pages.values() for record in page.items]
        more = {state.value: page.next for state, page in pages.items() if page.next is not None}
        screen.json({"queue": args.queue, "jobs": jobs, "next": more})
        return OK
    if args.queue not in known:
        raise NothingThere(no_queue(args.queue, known))
    found = {state: page for state, page in pages.items() if page.items}
    if not found:
        screen.line(f"Queue {args.queue} has no {args.state + ' ' if args.state else ''}jobs.")
    for n, (state, page) in enumerate(found.items()):
        if n:
            screen.line()
        _print_page(call, state, page, now_ms)
    return OK


def no_queue(queue: str, known: Sequence[str]) -> str:
    """That there is no such queue, and which there are."""
    there = f"known are {', '.join(sorted(known)[:20])}" if known else "there are none yet"
    return f"there is no queue {queue!r}: {there}"


def _print_page(call: Call, state: State, page: Page[JobRecord], now_ms: int) -> None:
    screen = call.screen
    rows = [
        [
            record.ref.id,
            record.name,
            f"{record.attempts_made}/{record.options.attempts}",
            ago(_when(record), now_ms),
        ]
        for record in page.items
    ]
    below = {n: record.reason for n, record in enumerate(page.items) if record.reason and state is State.FAILED}
    screen.line(screen.state(state))
    screen.table(["ID", "NAME", "TRIED", "WHEN"], rows, shrink=[1], below=below)
    if page.next is not None:
        newest = " --newest" if call.args.newest else ""
        screen.line(f"more: toril jobs {call.args.queue} --state {state} --after {page.next}{newest}")


def _when(record: JobRecord) -> int:
    """The moment that matters most in a job's state."""
    moments = {
        State.DELAYED: record.due_at_ms,
        State.ACTIVE: record.processed_at_ms,
        State.COMPLETED: record.finished_at_ms,
        State.FAILED: record.finished_at_ms,
    }
    return moments.get(record.state) or record.created_at_ms


# -------------------------------------------------------------------- show


async def _run_show(call: Call) -> int:
    ref: JobRef = call.args.job
    async with call.store() as store:
        (record,) = await store.get([ref])
        if record is None:
            raise JobNotFound(ref)
        children = await store.children(ref)
        logs = await _tail(store, ref, call.args.logs)
        now_ms = store.clock.now_ms()
    if call.args.json:
        call.screen.json({"job": record, "logs": logs, "children": children})
        return OK
    _print_record(call.screen, record, now_ms)
    _print_history(call.screen, record.history, now_ms)
    _print_children(call.screen, children)
    _print_logs(call.screen, logs)
    return OK


async def _tail(store: Store, ref: JobRef, lines: int) -> LogPage:
    total = (await store.logs(ref, limit=1)).total
    return await store.logs(ref, first=max(0, total - lines), limit=lines)


def _print_record(screen: Screen, record: JobRecord, now_ms: int) -> None:
    gone = "" if record.kept else ", removed; what it returned can still be read"
    screen.line(f"{screen.style(str(record.ref), 'bold')} {record.name}: {screen.state(record.state)}{gone}")
    screen.line()
    facts = {
        "added": moment(record.created_at_ms, now_ms),
        "due": record.due_at_ms and moment(record.due_at_ms, now_ms),
        "started": record.processed_at_ms and moment(record.processed_at_ms, now_ms),
        "ended": record.finished_at_ms and moment(record.finished_at_ms, now_ms),
        "tried": f"{record.attempts_made} of {counted(record.options.attempts, 'time')}",
        "stalled": counted(record.stalled, "time") if record.stalled else None,
        "worker": record.worker,
        "lock until": record.locked_until_ms and moment(record.locked_until_ms, now_ms),
        "priority": record.priority or None,
        "parent": record.parent and str(record.parent.ref),
        "schedule": record.schedule,
        "pending": counted(record.pending_children, "child", "children") if record.pending_children else None,
        "reason": record.reason or record.deferred,
        "options": ", ".join(said(record.options)) or None,
    }
    for name, value in facts.items():
        if value:
            screen.block(f"{name:<11} {value}", indent=0)
    for name, text in (("data", record.data), ("progress", record.progress), ("result", record.result)):
        if text is not None:
            screen.heading(name)
            screen.block(folded_json(text))


def said(options: Options) -> list[str]:
    """What of a job's options differs from the defaults, in words."""
    return [
        f"{field.name.removesuffix('_ms').replace('_', ' ')} {_said(field.name, getattr(options, field.name))}"
        for field in fields(Options)
        if getattr(options, field.name) != getattr(DEFAULT_OPTIONS, field.name)
    ]


def _said(name: str, value: Any) -> str:
    match value:
        case Backoff():
            cap = "" if value.max_delay_ms is None else f" up to {duration(value.max_delay_ms)}"
            jitter = f", jitter {value.jitter:g}" if value.jitter else ""
            return value.kind if value.is_custom else f"{value.kind} from {duration(value.delay_ms)}{cap}{jitter}"
        case Keep(count=None, age_ms=None):
            return "all"
        case Keep():
            count = [] if value.count is None else [f"{value.count:,}"]
            return " or ".join(count + ([] if value.age_ms is None else [duration(value.age_ms)]))
        case int() if name.endswith("_ms") and not name.endswith("_at_ms"):
            return duration(value)
        case _:
            return str(value)


def _print_history(screen: Screen, history: Sequence[Attempt], now_ms: int) -> None:
    if not history:
        return
    screen.heading("history")
    for attempt in history:
        took = duration(max(0, attempt.ended_at_ms - attempt.started_at_ms))
        by = f" by {attempt.worker}" if attempt.worker else ""
        screen.line(
            f"{attempt.number}. {attempt.outcome} after {took}, {moment(attempt.ended_at_ms, now_ms)}", indent=2
        )
        if by:
            screen.line(by.strip(), indent=5)
        screen.block(attempt.stack or attempt.reason, indent=5)


def _print_children(screen: Screen, children: Sequence[Child]) -> None:
    if not children:
        return
    screen.heading("children")
    for child in children:
        reason = f": {child.reason}" if child.reason else ""
        screen.block(f"{child.ref} {child.state}{reason}")


def _print_logs(screen: Screen, logs: LogPage) -> None:
    if not logs.lines:
        return
    screen.heading(f"log, {len(logs.lines)} of {counted(logs.total, 'line')}")
    for line in logs.lines:
        screen.block(line)


# -------------------------------------------------------------------- add


async def _run_add(call: Call) -> int:
    args, screen = call.args, call.screen
    data = None if args.data is None else call.json_argument(args.data, "the data")
    async with call.store(make=True) as store:
        job = await Queue(args.queue, store).add(args.name, data, **_options(args))
        place = f"{store.kind} {store.place}"
    if args.json:
        screen.json({"id": job.id, "queue": job.queue, "duplicate": job.duplicate, "store": job.store})
    else:
        screen.line(job.id)
    if job.duplicate:
        screen.remark(f"{job.ref} is already there, and stays as it is")
    if call.settings.implicit:
        screen.remark(f"it is kept in {place} (set TORIL_URL for another place)")
    off = call.settings.workers_off()
    if off is not None:
        screen.remark(f"workers are switched off here by {off}: it waits until another process works on it")
    return OK


def _options(args: argparse.Namespace) -> JobOptions:
    options: JobOptions = {}
    if args.delay is not None:
        options["delay"] = args.delay
    if args.priority is not None:
        options["priority"] = args.priority
    if args.job_id is not None:
        options["job_id"] = args.job_id
    if args.attempts is not None:
        options["attempts"] = args.attempts
    return options


# -------------------------------------------------------------------- retry


async def _run_retry(call: Call) -> int:
    args = call.args
    if bool(args.jobs) == (args.all_failed is not None):
        raise ConfigError("name the jobs to run again as QUEUE/ID, or give --all-failed QUEUE")
    if args.all_failed is not None:
        return await _retry_all(call)
    data = None if args.data is None else encode(call.json_argument(args.data, "the data"))
    async with call.store() as store:
        refs: list[JobRef] = args.jobs
        answers = await store.retry(refs, reset_attempts=args.reset_attempts, data=data)
        problems = [await _problem(store, ref, answer) for ref, answer in zip(refs, answers, strict=True)]
    for ref, problem in zip(refs, problems, strict=True):
        if problem is None:
            call.screen.line(f"{ref} will run again")
        else:
            call.screen.remark(str(problem))
    return NOT_FOUND if any(problems) else OK


async def _retry_all(call: Call) -> int:
    args = call.args
    if args.data is not None:
        raise ConfigError("--data with --all-failed would give all jobs the same data: name the jobs instead")
    async with call.store() as store:
        queue = Queue(args.all_failed, store)
        count = await queue.retry_all(State.FAILED, reset_attempts=args.reset_attempts)
    call.screen.line(f"{counted(count, 'job')} of {args.all_failed} will run again")
    return OK


async def _problem(store: Store, ref: JobRef, answer: Answer) -> TorilError | None:
    if answer is Answer.DONE:
        return None
    (record,) = await store.get([ref])
    if answer is Answer.MISSING or record is None:
        return JobNotFound(ref)
    return WrongState(ref, "retry", record.state, " or ".join(FINISHED))
