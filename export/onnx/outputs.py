"""Outputs of a network are logits of classes or labels, and no features, probabilities or embeddings."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ...core.errors import ExportError, UnknownName, UsageError
from ...core.records import MOST_LABELS
from ..functions import SUMS_TO_ONE, are_probabilities
from ..model_files import MOST_CLASSES

GIVE_HEAD = "give it a head of classes: --head SET or PROMPTS of `bandlens export`"
"""The advice for a network of features."""
STATE_LOGITS = "if these are logits, say so with --outputs logits of `bandlens export`"
"""The advice for a network whose logits look like something else."""
POOLS = {"token": "the first token of each image", "mean": "the mean of an image's tokens, or of its positions"}
"""How features of tokens, (n, tokens, d), or of positions, (n, d, height, width), become a vector."""


@dataclass(frozen=True, slots=True)
class Features:
    """The features of a network that gives no classes; UnknownName for an unknown `pool`."""

    output: str | None = None
    """The tensor of a finished ONNX file that holds the features; by default its one output."""
    pool: str | None = None
    """How features of tokens or positions become vectors, one of POOLS; by default as the network does."""

    def __post_init__(self) -> None:
        if self.pool is not None and self.pool not in POOLS:
            raise UnknownName("pool", self.pool, POOLS)


@dataclass(frozen=True, slots=True)
class Outputs:
    """The user's statement on the outputs of a network that gets no head."""

    multilabel: bool = False
    """Whether each output is a label by itself."""
    stated: bool = False
    """Whether the outputs are logits though they may look like something else."""
    class_names: Sequence[str] | None = None
    """The names of the classes in the order of the logits; by default those beside the weights."""


Array = TypeVar("Array", bound=Any)
"""An array of NumPy or a tensor of torch."""


def pool_features(features: Array, pool: str | None) -> Array:
    """(n, d) vectors of (n, d), (n, tokens, d) or (n, d, height, width) features; UsageError for others."""
    rank = features.ndim
    if pool is None and rank == 2:
        return features
    if (pool, rank) == ("token", 3):
        return cast(Array, features[:, 0])
    if pool == "mean" and rank in (3, 4):
        return cast(Array, features.mean(pooled_axes(rank)))
    shape = f"{tuple(features.shape[1:])} features for each image"
    advice = {2: "leave out `pool`", 3: "pool its tokens: `pool` is token or mean", 4: "pool it: `pool` is mean"}
    raise UsageError(f"the network gives {shape}; {advice.get(rank, 'name another tensor of it as `output`')}")


def pooled_axes(rank: int) -> tuple[int, ...]:
    return (1,) if rank == 3 else (2, 3)


FEATURES = re.compile(r"(.*[._/])?(last_hidden_state|pooler_output|embed(ding)?s?|features?)", re.IGNORECASE)
"""Names of outputs that are features, as exporters of backbones call them."""
NORMALIZATIONS_OF_FEATURES = {"LayerNormalization", "LpNormalization"}
"""Operators that no classifier ends with, and many a backbone does."""
ARRANGES = {
    *("BatchNormalization", "Cast", "Concat", "Dropout", "Flatten", "Gather", "Identity", "Reshape", "Slice"),
    *("Squeeze", "Transpose", "Unsqueeze", "QuantizeLinear", "DequantizeLinear"),
}
"""Operators that choose, arrange or scale features; of several that are joined the first is looked at."""
POOLINGS = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean"}
ACTIVATIONS = {
    *("Celu", "Clip", "Elu", "Gelu", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu", "Swish", "Tanh")
}
ARITHMETIC = {"Add", "Div", "Mul", "Sub"}
"""Operators that may add a bias, or scale."""
ELEMENTWISE = ARITHMETIC | {"Clip", "Erf", "HardSigmoid", "Pow", "Sigmoid", "Softplus", "Tanh"}
"""Operators that exporters write GELU, SiLU and their like with; the last of these is a product."""
LINEAR = {"Conv", "Gemm", "MatMul"}
GIVES_SCORES = LINEAR | {"Log", "LogSoftmax", "Sigmoid", "Softmax"}
"""Operators whose pooled values are scores of classes: those of positions, or of crops."""
STEP_OF_WIDTHS = 32
"""The number of pooled features of the usual backbones is a multiple of this."""


def refuse_features(content: bytes, network: str, width: int) -> None:
    """ExportError, which names `network`, where its one output, (n, width), is known to be features.

    That is so by its name, where its last layer is a normalization, where an activation follows its last linear layer,
    or where it is pooled from other values than scores of such a layer. A 1 x 1 convolution, a ReLU and a pool end both
    SqueezeNet and many a backbone; they give scores where their number is unusual for features. What a last linear
    layer gives passes for logits, and so does a sum of what several give.
    """
    graph = onnx.load_from_string(content).graph
    makers = {name: node for node in graph.node for name in node.output if name}
    (output,) = (value.name for value in graph.output)
    constants = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], attribute.t) for attribute in node.attribute)
        elif node.op_type == "Identity" and node.input[0] in constants:  # equal weights are kept once
            constants[node.output[0]] = constants[node.input[0]]
    ending = _find_ending(output, makers, constants)
    kind, processed = ending.node.op_type, ending.kinds & (ACTIVATIONS | POOLINGS)
    is_hidden_layer = bool(kind and processed) and not _gives_scores(ending, width, makers, constants)
    if FEATURES.fullmatch(output) or kind in NORMALIZATIONS_OF_FEATURES or is_hidden_layer:
        raise ExportError(f"{network} gives features (output {output}), not logits; {GIVE_HEAD}; {STATE_LOGITS}")


