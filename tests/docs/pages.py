"""The pages of the documentation, taken apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PROOF = DOCS / "proof"

PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    if PROOF not in path.parents and path.name != "SECURITY.md"
)
"""Every page that people read; the tables of `make prove` are not among them."""

REDIS_PAGES = (DOCS / "guides" / "redis.md", DOCS / "guides" / "node.md")
"""What these say is so on Redis only; the examples of all others run on any store."""

_FENCE = re.compile(r"^```(.*)$")
_HEADING = re.compile(r"^(#+) (.*)$")
_SAID = re.compile(r"(?:#|//) ?> (.*)$")
_FILE = re.compile(r"^# (\w+)\.py$")
_SCRIPT = re.compile(r"^// (\w+\.mjs)$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its info string, its text, and the number of its first line."""

    info: str
    text: str
    line: int

    @property
    def module(self) -> str | None:
        """The name of the module that it is, when it begins with `# name.py`."""
        found = _FILE.match(self.text.partition("\n")[0])
        return found and found[1]

    @property
    def script(self) -> str | None:
        """The file that it is for Node, when it begins with `// name.mjs`."""
        found = _SCRIPT.match(self.text.partition("\n")[0])
        return found and found[1]

    @property
    def says(self) -> list[str]:
        """The lines that it prints, as its comments `# >`, or `// >`, have them."""
        return [found[1].rstrip() for line in self.text.splitlines() if (found := _SAID.search(line))]

    @property
    def commands(self) -> list[str]:
        """The commands after `$` in a console block."""
        return [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]


def name_of(page: Path) -> str:
    """How a test calls a page."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    info: str | None = None
    begun, lines = 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if fence and info is None:
            info, begun, lines = fence[1].strip(), number + 1, []
        elif fence and info is not None:
            yield Block(info, "\n".join(lines) + "\n", begun)
            info = None
        elif info is not None:
            lines.append(line)
    assert info is None, f"{page} has a fence that is not closed"


def prose(page: Path) -> list[str]:
    """The lines of a page that stand outside of fenced blocks."""
    lines: list[str] = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            lines.append(line)
    return lines


def sections(page: Path) -> dict[str, str]:
    """The text below each heading, up to the next heading of any level."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        inside ^= line.startswith("```")
        heading = _HEADING.match(line)
        if heading and not inside:
            lines = found.setdefault(heading[2].replace("\\", ""), [])
        else:
            lines.append(line)
    return {heading: "\n".join(text) for heading, text in found.items()}


def anchors(page: Path) -> set[str]:
    """What may follow a `#` in a link to a page."""
    headings = [found[2] for line in prose(page) if (found := _HEADING.match(line))]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(text: str) -> list[list[str]]:
    """The rows of the tables in a text, less their heads."""
    lines = text.splitlines()
    tables = [line for line in lines if line.startswith("|")]
    heads = {n for n, line in enumerate(tables) if set(line) <= set("|-: ")}
    body = [line for n, line in enumerate(tables) if n not in heads and n + 1 not in heads]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body]
