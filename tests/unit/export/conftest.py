from __future__ import annotations

from networks import home, photographs, published, server, tiny  # noqa: F401 - fixtures
