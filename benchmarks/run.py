#!/usr/bin/env python3
"""Side-by-side benchmark of job-queue libraries.  See README.md."""
import argparse, datetime, glob, json, os, platform, shutil, signal, socket, sqlite3, statistics, struct, subprocess, sys
import tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOME = Path(os.environ.get("BENCH_HOME", str(Path.home() / ".cache/toril-bench")))
CLK = os.sysconf("SC_CLK_TCK")
PEERS = json.loads((HERE / "peers.json").read_text())
CHILDREN = []                       # every process this run starts, stopped by pid at the end
PYTHON = None


# ---------------------------------------------------------------- small tools
def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def spawn(cmd, **kw):
    p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, start_new_session=True, **kw)
    CHILDREN.append(p)
    return p


def stop(p, sig=signal.SIGTERM, wait=4):
    if p.poll() is None:
        try:
            p.send_signal(sig)
            p.wait(wait)
        except subprocess.TimeoutExpired:
            pass
    # the process leads its own session: what is left of that one group is ours too
    try:
        os.killpg(p.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    p.wait()
    if p in CHILDREN:
        CHILDREN.remove(p)


def tree(pid):
    kids = {}
    for st in glob.glob("/proc/[0-9]*/stat"):
        try:
            t = open(st).read()
        except OSError:
            continue
        f = t[t.rindex(")") + 2:].split()
        kids.setdefault(int(f[1]), []).append(int(t[:t.index(" ")]))
    out, todo = [], [pid]
    while todo:
        x = todo.pop()
        out.append(x)
        todo += kids.get(x, [])
    return out


def cpu_of(pid):
    tot = 0
    for x in tree(pid):
        try:
            t = open(f"/proc/{x}/stat").read()
        except OSError:
            continue
        f = t[t.rindex(")") + 2:].split()
        tot += int(f[11]) + int(f[12]) + int(f[13]) + int(f[14])
    return tot / CLK


def rss_of(pid):
    rss = pss = 0
    for x in tree(pid):
        try:
            for line in open(f"/proc/{x}/smaps_rollup"):
                if line.startswith("Rss:"):
                    rss += int(line.split()[1])
                elif line.startswith("Pss:"):
                    pss += int(line.split()[1])
        except OSError:
            pass
    return round(rss / 1024, 1), round(pss / 1024, 1)


def host_cpu():
    """(busy seconds of all processes, stolen seconds) since boot, and our own CPU seconds."""
    f = [int(x) / CLK for x in open("/proc/stat").readline().split()[1:]]
    return f[0] + f[1] + f[2], f[7], cpu_of(os.getpid())


def noise(a, b, dt):
    """CPU that others used meanwhile and CPU stolen by the host, in % of one core."""
    return {"noise_pct": round(max(0, (b[0] - a[0]) - (b[2] - a[2])) / dt * 100), "steal_pct": round((b[1] - a[1]) / dt * 100)}


def wait_quiet(limit):
    end = time.time() + limit
    while time.time() < end:
        a = host_cpu()
        time.sleep(0.4)
        if noise(a, host_cpu(), 0.4)["noise_pct"] < 15:
            return
        time.sleep(0.6)


# ---------------------------------------------------------------- servers
class Redis:
    def __init__(self, aof=False):
        self.dir = tempfile.mkdtemp(prefix="bench-redis-")
        self.port = free_port()
        cmd = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.dir,
               "--appendonly", "yes" if aof else "no", "--appendfsync", "everysec", "--daemonize", "no"]
        self.p = spawn(cmd, stdout=subprocess.DEVNULL)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        for _ in range(100):
            try:
                if self.cmd("PING") == "PONG":
                    return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("redis-server did not start")

    def cmd(self, *a):
        with socket.create_connection(("127.0.0.1", self.port), 120) as s:
            s.sendall(b"*%d\r\n" % len(a) + b"".join(b"$%d\r\n%s\r\n" % (len(x), x.encode()) for x in a))
            f = s.makefile("rb")
            h = f.readline()
            if h[:1] == b"$":
                return f.read(int(h[1:])).decode()
            return h[1:].strip().decode()

    def info(self, sec, key):
        for line in self.cmd("INFO", sec).splitlines():
            if line.startswith(key + ":"):
                return int(line.split(":")[1])

    def reset(self):
        self.cmd("FLUSHALL", "SYNC")
        self.cmd("SCRIPT", "FLUSH", "SYNC")
        self.cmd("FUNCTION", "FLUSH", "SYNC")
        self.cmd("MEMORY", "PURGE")

    def size(self):
        for _ in range(40):               # let clients' buffers go first
            if self.info("clients", "connected_clients") <= 1:
                break
            time.sleep(0.05)
        return self.info("memory", "used_memory")

    def ops(self):
        return self.info("stats", "total_commands_processed")

    def cpu(self):
        return cpu_of(self.p.pid)

    def stop(self):
        stop(self.p)
        shutil.rmtree(self.dir, ignore_errors=True)


