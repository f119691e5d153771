"""ONNX Runtime's logits on the CPU, which other engines are compared with, kept in MODELS/logits for the next time.

To open 48 sessions would else run 48 networks on the CPU. A file there begins with the sha256 of the rest, which is an
array in NumPy's format. Its name has a digest of all that the logits depend on, so that none is ever out of date.
"""

from __future__ import annotations

import hashlib
import io
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.files import write_bytes
from ...core.records import digest_of
from ...export.model_files import OnnxFile
from ...export.onnx.parity import onnx_logits
from ..device.devices import processor_name
from ..device.requirements import ONNXRUNTIME, load

SHA256_BYTES = hashlib.sha256().digest_size


def kept_logits(onnx_file: OnnxFile, content: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, classes) logits of (n, 3, S, S) images in [0, 1], kept or computed by ONNX Runtime on the CPU.

    `content` is the ONNX file as ONNX Runtime reads it. Raises ExportError where ONNX Runtime cannot run it.
    """
    processed = [hashlib.sha256(data).hexdigest() for data in (content, images.tobytes())]
    key = digest_of(*processed, list(images.shape), load(ONNXRUNTIME).__version__, processor_name())
    file = onnx_file.models / "logits" / f"{onnx_file.name}.{onnx_file.precision}.{key[:16]}.logits"
    logits = _read(file)
    if logits is None:
        logits = onnx_logits(content, images)
        stream = io.BytesIO()
        np.save(stream, logits)
        with suppress(OSError):  # the folder may be read-only
            write_bytes(file, hashlib.sha256(stream.getvalue()).digest() + stream.getvalue())
    return logits


def _read(file: Path) -> NDArray[np.float32] | None:
    """The array in a file, or None where there is none that is whole."""
    try:
        content = file.read_bytes()
        if hashlib.sha256(content[SHA256_BYTES:]).digest() != content[:SHA256_BYTES]:
            return None
        logits: NDArray[np.float32] = np.load(io.BytesIO(content[SHA256_BYTES:]), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return logits
