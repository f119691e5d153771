"""ONNX Runtime's providers: what is refused without a GPU, and what they are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small import make_model

from bandlens.engine.backends import onnxruntime as onnxruntime_providers
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.engine.backends.onnxruntime import EXACT, NO_WAIT, PROVIDERS, shared_by
from bandlens.engine.device import devices
from bandlens.engine.device.devices import gpus, readiness
from bandlens.engine.device.driver import Gpu
from bandlens.engine.device.nvidia import NoGpu
from bandlens.errors import EngineError

ON_GPU = ("onnxruntime-cuda", "onnxruntime-tensorrt")
H100 = Gpu("NVIDIA H100 80GB HBM3", 85520809984, "9.0", "580.65.06")


@pytest.mark.skipif(not isinstance(gpus(), NoGpu), reason="there is a GPU here")
@pytest.mark.parametrize("engine", ON_GPU)
def test_without_a_gpu_nothing_is_opened(engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shared_by.cache_clear()
    with pytest.raises(EngineError) as caught:
        open_session(variant_of(make_model(tmp_path), engine, "fp32"), 4, 1)
    assert str(caught.value).startswith(str(gpus().reason))  # type: ignore[union-attr]
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not isinstance(gpus(), NoGpu), reason="there is a GPU here")
@pytest.mark.parametrize("engine", ON_GPU)
def test_with_a_gpu_and_the_wrong_package_nothing_is_opened(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    for module in (devices, onnxruntime_providers):
        monkeypatch.setattr(module, "gpus", lambda: (H100,))
    readiness.cache_clear()
    with pytest.raises(EngineError) as caught:
        open_session(variant_of(make_model(tmp_path), engine, "fp32"), 4, 1)
    readiness.cache_clear()
    if PROVIDERS[engine].name not in onnxruntime.get_available_providers():
        assert f"has no {PROVIDERS[engine].name}; run: pip uninstall onnxruntime" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_settings_have_names_that_onnxruntime_knows() -> None:
    """It takes any name, and says nothing of one that it does not know."""
    from onnxruntime.capi import onnxruntime_pybind11_state

    library = Path(onnxruntime_pybind11_state.__file__).read_bytes()
    names = {name for provider in PROVIDERS.values() for name in provider.config} | {*EXACT, NO_WAIT}
    assert {name for name in names if name.encode() + b"\0" not in library} == set()
    assert b"session.no_such_setting\0" not in library


def test_every_file_has_its_own_tensorrt_engines(tmp_path: Path) -> None:
    """ONNX Runtime would take the engine of the first of two networks with equal names in their graphs."""
    variants = [variant_of(make_model(tmp_path, f"m{k}", seed=k), "onnxruntime-tensorrt", "fp32") for k in range(2)]
    again = replace(variants[0], sha256="0" * 64)
    options = [
        PROVIDERS["onnxruntime-tensorrt"].options(*arguments)
        for arguments in [*((v, 8) for v in (*variants, again)), (again, 4)]
    ]
    folders = {provider_options["trt_engine_cache_path"] for provider_options in options}
    assert len(folders) == 4
    assert all(Path(folder).is_dir() for folder in folders)
    assert {provider_options["trt_timing_cache_path"] for provider_options in options} == {
        str(tmp_path / "plans" / "onnxruntime")
    }
