from __future__ import annotations

from networks import home, tiny  # noqa: F401 - fixtures
