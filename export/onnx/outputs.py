"""Check that the outputs of a model are logits of classes or labels, and not features, probabilities or embeddings."""

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
"""Advice for a model that outputs features."""
STATE_LOGITS = "if these are logits, say so with --outputs logits of `bandlens export`"
"""Advice for a model whose logits were mistaken for something else."""
POOLS = {"token": "the first token of each image", "mean": "the mean of an image's tokens, or of its positions"}
"""Ways to pool features of tokens, (n, tokens, d), or of positions, (n, d, height, width), to one vector per image."""


@dataclass(frozen=True, slots=True)
class Features:
    """States that a model outputs features instead of classes. Raises UnknownName for an unknown `pool`."""

    output: str | None = None
    """Tensor of an imported ONNX file that contains the features. By default its only output."""
    pool: str | None = None
    """Key of POOLS. By default the output must already be one vector per image."""

    def __post_init__(self) -> None:
        if self.pool is not None and self.pool not in POOLS:
            raise UnknownName("pool", self.pool, POOLS)


@dataclass(frozen=True, slots=True)
class Outputs:
    """The user's description of the outputs of a model that gets no head."""

    multilabel: bool = False
    """Whether each output is an independent label."""
    stated: bool = False
    """Whether the user confirms that the outputs are logits, even if they look like something else."""
    class_names: Sequence[str] | None = None
    """Class names in the order of the logits. By default those stored with the weights."""


Array = TypeVar("Array", bound=Any)
"""A NumPy array or a torch tensor."""


def pool_features(features: Array, pool: str | None) -> Array:
    """Pool features to one vector per image.

    Args:
        features: (n, d), (n, tokens, d) or (n, d, height, width).
        pool: Key of POOLS. None for features that are already vectors.

    Returns:
        (n, d) features.

    Raises:
        UsageError: If the pooling does not fit the shape of the features.
    """
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
    """Return the axes that are averaged for features with `rank` dimensions."""
    return (1,) if rank == 3 else (2, 3)


FEATURES = re.compile(r"(.*[._/])?(last_hidden_state|pooler_output|embed(ding)?s?|features?)", re.IGNORECASE)
"""Matches names that exporters give to outputs that are features."""
NORMALIZATIONS_OF_FEATURES = {"LayerNormalization", "LpNormalization"}
"""Operators with which many feature extractors end, but no classifier."""
ARRANGES = {
    *("BatchNormalization", "Cast", "Concat", "Dropout", "Flatten", "Gather", "Identity", "Reshape", "Slice"),
    *("Squeeze", "Transpose", "Unsqueeze", "QuantizeLinear", "DequantizeLinear"),
}
"""Operators that select, rearrange or scale values. For those that join several inputs, only the first is followed."""
POOLINGS = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean"}
"""Operators that pool values."""
ACTIVATIONS = {
    *("Celu", "Clip", "Elu", "Gelu", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu", "Swish", "Tanh")
}
"""Operators that are activation functions."""
ARITHMETIC = {"Add", "Div", "Mul", "Sub"}
"""Operators that may add a bias or multiply by a scale."""
ELEMENTWISE = ARITHMETIC | {"Clip", "Erf", "HardSigmoid", "Pow", "Sigmoid", "Softplus", "Tanh"}
"""Operators from which exporters compose GELU, SiLU and similar functions. The last step of these is a product."""
LINEAR = {"Conv", "Gemm", "MatMul"}
"""Operators of linear layers."""
GIVES_SCORES = LINEAR | {"Log", "LogSoftmax", "Sigmoid", "Softmax"}
"""Operators whose pooled outputs are class scores, namely of positions or crops."""
STEP_OF_WIDTHS = 32
"""The feature dimension of common feature extractors is a multiple of this."""


def refuse_features(content: bytes, network: str, width: int) -> None:
    """Raise ExportError if the only output of an ONNX file, (n, width), is recognized as features.

    This is the case if the output has a typical name, if the last layer is a normalization, if an activation follows
    the last linear layer, or if the pooled values are not scores of a linear layer.

    A 1 x 1 convolution, a ReLU and a pooling are the end of SqueezeNet, which is a classifier, and of many feature
    extractors. Such an output counts as scores if its width is unusual for features.

    The output of a final linear layer counts as logits, and so does the sum of the outputs of several.

    Args:
        content: The ONNX file.
        network: Name of the model in the error message.
        width: Number of values per image.
    """
    graph = onnx.load_from_string(content).graph
    makers = {name: node for node in graph.node for name in node.output if name}
    (output,) = (value.name for value in graph.output)
    constants = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], attribute.t) for attribute in node.attribute)
        # Exporters store equal weights once and refer to them by Identity.
        elif node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    ending = _find_ending(output, makers, constants)
    kind, processed = ending.node.op_type, ending.kinds & (ACTIVATIONS | POOLINGS)
    is_hidden_layer = bool(kind and processed) and not _gives_scores(ending, width, makers, constants)
    if FEATURES.fullmatch(output) or kind in NORMALIZATIONS_OF_FEATURES or is_hidden_layer:
        raise ExportError(f"{network} gives features (output {output}), not logits; {GIVE_HEAD}; {STATE_LOGITS}")


