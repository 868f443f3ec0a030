"""Running the command: in this process for its answers, as a process of its own where signals and exits matter."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from toril import Call, JobOptions, Queue, connect
from toril.flow import add_flows
from toril.model import Claim, Completed, JobRef, Outcome, Settlement, Slots, Unit, Wanted
from toril.options import ChildPolicy
from toril.store import Store

T = TypeVar("T")

JOBS = """
import threading
from toril import App, Backoff, Context

app = App()
email = app.queue("email", concurrency=2, attempts=5, backoff=Backoff.exponential(30, max_delay=600))


@email.handler("welcome-email")
async def welcome_email(user_id: str) -> str:
    return f"sent to {user_id}"


@email.handler("stuck")
def stuck(ctx: Context) -> None:
    print("stuck has begun", flush=True)
    threading.Event().wait()


other = object()
"""
"""A small app, as a user would have it in `jobs.py`."""


@dataclass(frozen=True)
class Answer:
    """What a command has said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Toril = Callable[..., Answer]


# ------------------------------------------------------------------ a past for the command to find


def given(directory: Path, past: Callable[[Store], Awaitable[T]]) -> T:
    """Let something happen in the store that the command will look at."""

    async def happen() -> T:
        store = connect(f"sqlite:///{directory / 'toril.db'}")
        try:
            return await past(store)
        finally:
            await store.close()

    return asyncio.run(happen())


def given_job(directory: Path, name: str = "welcome-email", data: Any = None, **options: Any) -> str:
    """A job of the queue `email`; its id."""
    given_options: JobOptions = {**options}  # type: ignore[typeddict-item]

    async def past(store: Store) -> str:
        # Straight to the store: other producers may have chosen names that Toril would refuse.
        job = Queue("email", store).new_job(Call("welcome-email", data, given_options))
        (receipt,) = await store.add([Unit((replace(job, name=name),))])
        return receipt.added[0].ref.id

    return given(directory, past)


def given_flow(directory: Path, root: Call, policy: ChildPolicy = ChildPolicy.FAIL) -> JobRef:
    """A tree of jobs; its root."""

    async def past(store: Store) -> JobRef:
        (job,) = await add_flows(store, lambda name: Queue(name, store), [root], policy=policy)
        return job.ref

    return given(directory, past)


async def claim_one(store: Store, worker: str = "w1", lock_ms: int = 30_000, queue: str = "email") -> Claim:
    """Take the next job, as a worker would."""
    token = os.urandom(4).hex()
    claimed = await store.claim(Wanted(worker, token, lock_ms, (Slots(queue, 1),)))
    return claimed.claims[0]


def given_outcome(directory: Path, outcome: Outcome | None = None) -> None:
    """The next job of `email` has run, and this is what became of it."""

    async def past(store: Store) -> None:
        claim = await claim_one(store)
        await store.settle([Settlement(claim, Completed('"done"') if outcome is None else outcome)])

    given(directory, past)


# ------------------------------------------------------------------ a process


def environment(directory: Path, **changed: str) -> dict[str, str]:
    """An environment that says nothing of its own about Toril."""
    ours = ("TORIL_", "REDIS_", "UPSTASH_", "ENABLE_", "WORKER_CONCURRENCY", "COLUMNS", "NO_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONUNBUFFERED": "1", "HOME": str(directory), **changed}


def run(directory: Path, *arguments: str, given: str = "", environ: Mapping[str, str] | None = None) -> Answer:
    """Run the command as its own process, to its end."""
    ended = subprocess.run(
        [sys.executable, "-m", "toril", *arguments],
        cwd=directory,
        env=environment(directory, **(environ or {})),
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Answer(ended.returncode, ended.stdout, ended.stderr)


class Running:
    """A command that goes on; its lines are read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[str] = []
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._said:
                self._lines.append(line.rstrip("\n"))
                self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def line_with(self, words: str) -> str:
        """Wait until a line with these words was written."""

        def found() -> str | None:
            return next((line for line in self._lines if words in line), None)

        with self._said:
            self._said.wait_for(lambda: found() is not None or not self._reader.is_alive(), timeout=60)
            line = found()
        assert line is not None, f"nothing with {words!r} in:\n" + "\n".join(self._lines)
        return line

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """Wait for its end; how it ended."""
        code = self._process.wait(timeout=60)
        self._reader.join()
        return code

    @property
    def lines(self) -> list[str]:
        return list(self._lines)


@contextmanager
def started(
    directory: Path, *arguments: str, environ: Mapping[str, str] | None = None
) -> Generator[Running, None, None]:
    """A command that goes on until the test ends it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "toril", *arguments],
        cwd=directory,
        env=environment(directory, **(environ or {})),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with process:
            try:
                yield Running(process)
            finally:
                if process.poll() is None:
                    process.kill()
    finally:
        process.wait()
