"""The figures that a card is asked for, and what was predicted of each for an H100 before any GPU had been met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bandlens.export.plans.build import SETTINGS

NOT_PREDICTED = "-"


class Figure(NamedTuple):
    """A figure that a card is asked for."""

    what: str
    unit: str
    predicted: str = NOT_PREDICTED


def runs_of(stage: str, engine: str, single: str = NOT_PREDICTED, many: str = NOT_PREDICTED) -> dict[str, Figure]:
    """The rows about whole runs; what is predicted is with the images on the card."""
    figures = {}
    for label, networks, predicted in (("1", "1 network", single), ("48", "48 networks", many)):
        name, key = f"{engine} fp16, {networks}: ", f"{stage}.{label}"
        figures[f"{key}.bare"] = Figure(name + "bare loop", "images/s")
        figures[f"{key}.resident"] = Figure(name + "run over it, images on the card", "ratio", predicted)
        figures[f"{key}.resident.busy"] = Figure(name + "share of the time in networks, images on the card", "ratio")
        figures[f"{key}.streamed"] = Figure(name + "run over it, images streamed", "ratio")
        figures[f"{key}.streamed.busy"] = Figure(name + "share of the time in networks, images streamed", "ratio")
    return figures


FIGURES: Mapping[str, Figure] = {
    "kernels.words": Figure("random words that differ from NumPy's", "", "0"),
    "kernels.normals": Figure("normal noise, largest deviation", "", "2e-6"),
    "kernels.bilateral": Figure("bilateral filter, largest deviation", "", "2e-6"),
    "kernels.octaves": Figure("16 masks of octaves, largest deviation", "", "2e-6"),
    "kernels.reduced": Figure("classes and ranks that `reduce_logits` gives and NumPy does not", "", "0"),
    "kernels.confidence": Figure("confidence, largest deviation", "", "2e-6"),
    "kernels.spectral": Figure("22 spectral conditions, largest deviation", ""),
    "kernels.band": Figure("29 critical-band conditions, largest deviation", ""),
    "speed.spectral": Figure("22 spectral conditions of a batch of 256", "ms", "6.2"),
    "speed.band": Figure("29 critical-band conditions of a batch of 256", "ms", "4.4"),
    "speed.reduce": Figure("`reduce_logits` of a batch of 256", "us", "4"),
    "speed.hop": Figure("an event between two streams", "us"),
    "speed.pool": Figure("CuPy's memory for the perturbations", "GiB"),
    "speed.growth": Figure("memory that CuPy takes once every condition has been made", "bytes", "0"),
    "sanitizer.errors": Figure("errors that compute-sanitizer finds in the kernels", "", "0"),
    "fault.line": Figure("whether an illegal access ends a run with one line", "", "1"),
    "memory.line": Figure("whether a batch without room ends with one line, which names one that fits", "", "1"),
    "plan.ratio": Figure("rate of a second `plan` over the first's", "ratio", "1"),
    "torch.differ": Figure("rows in torch-cuda fp32 that are not the CPU's", "", "0"),
    "torch.flush": Figure("a flush of a minute of 48 networks, without storing", "s"),
    **runs_of("torch", "torch-cuda"),
    **runs_of("tensorrt", "tensorrt", "0.94 to 0.97", "0.95 or more"),
    **runs_of("onnxruntime", "onnxruntime-cuda"),
    "share.fp16": Figure("products of matrices in fp16", "TFLOP/s"),
    "share.fp32": Figure("products of matrices in fp32, without TF32", "TFLOP/s"),
    "share.torch": Figure("share of the fp16 rate that torch-cuda's bare loop reaches", "ratio"),
    "plans.first": Figure("building an fp16 plan", "s"),
    "plans.again": Figure("building it again with its timings", "s"),
    "plans.open": Figure("opening one plan 48 times", "s"),
    "settings.all": Figure("TensorRT fp16, batch 256, with all settings of the builder", "images/s"),
    **{
        f"settings.without_{word}": Figure(f"TensorRT fp16, batch 256, without `{word}`", "images/s")
        for word in SETTINGS
    },
    "rates.fp16.256": Figure("TensorRT fp16, sessions at batch 256", "images/s", "39,400"),
    "rates.int8.256": Figure("TensorRT int8, sessions at batch 256", "images/s", "45,000 to 65,000"),
    "rates.fp16.256.graphs": Figure("fp16 sessions over back-to-back launches of their CUDA graph", "ratio"),
    "rates.fp16.256.trtexec": Figure("fp16 sessions over trtexec", "ratio"),
    "rates.grid": Figure("the grid in fp16: 48 networks, 52 conditions, 50,000 images", "min", "53"),
}  # fmt: skip
"""Each figure, and what was predicted of it for an H100 before any GPU had been met."""
