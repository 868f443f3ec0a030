"""`toril why`: in sentences, why a job is where it is."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from toril.cli.command import NOT_FOUND, OK, Call, Commands, job_ref, place_of
from toril.cli.flow import retrying
from toril.cli.jobs import no_queue
from toril.cli.output import counted
from toril.cli.schedules import standing, when
from toril.cli.status import ready
from toril.cli.times import ago, duration, moment, until
from toril.model import Child, JobRecord, JobRef, QueueSummary, ScheduleRecord, WorkerInfo
from toril.options import ChildPolicy
from toril.schedule import look
from toril.states import FINISHED, State
from toril.store import Store

PAGE = 500
MOST_AHEAD = 10_000
SHOWN = 10


@dataclass(frozen=True)
class View:
    """What is known around a job."""

    now_ms: int
    queue: QueueSummary
    workers: Sequence[WorkerInfo] = ()  # those that serve its queue
    ahead: int | None = None  # jobs that run before it; None where more than MOST_AHEAD do
    children: Sequence[Child] = ()
    failed: Mapping[JobRef, JobRecord] = field(default_factory=dict[JobRef, JobRecord])  # of the children
    parent: JobRecord | None = None
    schedule: ScheduleRecord | None = None  # whose run it is
    owner: JobRef | None = None  # of its deduplication id
    workers_off: str | None = None


def add_to(commands: Commands) -> None:
    parser = commands.add("why", run, "say why a job is where it is")
    parser.add_argument("job", type=job_ref, metavar="QUEUE/ID", help="the job")


async def run(call: Call) -> int:
    ref: JobRef = call.args.job
    async with call.store() as store:
        (record,) = await store.get([ref])
        if record is None:
            for sentence in await _unknown(store, ref):
                call.screen.line(sentence)
            call.screen.line(f"Looked in {place_of(store, call.settings)}.")
            return NOT_FOUND
        view = await _view(store, record, call.settings.workers_off())
    for sentence in explain(record, view):
        call.screen.line(sentence)
    return OK


async def _unknown(store: Store, ref: JobRef) -> list[str]:
    known = [summary.name for summary in await store.summaries()]
    said = [f"There is no job {ref}: it was never added, or its keep rule has removed it."]
    if ref.queue in known:
        return said
    close = difflib.get_close_matches(ref.queue, known, 1)
    meant = f"; was {close[0]}/{ref.id} meant?" if close else "."
    return [*said, f"In fact {no_queue(ref.queue, known)}{meant}"]


async def _view(store: Store, record: JobRecord, workers_off: str | None) -> View:
    (summary,) = await store.summaries([record.ref.queue])
    has_hung_on_children = record.state in (State.WAITING_CHILDREN, State.FAILED)
    children = await store.children(record.ref) if has_hung_on_children else []
    known = await store.get([child.ref for child in children if child.state == "pending"]) if children else []
    parent = None if record.parent is None else (await store.get([record.parent.ref]))[0]
    rule = record.options.deduplication
    return View(
        now_ms=store.clock.now_ms(),
        queue=summary,
        workers=[worker for worker in await store.workers() if record.ref.queue in worker.queues],
        ahead=await _ahead(store, record, summary),
        children=children,
        failed={child.ref: child for child in known if child is not None and child.state is State.FAILED},
        parent=parent,
        schedule=None if record.schedule is None else await look(store, record.ref.queue, record.schedule),
        owner=None if rule is None else await store.owner(record.ref.queue, rule.id),
        workers_off=workers_off,
    )


async def _ahead(store: Store, record: JobRecord, summary: QueueSummary) -> int | None:
    """How many jobs run before a waiting one. Those without priority run before all that have one."""
    if record.state not in (State.WAITING, State.PRIORITIZED):
        return None
    ahead = summary.counts.get(State.WAITING, 0) if record.state is State.PRIORITIZED else 0
    after: str | None = None
    while ahead <= MOST_AHEAD:
        page = await store.find(record.ref.queue, record.state, after=after, limit=PAGE)
        for other in page.items:
            if other.ref == record.ref:
                return ahead
            ahead += 1
        after = page.next
        if after is None:
            return ahead
    return None


# -------------------------------------------------------------------- the sentences


def explain(record: JobRecord, view: View) -> list[str]:
    """Why a job is where it is, and the next step where there is one."""
    around = [*_run_of(record, view), *_deduplicating(record, view), *_child(record, view)]
    return [*_standing(record, view), *around]


def _standing(record: JobRecord, view: View) -> list[str]:
    match record.state:
        case State.WAITING | State.PRIORITIZED:
            return _waiting(record, view)
        case State.DELAYED:
            return _delayed(record, view)
        case State.ACTIVE:
            return _active(record, view)
        case State.WAITING_CHILDREN:
            return _waiting_children(record, view)
        case State.COMPLETED:
            return _completed(record, view)
        case State.FAILED:
            return _failed(record, view)


def _is(record: JobRecord, state: str) -> str:
    return f"{record.ref} ({record.name}) {state}"


def _waiting(record: JobRecord, view: View) -> list[str]:
    priority = f", with priority {record.priority}" if record.priority else ""
    said = [
        _is(record, f"is waiting{priority}; it was added {moment(record.created_at_ms, view.now_ms)}."),
        *_tried(record),
    ]
    if record.deferred is not None:
        said.append(f"The next worker that takes it will fail it without running it: {record.deferred}.")
    hindrances = _hindrances(record, view)
    return [*said, _place_in_line(view), *(hindrances or _unhindered(view))]


def _place_in_line(view: View) -> str:
    if view.ahead is None:
        return f"More than {MOST_AHEAD:,} jobs run before it."
    if view.ahead == 0:
        return "It is the next to run."
    return f"{counted(view.ahead, 'job runs', 'jobs run')} before it."


def _unhindered(view: View) -> list[str]:
    return [f"Nothing else holds it up: {_names(view.workers)} takes the jobs of {view.queue.name}."]


def _hindrances(record: JobRecord, view: View) -> list[str]:
    """What keeps a ready job from running, the weightiest first."""
    settings, said = view.queue.settings, list[str]()
    queue = record.ref.queue
    if settings.paused:
        said.append(f"Queue {queue} is paused: none of its jobs is handed out until somebody resumes it.")
    if settings.limited_until_ms is not None and settings.limited_until_ms > view.now_ms:
        said.append(
            f"Queue {queue} is limited: it hands out no job before {until(settings.limited_until_ms, view.now_ms)}."
        )
    working = [worker for worker in view.workers if worker.state == "running"]
    if not working:
        said.append(_nobody(queue, view))
        return said
    active = view.queue.counts.get(State.ACTIVE, 0)
    slots = sum(worker.queues[queue] for worker in working)
    if settings.concurrency is not None and active >= settings.concurrency:
        said.append(f"Queue {queue} runs at most {settings.concurrency:,} jobs at once, and {active:,} are running.")
    elif active >= slots:
        workers = counted(len(working), "worker")
        said.append(f"All {counted(slots, 'slot')} of its {workers} are busy: it runs when one is free.")
    return said


def _nobody(queue: str, view: View) -> str:
    if view.workers:
        return f"The workers of queue {queue} are ending ({_names(view.workers)}) and take no more jobs: start one."
    if view.workers_off is not None:
        return f"No worker serves queue {queue}, and they are switched off here by {view.workers_off}."
    return f"No worker serves queue {queue}: start one with `toril worker MODULE:APP`."


def _delayed(record: JobRecord, view: View) -> list[str]:
    due_ms = record.due_at_ms or record.created_at_ms
    last = record.history[-1] if record.history else None
    if last is not None and last.outcome == "retried":
        cause = f" for attempt {record.attempts_made + 1} of {record.options.attempts}"
    else:
        cause = " because its handler asked for it" if last is not None and last.outcome == "delayed" else ""
    if due_ms > view.now_ms:
        return [_is(record, f"is delayed{cause}: it is due {moment(due_ms, view.now_ms)}."), *_tried(record)]
    return [
        _is(
            record,
            f"is delayed{cause}, and was due {moment(due_ms, view.now_ms)}: the next worker that looks takes it up.",
        ),
        *_tried(record),
        *(
            _hindrances(record, view)
            or [f"{counted(ready(view.queue), 'job of its queue is', 'jobs of its queue are')} ready to run."]
        ),
    ]


def _active(record: JobRecord, view: View) -> list[str]:
    began = "" if record.processed_at_ms is None else f", which began {moment(record.processed_at_ms, view.now_ms)}"
    attempt = f"attempt {record.attempts_made + 1} of {record.options.attempts}"
    said = [_is(record, f"is active: {attempt}{began}.")]
    worker = next((worker for worker in view.workers if worker.id == record.worker), None)
    if worker is not None:
        said.append(f"Worker {_name(worker)} works on it, and was seen {ago(worker.seen_at_ms, view.now_ms)}.")
    elif record.worker is not None:
        said.append(f"Worker {record.worker} took it, and was not seen lately.")
    until_ms = record.locked_until_ms
    if until_ms is None:
        return said
    if until_ms > view.now_ms:
        return [*said, f"Its lock holds until {until(until_ms, view.now_ms)}, unless it is renewed."]
    lapsed = f"Its lock lapsed {moment(until_ms, view.now_ms)}: the worker is frozen or gone."
    if any(other.state == "running" for other in view.workers):
        return [*said, lapsed, "The next check for stalled jobs by another worker puts it back in front of its queue."]
    return [
        *said,
        lapsed,
        "No worker is there to put it back into its queue: start one with `toril worker MODULE:APP`.",
    ]


def _waiting_children(record: JobRecord, view: View) -> list[str]:
    failed = {child.ref: child.reason for child in view.children if child.state == "failed"}
    failed |= {ref: child.reason for ref, child in view.failed.items()}
    pending = [child.ref for child in view.children if child.state == "pending" and child.ref not in failed]
    total, waits = len(view.children), len(pending) + len(failed)
    said = [_is(record, f"waits for its children: it has {total:,}, and waits for {waits:,} of them.")]
    if pending:
        said.append(f"Pending: {_listed([str(ref) for ref in pending])}.")
    if failed:
        reasons = [f"{ref} ({_short(reason or 'no reason given')})" for ref, reason in failed.items()]
        they_are = "it is" if len(failed) == 1 else "they are"
        said.append(f"Failed: {_listed(reasons)}; it waits until {they_are} retried or removed.")
        said.append(f"{retrying(list(failed))}.")
    return [*said, f"`toril flow {record.ref}` draws all of it."]


def _run_of(record: JobRecord, view: View) -> list[str]:
    """Which schedule made the job, and when that makes the next."""
    if record.schedule is None:
        return []
    if view.schedule is None:
        return [f"It is a run of the schedule {record.schedule!r}, which is gone: no other follows."]
    schedule, stands = view.schedule.schedule, standing(view.schedule, view.now_ms)
    said = f"run of the schedule {schedule.id!r} ({when(schedule.timing)})"
    if view.schedule.iteration == record.ref and view.schedule.pending:
        return [f"It is the next {said}; the one after it is made when it begins."]
    if stands == "ok" and view.schedule.pending:
        return [f"It is a {said}, whose next is {moment(view.schedule.next_at_ms, view.now_ms)}."]
    following = {
        "paused": f"is paused: `toril schedules resume {schedule.queue} {schedule.id}` lets it go on",
        "broken": "has no run to come, though it should: `toril doctor --repair` makes it",
        "over": "is over: no other follows",
    }
    return [f"It is a {said}, which {following.get(stands, 'has made no other yet')}."]


def _deduplicating(record: JobRecord, view: View) -> list[str]:
    """What becomes of other adds because of this job."""
    rule = record.options.deduplication
    if rule is None or view.owner != record.ref or record.state in FINISHED:
        return []
    said = f"It owns the deduplication id {rule.id!r}: adds under it are deduplicated"
    if rule.replace and record.state is State.DELAYED:
        return [f"{said}; one that debounces takes its place."]
    if rule.ttl_ms is not None:
        since = "the last of them" if rule.extend else "its own"
        return [f"{said}, and make no other job, for {duration(rule.ttl_ms)} from {since}."]
    return [f"{said}, and make no other job, until this one has ended."]


def _child(record: JobRecord, view: View) -> list[str]:
    """Which parent waits for the job, and what it would mean to that if the job failed."""
    parent = record.parent
    if parent is None or view.parent is None or view.parent.state is not State.WAITING_CHILDREN:
        return []
    if record.state is State.FAILED:
        return [f"Its parent {parent.ref} waits for it."] if parent.policy is ChildPolicy.WAIT else []
    if record.state is State.COMPLETED:
        return []
    return [f"Its parent {parent.ref} waits for it; if it fails, the parent {_FATES[parent.policy]}."]


_FATES = {
    ChildPolicy.WAIT: "goes on waiting until it is retried or removed",
    ChildPolicy.FAIL: "fails too",
    ChildPolicy.CONTINUE: "runs at once",
    ChildPolicy.IGNORE: "runs all the same, once its other children have ended, and can ask for the reason",
    ChildPolicy.REMOVE: "runs all the same, once its other children have ended",
}


def _completed(record: JobRecord, view: View) -> list[str]:
    ended = "" if record.finished_at_ms is None else f" {moment(record.finished_at_ms, view.now_ms)}"
    took = _took(record)
    said = [_is(record, f"completed{ended}{took}.")]
    if record.result not in (None, "null"):
        said.append(f"It returned {_short(record.result or '')}.")
    return said + _gone(record)


def _failed(record: JobRecord, view: View) -> list[str]:
    ended = "" if record.finished_at_ms is None else f" {moment(record.finished_at_ms, view.now_ms)}"
    tries = f"{record.attempts_made} of {counted(record.options.attempts, 'attempt')} made"
    said = [_is(record, f"failed{ended}, {tries}: {_short(record.reason or 'no reason given')}.")]
    if len(record.history) > 1:
        said += [
            f"Attempt {attempt.number}, {ago(attempt.ended_at_ms, view.now_ms)}: {attempt.outcome}"
            + (f", {_short(attempt.reason)}" if attempt.reason else "")
            + "."
            for attempt in record.history[-3:]
        ]
    if not record.kept:
        return said + _gone(record)
    failed = [child.ref for child in view.children if child.state == "failed"]
    if failed:
        return [*said, f"{retrying([*failed, record.ref])}, the children first; alone, it would run without them."]
    return [*said, f"`toril show {record.ref}` shows where; `toril retry {record.ref}` runs it again."]


def _gone(record: JobRecord) -> list[str]:
    if record.kept:
        return []
    return ["Its keep rule has removed it since; only how it ended is still known, and that for some minutes."]


def _tried(record: JobRecord) -> list[str]:
    said: list[str] = []
    if record.attempts_made:
        reason = next((attempt.reason for attempt in reversed(record.history) if attempt.reason), record.reason)
        last = f"; the last time: {_short(reason)}" if reason else ""
        said.append(f"It was tried {record.attempts_made} of {counted(record.options.attempts, 'time')}{last}.")
    if record.stalled:
        said.append(f"Its worker vanished {counted(record.stalled, 'time')} while it ran.")
    return said


def _took(record: JobRecord) -> str:
    if record.processed_at_ms is None or record.finished_at_ms is None:
        return ""
    return f", after {duration(max(0, record.finished_at_ms - record.processed_at_ms))}"


def _short(text: str) -> str:
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= 200 else line[:199] + "…"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _name(worker: WorkerInfo) -> str:
    return worker.name or f"{worker.host}:{worker.pid}"


def _names(workers: Sequence[WorkerInfo]) -> str:
    return _listed([_name(worker) for worker in workers])
