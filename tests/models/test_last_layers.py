"""Classifiers of torchvision and timm are taken for such, and what their last layer takes is refused as features."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout

import onnx
import pytest
import torch
import torchvision.models as tv
from torch import nn
from torchvision.models.convnext import CNBlockConfig

from bandlens.core.errors import ExportError
from bandlens.export.onnx.from_torch import to_onnx
from bandlens.export.onnx.graph import cut_graph
from bandlens.export.onnx.outputs import refuse_features

timm = pytest.importorskip("timm")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """torch warns of its older exporter, which many a user's file comes from, and the networks of what they trace."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def narrow(network: nn.Module) -> nn.Module:
    """The network with hidden layers of 64 numbers, which would else be a file of 500 MB."""
    linear = [place for place, layer in enumerate(network.classifier) if isinstance(layer, nn.Linear)]
    for place in linear:
        layer = network.classifier[place]
        wide = layer.in_features if place == linear[0] else 64
        network.classifier[place] = nn.Linear(wide, layer.out_features if place == linear[-1] else 64)
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "alexnet": lambda: narrow(tv.alexnet()),
    "squeezenet1_1": tv.squeezenet1_1,
    "convnext": lambda: tv.ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]),
    "vit of a representation": lambda: tv.VisionTransformer(224, 32, 1, 2, 32, 32, representation_size=16),
    "swin": lambda: tv.SwinTransformer([4, 4], 12, [1, 1], [1, 2], [7, 7]),
}
TIMM = ("test_vit", "test_nfnet", "mobilevitv2_050", "levit_128s", "mobilenetv4_conv_small_050", "resmlp_12_224")
NETWORKS |= {f"timm {name}": lambda name=name: timm.create_model(name, num_classes=1000) for name in TIMM}

UNKNOWN = {"timm mobilevitv2_050"}
"""Networks whose features are pooled from a convolution without an activation, as scores of positions are."""


class LastLayer(nn.Module):
    """The logits of a network, and what its last layer takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        *_, last = (layer for layer in network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d)))
        last.register_forward_pre_hook(lambda _, inputs: setattr(self, "inputs", inputs[0]))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.network(images)
        return logits, self.inputs


def older_export(network: nn.Module, size: int, *outputs: str) -> onnx.ModelProto:
    """The file of torch's older exporter."""
    file = io.BytesIO()
    torch.onnx.export(network, (torch.zeros(1, 3, size, size),), file, dynamo=False, output_names=list(outputs))
    return onnx.load_from_string(file.getvalue())


def size_of(network: nn.Module) -> int:
    return getattr(network, "default_cfg", {"input_size": (3, 224, 224)})["input_size"][-1]


@pytest.mark.parametrize("name", NETWORKS)
def test_classifiers_pass_and_are_refused_without_their_last_layer(name: str) -> None:
    torch.manual_seed(0)
    network = LastLayer(NETWORKS[name]().eval())
    model = older_export(network, size_of(network.network), "logits", "taken")
    for output, width in (("logits", 1000), ("taken", network.inputs.shape[1])):
        part = onnx.ModelProto()
        part.CopyFrom(model)
        cut_graph(part, output, name)
        is_refused = does_refuse(part.SerializeToString(), width)
        assert is_refused == (output == "taken" and name not in UNKNOWN), output


def does_refuse(content: bytes, width: int) -> bool:
    try:
        refuse_features(content, "mine", width)
    except ExportError as error:
        return "not logits; give it a head of classes: --head" in str(error)
    return False


class Limited(nn.Module):
    """Logits within limits, by a clip or by a hyperbolic tangent."""

    def __init__(self, smooth: bool) -> None:
        super().__init__()
        self.smooth = smooth

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return 30 * torch.tanh(logits / 30) if self.smooth else logits.clamp(-30, 30)


@pytest.mark.parametrize(
    "export",
    [lambda network: older_export(network, 8, "out").SerializeToString(), lambda network: to_onnx(network, 8)[0]],
    ids=["older", "newer"],
)
@pytest.mark.parametrize(
    ("last", "is_refused"),
    [
        *((activation, True) for activation in (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SELU, nn.SiLU, nn.GELU, nn.Mish)),
        *((activation, True) for activation in (nn.Hardswish, nn.Tanh)),
        (lambda: nn.GELU("tanh"), True),
        (lambda: Limited(smooth=True), False),
        (lambda: Limited(smooth=False), False),
        (nn.Identity, False),
    ],
)
def test_what_an_activation_gives_is_no_logit(
    last: Callable[[], nn.Module], is_refused: bool, export: Callable[[nn.Module], bytes]
) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10), last(), nn.Dropout()).eval()
    assert does_refuse(export(network), 10) == is_refused
