"""Check the requirements of each engine: that its packages load, and for some engines that they work on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from importlib.util import find_spec
from io import StringIO
from types import ModuleType
from typing import Any

import numpy as np

from ...core.errors import BandlensError, EngineError
from ...core.records import Variant
from ...core.untrusted import first_line
from ...export.plans.plan_builder import last_error, reading_log
from ...probes.arrays import KERNELS, array_module, to_numpy
from ...probes.noise import random_words
from .gpu_errors import is_of_gpu, onnxruntime_reason
from .nvidia import OLDEST_CAPABILITY, Gpu, Gpus, NoGpu, Problem


@dataclass(frozen=True, slots=True)
class Library:
    """A Python package that an engine needs."""

    title: str
    module: str
    """Name under which it is imported."""
    extra: str
    """Extra of bandlens that installs it."""
    mend: str
    """What to do if it is installed but cannot be used."""


ONNXRUNTIME = Library(
    "ONNX Runtime",
    "onnxruntime",
    "cpu",
    "run: pip uninstall onnxruntime onnxruntime-gpu, then pip install 'bandlens[cpu]'",
)
ONNXRUNTIME_GPU = replace(ONNXRUNTIME, extra="gpu", mend=ONNXRUNTIME.mend.replace("[cpu]", "[gpu]"))
CUDA_PROVIDER = "CUDAExecutionProvider"
"""ONNX Runtime's name of the execution provider for NVIDIA GPUs."""
OPENVINO = Library("OpenVINO", "openvino", "openvino", "run: pip install --force-reinstall openvino")
TORCH = Library("torch", "torch", "torch", "run: pip install --force-reinstall torch torchvision")
TENSORRT = Library(
    "TensorRT",
    "tensorrt",
    "gpu",
    "run: pip install --force-reinstall --no-cache-dir tensorrt-cu13, which needs NVIDIA's servers for its libraries",
)


def usable(machine: Gpus) -> Gpu:
    """Return the GPU that engines use. Raises EngineError if there is none."""
    if isinstance(machine, Problem):
        raise EngineError(machine.message)
    if isinstance(machine, NoGpu):
        raise EngineError(f"{machine.reason}, and this engine needs one; onnxruntime and torch run on the CPU")
    return machine[0]


def load(library: Library) -> Any:
    """Import the library. Raises EngineError if it is not installed or cannot be imported."""
    if find_spec(library.module) is None:
        raise EngineError(f"{library.title} is not installed; run: pip install 'bandlens[{library.extra}]'")
    try:
        module = import_module(library.module)
        module.__version__  # noqa: B018  # an incomplete uninstallation leaves a module without a version
    except Exception as error:
        raise _unusable(library, error) from error
    return module


def cupy_version(machine: Gpus) -> str:
    """Return CuPy's version. Raises EngineError if it cannot use a GPU or cannot compile kernels."""
    usable(machine)
    cupy = array_module("cupy")
    try_kernel(cupy)
    return str(cupy.__version__)


def try_kernel(xp: ModuleType) -> None:
    """Compile the CUDA kernels and run one block. Raises EngineError if that fails or the result differs from NumPy's.

    Some faults appear only here: a compiler without headers, a compiler older than the GPU, or a kernel cache that is
    not writable.
    """
    keys = np.arange(1, dtype=np.uint64)
    try:
        words = to_numpy(random_words(xp, 1, xp.asarray(keys), draw=2, count=4 * KERNELS["random_words"].block))
    except BandlensError:
        raise
    except Exception as error:
        raise EngineError(
            f"CuPy cannot compile or run a kernel ({first_line(error)}); run: pip install 'cupy-cuda13x[ctk]', and see "
            "whether CUPY_CACHE_DIR, by default ~/.cupy, can be written"
        ) from error
    if not np.array_equal(words, random_words(np, 1, keys, draw=2, count=words.shape[1])):
        raise EngineError("a CUDA kernel gives other numbers than NumPy on this GPU; update its driver and CuPy")


def try_provider(ort: Any, provider: str) -> None:
    """Open an ONNX Runtime session that only this provider may run. Raises EngineError if that fails."""
    import onnx.parser

    text = '<ir_version: 8, opset_import: ["": 17]> one (float[n] x) => (float[n] y) { y = Relu (x) }'
    content = onnx.parser.parse_model(text).SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    ort.set_default_logger_severity(4)
    with redirect_stdout(StringIO()):  # preload_dlls prints a message for each library that it does not find
        ort.preload_dlls()
    try:
        ort.InferenceSession(content, options, providers=[provider], enable_fallback=0)
    except Exception as error:
        message = f"ONNX Runtime cannot use its {provider} ({onnxruntime_reason(error)})"
        install = "run: pip install 'bandlens[gpu]'"
        raise EngineError(f"{message}; {'see what `nvidia-smi` says' if is_of_gpu(error) else install}") from error


