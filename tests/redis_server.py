"""A Redis server for tests: on a free port, with nothing on disk."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

START_S = 20.0


def start_redis(
    directory: Path, *options: str, port: int | None = None, program: str = "redis-server"
) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server that keeps nothing, and return it with its URL once it answers.

    `options` come first on its command line, where a file of settings may stand; `port` is a free one if not given.

    Raises:
        RuntimeError: redis-server is not installed, or did not start.
    """
    found = shutil.which(program)
    if found is None:
        raise RuntimeError(f"{program} is not installed: install it (apt-get install redis-server)")
    for chosen in [port] if port else [_free_port() for _ in range(3)]:  # somebody else may take it before we bind it
        with (directory / f"redis-{chosen}.log").open("ab") as log:
            process = subprocess.Popen(
                [found, *options, "--port", str(chosen), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if _answers(process, chosen):
            return process, f"redis://127.0.0.1:{chosen}/0"
        stop(process)
    raise RuntimeError(f"redis-server did not start: see the logs in {directory}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server."""
    process.kill()
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether this very server answers: one on the same port would be another process."""
    until_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until_s:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"INFO server\r\n")
                if f"process_id:{process.pid}\r".encode() in connection.recv(65536):
                    return True
        except OSError:
            pass
        time.sleep(0.02)  # a server has no signal for being ready
    return False
