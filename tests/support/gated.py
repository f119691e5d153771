"""Studies whose engines a gate compares, on 40 images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small import make_study

LOWPASS = "lowpass = {cutoff = [0.1, 0.5]}\n"
WIDE = "[gate]\nflips = 0.25\naccuracy = 0.25\n"
"""Limits that 40 images are enough for."""
COUNT = 40
ENGINES = ("onnxruntime:fp32", "openvino:fp32")
REFERENCE = ("--reference", ENGINES[0])


def gated_study(folder: Path, *models: str, probes: str = LOWPASS + WIDE, **keys: Any) -> Path:
    """A study file of these models on OpenVINO."""
    return make_study(folder, **{"probes": probes, "engine": "openvino", "checkpoints": models} | keys)
