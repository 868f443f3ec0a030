"""The command `toril`: reads its arguments, runs one command, and says plainly what went wrong."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, TextIO, cast

from toril import __version__
from toril.cli import backoff, config, demo, doctor, flow, jobs, schedules, status, why, worker
from toril.cli.command import INTERRUPTED, NOT_FOUND, OK, UNAVAILABLE, USAGE, Call, Commands, NothingThere, Parser, Run
from toril.cli.output import Screen
from toril.errors import ConfigError, InvalidJob, StoreError, TorilError
from toril.settings import mask_text

_EPILOG = """\
exit codes: 0 done; 1 not found, or something was found to be wrong; 2 wrong usage or settings;
3 a worker handed back unfinished jobs; 4 the store is not available; 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        _never_refuse(stream)
    try:
        parser = _parser(arguments)
        args = parser.parse_args(arguments)
        if args.command is None:
            parser.print_help()
            return USAGE
    except SystemExit as end:  # --help, --version, and wrong usage, which argparse has explained
        return end.code if isinstance(end.code, int) else USAGE
    screen = Screen.of(sys.stdout, sys.stderr, os.environ, no_color=args.no_color)
    return _guarded(cast(Run, args.run), Call(args, screen, sys.stdin), debug=args.debug)


def _guarded(run: Run, call: Call, *, debug: bool) -> int:
    """Run a command. What Toril itself raises is one sentence; anything else is a bug, and shows where."""
    try:
        code = _run(run, call)
        call.screen.flush()
        return code
    except TorilError as error:
        if debug:
            call.screen.remark(mask_text(traceback.format_exc()).rstrip())
        call.screen.remark(f"toril: {mask_text(str(error))}")
        return _code_of(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _silence(sys.stdout)
        return OK


def _run(run: Run, call: Call) -> int:
    result = run(call)
    if not inspect.isawaitable(result):
        return result

    async def awaited() -> int:
        return await result

    return asyncio.run(awaited())


def _code_of(error: TorilError) -> int:
    match error:
        case NothingThere():
            return NOT_FOUND
        case ConfigError() | InvalidJob():
            return USAGE
        case StoreError():
            return UNAVAILABLE
        case _:
            return NOT_FOUND


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toril",
        description="Background jobs: work on them, look at them, change them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_everywhere(default=None)],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"toril {__version__}")
    commands = Commands(parser, _everywhere(default=argparse.SUPPRESS))
    for module in (worker, status, jobs, flow, schedules, why, doctor, config, backoff):
        module.add_to(commands)
    demo.add_to(commands, asked="demo" in arguments)
    return parser


def _everywhere(*, default: Any) -> Parser:
    """Options that every command takes. After the command's name they override those before it."""
    parser = Parser(add_help=False)
    flag = False if default is None else default
    group = parser.add_argument_group("everywhere")
    group.add_argument(
        "--url", default=default, help="the store, as in sqlite:///jobs.db (else TORIL_URL, REDIS_URL, …)"
    )
    group.add_argument("--prefix", default=default, help="what keeps its queues apart from others there (bull)")
    group.add_argument("--no-color", action="store_true", default=flag, help="no colours; NO_COLOR=1 does the same")
    group.add_argument("--debug", action="store_true", default=flag, help="show tracebacks of errors")
    return parser


def _never_refuse(stream: TextIO) -> None:
    """Let a stream replace characters that its encoding lacks, such as half a surrogate pair in a job's data."""
    if hasattr(stream, "reconfigure"):
        cast(Any, stream).reconfigure(errors="backslashreplace")


def _silence(stream: TextIO) -> None:
    """Let the last flush of a stream whose reader has gone go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
