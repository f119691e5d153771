"""The published procedure of a study: each condition decodes, prepares and classifies every photograph, in torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import BATCH, MODEL, SIZE
from critical_band import grey, one_published
from numpy.typing import NDArray
from PIL import Image
from spectral import mask, one_with_torch
from torch.utils.data import ConcatDataset, DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet50
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize
from torchvision.transforms.functional import to_tensor

from bandlens.core.records import Condition
from bandlens.export.model_files import NORMALIZATIONS


class Stimulus:
    """The published stimulus of a decoded photograph, (3, 224, 224) float32 in [0, 1]."""

    def __init__(self, condition: Condition) -> None:
        self.condition = condition
        filters = condition.probe in ("lowpass", "highpass")
        self.mask = torch.from_numpy(mask(condition)) if filters else None
        self.random = np.random.RandomState(0)

    def __call__(self, photograph: Image.Image) -> torch.Tensor:
        if self.condition.probe != "critical_band":
            image: torch.Tensor = to_tensor(photograph)
            return image if self.mask is None else one_with_torch(image, self.mask)
        image = grey(np.asarray(photograph).transpose(2, 0, 1))
        noise_sd = float(self.condition["noise_sd"])
        if noise_sd == 0:
            return torch.from_numpy(image.astype(np.float32)).expand(3, -1, -1)
        mixed = one_published(image, noise_sd, int(self.condition["frequency"]), self.random)
        return torch.from_numpy(mixed.transpose(2, 0, 1))


def classify(study: Path, conditions: Sequence[Condition], checkpoints: int, workers: int, out: Path) -> None:
    """Write what the published procedure predicts of the photographs in the folder of the study."""
    normalize = Normalize(*NORMALIZATIONS["imagenet"])
    stimuli = [
        ImageFolder(study / "photographs", Compose([Resize(256), CenterCrop(SIZE), Stimulus(condition), normalize]))
        for condition in conditions
    ]
    predicted: list[NDArray[np.int64]] = []
    for k in range(checkpoints):
        network = resnet50(weights=None)
        network.load_state_dict(torch.load(study / "models" / f"{MODEL}.pth", weights_only=True))
        network.eval()
        with torch.inference_mode():
            network.fc.bias += k / 1000
            loader: DataLoader[Any] = DataLoader(ConcatDataset(stimuli), BATCH, num_workers=workers)
            predicted += [network(images).argmax(1).numpy() for images, _ in loader]
    np.save(out, np.concatenate(predicted).reshape(checkpoints, len(stimuli), -1))
