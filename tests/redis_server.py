"""A Redis server for tests: on a free port, with nothing on disk."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

START_S = 20.0


def start_redis(directory: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server that keeps nothing, and return it with its URL once it answers.

    Raises:
        RuntimeError: redis-server is not installed, or did not start.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise RuntimeError("redis-server is not installed: install it (apt-get install redis-server)")
    for _ in range(3):  # somebody else may take the port between finding and binding it
        port = _free_port()
        with (directory / f"redis-{port}.log").open("wb") as log:
            process = subprocess.Popen(
                [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if _answers(process, port):
            return process, f"redis://127.0.0.1:{port}/0"
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
