"""The layers of the architecture, held by the imports of every module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
PLAIN = frozenset(
    {"states", "model", "options", "timing", "crontab", "errors", "clock", "ids", "wirejson", "posix", "version"}
)
"""Plain data and the machine: what a store may use besides the seam."""


@pytest.fixture(scope="module")
def imports() -> dict[str, frozenset[str]]:
    """What each module of Toril imports of Toril."""
    graph = grimp.build_graph("toril", exclude_type_checking_imports=True, cache_dir=None)
    return {module: frozenset(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def test_every_contract_of_pyproject_is_kept() -> None:
    lint = Path(sys.executable).with_name("lint-imports")

    ran = subprocess.run(
        [lint, "--no-cache", "--config", ROOT / "pyproject.toml"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_only_connect_names_a_store(imports: dict[str, frozenset[str]]) -> None:
    naming = {module for module, used in imports.items() if any(_in_stores(name) for name in used)}

    assert {module for module in naming if not _in_stores(module)} == {"toril.places"}


def test_stores_use_the_seam_and_plain_data_and_nothing_above(imports: dict[str, frozenset[str]]) -> None:
    allowed = {f"toril.{name}" for name in (*PLAIN, "store")}

    for module in filter(_in_stores, imports):
        above = {name for name in imports[module] if not _in_stores(name)} - allowed
        assert not above, f"{module} imports {sorted(above)}"


def test_plain_data_imports_only_plain_data(imports: dict[str, frozenset[str]]) -> None:
    allowed = {f"toril.{name}" for name in PLAIN}

    for module in allowed:
        assert imports[module] <= allowed, f"{module} imports {sorted(imports[module] - allowed)}"


def _in_stores(module: str) -> bool:
    return module == "toril.stores" or module.startswith("toril.stores.")
