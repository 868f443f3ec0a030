"""What a process is told from outside: by arguments, the environment and `pyproject.toml`, and which of them said what.

Each setting has one value and one origin. Sources, the first that says something wins:

1. an argument of `App` or an option of the command line
2. `TORIL_<NAME>`
3. the names that applications already use: `REDIS_URL`, `UPSTASH_REDIS_URL`, `REDIS_HOST` with `REDIS_PORT`,
   `REDIS_USERNAME`, `REDIS_PASSWORD` and `REDIS_TLS`; `ENABLE_WORKERS`, `ENABLE_SCHEDULER`, `WORKER_CONCURRENCY`
4. `[tool.toril]` in the nearest `pyproject.toml`, from the working directory upwards
5. the default

An empty variable counts as unset. Passwords are part of `url` and of nothing that is printed: see `mask_url`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast
from urllib.parse import quote, unquote, urlsplit

from toril.errors import ConfigError

DEFAULT_CONCURRENCY: Final = 10
MAX_CONCURRENCY: Final = 100_000
DEFAULT_FILE: Final = "toril.db"
DEFAULT: Final = "default"
ARGUMENT: Final = "argument"

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
_LEVELS = ("debug", "info", "warning", "error", "critical")
_KEYS = (
    "app",
    "url",
    "prefix",
    "env",
    "enable-workers",
    "enable-scheduler",
    "worker-concurrency",
    "strict",
    "log-format",
    "log-level",
)


@dataclass(frozen=True)
class Settings:
    """What this process was told, with the origin of each value. Made by `Settings.load`."""

    url: str
    prefix: str = "bull"
    environment: Literal["development", "production"] = "development"
    enable_workers: bool = True
    enable_scheduler: bool = False
    """Whether workers put the schedules that code declares; by default in production alone."""
    worker_concurrency: int | None = None
    strict: bool = False
    """Whether workers refuse a store that is set up in a way that may lose jobs."""
    log_format: Literal["text", "json"] = "text"
    log_level: str = "info"
    app: str | None = None
    implicit: bool = False
    """Whether `url` is the SQLite file that nobody asked for."""
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    environ: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    @classmethod
    def load(
        cls,
        *,
        url: str | None = None,
        prefix: str | None = None,
        strict: bool | None = None,
        environ: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> Settings:
        """Gather the settings. Reads the environment and `pyproject.toml`; opens nothing.

        Raises:
            ConfigError: a value cannot be right; the message names where it was found.
        """
        environ = os.environ if environ is None else environ
        sources = _Sources(environ, _pyproject(directory or _working_directory()))
        environment = _environment(sources)
        found = {
            "url": _url(sources, url, directory),
            "prefix": (prefix, ARGUMENT) if prefix is not None else sources.text("prefix", ("TORIL_PREFIX",), "bull"),
            "environment": environment,
            "enable_workers": sources.switch("enable-workers", ("TORIL_ENABLE_WORKERS", "ENABLE_WORKERS")),
            "enable_scheduler": sources.switch(
                "enable-scheduler", ("TORIL_ENABLE_SCHEDULER", "ENABLE_SCHEDULER"), environment[0] == "production"
            ),
            "worker_concurrency": sources.count(
                "worker-concurrency", ("TORIL_WORKER_CONCURRENCY", "WORKER_CONCURRENCY")
            ),
            "strict": (strict, ARGUMENT) if strict is not None else sources.switch("strict", ("TORIL_STRICT",), False),
            "log_format": sources.choice("log-format", ("TORIL_LOG_FORMAT",), ("text", "json")),
            "log_level": sources.choice("log-level", ("TORIL_LOG_LEVEL",), _LEVELS, "info"),
            "app": sources.text("app", ("TORIL_APP",), None),
        }
        values: dict[str, Any] = {name: value for name, (value, _) in found.items()}
        origins = {name: origin for name, (_, origin) in found.items()}
        return cls(**values, implicit=origins["url"] == DEFAULT, origins=origins, environ=environ)

    def __repr__(self) -> str:
        return f"<Settings {mask_url(self.url)} prefix={self.prefix!r} {self.environment}>"

    def require_url(self) -> str:
        """The URL of the store.

        Raises:
            ConfigError: nobody named one, and in production the file that would be taken is refused.
        """
        if self.implicit and self.environment == "production":
            raise ConfigError(
                f"no store is named, and with {self.origins['environment']}=production {_file_of(self.url)} is not "
                "taken unasked: set TORIL_URL, to sqlite:////path/to/jobs.db if a file is meant"
            )
        return self.url

    def concurrency(self, queue: str, declared: int | None = None, variable: str | None = None) -> tuple[int, str]:
        """How many jobs of a queue a worker runs at once, and who said so.

        `variable` is one more variable to ask, which several queues may share.

        Raises:
            ConfigError: a value is not a whole number from 1; the message names the variable.
        """
        own = f"{re.sub(r'[^A-Z0-9]', '_', queue.upper())}_WORKER_CONCURRENCY"
        names = [f"TORIL_{own}", own] + ([variable] if variable else [])
        for name in names:
            text = self.environ.get(name, "").strip()
            if text:
                return _whole(text, name), name
        if declared is not None:
            return _whole(declared, f"the concurrency of queue {queue!r}"), "the declaration"
        if self.worker_concurrency is not None:
            return self.worker_concurrency, self.origins.get("worker_concurrency", DEFAULT)
        return DEFAULT_CONCURRENCY, DEFAULT

    def workers_off(self) -> str | None:
        """Who switched workers off, as `ENABLE_WORKERS=false`; None when they are on."""
        if self.enable_workers:
            return None
        origin = self.origins.get("enable_workers", DEFAULT)
        return f"{origin}={self.environ[origin]}" if origin in self.environ else f"enable-workers = false, {origin}"


# -------------------------------------------------------------------- where values come from


@dataclass(frozen=True)
class _Sources:
    """The environment, and below it `[tool.toril]`."""

    environ: Mapping[str, str]
    project: _Project

    def find(self, key: str, variables: tuple[str, ...]) -> tuple[Any, str] | None:
        """The first value that is given, and its origin."""
        for name in variables:
            text = self.environ.get(name, "").strip()
            if text:
                return text, name
        if key in self.project.table:
            return self.project.table[key], PROJECT
        return None

    def text(self, key: str, variables: tuple[str, ...], default: str | None) -> tuple[Any, str]:
        value, origin = self.find(key, variables) or (default, DEFAULT)
        if origin == PROJECT and (not isinstance(value, str) or not value):
            raise ConfigError(f"{key} in {self.project.file} must be text, not {mask_text(repr(value))}")
        return value, origin

    def switch(self, key: str, variables: tuple[str, ...], default: bool = True) -> tuple[bool, str]:
        value, origin = self.find(key, variables) or (default, DEFAULT)
        return _switch(value, self.said(key, origin)), origin

    def count(self, key: str, variables: tuple[str, ...]) -> tuple[int | None, str]:
        value, origin = self.find(key, variables) or (None, DEFAULT)
        return (None if origin == DEFAULT else _whole(value, self.said(key, origin))), origin

    def choice(
        self, key: str, variables: tuple[str, ...], choices: tuple[str, ...], default: str | None = None
    ) -> tuple[str, str]:
        value, origin = self.find(key, variables) or (default or choices[0], DEFAULT)
        chosen = str(value).lower()
        if chosen not in choices:
            raise ConfigError(f"{self.said(key, origin)} must be {_either(choices)}, not {value!r}")
        return chosen, origin

    def said(self, key: str, origin: str) -> str:
        """How a message names a value: by its variable, or by its key and file."""
        return f"{key} in {self.project.file}" if origin == PROJECT else origin


PROJECT: Final = "[tool.toril] in pyproject.toml"


@dataclass(frozen=True)
class _Project:
    """The nearest `pyproject.toml`, if there is one, and what it says of Toril."""

    file: Path | None = None
    table: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:  # somebody removed it; what needs it will say so
        return Path()


def _pyproject(directory: Path) -> _Project:
    files = (place / "pyproject.toml" for place in (directory, *directory.parents))
    file = next((file for file in files if os.path.isfile(file)), None)  # Path.is_file raises where it may not look
    if file is None:
        return _Project()
    import tomllib  # only who has a pyproject.toml pays for it

    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    tool = document.get("tool")
    table: Any = cast("dict[str, Any]", tool).get("toril", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise ConfigError(f"toril in {file} must be a table, [tool.toril], not {table!r}")
    return _Project(file, _known(cast("dict[str, Any]", table), file))


def _known(table: Mapping[str, Any], file: Path) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in _KEYS:
            raise ConfigError(f"unknown key {key!r} of [tool.toril] in {file}: known are {', '.join(_KEYS)}")
        known[name] = value
    return known


# -------------------------------------------------------------------- the store's place


def _url(sources: _Sources, argument: str | None, directory: Path | None) -> tuple[str, str]:
    if argument is not None:
        return argument, ARGUMENT
    for name in ("TORIL_URL", "REDIS_URL", "UPSTASH_REDIS_URL"):
        text = sources.environ.get(name, "").strip()
        if text:
            return text, name
    if sources.environ.get("REDIS_HOST", "").strip():
        return _assembled(sources.environ), "REDIS_HOST"
    text, origin = sources.text("url", (), None)
    if text is not None:
        return _beside(sources.project.file, text), origin
    home = sources.project.file.parent if sources.project.file else directory or _working_directory()
    return _sqlite_url(home / DEFAULT_FILE), DEFAULT


def _assembled(environ: Mapping[str, str]) -> str:
    """The URL that REDIS_HOST and its companions stand for."""
    host, port, user, password, tls = (
        environ.get(f"REDIS_{part}", "").strip() for part in ("HOST", "PORT", "USERNAME", "PASSWORD", "TLS")
    )
    if "/" in host or "@" in host:
        raise ConfigError("REDIS_HOST must be the name of a host: give a whole URL as REDIS_URL")
    if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ConfigError(f"REDIS_PORT must be a port between 1 and 65535, not {port!r}")
    scheme = "rediss" if tls and _switch(tls, "REDIS_TLS") else "redis"
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    place = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
    return f"{scheme}://{login}{'@' if login else ''}{place}{f':{port}' if port else ''}"


def _beside(file: Path | None, url: str) -> str:
    """A relative SQLite path in `pyproject.toml` starts at that file, wherever the process was started."""
    relative = url.removeprefix("sqlite:///")
    if file is None or relative == url or relative.startswith(("/", "~", ":memory:")):
        return url
    path, question, query = relative.partition("?")
    return _sqlite_url(file.parent / unquote(path)) + question + query


def _sqlite_url(path: Path) -> str:
    return "sqlite:///" + quote(path.as_posix(), safe="/:~")


def _file_of(url: str) -> str:
    return unquote(url.removeprefix("sqlite:///"))


# -------------------------------------------------------------------- what values may be


def _environment(sources: _Sources) -> tuple[str, str]:
    return sources.choice("env", ("TORIL_ENV",), ("development", "production"))


def _switch(value: Any, where: str) -> bool:
    word = str(value).lower()
    if word not in _TRUE | _FALSE:
        raise ConfigError(f"{where} must be true or false (or 1, 0, yes, no, on, off), not {value!r}")
    return word in _TRUE


def _whole(value: Any, where: str) -> int:
    text = str(value)
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if isinstance(value, float) or not 1 <= number <= MAX_CONCURRENCY:
        raise ConfigError(f"{where} must be a whole number between 1 and {MAX_CONCURRENCY:,}, not {value!r}")
    return number


def _either(choices: tuple[str, ...]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


# -------------------------------------------------------------------- secrets

_SECRET = re.compile(
    r"""(?P<key>(?<![\w%-])[\w%-]*(?:pass|pwd|secret|token|key|auth|credential|signature)[\w%-]*)=(?P<value>'[^']*'|"[^"]*"|[^&;\s]*)""",
    re.IGNORECASE,
)
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]*", re.IGNORECASE)


