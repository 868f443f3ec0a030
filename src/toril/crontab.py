"""When a cron pattern fires next, as BullMQ's workers reckon it.

A pattern has five fields (minute, hour, day of month, month, day of week), or six with the second first. What is left
out on the left is filled with `*`. A field is a list of values, ranges `a-b` and steps `*/n`, `a/n`, `a-b/n`; `?` is
`*`. Months and days have English names of three letters, and Sunday is 0 and 7. `L` is the last day of the month, `5L`
its last Friday, `1#2` its second Monday. When both days are told and neither is `*` or `?`, one of them is enough.

`H` stands for a value that is drawn from the seed, which is the same on every machine and in every run: `H` anywhere
in the field (a day of month up to 28, so that no month is left out), `H(a-b)` within a range, `H/n` and `H(a-b)/n` for
where the steps begin. Node draws another value, and without a seed another one each time.

The clock on the wall decides, where it is put forward or back, as it does in Node:

- What would fire while the clock is put forward fires as much later as the clock jumps, once: 2:30 at 3:30. When it jumps
  at midnight, nothing is made up for, unless the pattern may fire in the hour before midnight.
- What would fire twice, as the clock is put back, fires the first time only.
- A pattern of every hour fires by elapsed time, in the hour that is repeated, too.

Where Node's answer is none or wrong, as on Lord Howe, whose clock moves by half an hour, these rules hold all the same.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import zoneinfo
from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, tzinfo
from functools import lru_cache
from typing import Final

from toril.errors import ConfigError

_NICKNAMES: Final = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
    "@minutely": "0 * * * * *",
    "@secondly": "* * * * * *",
    "@weekdays": "0 0 0 * * 1-5",
    "@weekends": "0 0 0 * * 0,6",
}
_MAX_LENGTH: Final = 1000
_SPACES: Final = re.compile("[\t-\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]+")  # JavaScript's
_ANY: Final = ("*", "?")
_EVERY_HOUR: Final = (1 << 24) - 1
_LONGEST: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class _Field:
    """What one field of a pattern may hold: values from `low` to `high`, which may have names from `low` on."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    also: str = ""
    """What else it may hold, as a message lists it."""

    @property
    def allowed(self) -> str:
        numbers = f"{self.low}-{self.high}"
        return f"{numbers} or {self.names[0]}-{self.names[-1]}" if self.names else numbers

    def value(self, text: str) -> int:
        """The value that a number or a name stands for.

        Raises:
            ConfigError: the field has no such value.
        """
        if text.upper() in self.names:
            return self.low + self.names.index(text.upper())
        if not text.isdecimal() or not self.low <= int(text) <= self.high:
            raise ConfigError(f"{self.name} {text} is not allowed: it must be {self.allowed}")
        return int(text)


