"""Operations of a network, against those that torchvision publishes with its weights."""

from __future__ import annotations

import onnx
import pytest
import torchvision
from onnx import TensorProto, helper

from bandlens.errors import ExportError
from bandlens.export.onnx.from_torch import Normalized, to_onnx
from bandlens.export.onnx.operations import count_operations

MEAN = STD = (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v3_small", "vit_b_16"])
def test_as_many_as_torchvision_says(name: str) -> None:
    published = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta["_ops"]  # multiplications, in G
    content, _ = to_onnx(Normalized(torchvision.models.get_model(name), MEAN, STD).eval(), 224)
    assert count_operations(content) / 2e9 == pytest.approx(published, rel=0.01)


def test_sizes_that_are_not_known_are_named() -> None:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]) for name in ("images", "w", "logits")
    ]
    node = helper.make_node("MatMul", ["images", "w"], ["logits"], name="product")
    model = helper.make_model(helper.make_graph([node], "one", ends[:2], ends[2:]))
    onnx.checker.check_model(model)
    with pytest.raises(ExportError, match="the sizes of MatMul 'product' are not known"):
        count_operations(model.SerializeToString())
