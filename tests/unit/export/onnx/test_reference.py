"""Logits in float64 by onnx's evaluator: those of torch in double, and float16 wherever the file rounds to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from small import make_model

from bandlens.core.errors import ExportError
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.onnx.reference import reference_logits
from bandlens.export.torch.network import OnnxNetwork

IMAGES = np.random.default_rng(5).random((2, 3, 32, 32), np.float32)


def test_logits_are_those_of_torch_in_double(tmp_path: Path) -> None:
    content = make_model(tmp_path, size=32).path.read_bytes()
    logits = reference_logits(content, IMAGES)
    expected = OnnxNetwork(content).double()(torch.from_numpy(IMAGES).double()).numpy()
    assert logits.dtype == expected.dtype == np.float64
    np.testing.assert_allclose(logits, expected, rtol=1e-12, atol=1e-12)
    assert 1e-9 < np.abs(logits - onnx_logits(content, IMAGES)).max() < 1e-4


def content_of(text: str) -> bytes:
    """The file of a graph in onnx's text format, between `images` and `logits`."""
    header = (
        '<ir_version: 8, opset_import: ["": 17]> case (float[batch, 3, 32, 32] images) => (float[batch, 3] logits) '
    )
    return onnx.parser.parse_model(header + text).SerializeToString()


def test_numbers_of_every_kind_become_float64_and_float16_stays() -> None:
    text = """{
        third = Constant <value_float: float = 0.3333333333333333> ()
        axes = Constant <value_ints: ints = [2, 3]> ()
        means = ReduceMean <axes = [2, 3], keepdims = 0> (images)
        scaled = Mul (means, third)
        single = Cast <to = 1> (scaled)
        half = Cast <to = 10> (single)
        wide = Cast <to = 1> (half)
        shape = Shape (wide)
        zeros = ConstantOfShape (shape)
        halves = Mul (wide, third)
        logits = Add (halves, zeros)
    }"""
    third = float(np.float32(1 / 3))
    expected = (IMAGES.mean((2, 3), np.float64) * third).astype(np.float16).astype(np.float64) * third
    logits = reference_logits(content_of(text), IMAGES)
    assert logits.dtype == np.float64
    np.testing.assert_allclose(logits, expected, rtol=1e-14, atol=0)


def test_an_operator_that_onnx_does_not_evaluate_is_one_line() -> None:
    network = onnx.load_from_string(content_of("{ logits = GlobalAveragePool (images) }"))
    network.graph.node[0].CopyFrom(helper.make_node("Unheard", ["images"], ["logits"]))
    with pytest.raises(ExportError, match=r"onnx cannot evaluate it in float64: .*Unheard"):
        reference_logits(network.SerializeToString(), IMAGES)
