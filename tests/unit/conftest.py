from __future__ import annotations

from copied_databases import copied_databases, made_databases  # noqa: F401 - fixtures
