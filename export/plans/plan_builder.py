"""Build a TensorRT plan from an ONNX file: strongly typed, for one fixed batch size, without TF32.

The TensorRT module is always passed as an argument, because tests build plans with `tensorrt_rtx_bindings` 1.7, whose
API is nearly the same. The input of a plan is `images`, (batch, 3, S, S) float32 in [0, 1], and its output is `logits`,
(batch, classes) float32.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...core.errors import ExportError, UsageError, some_of
from ...core.files import write_bytes

if TYPE_CHECKING:
    import tensorrt


class TensorRT(Protocol):
    """The members of the TensorRT module that are used here, for mypy. Without TensorRT's stubs they are untyped."""

    __name__: str
    __version__: str
    Builder: type[tensorrt.Builder]
    BuilderFlag: type[tensorrt.BuilderFlag]
    Dims: type[tensorrt.Dims]
    ExecutionContextAllocationStrategy: type[tensorrt.ExecutionContextAllocationStrategy]
    ILogger: type[tensorrt.ILogger]
    NetworkDefinitionCreationFlag: type[tensorrt.NetworkDefinitionCreationFlag]
    OnnxParser: type[tensorrt.OnnxParser]
    ProfilingVerbosity: type[tensorrt.ProfilingVerbosity]
    Runtime: type[tensorrt.Runtime]
    TensorFormat: type[tensorrt.TensorFormat]


SETTINGS: Mapping[str, tuple[str, int]] = {
    "level": ("builder_optimization_level", 5),
    "tiling": ("tiling_optimization_level", 3),
}
"""Optional settings of TensorRT's builder that may give a faster plan.

Each name maps to an attribute of IBuilderConfig and its value. Level 5 tries every kernel. Tiling 3 (FULL) keeps the
data that adjacent layers exchange in the L2 cache. Both can take hours to build, so they are only used if the tuning of
`bandlens export` (`--batch tune`) found them to be faster.
"""
LAYOUT = "nhwc"
"""Name of the channels-last layout of ONNX Runtime's CUDA provider. It is not a setting of a plan."""
GRAPHS = "graphs"
"""Name of CUDA graphs. It is not a setting of a plan either."""
WITHOUT_VARIABLE = "BANDLENS_GPU_WITHOUT"
"""Environment variable with a comma-separated list of optimizations to turn off.

The names are those in SETTINGS, LAYOUT and GRAPHS.
"""


def gpu_settings() -> list[str]:
    """Return the optimizations that WITHOUT_VARIABLE does not turn off. Raises UsageError for an unknown name in it."""
    words = (*SETTINGS, LAYOUT, GRAPHS)
    excluded_words = set(filter(None, os.environ.get(WITHOUT_VARIABLE, "").split(",")))
    if unknown_words := excluded_words.difference(words):
        raise UsageError(f"{WITHOUT_VARIABLE} names {some_of(sorted(unknown_words))}; it may name {', '.join(words)}")
    return [word for word in words if word not in excluded_words]


def setting_choices() -> list[str]:
    """Return the combinations of SETTINGS that WITHOUT_VARIABLE permits, largest first, ending with the empty one."""
    words = [word for word in gpu_settings() if word in SETTINGS]
    return [" ".join(choice) for count in range(len(words), -1, -1) for choice in combinations(words, count)]


