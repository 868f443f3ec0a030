"""Cron patterns against the real cron-parser, which is asked as BullMQ asks it: anew each time, after the time before.

Every difference is listed here, with its reason; an entry that nothing needs fails.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from interop.peers import NODE
from toril.crontab import parse
from toril.errors import ConfigError
from toril.options import DAY_MS

pytestmark = pytest.mark.usefixtures("nodes")  # that is where it is said what becomes of this without Node

PATTERNS = 1500
FIRES = 6
SEED = 20260329

Asked = tuple[str, str, int, int]
"""A pattern, a zone, after which ms, and how many times."""


def ask(asked: Sequence[Asked] = (), texts: Sequence[str] = ()) -> tuple[list[list[int | None]], list[bool]]:
    """What cron-parser says: the times of each that is asked, None where it finds none, and whether it accepts each text."""
    given = json.dumps({"asked": asked, "texts": texts})
    command = ["node", str(NODE / "cron.mjs")]
    ran = subprocess.run(command, cwd=NODE, input=given, capture_output=True, text=True, encoding="utf-8", check=True)
    said: dict[str, Any] = json.loads(ran.stdout)
    return said["fires"], said["accepted"]


def ms(text: str, tz: str = "UTC") -> int:
    """What the clocks of a zone show, in ms; it may have an offset, too."""
    at = datetime.fromisoformat(text)
    return round((at if at.tzinfo else at.replace(tzinfo=ZoneInfo(tz))).timestamp() * 1000)


def shown(at_ms: int | None, tz: str) -> str:
    return "none" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, ZoneInfo(tz)).isoformat()


# ------------------------------------------------------------------ patterns by chance


class Drawn:
    """Patterns of every form, drawn with a fixed seed; hours near the change of clocks are drawn more often."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def patterns(self, count: int) -> list[str]:
        """So many patterns, all different."""
        found: dict[str, None] = {}
        while len(found) < count:
            found[self._pattern()] = None
        return list(found)

    def start_ms(self, changes: Sequence[str]) -> int:
        """A time near one of the changes."""
        return ms(self._rng.choice(changes) + "+00:00") + self._rng.randint(-30 * 3600, 3 * 3600) * 1000

    def _pattern(self) -> str:
        if self._often(0.02):
            return self._rng.choice(NICKNAMES)
        if self._often(0.02):
            return self._rng.choice([self._weekday(), f"{self._month()} {self._weekday()}", f"{self._date()} * *"])
        fields = [self._field(0, 59), self._hour(), self._date(), self._month(), self._weekday()]
        if self._often(0.35):
            fields.insert(0, self._field(0, 59))
        return " ".join(fields)

    def _hour(self) -> str:
        return self._rng.choice(HOURS) if self._often(0.4) else self._field(0, 23, any_share=0.35)

    def _date(self) -> str:
        return (
            self._rng.choice(["L", "L,1", "15,L", "1-3,L"]) if self._often(0.12) else self._field(1, 31, any_share=0.55)
        )

    def _month(self) -> str:
        return self._field(1, 12, MONTHS, any_share=0.75)

    def _weekday(self) -> str:
        day = self._rng.choice([*"01234567", *WEEKDAYS])
        special = [f"{day}L", f"{day}#{self._rng.randint(1, 5)}", "1,5L", "5L,0", "1L,3L", "*#2"]
        return self._rng.choice(special) if self._often(0.15) else self._field(0, 7, WEEKDAYS, any_share=0.6)

    def _field(self, low: int, high: int, names: Sequence[str] = (), *, any_share: float = 0.4) -> str:
        if self._often(any_share):
            return self._rng.choice("****?")
        if self._often(0.4):
            values = range(low, high if names is WEEKDAYS else high + 1)  # 0 and 7 are one day
            return ",".join(map(str, sorted(self._rng.sample(values, self._rng.randint(2, 4)))))
        return self._item(low, high, names)

    def _item(self, low: int, high: int, names: Sequence[str]) -> str:
        first, last = sorted((self._rng.randint(low, high), self._rng.randint(low, high)))
        a, b = self._spelt(first, low, names), self._spelt(last, low, names)
        step = self._rng.randint(1, high)
        return self._rng.choice([a, a, f"{a}-{b}", f"{a}-{b}/{step}", f"*/{step}", f"{a}/{step}", f"?/{step}"])

    def _spelt(self, value: int, low: int, names: Sequence[str]) -> str:
        if value - low < len(names) and self._often(0.4):
            name = names[value - low]
            return self._rng.choice([name, name.lower(), name.title()])
        return str(value)

    def _often(self, share: float) -> bool:
        return self._rng.random() < share


