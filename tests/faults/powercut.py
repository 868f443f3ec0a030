"""A model of a power cut: what was synced stays, and of what was not, any part may be gone.

`recorder.c` writes down what a process wrote to a store's files and when it synced them. After the process is killed, its
files are put together anew from what they were before, the writes that were synced, and a drawn part of the others.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

WRITE, TRUNCATE, SYNC = 1, 2, 3
SECTOR = 512
SUFFIXES = ("", "-wal")

_HEADER = struct.Struct("=4q")


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that was done to one of the files."""

    kind: int
    file: int
    offset: int
    data: bytes = b""


def build_recorder(directory: Path) -> Path:
    """Compile the recorder; without a compiler the test is skipped, in CI it fails."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        sentence = "gcc is not installed: install it (apt-get install gcc) to run the power cut tests"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    library = directory / "recorder.so"
    source = Path(__file__).with_name("recorder.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def read_journal(path: Path) -> list[Record]:
    """The records of a journal, whole ones only."""
    return list(_records(path.read_bytes())) if path.exists() else []


def _records(text: bytes) -> Iterator[Record]:
    at = 0
    while at + _HEADER.size <= len(text):
        kind, file, offset, length = _HEADER.unpack_from(text, at)
        at += _HEADER.size
        if at + length > len(text):
            return
        yield Record(kind, file, offset, text[at : at + length])
        at += length


def synced(records: list[Record], file: int) -> int:
    """How many of the records of a file are safe: those before its last sync."""
    last = max((n for n, record in enumerate(records) if record.kind == SYNC and record.file == file), default=-1)
    return last + 1


def survivors(records: list[Record], file: int, rng: random.Random | None) -> Iterator[Record]:
    """The records of a file that outlive a power cut. Of those not synced: none, or what `rng` draws, whole or torn."""
    safe = synced(records, file)
    for n, record in enumerate(records):
        if record.file != file or record.kind == SYNC:
            continue
        if n < safe:
            yield record
        elif rng is not None:
            fate = rng.random()
            if fate < 0.4:
                yield record
            elif fate < 0.6 and record.kind == WRITE and len(record.data) > SECTOR:
                yield Record(
                    WRITE, file, record.offset, record.data[: SECTOR * rng.randrange(1, len(record.data) // SECTOR + 1)]
                )


def cut(before: list[bytes], records: list[Record], store_path: Path, rng: random.Random | None) -> None:
    """Put the files of a store together as a power cut may have left them."""
    for file, suffix in enumerate(SUFFIXES):
        content = bytearray(before[file])
        for record in survivors(records, file, rng):
            if record.kind == TRUNCATE:
                del content[record.offset :]
                content.extend(bytes(record.offset - len(content)))
            else:
                end = record.offset + len(record.data)
                content.extend(bytes(max(0, end - len(content))))
                content[record.offset : end] = record.data
        Path(f"{store_path}{suffix}").write_bytes(content)
    Path(f"{store_path}-shm").unlink(missing_ok=True)


def contents(store_path: Path) -> list[bytes]:
    """The files of a store as they are."""
    files = [Path(f"{store_path}{suffix}") for suffix in SUFFIXES]
    return [file.read_bytes() if file.exists() else b"" for file in files]
