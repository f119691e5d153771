"""Files that a machine fetches from the driver."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small import make_model

from bandlens.engine.distributed.files import DriverFiles, NodeFiles, kept_files
from bandlens.export.files import sha256_of
from bandlens.records import Variant


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where this machine keeps what it fetches."""
    monkeypatch.setenv("BANDLENS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "fetched"


def away(variant: Variant) -> Variant:
    """The variant as a machine sees it that has none of the driver's folders."""
    return replace(variant, path=Path(f"/nowhere{variant.path}"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_same_onnx_file_under_another_name_is_found(tmp_path: Path, precision: str) -> None:
    folder = tmp_path / "models" if precision == "fp32" else tmp_path / "models" / precision
    models = [make_model(folder, name) for name in ("one", "two")]
    variants = [Variant(model, "onnxruntime-cuda", precision, model.path, model.sha256) for model in models]
    assert variants[0].sha256 == variants[1].sha256
    for variant in variants:
        found = NodeFiles(DriverFiles(kept_files([], [variant], []))).variant(away(variant))
        assert sha256_of(found.path) == variant.sha256
        assert found.model.name == variant.model.name
