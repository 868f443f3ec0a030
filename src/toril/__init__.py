"""Background jobs for Python: one behaviour on an embedded SQLite file, on Redis in BullMQ's wire format, and on Postgres."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from toril.version import VERSION

if TYPE_CHECKING:
    from toril.app import App, AppQueue
    from toril.errors import (
        ConfigError,
        CrossSlot,
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
        ScheduleNotFound,
        StoreDamaged,
        StoreError,
        StoreUnavailable,
        TooManyAdds,
        TorilError,
        Unconfirmed,
        UnknownJob,
        Unrecoverable,
        UnsupportedStore,
        WrongState,
    )
    from toril.events import QueueEvents
    from toril.flow import Flow, FlowProducer, chain, group
    from toril.handlers import Context, Handler, inject
    from toril.job import Call, Job
    from toril.model import Event, JobRecord, JobRef, QueueSettings
    from toril.options import Backoff, Deduplication, JobOptions, Keep, RateLimit
    from toril.places import connect
    from toril.queue import Queue
    from toril.schedule import JobScheduler, cron, every
    from toril.states import State
    from toril.wishes import AwaitChildren, Delay, Throttle
    from toril.worker import Served, Worker

__version__ = VERSION

# Names are loaded when they are first used: a command, or a program that only declares things, starts faster.
_WHERE = {
    "toril.app": (
        "App",
        "AppQueue",
    ),
    "toril.places": ("connect",),
    "toril.errors": (
        "ConfigError",
        "CrossSlot",
        "InvalidData",
        "InvalidJob",
        "JobError",
        "JobFailed",
        "JobNotFound",
        "LockLost",
        "ParentTaken",
        "PayloadTooLarge",
        "QueueBusy",
        "QueueError",
        "QueueFull",
        "QueueNotPaused",
        "ResultTimeout",
        "ScheduleNotFound",
        "StoreDamaged",
        "StoreError",
        "StoreUnavailable",
        "TooManyAdds",
        "TorilError",
        "UnknownJob",
        "Unrecoverable",
        "Unconfirmed",
        "UnsupportedStore",
        "WrongState",
    ),
    "toril.events": ("QueueEvents",),
    "toril.flow": (
        "Flow",
        "FlowProducer",
        "chain",
        "group",
    ),
    "toril.handlers": (
        "Context",
        "Handler",
        "inject",
    ),
    "toril.job": (
        "Call",
        "Job",
    ),
    "toril.model": (
        "Event",
        "JobRecord",
        "JobRef",
        "QueueSettings",
    ),
    "toril.options": (
        "Backoff",
        "Deduplication",
        "JobOptions",
        "Keep",
        "RateLimit",
    ),
    "toril.queue": ("Queue",),
    "toril.schedule": (
        "JobScheduler",
        "cron",
        "every",
    ),
    "toril.states": ("State",),
    "toril.wishes": (
        "AwaitChildren",
        "Delay",
        "Throttle",
    ),
    "toril.worker": (
        "Served",
        "Worker",
    ),
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'toril' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "App",
    "AppQueue",
    "AwaitChildren",
    "Backoff",
    "Call",
    "ConfigError",
    "Context",
    "CrossSlot",
    "Deduplication",
    "Delay",
    "Event",
    "Flow",
    "FlowProducer",
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
    "JobScheduler",
    "Keep",
    "LockLost",
    "ParentTaken",
    "PayloadTooLarge",
    "Queue",
    "QueueBusy",
    "QueueError",
    "QueueEvents",
    "QueueFull",
    "QueueNotPaused",
    "QueueSettings",
    "RateLimit",
    "ResultTimeout",
    "ScheduleNotFound",
    "Served",
    "State",
    "StoreDamaged",
    "StoreError",
    "StoreUnavailable",
    "Throttle",
    "TooManyAdds",
    "TorilError",
    "Unconfirmed",
    "UnknownJob",
    "Unrecoverable",
    "UnsupportedStore",
    "Worker",
    "WrongState",
    "__version__",
    "chain",
    "connect",
    "cron",
    "every",
    "group",
    "inject",
]
