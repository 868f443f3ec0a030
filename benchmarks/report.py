#!/usr/bin/env python3
"""results/<date>.json -> RESULTS.md (medians, ratios to the best peer)."""
import json, statistics, sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
QUIET = 25      # % of one core used by others or stolen


def med(data):
    """Medians over the quiet runs of a (peer, workload); over the least disturbed one where none was quiet."""
    groups, acc, out = {}, {}, {}
    for r in data["runs"]:
        name = r["peer"] + (r.get("condition") or "")
        groups.setdefault((name, r["work"]), []).append(r["metrics"])
    for (name, work), ms in groups.items():
        good = [x for x in ms if "error" not in x] or ms
        level = lambda x: x.get("noise_pct", 999) + x.get("steal_pct", 0)
        known = [x for x in good if "noise_pct" in x]
        quiet = [x for x in known if level(x) <= QUIET] or sorted(known, key=level)[:1] or good
        worst = max(level(x) for x in quiet)
        for x in quiet:
            for k, v in x.items():
                if k not in ("noise_pct", "steal_pct"):
                    acc.setdefault((name, k), []).append(v)
        for x in sorted(good, key=level):      # a figure that only a disturbed run has
            for k, v in x.items():
                if k not in ("noise_pct", "steal_pct") and not k.endswith("_partial"):
                    acc.setdefault((name, k), [v])
        if worst > QUIET:
            out.setdefault(name, {}).setdefault("noisy", set()).add(work)
    for (name, k), vs in acc.items():
        nums = [v for v in vs if isinstance(v, (int, float))]
        out.setdefault(name, {})[k] = (statistics.median(nums) if nums else vs[-1])
        out[name]["#" + k] = len(vs)
    for r in data["runs"]:
        name = r["peer"] + (r.get("condition") or "")
        if "error" in r["metrics"] and all("error" in x for x in groups[name, r["work"]]):
            out.setdefault(name, {})
            out[name].setdefault("errors", {})[r["work"]] = r["metrics"]["error"]
    return out


def fmt(v):
    if v is None:
        return "–"
    if isinstance(v, float) and v < 100:
        return f"{v:.2f}".rstrip("0").rstrip(".")
    return f"{v:,.0f}" if isinstance(v, (int, float)) else str(v)


def table(head, rows):
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    out += ["| " + " | ".join(r) + " |" for r in rows]
    return "\n".join(out) + "\n"