NICKNAMES = [
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@hourly",
    "@minutely",
    "@secondly",
    "@weekdays",
    "@weekends",
]
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
HOURS = ["0", "1", "2", "3", "23", "1-3", "0-4", "22-23", "1,2", "2,3", "0,23", "*/1", "*/2", "*/3", "0-23"]

ZONES = {
    "UTC": ["2026-03-29T01:00", "2026-12-31T23:00"],
    "Europe/Berlin": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "America/New_York": ["2026-03-08T07:00", "2026-11-01T06:00"],
    "America/Santiago": ["2026-09-06T04:00", "2026-04-05T03:00"],
    "Australia/Lord_Howe": [*["2026-10-03T15:30"] * 39, "2026-04-04T15:00"],  # the last is slow: see below
    "Africa/Casablanca": ["2026-02-15T02:00", "2026-03-22T02:00"],
    "Asia/Kolkata": ["2026-02-28T20:00", "2026-06-30T18:29"],
}
"""When the clocks change, or a day ends, in UTC."""


@dataclass(frozen=True)
class Excuse:
    """What may differ: answers beyond a change of the zone's clocks, when it was asked before the change."""

    zone: str
    forward: bool
    reason: str

    def covers(self, zone: str, after_ms: int, theirs_ms: int | None, ours_ms: int | None) -> bool:
        if zone != self.zone:
            return False
        until_ms = max(theirs_ms or 0, ours_ms or 0)
        offsets = [_offset(zone, min(at_ms, until_ms)) for at_ms in range(after_ms, until_ms + DAY_MS, DAY_MS)]
        return any((later > early) if self.forward else (later < early) for early, later in pairwise(offsets))


def _offset(zone: str, at_ms: int) -> timedelta:
    offset = datetime.fromtimestamp(at_ms / 1000, ZoneInfo(zone)).utcoffset()
    assert offset is not None
    return offset


EXCUSES = [
    Excuse(
        "Australia/Lord_Howe",
        forward=True,
        reason="2:00 becomes 2:30: cron-parser goes on at 3:00 and leaves out what is skipped and what is left of the hour",
    ),
    Excuse(
        "Australia/Lord_Howe",
        forward=False,
        reason="2:00 becomes 1:30: cron-parser throws (loop limit exceeded), or leaves out what is repeated",
    ),
]


@pytest.mark.parametrize("zone", ZONES)
def test_patterns_fire_as_they_do_in_node(zone: str) -> None:
    drawn = Drawn(SEED)
    patterns = drawn.patterns(PATTERNS)
    starts = [drawn.start_ms(ZONES[zone]) for _ in patterns]
    fires, _ = ask([(text, zone, start, FIRES) for text, start in zip(patterns, starts, strict=True)])

    needed: set[Excuse] = set()
    for text, start, times in zip(patterns, starts, fires, strict=True):
        for after_ms, theirs, ours in _differing(text, zone, start, times):
            excuses = {excuse for excuse in EXCUSES if excuse.covers(zone, after_ms, theirs, ours)}
            assert excuses, (
                f"{text!r} after {shown(after_ms, zone)}: Node {shown(theirs, zone)}, Toril {shown(ours, zone)}"
            )
            needed |= excuses

    assert needed == {excuse for excuse in EXCUSES if excuse.zone == zone}


