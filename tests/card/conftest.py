from __future__ import annotations

from networks import gpu_checks, rtx  # noqa: F401 - fixtures
