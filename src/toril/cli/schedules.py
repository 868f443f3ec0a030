"""`toril schedules`: the schedules of a store by hand, and those that code declares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from toril.app import App
from toril.cli.command import (
    NOT_FOUND,
    OK,
    Call,
    Commands,
    NothingThere,
    Run,
    exists,
    load_app,
    place_of,
    seconds,
    whole_number,
)
from toril.cli.jobs import no_queue
from toril.cli.output import Screen, counted
from toril.cli.times import ago, duration, iso, until
from toril.clock import SYSTEM_CLOCK
from toril.crontab import check_tz
from toril.errors import ConfigError, ScheduleNotFound
from toril.model import Schedule, ScheduleRecord
from toril.options import SECOND_MS
from toril.peers import draws
from toril.schedule import Declared, JobScheduler, cron, declare, every, is_broken, look, preview
from toril.states import FINISHED, State
from toril.timing import Missed, Overlap, Timing


def add_to(commands: Commands) -> None:
    actions = commands.group(
        "schedules",
        "list",
        "look at schedules, and change them",
        "Look at schedules, and change them. Without an action they are listed: `toril schedules email`.",
    )
    listed = actions.add("list", _run_list, "list schedules, the next run first")
    listed.add_argument("queue", nargs="?", metavar="QUEUE", help="only those of this queue")
    listed.add_argument("--json", action="store_true", help="as JSON")
    _add_preview(actions)
    _add_one(actions, "pause", _run_pause, "make no more runs until resume")
    _add_one(actions, "resume", _run_resume, "make runs again")
    _add_one(actions, "run", _run_run, "add the job of a schedule now, besides its runs")
    _add_one(actions, "remove", _run_remove, "remove a schedule")
    put = actions.add(
        "put",
        _run_put,
        "put the schedules that code declares",
        "Put the schedules that an app declares as this code has them, as its workers do when they start; also where "
        "another version of the code has put its own within the last hour.",
    )
    put.add_argument("app", nargs="?", metavar="MODULE:APP", help="the app, as in jobs:app (else TORIL_APP)")
    prune = actions.add(
        "prune",
        _run_prune,
        "remove schedules that code declares no more",
        "Remove, after showing them and asking, schedules in the queues of an app that code has declared once and "
        "declares no more. Those that were made by hand stay.",
    )
    prune.add_argument("app", nargs="?", metavar="MODULE:APP", help="the app, as in jobs:app (else TORIL_APP)")
    prune.add_argument("--yes", action="store_true", help="remove without asking")


def _add_one(actions: Commands, name: str, run: Run, summary: str) -> None:
    parser = actions.add(name, run, summary)
    parser.add_argument("queue", metavar="QUEUE")
    parser.add_argument("id", metavar="ID", help="which of its schedules")


def _add_preview(actions: Commands) -> None:
    parser = actions.add(
        "preview",
        _run_preview,
        "show when a schedule runs next",
        "Show when a schedule runs next: one that is there, or one that is yet to be. Nothing is changed.",
    )
    parser.add_argument("queue", nargs="?", metavar="QUEUE")
    parser.add_argument("id", nargs="?", metavar="ID", help="which of its schedules")
    parser.add_argument("--cron", metavar="PATTERN", help="the times of this pattern instead")
    parser.add_argument("--every", type=seconds, metavar="SECONDS", help="the times of this interval instead")
    parser.add_argument("--tz", metavar="ZONE", help="the zone of the pattern (UTC), or in which times are shown")
    parser.add_argument("-n", type=whole_number, default=5, metavar="N", dest="count", help="how many (5)")
    parser.add_argument("--json", action="store_true", help="as JSON")


# -------------------------------------------------------------------- in words


def when(timing: Timing) -> str:
    """When a schedule runs: `0 9 * * * Europe/Berlin`, `every 1 h`."""
    if timing.every_ms is not None:
        return f"every {duration(timing.every_ms)}"
    return f"{timing.pattern} {timing.tz or 'UTC'}"


def standing(record: ScheduleRecord, now_ms: int) -> str:
    """How a schedule stands: ok, paused, over (there is no further run), or broken (there should be one)."""
    if record.schedule.paused:
        return "paused"
    if is_broken(record, now_ms):
        return "broken"
    return "over" if record.state is None or record.state in FINISHED else "ok"


def _next(record: ScheduleRecord, now_ms: int) -> str:
    if standing(record, now_ms) != "ok":
        return "-"
    if not record.pending:
        return "runs now"
    return ago(record.next_at_ms, now_ms) if record.state is State.DELAYED else "waits to run"


def _runs(record: ScheduleRecord) -> int:
    """How many runs have begun so far; the one that a pause has taken back was counted too."""
    taken_back = record.schedule.paused and record.state is None
    return max(0, record.iterations - (record.pending or taken_back))


def _remarks(record: ScheduleRecord, now_ms: int) -> list[str]:
    """What should be known of a schedule besides."""
    timing, said = record.schedule.timing, list[str]()
    if timing.missed is not Missed.ONCE:
        said.append(f"missed {timing.missed}")
    if timing.overlap is not Overlap.ALLOW:
        said.append(f"overlap {timing.overlap}")
    if timing.limit is not None:
        said.append(f"{record.count - record.pending:,} of {counted(timing.limit, 'run')} since it was put")
    if timing.end_at_ms is not None:
        said.append(f"ends {iso(timing.end_at_ms)}")
    if standing(record, now_ms) == "broken":
        said.append("it has no run to come: `toril doctor --repair` makes it")
    return said


def _name(schedule: Schedule) -> str:
    return f"{schedule.queue}/{schedule.id}"


# -------------------------------------------------------------------- list


async def _run_list(call: Call) -> int:
    queue: str | None = call.args.queue
    async with call.store() as store:
        records = await store.schedules(queue)
        now_ms = store.clock.now_ms()
        known = [] if queue is None else [summary.name for summary in await store.summaries()]
    if call.args.json:
        call.screen.json({"at_ms": now_ms, "schedules": [_json(record, now_ms) for record in records]})
        return OK
    if queue is not None and queue not in known and not records:
        raise NothingThere(no_queue(queue, known))
    if not records:
        where = "" if queue is None else f" of queue {queue}"
        call.screen.line(f"There are no schedules{where}: code declares them with @queue.handler(schedule=…).")
        return OK
    _print(call.screen, records, now_ms)
    return OK


def _print(screen: Screen, records: Sequence[ScheduleRecord], now_ms: int) -> None:
    rows = [
        [
            record.schedule.queue,
            record.schedule.id,
            when(record.schedule.timing),
            _next(record, now_ms),
            f"{_runs(record):,}",
            "hand" if record.schedule.declared is None else "code",
            standing(record, now_ms),
        ]
        for record in records
    ]
    below = {n: "; ".join(said) for n, record in enumerate(records) if (said := _remarks(record, now_ms))}
    header = ["QUEUE", "ID", "WHEN", "NEXT RUN", "RUNS", "BY", "STATE"]
    screen.table(header, rows, right=[4], shrink=[2, 1, 0], below=below)


def _json(record: ScheduleRecord, now_ms: int) -> dict[str, Any]:
    stands = standing(record, now_ms)
    return {
        "queue": record.schedule.queue,
        "id": record.schedule.id,
        "when": when(record.schedule.timing),
        "state": stands,
        "next_at_ms": record.next_at_ms if stands == "ok" and record.pending else None,
        "runs": _runs(record),
        "declared": record.schedule.declared is not None,
        "schedule": record.schedule,
    }


# -------------------------------------------------------------------- one schedule


async def _run_pause(call: Call) -> int:
    queue, id = call.args.queue, call.args.id
    async with call.store() as store:
        await JobScheduler(queue, id, store).pause()
    call.screen.line(
        f"{queue}/{id} is paused: it makes no more runs until `toril schedules resume {queue} {id}`. "
        "One that has begun goes on."
    )
    return OK


async def _run_resume(call: Call) -> int:
    async with call.store() as store:
        scheduler = JobScheduler(call.args.queue, call.args.id, store)
        await scheduler.resume()
        record, now_ms = await scheduler.record(), store.clock.now_ms()
    call.screen.line(f"{_name(record.schedule)} goes on{_and_next(record, now_ms)}")
    return OK


def _and_next(record: ScheduleRecord, now_ms: int) -> str:
    if record.schedule.paused:
        return "; it is paused, and stays so"
    return f": its next run is {until(record.next_at_ms, now_ms)}" if record.pending else ""


async def _run_run(call: Call) -> int:
    queue, id = call.args.queue, call.args.id
    async with call.store() as store:
        job = await JobScheduler(queue, id, store).run_now()
    call.screen.line(f"{job.ref} is added, besides the runs of {queue}/{id}, which stay as they are")
    return OK


async def _run_remove(call: Call) -> int:
    queue, id = call.args.queue, call.args.id
    async with call.store() as store:
        record = await look(store, queue, id)
        if record is None or not await store.remove_schedule(queue, id):
            raise ScheduleNotFound(queue, id)
    call.screen.line(f"{queue}/{id} is removed; a run that waits for a worker, or has begun, goes on")
    if record.schedule.declared is not None:
        call.screen.line(
            "It is one that code declares: the next start of a worker puts it again. To keep it from running, take it "
            "out of the code, or pause it instead."
        )
    return OK


# -------------------------------------------------------------------- what code declares


async def _run_put(call: Call) -> int:
    app = load_app(call, call.args.app)
    declared = _declared(app)
    if not declared:
        call.screen.line("The app declares no schedules: @queue.handler(schedule=…) does.")
        return OK
    try:
        put = [await _put(call, app, schedule) for schedule in declared]
    finally:
        await app.close()
    return OK if all(put) else NOT_FOUND


async def _put(call: Call, app: App, schedule: Schedule) -> bool:
    try:
        answer = await declare(app.store, schedule, guarded=False)
    except ConfigError as error:  # the others are put all the same
        call.screen.remark(f"{_name(schedule)} is not put: {error}")
        return False
    record = await look(app.store, schedule.queue, schedule.id)
    became = "is there already as it is declared" if answer is Declared.SAME else "is put as it is declared"
    following = "" if record is None else _and_next(record, app.store.clock.now_ms())
    call.screen.line(f"{_name(schedule)} ({when(schedule.timing)}) {became}{following}")
    return True


def _declared(app: App) -> list[Schedule]:
    return [schedule for queue in app.queues.values() for schedule in queue.declared.values()]


async def _run_prune(call: Call) -> int:
    app = load_app(call, call.args.app)
    if not exists(app.store):
        call.screen.line(f"There is nothing to prune: there is no file {app.store.place} yet.")
        return OK
    try:
        return await _pruned(call, app)
    finally:
        await app.close()


async def _pruned(call: Call, app: App) -> int:
    kept = {(schedule.queue, schedule.id) for schedule in _declared(app)}
    found = [record.schedule for queue in app.queues for record in await app.store.schedules(queue)]
    left = [it for it in found if it.declared is not None and (it.queue, it.id) not in kept]
    if not left:
        call.screen.line("There is nothing to prune: every schedule that code has declared is declared still.")
        return OK
    number = counted(len(left), "schedule")
    call.screen.line(f"Declared once and no more, in {place_of(app.store, app.settings)}:")
    call.screen.table(["QUEUE", "ID", "WHEN"], [[it.queue, it.id, when(it.timing)] for it in left], shrink=[2, 1, 0])
    if not call.args.yes:
        if not call.stdin.isatty():
            raise ConfigError(f"nobody is there to be asked: add --yes to remove {number}")
        if not call.agreed(f"Remove {number}?"):
            call.screen.line("Nothing was changed.")
            return OK
    removed = [await app.store.remove_schedule(it.queue, it.id) for it in left]
    call.screen.line(f"{counted(sum(removed), 'schedule')} removed; runs that wait for a worker, or have begun, go on")
    return OK


# -------------------------------------------------------------------- preview


async def _run_preview(call: Call) -> int:
    args = call.args
    given = [args.id is not None, args.cron is not None, args.every is not None]
    if given.count(True) != 1 or (args.queue is not None and args.id is None):
        raise ConfigError("name a schedule as QUEUE ID, or give one of --cron PATTERN and --every SECONDS")
    zone = None if args.tz is None else check_tz(args.tz)
    times, now_ms = await _times(call, zone)
    if zone is not None:
        times = [_in_zone(at, zone) for at in times]
    if args.json:
        call.screen.json({"at_ms": now_ms, "times": [{"at_ms": _ms(at), "local": at.isoformat()} for at in times]})
        return OK
    if not times:
        why = "no day matches" if args.id is None else "it is paused, or over; `toril schedules` tells which"
        call.screen.line(f"There is no run to come: {why}.")
    for line in lines(times, now_ms):
        call.screen.line(line)
    if args.cron is not None and draws(args.cron):
        call.screen.line("H is drawn from the id of a schedule: each has times of its own.")
    return OK


async def _times(call: Call, zone: str | None) -> tuple[list[datetime], int]:
    """The next times, and when they were looked for."""
    args = call.args
    if args.id is None:
        now_ms = SYSTEM_CLOCK.now_ms()
        timing = every(args.every) if args.cron is None else cron(args.cron, tz=zone or "UTC")
        return preview(timing, args.count, now_ms), now_ms
    async with call.store() as store:
        return await JobScheduler(args.queue, args.id, store).next_runs(args.count), store.clock.now_ms()


def _in_zone(at: datetime, zone: str) -> datetime:
    from zoneinfo import ZoneInfo

    return at.astimezone(ZoneInfo(zone))


def _ms(at: datetime) -> int:
    return round(at.timestamp() * SECOND_MS)


def lines(times: Sequence[datetime], now_ms: int) -> Iterable[str]:
    """Times a line each, with what the clocks do between two of them."""
    width = len(str(len(times)))
    exact = "milliseconds" if len({at.microsecond for at in times}) > 1 else "seconds"
    for n, at in enumerate(times):
        jump = _jump_ms(times[n - 1], at) if n else 0
        if jump:
            yield f"{' ' * width}  the clocks are put {'forward' if jump > 0 else 'back'} by {duration(abs(jump))}"
        yield f"{n + 1:>{width}}. {at:%a} {at.isoformat(' ', exact)}  {ago(_ms(at), now_ms)}"


def _jump_ms(before: datetime, after: datetime) -> int:
    """By how much the clocks of a zone stand further from UTC at one moment than at another before it."""
    first, last = before.utcoffset(), after.utcoffset()
    return 0 if first is None or last is None else round((last - first).total_seconds() * SECOND_MS)
