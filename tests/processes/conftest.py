from __future__ import annotations

from copied_databases import copied_databases  # noqa: F401 - a fixture
from explored import explored  # noqa: F401 - a fixture
from own_probes import write  # noqa: F401 - a fixture
