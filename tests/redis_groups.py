"""Redis servers that stand in for each other, for tests: a Sentinel group, and a cluster.

Whoever waits here watches: the Sentinels' own announcements, or what the servers say of themselves until a deadline.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import quote

from redis import Redis
from redis.exceptions import RedisError

from redis_server import start_redis, stop

PATIENCE_S = 30.0
HOST = "127.0.0.1"
MASTER_NAME = "mymaster"
DOWN_AFTER_MS, FAILOVER_TIMEOUT_MS = 1_000, 2_000
HASTE = ("INFO-PERIOD", "200", "PUBLISH-PERIOD", "200", "TILT-PERIOD", "100")
"""Sentinels that look and talk more often, and do not lie low when the machine is busy."""

NODE_TIMEOUT_MS = 1000
FAST_SYNC = ("--repl-diskless-sync-delay", "0")
SLOTS = 16_384
LOWEST_PORT, HIGHEST_PORT, TO_BUS = 10_000, 16_000, 6_000
"""Ports that the machine gives to nobody by itself, so that a server that was killed finds its own free again."""


@dataclass(eq=False)
class Server:
    """One process of a group."""

    port: int
    options: tuple[str, ...]
    process: subprocess.Popen[bytes]

    @property
    def place(self) -> str:
        return f"{HOST}:{self.port}"


class Group:
    """Servers that belong together; they end with the block."""

    def __init__(self, directory: Path, password: str = "") -> None:
        self._directory = directory
        self._password = password
        self.servers: list[Server] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            stop(server.process)

    def add(self, *options: str) -> Server:
        """Start one more server."""
        port = _free_port()
        options = tuple(word.format(bus=port + TO_BUS) for word in (*FAST_SYNC, *options))
        server = Server(port, options, self._start(port, *options))
        self.servers.append(server)
        self._lock(server)
        return server

    def _start(self, port: int, *options: str) -> subprocess.Popen[bytes]:
        """Start a server in a directory of its own, since what replicas keep there goes by one name."""
        home = self._directory / str(port)
        home.mkdir(exist_ok=True)
        process, _ = start_redis(home, *options, port=port)
        return process

    def _lock(self, server: Server) -> None:
        """Let a server that answers want a password."""
        if self._password:
            with Redis(HOST, server.port) as plain:
                cast("Any", plain).config_set("requirepass", self._password)

    @contextlib.contextmanager
    def client(self, server: Server) -> Generator[Any]:
        """A client of one server."""
        settings: Any = {"password": self._password or None, "decode_responses": True, "socket_timeout": PATIENCE_S}
        with Redis(HOST, server.port, **settings) as client:
            yield client

    def role(self, server: Server) -> dict[str, Any]:
        """What a server says of its part in the group; nothing when it is not there."""
        with contextlib.suppress(RedisError), self.client(server) as client:
            return cast("dict[str, Any]", client.info("replication"))
        return {}

    def masters(self) -> list[Server]:
        """The servers that live and call themselves master."""
        return [one for one in self.servers if one.process.poll() is None and self.role(one).get("role") == "master"]

    # ---------------------------------------------------------------- faults

    def kill(self, server: Server) -> None:
        """End a server without a last word."""
        stop(server.process)

    def freeze(self, server: Server) -> None:
        """Let a server do nothing, and keep all of its connections."""
        os.kill(server.process.pid, signal.SIGSTOP)

    def thaw(self, server: Server) -> None:
        """Let it go on as if nothing had been."""
        os.kill(server.process.pid, signal.SIGCONT)

    def resume(self, server: Server) -> None:
        """Start a killed server again at its place; what it is then is for the group to say."""
        server.process = self._start(server.port, *server.options)
        self._lock(server)

    def await_replica(self, server: Server) -> None:
        """Return once a server follows a master."""
        until(lambda: self.role(server).get("master_link_status") == "up", f"{server.place} to follow a master")

    def whole(self) -> bool:
        """Whether all live, know each other, and agree."""
        raise NotImplementedError

    def heal(self) -> None:
        """Undo what was done to the servers, and return once they are whole again."""
        for server in self.servers:
            if server.process.poll() is None:
                self.thaw(server)
            else:
                self.resume(server)
        until(self.whole, "the group to be whole again")


def until(so: Callable[[], bool], what: str) -> None:
    """Return when it is so. A server that changes by itself has no signal for it."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not so():
        assert time.monotonic() < deadline_s, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.02)


