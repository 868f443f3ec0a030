"""How a worker's log looks: a line of text for people, or an object of JSON a line for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from toril.cli.output import printable
from toril.settings import mask_text

EXTRA: Final = ("queue", "job_id", "job_name", "attempt", "ms")
"""What log records about jobs carry beside their message."""

_SHORT = {"WARNING": "WARN", "CRITICAL": "FATAL"}


class TextFormatter(logging.Formatter):
    """`12:00:01 INFO  toril.worker email/1 welcome-email completed in 12 ms`, in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        level = _SHORT.get(record.levelname, record.levelname)
        text = f"{at:%H:%M:%S} {level:<5} {record.name} {record.getMessage()}"
        error = _error_text(self, record)
        return printable(f"{text}\n{error}" if error else text)


class JsonFormatter(logging.Formatter):
    """One object a line: ts, level, logger, message, what is known of the job, and exc."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        entry: dict[str, Any] = {
            "ts": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": mask_text(record.getMessage()),
        }
        entry |= {name: getattr(record, name) for name in EXTRA if hasattr(record, name)}
        error = _error_text(self, record)
        if error:
            entry["exc"] = mask_text(error)
        return json.dumps(entry, ensure_ascii=False, default=str)


def configure(style: str, level: str, stream: TextIO | None = None) -> logging.Handler:
    """Send all loggers of this process to `stream` (stderr), in one style. Returns the handler."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    return handler


def _error_text(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback of a record, and its stack if one was asked for."""
    parts = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)