def try_builder(trt: Any) -> None:
    """Create a TensorRT builder, which needs a GPU and all of TensorRT's libraries.

    Raises EngineError with TensorRT's message.
    """
    messages: list[str] = []
    try:
        with reading_log(trt, messages) as log:
            trt.Builder(log)
    except Exception as error:
        why = last_error(messages).partition(": ")[2]
        raise _unusable(TENSORRT, RuntimeError(why) if why else error) from error


def two_onnxruntimes() -> str:
    """Return an error message if onnxruntime and onnxruntime-gpu are both installed, and an empty string otherwise.

    Nearly all of their files have the same paths, so the package that was installed last overwrites the other.
    """
    versions = {}
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            return ""
    packages = " and ".join(f"{package} {version}" for package, version in versions.items())
    return f"{packages} are installed together, and each overwrites the other's files; {ONNXRUNTIME_GPU.mend}"


OLDEST_FOR: Mapping[str, tuple[int, int]] = {"bf16": (8, 0)}
"""Compute capability that a precision needs, if it is higher than what CUDA 13 needs."""


def runs(gpu: Gpu, precision: str) -> bool:
    """Return whether the GPU supports the precision."""
    return gpu.compute >= OLDEST_FOR.get(precision, OLDEST_CAPABILITY)


def require_precision(gpu: Gpu, variant: Variant) -> None:
    """Raise EngineError unless the GPU supports the variant's precision."""
    if not runs(gpu, variant.precision):
        raise EngineError(
            f"{variant}: {gpu.name} has no {variant.precision}, which takes a newer GPU; set precision to fp16 or fp32"
        )


def _unusable(library: Library, error: Exception) -> EngineError:
    return EngineError(f"{library.title} is installed but cannot be used ({first_line(error)}); {library.mend}")


# One function per engine. Each returns the version of the engine, or raises EngineError with the missing requirement.


def _onnxruntime_cuda(machine: Gpus) -> str:
    usable(machine)
    ort = load(ONNXRUNTIME_GPU)
    if CUDA_PROVIDER not in ort.get_available_providers():
        fault = f"the installed ONNX Runtime {ort.__version__} has no {CUDA_PROVIDER}; {ONNXRUNTIME_GPU.mend}"
        raise EngineError(two_onnxruntimes() or fault)
    cupy_version(machine)
    try_provider(ort, CUDA_PROVIDER)
    return f"onnxruntime {ort.__version__} with {CUDA_PROVIDER}"


BF16_EMULATED = "not native, and slower than fp32"
"""Description of bf16 on a processor without AMX, where it was measured to run at 0.56 times the speed of fp32."""


def has_native_bf16() -> bool:
    """Return whether the processor computes bf16 natively. Raises EngineError if OpenVINO cannot be used."""
    openvino = load(OPENVINO)
    try:
        return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except Exception as error:
        raise _unusable(OPENVINO, error) from error


def _openvino(_: Gpus) -> str:
    native = "native" if has_native_bf16() else BF16_EMULATED
    return f"openvino {load(OPENVINO).__version__.split('-')[0]}, bf16 is {native}"


def _tensorrt(machine: Gpus) -> str:
    usable(machine)
    trt = load(TENSORRT)
    cupy_version(machine)
    try_builder(trt)
    return f"tensorrt {trt.__version__}"


def _torch_cuda(machine: Gpus) -> str:
    gpu, torch = usable(machine), load(TORCH)
    if torch.version.cuda is None:
        raise EngineError(
            f"torch {torch.__version__} is built without CUDA; install torch and torchvision for CUDA 13, as "
            "pytorch.org tells"
        )
    if not torch.cuda.is_available():
        raise EngineError(f"torch {torch.__version__} cannot use {gpu.name}; {TORCH.mend}")
    cupy_version(machine)
    return f"torch {torch.__version__} with CUDA {torch.version.cuda}"


CHECKS: Mapping[str, Callable[[Gpus], str]] = {
    "onnxruntime": lambda _: f"onnxruntime {load(ONNXRUNTIME).__version__}",
    "openvino": _openvino,
    "onnxruntime-cuda": _onnxruntime_cuda,
    "tensorrt": _tensorrt,
    "torch": lambda _: f"torch {load(TORCH).__version__}",
    "torch-cuda": _torch_cuda,
    "function": lambda _: "functions of Python, by bandlens.export_function",
}
"""Function that checks the requirements of each engine."""
