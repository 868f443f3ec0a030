"""A Redis server that is killed, frozen and started again, each time on its own port and in its own directory."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Self, cast

from redis import Redis
from redis.exceptions import ResponseError

LOWEST_PORT, HIGHEST_PORT = 22_000, 32_000
"""Ports that the machine gives to nobody by itself, so that a server that was killed finds its own free again."""

PATIENCE_S = 30.0


class RedisProcess:
    """One server, with nothing on its disk unless an option says so."""

    def __init__(self, directory: Path, *options: str, certificate: Path | None = None) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError("redis-server is not installed: install it (apt-get install redis-server)")
        self.port, self.tls_port = _free_port(), _free_port()
        self._directory = directory / f"redis-{self.port}"
        self._directory.mkdir()
        self._log = self._directory / "log"
        plain = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
        self._command = (program, *plain, *options, *(self._tls(certificate) if certificate else ()))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def tls_url(self, certificate: Path) -> str:
        return f"rediss://localhost:{self.tls_port}/0?ssl_ca_certs={certificate}"

    def _tls(self, certificate: Path) -> tuple[str, ...]:
        """Options for a server that speaks TLS besides, and wants no certificate from others."""
        files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(certificate.parent / "key.pem"))
        return ("--tls-port", str(self.tls_port), "--tls-auth-clients", "no", *files)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()

    # ------------------------------------------------------------------ life

    def start(self, *options: str, ready: bool = True) -> None:
        """Start it, and return once it is ready, or only answers."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self._command, *options],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._await(lambda: b"Ready to accept connections" in self._log.read_bytes() if ready else self._answers())

    def kill(self) -> None:
        """End it without a last word."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def shut_down(self) -> None:
        """Let it write down what it has, and end."""
        assert self._process is not None
        self.ask("SAVE")
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._process = None

    # ------------------------------------------------------------------ troubles, for the length of a block

    @contextlib.contextmanager
    def frozen(self) -> Generator[None]:
        """It does nothing, and keeps all of its connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def full(self) -> Generator[None]:
        """Its memory is used up."""
        self.set(maxmemory=1)
        try:
            yield
        finally:
            self.set(maxmemory=0)

    @contextlib.contextmanager
    def read_only(self) -> Generator[None]:
        """It is the replica of a server that cannot be reached."""
        self.ask("REPLICAOF", "127.0.0.1", 1)
        try:
            yield
        finally:
            self.ask("REPLICAOF", "NO", "ONE")

    @contextlib.contextmanager
    def unable_to_save(self) -> Generator[None]:
        """It fails to write down what it has, whereupon it takes no more writes."""
        obstacle = self._directory / "dump.rdb"
        obstacle.mkdir(exist_ok=True)
        self.set(save="3600 1")
        self.ask("BGSAVE")
        self._await(lambda: self.ask("INFO", "persistence")["rdb_last_bgsave_status"] == "err")
        try:
            yield
        finally:
            self.set(save="")

    @contextlib.contextmanager
    def busy(self) -> Generator[None]:
        """A script of somebody's runs without end."""
        self.set(lua_time_limit=1)

        def run() -> None:
            with contextlib.suppress(ResponseError):
                self.ask("EVAL", "while true do end", 0)

        somebody = threading.Thread(target=run)
        somebody.start()
        try:
            self._await(self._is_busy)
            yield
        finally:
            self.ask("SCRIPT", "KILL")
            somebody.join()

    def _is_busy(self) -> bool:
        try:
            self.ask("PING")
        except ResponseError as error:
            return "busy" in str(error).lower()
        return False

    @contextlib.contextmanager
    def full_house(self) -> Generator[None]:
        """Somebody has taken its only place for clients, and all others were sent away."""
        with self.client() as somebody:
            somebody.config_set("maxclients", 1)
            somebody.client_kill_filter(skipme=True)
            try:
                yield
            finally:
                somebody.config_set("maxclients", 1000)

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """It wants a password from all who connect anew; those who stand there were sent away."""
        with self.client() as somebody:
            somebody.config_set("requirepass", "right")
            somebody.client_kill_filter(skipme=True)
            try:
                yield
            finally:
                somebody.config_set("requirepass", "")

    @contextlib.contextmanager
    def denying(self, command: str) -> Generator[None]:
        """Nobody may use a command."""
        self.ask("ACL", "SETUSER", "default", f"-{command}")
        try:
            yield
        finally:
            self.ask("ACL", "SETUSER", "default", "+@all")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def _await(self, so: Any) -> None:
        assert self._process is not None
        deadline_s = time.monotonic() + PATIENCE_S
        while not so():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(
                    f"redis-server is not as it should be: {self._log.read_text(errors='replace')[-1000:]}"
                )
            time.sleep(0.01)  # a server has no signal for what goes on in it

    # ------------------------------------------------------------------ looking, and changing settings

    @contextlib.contextmanager
    def client(self, **settings: Any) -> Generator[Any]:
        """A client past all proxies."""
        with cast("Any", Redis)(port=self.port, decode_responses=True, **settings) as client:
            yield client

    def ask(self, *words: str | int) -> Any:
        """The answer to one command."""
        with self.client() as client:
            return client.execute_command(*words)

    def set(self, **settings: str | int) -> None:
        """Change settings, as CONFIG SET does; `_` stands for `-`."""
        for name, value in settings.items():
            self.ask("CONFIG", "SET", name.replace("_", "-"), value)

    def write_snapshot(self) -> None:
        """Let the AOF begin with all that there is, as an RDB, which is read key by key."""
        self.ask("BGREWRITEAOF")
        self._await(lambda: self.ask("INFO", "persistence")["aof_rewrites"] == 1)
        self._await(lambda: self.ask("INFO", "persistence")["aof_rewrite_in_progress"] == 0)

    def connections(self) -> int:
        """How many clients it has, this question's own aside."""
        with self.client() as client:
            return len(client.client_list()) - 1


def _free_port() -> int:
    while True:
        port = random.randrange(LOWEST_PORT, HIGHEST_PORT)
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port
