"""Build a TensorRT plan of an ONNX file: types as the file has them, one fixed batch, TF32 off.

The TensorRT module is always passed in: tests build plans with `tensorrt_rtx_bindings` 1.7, whose API is nearly the
same. A plan takes `images`, (batch, 3, S, S) float32 in [0, 1], and gives `logits`, (batch, classes) float32.
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
    """The part of the module that bandlens uses, for mypy; where no stubs are installed, its members have no types."""

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
"""Word -> a setting of TensorRT's builder that may make a faster plan: an attribute of IBuilderConfig, and its value.

Level 5 tries every kernel, and tiling 3 (FULL) keeps what adjacent layers exchange in the L2 cache. Both may build for
hours, so a plan has none of them unless `bandlens export --batch tune` found it faster.
"""
LAYOUT = "nhwc"
"""The word for the layout of ONNX Runtime's CUDA provider, which is no setting of a plan."""
GRAPHS = "graphs"
"""The word for CUDA graphs, which is none either."""
WITHOUT_VARIABLE = "BANDLENS_GPU_WITHOUT"
"""Environment variable: words of SETTINGS, LAYOUT and GRAPHS that are left out, with commas between them."""


def gpu_settings() -> list[str]:
    """The words that WITHOUT_VARIABLE does not leave out; UsageError for a word in it that is none."""
    words = (*SETTINGS, LAYOUT, GRAPHS)
    excluded_words = set(filter(None, os.environ.get(WITHOUT_VARIABLE, "").split(",")))
    if unknown_words := excluded_words.difference(words):
        raise UsageError(f"{WITHOUT_VARIABLE} names {some_of(sorted(unknown_words))}; it may name {', '.join(words)}")
    return [word for word in words if word not in excluded_words]


def setting_choices() -> list[str]:
    """The combinations of SETTINGS that WITHOUT_VARIABLE allows: those of most words first, at last none."""
    words = [word for word in gpu_settings() if word in SETTINGS]
    return [" ".join(choice) for count in range(len(words), -1, -1) for choice in combinations(words, count)]


@cache
def trt_logger(trt: TensorRT) -> tensorrt.ILogger:
    """The only logger of the library in this process.

    TensorRT keeps the first logger that it gets: all messages go there, after a warning for each further one. This one
    appends `SEVERITY: message` to each list in its attribute `readers`, without TensorRT's most verbose messages.
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
    """The library's logger, which appends its messages to `lines` while the block lasts."""
    log: Any = trt_logger(trt)  # type: ignore[arg-type] # a module can be hashed, whatever its protocol says
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
    """The TensorRT plan of an ONNX file for one batch size.

    Args:
        content: the ONNX file; an int8 file must have gone through `int8.symmetric_activations`.
        settings: words of SETTINGS.
        timing_cache: a file with the timings of kernels, read before and written after; equal layers are timed once.
        lines: TensorRT's messages are appended to this list, whether the build succeeds or not.

    Raises ExportError where TensorRT cannot read or build the ONNX file.
    """
    lines = [] if lines is None else lines
    with reading_log(trt, lines) as log:
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)  # it owns the weights until the plan is built
        parse_onnx(trt, parser, network, content, batch)
        for end in (network.get_input(0), network.get_output(0)):
            end.allowed_formats = 1 << int(trt.TensorFormat.LINEAR)  # as CuPy's arrays lie
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector then knows shapes and nodes
        for word in settings:
            attribute, value = SETTINGS[word]
            # The value of an enumeration is a number here.
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
    """Parse an ONNX file, which leaves its batch open, into the parser's network, and fix the batch size."""
    if not parser.parse(content):
        raise ExportError(_explain(parser))
    images = network.get_input(0)
    _, *shape = images.shape
    images.shape = trt.Dims((batch, *shape))


def _explain(parser: tensorrt.OnnxParser) -> str:
    """The first of the parser's errors, in one line."""
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
    """The last error in the lines that `reading_log` gave, in one line."""
    errors = [line for line in lines if line.startswith(("ERROR", "INTERNAL_ERROR"))]
    return " ".join(errors[-1].split()) if errors else "it does not say why"


@contextmanager
def _timings_of_kernels(config: tensorrt.IBuilderConfig, file: Path, lines: list[str]) -> Iterator[None]:
    """The block builds with the timings in the file, and leaves there those of its own too, unless it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TensorRT-RTX has these calls, and they do nothing
        timings = config.create_timing_cache(file.read_bytes() if file.exists() else b"")
        if timings is None or not config.set_timing_cache(timings, False):
            lines.append(f"WARNING: {file} is of another GPU or TensorRT; timing anew")
            config.set_timing_cache(config.create_timing_cache(b""), False)
        yield
        write_bytes(file, _bytes(config.get_timing_cache().serialize()))


def _bytes(memory: Any) -> bytes:
    """The bytes of TensorRT's memory, which its stubs do not declare as a buffer."""
    return bytes(memory)
