"""From a URL to a store. The only place that names the stores; each is loaded when a URL asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from toril.clock import SYSTEM_CLOCK, Clock
from toril.errors import ConfigError
from toril.store import Store

_DURABILITIES: Final[dict[str, Literal["full", "relaxed"]]] = {"full": "full", "relaxed": "relaxed"}


def connect(url: str, *, prefix: str = "bull", clock: Clock = SYSTEM_CLOCK) -> Store:
    """Open a store by its URL; nothing is read or written before the first use.

    `sqlite:///jobs.db` is a file beside the working directory, `sqlite:////var/lib/jobs.db` one by its full path,
    `sqlite://:memory:` lives and dies with the process. `?durability=relaxed` lets a power cut take the last commits.

    `redis://`, `rediss://` and `unix://` are redis-py's URLs with all of its options;
    `redis+sentinel://host:port,host:port/service/db` finds the master of a Sentinel group, and
    `redis+cluster://host:port,host:port` a cluster. `?timeout=`, `?visible_connections=` and `?shard=queue` are ours: see
    `RedisStore`.

    Raises:
        ConfigError: the URL cannot be read, or names a store that is not there.
    """
    if not prefix or any(ord(c) < 32 for c in prefix):
        raise ConfigError(f"the prefix {prefix!r} is empty or has a control character: 'bull' is the usual one")
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        return _sqlite(url, prefix, clock)
    if scheme.partition("+")[0] in ("redis", "rediss", "unix"):
        return _redis(url, prefix, clock)
    known = "sqlite:///jobs.db, sqlite://:memory: or redis://localhost:6379/0"
    if scheme in ("postgres", "postgresql"):
        raise ConfigError(f"this release has no store for {scheme}:// yet: use {known}")
    raise ConfigError(f"no store is known for {scheme + '://' if scheme else 'a URL without a scheme'}: use {known}")


def _redis(url: str, prefix: str, clock: Clock) -> Store:
    from toril.stores.redis.store import open_store

    return open_store(url, prefix=prefix, clock=clock)


def _sqlite(url: str, prefix: str, clock: Clock) -> Store:
    from toril.stores.sqlite.store import SqliteStore

    rest, _, query = url.removeprefix("sqlite:").partition("?")
    options = parse_qs(query, keep_blank_values=True)
    durability = options.pop("durability", ["full"])[-1]
    if options:
        raise ConfigError(f"unknown option {next(iter(options))!r} of a sqlite URL: known is durability=full|relaxed")
    if durability not in _DURABILITIES:
        raise ConfigError(f"durability is full or relaxed, not {durability!r}")
    path = ":memory:" if rest in ("//:memory:", "///:memory:", ":memory:") else unquote(rest.removeprefix("///"))
    if not path or (rest.startswith("//") and not rest.startswith("///") and path != ":memory:"):
        raise ConfigError(f"{url!r} names no file: three slashes begin a relative path, four a full one")
    place = path if path == ":memory:" else Path(path).expanduser()
    return SqliteStore(place, prefix=prefix, clock=clock, durability=_DURABILITIES[durability])
