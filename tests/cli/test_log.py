"""How a worker's log looks."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from toril.cli.log import JsonFormatter, TextFormatter


def record(
    message: str, *args: object, level: int = logging.INFO, error: bool = False, **extra: Any
) -> logging.LogRecord:
    info = None
    if error:
        try:
            raise ValueError("redis://:hunter2@h does not answer")
        except ValueError:
            info = sys.exc_info()
    made = logging.LogRecord("toril.worker", level, __file__, 1, message, args, info)
    made.created = 1_700_000_000.25
    made.__dict__.update(extra)
    return made


@pytest.mark.parametrize(
    ("level", "word"),
    [(logging.INFO, "INFO "), (logging.WARNING, "WARN "), (logging.ERROR, "ERROR"), (logging.CRITICAL, "FATAL")],
)
def test_a_line_of_text_has_the_time_the_level_and_the_logger(level: int, word: str) -> None:
    line = TextFormatter().format(record("%s completed in %d ms", "email/1", 12, level=level))

    assert line == f"22:13:20 {word} toril.worker email/1 completed in 12 ms"


def test_a_line_of_text_shows_the_traceback_and_no_secret_and_commands_no_terminal() -> None:
    text = TextFormatter().format(record("broken \x1b[31m", error=True))

    assert "broken \\x1b[31m\nTraceback" in text
    assert "redis://:***@h does not answer" in text


def test_a_line_of_json_has_what_is_known_of_the_job() -> None:
    text = JsonFormatter().format(record("done", queue="email", job_id="1", job_name="a", attempt=2, ms=12, other=1))

    assert json.loads(text) == {
        "ts": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "logger": "toril.worker",
        "message": "done",
        "queue": "email",
        "job_id": "1",
        "job_name": "a",
        "attempt": 2,
        "ms": 12,
    }


def test_a_line_of_json_is_one_line_whatever_is_in_it() -> None:
    text = JsonFormatter().format(record("two\nlines", error=True, queue=object()))

    assert len(text.splitlines()) == 1
    entry = json.loads(text)
    assert entry["exc"].startswith("Traceback")
    assert "hunter2" not in text
