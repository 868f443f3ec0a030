"""What is public has its place in the reference."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import toril
from docs.pages import DOCS, rows, sections
from toril import errors, settings
from toril.options import JobOptions

REFERENCE = DOCS / "reference"
SOURCE = Path(toril.__file__).parent
TORIL = Path(sys.executable).with_name("toril")


# -------------------------------------------------------------------- names


def _error_names() -> set[str]:
    return {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}


def test_every_public_name_has_a_heading() -> None:
    headings = set(sections(REFERENCE / "api.md"))

    assert set(toril.__all__) - _error_names() - headings == set()


def test_every_error_has_a_heading_and_is_public() -> None:
    headings = set(sections(REFERENCE / "errors.md")) - {"Errors"}

    assert headings == _error_names()
    assert _error_names() - set(toril.__all__) == set()


def test_the_tree_of_errors_is_that_of_the_source() -> None:
    assert errors.__doc__ is not None
    tree = errors.__doc__.split("\n\n", 1)[1].rstrip()

    assert tree in (REFERENCE / "errors.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["App", "AppQueue", "Queue", "Handler", "Job", "Context", "Worker"])
def test_every_member_of_a_class_is_mentioned(name: str) -> None:
    cls: type = getattr(toril, name)
    own = {member for member in vars(cls) if not member.startswith("_")}

    mentioned = set(re.findall(r"`(?:async with )?([a-z_]+)", sections(REFERENCE / "api.md")[name]))

    assert own - mentioned == set()


# -------------------------------------------------------------------- options and events


def test_every_option_of_a_job_has_a_row() -> None:
    (table,) = [rows(text) for text in sections(REFERENCE / "options.md").values()]

    assert {row[0].strip("`") for row in table} == set(JobOptions.__annotations__)


def _emitted() -> set[str]:
    """The names of events that the embedded store emits."""
    names: set[str] = set()
    for file in (SOURCE / "stores" / "sqlite" / "verbs").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "emit":
                name = node.args[1]
                choices = [name.body, name.orelse] if isinstance(name, ast.IfExp) else [name]
                names |= {str(choice.value) for choice in choices if isinstance(choice, ast.Constant)}
    return names


def test_every_event_has_a_row() -> None:
    table = rows(sections(REFERENCE / "events.md")["Events"])

    assert {name for row in table for name in re.findall(r"`([a-z-]+)`", row[0])} == _emitted()


# -------------------------------------------------------------------- the command line


def _help(*words: str) -> str:
    ran = subprocess.run([TORIL, *words, "--help"], capture_output=True, text=True, check=True)
    return ran.stdout


def _commands() -> list[str]:
    listed = _help().partition("  COMMAND\n")[2].partition("\n\n")[0]
    return re.findall(r"^    (\w+) ", listed, re.MULTILINE)


def test_every_command_and_its_options_are_described() -> None:
    described = sections(REFERENCE / "cli.md")
    everywhere = described["The command line"]

    missing: list[str] = []
    for command in _commands():
        text = described.get(command, "") + everywhere
        missing += [f"{command} {option}" for option in re.findall(r"--[a-z-]+", _help(command)) if option not in text]

    assert set(_commands()) - set(described) == set()
    assert sorted(set(missing) - {f"{command} --help" for command in _commands()}) == []


def test_every_described_command_is_there() -> None:
    described = set(sections(REFERENCE / "cli.md")) - {"The command line"}

    assert described == set(_commands())


def test_every_exit_code_has_a_row() -> None:
    told = _help().partition("exit codes: ")[2]

    codes = {row[0] for row in rows(sections(REFERENCE / "cli.md")["The command line"]) if row[0].isdigit()}

    assert codes == set(re.findall(r"\b(\d+) [a-z]", told))


# -------------------------------------------------------------------- settings


def _variables() -> Iterator[str]:
    tree = ast.parse(Path(settings.__file__).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and re.fullmatch(r"(TORIL|REDIS|UPSTASH|ENABLE|WORKER)_[A-Z_]*[A-Z]", text):
            yield text


def test_every_variable_and_key_of_settings_is_described() -> None:
    text = (DOCS / "guides" / "settings.md").read_text(encoding="utf-8")
    table = rows(sections(DOCS / "guides" / "settings.md")["Settings"])
    keys = {key for row in table for key in re.findall(r"`([a-z-]+)`", row[4])}

    assert [variable for variable in _variables() if f"`{variable}" not in text] == []
    assert keys == {"url", "prefix", "env", "app"} | {
        name.replace("_", "-")
        for name in ("enable_workers", "enable_scheduler", "worker_concurrency", "strict", "log_format", "log_level")
    }
