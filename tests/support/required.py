"""Tools that a test cannot do without: it is skipped where they are absent, and fails where they were asked for."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def miss(tool: str, reason: str) -> NoReturn:
    """Skip the test or, while it is collected, its file; fail where the variable BANDLENS_REQUIRE names the tool."""
    if tool in os.environ.get("BANDLENS_REQUIRE", "").replace(",", " ").split():
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)
