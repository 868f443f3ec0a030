"""All that only POSIX systems have, in one place; elsewhere each of these does what it can, or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator
from pathlib import Path

HAS_DATAGRAMS = hasattr(socket, "AF_UNIX") and sys.platform != "win32"
MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103  # bytes, and one for the NUL
NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "9p", "fuse.sshfs", "fuse.s3fs"}
)


def after_fork_in_child(action: Callable[[], None]) -> None:
    """Call `action` in every child that is forked from this process."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=action)


@contextlib.contextmanager
def signals_to(action: Callable[[int], None]) -> Generator[None, None, None]:
    """Meanwhile, call `action` in the running loop for SIGTERM and SIGINT, where a loop can be told of signals."""
    loop = asyncio.get_running_loop()
    installed: list[int] = []
    for known in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows; not the main thread
            loop.add_signal_handler(known, action, known)
            installed.append(known)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)


def make_private(path: Path) -> None:
    """Let nobody but its owner read a file."""
    if os.name == "posix":
        path.chmod(0o600)


def filesystem_of(path: Path) -> str:
    """The kind of file system that holds a path, empty where it cannot be told."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in mounts:
        _, _, rest = line.partition(" ")
        point, _, rest = rest.partition(" ")
        point = point.replace("\\040", " ")
        inside = str(path) == point or str(path).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, rest.split(" ", 1)[0]
    return kind


def open_datagram(path: Path) -> socket.socket | None:
    """A non-blocking socket that receives what is sent to `path`; None where there is no such thing."""
    if not HAS_DATAGRAMS or len(os.fsencode(path)) > MAX_SOCKET_PATH:
        return None
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        receiver.setblocking(False)
        receiver.bind(str(path))
        make_private(path)
    except OSError:
        receiver.close()
        return None
    return receiver


def open_sender() -> socket.socket | None:
    """A non-blocking socket to send datagrams from."""
    if not HAS_DATAGRAMS:
        return None
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.setblocking(False)
    return sender


def send_datagram(sender: socket.socket, path: Path, message: bytes) -> None:
    """Send to a path. A receiver that has ended is cleared away; one that is too busy to read has been rung already."""
    try:
        sender.sendto(message, str(path))
    except (ConnectionRefusedError, FileNotFoundError):
        with contextlib.suppress(OSError):
            path.unlink()
    except OSError:
        pass