_SECOND: Final = _Field("second", 0, 59)
_MINUTE: Final = _Field("minute", 0, 59)
_HOUR: Final = _Field("hour", 0, 23)
_DATE: Final = _Field("day of month", 1, 31, also="L, ")
_MONTH: Final = _Field(
    "month", 1, 12, ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
)
_WEEKDAY: Final = _Field("day of week", 0, 7, ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"), "5L, 1#2, ")

_VALUE: Final = "[0-9]+|[A-Za-z]{3}"
_ITEM: Final = re.compile(rf"(?:(?P<any>[*?])|(?P<from>{_VALUE})(?:-(?P<to>{_VALUE}))?)(?:/(?P<step>[0-9]+))?")
_HASHED: Final = re.compile(rf"H(?:\((?P<from>{_VALUE})-(?P<to>{_VALUE})\))?(?:/(?P<step>[0-9]+))?")
_LAST_WEEKDAY: Final = re.compile(rf"(?P<day>H|{_VALUE})L")


# ------------------------------------------------------------------ fields


def _values(of: _Field, item: str, seed: str) -> range:
    """The values that an item of a list stands for."""
    if match := _HASHED.fullmatch(item):
        return _drawn(of, match, seed)
    match = _ITEM.fullmatch(item)
    if match is None:
        raise ConfigError(
            f"{of.name} {item!r} is not understood: it can be *, a value of {of.allowed}, a range a-b, "
            f"a step */n, {of.also}or a list of these"
        )
    if match["any"]:
        first, last = of.low, of.high
    else:
        first = of.value(match["from"])
        last = of.value(match["to"]) if match["to"] else of.high if match["step"] else first
    if first > last:
        end = 6 if of is _WEEKDAY else of.high
        raise ConfigError(f"{of.name} {item} runs backwards: write {first}-{end},{of.low}-{last}")
    return range(first, last + 1, _step(of, match["step"]))


def _step(of: _Field, text: str | None) -> int:
    step = 1 if text is None else int(text)
    if step == 0:
        raise ConfigError(f"{of.name} has steps of 0: a step must be 1 or more")
    return step


def _drawn(of: _Field, match: re.Match[str], seed: str) -> range:
    """The values of an item with `H`."""
    step = _step(of, match["step"])
    low, high = of.low, 6 if of is _WEEKDAY else of.high
    if match["from"]:
        first, last = (int(end) if end.isdecimal() else of.value(end) for end in match.group("from", "to"))
        low, high = max(low, first), min(of.high, last)
        if low > high:
            raise ConfigError(f"{of.name} {match[0]} has no value to draw: it must be within {of.allowed}")
    elif of is _DATE and not match["step"]:
        high = 28
    size = high - low + 1
    digest = hashlib.sha256(f"{seed}\0{of.name}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big")
    if match["step"] and step < size:
        return range(low + draw % step, high + 1, step)
    return range(low + draw % size, low + draw % size + 1)


def _items(of: _Field, text: str) -> list[str]:
    items = text.split(",")
    for item in items:
        if not item:
            raise ConfigError(f"{of.name} {text!r} has a comma without a value on each side")
        if items.count(item) > 1:
            raise ConfigError(f"{of.name} {text!r} has {item} twice: leave one out")
    return items


def _mask(of: _Field, items: list[str], seed: str) -> int:
    """The values of a list, as the bits of a number. What is drawn may fall on what is told."""
    told = drawn = 0
    for item in items:
        bits = _bits(value % 7 if of is _WEEKDAY else value for value in _values(of, item, seed))
        if item.startswith("H"):
            drawn |= bits
            continue
        if twice := bits & told:
            raise ConfigError(f"{of.name} {','.join(items)!r} has {twice.bit_length() - 1} twice: leave one out")
        told |= bits
    return told | drawn


def _bits(values: Iterable[int]) -> int:
    mask = 0
    for value in values:
        mask |= 1 << value
    return mask


def _bit_from(mask: int, at: int) -> int:
    """The first bit of a mask that is set, from bit `at` on; -1 when there is none."""
    rest = mask >> at
    return at + (rest & -rest).bit_length() - 1 if rest else -1


# ------------------------------------------------------------------ days

_SEVENTHS: Final = tuple(_bits(range(rest, 32, 7)) & ~1 for rest in range(7))
"""The days of a month, by what is left of them divided by 7."""


@dataclass(frozen=True, slots=True)
class _Days:
    """On which days of a month a pattern fires."""

    dates: int
    last_date: bool
    weekdays: int
    last_weekdays: int
    nth: int | None
    both: bool
    """Whether both must match, because one of them is any."""

    def of_month(self, first: int, length: int) -> int:
        """The days of a month of this length, that begins on weekday `first` (0 is Sunday), as the bits of a number."""
        month = _bits(range(1, length + 1))
        dates = self.dates | (self.last_date << length)
        weekdays = _on(self.weekdays, first)
        if self.nth is not None:
            weekdays &= _bits(range(7 * self.nth - 6, 7 * self.nth + 1))
        weekdays |= _on(self.last_weekdays, first) & _bits(range(length - 6, length + 1))
        return month & (dates & weekdays if self.both else dates | weekdays)


def _on(weekdays: int, first: int) -> int:
    """The days of a month that begins on weekday `first` that are one of these weekdays."""
    days = 0
    for weekday in range(7):
        if weekdays >> weekday & 1:
            days |= _SEVENTHS[(weekday - first + 1) % 7]
    return days


def _days(dates: str, weekdays: str, seed: str) -> _Days:
    date_items = _items(_DATE, dates)
    last_date = "L" in date_items
    weekday_items, nth = _items(_WEEKDAY, weekdays), None
    if "#" in weekdays:
        day, _, number = weekdays.partition("#")
        if not re.fullmatch(rf"[*?H]|{_VALUE}", day) or not re.fullmatch("0*[1-5]", number):
            raise ConfigError(
                f"{_WEEKDAY.name} {weekdays!r} is not understood: with #, it is one weekday and its number in the month, "
                "1 to 5, such as 1#2 for the second Monday"
            )
        weekday_items, nth = [day], int(number)
    lasts = {item: match["day"] for item in weekday_items if (match := _LAST_WEEKDAY.fullmatch(item))}
    return _Days(
        dates=_mask(_DATE, [item for item in date_items if item != "L"], seed),
        last_date=last_date,
        weekdays=_mask(_WEEKDAY, [item for item in weekday_items if item not in lasts], seed),
        last_weekdays=_mask(_WEEKDAY, list(lasts.values()), seed),
        nth=nth,
        both=dates in _ANY or weekdays in _ANY,
    )


# ------------------------------------------------------------------ zones

_DAY_S: Final = 24 * 60 * 60
_BLOCK_S: Final = 1 << 24
_BEGIN_S: Final = -(1 << 35)
_END_S: Final = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp()) // _BLOCK_S * _BLOCK_S
"""The first and the last time that is reckoned with: in the years 881 and 9998."""
_EPOCH: Final = date(1970, 1, 1).toordinal()


