"""The part of the TensorRT module that bandlens uses, for mypy: names here, arguments where TensorRT has stubs.

The module is always passed in: tests build plans with `tensorrt_rtx_bindings` 1.7, whose API is nearly the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import tensorrt


class TensorRT(Protocol):
    """The module; where no stubs of TensorRT are installed, its members have no types."""

    __name__: str
    __version__: str
    Builder: type[tensorrt.Builder]
    BuilderFlag: type[tensorrt.BuilderFlag]
    Dims: type[tensorrt.Dims]
    ExecutionContextAllocationStrategy: type[tensorrt.ExecutionContextAllocationStrategy]
    ILogger: type[tensorrt.ILogger]
    IProfiler: type[tensorrt.IProfiler]
    LayerInformationFormat: type[tensorrt.LayerInformationFormat]
    NetworkDefinitionCreationFlag: type[tensorrt.NetworkDefinitionCreationFlag]
    OnnxParser: type[tensorrt.OnnxParser]
    ProfilingVerbosity: type[tensorrt.ProfilingVerbosity]
    Runtime: type[tensorrt.Runtime]
    TensorFormat: type[tensorrt.TensorFormat]