class _Ending(NamedTuple):
    """The way back from a tensor to the last node that does more than to arrange, pool or activate."""

    node: onnx.NodeProto
    """The node there; an empty one where the way leads to the images."""
    inputs: list[str]
    """The tensors that it takes and that are no constants."""
    kinds: frozenset[str]
    """The operators on the way."""


Makers = Mapping[str, onnx.NodeProto]
"""Names of tensors -> the nodes that compute them."""
Constants = Mapping[str, onnx.TensorProto]
"""Names of tensors -> their numbers, of those that do not depend on the images."""


def _find_ending(tensor: str, makers: Makers, constants: Constants, kinds: Iterable[str] = ()) -> _Ending:
    """The ending of a tensor behind which the operators `kinds` follow."""
    kinds = set(kinds)
    while True:
        node = makers.get(tensor, onnx.NodeProto())
        kind, inputs = node.op_type, [name for name in node.input if name not in constants]
        if kind == "Mul" and len(inputs) > 1 and (source := _gated_tensor(inputs, makers, constants)):
            kind, inputs = "Swish", [source]
        transparent_kinds = ARRANGES | POOLINGS | ACTIVATIONS | (ARITHMETIC if len(inputs) == 1 else set())
        if kind not in transparent_kinds or not inputs:
            return _Ending(node, inputs, frozenset(kinds))
        if not _limits_logits(node, constants, kinds):
            kinds.add(kind)
        tensor = inputs[0]


def _gives_scores(ending: _Ending, width: int, makers: Makers, constants: Constants) -> bool:
    """Whether `width` numbers with this ending are scores of classes, or a sum of separate ones.

    A residual block adds to a tensor what it computes from it, and gives features.
    """
    waiting, visited = [ending], set[tuple[str, frozenset[str]]]()
    summands: list[_Ending] = []
    while waiting:
        ending = waiting.pop()
        node, inputs, kinds = ending
        activations = kinds & ACTIVATIONS
        squeezed = (
            activations == {"Relu"} and bool(kinds & POOLINGS) and _is_pointwise(node) and width % STEP_OF_WIDTHS != 0
        )
        if node.op_type != "Add":
            if node.op_type not in GIVES_SCORES or (node.op_type in LINEAR and activations and not squeezed):
                return False
            summands.append(ending)
        elif (node.output[0], kinds) not in visited:  # sums of equal sums would be looked at ever twice as often
            visited.add((node.output[0], kinds))
            waiting += [_find_ending(tensor, makers, constants, kinds) for tensor in inputs]
    ancestors = find_ancestors([tensor for summand in summands for tensor in summand.inputs], makers)
    return all(ancestors.isdisjoint(summand.node.output) for summand in summands)


def find_ancestors(tensors: Iterable[str], makers: Makers) -> set[str]:
    """The names of tensors and of all that they are computed from, weights included."""
    names, waiting = set[str](), [*tensors]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += _inputs_of(makers[name]) if name in makers else []
    return names - {""}  # an input that is left out is not an output that is left out elsewhere


