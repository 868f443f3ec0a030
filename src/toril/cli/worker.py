"""`toril worker`: serve the queues of an app until a signal ends it."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from toril import __version__
from toril.app import App
from toril.cli import log
from toril.cli.command import OK, UNFINISHED, Call, Commands, load_app, seconds, whole_number
from toril.worker import Worker

SWITCH_S = 0.0005
LAST_THREADS_S = 1.0

logger = logging.getLogger("toril.cli")


def add_to(commands: Commands) -> None:
    parser = commands.add(
        "worker",
        run,
        "work on jobs",
        "Work on the jobs of an app's queues until SIGTERM or SIGINT; a second signal does not wait for running jobs. "
        "Ends with 0 when all were finished, with 3 when some were handed back to their queue.",
    )
    parser.add_argument("app", nargs="?", metavar="MODULE:APP", help="the app, as in jobs:app (else TORIL_APP)")
    parser.add_argument("-q", "--queue", action="append", metavar="QUEUE", help="only this queue; may be repeated")
    parser.add_argument("-c", "--concurrency", type=whole_number, metavar="N", help="jobs at once, for each queue")
    parser.add_argument("--grace", type=seconds, default=30, metavar="S", help="seconds that jobs have to end (30)")
    parser.add_argument("--lock", type=seconds, default=30, metavar="S", help="seconds a lock holds unrenewed (30)")
    parser.add_argument("--name", default="", help="what the worker is called in `toril status`")
    parser.add_argument("--log-format", choices=("text", "json"), help="lines for people (times in UTC) or JSON")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="the least that is logged")


def run(call: Call) -> int:
    args, settings = call.args, call.settings
    log.configure(args.log_format or settings.log_format, args.log_level or settings.log_level)
    app = load_app(call, args.app)
    off = app.settings.workers_off()
    if off is not None:
        call.screen.line(f"workers are switched off by {off}: this one ends, and jobs wait for another")
        return OK
    worker = app.worker(args.queue, concurrency=args.concurrency, lock=args.lock, grace=args.grace, name=args.name)
    return _finish(*_served(app, worker))


def _served(app: App, worker: Worker) -> tuple[int, asyncio.Runner]:
    """Run the worker to its end; returns how many jobs it handed back, and the loop it ran on."""

    async def serve() -> int:
        logger.info("toril %s, place said by %s", __version__, app.settings.origins["url"])
        try:
            return await worker.run(handle_signals=True)
        finally:
            await app.close()

    # The writer's thread asks for the interpreter at each step of SQLite; it must not wait 5 ms each time for handlers.
    sys.setswitchinterval(SWITCH_S)
    runner = asyncio.Runner(loop_factory=_loop_factory())
    try:
        return runner.run(serve()), runner
    except BaseException:
        runner.close()
        raise


def _finish(handed_back: int, runner: asyncio.Runner) -> int:
    """End for good: nothing that is still running may hold the process, for its jobs belong to others now."""
    code = UNFINISHED if handed_back else OK
    if handed_back or _threads_remain():
        leave(code)
    runner.close()
    return code


def _threads_remain() -> bool:
    """Whether a handler's thread does not end."""
    until_s = time.monotonic() + LAST_THREADS_S
    for thread in threading.enumerate():
        if thread.name.startswith("toril-handler"):
            thread.join(max(0.0, until_s - time.monotonic()))
            if thread.is_alive():
                return True
    return False


def leave(code: int) -> None:
    """End the process without waiting for its threads."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The faster loop, where it is installed."""
    try:
        uvloop: Any = importlib.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
