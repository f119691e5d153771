"""A process for each of several GPUs has an environment of its own, which shows it that GPU alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bandlens.core.errors import EngineError, UsageError
from bandlens.engine import processes
from bandlens.engine.device.nvidia import Gpu, NoGpu
from bandlens.engine.processes import environments_of

CARDS = tuple(Gpu(name, 1 << 34, "9.0", "580") for name in ("H100", "H100", "L4"))


@pytest.mark.parametrize(
    ("visible", "names", "cards"),
    [
        (None, ("0", "2"), ["0", "2"]),
        ("5,GPU-7,3", ("1", "0"), ["GPU-7", "5"]),
        (None, ("MIG-a", "MIG-b"), ["MIG-a", "MIG-b"]),
    ],
)
def test_each_process_sees_its_card_alone(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, names: Sequence[str], cards: list[str]
) -> None:
    monkeypatch.setattr(processes, "gpus", lambda: CARDS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environments_of(names, "tensorrt") == [{"CUDA_VISIBLE_DEVICES": card} for card in cards]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("0", "3"), "--devices 0,3: there is no GPU '3' here; CUDA offers 0 (H100), 1 (H100), 2 (L4)"),
        (("1", "0", "1"), "--devices 1,0,1: GPU 1 is there twice; a process takes a whole GPU"),
        (("cpu", "cpu"), "--devices cpu,cpu: there is no GPU 'cpu' here"),
    ],
)
def test_devices_that_are_not_there_or_there_twice_are_one_line(
    monkeypatch: pytest.MonkeyPatch, names: Sequence[str], words: str
) -> None:
    monkeypatch.setattr(processes, "gpus", lambda: CARDS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(UsageError) as error:
        environments_of(names, "tensorrt")
    assert str(error.value).startswith(words)


def test_a_machine_without_gpus_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "gpus", lambda: NoGpu("no NVIDIA GPU here"))
    with pytest.raises(EngineError, match=r"^no NVIDIA GPU here, and this engine needs one"):
        environments_of(("0",), "tensorrt")
