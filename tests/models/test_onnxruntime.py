"""ONNX Runtime's providers: what is refused without a GPU, and what they are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import make_model

from bandlens.core.errors import EngineError
from bandlens.engine.backends import onnxruntime as onnxruntime_providers
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.engine.backends.onnxruntime import EXACT, GPU_ONLY, NO_WAIT, shared_by
from bandlens.engine.device import devices
from bandlens.engine.device.devices import gpus, readiness
from bandlens.engine.device.nvidia import Gpu, NoGpu
from bandlens.engine.device.requirements import CUDA_PROVIDER

H100 = Gpu("NVIDIA H100 80GB HBM3", 85520809984, "9.0", "580.65.06")


@pytest.mark.skipif(not isinstance(gpus(), NoGpu), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_opened(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shared_by.cache_clear()
    with pytest.raises(EngineError) as caught:
        open_session(variant_of(make_model(tmp_path), "onnxruntime-cuda", "fp32"), 4, 1)
    assert str(caught.value).startswith(str(gpus().reason))  # type: ignore[union-attr]
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not isinstance(gpus(), NoGpu), reason="there is a GPU here")
def test_with_a_gpu_and_the_wrong_package_nothing_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    for module in (devices, onnxruntime_providers):
        monkeypatch.setattr(module, "gpus", lambda: (H100,))
    readiness.cache_clear()
    with pytest.raises(EngineError) as caught:
        open_session(variant_of(make_model(tmp_path), "onnxruntime-cuda", "fp32"), 4, 1)
    readiness.cache_clear()
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        assert f"has no {CUDA_PROVIDER}; run: pip uninstall onnxruntime" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_settings_have_names_that_onnxruntime_knows() -> None:
    """It takes any name, and says nothing of one that it does not know."""
    from onnxruntime.capi import onnxruntime_pybind11_state

    library = Path(onnxruntime_pybind11_state.__file__).read_bytes()
    names = {*GPU_ONLY, *EXACT, NO_WAIT}
    assert {name for name in names if name.encode() + b"\0" not in library} == set()
    assert b"session.no_such_setting\0" not in library