class Postgres:
    BIN = next(iter(sorted(glob.glob("/usr/lib/postgresql/*/bin"))), "/usr/bin")

    def __init__(self, sync=True):
        self.dir = tempfile.mkdtemp(prefix="bench-pg-")
        self.as_ = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        if self.as_:
            shutil.chown(self.dir, "postgres", "postgres")
        data = self.dir + "/data"
        env = {**os.environ, "LC_ALL": "C.UTF-8", "HOME": self.dir}
        subprocess.run([self.BIN + "/initdb", "-D", data, "-A", "trust", "-U", "postgres"], check=True, cwd=self.dir,
                       stdout=subprocess.DEVNULL, env=env, **self.as_)
        self.port = free_port()
        opts = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self.dir, "fsync": "on",
                "synchronous_commit": "on" if sync else "off", "max_connections": 300, "shared_buffers": "512MB",
                "max_wal_size": "4GB"}
        cmd = [self.BIN + "/postgres", "-D", data]
        for k, v in opts.items():
            cmd += ["-c", f"{k}={v}"]
        self.log = open(self.dir + "/log", "w")
        self.p = spawn(cmd, stdout=self.log, stderr=self.log, cwd=self.dir, env=env, **self.as_)
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/bench"
        for _ in range(100):
            if subprocess.run([self.BIN + "/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode == 0:
                break
            time.sleep(0.1)
        self.reset()

    def sql(self, q, db="postgres"):
        r = subprocess.run([self.BIN + "/psql", "-XAtq", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres",
                            "-d", db, "-c", q], capture_output=True, text=True, cwd="/")
        if r.returncode:
            raise RuntimeError(r.stderr)
        return r.stdout.strip()

    def reset(self):
        self.sql("DROP DATABASE IF EXISTS bench WITH (FORCE)")
        self.sql("CREATE DATABASE bench")
        self.sql("CHECKPOINT")

    def size(self):
        return int(self.sql("SELECT coalesce(sum(pg_total_relation_size(c.oid)),0) FROM pg_class c JOIN pg_namespace n "
                            "ON n.oid=c.relnamespace WHERE c.relkind='r' AND n.nspname NOT IN "
                            "('pg_catalog','information_schema') AND n.nspname NOT LIKE 'pg_toast%'", "bench"))

    def ops(self):
        return int(self.sql("SELECT xact_commit FROM pg_stat_database WHERE datname='bench'") or 0)

    def cpu(self):
        return cpu_of(self.p.pid)

    def stop(self):
        stop(self.p, signal.SIGINT, 20)
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)


class Sqlite:
    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="bench-sqlite-")
        self.n = 0
        self.reset()

    def reset(self):
        for f in glob.glob(self.dir + "/*"):
            shutil.rmtree(f) if os.path.isdir(f) else os.unlink(f)
        self.n += 1
        self.url = f"{self.dir}/q{self.n}.db"

    def size(self):
        return sum(os.path.getsize(f) for f in glob.glob(self.dir + "/*.db"))

    def ops(self):
        return 0

    def cpu(self):
        return 0.0

    def stop(self):
        shutil.rmtree(self.dir, ignore_errors=True)


