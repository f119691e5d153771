from __future__ import annotations

from own_probes import write  # noqa: F401 - a fixture
