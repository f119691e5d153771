"""torch as an engine: its settings, its memory, and what it says of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small import make_batch, make_model, make_pictures

from bandlens.core.errors import EngineError, UsageError
from bandlens.core.records import Model, Variant
from bandlens.engine.backends.base import attack_variant, open_session, variant_of
from bandlens.engine.backends.pgd import Budget, pgd, pgd_any
from bandlens.engine.backends.torch import TorchSession, checked_network, exact, in_bfloat16
from bandlens.export.model_files import load_onnx_file
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.onnx.precisions import make_onnx_file, read_for_cpu
from bandlens.export.torch.operators import OPERATORS
from bandlens.probes.attacks import PGD_ANY, PGD_LINF, uniform_start


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def variant(model: Model) -> Variant:
    return variant_of(model, "torch", "fp32")


def test_what_is_attacked_is_what_the_engine_runs(model: Model, variant: Variant) -> None:
    assert attack_variant(model, "onnxruntime") == attack_variant(model, "torch") == variant
    with pytest.raises(UsageError, match="engine torch runs fp32, fp16, bf16, not int8; set precision"):
        variant_of(model, "torch", "int8")


def test_torch_is_refused_where_it_computes_something_else(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that adds a hundredth to products stands in for one that computes them otherwise."""
    gemm = OPERATORS["Gemm"]
    monkeypatch.setitem(OPERATORS, "Gemm", lambda *arrays, **attributes: gemm(*arrays, **attributes) * 1.01)
    with pytest.raises(EngineError, match=r"torch does not compute what ONNX Runtime does: .*, without attacks$"):
        open_session(variant, 4, 1)
    monkeypatch.setitem(OPERATORS, "Gemm", lambda *_, **__: {}["axis"])
    monkeypatch.delattr(torch, "AcceleratorError")  # torch 2.7 has none
    with pytest.raises(EngineError, match=r"torch cannot run its ONNX file: 'axis'$"):
        open_session(variant, 4, 1)


def test_an_attack_keeps_to_its_band(variant: Variant) -> None:
    pixels = np.ascontiguousarray(make_pictures(4).transpose(0, 3, 1, 2))
    labels, start = np.zeros(4, np.int32), uniform_start(5, np.arange(4, dtype=np.uint64), 128)
    plain, narrow = PGD_LINF.conditions({"eps": 0.1, "step": 0.02, "steps": 3, "band": [[0, 1], [0, 0.2]]})
    with TorchSession(variant, 4, 1, checked_network) as session:
        logits = {condition: session.attacked(condition, pixels, labels, start) for condition in (plain, narrow)}
        images, classes = session.place(pixels).float() / 255, torch.zeros(4, dtype=torch.int64)
        for condition, band in ((plain, (0.0, 1.0)), (narrow, (0.0, 0.2))):
            budget = Budget(0.1, 0.02, 3, band)
            expected = pgd(session.network, images, classes, torch.from_numpy(start), budget).logits
            np.testing.assert_allclose(logits[condition], expected.numpy(), rtol=0, atol=1e-5)
    assert np.abs(logits[plain] - logits[narrow]).max() > 1e-3


def test_gradients_in_bf16_are_followed_and_fp32_judges(variant: Variant) -> None:
    pixels = np.ascontiguousarray(make_pictures(4).transpose(0, 3, 1, 2))
    labels, start = np.zeros(4, np.int32), uniform_start(5, np.arange(4, dtype=np.uint64), 128)
    setting = {"eps": 0.1, "step": 0.02, "steps": 3}
    for family, attack in ((PGD_LINF, pgd), (PGD_ANY, pgd_any)):
        plain, coarse = family.conditions(setting | {"gradients": ["fp32", "bf16"]})
        assert [plain] == family.conditions(setting)
        with TorchSession(variant, 4, 1, checked_network) as session:
            logits = session.attacked(coarse, pixels, labels, start)
            assert np.abs(logits - session.attacked(plain, pixels, labels, start)).max() > 0
            images, classes = session.place(pixels).float() / 255, torch.zeros(4, dtype=torch.int64)
            searched = in_bfloat16(session.network)
            start_images = torch.from_numpy(start)
            expected = attack(session.network, images, classes, start_images, Budget(0.1, 0.02, 3), searched=searched)
            np.testing.assert_allclose(logits, expected.logits.numpy(), rtol=0, atol=1e-5)
            np.testing.assert_allclose(logits, session.network(expected.images).detach().numpy(), rtol=0, atol=1e-5)


def settings() -> Any:
    cudnn, products, host = torch.backends.cudnn, torch.backends.cuda.matmul, torch.backends.mkldnn
    precisions = {part.fp32_precision for part in (products, cudnn.conv, cudnn.rnn, host.matmul, host.conv)}
    halves = products.allow_fp16_reduced_precision_reduction, products.allow_bf16_reduced_precision_reduction
    return torch.get_num_threads(), precisions, halves, (cudnn.deterministic, cudnn.benchmark)


EXACT = {"ieee"}, (False, False), (True, False)


@pytest.mark.parametrize("library", ["backends", "backends.cudnn", ""])
def test_settings_last_as_long_as_a_session(variant: Variant, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user may have set precisions by the newer name of a library's, or by the older one of all."""
    torch.set_float32_matmul_precision("highest" if library else "medium")
    if library:
        monkeypatch.setattr(f"torch.{library}.fp32_precision", "tf32")
    original_settings = settings()
    with exact(1):
        assert settings() == (1, *EXACT)
    assert settings() == original_settings
    with open_session(variant, 8, original_settings[0] + 1):
        assert settings() == (original_settings[0] + 1, *EXACT)
    assert settings() == original_settings
    with pytest.raises(Exception, match="has sha256"):
        open_session(replace(variant, sha256="0" * 64), 8, original_settings[0] + 1)
    assert settings() == original_settings
    assert library or torch.get_float32_matmul_precision() == "medium"
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_lower_precisions_are_another_opinion_on_the_cpu(model: Model, precision: str) -> None:
    """fp16 against ONNX Runtime on the same file; bf16 against fp32, from which it is a few times 2^-8 away."""
    images = make_batch(6, seed=0)
    onnx_file = make_onnx_file(model, "fp16")[0] if precision == "fp16" else load_onnx_file(model, "fp32")
    expected = onnx_logits(read_for_cpu(onnx_file), images)
    with open_session(variant_of(model, "torch", precision), 6, 1) as session:
        logits = session.infer(images).copy()
        with pytest.raises(EngineError, match="takes contiguous float32 of shape"):
            session.infer(images[:3])
    assert logits.dtype == np.float32
    apart = np.abs(logits - expected).max() / np.abs(expected).max()
    assert apart <= 5e-3 if precision == "fp16" else 2**-14 < apart < 8 * 2**-8
