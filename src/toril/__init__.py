"""Background jobs for Python: one behaviour on an embedded SQLite file, on Redis in BullMQ's wire format, and on Postgres."""

from toril.app import App, AppQueue
from toril.connect import connect
from toril.errors import (
    ConfigError,
    InvalidData,
    InvalidJob,
    JobError,
    JobFailed,
    JobNotFound,
    LockLost,
    ParentTaken,
    PayloadTooLarge,
    QueueBusy,
    QueueError,
    QueueFull,
    QueueNotPaused,
    ResultTimeout,
    StoreDamaged,
    StoreError,
    StoreUnavailable,
    TorilError,
    UnknownJob,
    Unrecoverable,
    UnsupportedStore,
    WrongState,
)
from toril.handlers import Context, Handler, inject
from toril.job import Call, Job
from toril.model import Event, JobRecord, JobRef, QueueSettings
from toril.options import Backoff, JobOptions, Keep, RateLimit
from toril.queue import Queue
from toril.states import State
from toril.version import VERSION
from toril.wishes import AwaitChildren, Delay, Throttle
from toril.worker import Served, Worker

__version__ = VERSION

__all__ = [
    "App",
    "AppQueue",
    "AwaitChildren",
    "Backoff",
    "Call",
    "ConfigError",
    "Context",
    "Delay",
    "Event",
    "Handler",
    "InvalidData",
    "InvalidJob",
    "Job",
    "JobError",
    "JobFailed",
    "JobNotFound",
    "JobOptions",
    "JobRecord",
    "JobRef",
    "Keep",
    "LockLost",
    "ParentTaken",
    "PayloadTooLarge",
    "Queue",
    "QueueBusy",
    "QueueError",
    "QueueFull",
    "QueueNotPaused",
    "QueueSettings",
    "RateLimit",
    "ResultTimeout",
    "Served",
    "State",
    "StoreDamaged",
    "StoreError",
    "StoreUnavailable",
    "Throttle",
    "TorilError",
    "UnknownJob",
    "Unrecoverable",
    "UnsupportedStore",
    "Worker",
    "WrongState",
    "__version__",
    "connect",
    "inject",
]
