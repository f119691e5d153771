"""A finished ONNX file's first runs, in a process of their own.

    python -P -m bandlens.export.onnx.subprocess_run PARENT FOLDER BATCH FILE

A file of somebody else's can loop for ever, take all memory, or crash ONNX Runtime; and the checker of ONNX, which no
signal interrupts, takes twice as long for each function that calls the next one twice. Then this process ends, and the
command says so in a line. FOLDER has the file as model.onnx and its images as images.npy; the process writes its output
into output.npy. Errors call the file FILE.
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
"""Seconds that the file may take to open and to run on all images."""


def try_logits(content: bytes, images: NDArray[np.float32], batch: int, file: str) -> NDArray[np.float32]:
    """The one output of an ONNX file for (n, 3, S, S) images, `batch` at once, computed in another process.

    ExportError, which names `file`, where it does not run, or where that process fails or takes too long.
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
    try:
        model = onnx.load_from_string(content)
        # A tensor that was inside has no shape before the graph has run, and the checker refuses an output without one.
        outputs = [output for output in model.graph.output if output.type.tensor_type.HasField("shape")]
        del model.graph.output[:]
        model.graph.output.extend(outputs)
        onnx.checker.check_model(model, full_check=True)
    # The checker has an error for each of its parts.
    except Exception as error:
        raise ExportError(f"{file} is not valid ONNX: {first_line(error)}; export it again") from error


def _run(folder: Path, batch: str, file: str) -> None:
    images, content = np.load(folder / "images.npy", mmap_mode="r"), (folder / "model.onnx").read_bytes()
    _check_graph(content, file)
    outputs = run_in_batches(content, split_batches(images, int(batch)), file)
    np.save(folder / "output.npy", join_outputs(outputs, file))


if __name__ == "__main__":
    serve_parent(_run)