def _differing(
    text: str, zone: str, after_ms: int, fires: Sequence[int | None]
) -> Iterator[tuple[int, int | None, int | None]]:
    """After what it fires otherwise, and each side's answer."""
    pattern = parse(text)
    for theirs in fires:
        ours = pattern.next_ms(after_ms, zone)
        if ours != theirs:
            yield after_ms, theirs, ours
        if theirs is not None:
            after_ms = theirs


def test_node_finds_six_times_of_each_pattern_in_berlin() -> None:
    zone = "Europe/Berlin"
    drawn = Drawn(SEED)
    fires, _ = ask([(text, zone, drawn.start_ms(ZONES[zone]), FIRES) for text in drawn.patterns(50)])

    assert all(len(times) == FIRES and None not in times for times in fires)


# ------------------------------------------------------------------ what cron-parser gets wrong, case by case

WRONG: dict[str, list[tuple[str, str, str, str, str]]] = {
    # reason: pattern, zone, after, Node's answer, Toril's
    "throws where the clock is put back by half an hour": [
        ("0 2 * * *", "Australia/Lord_Howe", "2026-04-04T22:00", "none", "2026-04-05T02:00:00+10:30"),
        ("0 * * * *", "Australia/Lord_Howe", "2026-04-05T01:00", "none", "2026-04-05T02:00:00+10:30"),
    ],
    "leaves out the half hour that is repeated, though it is every hour": [
        (
            "30 * * * *",
            "Australia/Lord_Howe",
            "2026-04-05T01:30+11:00",
            "2026-04-05T02:30:00+10:30",
            "2026-04-05T01:30:00+10:30",
        )
    ],
    "leaves out what a jump of half an hour skips, where one of an hour makes up for it": [
        (
            "0 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T22:00",
            "2026-10-05T02:00:00+11:00",
            "2026-10-04T02:30:00+11:00",
        )
    ],
    "leaves out 2:30, which the wall shows as the clock jumps from 2:00": [
        (
            "30 * * * *",
            "Australia/Lord_Howe",
            "2026-10-04T01:30",
            "2026-10-04T03:30:00+11:00",
            "2026-10-04T02:30:00+11:00",
        )
    ],
    "takes the second midnight of a day that has two, if nothing was due in the hour before": [
        ("0 0 * * *", "America/Havana", "2026-10-31T22:00", "2026-11-01T00:00:00-05:00", "2026-11-01T00:00:00-04:00"),
        ("0 0 * * *", "Atlantic/Azores", "2026-10-24T22:00", "2026-10-25T00:00:00-01:00", "2026-10-25T00:00:00+00:00"),
    ],
    "leaves out a whole day before the clock jumps in its last hour": [
        ("0 3 * * *", "America/Nuuk", "2026-03-27T23:30", "2026-03-29T03:00:00-01:00", "2026-03-28T03:00:00-02:00")
    ],
    "takes a jump of two hours for one of an hour": [
        ("9 2 * * *", "Antarctica/Troll", "2026-03-29T00:40", "2026-03-29T03:09:00+02:00", "2026-03-29T04:09:00+02:00")
    ],
    "leaves out the hour in whose midst the clock jumps": [
        ("0 2 * * *", "Pacific/Chatham", "2026-09-27T01:58", "2026-09-27T04:00:00+13:45", "2026-09-27T02:00:00+12:45")
    ],
    "asked in the last fraction of a second before a change, forgets a rule or a year": [
        (
            "0 0 * * *",
            "America/Santiago",
            "2026-09-05T23:59:59.500",
            "2026-09-06T01:00:00-03:00",
            "2026-09-07T00:00:00-03:00",
        ),
        (
            "20 1 5 4 *",
            "America/New_York",
            "2026-11-01T01:59:59.500",
            "2028-04-05T01:20:00-04:00",
            "2027-04-05T01:20:00-04:00",
        ),
    ],
    "takes 05L for the last Sunday, and 5L for the last Friday": [
        ("0 0 * * 05L", "UTC", "2026-01-01T00:00", "2026-01-25T00:00:00+00:00", "2026-01-30T00:00:00+00:00")
    ],
}


