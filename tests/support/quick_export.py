"""Quick exports for tests that make many: torch compiles the translations of all operators anew in each one.

That is half of the time that a small network takes. To import this module is to do it once a process.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache

with suppress(ImportError, AttributeError):  # a private part of torch, which another version may lack
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign]
