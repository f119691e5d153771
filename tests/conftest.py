"""What all tests share."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from bandlens.probes.arrays import array_module

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--xp", default="numpy", choices=["numpy", "cupy"], help="array module that perturbs")


@pytest.fixture(scope="session")
def xp(request: pytest.FixtureRequest) -> ModuleType:
    """The array module under test."""
    return array_module(request.config.getoption("--xp"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Photographs and published figures that lie beside some checkouts and are no part of the project."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder
