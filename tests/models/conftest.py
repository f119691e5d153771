from __future__ import annotations

from networks import (  # noqa: F401 - fixtures
    gpu_checks,
    home,
    photographs,
    published,
    randomize,
    resnet18,
    resnet50,
    resnet50_content,
    rtx,
    server,
    tiny,
    weights_file,
)
