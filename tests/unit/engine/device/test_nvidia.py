"""NVIDIA GPUs: what files show of them, and the line that explains a missing driver."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpu_traces import CLOSED_MODULE, H100, build_tree

from bandlens.engine.device.nvidia import Gpus, NoGpu, Problem, find_gpus, find_traces

ALL_TRACES = ("module", "gpu", "node", "card")


def problem_of(gpus: Gpus) -> str:
    assert isinstance(gpus, Problem), gpus
    assert "\n" not in gpus.message
    return gpus.message


@pytest.mark.parametrize("traces", [*ALL_TRACES, "wsl"])
def test_each_trace_shows_a_gpu(traces: str, tmp_path: Path) -> None:
    assert find_traces(build_tree(tmp_path, traces)).present


@pytest.mark.parametrize("traces", [[], ["other"]], ids=["nothing", "another maker's"])
def test_nothing_and_other_makers_show_none(traces: list[str], tmp_path: Path) -> None:
    assert not find_traces(build_tree(tmp_path, *traces)).present


def test_traces_hold_what_the_files_say(tmp_path: Path) -> None:
    traces = find_traces(build_tree(tmp_path, *ALL_TRACES))
    assert (traces.driver, traces.names, traces.cards, traces.wsl) == ("580.65.06", (H100,), 1, False)
    (tmp_path / "proc/driver/nvidia/version").write_text(CLOSED_MODULE)
    assert find_traces(tmp_path).driver == "550.54.14"


def test_equal_gpus_are_counted(tmp_path: Path) -> None:
    root = build_tree(tmp_path, *ALL_TRACES)
    assert str(find_traces(root)) == H100
    second = root / "proc/driver/nvidia/gpus/0000:1f:00.0/information"
    second.parent.mkdir()
    second.write_text(f"Model: \t\t {H100}\n")
    assert str(find_traces(root)) == f"2 × {H100}"


@pytest.mark.parametrize(
    ("traces", "advice"),
    [
        (["card"], "the NVIDIA GPU cannot be used: "),
        (["card"], "the GPU has no driver here; install NVIDIA's, 580 or newer, on the host"),
        (["module", "gpu", "card"], "start the container with --gpus all"),
        (ALL_TRACES, "a container gets its library with NVIDIA_DRIVER_CAPABILITIES=compute"),
        (["wsl"], "add /usr/lib/wsl/lib to LD_LIBRARY_PATH"),
    ],
)
def test_a_missing_driver_library_is_explained_by_what_is_there(traces: list[str], advice: str, tmp_path: Path) -> None:
    message = problem_of(find_gpus(build_tree(tmp_path, *traces), str(tmp_path / "libcuda.so.1"), {}))
    assert "libcuda.so.1: cannot open shared object file: No such file or directory; " in message
    assert advice in message


def test_a_library_of_no_length_is_explained(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").touch()  # building an image with the container toolkit can leave such a file in it
    message = problem_of(find_gpus(build_tree(tmp_path, *ALL_TRACES), str(tmp_path / "libcuda.so.1"), {}))
    assert "libcuda.so.1: file too short; reinstall the driver" in message


def test_no_trace_and_no_library_is_no_gpu(tmp_path: Path) -> None:
    assert find_gpus(tmp_path, "libcuda.so.0", {}) == NoGpu("no NVIDIA GPU here")
