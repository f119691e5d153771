"""Engines say what they need, and `auto` takes one in every state that a machine can be in."""

from __future__ import annotations

import importlib
import platform
import re
import sys
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bandlens.core.errors import EngineError
from bandlens.engine.backends.base import ENGINES
from bandlens.engine.device import devices, requirements
from bandlens.engine.device.devices import EngineChoice, Readiness, choose_engine, processor_name, readiness
from bandlens.engine.device.nvidia import Gpu, Gpus, NoGpu, Problem
from bandlens.engine.device.requirements import (
    TENSORRT,
    Library,
    load,
    runs,
    try_builder,
    try_provider,
    two_onnxruntimes,
)

H100 = (Gpu("NVIDIA H100 80GB HBM3", 85520809984, "9.0", "580.65.06"),)
BROKEN = Problem("NVIDIA H100 80GB HBM3 cannot be used: driver 550 is too old; install driver 580 or newer")
NO_GPU = NoGpu("no NVIDIA GPU here")
HIDDEN_GPUS = NoGpu('CUDA_VISIBLE_DEVICES="-1" hides every NVIDIA GPU')
Choose = Callable[..., EngineChoice]
State = Callable[[str, Gpus], Readiness]
OR_CPU = 'or ask for the CPU with engine = "onnxruntime"'


ON_CPU = {"onnxruntime": "onnxruntime 1.32.0", "openvino": "openvino 2026.4.1"}
WITH_CUDA = ON_CPU | {"onnxruntime-cuda": "onnxruntime 1.31.1 with CUDA"}
WITH_TORCH = ON_CPU | {"torch-cuda": "torch 2.14.1 with CUDA 13.0"}
WITH_TENSORRT = WITH_CUDA | WITH_TORCH | {"tensorrt": "tensorrt 10.16.1.11"}
WITHOUT_TENSORRT = "{} on NVIDIA H100 80GB HBM3; tensorrt is not ready, `bandlens doctor` says why"


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Choose:
    """`choose_engine` on a machine of these GPUs, where engines are ready with their line, or lack something."""

    def choice(gpus: Gpus, lines: Mapping[str, str], lack: str = "{} is not here; install it") -> EngineChoice:
        state = lambda engine: Readiness(engine in lines, lines.get(engine, lack.format(engine)))  # noqa: E731
        monkeypatch.setattr(devices, "gpus", lambda: gpus)
        monkeypatch.setattr(devices, "readiness", state)
        return choose_engine()

    return choice


@pytest.fixture
def readiness_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Gpus], Readiness]:
    """Whether an engine can be used with these GPUs and the packages that are installed."""

    def state(engine: str, gpus: Gpus) -> Readiness:
        monkeypatch.setattr(devices, "gpus", lambda: gpus)
        return readiness.__wrapped__(engine)

    return state


@pytest.mark.parametrize(
    ("gpus", "lines", "engine", "why"),
    [
        (H100, WITH_TENSORRT, "tensorrt", "tensorrt 10.16.1.11 on NVIDIA H100 80GB HBM3"),
        (H100, WITH_TORCH | WITH_CUDA, "onnxruntime-cuda", WITHOUT_TENSORRT.format("onnxruntime 1.31.1 with CUDA")),
        (H100, WITH_TORCH, "torch-cuda", WITHOUT_TENSORRT.format("torch 2.14.1 with CUDA 13.0")),
        (NO_GPU, ON_CPU, "onnxruntime", "no NVIDIA GPU here"),
        (HIDDEN_GPUS, WITH_TENSORRT, "onnxruntime", 'CUDA_VISIBLE_DEVICES="-1" hides every NVIDIA GPU'),
    ],
)
def test_auto_takes_the_best_engine(
    choose: Choose, gpus: Gpus, lines: Mapping[str, str], engine: str, why: str
) -> None:
    assert choose(gpus, lines) == EngineChoice(engine, why)


@pytest.mark.parametrize(
    ("gpus", "lines", "message"),
    [
        (BROKEN, WITH_TENSORRT, f"{BROKEN.message}; {OR_CPU}"),
        (
            H100,
            ON_CPU,
            "no engine for NVIDIA H100 80GB HBM3 is ready: tensorrt (tensorrt is not here; install it), "
            "onnxruntime-cuda (onnxruntime-cuda is not here; install it), torch-cuda (torch-cuda is not here; install "
            f"it); {OR_CPU}",
        ),
        (NO_GPU, {}, "no NVIDIA GPU here, and for the CPU: onnxruntime is not here; install it"),
    ],
)
def test_a_gpu_never_leads_to_the_cpu_unasked(
    choose: Choose, gpus: Gpus, lines: Mapping[str, str], message: str
) -> None:
    with pytest.raises(EngineError) as error:
        choose(gpus, lines)
    assert str(error.value) == message


@pytest.mark.parametrize("engine", [name for name, engine in ENGINES.items() if engine.arrays == "cupy"])
def test_engines_on_a_gpu_say_what_is_wrong_with_it(readiness_with: State, engine: str) -> None:
    assert readiness_with(engine, BROKEN) == Readiness(False, BROKEN.message)
    line = f"{NO_GPU.reason}, and this engine needs one; onnxruntime and torch run on the CPU"
    assert readiness_with(engine, NO_GPU) == Readiness(False, line)


@pytest.mark.parametrize("engine", [name for name, engine in ENGINES.items() if engine.arrays == "numpy"])
def test_engines_on_the_cpu_do_not_mind_a_broken_gpu(readiness_with: State, engine: str) -> None:
    assert readiness_with(engine, BROKEN) == readiness_with(engine, NO_GPU)


