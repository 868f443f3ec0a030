"""Links of the documentation lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.pages import DOCS, PAGES, ROOT, anchors, name_of, prose

_LINK = re.compile(r"\]\(([^)\s]+)\)")


def _links(page: Path) -> list[str]:
    return [link for line in prose(page) for link in _LINK.findall(line) if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken: list[str] = []
    for link in _links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


def test_every_page_of_docs_is_reached_from_its_index() -> None:
    index = DOCS / "index.md"

    reached = {(DOCS / link.partition("#")[0]).resolve() for link in _links(index)}

    assert {name_of(page) for page in PAGES if DOCS in page.parents and page != index} == {
        name_of(page) for page in reached
    }


def test_the_pages_name_no_place_of_the_machine_they_were_written_on() -> None:
    homes = re.compile(r"/(root|home/\w+|work)/|/tmp/")

    found = {name_of(page): homes.findall(page.read_text(encoding="utf-8")) for page in PAGES}

    assert {name: places for name, places in found.items() if places} == {}
    assert (ROOT / "README.md") in PAGES
