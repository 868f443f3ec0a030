"""Where connections go: one server, whichever server a Sentinel says is the master, or the nodes of a cluster.

redis-py knows how to find and open them; here is only which of its parts to ask.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import redis.asyncio as aioredis
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot

from toril.errors import ConfigError, UnsupportedStore
from toril.stores.redis.line import Broken, Line, Refused

Source = str | Any
"""A URL, or a `redis.asyncio.Redis` or `RedisCluster` whose settings are taken over."""

CONNECT_TIMEOUT_S: Final = 2.0
SENTINELS: Final = ("redis+sentinel", "rediss+sentinel")
CLUSTERS: Final = ("redis+cluster", "rediss+cluster")
SCHEMES: Final = ("redis", "rediss", "unix", *SENTINELS, *CLUSTERS)

UNANSWERED: Final = (Broken, Refused, exceptions.RedisError, OSError, TimeoutError)
"""What says that whoever was asked does not know."""

_Settings = dict[str, Any]


class Servers(Protocol):
    """Makes connections to the server that holds a key."""

    clustered: bool
    place: str

    async def connection(self, node: str) -> Any:
        """A connection of redis-py's that has not connected yet."""
        ...

    async def node_of(self, key: str) -> str:
        """Which server holds a key: a name to ask `connection` for."""
        ...

    async def nodes(self) -> list[str]:
        """The servers that together hold all keys."""
        ...

    async def look_again(self) -> None:
        """Forget which server holds what: one has moved, or has gone."""
        ...


class One:
    """One server: redis-py's pool knows how to reach it."""

    clustered = False

    def __init__(self, pool: Any, place: str) -> None:
        self._pool = pool
        self.place = place

    async def connection(self, node: str) -> Any:
        return self._pool.make_connection()

    async def node_of(self, key: str) -> str:
        return ""

    async def nodes(self) -> list[str]:
        return [""]

    async def look_again(self) -> None:
        """There is no other."""


class Master(One):
    """The master of a group of servers, which Sentinels watch over; they are asked for each connection."""

    def __init__(self, pool: Any, place: str) -> None:
        super().__init__(pool, place)
        self._sentinels = deque[Any](one.connection_pool for one in pool.sentinel_manager.sentinels)

    async def connection(self, node: str) -> Any:
        host, port = await self._master()
        settings: _Settings = {**self._pool.connection_kwargs, "host": host, "port": port}
        del settings["connection_pool"]
        tls = issubclass(self._pool.connection_class, aioredis.SSLConnection)
        return (aioredis.SSLConnection if tls else aioredis.Connection)(**settings)

    async def _master(self) -> tuple[str, int]:
        name, reason = self._pool.service_name, "none is named"
        for _ in range(len(self._sentinels)):
            try:
                told: Any = await _asked(self._sentinels[0].make_connection(), "SENTINEL", "MASTER", name)
                # With RESP3 it is a map.
                flat: Any = (
                    [word for field in cast("Mapping[str, str]", told).items() for word in field]
                    if isinstance(told, Mapping)
                    else told
                )
                state: dict[str, str] = dict(zip(flat[::2], flat[1::2], strict=True))
                if not {"s_down", "o_down"} & set(state["flags"].split(",")):
                    return state["ip"], int(state["port"])
                reason = f"{state['ip']}:{state['port']} is down"
            except UNANSWERED as error:
                reason = str(error) or type(error).__name__
            self._sentinels.rotate(-1)  # the one that answers is asked first the next time
        raise exceptions.ConnectionError(f"no Sentinel knows a master {name!r} that is well: {reason}")


class Cluster:
    """The nodes of a cluster; a node is named `host:port`. Connections are made like those of `model`, one of its nodes."""

    clustered = True

    def __init__(self, model: Any, hosts: Iterable[tuple[str, int]], place: str) -> None:
        self._model = model
        self._hosts = deque(hosts)
        self._spans: list[tuple[int, int, str]] = []  # last slot, first slot, and who holds them
        self._known = False
        self._looking = asyncio.Lock()
        self.place = place

    async def connection(self, node: str) -> Any:
        host, _, port = node.rpartition(":")
        return self._connection(host, int(port))

    def _connection(self, host: str, port: int) -> Any:
        settings = {**self._model.connection_kwargs, "host": host, "port": port, "retry": Retry(NoBackoff(), 0)}
        return self._model.connection_class(**settings)

    async def node_of(self, key: str) -> str:
        await self._look()
        slot = key_slot(key.encode())
        place = bisect_left(self._spans, (slot,))
        if place == len(self._spans) or self._spans[place][1] > slot:
            raise exceptions.ConnectionError(f"no node holds the slot {slot}")
        return self._spans[place][2]

    async def nodes(self) -> list[str]:
        await self._look()
        return list(dict.fromkeys(node for _, _, node in self._spans))

    async def _look(self) -> None:
        """Ask a node who holds what. All who want to know wait for the same answer."""
        if self._known:
            return
        async with self._looking:
            if not self._known:
                self._spans = await self._slots()
                self._known = True

    async def _slots(self) -> list[tuple[int, int, str]]:
        reason = ""
        for _ in range(len(self._hosts)):
            host, port = self._hosts[0]
            self._hosts.rotate(-1)  # one that is cut off from the others is not asked twice in a row
            try:
                told = await _asked(self._connection(host, port), "CLUSTER", "SLOTS")
            except UNANSWERED as error:
                if "cluster support disabled" in str(error):
                    raise UnsupportedStore(f"{self.place} is not a cluster: name it as redis://host:port") from error
                reason = str(error) or type(error).__name__
                continue
            nodes = [(node[0] or host, int(node[1])) for span in told for node in span[2:]]
            self._hosts.extend(node for node in dict.fromkeys(nodes) if node not in self._hosts)
            return sorted((last, first, f"{master[0] or host}:{master[1]}") for first, last, master, *_ in told)
        raise exceptions.ConnectionError(f"no node answers: {reason}")

    async def look_again(self) -> None:
        self._known = False