def write(src, dst):
    data = json.loads(Path(src).read_text())
    peers = json.loads((HERE / "peers.json").read_text())
    m = med(data)
    names = [n for n in peers if n in m] + sorted(n for n in m if n not in peers and n != "(limits)" and "(limits)" not in n)
    base = lambda n: peers.get(n, peers.get(n.split("+")[0].split("@")[0], {}))
    L = ["# Results", "", f"From `results/{Path(src).name}`; medians. "
         "Only runs during which other processes and the host took less than 25 % of one core count, where there is one; "
         "`!` marks a figure from a disturbed run. `~` marks a rate from a drain cut off at the time limit (a rate over its first seconds). Ratio columns: 1.00 is "
         "the best peer on that server kind (rows with a `+condition` aside); 0.5 is half as fast (for latency: the best peer's time over this one's).", ""]
    mc = data["machine"]
    L += ["Machine: " + ", ".join(f"{k} {v}" for k, v in mc.items() if k != "kernel") + ".", ""]
    notes = Path(src).with_suffix(".notes.md")       # what was odd about these very runs
    if notes.exists():
        L += [notes.read_text().strip(), ""]
    V = data["versions"]
    L += ["## Versions", ""]
    for g, vs in V.items():
        key = [k for k in vs if k.split("[")[0] in
               ("bullmq", "celery", "kombu", "rq", "dramatiq", "arq", "saq", "taskiq", "taskiq-redis", "huey", "streaq",
                "procrastinate", "pgqueuer", "chancy", "redis", "hiredis", "coredis", "asyncpg", "psycopg", "uvloop",
                "ioredis", "pg")]
        L.append(f"- {g}: " + ", ".join(f"{k} {vs[k]}" for k in key))
    L += ["", "## Rates, jobs/s (and W4 latency in ms)", ""]
    for kind in ("redis", "postgres", "sqlite"):
        ns = [n for n in names if base(n).get("server") == kind]
        if not ns:
            continue
        cols = ["W1", "W2", "W3", "W4_p50_ms", "W4_p99_ms", "W5", "W8"]
        best = {}
        for c in cols:
            vs = [m[n][c] for n in ns if isinstance(m[n].get(c), (int, float)) and not n.startswith("toril") and "+" not in n]
            if vs:
                best[c] = min(vs) if "ms" in c else max(vs)
        rows = []
        for n in ns:
            row = [n]
            for c in cols:
                v = m[n].get(c)
                w = c.split("_")[0]
                e = m[n].get("errors", {}).get({"W2": "W3"}.get(w, w))
                if v is None:
                    row.append("failed" if e else "–")
                    continue
                x = ("~" if (c + "_partial") in m[n] else "") + fmt(v)
                if {"W2": "W3"}.get(w, w) in m[n].get("noisy", ()):
                    x += "!"
                if best.get(c) and v:
                    x += f" ({(best[c] / v if 'ms' in c else v / best[c]):.2f})"
                row.append(x)
            rows.append(row)
        L += [f"### {kind}", "", table(["peer", "W1 add one", "W2 add bulk/100", "W3 drain", "W4 p50 ms", "W4 p99 ms", "W5 io",
                                         "W8 100 queues"], rows)]
    L += ["## Cost and footprint", "",
          "ops/job: redis commands (those called inside scripts count too) or postgres commits. CPU in µs per drained job, "
          "worker start-up included. Bytes per job over an empty store.", ""]
    rows = []
    for n in names:
        x = m[n]
        rows.append([n] + [fmt(x.get(k)) for k in ("W1_ops_per_job", "W3_ops_per_job", "W3_worker_cpu_us_per_job",
                                                   "W3_server_cpu_us_per_job", "W6_waiting_bytes_per_job",
                                                   "W6_after_bytes_per_job", "W6_worker_rss_mb", "W6_worker_pss_mb")])
    L.append(table(["peer", "add ops/job", "drain ops/job", "worker CPU µs/job", "server CPU µs/job", "bytes/job waiting",
                    "bytes/job after", "worker RSS MB", "PSS MB"], rows))
    g = [n for n in names if "W3_settled_ms" in m[n]]
    if g:
        L += ["## W3S: from the last handler until every job is completed, with its result, in the file", ""]
        rows = []
        for n in g:
            vs = [r["metrics"]["W3_settled_ms"] for r in data["runs"]
                  if r["peer"] + (r.get("condition") or "") == n and "W3_settled_ms" in r["metrics"]]
            rows.append([n, fmt(m[n]["W3_settled_ms"]), fmt(max(vs)), fmt(m[n]["W3_settled_limit_ms"]), str(len(vs))])
        L.append(table(["peer", "median ms", "highest ms", "limit ms", "runs"], rows))
    g = [n for n in names if any(k.startswith("W7_") for k in m[n])]
    if g:
        L += ["## W7: drain rate of the first 10,000 jobs by backlog (jobs/s)", ""]
        rows = []
        for n in g:
            x = m[n]
            row = [n]
            for s in ("10k", "100k", "500k"):
                v = x.get(f"W7_{s}")
                f = x.get(f"W7_{s}_filled")
                row.append((fmt(v) if v is not None else str(x.get(f"W7_{s}_error", "–"))[:60]) + (f" (backlog {fmt(f)})" if f else ""))
            rows.append(row)
        L.append(table(["peer", "10k", "100k", "500k"], rows))
    g = [n for n in names if any(k.startswith("W8_") for k in m[n])]
    if g:
        L += ["## W8: 100 queues, one worker process", ""]
        rows = [[n] + [fmt(m[n].get(k)) for k in ("W8", "W8_idle_worker_cpu_pct", "W8_idle_server_cpu_pct", "W8_idle_ops_per_s",
                                                  "W8_connections", "W8_rss_mb")] for n in g if "W8_note" not in m[n]]
        L.append(table(["peer", "jobs/s", "idle worker CPU %", "idle server CPU %", "idle ops/s", "connections", "RSS MB"], rows))
    g = [n for n in names if "idle_worker_cpu_pct" in m[n]]
    if g:
        L += ["## Idle, one empty queue, one worker process, 10 s", ""]
        rows = [[n] + [fmt(m[n].get(k)) for k in ("idle_worker_cpu_pct", "idle_server_cpu_pct", "idle_ops_per_s", "idle_rss_mb")]
                for n in g]
        L.append(table(["peer", "worker CPU %", "server CPU %", "ops/s", "RSS MB"], rows))
    lim = [(r.get("condition") or "", r["metrics"]) for r in data["runs"] if r["work"] == "LIMITS"]
    for cond in sorted({c for c, _ in lim}):
        ms = [x for c, x in lim if c == cond]
        rows = []
        for k in dict.fromkeys(k for x in ms for k in x if k not in ("noise_pct", "steal_pct")):
            vs = [x[k] for x in ms if isinstance(x.get(k), (int, float))]
            if vs:
                rows.append([k, fmt(statistics.median(vs)), fmt(min(vs)), fmt(max(vs))])
        L += [f"## Limits of this machine{' ' + cond if cond else ''} ({len(ms)} runs)", "",
              table(["what, per second", "median", "lowest", "highest"], rows)]
    rows = []
    for n in names:
        row = [n]
        for k in ("W1", "W2", "W3", "W5"):
            vs = [r["metrics"][k] for r in data["runs"] if r["peer"] + (r.get("condition") or "") == n and k in r["metrics"]]
            row.append(f"{fmt(min(vs))} – {fmt(statistics.median(vs))} – {fmt(max(vs))} ({len(vs)})" if len(vs) > 1 else "–")
        if any(x != "–" for x in row[1:]):
            rows.append(row)
    L += ["## Spread: lowest – median – highest over all runs, disturbed ones too (number of runs)", "",
          table(["peer", "W1", "W2", "W3", "W5"], rows)]
    L += ["## Settings", ""]
    L += [f"- {n}: {c['settings']}" for n, c in peers.items() if n in m]
    bad = [(n, w, e) for n in names for w, e in m[n].get("errors", {}).items()]
    if bad:
        L += ["", "## Did not work", ""] + [f"- {n} {w}: {e.strip()}" for n, w, e in bad]
    Path(dst).write_text("\n".join(L) + "\n")


if __name__ == "__main__":
    src = Path(sys.argv[1]) if len(sys.argv) > 1 else sorted((HERE / "results").glob("*.json"))[-1]
    write(src, HERE / "RESULTS.md")
