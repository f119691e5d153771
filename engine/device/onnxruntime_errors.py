"""Errors of ONNX Runtime in one line, and the advice for each."""

from __future__ import annotations

import re

from ...core.untrusted import words_of

GPU_ERROR = re.compile(r"CU[A-Z_]+ failure [^;]*|Failed to allocate memory.*")
"""The words about CUDA and its libraries, or about the GPU's memory, amid C++."""
LACK_OF_MEMORY = re.compile(r"out of memory|allocate memory|ALLOC_FAILED")


def reason(error: Exception) -> str:
    """The error in one line; an error of a GPU is cut to the words about the GPU."""
    line = words_of(error)
    match = GPU_ERROR.search(line)
    return (match[0] if match else line).strip()


def is_of_gpu(error: Exception) -> bool:
    """Whether a session on a GPU fails for the GPU's sake, and not for its ONNX file's."""
    return bool(GPU_ERROR.search(str(error)) or LACK_OF_MEMORY.search(str(error)))


def advice(error: Exception, otherwise: str) -> str:
    """Advise about an error of a GPU."""
    if LACK_OF_MEMORY.search(str(error)):
        return "out of memory on the GPU: take a smaller batch, or fewer checkpoints at a time"
    return otherwise