def _free_port() -> int:
    while True:
        port = random.randrange(LOWEST_PORT, HIGHEST_PORT)
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as bus:
            one.bind((HOST, port))
            bus.bind((HOST, port + TO_BUS))
            return port


# ------------------------------------------------------------------ Sentinel


class SentinelGroup(Group):
    """One master, its replicas, and the Sentinels that watch over them."""

    def __init__(self, directory: Path, password: str, sentinel_password: str) -> None:
        super().__init__(directory, password)
        self.sentinels: list[Server] = []
        self.sentinel_password = sentinel_password

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for sentinel in self.sentinels:
            stop(sentinel.process)

    @property
    def url(self) -> str:
        places = ",".join(sentinel.place for sentinel in self.sentinels)
        user = f":{quote(self._password, safe='')}@" if self._password else ""
        option = f"?sentinel_password={quote(self.sentinel_password, safe='')}" if self.sentinel_password else ""
        return f"redis+sentinel://{user}{places}/{MASTER_NAME}/0{option}"

    @property
    def master(self) -> Server:
        """The server that the Sentinels send everybody to."""
        with self.sentinel(self.sentinels[0]) as sentinel:
            _, port = sentinel.sentinel_get_master_addr_by_name(MASTER_NAME)
        return next(server for server in self.servers if server.port == int(port))

    @contextlib.contextmanager
    def sentinel(self, server: Server) -> Generator[Any]:
        """A client of one Sentinel."""
        with Redis(HOST, server.port, password=self.sentinel_password or None, decode_responses=True) as client:
            yield client

    def add_sentinel(self, master: Server) -> None:
        """Start a Sentinel that watches over a master."""
        port = _free_port()
        lines = [
            f"sentinel monitor {MASTER_NAME} {HOST} {master.port} 2",
            f"sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {MASTER_NAME} {FAILOVER_TIMEOUT_MS}",
        ]
        if self._password:
            lines.append(f"sentinel auth-pass {MASTER_NAME} {self._password}")
        if self.sentinel_password:
            lines.append(f"sentinel sentinel-pass {self.sentinel_password}")
        self._settings(port).write_text("\n".join(lines) + "\n")
        self.sentinels.append(Server(port, (), self._watch(port)))

    def _settings(self, port: int) -> Path:
        """The file in which a Sentinel keeps what it knows."""
        return self._directory / f"sentinel-{port}.conf"

    def _watch(self, port: int) -> subprocess.Popen[bytes]:
        settings = self._settings(port)
        lines = settings.read_text().splitlines(keepends=True)
        settings.write_text("".join(line for line in lines if not line.startswith("user ")))  # as if it had no password
        process, _ = start_redis(self._directory, str(settings), "--sentinel", port=port)
        client: Any
        with Redis(HOST, port) as client:
            client.execute_command("SENTINEL", "DEBUG", *HASTE)
            if self.sentinel_password:
                client.execute_command("ACL", "SETUSER", "default", "resetpass", f">{self.sentinel_password}")
        return process

    def kill_sentinel(self) -> None:
        """End the Sentinel that is named first."""
        stop(self.sentinels[0].process)

    def heal(self) -> None:
        for sentinel in self.sentinels:
            if sentinel.process.poll() is not None:
                sentinel.process = self._watch(sentinel.port)
        super().heal()

    def whole(self) -> bool:
        roles = sorted(str(self.role(server).get("master_link_status")) for server in self.servers)
        return roles == ["None", "up", "up"] and all(map(self._content, self.sentinels))

    def _content(self, server: Server) -> bool:
        replicas, others = len(self.servers) - 1, len(self.sentinels) - 1
        with self.sentinel(server) as sentinel:
            state = sentinel.sentinel_master(MASTER_NAME)
            well = all(
                not one["is_disconnected"] and not one["is_sdown"] for one in sentinel.sentinel_slaves(MASTER_NAME)
            )
        return well and (state["num-slaves"], state["num-other-sentinels"], state["flags"]) == (
            replicas,
            others,
            "master",
        )

    def fail_over(self, fault: Callable[[Server], None]) -> Server:
        """Do something to the master that ends its reign; return it once each Sentinel has said who comes after."""
        old = self.master
        with contextlib.ExitStack() as stack:
            ears = [stack.enter_context(self._listening(sentinel)) for sentinel in self.sentinels]
            fault(old)
            for ear in ears:
                _hear(ear, old)
        return old

    def depose(self, server: Server) -> None:
        """Let the Sentinels put another in the place of a master that is well."""
        with self.sentinel(self.sentinels[0]) as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", MASTER_NAME)

    @contextlib.contextmanager
    def _listening(self, server: Server) -> Generator[Any]:
        with self.sentinel(server) as sentinel, sentinel.pubsub(ignore_subscribe_messages=True) as ear:
            ear.subscribe("+switch-master")
            ear.get_message(timeout=PATIENCE_S)
            yield ear


