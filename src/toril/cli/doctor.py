"""`toril doctor`: look for what is wrong, say what to do about it, and do what can be done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from toril import peers
from toril.app import App, AppQueue
from toril.cli.command import NOT_FOUND, OK, Call, Commands, exists, load_app
from toril.cli.flow import retrying
from toril.cli.output import Screen, counted
from toril.cli.status import ready, serving
from toril.cli.times import ago, duration
from toril.errors import ConfigError, StoreError, TorilError
from toril.flow import blocked
from toril.model import Finding, JobRecord, JobRef, QueueSummary, ScheduleRecord, WorkerInfo
from toril.options import Backoff, resolve
from toril.places import connect
from toril.schedule import heal, is_broken
from toril.settings import Settings
from toril.states import State
from toril.store import Store

LAPSED_LOOKED_AT = 1000


def add_to(commands: Commands) -> None:
    parser = commands.add(
        "doctor",
        run,
        "look for what is wrong, and mend it",
        "Look at the settings, the store, the queues and the workers. Ends with 1 when something is wrong.",
    )
    parser.add_argument("app", nargs="?", metavar="MODULE:APP", help="look at the queues of this app too")
    parser.add_argument("--repair", action="store_true", help="mend what can be mended, after showing it and asking")
    parser.add_argument("--yes", action="store_true", help="with --repair: mend without asking")
    parser.add_argument("--json", action="store_true", help="as JSON")


async def run(call: Call) -> int:
    if call.args.yes and not call.args.repair:
        raise ConfigError("--yes answers what --repair asks: give both, or neither")
    if call.args.json and call.args.repair and not call.args.yes:
        raise ConfigError("--json leaves no room for a question: add --yes to mend without asking")
    target = call.args.app or call.settings.app
    app = None if target is None else load_app(call, target)
    settings = call.settings if app is None else app.settings
    told = settings_findings(settings)
    if app is not None:
        told += backoff_findings(app.queues.values())
    store = _store(settings, app, told)
    if store is None:
        return _ended(call, told)
    try:
        return await _examined(call, store, app, told)
    finally:
        await store.close()


async def _examined(call: Call, store: Store, app: App | None, told: Sequence[Finding]) -> int:
    """Look, and if asked mend and look again."""
    findings = [*told, *await _store_findings(store, app)]
    if not call.args.repair:
        return _ended(call, findings)
    if not call.args.json:
        _print(call.screen, findings)
        if not any(finding.mendable for finding in findings):
            call.screen.line("There is nothing that could be mended.")
            return _code(findings)
        if not call.args.yes and not call.agreed("Mend what can be mended? Jobs go on meanwhile."):
            call.screen.line("Nothing was changed.")
            return _code(findings)
    repaired = [*await store.repair(), *await _healed(store)]
    left = [*told, *await _store_findings(store, app)]
    if call.args.json:
        call.screen.json({"findings": left, "repaired": repaired})
        return _code(left)
    for finding in repaired:
        call.screen.line(f"{call.screen.state('ok')}  {finding.about}: {finding.message}")
    _print(call.screen, [finding for finding in left if finding.level != "ok"])
    return _code(left)


def _ended(call: Call, findings: Sequence[Finding]) -> int:
    if call.args.json:
        call.screen.json({"findings": findings})
        return _code(findings)
    _print(call.screen, findings)
    mendable = sum(finding.mendable for finding in findings)
    if mendable:
        call.screen.line(f"{mendable:,} of these can be mended: `toril doctor --repair` asks first")
    return _code(findings)


def _code(findings: Sequence[Finding]) -> int:
    return NOT_FOUND if any(finding.level == "error" for finding in findings) else OK


def _print(screen: Screen, findings: Sequence[Finding]) -> None:
    for finding in findings:
        screen.line(f"{screen.state(finding.level)}  {finding.about}: {finding.message}")
        if finding.repair is not None:
            screen.line(f"what to do: {finding.repair}", indent=4)
    errors = sum(finding.level == "error" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    screen.line(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}")


# -------------------------------------------------------------------- what was told and declared


def settings_findings(settings: Settings) -> list[Finding]:
    """What the settings alone show."""
    findings: list[Finding] = []
    off = settings.workers_off()
    if off is not None:
        message = f"workers are switched off here by {off}: jobs are stored, and another process must run them"
        findings.append(Finding("warning", "settings", message, "start workers elsewhere, or switch them on"))
    try:
        settings.require_url()
    except ConfigError as error:
        findings.append(Finding("error", "settings", str(error)))
    if ":memory:" in settings.url:
        message = f"{settings.url} is a store of each process alone: what one adds, no other sees"
        findings.append(Finding("warning", "settings", message, "name a file, as in sqlite:///jobs.db"))
    if not findings:
        findings.append(Finding("ok", "settings", f"{settings.environment}, store named by {settings.origins['url']}"))
    return findings


def backoff_findings(queues: Iterable[AppQueue]) -> list[Finding]:
    """Caps of declared backoffs that no attempt ever reaches."""
    return [finding for queue in queues for finding in _backoff_findings(queue)]


def _backoff_findings(queue: AppQueue) -> list[Finding]:
    if not isinstance(queue.defaults.get("backoff"), Backoff):
        return []
    options = resolve(queue.defaults, 0)
    longest_ms = None if options.backoff is None else options.backoff.unreachable_cap_ms(options.attempts)
    if longest_ms is None or options.backoff is None:
        return []
    message = (
        f"max_delay of {duration(options.backoff.max_delay_ms or 0)} is never reached: with "
        f"{counted(options.attempts, 'attempt')} the longest wait is {duration(longest_ms)}"
    )
    return [Finding("warning", f"queue {queue.name}", message, "allow more attempts, or leave max_delay out")]


# -------------------------------------------------------------------- what the store shows


def _store(settings: Settings, app: App | None, told: list[Finding]) -> Store | None:
    """The store to look at; where there is none, it is told why."""
    try:
        store = connect(settings.require_url(), prefix=settings.prefix) if app is None else app.store
    except TorilError as error:
        told += [] if settings.implicit else [Finding("error", "store", str(error))]
        return None
    if not exists(store):
        message, cure = "there is no such file yet", "add a job, or name another place"
        told.append(Finding("warning", f"{store.kind} {store.place}", message, cure))
        return None
    return store


async def _store_findings(store: Store, app: App | None) -> list[Finding]:
    """What its own look shows, and what its queues and workers do; as far as damage lets it be seen."""
    about, findings = f"{store.kind} {store.place}", list[Finding]()
    try:
        findings += await store.check()
        return await _at_work(store, app, about, findings)
    except StoreError as error:
        return [*findings, Finding("error", about, str(error))]


async def _at_work(store: Store, app: App | None, about: str, checked: Sequence[Finding]) -> list[Finding]:
    workers, summaries = await store.workers(), await store.summaries()
    now_ms = store.clock.now_ms()
    findings = [finding for worker in workers for finding in _worker_findings(worker, now_ms)]
    for summary in summaries:
        active: Sequence[JobRecord] = ()
        if summary.counts.get(State.ACTIVE):
            active = (await store.find(summary.name, State.ACTIVE, limit=LAPSED_LOOKED_AT)).items
        findings += queue_findings(summary, workers, active, now_ms)
        if summary.counts.get(State.WAITING_CHILDREN):
            findings += blocked_findings(summary.name, await blocked(store, summary.name))
    findings += [finding for record in await store.schedules() for finding in schedule_findings(record, now_ms)]
    declared = {} if app is None else {queue.name: resolve(queue.defaults, now_ms) for queue in app.queues.values()}
    findings += await peers.check(store, workers, [summary.name for summary in summaries], declared)
    seen = f"{counted(len(summaries), 'queue')}, {counted(len(workers), 'worker')} seen"
    return [Finding("ok", about, f"it can be reached: {seen}"), *checked, *findings]


def queue_findings(
    summary: QueueSummary, workers: Sequence[WorkerInfo], active: Sequence[JobRecord], now_ms: int
) -> list[Finding]:
    """What is wrong with one queue."""
    about, findings = f"queue {summary.name}", list[Finding]()
    waiting, served = ready(summary), bool(serving(summary.name, workers))
    if waiting and not served:
        message = f"{counted(waiting, 'job waits', 'jobs wait')}, and no worker serves it"
        findings.append(Finding("warning", about, message, "start one with `toril worker MODULE:APP`"))
    lapsed = [record for record in active if record.locked_until_ms is not None and record.locked_until_ms < now_ms]
    if lapsed:
        message = (
            f"{counted(len(lapsed), 'active job has', 'active jobs have')} lost the lock, {lapsed[0].ref} among them"
        )
        repair = "its workers put them back within two checks" if served else "start a worker: it puts them back"
        findings.append(Finding("warning", about, message, repair))
    if summary.settings.paused and waiting:
        findings.append(Finding("warning", about, f"it is paused, and {counted(waiting, 'job waits', 'jobs wait')}"))
    full = summary.settings.max_waiting
    if full is not None and waiting >= full:
        message = f"it is full: {waiting:,} wait and {full:,} are admitted, so that adds are refused"
        findings.append(Finding("warning", about, message, "add workers, or raise max_waiting"))
    return findings


def blocked_findings(queue: str, blocked: Sequence[tuple[JobRef, JobRef]]) -> list[Finding]:
    """Parents of a queue that would wait for ever."""
    if not blocked:
        return []
    parent, child = blocked[0]
    waiting = counted(len({parent for parent, _ in blocked}), "job waits", "jobs wait")
    message = f"{waiting} for {'a child that has' if len(blocked) == 1 else 'children that have'} failed: {parent} for {child}"
    message += f", and {len(blocked) - 1:,} more such" if len(blocked) > 1 else ""
    cure = f"{retrying([child for _, child in blocked])}; `toril flow {parent}` shows what waits"
    return [Finding("warning", f"queue {queue}", message, cure)]


def schedule_findings(record: ScheduleRecord, now_ms: int) -> list[Finding]:
    """What is wrong with a schedule."""
    if not is_broken(record, now_ms):
        return []
    message = "it has no run to come, and stands still"
    return [Finding("error", _about(record), message, "`toril doctor --repair` makes its next run", mendable=True)]


async def _healed(store: Store) -> list[Finding]:
    """Give schedules without a run to come their next one."""
    healed = [record for record in await store.schedules() if await heal(store, record)]
    return [Finding("ok", _about(record), "it had no run to come: it has one again") for record in healed]


def _about(record: ScheduleRecord) -> str:
    return f"schedule {record.schedule.id} of queue {record.schedule.queue}"


def _worker_findings(worker: WorkerInfo, now_ms: int) -> list[Finding]:
    """A worker says that it lives three times within its time to live; half of it without a word is odd."""
    if now_ms - worker.seen_at_ms <= worker.ttl_ms // 2:
        return []
    message = f"it was last seen {ago(worker.seen_at_ms, now_ms)}: it is frozen, gone, or cannot reach the store"
    about = f"worker {worker.name or f'{worker.host}:{worker.pid}'}"
    return [Finding("warning", about, message, f"look at process {worker.pid} on {worker.host}")]
