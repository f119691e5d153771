"""`bandlens doctor`: what it says of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import Command

from bandlens.app.api.hardware import gpu_rows, inspect_machine, memory
from bandlens.engine.device import devices
from bandlens.engine.device.nvidia import Gpu, NoGpu


def test_the_table_says_the_same(command: Command) -> None:
    lines = command("doctor").out.splitlines()
    assert any(line.split()[:3] == ["engine", "onnxruntime", "ready:"] for line in lines)


def test_a_missing_gpu_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_gpus", lambda: NoGpu("no NVIDIA GPU here"))
    for cached in (devices.gpus, devices.readiness):
        cached.cache_clear()
    rows = dict(inspect_machine())
    assert [name for name, finding in rows.items() if finding == "no NVIDIA GPU here"] == ["GPU"]
    assert rows["engine tensorrt"] == rows["array module cupy"] == "not ready: it needs an NVIDIA GPU"
    for cached in (devices.gpus, devices.readiness):
        cached.cache_clear()


def test_every_gpu_has_a_row() -> None:
    gpu = Gpu("NVIDIA L4", 23 << 30, "8.9", "580.65.06")
    text = "NVIDIA L4, 23 GiB, compute capability 8.9, driver 580.65.06"
    assert gpu_rows((gpu, gpu)) == [("GPU 0", text), ("GPU 1", text)]
    assert gpu_rows(NoGpu("no NVIDIA GPU here")) == [("GPU", "no NVIDIA GPU here")]


@pytest.mark.parametrize(("limit", "limited"), [("max\n", False), ("1073741824\n", True), (None, False)])
def test_memory_is_what_the_container_may_use(limit: str | None, limited: bool, tmp_path: Path) -> None:
    if limit:
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup/memory.max").write_text(limit)
    assert (memory(tmp_path) == 1 << 30) is limited
    assert memory(tmp_path) > 0
