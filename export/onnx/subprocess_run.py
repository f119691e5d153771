"""Run an imported ONNX file for the first time, in a separate process.

    python -P -m bandlens.export.onnx.subprocess_run PARENT FOLDER BATCH FILE

An untrusted file can loop forever, exhaust memory, or crash ONNX Runtime. The checker of ONNX cannot be interrupted by
signals, and its time doubles with each function that calls the next one twice. In all these cases only the separate
process ends, and the command reports a one-line error.

FOLDER contains the file as model.onnx and the images as images.npy. The process writes its output to output.npy. FILE
is the name of the file in error messages.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnx

from ...core.child_process import run_child, serve_parent
from ...core.errors import ExportError
from ...core.untrusted import first_line
from .parity import join_outputs, run_in_batches, split_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRIAL_SECONDS = 300.0
"""Timeout in seconds for opening the file and running it on all images."""


def try_logits(content: bytes, images: NDArray[np.float32], batch: int, file: str) -> NDArray[np.float32]:
    """Run an ONNX file in another process, and return its only output.

    Args:
        content: The ONNX file.
        images: (n, 3, S, S) float32 images.
        batch: Batch size.
        file: Name of the file in the error message.

    Raises:
        ExportError: If the file cannot be run, or if the process crashes or times out.
    """
    with TemporaryDirectory(prefix="bandlens-trial-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(content)
        np.save(folder / "images.npy", images)
        try:
            run_child(__name__, folder, str(batch), file, timeout_s=TRIAL_SECONDS, error_class=ExportError)
        except TimeoutError as error:
            raise ExportError(
                f"{file} does not come back from {len(images)} images within {TRIAL_SECONDS:g} s, and so nothing was "
                "written; does it loop without an end?"
            ) from error
        except ChildProcessError as error:
            raise ExportError(
                f"{file} cannot be run: its process {error}; nothing was written; export it again"
            ) from error
        output: NDArray[np.float32] = np.load(folder / "output.npy")
        return output


def _check_graph(content: bytes, file: str) -> None:
    """Raise ExportError if the file is not valid ONNX."""
    try:
        model = onnx.load_from_string(content)
        # An internal tensor that was made an output has no shape until the graph has run, and the checker rejects
        # outputs without a shape. Such outputs are removed before the check.
        outputs = [output for output in model.graph.output if output.type.tensor_type.HasField("shape")]
        del model.graph.output[:]
        model.graph.output.extend(outputs)
        onnx.checker.check_model(model, full_check=True)
    # Each part of the checker raises its own class of errors.
    except Exception as error:
        raise ExportError(f"{file} is not valid ONNX: {first_line(error)}; export it again") from error


def _run(folder: Path, batch: str, file: str) -> None:
    """Run the file in `folder` in the child process."""
    images, content = np.load(folder / "images.npy", mmap_mode="r"), (folder / "model.onnx").read_bytes()
    _check_graph(content, file)
    outputs = run_in_batches(content, split_batches(images, int(batch)), file)
    np.save(folder / "output.npy", join_outputs(outputs, file))


if __name__ == "__main__":
    serve_parent(_run)
