"""The protocol of the published study: probe parameters, benchmarks, and the groups of accuracies that it averages.

This module contains constants rather than computations, so that probes and analysis use the same values. The source is
Gavrikov & Keuper 2024 ("Can Biases in ImageNet Models Explain Generalization?"), which follows Wang et al. 2020
(cutoffs), Subramanian et al. 2023 (critical band), Madry et al. 2018 (attack), and Beyer et al. 2020 (ReaL labels).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

CLASSES = 1000
"""Number of ImageNet classes. Each decision space is a selection or a grouping of these classes."""
SPACE_CLASSES: Mapping[str, int] = {"imagenet-a": 200, "imagenet-r": 200, "sixteen": 16}
"""Decision space -> number of its classes. The space `all` is missing because it has all classes of the model."""
LEAST_PROBABILITY = 2.0**-149
"""Smallest positive single-precision number. Stored probabilities of 0 are replaced by it before taking logarithms."""


def octave_edges(size: int) -> list[int]:
    """Return 0 and the upper frequency limit of each octave of `OCTAVES`, in cycles/image.

    Args:
        size: Side length of the images in pixels.
    """
    return [0, *(size // 2 >> octave for octave in reversed(range(len(OCTAVES))))]


def classes_decided(decision_space: str, classes: int) -> int:
    """Return the number of classes that a model chooses from in a decision space.

    Args:
        decision_space: Name of the decision space.
        classes: Number of classes of the model.
    """
    return SPACE_CLASSES.get(decision_space, classes)


VALIDATION = 50_000
"""Number of images in the ImageNet validation set."""

# Probes

CUTOFFS = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
"""Cutoffs c of the filters, as proportions of the highest frequency, in [0, 1].

A low-pass filter keeps frequencies below c. A high-pass filter removes frequencies below 1 - c.
"""
BIAS_CUTOFFS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Cutoffs from which a spectral bias is computed, as ratios of filtered to clean accuracy."""
NOISE_SDS = (0.0, 0.02, 0.04, 0.08, 0.16)
"""Standard deviations of the noise of the critical-band probe, in units of the image range [0, 1].

At 0, the image is only converted to gray.
"""
FREQUENCIES = tuple(range(7))
"""Octave indices of the noise of the critical-band probe."""
OCTAVES = "0123456"
"""Octaves of the frequencies of an image, from low to high. A mask lists the octaves to keep, in this order."""
OCTAVE_PROBE = "octaves"
"""Name of the probe that keeps a set of octaves and removes the others."""
NO_OCTAVE = "none"
"""The mask that removes all octaves, so that only the mean of the image is left."""
SIZE = 224
"""Side length of the study's images in pixels."""
LOWEST_FREQUENCY = 1.75
"""Center frequency of noise octave 0 in cycles/image, for images of `SIZE`. It is proportional to the image size."""
EPS, STEP, STEPS = 0.5 / 255, 2 / 255, 40
"""Budget of the PGD attack, which the study calls low: radius of the L-infinity ball, step size, number of steps.

Radius and step size are in units of the image range [0, 1].
"""

# Benchmarks

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


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark of labeled images. A corruption benchmark has one image set per corruption and severity."""

    name: str
    count: int
    """Number of images, for a corruption benchmark per corruption and severity."""
    per_class: int | None = None
    """Number of images per class. None if it differs between classes."""
    decision_space: str = "all"
    """Decision space of the labels."""
    fixed: bool = False
    """Whether the images have their final size, so that they are neither resized nor cropped."""
    corruptions: tuple[str, ...] = ()
    scheme: str | None = None
    """Label scheme that exists in addition to the single label: `real` or `texture`."""
    numbered: bool = False
    """Whether files are named by number, so that labels can be read from a file that lists them by number."""

    @property
    def places(self) -> list[tuple[str | None, int | None]]:
        """Corruption and severity of each image set of the benchmark. Both are None for images without corruption."""
        return [(name, severity) for name in self.corruptions for severity in SEVERITIES] or [(None, None)]


@dataclass(frozen=True, slots=True)
class Cues:
    """A cue conflict: the label schemes of the two classes that an image shows, and the metrics computed from them."""

    first: str
    """Label scheme of the first cue, which the label of the image names."""
    second: str
    """Label scheme of the second cue."""
    bias: str
    """Metric: proportion of first-cue predictions among the predictions that match either cue."""
    accuracy: str
    """Metric: proportion of predictions that match either cue."""


SHAPE_CUES = Cues("shape", "texture", "shape_bias", "cue_accuracy")
FREQUENCY_CUES = Cues("lf_label", "hf_label", "low_frequency_cue_bias", "frequency_cue_accuracy")
CUES = (SHAPE_CUES, FREQUENCY_CUES)

CUE_CONFLICT = "cue-conflict"
STIMULI: Mapping[str, int] = {
    **dict.fromkeys((CUE_CONFLICT, "colour", "contrast", "eidolonI", "eidolonII", "eidolonIII", "high-pass"), 80),
    **dict.fromkeys(("low-pass", "rotation", "uniform-noise"), 80),
    **dict.fromkeys(("false-colour", "phase-scrambling", "power-equalisation"), 70),
    **dict.fromkeys(("sketch", "stylized"), 50),
    **dict.fromkeys(("edge", "silhouette"), 10),
}
"""The 17 stimulus sets of model-vs-human (Geirhos et al. 2021) -> number of images per class.

