"""The worker: small loops that claim jobs, run handlers, and settle what became of them."""

from toril.worker.loops import Served
from toril.worker.worker import Worker

__all__ = ["Served", "Worker"]
