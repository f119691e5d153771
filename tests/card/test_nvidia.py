"""NVIDIA GPUs: what files show of them, what the driver says, and the line that explains what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from machines_with_gpus import CLOSED_MODULE, H100, H100_BYTES, build_driver, build_tree

from bandlens.engine.device.driver import ADVICE, Gpu
from bandlens.engine.device.nvidia import Gpus, NoGpu, Problem, find_gpus, find_traces

EVERYTHING = ("module", "gpu", "node", "card")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a CUDA driver with one H100."""
    return str(build_driver(tmp_path_factory.mktemp("driver")))


def problem_of(found: Gpus) -> str:
    assert isinstance(found, Problem), found
    assert "\n" not in found.message
    return found.message


@pytest.mark.parametrize("traces", [*EVERYTHING, "wsl"])
def test_each_trace_shows_a_gpu(traces: str, tmp_path: Path) -> None:
    assert find_traces(build_tree(tmp_path, traces)).present


@pytest.mark.parametrize("traces", [[], ["other"]], ids=["nothing", "another maker's"])
def test_nothing_and_other_makers_show_none(traces: list[str], tmp_path: Path) -> None:
    assert not find_traces(build_tree(tmp_path, *traces)).present


def test_traces_hold_what_the_files_say(tmp_path: Path) -> None:
    traces = find_traces(build_tree(tmp_path, *EVERYTHING))
    assert (traces.driver, traces.names, traces.cards, traces.wsl) == ("580.65.06", (H100,), 1, False)
    (tmp_path / "proc/driver/nvidia/version").write_text(CLOSED_MODULE)
    assert find_traces(tmp_path).driver == "550.54.14"


def test_equal_gpus_are_counted(tmp_path: Path) -> None:
    root = build_tree(tmp_path, *EVERYTHING)
    assert str(find_traces(root)) == H100
    second = root / "proc/driver/nvidia/gpus/0000:1f:00.0/information"
    second.parent.mkdir()
    second.write_text(f"Model: \t\t {H100}\n")
    assert str(find_traces(root)) == f"2 × {H100}"


def test_a_healthy_gpu_is_described(driver: str, tmp_path: Path) -> None:
    found = find_gpus(build_tree(tmp_path, *EVERYTHING), driver, {})
    assert found == (Gpu(H100, H100_BYTES, "9.0", "580.65.06"),)


def test_the_driver_is_believed_where_no_file_shows_a_gpu(driver: str, tmp_path: Path) -> None:
    assert find_gpus(tmp_path, driver, {}) == (Gpu(H100, H100_BYTES, "9.0", "CUDA 13.0"),)


def test_every_gpu_is_listed(driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_COUNT", "8")
    found = find_gpus(tmp_path, driver, {})
    assert isinstance(found, tuple)
    assert len(found) == 8


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (
            {"FAKE_VERSION": "12040"},
            "driver 580.65.06 knows CUDA 12.4 at most, not CUDA 13; install driver 580 or newer",
        ),
        (
            {"FAKE_COUNT": "0"},
            "cuDeviceGetCount gives CUDA_ERROR_NO_DEVICE (100): the driver offers this process no GPU",
        ),
        ({"FAKE_MAJOR": "6"}, f"{H100} has compute capability 6.0, and CUDA 13 needs 7.5 or higher"),
        (
            {"FAKE_INIT": "803"},
            "cuInit gives CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803): libcuda.so.1 and the kernel module",
        ),
        ({"FAKE_INIT": "804"}, "cuInit gives CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE (804): the image brings"),
        ({"FAKE_INIT": "999"}, "cuInit gives CUDA_ERROR_UNKNOWN (999): the driver is in a bad state"),
        ({"FAKE_INIT": "777"}, "cuInit gives unnamed error (777): see whether `nvidia-smi` works"),
        *(({"FAKE_INIT": str(code)}, f"({code}): {advice}") for code, advice in ADVICE.items()),
    ],
    ids=lambda value: "-".join(f"{name}={number}" for name, number in value.items()) if isinstance(value, dict) else "",
)
def test_a_driver_that_fails_is_explained(
    settings: dict[str, str], wrong: str, driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, number in settings.items():
        monkeypatch.setenv(name, number)
    message = problem_of(find_gpus(build_tree(tmp_path, *EVERYTHING), driver, {}))
    assert message.startswith(f"{H100} cannot be used: ")
    assert wrong in message
    assert len(message) < 400


def test_a_driver_that_fails_on_a_machine_without_a_gpu_is_no_problem(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_INIT", "100")
    assert find_gpus(build_tree(tmp_path, "other"), driver, {}) == NoGpu("no NVIDIA GPU here")


@pytest.mark.parametrize(
    ("traces", "advice"),
    [
        (["card"], "the NVIDIA GPU cannot be used: "),
        (["card"], "the GPU has no driver here; install NVIDIA's, 580 or newer, on the host"),
        (["module", "gpu", "card"], "start the container with --gpus all"),
        (EVERYTHING, "a container gets its library with NVIDIA_DRIVER_CAPABILITIES=compute"),
        (["wsl"], "add /usr/lib/wsl/lib to LD_LIBRARY_PATH"),
    ],
)
def test_a_missing_driver_library_is_explained_by_what_is_there(traces: list[str], advice: str, tmp_path: Path) -> None:
    message = problem_of(find_gpus(build_tree(tmp_path, *traces), str(tmp_path / "libcuda.so.1"), {}))
    assert "libcuda.so.1: cannot open shared object file: No such file or directory; " in message
    assert advice in message


def test_a_library_of_no_length_is_explained(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").touch()  # what building an image with the container toolkit can leave in it
    message = problem_of(find_gpus(build_tree(tmp_path, *EVERYTHING), str(tmp_path / "libcuda.so.1"), {}))
    assert "libcuda.so.1: file too short; reinstall the driver" in message


def test_no_trace_and_no_library_is_no_gpu(tmp_path: Path) -> None:
    assert find_gpus(tmp_path, "libcuda.so.0", {}) == NoGpu("no NVIDIA GPU here")


@pytest.mark.parametrize("value", ["", "-1", " "])
def test_gpus_can_be_hidden_on_purpose(value: str, driver: str, tmp_path: Path) -> None:
    found = find_gpus(build_tree(tmp_path, *EVERYTHING), driver, {"CUDA_VISIBLE_DEVICES": value})
    assert found == NoGpu(f'CUDA_VISIBLE_DEVICES="{value}" hides every NVIDIA GPU')


def test_a_selection_that_selects_nothing_is_named(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_INIT", "100")
    found = find_gpus(build_tree(tmp_path, *EVERYTHING), driver, {"CUDA_VISIBLE_DEVICES": "7"})
    assert f'{H100} cannot be used (CUDA_VISIBLE_DEVICES="7"): cuInit gives' in problem_of(found)
