"""Chance level of accuracy and agreement: how often predictions that are unrelated to the images would be correct.

The chance level is estimated from the observed class frequencies. A model that predicts one class for most images
agrees with the labels more often than random guesses over all classes would, without recognizing anything.

Let x_i be the label of image i, or its prediction on the clean image if there are no labels, and y_ij the prediction
under condition j of J. a_j is the proportion of the n images with y_ij = x_i. r_k and c_jk are the numbers of images
for which x and y is class k. If the predictions keep these class frequencies but are assigned to images at random, the
expected proportion of matches is

    f_j = (sum_k r_k c_jk - M_j) / (n^2 - sum_u n_u^2)

Pairs of images of the same cluster u, of n_u images, do not count because they are not independent: M_j is the number
of such pairs with y_i'j = x_i. If a proportion of the predictions equals that for the clean image (j = 0) and all
others are independent of x, this proportion is

    kept = mean_j (a_j - f_j) / (a_0 - f_0)

Image i contributes psi_ij / n to the error of a_j - f_j:

    psi_ij = [y_ij = x_i] - a_j - (c_j,x_i / n + r_y_ij / n - 2 E_j),     E_j = sum_k r_k c_jk / n^2

Predictions are above chance, over all J conditions together, if p <= 0.005 for a = mean a_j and E = mean E_j:

    p = I_q(e s, e - e s + 1),     s = (a - least) / reach,     q = (E - least) / reach,     e = q (1 - q) reach^2 / V

    least = mean_j sum_k max(0, r_k + c_jk - n) / n,     least + reach = mean_j sum_k min(r_k, c_jk) / n

I is the regularized incomplete beta function, so p is exact for e independent predictions. `least` and `least + reach`
are the smallest and the largest a that permutations of x can have. They are close together if most labels and most
predictions are of one class.

V is the variance of a over all permutations of x (Hoeffding 1951). With N_ii' the number of conditions under which y_i'
equals x_i, and means over i, i' or both,

    V = (sum N^2 - n sum (mean_i' N)^2 - n sum (mean_i N)^2 + n^2 (mean N)^2) / ((n - 1) n^2 J^2)

For C clusters, V is replaced by the between-cluster variance C / (C - 1) sum_u (sum_i mean_j psi_ij / n)^2 if that is
larger. The increase is limited to the factor sum_u n_u^2 / n, which applies if all images of a cluster get the same
prediction. If all images belong to one cluster, they are treated as independent.

If all labels are of one class, or images have several accepted classes, f and E are the accuracy of random guessing,
psi lacks the term in parentheses, `least` is 0, `reach` is 1, and e is the effective sample size n_e of `wilson`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import Floats, Index, Ints, Mask
from .proportions import p_above, p_above_chance, share_of

SHIFT = 1 << 16
"""An integer greater than every class index. It combines a cluster and a class into one key."""


@dataclass(frozen=True)
class MatchedAnswers:
    """Predictions for n images under J conditions, compared with a reference.

    The module header defines the symbols.
    """

    hits: Mask
    """Whether each prediction is correct, (J, n)."""
    classes: Ints
    """Predicted classes y, (J, n)."""
    reference: Ints | None
    """Reference classes x, (n,): labels or clean predictions.

    None if the chance level is the accuracy of random guessing.
    """
    chance: float
    """Accuracy of random guessing."""
    ids: Index
    """Cluster index of each image, (n,), from 0 to C - 1."""

    @cached_property
    def sizes(self) -> Floats:
        """Number of images in each cluster, (C,)."""
        return np.bincount(self.ids).astype(np.float64)

    def _counts(self, reference: Ints) -> tuple[Ints, Ints]:
        """Return the class counts r_k, (classes,), and c_jk, (J, classes)."""
        rows = np.vstack([reference[None], self.classes])
        counts = np.stack([np.bincount(row, minlength=int(rows.max()) + 1) for row in rows])
        return counts[0], counts[1:]

    @cached_property
    def _matches(self) -> tuple[Floats, Floats]:
        """Return the relative frequencies c_j,x_i / n and r_y_ij / n, (J, n) each.

        The first is the proportion of predictions that equal x_i, the second the proportion of references that equal
        y_ij.
        """
        if self.reference is None:
            chances = np.full(self.classes.shape, self.chance)
            return chances, chances
        by_reference, by_answer = self._counts(self.reference)
        return by_answer[:, self.reference] / len(self.ids), by_reference[self.classes] / len(self.ids)

    @cached_property
    def expected(self) -> Floats:
        """Expected proportion of matches E_j of independent predictions, (J,)."""
        return np.asarray(self._matches[1].mean(axis=1))

    @cached_property
    def above(self) -> Floats:
        """Chance-corrected proportion of correct predictions, a_j - f_j, (J,)."""
        n, shares = len(self.ids), self.hits.mean(axis=1)
        if self.reference is None:
            return np.asarray(shares - self.chance)
        matches, pairs = self.hits.sum(axis=1), n  # Without clusters, each image forms a pair with itself only.
        if 1 < len(self.sizes) < n:
            keys, counts = np.unique(self.ids * SHIFT + self.reference, return_counts=True)
            answers = self.ids * SHIFT + self.classes
            place = np.searchsorted(keys, answers).clip(max=len(keys) - 1)
            matches = np.where(keys[place] == answers, counts[place], 0).sum(axis=1)
            pairs = np.square(self.sizes).sum()
        return np.asarray(shares - (n**2 * self.expected - matches) / max(1, n**2 - pairs))

    def deviations(self, weights: Floats) -> Floats:
        """Compute the contribution of each cluster to the error of the weighted sum of a_j - f_j.

        Args:
            weights: Weight of each condition, (J,).

        Returns:
            Contributions, (C,).
        """
        by_answer, by_reference = self._matches
        psi = self.hits - self.hits.mean(axis=1, keepdims=True)
        if self.reference is not None:
            psi = psi - by_answer - by_reference + 2 * self.expected[:, None]
        return np.bincount(self.ids, weights @ psi) / len(self.ids)

    @cached_property
    def p(self) -> float:
        """One-sided p-value of the null hypothesis that the predictions are at chance over all conditions together."""
        if self.reference is None:
            return p_above_chance(share_of(self.hits.mean(axis=0), self.ids), self.chance)
        (conditions, n), clusters = self.hits.shape, len(self.sizes)
        by_answer, by_reference = (matches.sum(axis=0) for matches in self._matches)
        # For each prediction, count the conditions with the same prediction. This gives sum N^2 in O(n J^2) without
        # sorting.
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
            # Predictions that are retained from the clean image increase the between-cluster variance. That is no
            # variance under the null hypothesis, so the increase is limited.
            variance = min(max(variance, between), variance * np.square(self.sizes).sum() / n)
        by_reference, by_answer = self._counts(self.reference)
        least = np.maximum(0, by_reference + by_answer - n).sum() / (conditions * n)
        reach = np.minimum(by_reference, by_answer).sum() / (conditions * n) - least
        if reach <= 0:
            return 1.0
        share, rate = ((number - least) / reach for number in (self.hits.mean(), mean / conditions))
        return p_above(float(share), float(rate), float(variance / reach**2))
