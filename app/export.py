"""`bandlens export` for each name: the fp32 model, its ONNX files at other precisions, and TensorRT plans."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnknownName, UsageError
from ..export.models import describe_model, load_model, model_names
from ..export.onnx.files import OnnxFile, check_precision, describe_onnx_file, load_onnx_file
from ..export.weights.registry import checkpoints, select
from ..records import Model

if TYPE_CHECKING:
    from ..export.onnx.precisions import Calibration

CALIBRATION_IMAGES = 300
"""Evenly spaced over the image set."""


@dataclass(frozen=True, slots=True)
class Exportable:
    """A name, and how its fp32 model comes about."""

    name: str
    model: Callable[[], Model]


@dataclass(frozen=True, slots=True)
class Lowering:
    """The precisions and TensorRT plans that are to be made of each model."""

    precisions: Sequence[str]
    calibration: Path | None
    """An image set."""
    build: Callable[[OnnxFile], Path] | None
    """Makes the TensorRT plan of an ONNX file, or finds it; None where no plans are built."""


def read_precisions(words: Iterable[str]) -> list[str]:
    """["fp16,int8", "fp32"] -> each precision once; UnknownName for one that does not exist."""
    return list(dict.fromkeys(check_precision(name.strip()) for word in words for name in word.split(",")))


def trt_plan_builder(batch: int, refit: bool) -> Callable[[OnnxFile], Path] | None:
    """Builds TensorRT plans on this machine; None where it cannot, which stderr explains where they may be expected."""
    from ..engine.device.devices import gpus, readiness
    from ..engine.device.nvidia import NoGpu
    from ..engine.device.requirements import TENSORRT, load, usable

    state = readiness("tensorrt")
    if not state.ready:
        if isinstance(gpus(), NoGpu) and not refit:
            return None  # an ordinary machine
        logging.getLogger("bandlens").info(f"bandlens: no TensorRT plans are built here: {state.line}")
        return None
    from ..export.plans.plans import ensure_trt_plan, target_of

    trt, gpu = load(TENSORRT), usable(gpus())
    target = target_of(trt, gpu.name, gpu.capability, batch, refit=refit)
    return lambda onnx_file: ensure_trt_plan(trt, onnx_file, target).path


def exportables(
    names: list[str],
    every: bool,
    category: str | None,
    folder: Path,
    export: Callable[[str], Model],
    anew: bool,
) -> list[Exportable]:
    """The names that a command line asks for: of the 48, and of the models in the folder, which include the user's own.

    `export` is called for those of the 48 that are not in the folder, or for all of them if they are wanted anew.
    Raises UnknownName and UsageError as `registry.select` does.
    """
    known, here = [one.name for one in checkpoints()], model_names(folder)
    if names and not every and category is None:
        for name in names:
            if name not in known + here:
                hint = "see `bandlens checkpoints list`; `bandlens export-own` exports weights of your own"
                raise UnknownName("checkpoint", name, known + here, hint)
        chosen = list(dict.fromkeys(names))
    else:
        chosen = [one.name for one in select(names, every, category)]
    loaded = [name in here and not (anew and name in known) for name in chosen]
    return [
        Exportable(name, partial(load_model, folder, name) if there else partial(export, name))
        for name, there in zip(chosen, loaded, strict=True)
    ]


def check_calibration(names: Sequence[str], folder: Path, precisions: Sequence[str], calibration: Path | None) -> None:
    """UsageError if an int8 ONNX file would have to be made without images."""
    lacking = set(names) - set(model_names(folder / "int8"))
    if "int8" in precisions and calibration is None and lacking:
        raise UsageError(f"int8 needs images for {min(lacking)}; give a packed image set: --calibration SET")


def rows_of(model: Model, wanted: Lowering) -> list[dict[str, Any]]:
    """Make the files of a model; a row for each precision: fp32 compared with torch, the others with fp32."""
    rows = []
    for precision in wanted.precisions:
        onnx_file, parity = _onnx_file(model, precision, wanted.calibration)
        row = {
            "name": model.name,
            "precision": precision,
            "sha256": onnx_file.sha256[:16],
            "classes": model.classes,
            "images": parity.get("images"),
            "relative_difference": parity.get("relative_difference"),
            "top1_disagreements": parity.get("top1_disagreements"),
            "file": str(onnx_file.path),
        }
        rows.append(row if wanted.build is None else row | {"trt_plan": str(wanted.build(onnx_file))})
    return rows


def _onnx_file(model: Model, precision: str, calibration: Path | None) -> tuple[OnnxFile, dict[str, Any]]:
    """The ONNX file and its recorded parity. An int8 file that exists is taken as it is unless there are images."""
    if precision == "fp16" or (precision == "int8" and calibration is not None):
        from ..export.onnx.precisions import make_onnx_file

        make_onnx_file(model, precision, None if calibration is None else _calibration(calibration, model.image_size))
    onnx_file = load_onnx_file(model, precision)
    about = (
        describe_model(onnx_file.models, model.name) if precision == "fp32" else describe_onnx_file(model, precision)
    )
    return onnx_file, about.get("parity", {})


@lru_cache(maxsize=1)
def _calibration(path: Path, size: int) -> Calibration:
    import numpy as np

    from ..export.onnx.precisions import Calibration
    from ..probes.images.image_set import open_image_set

    images = open_image_set(path)
    if images.info.size != size:
        raise UsageError(
            f"{path} has images of {images.info.size} pixels, and the model takes {size}; pack it with --size {size}"
        )
    count = min(images.info.count, CALIBRATION_IMAGES)
    rows = np.linspace(0, images.info.count - 1, count).round().astype(np.int64)
    return Calibration(images.info.name, images.info.digest, images.take(rows).astype(np.float32) / np.float32(255))
