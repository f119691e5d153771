"""The generalization benchmarks, and the groups whose means the study correlates with biases. Percent of top-1.

Source: Gavrikov & Keuper 2024. ReaL: Beyer et al. 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VALIDATION = 50_000
"""Images of ImageNet's validation set."""
LAST_BATCH = VALIDATION % 512
"""336: what is left for the last of its batches of 512. ReaL accepts a class for 326 of them."""
PGD: Mapping[str, float] = {"eps": 0.5 / 255, "step": 2 / 255, "steps": 40}
"""The budget of the published attack."""
SEVERITIES = (1, 2, 3, 4, 5)
IMAGENET_C = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur", "spatter", "saturate"),
)
IMAGENET_CBAR = (
    *("blue_noise_sample", "brownish_noise", "caustic_refraction", "checkerboard_cutout", "cocentric_sine_waves"),
    *("inverse_sparkles", "perlin_noise", "plasma_noise", "single_frequency_greyscale", "sparkles"),
)

Place = tuple[str | None, int | None]
"""Corruption and severity of an image set; None where its images are as they were taken."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """An accuracy: on one image set, or the mean over those of corruptions and severities, each weighing the same."""

    benchmark: str
    """image_set.benchmark."""
    images: int = VALIDATION
    """Of each set that is whole."""
    corruptions: Sequence[str] = ()
    decision_space: str = "all"
    family: str = "clean"
    scheme: str = "single"
    last: int = 0
    """Only so many images count, the last by class and file name."""

    @property
    def places(self) -> list[Place]:
        """Of each of its sets."""
        return [(name, severity) for name in self.corruptions for severity in SEVERITIES] or [(None, None)]


BENCHMARKS: Mapping[str, Benchmark] = {
    "imagenet": Benchmark("imagenet"),
    "imagenet-v2": Benchmark("imagenet-v2", 10_000),
    "imagenet-real": Benchmark("imagenet", scheme="real"),
    "imagenet-real_last_batch": Benchmark("imagenet", scheme="real", last=LAST_BATCH),
    "imagenet-a": Benchmark("imagenet-a", 7_500, decision_space="imagenet-a"),
    "imagenet-c": Benchmark("imagenet-c", corruptions=IMAGENET_C),
    "imagenet-cbar": Benchmark("imagenet-cbar", corruptions=IMAGENET_CBAR),
    "imagenet-sketch": Benchmark("imagenet-sketch", 50_889),
    "imagenet-r": Benchmark("imagenet-r", 30_000, decision_space="imagenet-r"),
    "stylized": Benchmark("stylized", 800, decision_space="sixteen"),
    "pgd_linf": Benchmark("imagenet", family="pgd_linf"),
}
"""By the name in the metric `top1_NAME`."""

AS_PUBLISHED = "ID_as_published"
"""ID with the published figure's fault (see LAST_BATCH): for comparing with it, not for use."""
GROUPS: Mapping[str, tuple[str, ...]] = {
    "ID": ("imagenet", "imagenet-v2", "imagenet-real"),
    AS_PUBLISHED: ("imagenet", "imagenet-v2", "imagenet-real_last_batch"),
    "Robustness": ("imagenet-a", "imagenet-c", "imagenet-cbar"),
    "Concepts": ("imagenet-sketch", "imagenet-r", "stylized"),
    "Adversarial": ("pgd_linf",),
}
"""What each is the mean of."""