def _hear(ear: Any, old: Server) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while (left_s := deadline_s - time.monotonic()) > 0:
        message = ear.get_message(timeout=left_s)
        if message is not None and message["data"].split()[2] == str(old.port):
            return
    raise AssertionError(f"no Sentinel has replaced {old.place} in {PATIENCE_S:g} s")


def start_sentinel(directory: Path, *, password: str = "", sentinel_password: str = "") -> SentinelGroup:
    """Start a master, two replicas and three Sentinels that have found each other."""
    group = SentinelGroup(directory, password, sentinel_password)
    try:
        auth = ("--masterauth", password) if password else ()
        master = group.add(*auth)
        for _ in range(2):
            group.await_replica(group.add("--replicaof", f"{HOST} {master.port}", *auth))
        for _ in range(3):
            group.add_sentinel(master)
        until(group.whole, "the Sentinels to find each other")
    except BaseException:
        group.__exit__()
        raise
    return group


# ------------------------------------------------------------------ Cluster


class ClusterGroup(Group):
    """Masters that share the slots, and their replicas."""

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(server.place for server in self.servers)

    def nodes(self, server: Server) -> dict[str, dict[str, Any]]:
        """The nodes that a server knows, by their place."""
        with contextlib.suppress(RedisError), self.client(server) as client:
            return cast("dict[str, dict[str, Any]]", client.cluster("NODES"))
        return {}

    def name(self, server: Server) -> str:
        """What the cluster calls a node."""
        with self.client(server) as client:
            return str(client.execute_command("CLUSTER", "MYID"))

    def owner(self, key: str) -> Server:
        """The server that holds a key's slot."""
        for server in self.masters():
            with self.client(server) as client:
                slot = int(client.cluster("KEYSLOT", key))
            slots: Sequence[Sequence[str]] = self.nodes(server)[server.place]["slots"]
            if any(int(span[0]) <= slot <= int(span[-1]) for span in slots):
                return server
        raise AssertionError(f"nobody holds {key}")

    def whole(self) -> bool:
        return all(map(self._content, self.servers))

    def _content(self, server: Server) -> bool:
        nodes = self.nodes(server)
        if len(nodes) != len(self.servers) or not all(node["connected"] for node in nodes.values()):
            return False
        if any("fail" in node["flags"] or "handshake" in node["flags"] for node in nodes.values()):
            return False
        role = self.role(server)
        if not (role.get("master_link_status") == "up" or role.get("connected_slaves") == 1):
            return False
        with self.client(server) as client:
            return bool(client.cluster("INFO")["cluster_state"] == "ok")

    def fail_over(self, server: Server) -> None:
        """Kill a master, and return once all others have agreed on who comes after."""
        others = [one for one in self.servers if one is not server]
        self.kill(server)

        def replaced(witness: Server) -> bool:
            nodes = self.nodes(witness)
            if not nodes or nodes[server.place]["slots"]:
                return False
            with self.client(witness) as client:
                return bool(client.cluster("INFO")["cluster_state"] == "ok")

        until(lambda: all(map(replaced, others)), f"a replica to take over from {server.place}")

    def begin_move(self, key: str) -> Move:
        """Let the slot of a key set out for another master."""
        source = self.owner(key)
        target = next(server for server in self.masters() if server is not source)
        with self.client(source) as client:
            slot = int(client.cluster("KEYSLOT", key))
        with self.client(target) as client:
            client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.name(source))
        with self.client(source) as client:
            client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.name(target))
        return Move(self, source, target, slot)


