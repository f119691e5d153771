"""NVIDIA GPUs: what files show of them, what the driver says, and the line that explains what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpu_traces import H100, build_tree
from pretend_driver import H100_BYTES

from bandlens.engine.device.nvidia import ADVICE, Gpu, NoGpu, Problem, find_gpus

TRACES = ("module", "gpu", "node", "card")


def test_every_healthy_gpu_is_described(driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_COUNT", "2")
    gpus = find_gpus(build_tree(tmp_path, *TRACES), str(driver), {})
    assert gpus == (Gpu(H100, H100_BYTES, "9.0", "580.65.06"),) * 2


def test_the_driver_is_believed_where_no_file_shows_a_gpu(driver: Path, tmp_path: Path) -> None:
    assert find_gpus(tmp_path, str(driver), {}) == (Gpu(H100, H100_BYTES, "9.0", "CUDA 13.0"),)


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("FAKE_VERSION", 12040, "driver 580.65.06 knows CUDA 12.4 at most, not CUDA 13; install driver 580 or "),
        ("FAKE_COUNT", 0, "cuDeviceGetCount gives CUDA_ERROR_NO_DEVICE (100): the driver offers this process no"),
        ("FAKE_MAJOR", 6, f"{H100} has compute capability 6.0, and CUDA 13 needs 7.5 or higher"),
        ("FAKE_INIT", 777, "cuInit gives unnamed error (777): see whether `nvidia-smi` works"),
        *(("FAKE_INIT", code, f"({code}): {advice}") for code, advice in ADVICE.items()),
    ],
)
def test_a_driver_that_fails_is_explained(
    name: str, number: int, words: str, driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, str(number))
    answer = find_gpus(build_tree(tmp_path, *TRACES), str(driver), {})
    assert isinstance(answer, Problem)
    assert answer.message.startswith(f"{H100} cannot be used: ")
    assert words in answer.message
    assert "\n" not in answer.message


@pytest.mark.parametrize("value", ["", "-1", " "])
def test_gpus_can_be_hidden_on_purpose(value: str, driver: Path, tmp_path: Path) -> None:
    answer = find_gpus(build_tree(tmp_path, *TRACES), str(driver), {"CUDA_VISIBLE_DEVICES": value})
    assert answer == NoGpu(f'CUDA_VISIBLE_DEVICES="{value}" hides every NVIDIA GPU')


def test_a_driver_without_a_device_is_a_problem_where_a_gpu_is_and_names_the_selection(
    driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_INIT", "100")
    assert find_gpus(build_tree(tmp_path, "other"), str(driver), {}) == NoGpu("no NVIDIA GPU here")
    answer = find_gpus(build_tree(tmp_path, *TRACES), str(driver), {"CUDA_VISIBLE_DEVICES": "7"})
    assert isinstance(answer, Problem)
    assert f'{H100} cannot be used (CUDA_VISIBLE_DEVICES="7"): cuInit gives' in answer.message
