"""Libraries that tell their makers of every use, kept from it."""

from __future__ import annotations

import os
import sys
from typing import Any, cast


def forbid_telemetry() -> None:
    """Before ONNX Runtime or OpenVINO is imported: neither calls anybody then, or writes into the home folder.

    ONNX Runtime (1.32 and newer) asks the environment. OpenVINO sends an event as it is imported, unless it does not
    find the package that does so.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    cast(dict[str, Any], sys.modules).setdefault("openvino_telemetry", None)