@dataclass(frozen=True)
class Move:
    """A slot on its way from one master to another: each of its keys is here or there. It arrives at the end of the block."""

    group: ClusterGroup
    source: Server
    target: Server
    slot: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while left := self.keys(self.source):
            self.carry(left)
        name = self.group.name(self.target)
        for server in (self.target, self.source):
            with self.group.client(server) as client:
                client.execute_command("CLUSTER", "SETSLOT", self.slot, "NODE", name)

    def keys(self, server: Server) -> set[str]:
        """The keys of the slot that are on a server."""
        with self.group.client(server) as client:
            return set(client.execute_command("CLUSTER", "GETKEYSINSLOT", self.slot, 1_000_000))

    def carry(self, keys: Iterable[str]) -> None:
        """Carry keys over."""
        with self.group.client(self.source) as client:
            client.migrate(HOST, self.target.port, list(keys), 0, 10_000)

    def refusals(self) -> int:
        """How often the source has answered that a key may be at the target by now."""
        with self.group.client(self.source) as client:
            return int(client.info("errorstats").get("errorstat_ASK", {}).get("count", 0))

    def contents(self, server: Server) -> dict[str, bytes]:
        """What the keys of the slot hold on a server."""
        keys = sorted(self.keys(server))
        client: Any
        with Redis(HOST, server.port) as client, client.pipeline(transaction=False) as asking:
            for key in keys:
                asking.execute_command("ASKING")
                asking.dump(key)
            return dict(zip(keys, asking.execute()[1::2], strict=True))


def start_cluster(directory: Path) -> ClusterGroup:
    """Start three masters with a replica each."""
    group = ClusterGroup(directory)
    try:
        for _ in range(6):
            group.add(
                *("--cluster-enabled", "yes", "--cluster-port", "{bus}"),
                *("--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
                *("--cluster-replica-validity-factor", "0"),
            )
        _join(group)
    except BaseException:
        group.__exit__()
        raise
    return group


def _join(group: ClusterGroup) -> None:
    """Make a cluster of servers that do not know each other."""
    masters, replicas = group.servers[:3], group.servers[3:]
    for number, server in enumerate(group.servers):
        with group.client(server) as client:
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if server in masters:
                first, after = SLOTS * number // 3, SLOTS * (number + 1) // 3
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
            for other in group.servers[:number]:
                client.execute_command("CLUSTER", "MEET", HOST, other.port, other.port + TO_BUS)
    for replica, master in zip(replicas, masters, strict=True):
        name = group.name(master)
        until(lambda: _knows(group, replica, master), f"{replica.place} to know {master.place}")  # noqa: B023
        with group.client(replica) as client:
            client.execute_command("CLUSTER", "REPLICATE", name)
    until(group.whole, "the cluster to be whole")


def _knows(group: ClusterGroup, server: Server, other: Server) -> bool:
    return "handshake" not in group.nodes(server).get(other.place, {"flags": "handshake"})["flags"]