class _Ending(NamedTuple):
    """The last node before a tensor that does more than rearrange, pool or activate values."""

    node: onnx.NodeProto
    """That node. An empty node if there is none before the images."""
    inputs: list[str]
    """Its inputs that are not constants."""
    kinds: frozenset[str]
    """Types of the operators between that node and the tensor."""


Makers = Mapping[str, onnx.NodeProto]
"""Maps the name of a tensor to the node that computes it."""
Constants = Mapping[str, onnx.TensorProto]
"""Maps the names of constant tensors to their values."""


def _find_ending(tensor: str, makers: Makers, constants: Constants, kinds: Iterable[str] = ()) -> _Ending:
    """Return the ending of a tensor. `kinds` are the types of the operators that follow the tensor."""
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
    """Return whether `width` values with this ending are class scores, or a sum of independent class scores.

    A residual block also ends with a sum, but one of its terms is computed from the other. Its output is features.
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
        # Without this, the work would double with each level of nested sums.
        elif (node.output[0], kinds) not in visited:
            visited.add((node.output[0], kinds))
            waiting += [_find_ending(tensor, makers, constants, kinds) for tensor in inputs]
    ancestors = find_ancestors([tensor for summand in summands for tensor in summand.inputs], makers)
    return all(ancestors.isdisjoint(summand.node.output) for summand in summands)


def find_ancestors(tensors: Iterable[str], makers: Makers) -> set[str]:
    """Return the names of the tensors and of everything from which they are computed, including weights."""
    names, waiting = set[str](), [*tensors]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += _inputs_of(makers[name]) if name in makers else []
    return names - {""}  # the empty name stands for an omitted input or output, which are unrelated


def _inputs_of(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the inputs of a node, including those that its subgraphs use from outside."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _inputs_of(inner)


def _gated_tensor(factors: Iterable[str], makers: Makers, constants: Collection[str]) -> str | None:
    """Return the tensor x if all factors are elementwise functions of x alone, as in the x f(x) of SiLU and GELU.

    Returns None otherwise.
    """
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
    """Return whether a node only bounds logits of both signs, and is therefore not an activation.

    This applies to Clip with a negative lower bound, and to Tanh if its output is scaled.
    """
    if node.op_type == "Tanh":
        return bool(ARITHMETIC.intersection(kinds))
    lower = constants.get(node.input[1]) if node.op_type == "Clip" and len(node.input) > 1 else None
    return lower is not None and lower.data_type != 0 and bool(numpy_helper.to_array(lower) < 0)


def _is_pointwise(node: onnx.NodeProto) -> bool:
    """Return whether the node is a 1 x 1 convolution."""
    if node.op_type != "Conv":
        return False
    return all(side == 1 for attribute in node.attribute if attribute.name == "kernel_shape" for side in attribute.ints)


def check_outputs(outputs: NDArray[np.float32], content: bytes, network: str, statement: Outputs = Outputs()) -> None:
    """Raise ExportError unless finite (n, classes) outputs are logits.

    For a multi-label model, the outputs of a final sigmoid are accepted as well. If the user confirmed that the outputs
    are logits, only their number is checked.

    Args:
        outputs: (n, classes) outputs of the model for n images.
        content: The ONNX file that computed them.
        network: Name of the model in the error message.
        statement: The user's description of the outputs.
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
    """Raise ExportError if finite (n, classes) outputs look like those of a softmax or a sigmoid, or like embeddings.

    Confidence is the softmax of the logits, which is not meaningful for such outputs. Outputs of a sigmoid are
    recognized by lying in (0, 1] for every image, which can also happen with the logits of an untrained model.

    Args:
        outputs: (n, classes) outputs of the model for n images.
        network: Name of the model in the error message.
        multilabel: Whether the user described the model as multi-label, which changes the advice.
    """
    if are_probabilities(outputs):
        raise ExportError(
            f"{network} gives probabilities, not logits; export the network without its last softmax; {STATE_LOGITS}"
        )
    if outputs.shape[1] > 2 and np.abs(np.linalg.norm(outputs, axis=1) - 1).max() < SUMS_TO_ONE:
        raise ExportError(f"{network} gives embeddings of length 1, not logits; {GIVE_HEAD}; {STATE_LOGITS}")
    # Outputs of exactly 0 come from a final ReLU, as in torchvision's SqueezeNet, and not from a sigmoid.
    if outputs.min() > 0 and outputs.max() <= 1:
        label_advice = "if images may have several labels, export it with --head multilabel; "
        raise ExportError(
            f"{network} gives values from {outputs.min():.3g} to {outputs.max():.3g} for all {len(outputs)} images, as "
            "a sigmoid does, not logits, whose softmax is the confidence; export the network without its last sigmoid; "
            f"{'' if multilabel else label_advice}{STATE_LOGITS}"
        )


def last_node(graph: onnx.GraphProto) -> onnx.NodeProto:
    """Return the node that computes the output. An empty node if there is none."""
    return next((node for node in graph.node if graph.output[0].name in node.output), onnx.NodeProto())
