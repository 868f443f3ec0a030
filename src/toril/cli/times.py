"""Moments and durations for people to read: relative, and absolute in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from toril.options import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = ((DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "min"), (SECOND_MS, "s"))


def iso(at_ms: int) -> str:
    """A moment in UTC to the second: `2026-01-31T12:00:01Z`."""
    try:
        return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="seconds").replace("+00:00", "Z")
    except OverflowError:
        return f"{at_ms} ms after 1970"


def duration(ms: int) -> str:
    """A duration in its two largest units: `12 ms`, `1.5 s`, `3 min 5 s`, `2 d 4 h`."""
    if ms < SECOND_MS:
        return f"{ms} ms"
    if ms < MINUTE_MS:
        return f"{ms / SECOND_MS:.3g} s" if ms < 59_950 else "60 s"
    n = next(n for n, (size, _) in enumerate(_UNITS) if ms >= size)
    (large, unit), (small, subunit) = _UNITS[n], _UNITS[n + 1]
    whole, rest = divmod(ms, large)
    part = rest // small
    return f"{whole} {unit} {part} {subunit}" if part else f"{whole} {unit}"


def ago(at_ms: int, now_ms: int) -> str:
    """A moment as seen from now: `3 min ago`, `in 5 s`."""
    if at_ms > now_ms:
        return f"in {_rough(at_ms - now_ms)}"
    return "just now" if now_ms - at_ms < SECOND_MS else f"{_rough(now_ms - at_ms)} ago"


def moment(at_ms: int, now_ms: int) -> str:
    """A moment both ways: `3 min ago (2026-01-31T12:00:01Z)`."""
    return f"{ago(at_ms, now_ms)} ({iso(at_ms)})"


def until(at_ms: int, now_ms: int) -> str:
    """The end of a time, both ways: `2026-01-31T12:00:01Z, in 5 s`."""
    return f"{iso(at_ms)}, {ago(at_ms, now_ms)}"


def _rough(ms: int) -> str:
    """A duration in its largest unit, or two where the second still matters."""
    return duration(ms) if ms < SECOND_MS or ms >= MINUTE_MS else f"{round(ms / SECOND_MS)} s"