def check_tz(tz: str) -> str:
    """`tz`, if it is the name of a time zone.

    Raises:
        ConfigError: it is not one; the message has the names that come closest.
    """
    if not isinstance(tz, str):
        raise ConfigError(f"a time zone is a name such as 'Europe/Berlin', not {tz!r}")
    _zone(tz)
    return tz


@lru_cache
def _zone(tz: str) -> tzinfo:
    if tz == "UTC":
        return UTC
    names = zoneinfo.available_timezones() - {"localtime"}  # another zone on each machine
    if tz in names:
        return zoneinfo.ZoneInfo(tz)
    if not names:
        raise ConfigError(f"time zone {tz!r}: this system has no time zones besides UTC; install the package tzdata")
    by_lower = {name.lower(): name for name in names}
    near = [by_lower[name] for name in difflib.get_close_matches(tz.lower(), sorted(by_lower), cutoff=0.6)]
    near += [name for name in sorted(names) if tz and name.lower().endswith(f"/{tz.lower()}") and name not in near]
    hint = (
        f": did you mean {' or '.join(near)}?" if near else ": write the name of a city's zone, such as Europe/Berlin"
    )
    raise ConfigError(f"there is no time zone {tz!r}{hint}")


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A time during which the clocks of a zone keep their distance from UTC. All in seconds."""

    begin: int
    end: int
    before: int
    """Their distance before the stretch began."""
    offset: int


@lru_cache(maxsize=1024)
def _stretches(tz: str, block: int) -> tuple[_Stretch, ...]:
    """The stretches of a block of time. What the first begins with is looked for two days back, too."""
    zone = _zone(tz)
    end = (block + 1) * _BLOCK_S
    begin = at = block * _BLOCK_S - 2 * _DAY_S
    before = offset = _offset(zone, begin)
    found: list[_Stretch] = []
    while at < end:
        later = min(at + _DAY_S, end)
        if _offset(zone, later) != offset:
            change = _change(zone, at, later)
            found.append(_Stretch(begin, change, before, offset))
            begin, before, offset = change, offset, _offset(zone, change)
            later = change
        at = later
    return (*found, _Stretch(begin, end, before, offset))


def _offset(zone: tzinfo, at: int) -> int:
    distance = datetime.fromtimestamp(at, zone).utcoffset()
    assert distance is not None
    return distance.days * _DAY_S + distance.seconds


def _change(zone: tzinfo, early: int, late: int) -> int:
    """The first second after `early` with another offset than it has; `late` has another."""
    offset = _offset(zone, early)
    while late - early > 1:
        middle = (early + late) // 2
        if _offset(zone, middle) == offset:
            early = middle
        else:
            late = middle
    return late


def _stretch(tz: str, at: int) -> _Stretch:
    return next(stretch for stretch in _stretches(tz, at // _BLOCK_S) if at < stretch.end)


# ------------------------------------------------------------------ patterns


@dataclass(frozen=True, slots=True)
class Pattern:
    """A cron pattern; `parse` makes it. Times and days are kept as the bits of numbers."""

    text: str
    seconds: int = field(repr=False)
    minutes: int = field(repr=False)
    hours: int = field(repr=False)
    months: int = field(repr=False)
    days: tuple[tuple[int, ...], ...] = field(repr=False)
    """The days of a month: by its length from 28 on, and the weekday it begins on."""

    def next_ms(self, after_ms: int, tz: str = "UTC") -> int | None:
        """The first time strictly after `after_ms` at which it fires by the clocks of `tz`, in ms since 1970.

        None when it never does again, as on a 31st of April.

        Raises:
            ConfigError: there is no time zone of this name.
        """
        at = max(after_ms // 1000 + 1, _BEGIN_S)
        while at < _END_S:
            stretch = _stretch(tz, at)
            wall = self._in_stretch(stretch, at)
            if wall is None:
                return None
            fires = wall - stretch.offset
            if fires < stretch.end:
                return fires * 1000
            near = stretch.end - at < 2 * _DAY_S  # the walls after `at` may be seen again
            at = stretch.end if near else max(stretch.end, fires - 2 * _DAY_S)
        return None

    def _in_stretch(self, stretch: _Stretch, at: int) -> int | None:
        """What the wall shows when it fires first, from `at` on, if the stretch lasted for ever. In seconds, as below."""
        wall = at + stretch.offset
        jump = stretch.offset - stretch.before
        if jump == 0 or at > stretch.begin or self.hours == _EVERY_HOUR:
            return self._wall_from(wall)
        if jump < 0:  # put back: what the wall shows again has fired
            return self._wall_from(wall - jump)
        found = self._wall_from(wall)
        missed = self._wall_from(wall - jump)
        if found is None or missed is None or missed >= wall or self._leaves_out(wall - jump):
            return found
        return min(found, missed + jump)

    def _leaves_out(self, wall: int) -> bool:
        """Whether what is missed as the clock jumps from `wall` on is not made up for, as at midnight it may be."""
        day, second = divmod(wall, _DAY_S)
        return second == 0 and not (self.hours >> 23 & 1 and self._day_from(day - 1) == day - 1)

    def _wall_from(self, wall: int) -> int | None:
        """The first that matches, from `wall` on."""
        day, second = divmod(wall, _DAY_S)
        found = self._day_from(day)
        if found is None:
            return None
        if found == day:
            time = self._time_from(second)
            if time is not None:
                return day * _DAY_S + time
            found = self._day_from(day + 1)
            if found is None:
                return None
        first = self._time_from(0)
        assert first is not None
        return found * _DAY_S + first

    def _time_from(self, second: int) -> int | None:
        """The first second of a day that matches, from `second` on."""
        minute, second = divmod(second, 60)
        hour, minute = divmod(minute, 60)
        if self.hours >> hour & 1:
            if self.minutes >> minute & 1 and (found := _bit_from(self.seconds, second)) >= 0:
                return hour * 3600 + minute * 60 + found
            if (found := _bit_from(self.minutes, minute + 1)) >= 0:
                return hour * 3600 + found * 60 + _bit_from(self.seconds, 0)
        hour = _bit_from(self.hours, hour + 1)
        if hour < 0:
            return None
        return hour * 3600 + _bit_from(self.minutes, 0) * 60 + _bit_from(self.seconds, 0)

    def _day_from(self, day: int) -> int | None:
        """The first day that matches, from `day` on, counted from 1970. The calendar repeats after 400 years."""
        when = date.fromordinal(day + _EPOCH)
        year, month, at = when.year, when.month, when.day
        for _ in range(400 * 12):
            if self.months >> month & 1:
                weekday, length = monthrange(year, month)
                found = _bit_from(self.days[length - 28][(weekday + 1) % 7], at)
                if found >= 0:
                    return date(year, month, found).toordinal() - _EPOCH
            at = 1
            month += 1
            if month > 12:
                year, month = year + 1, 1
                if year > 9998:
                    return None
        return None


def parse(text: str, *, seed: str = "") -> Pattern:
    """The pattern that `text` means; `seed` is what its `H` are drawn from.

    Raises:
        ConfigError: it is not a pattern. The message names the field, its value and what is allowed.
    """
    if not isinstance(text, str):
        raise ConfigError(f"a cron pattern is a text such as '0 9 * * 1-5', not {text!r}")
    return _parsed(text, seed)


@lru_cache(maxsize=4096)
def _parsed(text: str, seed: str) -> Pattern:
    try:
        return _read(text, seed)
    except ConfigError as error:
        raise ConfigError(f"cron pattern {text[:100]!r}: {error}") from None


def _read(text: str, seed: str) -> Pattern:
    if len(text) > _MAX_LENGTH:
        raise ConfigError(f"it has {len(text)} characters, more than {_MAX_LENGTH}")
    words = _SPACES.sub(" ", _NICKNAMES.get(text, text)).split(" ")
    words = [word for word in words if word]
    if not words:
        raise ConfigError("it is empty: write five fields, such as '0 9 * * 1-5'")
    if words[0].startswith("@"):
        raise ConfigError(f"{words[0]} is not known: it can be {', '.join(_NICKNAMES)}, without anything beside it")
    if len(words) > 6:
        raise ConfigError(
            f"it has {len(words)} fields, and can have six at most: second, minute, hour, day of month, month, day of week"
        )
    if len(words) < 6:
        words = ["0", *["*"] * (5 - len(words)), *words]
    second, minute, hour, dates, month, weekdays = words
    hours = _mask(_HOUR, _items(_HOUR, hour), seed)
    months = _mask(_MONTH, _items(_MONTH, month), seed)
    days = _days(dates, weekdays, seed)
    if months.bit_count() == 1 and weekdays in _ANY and not days.last_date:
        longest = _LONGEST[months.bit_length() - 2]
        if not days.dates & _bits(range(1, longest + 1)):
            raise ConfigError(f"{_DATE.name} {dates} never comes: month {month} has {longest} days at most")
    return Pattern(
        text,
        seconds=_mask(_SECOND, _items(_SECOND, second), seed),
        minutes=_mask(_MINUTE, _items(_MINUTE, minute), seed),
        hours=hours,
        months=months,
        days=tuple(tuple(days.of_month(first, length) for first in range(7)) for length in range(28, 32)),
    )