def test_where_node_is_wrong_toril_gives_the_sane_answer() -> None:
    cases = [case for listed in WRONG.values() for case in listed]
    fires, _ = ask([(text, zone, ms(after, zone), 1) for text, zone, after, _, _ in cases])

    found = [
        (text, zone, after, shown(times[0], zone), shown(parse(text).next_ms(ms(after, zone), zone), zone))
        for (text, zone, after, _, _), times in zip(cases, fires, strict=True)
    ]

    assert found == cases


def test_times_that_are_hard_to_find_are_those_of_node() -> None:
    sparse = ["0 0 29 2 *", "0 0 * 2 1#5", "0 0 * 2 SUN#5", "59 59 23 31 12 *", "0 0 31 2,4,6,9,11 *", "0 0 L 2 *"]
    asked = [(text, "UTC", ms(start), 1) for text in sparse for start in ("2026-01-01", "2072-03-01", "2096-03-01")]
    fires, _ = ask(asked)

    assert [[parse(text).next_ms(after_ms, zone)] for text, zone, after_ms, _ in asked] == fires


# ------------------------------------------------------------------ what is a pattern, and what is not

FIELDS = "smhdMw"
"""Second, minute, hour, day of month, month, day of week."""

FORMS = [
    "*",
    "?",
    "5",
    "05",
    "005",
    "0",
    "1",
    "7",
    "8",
    "12",
    "13",
    "23",
    "24",
    "31",
    "32",
    "59",
    "60",
    "100",
    "-1",
    "+1",
    "1.0",
    "1e1",
    "0x5",
    "a",
    "x",
    "$",
    "(1)",
    "1;2",
    "1|2",
    "w",
    "W",
    "15W",
    "LW",
    "W15",
    "1-5",
    "5-1",
    "5-5",
    "22-2",
    "1-60",
    "0-5",
    "1-",
    "-5",
    "1-2-3",
    "5--9",
    "-5-9",
    "1-?",
    "1-*",
    "*-5",
    "?-5",
    "5*",
    "5?",
    "**",
    "*5",
    "??",
    "*?",
    "l",
    "L",
    "1L",
    "5L",
    "15L",
    "7L",
    "8L",
    "32L",
    "LL",
    "L5",
    "L-2",
    "1-L",
    "L/2",
    "*L",
    "1-3L",
    "1L-3",
    "5L/2",
    "L,L",
    "L,1",
    "1,L",
    "L,?",
    "*,L",
    "31,L",
    "1,15L",
    "5l",
    "1,5L",
    "5L,1",
    "1L,1",
    "1L,1L",
    "0L,7L",
    "5L,*",
    "5L,05L",
    "*/0",
    "*/00",
    "*/1",
    "*/2",
    "*/05",
    "*/60",
    "*/100",
    "*/-1",
    "*/",
    "/",
    "/5",
    "*/a",
    "*/1.5",
    "*/5/2",
    "?/5",
    "5/10",
    "5/100",
    "5/0",
    "1-5/2",
    "1-5/0",
    "1-5/",
    "5-1/2",
    "1-5/2/3",
    "*/5-10",
    "*/*",
    "1/?",
    "1,2,3",
    "3,1",
    "1,1",
    "1,01",
    "1,2,2",
    "1-5,3-7",
    ",1",
    "1,",
    "1,,2",
    ",",
    "*,1",
    "1,*",
    "?,?",
    "*/5,1",
    "1-5/2,7",
    "1,2-4,6-9/2",
    "1-1,1",
    "5-7,0",
    "0,7",
    "6,7",
    "7,6-7",
    "0-7",
    "7-7",
    "1-7",
    "1-7/2",
    "5-7",
    "0-7/7",
    "7/2",
    "0,5-7",
    "JAN",
    "jan",
    "Jan",
    "JAN-MAR",
    "jan-mar/2",
    "JAN/3",
    "JAN,MAR",
    "JAN,1",
    "JAN,3,mar",
    "DEC-JAN",
    "JANUARY",
    "JANU",
    "jan5",
    "1jan",
    "MON",
    "mon",
    "MON-FRI",
    "FRI-MON",
    "SUN-SAT",
    "SAT-SUN",
    "MON/2",
    "SUN/2",
    "MON,WED",
    "MON,1",
    "sun,7",
    "MON-5",
    "1-FRI",
    "MONDAY",
    "monmon",
    "MONL",
    "FRIL",
    "fril",
    "MON#2",
    "mon#1",
    "abc",
    "TUE",
    "AUG",
    "1#1",
    "1#5",
    "1#0",
    "1#6",
    "1#05",
    "1#",
    "#2",
    "#",
    "1#2#3",
    "1#2,3",
    "3,1#2",
    "1-3#2",
    "*/2#2",
    "*#2",
    "?#2",
    "5L#2",
    "L#2",
    "7#2",
    "8#1",
    "0#2",
    "1#a",
    "1#2.5",
    "1#-1",
    "1#+1",
    "1#0x1",
    "1#2/3",
    "H#3",
    "H",
    "h",
    "H/5",
    "H/0",
    "H/60",
    "H/a",
    "H/",
    "H(0-10)",
    "H(1-5)",
    "H(0-29)/5",
    "H(1-5)/10",
    "H(5)",
    "H()",
    "H(10-0)",
    "H(0-100)",
    "H(60-70)",
    "H(0-0)",
    "H(32-40)",
    "H(a-b)",
    "H(0-10",
    "H(MON-FRI)",
    "H(JAN-MAR)",
    "H,H",
    "HL",
    "H,L",
    "1-5/mon",
    "٣",
    "１",
]

