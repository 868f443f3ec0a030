"""What processes say while faults are done to them, and the checkers that read it afterwards.

A history is a file of lines, `<monotonic seconds> <pid> <what> <job id>`, each written by one unbuffered append: a line
that is there was said, whatever became of the process right after. A checker returns its complaints; none is good.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

TERMINAL = ("completed", "failed")


@dataclass(frozen=True, slots=True)
class Line:
    """Something that a process said of a job. The clock is the same for all processes of the machine."""

    at_s: float
    pid: int
    what: str  # ready, added, started, finished, done, and what a program says besides
    job_id: str = "-"


@dataclass(frozen=True, slots=True)
class Kill:
    """A process that was killed, and when."""

    pid: int
    at_s: float


class Pen:
    """Writes lines to a history, and rings at a pipe that somebody may be waiting at."""

    def __init__(self, path: Path, bell: int | None = None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._bell = bell

    def tell(self, what: str, job_id: str = "-") -> None:
        """Append a line."""
        os.write(self._file, f"{time.monotonic():.6f} {os.getpid()} {what} {job_id}\n".encode())
        if self._bell is not None:
            os.write(self._bell, b".")


def lines_of(text: str) -> list[Line]:
    """The whole lines of a history."""
    lines: list[Line] = []
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            at_s, pid, what, job_id = line.split()
            lines.append(Line(float(at_s), int(pid), what, job_id))
    return lines


def read_lines(path: Path) -> list[Line]:
    """What was said so far."""
    return lines_of(path.read_text(encoding="utf-8")) if path.exists() else []


def said(lines: Iterable[Line], what: str) -> list[str]:
    """The jobs of which something was said, in order, each as often as it was."""
    return [line.job_id for line in lines if line.what == what]


# ------------------------------------------------------------------ checkers


def lost(lines: Iterable[Line], completed: Collection[str]) -> list[str]:
    """Jobs whose add was acknowledged, and which have not completed."""
    there = set(completed)
    return [
        f"{job_id} was acknowledged and has not completed" for job_id in said(lines, "added") if job_id not in there
    ]


def unasked(chosen: Collection[str], there: Collection[str]) -> list[str]:
    """Jobs that nobody has asked for."""
    return [f"{job_id} is there, and nobody added it" for job_id in sorted(set(there) - set(chosen))]


def finished_twice(endings: Iterable[str], attempts: Mapping[str, int]) -> list[str]:
    """Jobs whose record says more than one ending. `endings`: the job of each terminal event."""
    counted = Counter(endings)
    twice = [f"{job_id} ended {count} times in the event log" for job_id, count in counted.items() if count != 1]
    silent = [f"{job_id} has ended without an event" for job_id in attempts if job_id not in counted]
    tried = [f"{job_id} counts {made} attempts" for job_id, made in attempts.items() if made != 1]
    return twice + silent + tried


def never_run(lines: Iterable[Line], completed: Iterable[str]) -> list[str]:
    """Jobs that are recorded as completed, and of which no run came to its end."""
    run = set(said(lines, "finished"))
    return [f"{job_id} has completed without a run" for job_id in completed if job_id not in run]


def runs_of(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """The starts of each job, in order."""
    starts: dict[str, list[Line]] = {}
    for line in sorted((line for line in lines if line.what == "started"), key=lambda line: line.at_s):
        starts.setdefault(line.job_id, []).append(line)
    return starts


def unexplained_repeats(lines: Iterable[Line], kills: Iterable[Kill]) -> list[str]:
    """Runs of a job beyond its first that do not follow the killing of the process that ran it before."""
    killed = {kill.pid: kill.at_s for kill in kills}
    complaints: list[str] = []
    for job_id, starts in runs_of(lines).items():
        for before, after in pairwise(starts):
            if killed.get(before.pid, float("inf")) > after.at_s:
                complaints.append(
                    f"{job_id} ran again in {after.pid}, {after.at_s - before.at_s:.3f} s after {before.pid} had begun "
                    "it, which nobody had killed"
                )
    return complaints


def miscounted(kept: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """States whose count differs from the jobs that are in them."""
    return [
        f"{kept.get(state, 0)} jobs are counted as {state}, and {found.get(state, 0)} are there"
        for state in sorted({*kept, *found})
        if kept.get(state, 0) != found.get(state, 0)
    ]