Human observers classified these images into sixteen classes as well.
"""
STIMULUS_PROBES: Mapping[str, tuple[str, int]] = {
    "contrast": ("contrast", 100),
    "low-pass": ("gaussian_lowpass", 1),
    "high-pass": ("gaussian_highpass", 1),
    "uniform-noise": ("uniform_noise", 1),
    "phase-scrambling": ("phase_scramble", 1),
}
"""Stimulus set -> the probe that creates such stimuli, and the factor from its parameter to the condition name.

For example, the condition `c100` of `contrast` corresponds to contrast 1.0, so the factor is 100.
"""
MODEL_VS_HUMAN: Final = "model-vs-human"
"""Convention of model-vs-human and Brain-Score for the trials that enter error consistency."""
UNCOUNTED_CONDITIONS: Mapping[str, tuple[str, ...]] = {
    "colour": ("cr",),
    "false-colour": ("true",),
    "contrast": ("c100", "c03", "c01"),
    "high-pass": ("inf", "0.55", "0.45", "0.4"),
    "low-pass": ("0", "15", "40"),
    "phase-scrambling": ("0", "150", "180"),
    "power-equalisation": ("0",),
    "rotation": ("0",),
    "eidolonI": ("1-10-10", "64-10-10", "128-10-10"),
    "eidolonII": ("1-3-10", "32-3-10", "64-3-10", "128-3-10"),
    "eidolonIII": ("1-0-10", "16-0-10", "32-0-10", "64-0-10", "128-0-10"),
    "uniform-noise": ("0.00", "0.60", "0.90"),
}
"""Stimulus set -> conditions that the convention `MODEL_VS_HUMAN` excludes (Geirhos et al. 2021).

They are control conditions, and conditions in which human accuracy is below 0.2.
"""
BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("imagenet", VALIDATION, 50, numbered=True),
        Benchmark("imagenet-real", VALIDATION, 50, numbered=True, scheme="real"),
        Benchmark("imagenet-v2", 10_000, 10),
        Benchmark("imagenet-a", 7_500, decision_space="imagenet-a"),
        Benchmark("imagenet-r", 30_000, decision_space="imagenet-r"),
        Benchmark("imagenet-sketch", 50_889),
        Benchmark("imagenet-c", VALIDATION, 50, fixed=True, corruptions=IMAGENET_C),
        Benchmark("imagenet-cbar", VALIDATION, 50, fixed=True, corruptions=IMAGENET_CBAR),
        *(
            Benchmark(
                name,
                SPACE_CLASSES["sixteen"] * per_class,
                per_class,
                decision_space="sixteen",
                fixed=True,
                scheme="texture" if name == CUE_CONFLICT else None,
            )
            for name, per_class in STIMULI.items()
        ),
    )
}
SAME_IMAGES: Mapping[str, str] = {"imagenet-real": "imagenet"}
"""Benchmark -> another benchmark with the same images and fewer labels."""

# Accuracies and their means


@dataclass(frozen=True, slots=True)
class Accuracy:
    """An accuracy on a benchmark: the unweighted mean over its image sets."""

    benchmark: str
    probe: str = "clean"
    scheme: str = "single"
    """Label scheme by which predictions are scored."""


ACCURACIES: Mapping[str, Accuracy] = {
    "imagenet": Accuracy("imagenet"),
    "imagenet-v2": Accuracy("imagenet-v2"),
    "imagenet-real": Accuracy("imagenet", scheme="real"),
    "imagenet-a": Accuracy("imagenet-a"),
    "imagenet-c": Accuracy("imagenet-c"),
    "imagenet-cbar": Accuracy("imagenet-cbar"),
    "imagenet-sketch": Accuracy("imagenet-sketch"),
    "imagenet-r": Accuracy("imagenet-r"),
    "stylized": Accuracy("stylized"),
    "pgd_linf": Accuracy("imagenet", probe="pgd_linf"),
}
"""NAME in the metric `top1_NAME` -> the accuracy. The groups are means of these."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "ID": ("imagenet", "imagenet-v2", "imagenet-real"),
    "Robustness": ("imagenet-a", "imagenet-c", "imagenet-cbar"),
    "Concepts": ("imagenet-sketch", "imagenet-r", "stylized"),
    "Adversarial": ("pgd_linf",),
}
"""Group -> names of the accuracies that it averages."""

# Models

ADVERSARIAL_TRAINING = "adversarial_training"
CATEGORIES = (
    "augmentation",
    ADVERSARIAL_TRAINING,
    "training_recipes",
    "contrastive",
    "stylized",
    "freezing",
    "baseline",
)
"""Training categories of the 48 checkpoints."""
SUBSET_TITLES: Mapping[str, str] = {"total": "All", ADVERSARIAL_TRAINING: "Adversarially trained", "other": "Other"}
"""Subset of the models -> the word before `models` in a title."""
