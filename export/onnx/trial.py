"""A finished ONNX file's first runs, in a process of their own: `python -P -m bandlens.export.onnx.trial`.

A file of somebody else's can loop for ever, take all memory, or crash ONNX Runtime. Then this process ends, and the
command says so in a line. Standard input is this end of a `Channel`. The first message is the file's content and what
errors call it, and its answer is None; each later message is a batch. The answer to a batch is its output and None, or
None and the line that an error is to say.
"""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from itertools import count
from typing import TYPE_CHECKING

from ...channels import Channel
from ...core.errors import ExportError
from ...user_function import describe_end
from ...user_process import open_channel
from .parity import join_outputs, run_in_batches, split_batches

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SECONDS = 300.0
"""Seconds that a batch may take, the opening of the file included."""


def try_logits(content: bytes, images: NDArray[np.float32], batch: int, file: str) -> NDArray[np.float32]:
    """The one output of an ONNX file for (n, 3, S, S) images, `batch` at once, computed in another process.

    ExportError, which names `file`, where it does not run, or where that process fails or takes too long.
    """
    end, its_end = socket.socketpair()
    with end, its_end:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=its_end.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process, which ends that one
        )
        its_end.close()
        end.settimeout(SECONDS)
        channel = Channel(end)
        outputs: list[NDArray[np.float32]] = []
        try:
            channel.send((content, file))
            channel.receive()  # the next message takes the memory of the first
            for images_of_batch in split_batches(images, batch):
                channel.send(images_of_batch)
                output, refusal = channel.receive()
                if refusal is not None:
                    raise ExportError(refusal)
                outputs.append(output.copy())  # it lies in memory that the next answer overwrites
        except TimeoutError:
            raise ExportError(
                f"{file} does not come back from {len(images[:batch])} images within {SECONDS:g} s, and so nothing was "
                "written; does it loop without an end?"
            ) from None
        except MemoryError as error:
            raise ExportError(f"{file} cannot be run: no memory for it ({error}); close other programs") from error
        except (OSError, EOFError, pickle.UnpicklingError):
            raise ExportError(
                f"{file} cannot be run: its process {describe_end(process)}; nothing was written; export it again"
            ) from None
        finally:
            process.kill()
            process.wait()
    return join_outputs(outputs, file)


def main() -> None:
    channel = open_channel()
    try:
        content, file = channel.receive()
        channel.send(None)
        batches = (channel.receive() for _ in count())
        for output in run_in_batches(content, batches, file):
            channel.send((output, None))
    except ExportError as error:
        channel.send((None, str(error)))


if __name__ == "__main__":
    main()
