from __future__ import annotations

from copied_databases import copied_databases  # noqa: F401 - a fixture
