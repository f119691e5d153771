"""Networks of several labels as classifiers of label sets, in which each label is a decision of its own.

A network that gives a logit z_l for each of L labels answers with the labels whose logit is above 0. A last layer gives
each of the 2^L sets of labels, where the number of a set has bit l if label l is in it, the logit

    logit(S) = - sum over l in S of max(0, -z_l) - sum over l not in S of max(0, z_l)

which is 0 for the answer and negative for any other set, whatever the precision. Its softmax is the product of the
labels' sigmoids, and its cross entropy the sum of their binary cross entropies. With one label it is a classifier of
two. Source: the label powerset of Tsoumakas & Katakis 2007 (Multi-label classification: an overview).
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ...core.errors import ExportError
from ...core.records import MOST_LABELS
from ..model_files import BATCH
from .graph import extend_graph, rename_tensor, to_bytes
from .parity import check_logits

PREFIX = "label_sets/"
"""The beginning of the names of the layer's nodes, which int8 leaves as they are: it would round small logits to 0."""


def check_label_outputs(outputs: NDArray[np.float32], content: bytes, network: str) -> NDArray[np.float32]:
    """The finite (n, labels) outputs of n images, logits or those of a last sigmoid; ExportError for any others.

    `content` is the ONNX file with these outputs, and `network` is named in the error.
    """
    if outputs.shape[1] > MOST_LABELS:
        raise ExportError(
            f"{network} gives {outputs.shape[1]} labels, and sets of more than {MOST_LABELS} are too many to tell "
            "apart; export it with the labels that matter"
        )
    graph = onnx.load_from_string(content).graph
    return outputs if _last_node(graph).op_type == "Sigmoid" else check_logits(outputs, network, multilabel=True)


def append_label_sets(content: bytes, labels: int) -> bytes:
    """The ONNX file with logits of the sets of labels instead of `logits`, those of each label; less a last sigmoid."""
    model = onnx.load_from_string(content)
    graph = model.graph
    if (last := _last_node(graph)).op_type == "Sigmoid":
        last.op_type = "Identity"
    rename_tensor(graph, "logits", f"{PREFIX}labels")
    bits = np.arange(2**labels) >> np.arange(labels)[:, None] & 1
    weights = -np.concatenate([bits, 1 - bits]).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(weights, f"{PREFIX}weights"))
    nodes = [
        helper.make_node("Neg", [f"{PREFIX}labels"], [f"{PREFIX}opposite"]),
        helper.make_node("Relu", [f"{PREFIX}opposite"], [f"{PREFIX}cost_with"]),
        helper.make_node("Relu", [f"{PREFIX}labels"], [f"{PREFIX}cost_without"]),
        helper.make_node("Concat", [f"{PREFIX}cost_with", f"{PREFIX}cost_without"], [f"{PREFIX}costs"], axis=1),
        helper.make_node("MatMul", [f"{PREFIX}costs", f"{PREFIX}weights"], ["logits"]),
    ]
    for node in nodes:
        node.name = f"{PREFIX}{node.op_type}/{node.output[0].rpartition('/')[2]}"
    extend_graph(graph, nodes, "logits", [BATCH, 2**labels])
    return to_bytes(model)


def _last_node(graph: onnx.GraphProto) -> onnx.NodeProto:
    """The node that gives the output; an empty one where none does."""
    return next((node for node in graph.node if graph.output[0].name in node.output), onnx.NodeProto())
