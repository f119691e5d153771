"""The published protocol: at which settings the study measured, on which benchmarks, and what it takes means over.

Facts and no computation, so that probes and analysis read the same ones. Source: Gavrikov & Keuper 2024 ("Can Biases in
ImageNet Models Explain Generalization?"), after Wang et al. 2020 (cutoffs), Subramanian et al. 2023 (critical band),
Madry et al. 2018 (attack), and Beyer et al. 2020 (ReaL).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

CLASSES = 1000
"""Classes of ImageNet, which the decision spaces are made of."""
SPACE_CLASSES: Mapping[str, int] = {"imagenet-a": 200, "imagenet-r": 200, "sixteen": 16}
"""Decision space -> its classes. The space `all` is not here: it has those of the model."""
LEAST_PROBABILITY = 2.0**-149
"""The least positive number of single precision, which probabilities are stored in: one of 0 counts as much."""


def octave_edges(size: int) -> list[int]:
    """0, and the highest frequency of each of OCTAVES in images of `size` pixels a side, in cycles per image."""
    return [0, *(size // 2 >> octave for octave in reversed(range(len(OCTAVES))))]


def classes_decided(decision_space: str, classes: int) -> int:
    """The classes that a model of so many classes decides between in a decision space."""
    return SPACE_CLASSES.get(decision_space, classes)


VALIDATION = 50_000
"""Images of ImageNet's validation set."""

# Probes

CUTOFFS = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
"""Cutoffs c of the filters, in [0, 1], of the highest frequency: a low-pass keeps what is below c of it, a high-pass
removes what is below 1 - c."""
BIAS_CUTOFFS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Cutoffs whose ratios to clean accuracy make a spectral bias."""
NOISE_SDS = (0.0, 0.02, 0.04, 0.08, 0.16)
"""Standard deviations of the critical band's noise, in units of the image range. 0 is the grey image alone."""
FREQUENCIES = tuple(range(7))
"""Octave indices of the critical band's noise."""
OCTAVES = "0123456"
"""Octaves of an image's own frequencies, coarse to fine; a mask is text of those that it keeps, in this order."""
OCTAVE_PROBE = "octaves"
"""The probe that keeps sets of octaves."""
NO_OCTAVE = "none"
"""The mask that keeps no octave, but the mean alone."""
SIZE = 224
"""Pixels a side of the study's images."""
LOWEST_FREQUENCY = 1.75
"""Cycles per image at the centre of octave 0, for images of SIZE. At another size it is as many times larger."""
EPS, STEP, STEPS = 0.5 / 255, 2 / 255, 40
"""The attack's budget, which the study calls low: radius of the ball, length of a step, number of steps."""

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
    """A set of labelled images; of a benchmark of corruptions, one set for each corruption and severity."""

    name: str
    count: int
    """The number of images, of each corruption and severity."""
    per_class: int | None = None
    """The number of images of each class; None where classes differ."""
    decision_space: str = "all"
    """The decision space whose classes the images show."""
    fixed: bool = False
    """The images have their final size: nothing is resized or cropped."""
    corruptions: tuple[str, ...] = ()
    scheme: str | None = None
    """A label scheme beside the label: `real` or `texture`."""
    numbered: bool = False
    """Files are named by number, so that labels may come in a file."""

    @property
    def places(self) -> list[tuple[str | None, int | None]]:
        """Corruption and severity of each of its sets; None where images are as they were taken."""
        return [(name, severity) for name in self.corruptions for severity in SEVERITIES] or [(None, None)]


@dataclass(frozen=True, slots=True)
class Cues:
    """Two cues that conflict: the label schemes of an image's two classes, and the metrics of what is named."""

    first: str
    """The label scheme of the class that the labels name."""
    second: str
    """The label scheme of the other class."""
    bias: str
    """The metric of decisions for the first among those for either."""
    accuracy: str
    """The metric of decisions for either among all."""


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
"""The 17 sets that people saw, too (Geirhos et al. 2021, model-vs-human) -> images of each of the sixteen classes."""
STIMULUS_PROBES: Mapping[str, tuple[str, int]] = {
    "contrast": ("contrast", 100),
    "low-pass": ("gaussian_lowpass", 1),
    "high-pass": ("gaussian_highpass", 1),
    "uniform-noise": ("uniform_noise", 1),
    "phase-scrambling": ("phase_scramble", 1),
}
"""Stimulus set -> the probe that makes such stimuli, and how many times a setting of it the name of a condition has."""
MODEL_VS_HUMAN: Final = "model-vs-human"
"""The convention of model-vs-human and brain-score, by which judgements on these sets count in error consistency."""
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
"""Stimulus set -> conditions that MODEL_VS_HUMAN leaves out (Geirhos et al. 2021): controls, and those in which people
are right in less than 0.2 of the trials."""
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
"""Benchmarks that show the images of another one, with more labels."""

# Accuracies and their means


@dataclass(frozen=True, slots=True)
class Accuracy:
    """An accuracy on a benchmark: the mean over its sets, each weighing the same."""

    benchmark: str
    probe: str = "clean"
    scheme: str = "single"
    """Label scheme."""


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
"""The accuracies that groups are means of, by the name in the metric `top1_NAME`."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "ID": ("imagenet", "imagenet-v2", "imagenet-real"),
    "Robustness": ("imagenet-a", "imagenet-c", "imagenet-cbar"),
    "Concepts": ("imagenet-sketch", "imagenet-r", "stylized"),
    "Adversarial": ("pgd_linf",),
}
"""Names of accuracies that each group is the mean of."""

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
"""Subset of the models -> what stands before `models` in a title."""
