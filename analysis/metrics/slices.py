"""Accuracy on slices of an image set, and accuracy of each label in multi-label classification.

A slice contains the images that share a value of an attribute, for example a scanner.

    slice_accuracy_NAME=VALUE   proportion of the labeled images with this value whose label is predicted
    worst_slice                 the smallest of these; worst_slice_NAME is the smallest among the values of an attribute
    largest_slice_loss          the largest drop, which is accuracy on the clean images minus that under the condition
    label_accuracy_LABEL        proportion of images for which a label is correctly predicted as present or absent
    label_accuracy              mean of label_accuracy_LABEL over labels, which is 1 minus the Hamming loss

Confidence intervals of accuracies, and of their differences from the clean images, are described in
`statistics.proportions`. The intervals of worst_slice and largest_slice_loss are corrected for the selection among K
slices. They combine the intervals (l_k, u_k) of the slices at a level with Šidák's correction (Šidák 1967):

    alpha = 1 - 0.95^(1 / K),     worst_slice in [min l_k, min u_k],     largest_slice_loss in [max l_k, max u_k]

Slices with fewer than 10 clusters cannot be selected. Attributes with more than 100 values are ignored.

In multi-label classification, a class represents a set of labels. Bit l of the class index is 1 if label l is in the
set. `accuracy` is then the subset accuracy, the proportion of images for which all labels are correct. Source:
Tsoumakas & Katakis 2007.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from ..statistics import LEVEL, Mask
from ..statistics.proportions import Share, difference_interval, share_interval, share_of
from .base import Display, Ends, Estimate, ImageValues, Measure, State, Words, estimate_of, nothing, paired_intervals
from .predictions import CellOutcomes

ACCURACY, WORST_SLICE, LOSS = "slice_accuracy", "worst_slice", "largest_slice_loss"
LABELS = "label_accuracy"
FEWEST_CLUSTERS = 10
"""Minimum number of clusters for a slice to be selected as the worst. Small slices would be the worst by chance."""
Shares = Mapping[tuple[str, str], Share]
"""Name and value of an attribute -> accuracy on the images with this value."""


def _slice_shares(cell: CellOutcomes | None) -> Shares:
    if cell is None or cell.hits is None:
        return {}
    clusters = cell.images.clusters
    return {key: share_of(cell.hits[rows], clusters[rows]) for key, rows in cell.images.slices.items()}


def slice_estimates(cell: CellOutcomes) -> dict[str, Estimate]:
    """Estimate the accuracy on each slice, and the worst slice overall and of each attribute."""
    shares, clean = _slice_shares(cell), {} if cell.is_clean else _slice_shares(cell.unperturbed())
    estimates = {f"{ACCURACY}_{_words(key)}": estimate_of(share, clean.get(key)) for key, share in shares.items()}
    large_shares = {key: share for key, share in shares.items() if len(share.clusters) >= FEWEST_CLUSTERS}
    names = {name for name, _ in shares}
    for part in ("", *(f"_{name}" for name in sorted(names) if len(names) > 1)):
        part_shares = {key: share for key, share in large_shares.items() if part in ("", f"_{key[0]}")}
        estimates[WORST_SLICE + part] = _least(part_shares)
        if clean:
            estimates[LOSS + part] = _largest_loss(part_shares, clean)
    return estimates


def _words(key: tuple[str, str]) -> str:
    return "=".join(key)


def _level(slices: Collection[object]) -> float:
    """Return the Šidák-corrected alpha of each slice, so that all intervals jointly have 95% coverage."""
    return float(1 - LEVEL ** (1 / len(slices)))


def _least(shares: Shares) -> Estimate:
    if not shares:
        return nothing(State.UNDETERMINED, f"no slice has {FEWEST_CLUSTERS} independent images")
    part = min(shares, key=lambda key: shares[key].value)
    lows, highs = zip(*(share_interval(share, _level(shares)) for share in shares.values()), strict=True)
    return Estimate(shares[part].value, min(lows), min(highs), note=_words(part), n=shares[part].images)


def _largest_loss(shares: Shares, clean: Shares) -> Estimate:
    ends = {key: difference_interval(share, clean[key], alpha=_level(shares)) for key, share in shares.items()}
    losses = {key: clean[key].value - shares[key].value for key, interval in ends.items() if interval}
    if not losses:
        return nothing(State.UNDETERMINED, f"no slice has {FEWEST_CLUSTERS} independent images")
    part = max(losses, key=losses.__getitem__)
    lows, highs = zip(*(interval for interval in ends.values() if interval), strict=True)
    return Estimate(losses[part], max(lows), max(highs), note=_words(part), n=shares[part].images)


def slice_differences(a: CellOutcomes, b: CellOutcomes) -> dict[str, Ends]:
    """Compute the paired intervals of the accuracies on slices that contain the same images in both runs."""
    slices_a, slices_b = a.images.slices, b.images.slices
    shares_a, shares_b = (
        {
            f"{ACCURACY}_{_words(key)}": share
            for key, share in _slice_shares(cell).items()
            if np.array_equal(slices_a.get(key, ()), slices_b.get(key, ()))
        }
        for cell in (a, b)
    )
    return paired_intervals(shares_a, shares_b)


def _read_hits(cell: CellOutcomes) -> Mask:
    """Return whether each label is predicted correctly, (n, labels)."""
    # There are 2^labels classes, so the number of labels follows from the accuracy of random guessing.
    bits = np.arange(round(-math.log2(cell.floor)))
    return np.asarray((cell.decisions.predicted ^ cell.images.label)[:, None] >> bits & 1 == 0)


def _label_shares(cell: CellOutcomes) -> dict[str, Share]:
    return {
        f"{LABELS}_{cell.class_names.get(1 << label, str(label))}": share_of(hits, cell.images.clusters)
        for label, hits in enumerate(_read_hits(cell).T)
    }


def label_estimates(cell: CellOutcomes) -> dict[str, Estimate]:
    """Estimate the accuracy of each label."""
    reference = None if cell.is_clean else cell.unperturbed()
    clean = _label_shares(reference) if reference else {}
    return {name: estimate_of(share, clean.get(name)) for name, share in _label_shares(cell).items()}


def label_differences(a: CellOutcomes, b: CellOutcomes) -> dict[str, Ends]:
    """Compute the paired intervals of the accuracies of labels that both runs have."""
    return paired_intervals(_label_shares(a), _label_shares(b))


MEASURES = (
    *(
        Measure(
            name,
            Display(title, folded=False, words=words),
            applies=lambda available: available.labelled and available.sliced,
            estimates=slice_estimates,
            differences=slice_differences,
        )
        for name, title, words in (
            (ACCURACY, "accuracy on a slice", Words(worst_part="loses most on {part}")),
            (WORST_SLICE, "accuracy on the worst slice", Words(is_choice=True)),
            (LOSS, "largest loss of a slice", Words(is_choice=True)),
        )
    ),
    Measure(
        LABELS,
        Display("accuracy over labels", sense=1),
        applies=lambda available: available.labelled and available.multilabel,
        estimates=label_estimates,
        differences=label_differences,
        values=lambda cell: ImageValues(_read_hits(cell).mean(axis=1)),
    ),
)
