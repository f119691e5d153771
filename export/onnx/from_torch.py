"""Export a torch network to ONNX: images in [0, 1] in, logits out, normalization inside, batch size open.

The file has one input `images` (batch, 3, S, S) float32 and one output `logits` (batch, classes) float32. Only the
batch is symbolic; a session fixes it when it opens the file, so one file and one sha256 serve every batch size. The
same weights give the same bytes on every run with the same versions of torch and onnxscript.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from ...core.errors import ExportError, UsageError
from ...core.untrusted import first_line
from ..model_files import BATCH, Channels
from .graph import to_bytes
from .outputs import GIVE_HEAD, pool_features

OPSET = 18


class Normalized(nn.Module):
    """A network behind (images - mean) / std, where mean and std are a number per channel.

    Of an output that is a mapping or an object with `logits`, as transformers gives it, these are taken. A network of
    `grey` images gets the mean of the three channels.
    """

    def __init__(self, network: nn.Module, mean: Channels, std: Channels, grey: bool = False) -> None:
        super().__init__()
        self.network, self.grey = network, grey
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        normalized = (images - self.get_buffer("mean")) / self.get_buffer("std")
        output = self.network(normalized.mean(dim=1, keepdim=True) if self.grey else normalized)
        logits: Tensor = (
            output.get("logits", output) if isinstance(output, Mapping) else getattr(output, "logits", output)
        )
        return logits


class Pooled(nn.Module):
    """A network whose features become a vector for each image: see `outputs.pool_features`.

    An output of transformers gives its `image_embeds` or `pooler_output`, or to be pooled its `last_hidden_state`.
    """

    def __init__(self, network: nn.Module, pool: str | None) -> None:
        super().__init__()
        self.network, self.pool = network, pool

    def forward(self, images: Tensor) -> Tensor:
        output = self.network(images)
        if not isinstance(output, Tensor):
            vectors = getattr(output, "image_embeds", None)
            vectors = getattr(output, "pooler_output", None) if vectors is None else vectors
            output = output.last_hidden_state if vectors is None or self.pool else vectors
        features: Tensor = pool_features(output, self.pool)
        return features


def takes_grey(network: nn.Module, image_size: int) -> bool:
    """Whether the network fails on colour, and its first convolution has one channel."""
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels != 1:
        return False
    try:
        with torch.no_grad(), redirect_stdout(io.StringIO()):
            network(torch.zeros(2, 3, image_size, image_size))
    except Exception:  # a stranger's network may fail in any way  # noqa: BLE001
        return True
    return False


def count_classes(network: nn.Module, image_size: int) -> int:
    """The number of logits that the network gives for each of two images; ExportError if it gives anything else."""
    images = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), redirect_stdout(io.StringIO()):
            logits = network(images)
    except UsageError:  # its features want another pooling
        raise
    # A stranger's network may fail in any way, and the user can change its size.
    except Exception as error:
        if any(parameter.dtype == torch.float16 for parameter in network.parameters()):
            raise ExportError("the network is in half precision; give network.float()") from error
        raise ExportError(
            f"the network fails on images of {image_size} x {image_size}: {first_line(error)}; try another "
            "--image-size, or resize inside a network of images that are not square: only square ones can be measured"
        ) from error
    if not isinstance(logits, Tensor) or logits.dtype != torch.float32 or logits.ndim != 2 or len(logits) != 2:
        gives = f"{tuple(logits.shape)} {logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ExportError(
            f"for 2 images the network gives {gives}; wrap it to give (2, classes) float32 logits, or features, and "
            f"{GIVE_HEAD}"
        )
    return int(logits.shape[1])


def to_onnx(network: nn.Module, image_size: int) -> tuple[bytes, int]:
    """The ONNX file and the number of classes of a network in evaluation mode, checked: one open dimension, one output.

    BatchNorm behind a convolution is folded into it.

    Raises ExportError for a network that torch cannot trace or that fixes its batch size.
    """
    classes = count_classes(network, image_size)
    try:
        program = _trace(network, image_size)
    # The exporter runs the network's code and torch's compiler, so every error is about this network.
    except Exception as error:
        raise ExportError(
            f"torch cannot export this network with an open batch size: {first_line(error.__cause__ or error)}; "
            "its forward must not depend on values or on the number of images"
        ) from error
    model: onnx.ModelProto = program.model_proto
    _strip(model)
    content = to_bytes(model, "the file that torch exported", "update torch")
    _check_sizes(model, image_size, classes)
    return content, classes


def _trace(network: nn.Module, image_size: int) -> Any:
    # The exporter warns about its own insides, and a network may print while it is traced.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            network,
            (torch.zeros(2, 3, image_size, image_size),),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim(BATCH)},),
            verbose=False,
        )


def _strip(model: onnx.ModelProto) -> None:
    """Remove what does not compute: stack traces with paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *model.functions):
        del part.metadata_props[:]
        part.doc_string = ""


def _check_sizes(model: onnx.ModelProto, image_size: int, classes: int) -> None:
    expected = {"images": [BATCH, 3, image_size, image_size], "logits": [BATCH, classes]}
    sizes = {
        value.name: [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    if sizes != expected:
        raise ExportError(f"the exported file takes and gives {sizes} instead of {expected}; its forward fixes a size")