# Packages that are missing or broken


def package(folder: Path, content: str | None, name: str, monkeypatch: pytest.MonkeyPatch) -> Library:
    """A library of the name, importable from the folder; None leaves a folder without a module in it."""
    (folder / name).mkdir()
    if content is not None:
        (folder / name / "__init__.py").write_text(content)
    monkeypatch.syspath_prepend(folder)
    return Library("Some Library", name, "gpu", "reinstall it")


def test_a_library_that_is_not_installed() -> None:
    library = Library("Some Library", "bandlens_missing_library", "gpu", "reinstall it")
    with pytest.raises(EngineError, match=r"^Some Library is not installed; run: pip install 'bandlens\[gpu\]'$"):
        load(library)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("raise FileNotFoundError('Could not find: libnvinfer.so.10. Is it on your PATH?\\nSearched: /usr/lib')",
         "Could not find: libnvinfer.so.10. Is it on your PATH?"),
        (None, "module 'bandlens_broken' has no attribute '__version__'"),
    ],
)  # fmt: skip
def test_a_library_that_does_not_load(
    content: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = package(tmp_path, content, "bandlens_broken", monkeypatch)
    with pytest.raises(EngineError) as error:
        load(library)
    sys.modules.pop("bandlens_broken", None)
    assert str(error.value) == f"Some Library is installed but cannot be used ({reason}); reinstall it"


def test_tensorrts_own_words_say_why_no_builder_is_made() -> None:
    class Logger:
        Severity = IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def builder(log: Any) -> None:
        log.log(Logger.ERROR, "createInferBuilder: Error Code 6 (CUDA initialization failure with error: 100)")
        log.log(Logger.WARNING, "no more than a warning")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    module = ModuleType("tensorrt")
    vars(module).update(ILogger=Logger, Builder=builder)
    with pytest.raises(EngineError, match=r"cannot be used \(createInferBuilder: Error Code 6 \(CUDA init") as error:
        try_builder(module)
    assert TENSORRT.mend in str(error.value)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_onnxruntime_does_not_fall_back_from_a_provider_that_it_cannot_load() -> None:
    import onnxruntime

    with pytest.raises(EngineError, match=r"^ONNX Runtime cannot use its NoSuchExecutionProvider \(.*\); run: "):
        try_provider(onnxruntime, "NoSuchExecutionProvider")


def test_a_gpu_that_fails_is_not_mended_by_installing() -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError(
            "/onnxruntime_src/cuda_call.cc:154 onnxruntime::CudaCall(ERRTYPE) [with ERRTYPE = cudaError]\nCUDA failure "
            "46: all CUDA-capable devices are busy or unavailable ; GPU=-1 ; hostname=h ; expr=cudaSetDevice(0);"
        )

    import onnxruntime

    failing = SimpleNamespace(**vars(onnxruntime) | {"InferenceSession": fails})
    with pytest.raises(EngineError) as error:
        try_provider(failing, "SharedExecutionProvider")  # every package has the file of this one
    assert str(error.value) == (
        "ONNX Runtime cannot use its SharedExecutionProvider (CUDA failure 46: all CUDA-capable devices are busy or "
        "unavailable); see what `nvidia-smi` says"
    )


def test_two_packages_of_onnxruntime_are_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        folder = tmp_path / f"{name.replace('-', '_')}-1.30.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.30.0\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        importlib.invalidate_caches()
        faults.append(two_onnxruntimes())
    assert faults[0] == ""
    assert faults[1].startswith("onnxruntime 1.30.0 and onnxruntime-gpu 1.30.0 are installed together, and each")
    assert faults[1].endswith("run: pip uninstall onnxruntime onnxruntime-gpu, then pip install 'bandlens[gpu]'")


@pytest.mark.parametrize(
    ("cuda", "available", "line"),
    [
        (None, False, r"torch 9\.0 is built without CUDA; install torch and torchvision for CUDA 13, as pytorch\.org"),
        ("13.0", False, r"torch 9\.0 cannot use NVIDIA H100 80GB HBM3; run: pip install"),
        ("13.0", True, r"torch 9\.0 with CUDA 13\.0"),
    ],
)
def test_what_torch_lacks_is_said(
    readiness_with: State, cuda: str | None, available: bool, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda_module = SimpleNamespace(is_available=lambda: available)
    torch = SimpleNamespace(__version__="9.0", version=SimpleNamespace(cuda=cuda), cuda=cuda_module)
    monkeypatch.setattr(requirements, "load", lambda _: torch)
    monkeypatch.setattr(requirements, "cupy_version", lambda _: "14")
    state = readiness_with("torch-cuda", H100)
    assert state.ready == available
    assert re.match(line, state.line)


L4, T4, A100 = (Gpu(name, 1, capability, "580") for name, capability in (("L4", "8.9"), ("T4", "7.5"), ("A100", "8.0")))


def test_precisions_that_a_gpu_lacks() -> None:
    """bfloat16 came with compute capability 8.0 (CUDA's programming guide, arithmetic instructions)."""
    assert [runs(gpu, "bf16") for gpu in (T4, A100, L4, H100[0])] == [False, True, True, True]
    assert all(runs(T4, precision) for precision in ("fp32", "fp16", "int8"))


# The processor


def test_the_processor_has_the_name_that_linux_gives_it(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: AMD EPYC 9354\nflags\t\t: fpu\n\n" * 2)
    assert processor_name(tmp_path) == "AMD EPYC 9354"
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")  # an ARM processor shows these lines
    assert processor_name(tmp_path) in (platform.processor(), platform.machine())
