"""All that Toril may write otherwise than Node, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from interop.golden.keyspace import ANYTHING, NOTHING, T0, Deviation

JOB = r"(bull|\{tagged\}):\w+:(\d+|[A-Z]\d?|a-1|a:b:c|<uuid\d>|dn:\w+|repeat:\w+(:\d+)?)"
TEMPLATE = r"bull:golden:repeat:\w+"
META = r"(bull|\{tagged\}):\w+:meta"

PROMOTED = "promoting many jobs, Node forgets their priorities and leaves their delays"
RETRIED = "running many jobs again, Node forgets their priorities"


@dataclass(frozen=True, eq=False)
class Difference:
    """One thing that differs, in all recordings or in one. `key` and `path` are patterns."""

    key: str
    path: str
    ours: Any
    theirs: Any
    why: str
    recording: str = r"\d\d"

    def covers(self, recording: str, found: Deviation) -> bool:
        return (
            re.fullmatch(self.recording, recording) is not None
            and re.fullmatch(self.key, found.key) is not None
            and re.fullmatch(self.path, found.path) is not None
            and self.ours in (found.ours, ANYTHING)
            and self.theirs in (found.theirs, ANYTHING)
        )


DIFFERENCES = [
    Difference(
        JOB,
        "/value/opts/removeOnComplete",
        {"age": 86_400, "count": 1_000},
        NOTHING,
        "our default rule is written, as Node keeps for ever",
    ),
    Difference(
        JOB,
        "/value/opts/removeOnFail",
        {"age": 604_800, "count": 5_000},
        NOTHING,
        "our default rule is written, as Node keeps for ever",
    ),
    Difference(JOB, "/value/opts/attempts", 1, 0, "both mean one attempt; Node writes 0 when none was given"),
    Difference(
        f"{TEMPLATE}(:\\d+)?",
        "/value/opts/attempts",
        1,
        NOTHING,
        "both mean one attempt; Node writes it into no template, and so into no first run",
    ),
    Difference(
        f"{TEMPLATE}:\\d+:lock",
        "/ttl",
        29_000,
        30_000,
        "the clock was turned by a second, which in the recording the server's own had not seen pass",
        "36",
    ),
    Difference(
        TEMPLATE,
        "/value/opts",
        {
            "attempts": 1,
            "removeOnComplete": {"age": 86_400, "count": 1_000},
            "removeOnFail": {"age": 604_800, "count": 5_000},
        },
        NOTHING,
        "our defaults are written, as Node keeps for ever",
    ),
    Difference(
        r"bull:golden:dn:\w+",
        "/value/py:owner",
        ANYTHING,
        NOTHING,
        "for whose end a job is kept, which Node passes over",
        "33",
    ),
    Difference("bull:kids:id", "/value", "3", "4", "an add that is refused draws no number", "44"),
    Difference(JOB, "/value/opts/priority", NOTHING, 0, "the default is not written", "05"),
    Difference(JOB, "/value/py:history", ANYTHING, NOTHING, "the attempts of a job, which Node passes over"),
    Difference(
        JOB, "/value/py:nonce", ANYTHING, NOTHING, "tells the repeat of an add with a chosen id from a second one"
    ),
    Difference(
        r".+:py:answer:[0-9a-f]{16}",
        "",
        ANYTHING,
        NOTHING,
        "for half a minute, what a repeated call is answered",
    ),
    Difference(
        r".+:golden:py:repeated:.+", "", ANYTHING, NOTHING, "which wish was repeated: a late copy of it brings nothing"
    ),
    Difference(
        r"bull:\w+:py:receipt:(\d+|[A-Z]\d?)",
        "",
        ANYTHING,
        NOTHING,
        "what is still known of a job that its keep rule has removed: its result is promised for ten minutes",
    ),
    Difference(
        r"bull:\w+:metrics:(completed|failed)",
        "",
        ANYTHING,
        NOTHING,
        "our queues count what they finish unless they are told not to, Node's workers only when they are told to",
    ),
    Difference(
        META,
        "/value/py:metrics",
        ANYTHING,
        NOTHING,
        "for how long a queue counts, which Node tells its workers",
        "39|41",
    ),
    Difference(
        META, "/value/version", NOTHING, "bullmq:6.7.0", "a label that each Node queue overwrites and none reads"
    ),
    Difference(
        META,
        "/value/py:throttled-until",
        ANYTHING,
        NOTHING,
        "a throttled queue holds back all of our workers, also those without a limit of their own",
        "16",
    ),
    Difference(
        "bull:golden:limiter",
        "",
        NOTHING,
        {"type": "string", "value": "1", "ttl": 60_000},
        "an obliterated queue leaves no limit behind, which Node's forgets",
        "39",
    ),
    Difference(
        "bull:golden:1", "/value/opts/stackTraceLimit", NOTHING, 5, "we keep the last ten stacks of any job", "02"
    ),
    Difference("bull:golden:1", "/value/opts/omc", NOTHING, True, "our workers always take over a trace", "02"),
    Difference("bull:golden:2", "/value/opts/fpof", NOTHING, True, "a job without a parent has no policy for it", "02"),
    Difference(
        "bull:golden:3",
        "/value/opts/timestamp",
        NOTHING,
        T0 - 5_000,
        "the field of the hash is what everybody reads",
        "02",
    ),
    Difference("bull:golden:5", "/value/opts/custom", NOTHING, {}, "an unknown option is refused", "02"),
    Difference("bull:golden:2", "/value/delay", "0", "9000", PROMOTED, "19"),
    Difference("bull:golden:3", "/value/delay", "0", "7000", PROMOTED, "19"),
    Difference("bull:golden:wait", "/value", ["2", "4"], ["2", "3", "4"], PROMOTED, "19"),
    Difference(
        "bull:golden:prioritized",
        "/value",
        [["3", 4 * 2**32 + 2.0], ["1", 7 * 2**32 + 0.0]],
        [["1", 7 * 2**32 + 0.0]],
        PROMOTED,
        "19",
    ),
    Difference("bull:golden:pc", "/value", "2", "1", PROMOTED, "19"),
    Difference("bull:golden:wait", "/value", ["1"], ["2", "1"], RETRIED, "40"),
    Difference(
        "bull:golden:prioritized", "", {"type": "zset", "value": [["2", 5 * 2**32 + 1.0]]}, NOTHING, RETRIED, "40"
    ),
    Difference("bull:golden:pc", "", {"type": "string", "value": "1"}, NOTHING, RETRIED, "40"),
]

UNORDERED = re.compile(r"bull:kids:events event=removed jobId=C\d prev=wait")
"""Events in a row that may change places: children that go with their parent do so in the order of a set, which has none."""
