"""Where connections go: one server, whichever server a Sentinel says is the master, or the nodes of a cluster.

redis-py knows how to find and open them; here is only which of its parts to ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import redis.asyncio as aioredis
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot

from toril.errors import ConfigError, UnsupportedStore

Source = str | Any
"""A URL, or a `redis.asyncio.Redis` or `RedisCluster` whose settings are taken over."""

CONNECT_TIMEOUT_S: Final = 2.0
SENTINELS: Final = ("redis+sentinel", "rediss+sentinel")
CLUSTERS: Final = ("redis+cluster", "rediss+cluster")
SCHEMES: Final = ("redis", "rediss", "unix", *SENTINELS, *CLUSTERS)

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

    async def close(self) -> None:
        """Give back what finding the servers took."""
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

    async def close(self) -> None:
        """Nothing was taken."""


class Master(One):
    """The master of a group of servers, which Sentinels watch over; they are asked for each connection."""

    def __init__(self, pool: Any, place: str) -> None:
        super().__init__(pool, place)
        theirs = pool.sentinel_manager
        hosts = [sentinel.connection_pool.connection_kwargs for sentinel in theirs.sentinels]
        # Sentinels of our own, since those of a client belong to its loop.
        self._sentinel = type(theirs)(
            [(host["host"], host["port"]) for host in hosts], theirs.min_other_sentinels, theirs.sentinel_kwargs
        )

    async def connection(self, node: str) -> Any:
        try:
            host, port = await self._sentinel.discover_master(self._pool.service_name)
        finally:
            for sentinel in self._sentinel.sentinels:  # nobody says when a loop ends, so nothing is left open
                await sentinel.connection_pool.disconnect(inuse_connections=False)
        settings = {**self._pool.connection_kwargs, "host": host, "port": port}
        del settings["connection_pool"]
        tls = issubclass(self._pool.connection_class, aioredis.SSLConnection)
        return (aioredis.SSLConnection if tls else aioredis.Connection)(**settings)


class Cluster:
    """The nodes of a cluster; a node is named `host:port`. `topology` is redis-py's knowledge of them."""

    clustered = True

    def __init__(self, topology: Any, place: str) -> None:
        self._topology = topology
        self._known = False
        self._looking = asyncio.Lock()
        self.place = place

    async def connection(self, node: str) -> Any:
        host, _, port = node.rpartition(":")
        any_node = next(iter(self._topology.startup_nodes.values()))
        settings = {**any_node.connection_kwargs, "host": host, "port": int(port), "retry": Retry(NoBackoff(), 0)}
        return any_node.connection_class(**settings)

    async def node_of(self, key: str) -> str:
        await self._look()
        slot = key_slot(key.encode())
        try:
            node = self._topology.get_node_from_slot(slot)
        except (KeyError, exceptions.RedisClusterException) as error:
            raise exceptions.ConnectionError(f"no node holds the slot {slot}") from error
        return f"{node.host}:{node.port}"

    async def nodes(self) -> list[str]:
        await self._look()
        return [f"{node.host}:{node.port}" for node in self._topology.get_nodes_by_server_type("primary")]

    async def _look(self) -> None:
        """Ask a node who holds what. All who want to know wait for the same answer."""
        async with self._looking:
            if self._known:
                return
            try:
                await self._topology.initialize()
            except exceptions.RedisClusterException as error:
                if "not enabled" in str(error):
                    raise UnsupportedStore(f"{self.place} is not a cluster: name it as redis://host:port") from error
                raise exceptions.ConnectionError(str(error)) from error
            finally:
                for nodes in ("nodes_cache", "startup_nodes"):  # nobody says when a loop ends, so nothing is left open
                    await self._topology.aclose(nodes)
            self._known = True

    async def look_again(self) -> None:
        self._known = False

    async def close(self) -> None:
        """Nothing was left open."""


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
        theirs = client.nodes_manager
        return Cluster(_another(theirs), "redis+cluster://" + ",".join(theirs.startup_nodes))
    if not hasattr(client, "connection_pool"):
        raise ConfigError(f"a Redis store takes a URL or a client of redis.asyncio, not {client!r}")
    pool = client.connection_pool
    settings: Mapping[str, Any] = pool.connection_kwargs
    where = settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
    if hasattr(pool, "sentinel_manager"):
        return Master(pool, f"redis+sentinel://{pool.service_name}")
    return One(pool, f"redis://{where}")


def _another(topology: Any) -> Any:
    """The same knowledge anew, whose connections are not those of the client it was taken from."""
    settings: _Settings = topology.connection_kwargs
    node: Any = cast("Any", aioredis).cluster.ClusterNode
    nodes = [node(one.host, one.port, **settings) for one in topology.startup_nodes.values()]
    return type(topology)(nodes, topology.require_full_coverage, settings, address_remap=topology.address_remap)


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
        return Cluster(_topology(url, defaults), place_of(url))
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


def _topology(url: str, defaults: _Settings) -> Any:
    """`redis+cluster://user:password@host:port,host:port`"""
    parts = urlsplit(url)
    settings = {**defaults, **_settings(url, "")}
    nodes = [cast("Any", aioredis).cluster.ClusterNode(host, port) for host, port in _hosts(parts.netloc, 6379)]
    client: Any = aioredis.RedisCluster
    settings = {"require_full_coverage": False, **settings}  # whether to serve a part is for the servers to say
    return client(startup_nodes=nodes, ssl=parts.scheme.startswith("rediss"), **settings).nodes_manager


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
