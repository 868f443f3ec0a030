"""What a command prints: lines, tables and JSON, in colour where a person looks."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final, TextIO, cast

from toril.settings import mask_text

_CODES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_OURS = re.compile(r"(\x1b\[(?:0|1|2|31|32|33|36)m)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
NARROWEST: Final = 12
STATE_COLOURS: Final = {
    "active": "cyan",
    "completed": "green",
    "failed": "red",
    "delayed": "yellow",
    "paused": "yellow",
    "broken": "red",
    "ok": "green",
    "warning": "yellow",
    "error": "red",
}


class Screen:
    """Where answers go (`out`) and where remarks go (`err`).

    On a terminal, lines are folded and tables are cut to its width; in a pipe nothing is cut.
    """

    def __init__(self, out: TextIO, err: TextIO, *, colour: bool = False, width: int | None = None) -> None:
        self._out = out
        self._err = err
        self._colour = colour
        self._width = width

    @staticmethod
    def of(out: TextIO, err: TextIO, environ: Mapping[str, str], *, no_color: bool) -> Screen:
        """A screen as the streams and the environment want it: `NO_COLOR`, `COLUMNS`."""
        terminal = out.isatty()
        colour = terminal and not no_color and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        known = terminal or environ.get("COLUMNS", "").isdigit()
        width = max(40, shutil.get_terminal_size().columns) if known else None
        return Screen(out, err, colour=colour, width=width)

    # ---------------------------------------------------------------- lines

    def line(self, text: str = "", *, indent: int = 0) -> None:
        """Print a sentence, folded to the width."""
        for folded in self._folded(text, indent):
            self._print(self._out, folded)

    def block(self, text: str, *, indent: int = 2) -> None:
        """Print text that has lines of its own, as it is."""
        for row in text.splitlines():
            self._print(self._out, " " * indent + printable(row))

    def drawn(self, text: str, state: str = "", *, after: str = "") -> None:
        """Print a line of a drawing, cut to the width; the `state` that stands `after` something gets its colour."""
        line = printable(text)
        cut = _cut(line, self._width or len(line))
        before, found, rest = cut.partition(f"{printable(after)} {state}")
        tinted = found.removesuffix(state) + self.state(state) if found else ""
        self._print(self._out, before + tinted + rest)

    def remark(self, text: str) -> None:
        """Say something beside the answer."""
        self._print(self._err, text)

    def heading(self, text: str) -> None:
        """Begin a section."""
        self.line()
        self.line(self.style(text, "bold"))

    def style(self, text: str, style: str | None) -> str:
        """Text in a colour, where there are colours."""
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self._colour and style and text else text

    def state(self, state: str) -> str:
        """The name of a state or level in its colour."""
        return self.style(state, STATE_COLOURS.get(state))

    # ---------------------------------------------------------------- tables

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        right: Sequence[int] = (),
        shrink: Sequence[int] = (),
        below: Mapping[int, str] | None = None,
    ) -> None:
        """Print columns: those in `right` are numbers; those in `shrink` are cut where there is no room; `below` are lines under rows."""
        cells = [[printable(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
        for column in shrink:
            surplus = 0 if self._width is None else sum(widths) + 2 * (len(widths) - 1) - self._width
            widths[column] -= max(0, min(surplus, widths[column] - NARROWEST))
        self._print(self._out, self.style(_row(header, widths, right), "bold"))
        for n, row in enumerate(cells):
            self._print(self._out, self._tinted(_row(row, widths, right), row))
            if below and n in below:
                text = printable(below[n].replace("\n", " "))
                self._print(self._out, "  " + self.style(_cut(text, (self._width or len(text) + 2) - 2), "dim"))

    def _tinted(self, text: str, row: Sequence[str]) -> str:
        last = row[-1] if row else ""
        return text[: -len(last)] + self.state(last) if last in STATE_COLOURS and text.endswith(last) else text

    # ---------------------------------------------------------------- data

    def json(self, value: Any) -> None:
        """Print a value as JSON."""
        text = json.dumps(plain(value), ensure_ascii=False, indent=2)
        self._out.write(_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")

    def flush(self) -> None:
        """Send what is printed."""
        self._out.flush()
        self._err.flush()

    def _folded(self, text: str, indent: int) -> list[str]:
        blank = " " * indent
        if self._width is None or len(_OURS.sub("", text)) + indent <= self._width:
            return [blank + text]
        return textwrap.wrap(
            text,
            min(self._width, 100),
            initial_indent=blank,
            subsequent_indent=blank,
            break_on_hyphens=False,
            break_long_words=False,
        )

    def _print(self, stream: TextIO, text: str) -> None:
        """Print text in which nothing but our own colours commands the terminal."""
        parts = _OURS.split(text.rstrip(" ")) if self._colour else [text.rstrip(" ")]
        stream.write("".join(part if n % 2 else printable(part) for n, part in enumerate(parts)) + "\n")


def _row(cells: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    padded = [
        _cut(cell, width).rjust(width) if n in right else _cut(cell, width).ljust(width)
        for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def printable(text: str) -> str:
    """Text from a job as it may be shown: control characters, which could command the terminal, are written out."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", mask_text(text))


def folded_json(text: str | None) -> str:
    """JSON text for people: indented; what is not JSON stays as it is."""
    if text is None:
        return ""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return text


def plain(value: Any) -> Any:
    """Frozen data as what JSON has; JSON text in `data`, `result` and `progress` becomes its value."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _member(field.name, getattr(value, field.name)) for field in fields(value) if field.repr}
    if isinstance(value, Mapping):
        return {str(key): plain(member) for key, member in cast(Any, value).items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in cast(Any, value)]
    return value


def _member(name: str, value: Any) -> Any:
    if name in ("data", "result", "progress") and isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return plain(value)


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun: `1 job`, `1,204 jobs`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
