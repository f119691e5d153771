from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from bandlens.core.errors import ExportError
from bandlens.export.model_files import NORMALIZATIONS
from bandlens.export.onnx.from_torch import Normalized, count_classes


class SmallNetwork(nn.Module):
    """Logits of six classes, in whatever the network gives them in."""

    def __init__(self, give: Callable[[Tensor], object] = lambda logits: logits) -> None:
        super().__init__()
        self.give = give
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 6))

    def forward(self, images: Tensor) -> object:
        return self.give(self.layers(images))


def normalize(network: nn.Module) -> Normalized:
    return Normalized(network, *NORMALIZATIONS["imagenet"]).eval()


@pytest.mark.parametrize(
    "give",
    [
        lambda logits: {"loss": logits.sum(), "logits": logits},
        lambda logits: SimpleNamespace(logits=logits, features=logits[:, :2]),
    ],
    ids=["mapping", "object"],
)
def test_logits_are_taken_from_what_holds_them(give: Callable[[Tensor], object]) -> None:
    torch.manual_seed(0)
    network = SmallNetwork()
    images = torch.rand(3, 3, 32, 32)
    wrapper = SmallNetwork(give)
    wrapper.load_state_dict(network.state_dict())
    assert count_classes(normalize(wrapper), 32) == 6
    with torch.inference_mode():
        assert torch.equal(normalize(wrapper)(images), normalize(network)(images))


@pytest.mark.parametrize("give", [lambda logits: {"output": logits}, lambda logits: (logits, logits)])
def test_what_holds_no_logits_is_named(give: Callable[[Tensor], object]) -> None:
    with pytest.raises(ExportError, match=r"for 2 images the network gives (dict|tuple); wrap it to give"):
        count_classes(normalize(SmallNetwork(give)), 32)


def test_a_network_in_half_precision_is_told_as_that() -> None:
    with pytest.raises(ExportError, match=r"half precision; give network\.float\(\)"):
        count_classes(normalize(SmallNetwork().half()), 32)


def test_a_network_of_images_that_are_not_square_is_refused_with_a_way_on() -> None:
    rectangular = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 48, 6))
    with pytest.raises(ExportError, match=r"fails on images of 32 x 32: .* only square ones can be measured"):
        count_classes(normalize(rectangular), 32)
