"""The floor of accuracy and agreement: how often answers are right that have nothing to do with the images.

Let x_i be the label of image i, or the answer to it when clean, y_ij the answer under condition j of J, a_j the share
of the n images with y_ij = x_i, and r_k and c_jk the numbers of images whose x and y is class k. Answers that keep
these numbers, and fall on any images, are right on the share

    f_j = (sum_k r_k c_jk - M_j) / (n^2 - sum_u n_u^2)

where M_j counts the pairs of images of one cluster u, of n_u images, with y_i'j = x_i. Where a share of the answers is
that for the clean image (j = 0), and all others are independent of x, this share is

    kept = mean_j (a_j - f_j) / (a_0 - f_0)

An image adds psi_ij / n to the error of a_j - f_j:

    psi_ij = [y_ij = x_i] - a_j - (c_j,x_i / n + r_y_ij / n - 2 E_j),     E_j = sum_k r_k c_jk / n^2

Answers are above their floor, over all J conditions together, where p <= 0.005 for a = mean a_j and E = mean E_j:

    p = I_q(e s, e - e s + 1),     s = (a - least) / reach,     q = (E - least) / reach,     e = q (1 - q) reach^2 / V

    least = mean_j sum_k max(0, r_k + c_jk - n) / n,     least + reach = mean_j sum_k min(r_k, c_jk) / n

I is the incomplete beta function, so that p is exact for e independent answers. Permutations of x have an a from least
to least + reach, ends that lie close together where most labels and most answers are of one class. V is the variance
of a over all permutations (Hoeffding 1951). In C clusters it is C / (C - 1) sum_u (sum_i mean_j psi_ij / n)^2 where
that is larger, up to sum_u n_u^2 / n times as much, as where each cluster is answered as a whole. With N_ii' the number
of conditions under which y_i' is x_i, and means over i, i' or both,

    V = (sum N^2 - n sum (mean_i' N)^2 - n sum (mean_i N)^2 + n^2 (mean N)^2) / ((n - 1) n^2 J^2)

Where all labels are of one class, or images have several right classes, f and E are the accuracy of a blind guess, psi
lacks its bracket, least is 0 and reach 1, and e is n_e of `wilson`. A single cluster counts as one an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import Floats, Index, Ints, Mask
from .proportions import p_above, p_above_chance, share_of

SHIFT = 1 << 16
"""A number above those of all classes."""


@dataclass(frozen=True)
class MatchedAnswers:
    """Answers to n images under J conditions, and what is right."""

    hits: Mask
    """(J, n): whether the answer is right."""
    classes: Ints
    """(J, n) y: the class that is answered."""
    reference: Ints | None
    """(n,) x: the class that is right; None where the floor is the accuracy of a blind guess."""
    chance: float
    """Accuracy of a blind guess."""
    ids: Index
    """(n,): clusters, numbered from 0."""

    @cached_property
    def sizes(self) -> Floats:
        """(C,): images of each cluster."""
        return np.bincount(self.ids).astype(np.float64)

    def _counts(self, reference: Ints) -> tuple[Ints, Ints]:
        """(classes,) r_k and (J, classes) c_jk."""
        rows = np.vstack([reference[None], self.classes])
        counts = np.stack([np.bincount(row, minlength=int(rows.max()) + 1) for row in rows])
        return counts[0], counts[1:]

    @cached_property
    def _matches(self) -> tuple[Floats, Floats]:
        """(J, n) each: the shares c_j,x_i / n of images whose answer is x_i, and r_y_ij / n, whose x is the answer."""
        if self.reference is None:
            chances = np.full(self.classes.shape, self.chance)
            return chances, chances
        by_reference, by_answer = self._counts(self.reference)
        return by_answer[:, self.reference] / len(self.ids), by_reference[self.classes] / len(self.ids)

    @cached_property
    def expected(self) -> Floats:
        """(J,) E_j."""
        return np.asarray(self._matches[1].mean(axis=1))

    @cached_property
    def above(self) -> Floats:
        """(J,) a_j - f_j."""
        n, shares = len(self.ids), self.hits.mean(axis=1)
        if self.reference is None:
            return np.asarray(shares - self.chance)
        matches, pairs = self.hits.sum(axis=1), n  # within clusters, of which each image is one
        if 1 < len(self.sizes) < n:
            keys, counts = np.unique(self.ids * SHIFT + self.reference, return_counts=True)
            answers = self.ids * SHIFT + self.classes
            place = np.searchsorted(keys, answers).clip(max=len(keys) - 1)
            matches = np.where(keys[place] == answers, counts[place], 0).sum(axis=1)
            pairs = np.square(self.sizes).sum()
        return np.asarray(shares - (n**2 * self.expected - matches) / max(1, n**2 - pairs))

    def deviations(self, weights: Floats) -> Floats:
        """(C,): what each cluster adds to the error of the sum of weights (J,) times what is above the floor."""
        by_answer, by_reference = self._matches
        psi = self.hits - self.hits.mean(axis=1, keepdims=True)
        if self.reference is not None:
            psi = psi - by_answer - by_reference + 2 * self.expected[:, None]
        return np.bincount(self.ids, weights @ psi) / len(self.ids)

    @cached_property
    def p(self) -> float:
        """One-sided p that the answers are at their floor."""
        if self.reference is None:
            return p_above_chance(share_of(self.hits.mean(axis=0), self.ids), self.chance)
        (conditions, n), clusters = self.hits.shape, len(self.sizes)
        by_answer, by_reference = (matches.sum(axis=0) for matches in self._matches)
        # Each answer is counted as often as other conditions have the same: N^2 in O(n J^2), without sorting.
        squares = sum(
            float((self.classes == answers).sum(axis=0) @ matches)
            for answers, matches in zip(self.classes, self._matches[1], strict=True)
        )
        mean = float(self.expected.sum())
        variance = (squares - np.square(by_answer).sum() - np.square(by_reference).sum()) / n + mean**2
        variance /= max(1, n - 1) * conditions**2
        if clusters < n:
            deviations = self.deviations(np.full(conditions, 1 / conditions))
            between = np.square(deviations).sum() * clusters / max(1, clusters - 1)
            # Deviations are larger where answers are kept, which is no variance of answers that keep nothing.
            variance = min(max(variance, between), variance * np.square(self.sizes).sum() / n)
        by_reference, by_answer = self._counts(self.reference)
        least = np.maximum(0, by_reference + by_answer - n).sum() / (conditions * n)
        reach = np.minimum(by_reference, by_answer).sum() / (conditions * n) - least
        if reach <= 0:
            return 1.0
        share, rate = ((number - least) / reach for number in (self.hits.mean(), mean / conditions))
        return p_above(float(share), float(rate), float(variance / reach**2))
