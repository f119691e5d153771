"""Export a torch model to ONNX, with images in [0, 1] as input, logits as output, and a dynamic batch size.

The normalization is part of the file. The input is `images` (batch, 3, S, S) float32, the output `logits` (batch,
classes) float32. Only the batch dimension is symbolic. A session fixes it when it opens the file, so one file with one
SHA-256 digest serves every batch size.

The same weights give the same bytes in every run with the same versions of torch and onnxscript.
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
"""ONNX operator set of the exported files."""


class Normalized(nn.Module):
    """A model preceded by the normalization (images - mean) / std.

    If the model returns a mapping or an object with `logits`, as in transformers, these are the output.

    Args:
        network: The model.
        mean: Mean per channel.
        std: Standard deviation per channel.
        grey: Whether the model takes grayscale images. It then receives the mean of the three channels.
    """

    def __init__(self, network: nn.Module, mean: Channels, std: Channels, grey: bool = False) -> None:
        super().__init__()
        self.network, self.grey = network, grey
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of (n, 3, S, S) images in [0, 1]."""
        normalized = (images - self.get_buffer("mean")) / self.get_buffer("std")
        output = self.network(normalized.mean(dim=1, keepdim=True) if self.grey else normalized)
        logits: Tensor = (
            output.get("logits", output) if isinstance(output, Mapping) else getattr(output, "logits", output)
        )
        return logits


class Pooled(nn.Module):
    """A model whose features are pooled to one vector per image, see `outputs.pool_features`.

    An output object of transformers provides its `image_embeds` or `pooler_output`. If it has neither, or if a pooling
    is specified, its `last_hidden_state` is pooled.
    """

    def __init__(self, network: nn.Module, pool: str | None) -> None:
        super().__init__()
        self.network, self.pool = network, pool

    def forward(self, images: Tensor) -> Tensor:
        """Return the (n, d) feature vectors of n images."""
        output = self.network(images)
        if not isinstance(output, Tensor):
            vectors = getattr(output, "image_embeds", None)
            vectors = getattr(output, "pooler_output", None) if vectors is None else vectors
            output = output.last_hidden_state if vectors is None or self.pool else vectors
        features: Tensor = pool_features(output, self.pool)
        return features


def takes_grey(network: nn.Module, image_size: int) -> bool:
    """Return whether the model takes grayscale images.

    It does if its first convolution has one input channel and it fails on RGB images.
    """
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels != 1:
        return False
    try:
        with torch.no_grad(), redirect_stdout(io.StringIO()):
            network(torch.zeros(2, 3, image_size, image_size))
    except Exception:  # a user's model can raise anything  # noqa: BLE001
        return True
    return False


def count_classes(network: nn.Module, image_size: int) -> int:
    """Run the model on two images and return its number of logits.

    Raises ExportError if the output is anything else.
    """
    images = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), redirect_stdout(io.StringIO()):
            logits = network(images)
    except UsageError:  # raised by `pool_features`, whose message already has the advice
        raise
    # A user's model can raise anything. A wrong image size is the most likely cause that the user can change.
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
    """Export a model in evaluation mode to ONNX, and check that only the batch dimension is dynamic.

    BatchNorm after a convolution is folded into the convolution.

    Returns:
        The ONNX file and the number of classes.

    Raises:
        ExportError: If torch cannot trace the model, or if the model fixes the batch size.
    """
    classes = count_classes(network, image_size)
    try:
        program = _trace(network, image_size)
    # The exporter runs the model's code and torch's compiler, so an error of any class can be caused by the model.
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
    """Export the model with torch.onnx."""
    # The exporter warns about its own internals, and the model may print while it is traced.
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
    """Remove metadata that does not affect results, such as stack traces with local paths.

    Otherwise the bytes of the file would depend on the machine.
    """
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *model.functions):
        del part.metadata_props[:]
        part.doc_string = ""


def _check_sizes(model: onnx.ModelProto, image_size: int, classes: int) -> None:
    """Raise ExportError unless the input and the output have the expected shapes."""
    expected = {"images": [BATCH, 3, image_size, image_size], "logits": [BATCH, classes]}
    sizes = {
        value.name: [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    if sizes != expected:
        raise ExportError(f"the exported file takes and gives {sizes} instead of {expected}; its forward fixes a size")
