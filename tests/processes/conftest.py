"""Makes faults.py, rounds.py and the other programs importable by plain names."""

from __future__ import annotations

import sys
from pathlib import Path

from copied_databases import copied_databases  # noqa: F401 - a fixture
from explored import explored  # noqa: F401 - a fixture
from own_probes import write  # noqa: F401 - a fixture

sys.path.insert(0, str(Path(__file__).parent))
