"""Whether a server is set up as a store of jobs must be: from what it says of itself to findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from toril.model import Finding

OLDEST: Final = (6, 2)
FULL: Final = 0.9
FARTHEST_MS: Final = 1000
ASKED: Final = ("maxmemory-policy", "appendonly", "appendfsync", "save")
"""The settings that matter."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a server says of itself. `info`, `settings`: None where this user may not ask."""

    info: Mapping[str, str] | None
    settings: Mapping[str, str] | None
    lists_clients: bool = True
    ahead_ms: int | None = None  # its clock before this machine's

    def policy(self) -> str | None:
        return (self.info or {}).get("maxmemory_policy") or (self.settings or {}).get("maxmemory-policy")

    def appends(self) -> bool | None:
        told = (self.info or {}).get("aof_enabled") or (self.settings or {}).get("appendonly")
        return None if told is None else told in ("1", "yes")


def info_of(text: str) -> dict[str, str]:
    """The answer to INFO."""
    return dict(pair(line, ":") for line in text.splitlines() if ":" in line)


def pair(text: str, sign: str) -> tuple[str, str]:
    """What stands before and after a sign."""
    name, _, value = text.partition(sign)
    return name, value


def findings(said: Said, place: str, *, prefix: str, tagged: bool) -> list[Finding]:
    """What is wrong with a server. `tagged`: keys of one operation lie in one slot of a cluster."""
    info = said.info or {}
    found = [
        _age(info, place),
        _role(info, place),
        None if tagged else _cluster(info, place, prefix),
        _eviction(said, place),
        _memory(info, place),
        _persistence(said, place),
        _clock(said, place),
        *_unseen(said, place),
    ]
    return [finding for finding in found if finding is not None]


def _age(info: Mapping[str, str], place: str) -> Finding | None:
    version = info.get("redis_version", "")
    parts = version.split(".")[:2]
    if len(parts) < 2 or not all(part.isdigit() for part in parts) or tuple(map(int, parts)) >= OLDEST:
        return None
    return Finding("error", place, f"it is Redis {version}, and Toril needs 6.2 or newer", "upgrade the server")


def _role(info: Mapping[str, str], place: str) -> Finding | None:
    if info.get("role") != "slave":
        return None
    master = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
    message = f"it is a replica of {master}, and takes no writes"
    return Finding("error", place, message, f"connect to {master}, or find the master with redis+sentinel://")


def _cluster(info: Mapping[str, str], place: str, prefix: str) -> Finding | None:
    if info.get("cluster_enabled") != "1":
        return None
    message = (
        f"it is a node of a cluster, and the prefix {prefix!r} has no hash tag: a queue's keys lie in several slots"
    )
    return Finding("error", place, message, f"name it as redis+cluster://, and the prefix {{{prefix}}}")


def _eviction(said: Said, place: str) -> Finding | None:
    policy = said.policy()
    if policy is None or policy == "noeviction":
        return None
    message = f"its maxmemory-policy is {policy}: when its memory is full, it throws away jobs and locks"
    return Finding("error", place, message, "set maxmemory-policy to noeviction")


def _memory(info: Mapping[str, str], place: str) -> Finding | None:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not most or used < FULL * most:
        return None
    message = f"{100 * used // most} % of its maxmemory is used: when it is full, jobs are refused"
    return Finding("warning", place, message, "raise maxmemory, or keep fewer finished jobs")


def _persistence(said: Said, place: str) -> Finding | None:
    settings = said.settings or {}
    appends = said.appends()
    if appends and settings.get("appendfsync") == "no":
        message = (
            "its appendfsync is no: a power cut takes back what the system had not written yet, half a minute or so"
        )
        return Finding("warning", place, message, "set appendfsync to everysec or always")
    if appends is False and settings.get("save") == "":
        message = "it writes nothing to its disk: a restart loses all jobs"
        return Finding("warning", place, message, "set appendonly to yes")
    return None


def _clock(said: Said, place: str) -> Finding | None:
    if said.ahead_ms is None or abs(said.ahead_ms) <= FARTHEST_MS:
        return None
    where = "ahead of" if said.ahead_ms > 0 else "behind"
    message = (
        f"its clock is {abs(said.ahead_ms) / 1000:,.1f} s {where} this machine's: Toril allows for it, "
        "and Node's workers run delayed jobs too early or too late"
    )
    return Finding("warning", place, message, "let both machines keep the time with NTP")


def _unseen(said: Said, place: str) -> list[Finding]:
    missed: list[tuple[str, str]] = []
    if said.info is None:
        missed.append(("INFO", "its version, role and memory"))
    if said.settings is None:
        missed.append(("CONFIG GET", "whether and how it writes to its disk"))
    if not said.lists_clients:
        missed.append(("CLIENT LIST", "which workers of Node are there"))
    return [
        Finding(
            "warning",
            place,
            f"{command} is not allowed here, so {what} could not be looked at",
            f"allow this user {command}, or look yourself",
        )
        for command, what in missed
    ]
