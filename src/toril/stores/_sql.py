"""SQL statements from files, one operation each: `claim.sql` holds `claim.pick`, which begins at the line `-- :pick`."""

from __future__ import annotations

import re
from importlib import resources

_NAME = re.compile(r"^-- :(\w+).*$", re.MULTILINE)


def load(package: str) -> dict[str, str]:
    """The statements of all `.sql` files of a package, by `operation.statement`."""
    statements: dict[str, str] = {}
    for file in resources.files(package).iterdir():
        if file.name.endswith(".sql"):
            parts = _NAME.split(file.read_text(encoding="utf-8"))
            for name, text in zip(parts[1::2], parts[2::2], strict=True):
                statements[f"{file.name.removesuffix('.sql')}.{name}"] = text.strip().removesuffix(";")
    return statements


def migrations(package: str) -> list[tuple[int, str, str]]:
    """The numbered schema files of a package: number, name and text, in order."""
    files = sorted(
        (file for file in resources.files(package).iterdir() if file.name.endswith(".sql")), key=lambda file: file.name
    )
    return [(int(file.name[:4]), file.name, file.read_text(encoding="utf-8")) for file in files]
