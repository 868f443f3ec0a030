"""Importing Toril starts nothing, opens nothing and needs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any


def seen_by(script: str) -> dict[str, Any]:
    """What a script prints as JSON, run by a fresh interpreter."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


def test_importing_starts_no_thread_opens_nothing_and_sets_no_handler() -> None:
    seen = seen_by("""
        import json, logging, os, signal, sys, threading
        import asyncio, socket  # what the standard library does when imported is not ours to answer for

        opened, source = [], (".py", ".pyc", ".so")

        def audit(event, arguments):
            if event == "open" and isinstance(arguments[0], (str, bytes)):
                name = os.fsdecode(arguments[0])
                writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                if writes and not (".pyc" in name and "__pycache__" in name):
                    opened.append(name)
                elif not writes and not name.endswith(source):
                    opened.append(name)
            elif event.startswith(("socket.", "sqlite3.", "subprocess.", "os.system", "os.exec", "os.posix_spawn")):
                opened.append(event)

        descriptors = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
        signals = [signal.getsignal(number) for number in signal.valid_signals()]
        sys.addaudithook(audit)
        import toril
        seen_open = list(opened)
        after = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
        print(json.dumps({
            "threads": [thread.name for thread in threading.enumerate()],
            "opened": seen_open,
            "descriptors": len(after) - len(descriptors),
            "handlers": len(logging.getLogger().handlers) + len(logging.getLogger("toril").handlers),
            "signals": signals == [signal.getsignal(number) for number in signal.valid_signals()],
            "hook": sys.excepthook is sys.__excepthook__,
        }, default=str))
    """)

    assert seen == {
        "threads": ["MainThread"],
        "opened": [],
        "descriptors": 0,
        "handlers": 0,
        "signals": True,
        "hook": True,
    }


def test_importing_loads_no_store_and_nothing_from_others() -> None:
    seen = seen_by("""
        import json, sys
        before = set(sys.modules)
        import toril
        loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(json.dumps({
            "outsiders": sorted(loaded - set(sys.stdlib_module_names) - {"toril"}),
            "stores": sorted(name for name in sys.modules if name.startswith(("toril.stores", "sqlite3", "redis"))),
        }))
    """)

    assert seen == {"outsiders": [], "stores": []}


def test_toril_works_on_the_embedded_store_where_posix_is_missing() -> None:
    seen = seen_by("""
        import asyncio, json, os, socket, sys, tempfile, pathlib

        for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
            sys.modules[name] = None
        pair, family = socket.socketpair, socket.AF_UNIX
        socket.socketpair = lambda: pair(family)  # every system has pairs, some without this family
        del socket.AF_UNIX
        for name in ("fork", "register_at_fork", "getuid", "geteuid"):
            delattr(os, name)

        import toril

        async def main(path):
            app = toril.App(f"sqlite:///{path.as_posix()}")
            email = app.queue("email")

            @email.handler()
            async def welcome(name: str) -> str:
                return f"hello {name}"

            async with app:
                job = await welcome.add(name="Ada")
                return await job.result(timeout=20)

        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps({"result": asyncio.run(main(pathlib.Path(folder) / "jobs.db"))}))
    """)

    assert seen == {"result": "hello Ada"}


def test_every_public_name_is_there() -> None:
    seen = seen_by("""
        import json, toril
        print(json.dumps({
            "missing": [name for name in toril.__all__ if not hasattr(toril, name)],
            "sorted": list(toril.__all__) == sorted(toril.__all__),
        }))
    """)

    assert seen == {"missing": [], "sorted": True}
