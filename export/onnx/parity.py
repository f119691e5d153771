"""Compare the logits of an ONNX file with those of the network or file that it was made of."""

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
"""The largest difference of a logit, relative to the largest |logit|, that an export may have."""
TIE = 1e-5
"""Two logits this close, relative to the largest |logit|, are equal to float32 arithmetic: either may come first."""
AT_ONCE = 8
"""Images that a comparison runs at once."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far two models' logits lie apart on the same images."""

    images: int
    largest_difference: float
    """The largest difference of any logit."""
    relative_difference: float
    """The largest difference, divided by the largest |logit|."""
    ties: int
    """Images whose two highest logits are equal to float32 arithmetic."""
    top1_disagreements: int
    """Images, ties aside, that the two models classify differently."""

    @property
    def holds(self) -> bool:
        return self.relative_difference <= TOLERANCE and self.top1_disagreements == 0  # False for NaN

    def __str__(self) -> str:
        return (
            f"logits differ by up to {self.largest_difference:.3g} ({self.relative_difference:.2g} of the largest), "
            f"top-1 differs on {self.top1_disagreements} of {self.images} images ({self.ties} ties)"
        )


@dataclass(frozen=True, slots=True)
class Conversion:
    """An ONNX file that was made of a network, and what it has to compute."""

    content: bytes
    outputs: NDArray[np.float32]
    """(n, d) that the network gives of n photographs: logits, or features."""
    adapted: list[str]
    """Lines on what was added to the network, so that it takes RGB."""
    check: Callable[[bytes, NDArray[np.floating]], Parity]
    """Compares the logits of an ONNX file with (n, classes) ones of the same photographs; or ExportError."""


def measure_parity(expected: NDArray[np.floating], logits: NDArray[np.float32]) -> Parity:
    """Compare two (n, classes) arrays of logits."""
    with np.errstate(invalid="ignore"):  # the difference of two infinite logits is NaN, for which nothing holds
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
    """Run an ONNX file on (n, 3, S, S) images in [0, 1]; ExportError unless its logits are the expected ones."""
    parity = measure_parity(expected, check_finite(onnx_logits(content, images), f"the ONNX file of {name}"))
    if not parity.holds:
        raise ExportError(
            f"the export of {name} does not compute what torch does: {parity}; nothing was written; "
            "is the network in evaluation mode and free of random numbers?"
        )
    return parity


def check_finite(outputs: NDArray[np.float32], network: str, kind: str = "logits") -> NDArray[np.float32]:
    """The outputs of n images, if all are finite; otherwise ExportError, which counts and names the images.

    `network`, and the `kind` of its outputs, are named in the error.
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
    """The outputs of a network for (n, 3, S, S) images in [0, 1], usually (n, classes) logits."""
    import torch

    with torch.inference_mode(), redirect_stdout(io.StringIO()):
        return np.concatenate([network(torch.from_numpy(batch)).numpy() for batch in split_batches(images)])


def onnx_logits(content: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The one output of an ONNX file, usually (n, classes) logits, computed by ONNX Runtime on the CPU."""
    return join_outputs(run_in_batches(content, split_batches(images), "the export"), "the export")


def join_outputs(outputs: Iterable[NDArray[np.float32]], file: str) -> NDArray[np.float32]:
    """The outputs of batches as one array; ExportError where their shapes do not fit."""
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
    """The output for each batch, by ONNX Runtime on the CPU; ExportError, which names `file`, where that fails.

    So many batches are run at a time, each by threads of its own: threads that share every layer would wait for the
    slowest at each, and for whoever reads.
    """
    with naming_extras("the check of an export", ExportError):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads of ONNX Runtime would spin between two batches, on all other processors, for as long as images are read.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.intra_op_num_threads = processors() // at_once
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for outputs in in_parallel(lambda images: session.run(None, {name: images}), batches, at_once):
            yield np.atleast_1d(outputs[0])
    # ONNX Runtime raises another class for every status.
    except Exception as error:
        raise ExportError(
            f"ONNX Runtime cannot run {file}: {first_line(error)}; update onnxruntime, or export it again"
        ) from error


def split_batches(images: NDArray[np.float32], size: int = AT_ONCE) -> list[NDArray[np.float32]]:
    """The images, so many at once; the last batch may have fewer."""
    return [images[start : start + size] for start in range(0, len(images), size)]