WHOLE = [
    *(
        "*",
        "* *",
        "* * *",
        "* * * *",
        "* * * * *",
        "* * * * * *",
        "* * * * * * *",
        "5",
        "MON",
        "5 6",
        "5 6 7",
        "5 6 7 8",
    ),
    *(" ", "\t", "  5   6  7 8 1 ", "\t5\t6 * * *", "5\n6 * * *", "5 6 * * *\n", "5\xa06 * * *", "*\ufeff* * * * *"),
    *("*\x85* * * * *", "*\x1c* * * * *", "5 - 7 * * *", "0 0 * * 1 #2", "* * * * * root", "TZ=UTC * * * * *"),
    *NICKNAMES,
    *("@midnight", "@reboot", "@every 5m", "@Daily", "@DAILY", " @daily", "@daily ", "@", "@@daily", "@daily * * * *"),
    *("0 0 30 2 *", "0 0 31 4 *", "0 0 30,31 2 *", "0 0 30 FEB *", "0 0 30 2 ?", "0 0 30-31 2 *", "0 0 30 2-2 *"),
    *("0 0 30/5 2 *", "0 0 31 2/12 *", "0 0 15,30 2 *", "0 0 30,L 2 *", "0 0 30 2 1", "0 0 30 2 */1", "0 0 31 2,4 *"),
    *(
        "0 0 31 */12 *",
        "0 0 31 2 MON#1",
        "0 0 ? 2 *",
        "0 0 L * 1",
        "0 0 L * 5L",
        "0 0 15 * ?",
        "0 0 ? * 1",
        "0 0 15 * 1",
    ),
    *("0 0 */2 * 1", "0 0 1-31 * 1", "0 0 */1 * 1", "0 0 15 * */1", "0 0 15 * 0-6", "0 0 15 * 1#2", "0 0 15 * *#2"),
]