def mask_url(url: str) -> str:
    """`url` as it may be shown: its password and secret parameters are `***`, also where it is malformed."""
    scheme, colon, rest = url.partition("://")
    if not colon:
        return _SECRET.sub(r"\g<key>=***", url)
    head, question, query = rest.partition("?")
    if not head.startswith("/"):
        head, question, query = _masked_login(scheme, head, question, query)
    return scheme + colon + head + question + _SECRET.sub(r"\g<key>=***", query)


def _masked_login(scheme: str, head: str, question: str, query: str) -> tuple[str, str, str]:
    """The part before the query without a password. One with `/`, `?` or `#` in it, unquoted, hides what follows too."""
    login, at, place = head.rpartition("@")
    if not at and not _is_place(head):
        return "***", "", ""
    if at:
        user, colon, _ = login.partition(":")
        secret = bool(colon) or scheme.lower().startswith(("redis", "unix"))  # Redis has no user without a password
        head = f"{user if colon else ''}{':' if colon else ''}***@{place}" if secret else head
    return head, question, query


def _is_place(head: str) -> bool:
    """Whether it is a host with an optional port and path, or several, rather than half of an unquoted password."""
    if head in ("", ":memory:"):
        return True
    return all(_is_host(place) for place in head.partition("/")[0].split(","))


def _is_host(place: str) -> bool:
    try:
        parts = urlsplit(f"//{place}")
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.hostname)


def mask_text(text: str) -> str:
    """`text` with every URL in it masked."""
    return _URL.sub(lambda found: mask_url(found[0]), text) if "://" in text else text
