#!/usr/bin/env python3
"""Where Toril's time goes: one workload of peers/toril_sqlite.py in this process, each thread under cProfile.

    .venv/bin/python benchmarks/profiling.py W3            W1 add one by one, W2 add in bulk, W3 drain
    .venv/bin/python benchmarks/profiling.py W3 --jobs 5000 --lines 40 --sort cumulative --save DIR

The event loop's thread and every thread that it starts (SQLite's writer among them) are reported apart. A profiled run is
two to three times slower than a plain one: read the shares, not the rates.
"""

import argparse
import asyncio
import contextlib
import cProfile
import importlib
import json
import os
import pstats
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ADDED_BY_ONE = 5000
ADDED_IN_BULK = 20000


class Profiles:
    """A profile for the main thread and one for each thread started while this is on."""

    def __init__(self):
        self.by_thread = {}

    @contextlib.contextmanager
    def on(self):
        plain = threading.Thread.run

        def run(thread):
            with self._profiled(thread.name):
                plain(thread)

        threading.Thread.run = run
        try:
            with self._profiled("main (event loop)"):
                yield
        finally:
            threading.Thread.run = plain

    @contextlib.contextmanager
    def _profiled(self, name):
        profile = cProfile.Profile()
        # Noted before the thread runs: a daemon thread may never come to its end.
        self.by_thread.setdefault(name, []).append(profile)
        profile.enable()
        try:
            yield
        finally:
            profile.disable()

    def report(self, *, sort, lines, save):
        for name, profiles in self.by_thread.items():
            stats = pstats.Stats(*profiles)
            if len(self.by_thread) > 1 and stats.total_tt < 0.001:
                continue
            print(f"\n==== {name}: {stats.total_tt:.3f} s, waiting included")
            stats.sort_stats(sort).print_stats(lines)
            if save:
                stats.dump_stats(save / f"{name.replace(' ', '-')}.pstats")


def load_peer(url, slots):
    """The adapter, in this process: it reads its settings through `harness`, which reads them once, from the environment."""
    os.environ["BENCH_ARGS"] = json.dumps(
        {"url": url, "slots": slots, "queues": ["q0"], "concurrency": 100, "mode": "noop"}
    )
    sys.path.insert(0, str(HERE))
    harness = importlib.import_module("harness")
    return harness, importlib.import_module("peers.toril_sqlite").PEER()


async def add_one_by_one(harness, peer, jobs):
    peer.open()
    for i in range(jobs):
        await peer.add("q0", harness.payload(i))
    await peer.close()


async def add_in_bulk(harness, peer, jobs):
    peer.open()
    for start in range(0, jobs, peer.chunk):
        await peer.add_many("q0", [harness.payload(i) for i in range(start, min(start + peer.chunk, jobs))])
    await peer.close()


def stop_after(harness, jobs):
    """Send this process the signal that ends a worker once the handler has run `jobs` times."""
    hit, seen = harness.probe.hit, 0

    def counted(*args, **kwargs):
        nonlocal seen
        hit(*args, **kwargs)
        seen += 1
        if seen == jobs:
            os.kill(os.getpid(), signal.SIGTERM)

    harness.probe.hit = counted


def run(coroutine, loop):
    if loop == "uvloop":
        import uvloop

        return uvloop.run(coroutine)
    return asyncio.run(coroutine)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["W1", "W2", "W3"])
    parser.add_argument("--jobs", type=int, help=f"default {ADDED_BY_ONE} for W1, else {ADDED_IN_BULK}")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--sort", default="tottime", help="tottime (default), cumulative, ncalls")
    parser.add_argument("--lines", type=int, default=25, help="functions shown per thread")
    parser.add_argument("--save", type=Path, help="also write <thread>.pstats files into this folder")
    args = parser.parse_args()
    if sys.version_info >= (3, 12):
        sys.exit("since Python 3.12 only one thread of a process can be profiled: run this with Python 3.11")
    jobs = args.jobs or (ADDED_BY_ONE if args.work == "W1" else ADDED_IN_BULK)
    if args.save:
        args.save.mkdir(parents=True, exist_ok=True)
    profiles = Profiles()
    with tempfile.TemporaryDirectory(prefix="bench-profile-") as folder:
        harness, peer = load_peer(f"{folder}/q.db", folder)
        if args.work == "W3":
            run(add_in_bulk(harness, peer, jobs), args.loop)
            stop_after(harness, jobs)
            work = peer.work()
        else:
            work = (add_one_by_one if args.work == "W1" else add_in_bulk)(harness, peer, jobs)
        started = time.perf_counter()
        with profiles.on():
            run(work, args.loop)
        seconds = time.perf_counter() - started
    print(f"{args.work}: {jobs} jobs in {seconds:.2f} s under the profiler, start and stop included")
    profiles.report(sort=args.sort, lines=args.lines, save=args.save)


if __name__ == "__main__":
    main()
