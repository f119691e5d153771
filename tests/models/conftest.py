from __future__ import annotations

import pytest
from copied_databases import copied_databases  # noqa: F401 - a fixture
from networks import (  # noqa: F401 - a fixture
    gpu_checks,
    home,
    photographs,
    published,
    randomize,
    resnet18,
    resnet18_content,
    resnet18_int8,
    rtx,
    server,
    tiny,
)

from bandlens.app.cli.console import listen


@pytest.fixture(autouse=True)
def _notes_on_stderr() -> None:
    """Notes go to stderr, as the root of the command line has it; tests of a group of commands do without the root."""
    listen()
