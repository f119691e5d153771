"""Accuracy label by label, where each label of an image is decided by itself.

    label_accuracy_LABEL   share of images on which a label is decided rightly
    label_accuracy         its mean over labels: 1 less the Hamming loss

A class is a set of labels, whose number has bit l where label l is in it. `accuracy` is then the subset accuracy, of
images on which all labels are decided rightly. Each, and its difference from the clean images, has the interval of
`statistics.shares`. Source: Tsoumakas & Katakis 2007.
"""

from __future__ import annotations

import math

import numpy as np

from ..statistics.arrays import Mask
from ..statistics.shares import Share, share_of
from .base import Available, Display, Ends, Estimate, ImageValues, Measure, Options, Scope, less_clean, paired_intervals
from .outcomes import CellOutcomes

NAME = "label_accuracy"


def _read_hits(cell: CellOutcomes) -> Mask:
    """(n, labels): whether each label is decided rightly; a blind guess is right in one of 2^labels cases."""
    bits = np.arange(round(-math.log2(cell.floor)))
    return np.asarray((cell.decisions.predicted ^ cell.images.label)[:, None] >> bits & 1 == 0)


def _values(cell: CellOutcomes) -> ImageValues:
    return ImageValues(_read_hits(cell).mean(axis=1))


def _shares(cell: CellOutcomes) -> dict[str, Share]:
    names = [cell.class_names.get(1 << label, str(label)) for label in range(_read_hits(cell).shape[1])]
    columns = zip(names, _read_hits(cell).T, strict=True)
    return {f"{NAME}_{name}": share_of(hits, cell.images.clusters) for name, hits in columns}


def label_estimates(cell: CellOutcomes, _: Options) -> dict[str, Estimate]:
    """The accuracy of each label."""
    reference = None if cell.is_clean else cell.unperturbed()
    clean = _shares(reference) if reference else {}
    return {name: less_clean(share, clean.get(name)) for name, share in _shares(cell).items()}


def label_differences(a: CellOutcomes, b: CellOutcomes) -> dict[str, Ends]:
    """Paired intervals of the accuracies of the labels that both runs have."""
    return paired_intervals(_shares(a), _shares(b))


def _has_labels_apart(available: Available) -> bool:
    return available.labelled and available.multilabel


MEASURES = (
    Measure(
        NAME,
        Scope.CONDITION,
        Display("accuracy over labels", sense=1),
        applies=_has_labels_apart,
        estimates=label_estimates,
        differences=label_differences,
        values=_values,
    ),
)
