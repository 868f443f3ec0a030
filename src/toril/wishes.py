"""What a handler may wish for its own job, by returning or raising it.

They are `BaseException`s, so that `except Exception` in a handler does not swallow them, and they may be returned, so that
a wish can be a plain value. `R` of a typed handler never contains them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime

from toril.errors import ConfigError
from toril.model import AwaitingChildren, Delayed, Outcome, Throttled
from toril.options import Duration, to_ms


class Wish(BaseException, ABC):
    """Something else than an end: the job runs again, and no attempt is spent."""

    @abstractmethod
    def as_outcome(self, now_ms: int) -> Outcome:
        """What the store is told."""


class Delay(Wish):
    """Run this job again after a while, or at a moment (a datetime with a time zone)."""

    def __init__(self, after: Duration | datetime) -> None:
        if isinstance(after, datetime) and after.tzinfo is None:
            raise ConfigError(f"Delay wants a datetime with a time zone, not {after!r}: use datetime.now(UTC) + …")
        super().__init__(after)
        self._at_ms = round(after.timestamp() * 1000) if isinstance(after, datetime) else None
        self._after_ms = 0 if isinstance(after, datetime) else to_ms(after, "Delay")

    def as_outcome(self, now_ms: int) -> Outcome:
        return Delayed(now_ms + self._after_ms if self._at_ms is None else max(now_ms, self._at_ms))


class Throttle(Wish):
    """Put this job back in front, and hand out no job of its queue for a while: the other side asked for patience."""

    def __init__(self, retry_after: Duration) -> None:
        super().__init__(retry_after)
        self.for_ms = to_ms(retry_after, "Throttle")

    def as_outcome(self, now_ms: int) -> Outcome:
        return Throttled(self.for_ms)


class AwaitChildren(Wish):
    """Run this job again when its children have ended; at once if it has none left."""

    def as_outcome(self, now_ms: int) -> Outcome:
        return AwaitingChildren()