# ---------------------------------------------------------------- one peer
class Run:
    def __init__(self, name, server):
        self.name, self.cfg, self.srv = name, PEERS[name], server
        self.tmp = tempfile.mkdtemp(prefix="bench-run-")
        self.env = {**os.environ, "BENCH_NODE": str(HOME / "node"), "PYTHONDONTWRITEBYTECODE": "1",
                    "PYTHONWARNINGS": "ignore", "LC_ALL": "C.UTF-8"}
        self.err = open(HOME / "log" / f"run-{name}.err", "a")

    def start(self, role, **args):
        self.k = getattr(self, "k", 0) + 1
        args = {"url": self.srv.url, "variant": self.cfg.get("variant", ""), "queues": ["q0"],
                "concurrency": self.cfg.get("concurrency", 100), "out": f"{self.tmp}/out{self.k}.json", **args}
        if self.cfg["file"].endswith(".mjs"):
            cmd = ["node", str(HERE / "peers" / self.cfg["file"]), role]
        else:
            venv = HOME / "venv" / self.cfg["venv"]
            cmd = [PYTHON or str(venv / "bin" / "python"), str(HERE / "harness.py"),
                   self.cfg["file"].removesuffix(".py"), role]
            if PYTHON:
                self.env["PYTHONPATH"] = str(next(venv.glob("lib/python3*/site-packages")))
        p = spawn(cmd, env={**self.env, "BENCH_ARGS": json.dumps(args)}, cwd=self.tmp,
                  stdout=self.err, stderr=self.err)
        p.out = args["out"]
        return p

    def finish(self, p, limit):
        try:
            p.wait(limit)
        except subprocess.TimeoutExpired:
            stop(p)
            raise RuntimeError(f"timeout after {limit}s")
        rc = p.returncode
        stop(p)
        if rc != 0 or not os.path.exists(p.out):
            raise RuntimeError(f"exit {rc}; see log/run-{self.name}.err")
        return json.load(open(p.out))

    def fresh(self, queues=("q0",)):
        self.srv.reset()
        if isinstance(self.srv, Postgres):
            self.finish(self.start("setup", queues=list(queues)), 60)
        self.base = self.srv.size()

    def produce(self, n, how, queues=("q0",), limit=60):
        d = self.finish(self.start("produce", n=n, how=how, queues=list(queues), limit=limit), limit + 60)
        if how == "bulk" and isinstance(self.srv, Postgres):
            self.srv.sql("ANALYZE", "bench")       # what autovacuum does within a minute
        return d

    def work(self, mode="noop", queues=("q0",), mark=0):
        self.slots = tempfile.mkdtemp(dir=self.tmp)
        return [self.start("work", mode=mode, queues=list(queues), mark=mark, slots=self.slots)
                for _ in range(self.cfg.get("procs", 1))]

    def poll(self, lat=False):
        count, first, last, mark, lats = 0, 1e300, 0, 0, []
        for f in glob.glob(self.slots + "/*.slot"):
            b = open(f, "rb").read() if lat else open(f, "rb").read(32)
            if len(b) < 32:
                continue
            c, fi, la, ma = struct.unpack("<dddd", b[:32])
            if c:
                count += int(c)
                first, last, mark = min(first, fi), max(last, la), max(mark, ma)
                if lat:
                    k = min(int(c), (len(b) - 64) // 8)
                    lats += struct.unpack(f"<{k}d", b[64:64 + 8 * k])
        return (count, first, last, mark, lats) if lat else (count, first, last, mark)

    def drain(self, ps, n, limit, start_limit=30, mark=False, step=0.05, rest=0.15):
        """Wait until n jobs ran (or the mark was reached), the time is over, or nothing moves for 15 s."""
        t0 = moved = time.time()
        seen = 0
        while True:
            c, first, last, mk = self.poll()
            if c != seen:
                seen, moved = c, time.time()
            if c >= n or (mark and mk):
                break
            now = time.time()
            if now - t0 > limit or (c and now - moved > 15) or (not c and now - t0 > start_limit):
                break
            if all(p.poll() is not None for p in ps):
                raise RuntimeError(f"worker exited ({ps[0].returncode}); see log/run-{self.name}.err")
            time.sleep(step)
        time.sleep(rest)
        c, first, last, mk = self.poll()
        if not c:
            raise RuntimeError(f"no job ran in {start_limit}s; see log/run-{self.name}.err")
        return c, first, last, mk

    def close(self):
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.err.close()


def pct(xs, q):
    xs = sorted(xs)
    return xs[min(len(xs) - 1, int(q * len(xs)))]


# ---------------------------------------------------------------- workloads: each returns {metric: value}
def w1(r, a):
    r.fresh()
    o0 = r.srv.ops()
    d = r.produce(5000, "one", limit=min(a.limit, 30))
    return {"W1": round(d["n"] / d["seconds"]), "W1_ops_per_job": round((r.srv.ops() - o0) / d["n"], 2)}


def w6(r, a):
    """Footprint alone, from 4,000 jobs drained to the end (for peers that W3's time limit cuts off)."""
    return {k: v for k, v in w3(r, a, 4000).items() if k.startswith("W6_") and "_mb" not in k and "waiting" not in k}


def w3(r, a, n=20000):
    """W2 (the fill), W3 (the drain) and W6 (the footprint) in one go."""
    r.fresh()
    o0 = r.srv.ops()
    d = r.produce(n, "bulk", limit=a.limit)
    out = {"W2": round(d["n"] / d["seconds"]), "W2_ops_per_job": round((r.srv.ops() - o0) / d["n"], 2)}
    out["W6_waiting_bytes_per_job"] = round((r.srv.size() - r.base) / d["n"])
    o0, c0 = r.srv.ops(), r.srv.cpu()
    ps = r.work()
    try:
        c, first, last, _ = r.drain(ps, d["n"], a.limit)
        out["W3"] = round((c - 1) / (last - first)) if c > 1 else 0
        if c < d["n"]:
            out["W3_partial"] = c
        elif c > d["n"]:
            out["W3_extra"] = c - d["n"]
        time.sleep(0.5)
        out["W3_ops_per_job"] = round((r.srv.ops() - o0) / c, 2)
        out["W3_server_cpu_us_per_job"] = round((r.srv.cpu() - c0) / c * 1e6, 1)
        out["W3_worker_cpu_us_per_job"] = round(sum(cpu_of(p.pid) for p in ps) / c * 1e6, 1)
        m = [rss_of(p.pid) for p in ps]
        out["W6_worker_rss_mb"], out["W6_worker_pss_mb"] = round(sum(x[0] for x in m), 1), round(sum(x[1] for x in m), 1)
    finally:
        for p in ps:
            stop(p)
    if c >= d["n"]:
        out["W6_after_bytes_per_job"] = round((r.srv.size() - r.base) / d["n"])
    return out


SETTLED_LIMIT_MS = 1000
# How many jobs of a store's file are completed and have their result, by peer.
SETTLED = {"toril": "SELECT count(*) FROM job WHERE state = 'completed' AND result IS NOT NULL"}


def w3s(r, a, n=20000):
    """From the last handler of W3 until every job is completed, with its result, for a reader of the file."""
    if r.cfg["server"] != "sqlite" or not r.name.startswith("toril"):
        return {"W3S_note": "toril on sqlite only"}
    r.fresh()
    d = r.produce(n, "bulk", limit=a.limit)
    ps = r.work()
    try:
        c, first, last, _ = r.drain(ps, d["n"], a.limit, step=0.01, rest=0)
        if c < d["n"]:
            raise RuntimeError(f"{c} of {d['n']} jobs ran in {a.limit} s")
        db = sqlite3.connect(f"file:{r.srv.url}?mode=ro", uri=True)
        try:
            # perf_counter is the machine's monotonic clock: the handler's stamp and ours compare
            while (seen := db.execute(SETTLED["toril"]).fetchone()[0]) < d["n"]:
                if time.perf_counter() - last > 30:
                    raise RuntimeError(f"{seen} of {d['n']} jobs are completed 30 s after the last handler")
                time.sleep(0.005)
            return {"W3_settled_ms": round((time.perf_counter() - last) * 1000), "W3_settled_limit_ms": SETTLED_LIMIT_MS,
                    "W3S": round((c - 1) / (last - first))}
        finally:
            db.close()
    finally:
        for p in ps:
            stop(p)


def w4(r, a):
    r.fresh()
    ps = r.work("latency")
    try:
        time.sleep(3.0)                    # idle, connected, blocked on the queue
        if any(p.poll() is not None for p in ps):
            raise RuntimeError(f"worker exited; see log/run-{r.name}.err")
        n = 500
        r.produce(n, "paced", limit=60)
        r.drain(ps, n, 15)
        c, _, _, _, lats = r.poll(True)
        ms = [x * 1000 for x in lats]
        return {"W4_p50_ms": round(pct(ms, .5), 2), "W4_p99_ms": round(pct(ms, .99), 2), "W4_max_ms": round(max(ms), 2),
                "W4_n": c}
    finally:
        for p in ps:
            stop(p)


def w5(r, a):
    n = 5000
    r.fresh()
    d = r.produce(n, "bulk", limit=a.limit)
    ps = r.work("io")
    try:
        c, first, last, _ = r.drain(ps, d["n"], a.limit)
        out = {"W5": round(c / (last - first))}
        if c < d["n"]:
            out["W5_partial"] = c
        return out
    finally:
        for p in ps:
            stop(p)


def w7(r, a):
    out = {}
    for n in (10_000, 100_000, 500_000):
        key = f"W7_{n // 1000}k"
        try:
            r.fresh()
            filler = r
            if r.cfg.get("fill_with"):             # a wire-compatible peer that adds faster
                filler = Run(r.cfg["fill_with"], r.srv)
            d = filler.produce(n, "bulk", limit=a.fill_limit)
            if filler is not r:
                filler.close()
            if d["n"] < n:
                out[key + "_filled"] = d["n"]
            ps = r.work(mark=10_000)
            try:
                c, first, last, mk = r.drain(ps, d["n"], 90, 90, mark=True)
                out[key] = round(9999 / (mk - first)) if mk else round((c - 1) / (last - first))
                out[key + "_server_mb"] = round(r.srv.size() / 1e6) if isinstance(r.srv, Redis) else None
            finally:
                for p in ps:
                    stop(p)
        except RuntimeError as e:
            out[key + "_error"] = str(e)[:200]
    return out


def w8(r, a):
    if r.cfg.get("queues") == "one":
        return {"W8_note": "one queue per worker"}
    qs = [f"q{i}" for i in range(100)]
    r.fresh(qs)
    d = r.produce(10_000, "bulk", qs, limit=a.limit)
    ps = r.work(queues=qs)
    try:
        c, first, last, _ = r.drain(ps, d["n"], a.limit)
        out = {"W8": round((c - 1) / (last - first))}
        if c < d["n"]:                     # not drained in time: measure idleness on an emptied store
            out["W8_partial"] = c
            for p in ps:
                stop(p)
            r.fresh(qs)
            ps = r.work(queues=qs)
            time.sleep(4)
        time.sleep(2)
        c0, s0, o0, t0 = sum(cpu_of(p.pid) for p in ps), r.srv.cpu(), r.srv.ops(), time.time()
        time.sleep(10)
        dt = time.time() - t0
        out["W8_idle_worker_cpu_pct"] = round((sum(cpu_of(p.pid) for p in ps) - c0) / dt * 100, 1)
        out["W8_idle_server_cpu_pct"] = round((r.srv.cpu() - s0) / dt * 100, 1)
        out["W8_idle_ops_per_s"] = round((r.srv.ops() - o0) / dt, 1)
        out["W8_rss_mb"] = round(sum(rss_of(p.pid)[0] for p in ps), 1)
        if isinstance(r.srv, Redis):
            out["W8_connections"] = r.srv.info("clients", "connected_clients") - 1
        elif isinstance(r.srv, Postgres):
            out["W8_connections"] = int(r.srv.sql("SELECT count(*) FROM pg_stat_activity WHERE datname='bench'"))
        return out
    finally:
        for p in ps:
            stop(p)


def idle(r, a):
    """CPU of one worker process and of the server over 10 s, one empty queue."""
    r.fresh()
    ps = r.work()
    try:
        time.sleep(4)
        c0, s0, o0, t0 = sum(cpu_of(p.pid) for p in ps), r.srv.cpu(), r.srv.ops(), time.time()
        time.sleep(10)
        dt = time.time() - t0
        return {"idle_worker_cpu_pct": round((sum(cpu_of(p.pid) for p in ps) - c0) / dt * 100, 1),
                "idle_server_cpu_pct": round((r.srv.cpu() - s0) / dt * 100, 1),
                "idle_ops_per_s": round((r.srv.ops() - o0) / dt, 1),
                "idle_rss_mb": round(sum(rss_of(p.pid)[0] for p in ps), 1)}
    finally:
        for p in ps:
            stop(p)


WORK = {"W1": w1, "W3": w3, "W3S": w3s, "W4": w4, "W5": w5, "W6": w6, "W7": w7, "W8": w8, "IDLE": idle}


# ---------------------------------------------------------------- results
def load(path):
    return json.loads(path.read_text()) if path.exists() else {"runs": []}


def versions():
    out = {}
    for f in sorted((HOME / "log").glob("*.freeze")):
        keep = {}
        for line in f.read_text().split():
            n, _, v = line.partition("==")
            if v:
                keep[n.lower()] = v
        out[f.stem] = keep
    nm = HOME / "node" / "node_modules"
    out["node"] = {n: json.loads((nm / n / "package.json").read_text())["version"]
                   for n in ("bullmq", "ioredis", "pg") if (nm / n).exists()}
    return out


def machine():
    cpu = next((x.split(":")[1].strip() for x in open("/proc/cpuinfo") if x.startswith("model name")), "?")
    mem = next(int(x.split()[1]) for x in open("/proc/meminfo") if x.startswith("MemTotal"))

    def run(*c):                           # a server that no chosen peer needs may be missing
        return subprocess.run(c, capture_output=True, text=True).stdout.strip() if shutil.which(c[0]) else "none"
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(mem / 2**20, 1),
            "python": platform.python_version(), "sqlite": sqlite3.sqlite_version, "node": run("node", "--version"),
            "redis": run("redis-server", "--version").partition("v=")[2].partition(" ")[0] or "none",
            "postgres": run(Postgres.BIN + "/postgres", "--version")}


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--peers", default="all", help="comma list of names in peers.json, or all")
    ap.add_argument("--work", default="W1,W3,W4,W5", help="comma list of " + ",".join(WORK) + ",LIMITS (W2 comes with W3; W6 too if the drain ends in time)")
    ap.add_argument("--repeat", type=int, default=3)
    ap.add_argument("--limit", type=float, default=45, help="longest drain in seconds; a longer one is reported as partial")
    ap.add_argument("--slow", type=float, default=60, help="do not repeat what took longer than this many seconds")
    ap.add_argument("--fill-limit", type=float, default=120, help="longest fill of W7 in seconds")
    ap.add_argument("--quiet-wait", type=float, default=20, help="wait at most this long for other processes to be idle")
    ap.add_argument("--retry", type=int, default=1, help="measure again up to so many times what others disturbed")
    ap.add_argument("--python", help="run the Python peers with this interpreter (same minor version as the virtualenvs)")
    ap.add_argument("--aof", action="store_true", help="redis with appendonly everysec")
    ap.add_argument("--pg-async-commit", action="store_true", help="postgres with synchronous_commit=off")
    ap.add_argument("--out", default=str(HERE / "results" / (datetime.date.today().isoformat() + ".json")))
    ap.add_argument("--no-report", action="store_true")
    a = ap.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    names = list(PEERS) if a.peers == "all" else a.peers.split(",")
    works = a.work.split(",")
    for n in names:
        if n not in PEERS:
            sys.exit(f"unknown peer {n}; known: {', '.join(PEERS)}")
    out = Path(a.out)
    out.parent.mkdir(exist_ok=True)
    (HOME / "log").mkdir(parents=True, exist_ok=True)
    servers = {}

    def server(kind):
        if kind not in servers:
            servers[kind] = {"redis": lambda: Redis(a.aof), "postgres": lambda: Postgres(not a.pg_async_commit),
                             "sqlite": Sqlite}[kind]()
        return servers[kind]

    global PYTHON
    PYTHON = a.python
    cond = ("+aof" if a.aof else "") + ("+asynccommit" if a.pg_async_commit else "") + ("+otherpython" if PYTHON else "")
    stamp = datetime.datetime.now().isoformat(timespec="seconds")
    skip = set()

    def save(peer, work, rep, m):
        data = load(out)
        data["machine"], data["versions"] = machine(), versions()
        data["runs"].append({"run": stamp, "peer": peer, "work": work, "rep": rep, "condition": cond, "metrics": m})
        out.write_text(json.dumps(data, indent=1))
        if not a.no_report:
            import report
            report.write(out, HERE / "RESULTS.md")

    try:
        if "LIMITS" in works:
            import limits
            works.remove("LIMITS")
            for rep in range(a.repeat):
                wait_quiet(a.quiet_wait)
                t0, h0 = time.time(), host_cpu()
                m = limits.measure(server("redis"), server("postgres"), str(HOME / "venv/base/bin/python"), cond)
                m.update(noise(h0, host_cpu(), time.time() - t0))
                save("(limits)", "LIMITS", rep, m)
                print("limits", rep, m, flush=True)
        for rep in range(a.repeat):
            for w in works:
                for n in names:                      # A B A B: peers alternate within a repeat
                    if (n, w) in skip:
                        continue
                    if rep and w in ("W7",):
                        continue
                    for attempt in range(1 + a.retry):
                        r = Run(n, server(PEERS[n]["server"]))
                        wait_quiet(a.quiet_wait)
                        t0, h0 = time.time(), host_cpu()
                        try:
                            m = WORK[w](r, a)
                        except Exception as e:
                            m = {"error": f"{type(e).__name__}: {e}"[:300]}
                            skip.add((n, w))
                        finally:
                            r.close()
                        dt = time.time() - t0
                        m.update(noise(h0, host_cpu(), dt))
                        if dt > a.slow:
                            skip.add((n, w))
                        print(f"{time.strftime('%H:%M:%S')} {n:22s} {w} #{rep} {dt:5.1f}s {json.dumps(m)}", flush=True)
                        save(n, w, rep, m)
                        if m["noise_pct"] + m["steal_pct"] <= 25 or "error" in m:
                            break                 # undisturbed: else once more
    finally:
        for s in servers.values():
            s.stop()
        for p in list(CHILDREN):
            stop(p)


if __name__ == "__main__":
    main()