ACCIDENTS: dict[str, dict[str, str]] = {
    # reason: what Node accepts and Toril refuses, and in which fields
    "a third end of a range is dropped": {"1-2-3": "smhdMw"},
    "`*` in a range or beside a digit is replaced by the text of all values: 5* is 50-59": {
        "1-?": "dM",
        "1-*": "dM",
        "*-5": "smhdMw",
        "?-5": "smhdMw",
        "5*": "sm",
        "5?": "sm",
    },
    "what follows the number of a step is dropped": {
        "*/5-10": "smhdMw",
        "*/*": "dM",
        "1/?": "dM",
        "1-5/mon": "Mw",
    },
    "L with anything beside it is taken for L, or is dropped": {
        **dict.fromkeys(["15L", "8L", "32L", "*L", "1-3L", "1L-3", "5L/2", "1,15L"], "dw"),
        **dict.fromkeys(["1L", "5L", "7L", "1,5L", "5L,1", "1L,1", "5L,*", "HL"], "d"),
        "5L#2": "w",
    },
    "the last Sunday or Friday is there twice": {"0L,7L": "dw", "5L,05L": "dw"},
    "a name stands for its number in a field of other names, and beside a digit": {
        **dict.fromkeys(["JAN", "jan", "Jan", "JAN-MAR", "jan-mar/2", "JAN/3", "JAN,MAR", "H(JAN-MAR)"], "w"),
        **dict.fromkeys(
            ["MON", "mon", "MON-FRI", "MON/2", "MON,WED", "MON-5", "1-FRI", "TUE", "1jan", "monmon", "H(MON-FRI)"], "M"
        ),
    },
    "a number after # is read as JavaScript reads numbers": {"1#2.5": "w", "1#+1": "w", "1#0x1": "w"},
}


def test_what_node_refuses_is_refused_and_the_rest_is_accepted() -> None:
    placed = {(form, field): _placed(form, n) for form in FORMS for n, field in enumerate(FIELDS)}
    _, accepted = ask(texts=list(placed.values()))

    differing: dict[str, str] = {}
    for (form, field), theirs in zip(placed, accepted, strict=True):
        if _is_accepted(placed[form, field]) != theirs:
            assert theirs, f"only Toril accepts {placed[form, field]!r}"
            differing[form] = differing.get(form, "") + field

    assert differing == {form: fields for listed in ACCIDENTS.values() for form, fields in listed.items()}


def test_node_and_toril_agree_on_whole_texts() -> None:
    _, accepted = ask(texts=WHOLE)

    assert [text for text, theirs in zip(WHOLE, accepted, strict=True) if _is_accepted(text) != theirs] == []


def test_only_node_takes_an_empty_text_for_every_minute() -> None:
    _, accepted = ask(texts=[""])

    assert accepted == [True]  # BullMQ itself takes an empty pattern for none
    assert not _is_accepted("")


def test_what_both_accept_means_the_same() -> None:
    texts = [_placed(form, n) for form in FORMS for n in range(len(FIELDS)) if "H" not in form] + WHOLE
    both = [text for text in texts if _is_accepted(text)]
    start = ms("2026-02-20T12:34:56")
    fires, _ = ask([(text, "UTC", start, FIRES) for text in both])

    assert len(both) > 300
    differing = [both[n] for n, times in enumerate(fires) if [*_differing(both[n], "UTC", start, times)]]
    assert differing == []


def _placed(form: str, n: int) -> str:
    """A pattern with this form in its nth field."""
    fields = ["0", "0", "0", "*", "*", "*"]
    fields[n] = form
    return " ".join(fields)


def _is_accepted(text: str) -> bool:
    try:
        parse(text)
    except ConfigError:
        return False
    return True
