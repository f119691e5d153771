"""Which metrics a study will have once it has run, and which not, and why: from its conditions and image sets alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...protocol import ACCURACIES, BIAS_CUTOFFS, CUES, FREQUENCIES, SAME_IMAGES
from ...records import Cell, Condition, ImageSetInfo, Model
from .compute import PUBLISHED
from .conditions import names_of
from .critical_band import band_gaps
from .generalization import accuracies_of, by_accuracy, gap, incomplete
from .psychometric import CHANNEL, channel_gap, threshold_gaps, with_threshold
from .spectral_bias import PROBES

BAND_METRICS = tuple(
    metric
    for suffix in ("", "_raw")
    for metric in (*(f"{one}{suffix}" for one in PUBLISHED), *(f"critical_threshold_{f}{suffix}" for f in FREQUENCIES))
)
"""What the 29 conditions of critical_band give together, by the published estimator."""


@dataclass(frozen=True, slots=True)
class Determined:
    """Metrics that a study has together, or not."""

    image_set: str | None
    """None for generalization: accuracies on benchmarks, and means over groups of them."""
    name: str
    """Name of the metric, or what several are called together."""
    metrics: Sequence[str]
    why: str | None
    """Why they will be missing; None where they will be there, as far as the predictions determine them."""

    def __str__(self) -> str:
        return f"{self.name} on {self.image_set}" if self.image_set else self.name


def determined_metrics(
    conditions: Iterable[tuple[ImageSetInfo, Condition]], schemes: Mapping[str, Collection[str]]
) -> list[Determined]:
    """The metrics that a study has conditions for, all of them or some.

    Args:
        conditions: what every checkpoint is run on.
        schemes: digest of an image set -> names of the label schemes that it has beside its labels.
    """
    by_set: dict[ImageSetInfo, list[Condition]] = {}
    for images, condition in conditions:
        by_set.setdefault(images, []).append(condition)
    found = []
    for images, mine in by_set.items():
        found += _spectral(images.name, mine)
        found += _critical_band(images.name, mine)
        for cues in CUES:
            if cues.second in schemes.get(images.digest, ()):
                found.append(Determined(images.name, cues.bias, (cues.bias, cues.accuracy), None))
    return found + _generalization(by_set, schemes)


def condition_metrics(cells: Iterable[Cell], schemes: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """Name of an image set that a study perturbs -> metrics of each of its conditions, as far as they are determined.

    Means over benchmarks are left out: `determined_metrics` has those of the unperturbed images.
    """
    models: dict[ImageSetInfo, set[Model]] = {}
    for cell in cells:
        if cell.condition.probe != "clean":
            models.setdefault(cell.image_set, set()).add(cell.model)
    return {
        images.name: names_of(images.labelled, schemes.get(images.digest, ()), len(who))
        for images, who in models.items()
    }


def _spectral(image_set: str, conditions: Sequence[Condition]) -> list[Determined]:
    if not any(one.probe in PROBES.values() for one in conditions):
        return []
    gaps: dict[str, str | None] = {}
    for metric, probe in PROBES.items():
        cutoffs = Counter(round(one.number("cutoff") or 0, 3) for one in conditions if one.probe == probe)
        lacking = [f"{cutoff:g}" for cutoff in BIAS_CUTOFFS if not cutoffs[cutoff]]
        gaps[metric] = f"{probe} lacks the cutoff{'s' * (len(lacking) > 1)} {', '.join(lacking)}" if lacking else None
    lacking = [metric for metric, why in gaps.items() if why]
    gaps["spectral_bias"] = f"it is made of {' and '.join(lacking)}" if lacking else None
    return [Determined(image_set, metric, (metric,), why) for metric, why in gaps.items()]


def _critical_band(image_set: str, conditions: Sequence[Condition]) -> list[Determined]:
    band = [(one.number("noise_sd"), one.number("frequency")) for one in conditions if one.probe == "critical_band"]
    if not band:
        return []
    wanted: list[tuple[str, Sequence[str], str | None]] = [
        ("critical band", BAND_METRICS, band_gaps(band)),
        ("psychometric channel", [f"psychometric_{name}" for name in CHANNEL], channel_gap(band)),
    ]
    if there := [f"psychometric_threshold_{f}" for f in with_threshold(band)]:
        wanted.append(("psychometric thresholds", there, None))
    for f, why in threshold_gaps(band).items():
        if f is not None:  # else the channel says it
            wanted.append((f"psychometric_threshold_{f}", [f"psychometric_threshold_{f}"], why))
    return [Determined(image_set, name, metrics, why and f"critical_band {why}") for name, metrics, why in wanted]


def _generalization(
    by_set: Mapping[ImageSetInfo, Sequence[Condition]], schemes: Mapping[str, Collection[str]]
) -> list[Determined]:
    cells = by_accuracy(
        [
            {
                "benchmark": SAME_IMAGES.get(images.benchmark, images.benchmark),
                "corruption": images.corruption,
                "severity": images.severity,
                "count": images.count,
                "probe": condition.probe,
                "parameters": json.dumps(dict(condition.parameters)),
                "real": "real" in schemes.get(images.digest, ()),
            }
            for images, conditions in sorted(by_set.items(), key=lambda pair: -pair[0].count)
            for condition in conditions
            if images.labelled
        ]
    )
    gaps = {name: gap(cells[name], of) for name, of in ACCURACIES.items()}
    names, groups = accuracies_of(cells)
    benchmarks = [Determined(None, f"top1_{name}", (f"top1_{name}",), gaps[name]) for name in names]
    return benchmarks + [Determined(None, group, (group,), incomplete(group, gaps)) for group in groups]