@cache
def trt_logger(trt: TensorRT) -> tensorrt.ILogger:
    """Return the only TensorRT logger of this process.

    TensorRT uses the first logger that it receives for all messages, and warns about every further one. This logger
    appends `SEVERITY: message` to each list in its attribute `readers`. Messages of severity VERBOSE are dropped.
    """
    base: Any = trt.ILogger

    class Log(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.readers: list[list[str]] = []

        def log(self, severity: tensorrt.ILogger.Severity, message: str) -> None:
            if severity < base.VERBOSE:
                for lines in self.readers:
                    lines.append(f"{severity.name}: {message}")

    log: tensorrt.ILogger = Log()
    return log


@contextmanager
def reading_log(trt: TensorRT, lines: list[str]) -> Iterator[tensorrt.ILogger]:
    """Append TensorRT's messages to `lines` while the block runs, and yield the logger."""
    log: Any = trt_logger(trt)  # type: ignore[arg-type] # modules are hashable, whatever the protocol declares
    log.readers.append(lines)
    try:
        yield log
    finally:
        log.readers[:] = [reader for reader in log.readers if reader is not lines]


def build_trt_plan(
    trt: TensorRT,
    content: bytes,
    batch: int,
    *,
    settings: Collection[str] = (),
    timing_cache: Path | None = None,
    lines: list[str] | None = None,
) -> bytes:
    """Build the TensorRT plan of an ONNX file for one batch size.

    Args:
        trt: The TensorRT module.
        content: The ONNX file. An int8 file must have been converted by `int8.symmetric_activations`.
        batch: Batch size.
        settings: Keys of SETTINGS.
        timing_cache: File with the measured times of kernels. It is read before the build and updated after it, so that
            equal layers are measured once.
        lines: TensorRT's messages are appended to this list, even if the build fails.

    Raises:
        ExportError: If TensorRT cannot parse or build the ONNX file.
    """
    lines = [] if lines is None else lines
    with reading_log(trt, lines) as log:
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)  # keep a reference: the parser owns the weights until the plan is built
        parse_onnx(trt, parser, network, content, batch)
        for end in (network.get_input(0), network.get_output(0)):
            end.allowed_formats = 1 << int(trt.TensorFormat.LINEAR)  # the memory layout of CuPy's arrays
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        # Includes shapes and node names in the plan, for TensorRT's engine inspector.
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        for word in settings:
            attribute, value = SETTINGS[word]
            # Convert the number to the enumeration, if the attribute has one.
            setattr(config, attribute, type(getattr(config, attribute))(value))
        with nullcontext() if timing_cache is None else _timings_of_kernels(config, timing_cache, lines):
            trt_plan = builder.build_serialized_network(network, config)
            if trt_plan is None:
                raise ExportError(
                    f"TensorRT built no plan for batch {batch}: {last_error(lines)}; see whether another process holds "
                    "the GPU's memory, and try a smaller batch"
                )
        return _bytes(trt_plan)


def parse_onnx(
    trt: TensorRT, parser: tensorrt.OnnxParser, network: tensorrt.INetworkDefinition, content: bytes, batch: int
) -> None:
    """Parse an ONNX file with a dynamic batch size into the parser's network, and fix the batch size."""
    if not parser.parse(content):
        raise ExportError(_explain(parser))
    images = network.get_input(0)
    _, *shape = images.shape
    images.shape = trt.Dims((batch, *shape))


def _explain(parser: tensorrt.OnnxParser) -> str:
    """Format the parser's first error as one line."""
    if not parser.num_errors:
        return "TensorRT cannot read the ONNX file and does not say why; export it again"
    error = parser.get_error(0)
    why = " ".join(error.desc().split())
    if not error.node_operator():
        return f"TensorRT cannot read the ONNX file: {why}; export it again"
    return (
        f"TensorRT cannot take operator {error.node_operator()} (node {error.node_name()}): {error.code().name} {why}; "
        "run this model with another engine, such as onnxruntime-cuda"
    )


def last_error(lines: list[str]) -> str:
    """Return the last error in the lines of `reading_log`, as one line."""
    errors = [line for line in lines if line.startswith(("ERROR", "INTERNAL_ERROR"))]
    return " ".join(errors[-1].split()) if errors else "it does not say why"


@contextmanager
def _timings_of_kernels(config: tensorrt.IBuilderConfig, file: Path, lines: list[str]) -> Iterator[None]:
    """Build with the kernel times in the file, and save the times of this build too, unless it raises an error."""
    with warnings.catch_warnings():
        # In TensorRT-RTX these functions are deprecated and do nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        timings = config.create_timing_cache(file.read_bytes() if file.exists() else b"")
        if timings is None or not config.set_timing_cache(timings, False):
            lines.append(f"WARNING: {file} is of another GPU or TensorRT; timing anew")
            config.set_timing_cache(config.create_timing_cache(b""), False)
        yield
        write_bytes(file, _bytes(config.get_timing_cache().serialize()))


def _bytes(memory: Any) -> bytes:
    """Copy TensorRT's host memory to bytes. Its stubs do not declare it as a buffer, hence the type Any."""
    return bytes(memory)
