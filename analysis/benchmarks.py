"""The generalization benchmarks, and the groups whose means the study correlates with biases. Percent of top-1.

Source: Gavrikov & Keuper 2024. ReaL: Beyer et al. 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

VALIDATION = 50_000
"""Images of ImageNet's validation set."""
LAST_BATCH = VALIDATION % 512
"""336: what is left for the last of its batches of 512. ReaL accepts a class for 326 of them."""
PGD: Mapping[str, float] = {"eps": 0.5 / 255, "step": 2 / 255, "steps": 40}
"""The budget of the published attack."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """An accuracy, of one image set or as the mean over those of corruptions."""

    column: str
    """Its name in the published file."""
    benchmark: str
    """image_set.benchmark."""
    images: int = VALIDATION
    """Of the whole set."""
    sets: int = 1
    decision_space: str = "all"
    family: str = "clean"
    scheme: str = "single"
    last: int = 0
    """Only so many images count, the last by class and file name."""


BENCHMARKS: Mapping[str, Benchmark] = {
    "imagenet": Benchmark("top1_acc/imagenet", "imagenet"),
    "imagenet-v2": Benchmark("top1_acc/imagenet-v2", "imagenet-v2", 10_000),
    "imagenet-real": Benchmark("", "imagenet", scheme="real"),
    "imagenet-real_last_batch": Benchmark("top1_acc/imagenet-real", "imagenet", scheme="real", last=LAST_BATCH),
    "imagenet-a": Benchmark("top1_acc/imagenet-a", "imagenet-a", 7_500, decision_space="imagenet-a"),
    "imagenet-c": Benchmark("top1_acc/imagenet-c", "imagenet-c", sets=19 * 5),
    "imagenet-cbar": Benchmark("top1_acc/imagenet-cbar", "imagenet-cbar", sets=10 * 5),
    "imagenet-sketch": Benchmark("top1_acc/imagenet-sketch", "imagenet-sketch", 50_889),
    "imagenet-r": Benchmark("top1_acc/imagenet-r", "imagenet-r", 30_000, decision_space="imagenet-r"),
    "stylized": Benchmark("top1_acc/stylized", "stylized", 800, decision_space="sixteen"),
    "pgd_linf": Benchmark("top1_acc/PGD-40/low", "imagenet", family="pgd_linf"),
}
"""By the name in the metric `top1_NAME`."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "ID": ("imagenet", "imagenet-v2", "imagenet-real"),
    "ID_as_published": ("imagenet", "imagenet-v2", "imagenet-real_last_batch"),
    "Robustness": ("imagenet-a", "imagenet-c", "imagenet-cbar"),
    "Concepts": ("imagenet-sketch", "imagenet-r", "stylized"),
    "Adversarial": ("pgd_linf",),
}
"""What each is the mean of. ID_as_published has the published figure's fault: see LAST_BATCH."""
