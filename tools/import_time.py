"""What `import toril` costs: the median of some runs, less an interpreter that imports nothing, and the dearest modules."""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

LINE = re.compile(r"import time:\s+(?P<own>\d+) \|\s+(?P<all>\d+) \| (?P<name>.*)")


class Run(NamedTuple):
    """One start of the interpreter: its wall time and, by module, its own share."""

    ms: float
    own_us: dict[str, int]


def start(code: str) -> Run:
    """Start a fresh interpreter on `code` and time it."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    ms = (time.perf_counter() - began) * 1000
    if done.returncode:
        sys.exit(f"`python -c {code!r}` failed: {done.stderr.strip().splitlines()[-1]}; run it by hand to see why")
    found = (LINE.match(line) for line in done.stderr.splitlines())
    return Run(ms, {line["name"].strip(): int(line["own"]) for line in found if line})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", nargs="?", default="toril")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--top", type=int, default=15, help="modules shown")
    args = parser.parse_args()
    code = f"import {args.module}"
    start(code)  # once for the bytecode cache
    # Bare and importing starts alternate, so that what else runs here weighs on both alike.
    pairs = [(start("pass"), start(code)) for _ in range(args.runs)]
    cost_ms = statistics.median(run.ms for _, run in pairs) - statistics.median(bare.ms for bare, _ in pairs)
    print(f"{code}: {cost_ms:.1f} ms (median of {args.runs} starts, less a bare start)")
    names = set(pairs[0][1].own_us) - set(pairs[0][0].own_us)
    own_us = {name: statistics.median(run.own_us.get(name, 0) for _, run in pairs) for name in names}
    for name, us in sorted(own_us.items(), key=lambda item: -item[1])[: args.top]:
        print(f"{us / 1000:8.2f} ms  {name}")


if __name__ == "__main__":
    main()
