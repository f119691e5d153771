from __future__ import annotations

from copied_databases import copied_databases, made_databases  # noqa: F401 - fixtures
from own_probes import write  # noqa: F401 - a fixture