def _inputs_of(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node takes, those that the graphs inside it take from outside included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _inputs_of(inner)


def _gated_tensor(factors: Iterable[str], makers: Makers, constants: Collection[str]) -> str | None:
    """The tensor x where factors are functions of its numbers alone, as in the x f(x) of SiLU and GELU; else None."""
    queue, visited, sources = list(factors), set[str](), set[str]()
    while queue:
        name = queue.pop()
        if name in visited or name in constants:
            continue
        visited.add(name)
        maker = makers.get(name)
        if maker is not None and maker.op_type in ELEMENTWISE:
            queue += maker.input
        else:
            sources.add(name)
    return sources.pop() if len(sources) == 1 else None


def _limits_logits(node: onnx.NodeProto, constants: Constants, kinds: Collection[str]) -> bool:
    """Whether a node keeps logits of both signs within limits, as a clip may, and tanh if its values are scaled."""
    if node.op_type == "Tanh":
        return bool(ARITHMETIC.intersection(kinds))
    lower = constants.get(node.input[1]) if node.op_type == "Clip" and len(node.input) > 1 else None
    return lower is not None and lower.data_type != 0 and bool(numpy_helper.to_array(lower) < 0)


def _is_pointwise(node: onnx.NodeProto) -> bool:
    """Whether the node is a convolution of single positions."""
    if node.op_type != "Conv":
        return False
    return all(side == 1 for attribute in node.attribute if attribute.name == "kernel_shape" for side in attribute.ints)


def check_outputs(outputs: NDArray[np.float32], content: bytes, network: str, statement: Outputs = Outputs()) -> None:
    """ExportError unless finite (n, classes) outputs are logits, or multilabel ones those of a last sigmoid.

    `content` is the ONNX file with these outputs, and `network` is named in the error. Outputs that the user has
    stated to be logits are judged by their number alone.
    """
    if not 1 <= outputs.shape[1] <= MOST_CLASSES:
        raise ExportError(
            f"{network} gives {outputs.shape[1]:,} outputs, and predictions are stored of 1 to {MOST_CLASSES:,} "
            "classes; export it with the classes that matter"
        )
    if statement.multilabel and outputs.shape[1] > MOST_LABELS:
        raise ExportError(
            f"{network} gives {outputs.shape[1]} labels, and sets of more than {MOST_LABELS} are too many to tell "
            "apart; export it with the labels that matter"
        )
    if statement.stated:
        return
    refuse_features(content, network, outputs.shape[1])
    if not (statement.multilabel and last_node(onnx.load_from_string(content).graph).op_type == "Sigmoid"):
        check_logits(outputs, network, statement.multilabel)


def check_logits(outputs: NDArray[np.float32], network: str, multilabel: bool = False) -> None:
    """ExportError for finite (n, classes) outputs of a softmax or a sigmoid, and for embeddings.

    Confidence is the softmax of logits, which makes nothing that means anything of either. What a sigmoid gives lies in
    (0, 1] on every image. So do logits of some untrained networks. `network` is named in the error.
    """
    if are_probabilities(outputs):
        raise ExportError(
            f"{network} gives probabilities, not logits; export the network without its last softmax; {STATE_LOGITS}"
        )
    if outputs.shape[1] > 2 and np.abs(np.linalg.norm(outputs, axis=1) - 1).max() < SUMS_TO_ONE:
        raise ExportError(f"{network} gives embeddings of length 1, not logits; {GIVE_HEAD}; {STATE_LOGITS}")
    # Zeros come of a last ReLU, as of torchvision's SqueezeNet, rather than of a sigmoid.
    if outputs.min() > 0 and outputs.max() <= 1:
        label_advice = "if images may have several labels, export it with --head multilabel; "
        raise ExportError(
            f"{network} gives values from {outputs.min():.3g} to {outputs.max():.3g} for all {len(outputs)} images, as "
            "a sigmoid does, not logits, whose softmax is the confidence; export the network without its last sigmoid; "
            f"{'' if multilabel else label_advice}{STATE_LOGITS}"
        )


def last_node(graph: onnx.GraphProto) -> onnx.NodeProto:
    """The node that gives the output; an empty one where none does."""
    return next((node for node in graph.node if graph.output[0].name in node.output), onnx.NodeProto())
