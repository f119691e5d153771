from __future__ import annotations

from networks import home, photographs, published, randomize, resnet18, resnet50, server, tiny  # noqa: F401 - fixtures
