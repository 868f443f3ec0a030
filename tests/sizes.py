"""Every size of a test that has two: smoke for each run, prove for `TORIL_PROVE=1`."""

from __future__ import annotations

import os

SIZES: dict[str, tuple[int, int]] = {
    # name: (smoke, prove)
    "model_examples": (40, 1000),
    "model_redis_examples": (25, 500),
    "model_steps": (30, 50),
    "planted_bug_examples": (200, 1000),
    "flow_examples": (8, 300),
    "flow_redis_examples": (6, 150),
    "flow_nodes": (200, 200),
    "kills": (8, 200),
    "killed_jobs": (600, 20_000),
    "limited_jobs": (200, 6_000),
    "killed_flows": (60, 2_000),
    "killed_schedules": (6, 50),
    "flow_kills": (5, 100),
    "writer_kills": (15, 500),
    "power_cuts": (8, 200),
    "relaxed_power_cuts": (3, 20),
    "blocked_lock_ms": (1_000, 2_000),
    "killed_lock_ms": (600, 3_000),
    "killed_interval_ms": (400, 2_000),
    "killed_workers": (1, 5),
    "frozen_lock_ms": (500, 2_000),
    "idle_ms": (1_000, 12_000),
    "locked_ms": (700, 3_000),
    "finished_jobs": (2_000, 100_000),
    "workload_steps": (300, 20_000),
    "batched_steps": (300, 2_000),
    "redis_tries_ms": (2_000, 20_000),
    "redis_killed_clients_jobs": (150, 2_000),
    "redis_adds_at_once": (10_000, 10_000),
    "redis_block_ms": (500, 5_000),
    "redis_idles": (1, 3),
    "redis_restart_jobs": (1_000, 20_000),
    "redis_restarts": (3, 20),
    "redis_nuisance_jobs": (200, 5_000),
    "redis_fault_run_faults": (10, 300),
    "redis_fault_run_jobs": (800, 200_000),
    "mixed_jobs": (300, 5_000),
    "mixed_kills": (4, 40),
    "failover_adds": (500, 10_000),
    "lagging_adds": (100, 400),
    "moved_jobs": (100, 5_000),
    "cluster_conformance_share": (12, 1),
    "schedule_days": (30, 366),
}


def size(name: str) -> int:
    """The size of this name for this run."""
    smoke, prove = SIZES[name]
    return prove if os.environ.get("TORIL_PROVE") == "1" else smoke
