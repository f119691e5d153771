from __future__ import annotations

from networks import gpu_checks, home, resnet50, rtx, tiny  # noqa: F401 - fixtures
