"""The head of files of halves, apart from what stands behind it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small import make_model, make_pictures, taking_floats

from bandlens.export.normalization import NORMALIZATIONS
from bandlens.export.onnx.fp16 import emulate_in_fp32, split_normalization, to_bf16, to_fp16
from bandlens.export.onnx.parity import onnx_logits

IMAGENET = NORMALIZATIONS["imagenet"]
MEAN, STD = (tuple(map(float, np.float32(channels))) for channels in IMAGENET)
IMAGES = np.ascontiguousarray(make_pictures(4, 32).transpose(0, 3, 1, 2) / np.float32(255))
LOWERED: dict[str, Callable[[bytes], bytes]] = {"fp16": to_fp16, "bf16": to_bf16}


def small(folder: Path, precision: str = "fp16") -> onnx.ModelProto:
    content = make_model(folder, size=32, normalization=IMAGENET).path.read_bytes()
    return onnx.load_from_string(LOWERED[precision](content))


@pytest.mark.parametrize("precision", LOWERED)
def test_a_file_is_split_behind_its_cast(tmp_path: Path, precision: str) -> None:
    whole = small(tmp_path, precision)
    normalization, behind = split_normalization(whole.SerializeToString())
    assert normalization == (MEAN, STD, precision)
    graph = onnx.load_from_string(behind).graph
    assert [node.op_type for node in whole.graph.node] == ["Sub", "Div", "Cast", *(node.op_type for node in graph.node)]
    [images] = graph.input
    [first, *_] = graph.node
    kinds = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
    assert (images.name, images.type.tensor_type.elem_type) == (first.input[0], kinds[precision])
    assert [dim.dim_value for dim in images.type.tensor_type.shape.dim[1:]] == [3, 32, 32]


def test_both_parts_together_compute_what_the_file_does(tmp_path: Path) -> None:
    """ONNX Runtime leaves out casts of its own, so both files are emulated, and rounded wherever they are halves."""
    whole = small(tmp_path).SerializeToString()
    behind = emulate_in_fp32(taking_floats(split_normalization(whole)[1]))
    mean, std = (np.float32(channels).reshape(3, 1, 1) for channels in (MEAN, STD))
    normalized = (IMAGES - mean) / std
    expected = onnx_logits(emulate_in_fp32(whole), IMAGES)
    np.testing.assert_array_equal(onnx_logits(behind, np.float32(np.float16(normalized))), expected)
    assert (np.float16(normalized) != normalized).any()


def reversed_difference(graph: onnx.GraphProto) -> None:
    graph.node[0].input[:] = reversed(graph.node[0].input)


def product(graph: onnx.GraphProto) -> None:
    graph.node[1].op_type = "Mul"


def mean_of_pixels(graph: onnx.GraphProto) -> None:
    [constant] = (tensor for tensor in graph.initializer if tensor.name == graph.node[0].input[1])
    constant.CopyFrom(numpy_helper.from_array(np.full((3, 32, 32), 0.5, np.float32), constant.name))


def second_reader(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("GlobalAveragePool", [graph.node[1].output[0]], ["colour"]))


def wider_cast(graph: onnx.GraphProto) -> None:
    graph.node[2].attribute[0].i = TensorProto.DOUBLE


def third_step(graph: onnx.GraphProto) -> None:
    graph.node.insert(2, helper.make_node("Add", [graph.node[1].output[0], graph.node[0].input[1]], ["shifted"]))
    graph.node[3].input[0] = "shifted"


CHANGES = (reversed_difference, product, mean_of_pixels, second_reader, wider_cast, third_step)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_file_that_begins_otherwise_stays_whole(tmp_path: Path, change: Callable[[onnx.GraphProto], None]) -> None:
    whole = small(tmp_path)
    assert [node.op_type for node in whole.graph.node[:3]] == ["Sub", "Div", "Cast"]
    change(whole.graph)
    content = whole.SerializeToString()
    assert split_normalization(content) == (None, content)


def test_files_without_a_normalization_or_without_halves_stay_whole(tmp_path: Path) -> None:
    bare = to_fp16(make_model(tmp_path, "bare", size=32).path.read_bytes())
    single = make_model(tmp_path, "single", size=32, normalization=IMAGENET).path.read_bytes()
    for content in (bare, single):
        assert split_normalization(content) == (None, content)
