"""NVIDIA GPUs: what files show of them, what the driver says, and the line that explains what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpu_traces import H100, build_tree
from pretend_driver import H100_BYTES, build_driver

from bandlens.engine.device.nvidia import ADVICE, Gpu, Gpus, NoGpu, Problem, find_gpus

EVERYTHING = ("module", "gpu", "node", "card")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a CUDA driver with one H100."""
    return str(build_driver(tmp_path_factory.mktemp("driver")))


def problem_of(answer: Gpus) -> str:
    assert isinstance(answer, Problem), answer
    assert "\n" not in answer.message
    return answer.message


def test_a_healthy_gpu_is_described(driver: str, tmp_path: Path) -> None:
    gpus = find_gpus(build_tree(tmp_path, *EVERYTHING), driver, {})
    assert gpus == (Gpu(H100, H100_BYTES, "9.0", "580.65.06"),)


def test_the_driver_is_believed_where_no_file_shows_a_gpu(driver: str, tmp_path: Path) -> None:
    assert find_gpus(tmp_path, driver, {}) == (Gpu(H100, H100_BYTES, "9.0", "CUDA 13.0"),)


def test_every_gpu_is_listed(driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_COUNT", "8")
    gpus = find_gpus(tmp_path, driver, {})
    assert isinstance(gpus, tuple)
    assert len(gpus) == 8


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"FAKE_VERSION": "12040"}, "driver 580.65.06 knows CUDA 12.4 at most, not CUDA 13; install driver 580 or "),
        ({"FAKE_COUNT": "0"}, "cuDeviceGetCount gives CUDA_ERROR_NO_DEVICE (100): the driver offers this process no"),
        ({"FAKE_MAJOR": "6"}, f"{H100} has compute capability 6.0, and CUDA 13 needs 7.5 or higher"),
        ({"FAKE_INIT": "803"}, "cuInit gives CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803): libcuda.so.1 and the kernel"),
        ({"FAKE_INIT": "777"}, "cuInit gives unnamed error (777): see whether `nvidia-smi` works"),
        *(({"FAKE_INIT": str(code)}, f"({code}): {advice}") for code, advice in ADVICE.items()),
    ],
    ids=lambda value: "-".join(f"{name}={number}" for name, number in value.items()) if isinstance(value, dict) else "",
)
def test_a_driver_that_fails_is_explained(
    settings: dict[str, str], words: str, driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, number in settings.items():
        monkeypatch.setenv(name, number)
    message = problem_of(find_gpus(build_tree(tmp_path, *EVERYTHING), driver, {}))
    assert message.startswith(f"{H100} cannot be used: ")
    assert words in message
    assert len(message) < 400


def test_a_driver_that_fails_on_a_machine_without_a_gpu_is_no_problem(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_INIT", "100")
    assert find_gpus(build_tree(tmp_path, "other"), driver, {}) == NoGpu("no NVIDIA GPU here")


@pytest.mark.parametrize("value", ["", "-1", " "])
def test_gpus_can_be_hidden_on_purpose(value: str, driver: str, tmp_path: Path) -> None:
    answer = find_gpus(build_tree(tmp_path, *EVERYTHING), driver, {"CUDA_VISIBLE_DEVICES": value})
    assert answer == NoGpu(f'CUDA_VISIBLE_DEVICES="{value}" hides every NVIDIA GPU')


def test_a_selection_that_selects_nothing_is_named(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_INIT", "100")
    answer = find_gpus(build_tree(tmp_path, *EVERYTHING), driver, {"CUDA_VISIBLE_DEVICES": "7"})
    assert f'{H100} cannot be used (CUDA_VISIBLE_DEVICES="7"): cuInit gives' in problem_of(answer)
