"""The worker: small loops that claim jobs, run handlers, and settle what became of them."""

from toril.worker.worker import Served, Worker

__all__ = ["Served", "Worker"]
