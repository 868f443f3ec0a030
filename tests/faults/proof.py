"""Stating what a test has shown, for the table that `make prove` writes."""

from __future__ import annotations

import json
import os
import time


class Stopwatch:
    """Runs from its making."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self._began_s, 1)


def shown(what: str, size: str, result: str, watch: Stopwatch) -> None:
    """Add a row to the file named by TORIL_PROOF_ROWS, if any."""
    path = os.environ.get("TORIL_PROOF_ROWS")
    if path:
        row = {"what": what, "size": size, "result": result, "seconds": watch.seconds}
        with open(path, "a", encoding="utf-8") as rows:
            rows.write(json.dumps(row) + "\n")
