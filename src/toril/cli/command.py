"""What a command is given: its arguments, the settings and the screen; and how it finds stores, apps and jobs."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import os
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import toril
from toril.app import App
from toril.cli.output import Screen
from toril.errors import ConfigError, TorilError
from toril.model import JobRef
from toril.places import connect
from toril.settings import Settings, mask_url
from toril.store import Store
from toril.wirejson import decode

OK, NOT_FOUND, USAGE, UNFINISHED, UNAVAILABLE = 0, 1, 2, 3, 4
"""How a command ends: the exit codes of `toril`."""

INTERRUPTED = 130

_OURS = os.path.dirname(toril.__file__) + os.sep


class NothingThere(TorilError):
    """What a command was asked about does not exist. It ends with 1."""


@dataclass
class Call:
    """One call of the command line."""

    args: argparse.Namespace
    screen: Screen
    stdin: TextIO

    @cached_property
    def settings(self) -> Settings:
        """What the options, the environment and `pyproject.toml` say."""
        return Settings.load(url=self.args.url, prefix=self.args.prefix)

    @contextlib.asynccontextmanager
    async def store(self, *, make: bool = False) -> AsyncGenerator[Store, None]:
        """The store that the settings name, open.

        Raises:
            NothingThere: it is a file that is not there, and the command is not one to `make` it.
        """
        store = connect(self.settings.require_url(), prefix=self.settings.prefix)
        if not make and not exists(store):
            raise NothingThere(
                f"there is no file {store.place}: the first job added makes it; if yours is elsewhere, "
                "name it with --url or TORIL_URL"
            )
        try:
            yield store
        finally:
            await store.close()

    def agreed(self, question: str) -> bool:
        """Ask, and say whether the answer is yes."""
        self.screen.line(f"{question} [y/N]")
        self.screen.flush()
        return self.stdin.readline().strip().lower() in ("y", "yes")

    def json_argument(self, text: str, what: str) -> Any:
        """The value of an argument that is JSON, or `-` for JSON on the standard input."""
        given = self.stdin.read() if text == "-" else text
        try:
            return decode(given)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"""{what} is not JSON: {error}; quote it for the shell, as in '{{"user_id": "u1"}}'"""
            ) from None


Run = Callable[[Call], int | Awaitable[int]]


class Parser(argparse.ArgumentParser):
    """The parser of a command; one with actions puts in the usual one where none is named."""

    usual: str | None = None
    actions: Collection[str] = ()

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride] - it takes what each of the overloads takes
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        words = list(args or ())
        if self.usual is not None and not {"-h", "--help", *self.actions}.intersection(words):
            words.insert(0, self.usual)
        return super().parse_known_args(words, namespace)


class Commands:
    """The subcommands of a parser. All take the options that hold everywhere, before or after their name."""

    def __init__(
        self,
        parser: argparse.ArgumentParser,
        everywhere: Parser,
        *,
        metavar: str = "COMMAND",
        dest: str = "command",
    ) -> None:
        self._subparsers = parser.add_subparsers(
            metavar=metavar, dest=dest, title=f"{metavar.lower()}s", parser_class=Parser
        )
        self._everywhere = everywhere

    def add(self, name: str, run: Run, summary: str, description: str = "") -> argparse.ArgumentParser:
        """Add a command; returns its parser."""
        parser = self._add(name, summary, description)
        parser.set_defaults(run=run)
        return parser

    def group(self, name: str, usual: str, summary: str, description: str = "") -> Commands:
        """Add a command that has actions of its own; `usual` is the one that is meant when none is named."""
        parser = self._add(name, summary, description)
        actions = Commands(parser, self._everywhere, metavar="ACTION", dest="action")
        parser.usual, parser.actions = usual, actions._subparsers.choices
        return actions

    def _add(self, name: str, summary: str, description: str) -> Parser:
        return self._subparsers.add_parser(
            name,
            help=summary,
            description=description or f"{summary[0].upper()}{summary[1:]}.",
            parents=[self._everywhere],
            allow_abbrev=False,
        )


def exists(store: Store) -> bool:
    """Whether there is something to look at; a SQLite file may not be made yet."""
    return store.kind != "sqlite" or store.place == ":memory:" or Path(store.place).exists()


def place_of(store: Store, settings: Settings) -> str:
    """Where a store is, and who said so: `sqlite /srv/toril.db, prefix bull (TORIL_URL)`."""
    return f"{store.kind} {store.place}, prefix {store.prefix} ({settings.origins['url']})"


def job_ref(text: str) -> JobRef:
    """A job's name from the command line, written `queue/id`."""
    queue, slash, job_id = text.partition("/")
    if not (queue and slash and job_id):
        raise argparse.ArgumentTypeError(f"a job is written QUEUE/ID, as in email/42, not {text!r}")
    return JobRef(queue, job_id)


def whole_number(text: str) -> int:
    """An argument that counts something."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 100_000):
        raise argparse.ArgumentTypeError(f"a whole number between 1 and 100,000 is wanted, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """An argument that is a duration."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"seconds are wanted, as in 30 or 0.5, not {text!r}")
    return number


# -------------------------------------------------------------------- the app


def load_app(call: Call, target: str | None) -> App:
    """The app that is named as `MODULE:APP`, or by TORIL_APP.

    Raises:
        ConfigError: there is no such module, it cannot be imported, or the name in it is no app; says what is there.
    """
    target = target or call.settings.app
    if target is None:
        raise ConfigError("name the app as MODULE:APP, as in `toril worker jobs:app`, or set TORIL_APP")
    for variable, value in (("TORIL_URL", call.args.url), ("TORIL_PREFIX", call.args.prefix)):
        if value is not None:
            os.environ[variable] = value  # so that an app that names no place of its own takes this one
    module_name, colon, name = target.partition(":")
    module = _module(module_name, target)
    app = _member(module, name if colon else "app")
    if call.args.url is not None and app.settings.url != call.args.url:
        raise ConfigError(
            f"{target} names its own store, {mask_url(app.settings.url)}: leave --url out, or the URL in the code"
        )
    return app


def _module(name: str, target: str) -> ModuleType:
    if not name or name.endswith(".py") or "/" in name or os.sep in name:
        dotted = name.removesuffix(".py").strip("./").replace("/", ".").replace(os.sep, ".") or "jobs"
        raise ConfigError(f"{target!r} is not MODULE:APP: write it as Python imports it, as in {dotted}:app")
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(f"there is no module {error.name!r} in {directory} or where Python looks") from error
        raise _broken(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> ConfigError:
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith((_OURS, "<frozen"))]
    where = f" at {theirs[-1].filename}:{theirs[-1].lineno}" if theirs else ""
    return ConfigError(f"{name} cannot be imported{where}: {type(error).__name__}: {error} (--debug shows all)")


def _member(module: ModuleType, name: str) -> App:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{module.__name__} has no {name!r}: {_apps_in(module)}")
        found = getattr(found, part)
    if not isinstance(found, App):
        raise ConfigError(f"{module.__name__}:{name} is {_what(found)}, not a toril.App: {_apps_in(module)}")
    return found


def _apps_in(module: ModuleType) -> str:
    names = sorted(name for name, value in vars(module).items() if isinstance(value, App))
    if not names:
        return "it has no toril.App; make one with `app = App()`"
    return f"its {'app is' if len(names) == 1 else 'apps are'} {', '.join(names)}"


def _what(value: object) -> str:
    kind = value if isinstance(value, type) else type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"the class {name}" if isinstance(value, type) else f"of type {name}"