async def _asked(connection: Any, *words: str) -> Any:
    """The answer to one question, on a connection that is closed at once: nobody says when a loop ends."""
    line = await Line.open(connection, connection.socket_timeout)
    try:
        return await line.call(words)
    finally:
        line.close()


def servers(source: Source, timeout_s: float) -> Servers:
    """What makes the connections of one loop.

    Raises:
        ConfigError: the URL, or an option in it, cannot be right.
    """
    if not isinstance(source, str):
        return _of_client(source)
    try:
        return _of_url(source, timeout_s)
    except (TypeError, ValueError, exceptions.RedisError) as error:
        raise ConfigError(f"the Redis URL {place_of(source)} cannot be used: {error}") from error


def _of_client(client: Any) -> Servers:
    if hasattr(client, "nodes_manager"):
        return _cluster(client, "redis+cluster://" + ",".join(client.nodes_manager.startup_nodes))
    if not hasattr(client, "connection_pool"):
        raise ConfigError(f"a Redis store takes a URL or a client of redis.asyncio, not {client!r}")
    pool = client.connection_pool
    settings: Mapping[str, Any] = pool.connection_kwargs
    where = settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
    if hasattr(pool, "sentinel_manager"):
        return Master(pool, f"redis+sentinel://{pool.service_name}")
    return One(pool, f"redis://{where}")


def _cluster(client: Any, place: str) -> Cluster:
    nodes = list(client.nodes_manager.startup_nodes.values())
    return Cluster(nodes[0], [(node.host, int(node.port)) for node in nodes], place)


def _of_url(url: str, timeout_s: float) -> Servers:
    defaults: _Settings = {
        "protocol": 2,
        "socket_connect_timeout": min(CONNECT_TIMEOUT_S, timeout_s),
        "socket_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    parts = urlsplit(url)
    if parts.scheme in SENTINELS:
        return Master(_sentinel_pool(url, defaults), place_of(url))
    if parts.scheme in CLUSTERS:
        return _cluster(_cluster_client(url, defaults), place_of(url))
    pool = cast("Any", aioredis.ConnectionPool).from_url(url, **defaults)
    pool.make_connection()  # an option that redis-py does not know is refused here
    return One(pool, place_of(url))


def _sentinel_pool(url: str, defaults: _Settings) -> Any:
    """`redis+sentinel://user:password@host:port,host:port/service/db?sentinel_password=…`"""
    parts = urlsplit(url)
    service, _, db = parts.path.strip("/").partition("/")
    if not service:
        raise ConfigError(f"{place_of(url)} names no master: write redis+sentinel://host:26379/mymaster/0")
    settings = {**defaults, **_settings(url, db)}
    sentinel: _Settings = {
        name.removeprefix("sentinel_"): settings.pop(name) for name in list(settings) if name.startswith("sentinel_")
    }
    asking = {**defaults, "socket_timeout": defaults["socket_connect_timeout"], **sentinel}
    ask = cast("Any", Sentinel)(_hosts(parts.netloc, 26379), sentinel_kwargs=asking, **settings)
    pool = ask.master_for(service, ssl=parts.scheme.startswith("rediss")).connection_pool
    pool.make_connection()
    return pool


def _cluster_client(url: str, defaults: _Settings) -> Any:
    """`redis+cluster://user:password@host:port,host:port`"""
    parts = urlsplit(url)
    settings = {**defaults, **_settings(url, "")}
    nodes = [cast("Any", aioredis).cluster.ClusterNode(host, port) for host, port in _hosts(parts.netloc, 6379)]
    client: Any = aioredis.RedisCluster
    return client(startup_nodes=nodes, ssl=parts.scheme.startswith("rediss"), **settings)


def _settings(url: str, db: str) -> _Settings:
    """User, password and the options of a URL, read as redis-py reads those of one server."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    plain = urlunsplit(("redis", f"{user}{at}host", f"/{db}" if db else "", parts.query, ""))
    settings: _Settings = dict(cast("Any", aioredis).connection.parse_url(plain))
    del settings["host"]
    return settings


def _hosts(netloc: str, port: int) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for place in netloc.rpartition("@")[2].split(","):
        host = urlsplit(f"//{place}")
        if not host.hostname:
            raise ConfigError(f"{place!r} names no host: write host:port, several with commas between")
        found.append((unquote(host.hostname), host.port or port))
    return found


def place_of(url: str) -> str:
    """A URL without user, password and options, to be read by people."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def taken_out(url: str, names: set[str]) -> tuple[str, dict[str, str]]:
    """A URL without the options of these names, and what they said."""
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    rest = urlencode([(name, value) for name, value in options if name not in names])
    ours = {name: value for name, value in options if name in names}
    return urlunsplit(parts._replace(query=rest)), ours
