"""Compare the logits of an ONNX file with those of the model or file from which it was made."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...core.errors import ExportError, some_of
from ...core.extras import naming_extras
from ...core.jobs import in_parallel, processors
from ...core.untrusted import first_line

if TYPE_CHECKING:
    from torch import nn

TOLERANCE = 1e-3
"""Largest difference of a logit, relative to the largest |logit|, that is allowed for an export."""
TIE = 1e-5
"""Difference of two logits, relative to the largest |logit|, up to which they count as equal in float32.

Either of them may then be the predicted class.
"""
AT_ONCE = 8
"""Batch size of a comparison."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Differences between the logits of two models on the same images."""

    images: int
    largest_difference: float
    """Largest absolute difference of any logit."""
    relative_difference: float
    """Largest absolute difference, divided by the largest |logit|."""
    ties: int
    """Number of images whose two highest logits count as equal in float32."""
    top1_disagreements: int
    """Number of images with different predicted classes, without ties."""

    @property
    def holds(self) -> bool:
        """Whether the differences are small enough for an export."""
        return self.relative_difference <= TOLERANCE and self.top1_disagreements == 0  # False for NaN

    def __str__(self) -> str:
        return (
            f"logits differ by up to {self.largest_difference:.3g} ({self.relative_difference:.2g} of the largest), "
            f"top-1 differs on {self.top1_disagreements} of {self.images} images ({self.ties} ties)"
        )


@dataclass(frozen=True, slots=True)
class Conversion:
    """An ONNX file made from a model, with the outputs that it must reproduce."""

    content: bytes
    outputs: NDArray[np.float32]
    """(n, d) logits or features of the original model for n reference images."""
    adapted: list[str]
    """Messages about what was added to the model to accept RGB images."""
    check: Callable[[bytes, NDArray[np.floating]], Parity]
    """Compares the logits of an ONNX file on the reference images with given (n, classes) logits.

    Raises ExportError if they differ.
    """


def measure_parity(expected: NDArray[np.floating], logits: NDArray[np.float32]) -> Parity:
    """Compare two (n, classes) arrays of logits."""
    with np.errstate(invalid="ignore"):  # infinite logits give NaN, which fails every check
        scale = float(np.abs(expected).max())
        difference = float(np.abs(expected - logits).max())
        first, second = np.sort(expected, axis=1)[:, -1:-3:-1].T if expected.shape[1] > 1 else (expected[:, 0], -np.inf)
        tied = first - second <= TIE * scale
    differs = expected.argmax(axis=1) != logits.argmax(axis=1)
    return Parity(
        images=len(expected),
        largest_difference=difference,
        relative_difference=difference / (scale or 1.0),
        ties=int(tied.sum()),
        top1_disagreements=int((differs & ~tied).sum()),
    )


def check_parity(content: bytes, expected: NDArray[np.floating], images: NDArray[np.float32], name: str) -> Parity:
    """Run an ONNX file on (n, 3, S, S) images in [0, 1]. Raises ExportError unless its logits match `expected`."""
    parity = measure_parity(expected, check_finite(onnx_logits(content, images), f"the ONNX file of {name}"))
    if not parity.holds:
        raise ExportError(
            f"the export of {name} does not compute what torch does: {parity}; nothing was written; "
            "is the network in evaluation mode and free of random numbers?"
        )
    return parity


def check_finite(outputs: NDArray[np.float32], network: str, kind: str = "logits") -> NDArray[np.float32]:
    """Return the outputs if all are finite. Otherwise raise ExportError with the number and the indices of the images.

    Args:
        outputs: Outputs for n images.
        network: Name of the model in the error message.
        kind: What the outputs are, for the error message.
    """
    bad_images = np.flatnonzero(~np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)).tolist()
    if bad_images:
        state = "NaN" if np.isnan(outputs).any() else "infinite"
        images = f"{len(bad_images)} of {len(outputs)} images (numbers {some_of(map(str, bad_images), 5)}, from 0)"
        raise ExportError(
            f"{network} gives {kind} that are {state} for {images}; "
            "nothing was written; do weights, normalization and architecture belong together?"
        )
    return outputs


def torch_outputs(network: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the outputs of a torch model for (n, 3, S, S) images in [0, 1], usually (n, classes) logits."""
    import torch

    with torch.inference_mode(), redirect_stdout(io.StringIO()):
        return np.concatenate([network(torch.from_numpy(batch)).numpy() for batch in split_batches(images)])


def onnx_logits(content: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the only output of an ONNX file, usually (n, classes) logits. Computed by ONNX Runtime on the CPU."""
    return join_outputs(run_in_batches(content, split_batches(images), "the export"), "the export")


def join_outputs(outputs: Iterable[NDArray[np.float32]], file: str) -> NDArray[np.float32]:
    """Concatenate the outputs of batches. Raises ExportError if their shapes do not match."""
    arrays = list(outputs)
    try:
        return np.concatenate(arrays)
    except ValueError as error:
        raise ExportError(
            f"{file} gives other shapes for other batches ({first_line(error)}); export it with a dynamic batch"
        ) from error


def run_in_batches(
    content: bytes, batches: Iterable[NDArray[np.float32]], file: str, at_once: int = 1
) -> Iterator[NDArray[np.float32]]:
    """Run an ONNX file with ONNX Runtime on the CPU, and yield its output for each batch.

    Several batches run concurrently, each with its own threads. If all threads shared each layer of one batch instead,
    they would wait for the slowest one after each layer, and for the images to be read.

    Args:
        content: The ONNX file.
        batches: Batches of images.
        file: Name of the file in the error message.
        at_once: Number of batches that run concurrently.

    Raises:
        ExportError: If the file cannot be opened or run.
    """
    with naming_extras("the check of an export", ExportError):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Between two batches, idle threads of ONNX Runtime would busy-wait on all other cores while images are read.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.intra_op_num_threads = processors() // at_once
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for outputs in in_parallel(lambda images: session.run(None, {name: images}), batches, at_once):
            yield np.atleast_1d(outputs[0])
    # ONNX Runtime raises a different class for each status code.
    except Exception as error:
        raise ExportError(
            f"ONNX Runtime cannot run {file}: {first_line(error)}; update onnxruntime, or export it again"
        ) from error


def split_batches(images: NDArray[np.float32], size: int = AT_ONCE) -> list[NDArray[np.float32]]:
    """Split the images into batches. The last batch may be smaller."""
    return [images[start : start + size] for start in range(0, len(images), size)]
