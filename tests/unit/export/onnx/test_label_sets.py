"""The layer of label sets against the sigmoids and the binary cross entropy of torch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch.nn import functional

from bandlens.core.errors import ExportError
from bandlens.export.onnx.label_sets import append_label_sets, check_label_outputs
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.torch.network import OnnxNetwork

LABELS = 5
RNG = np.random.default_rng(0)
LOGITS = (RNG.normal(size=(40, LABELS)) * 10.0 ** RNG.integers(-6, 3, (40, LABELS))).astype(np.float32)


def network(*operators: str, labels: int = LABELS) -> bytes:
    """A network whose images are the logits themselves, behind which operators stand."""
    operators = operators or ("Identity",)
    names = ["images", *(f"t{number}" for number in range(len(operators) - 1)), "logits"]
    nodes = [
        helper.make_node(operator, [names[number]], [names[number + 1]]) for number, operator in enumerate(operators)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", labels])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", labels])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def bits(numbers: NDArray[np.int64], labels: int = LABELS) -> NDArray[np.bool_]:
    return (numbers[:, None] >> np.arange(labels) & 1).astype(bool)


@pytest.mark.parametrize("operators", [(), ("Sigmoid",), ("Flatten", "Sigmoid")])
def test_the_answer_has_each_label_above_0_and_the_softmax_is_the_product_of_sigmoids(
    operators: tuple[str, ...],
) -> None:
    logits = onnx_logits(append_label_sets(network(*operators), LABELS), LOGITS)
    assert logits.shape == (40, 2**LABELS)
    np.testing.assert_array_equal(bits(logits.argmax(1)), LOGITS > 0)
    assert np.all(logits.max(1) == 0)
    shares = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    of_sets = bits(np.arange(2**LABELS))
    expected = np.where(of_sets, shares[:, None], 1 - shares[:, None]).prod(axis=2)
    softmax = torch.from_numpy(logits).double().softmax(1).numpy()
    np.testing.assert_allclose(softmax, expected, atol=1e-6)


def test_in_half_precision_the_answer_is_the_same() -> None:
    half = LOGITS.astype(np.float16)
    assert np.all(half != 0)
    chosen = OnnxNetwork(append_label_sets(network(), LABELS)).half()(torch.from_numpy(half))
    np.testing.assert_array_equal(bits(chosen.argmax(1).numpy()), half > 0)


def test_the_loss_of_attacks_is_the_binary_cross_entropy_of_all_labels() -> None:
    truth = RNG.integers(0, 2**LABELS, 40)
    layer = OnnxNetwork(append_label_sets(network("Sigmoid"), LABELS))
    gradients = []
    for loss in (
        lambda x: functional.cross_entropy(layer(x), torch.from_numpy(truth), reduction="sum"),
        lambda x: functional.binary_cross_entropy_with_logits(
            x, torch.from_numpy(bits(truth)).float(), reduction="sum"
        ),
    ):
        inputs = torch.from_numpy(LOGITS).requires_grad_()
        value = loss(inputs)
        gradients.append((value.item(), torch.autograd.grad(value, inputs)[0]))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-6)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], atol=1e-5, rtol=1e-4)


def test_one_label_is_a_classifier_of_two() -> None:
    logits = onnx_logits(append_label_sets(network(labels=1), 1), LOGITS[:, :1])
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], LOGITS[:, 0], rtol=1e-6)


def test_probabilities_without_a_last_sigmoid_and_too_many_labels_are_refused() -> None:
    shares = 1 / (1 + np.exp(-LOGITS.clip(-9, 9)))
    assert check_label_outputs(shares, network("Sigmoid"), "mine") is shares
    with pytest.raises(ExportError, match=r"as a sigmoid does, .* export the network without its last sigmoid$"):
        check_label_outputs(np.full((4, LABELS), 0.5, np.float32) + LOGITS[:4] ** 0 / 4, network(), "mine")
    with pytest.raises(ExportError, match="mine gives 16 labels, and sets of more than 15 are too many"):
        check_label_outputs(np.zeros((4, 16), np.float32), network(labels=16), "mine")
