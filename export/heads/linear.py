"""Linear heads on features: ridge regression in closed form, and multinomial logistic regression.

Features x, (n, d), are standardized to z with the mean and standard deviation of the images on which a head is fitted.
Constant features become 0. Let Y, (n, classes), be the one-hot labels, and s the regularization strength. A head with
weight W and bias b minimizes

    ridge       |Z W + b - Y|^2 / n + s |W|^2         so W = (Z'Z / n + s I)^-1 Z'Y / n, and b is the mean of Y
    logistic    mean cross entropy of Z W + b, + s |W|^2 / 2        by L-BFGS

The strength in `STRENGTHS` with the smallest loss on held-out images is selected; among equal losses, the largest. The
outputs of ridge regression are not logits. They are therefore multiplied by the factor that minimizes their cross
entropy on the same images, which changes no prediction.

Source: Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 3.4 and 4.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..onnx.graph import SMALLEST_NORM

Floats = NDArray[np.float64]

STRENGTHS = tuple(10.0**power for power in range(3, -5, -1))
"""Regularization strengths to try, in units of the mean loss per image, in descending order."""
FOLDS = 5
"""Number of folds in cross-validation."""
LARGEST_FACTOR = 100.0
"""Maximum factor of the outputs of ridge regression.

If no held-out image is misclassified, the cross entropy decreases with the factor without bound, so the factor needs a
limit.
"""


@dataclass(frozen=True)
class LinearHead:
    """Logits that are a linear function of features, which are optionally normalized to unit length."""

    weight: Floats
    """(classes, d) weight."""
    bias: Floats
    """(classes,) bias."""
    unit: bool = False
    """Whether features are divided by their L2 norm first."""

    def logits(self, features: NDArray[np.floating]) -> Floats:
        """Compute (n, classes) logits of (n, d) features."""
        x = np.asarray(features, np.float64)
        if self.unit:
            x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), SMALLEST_NORM)
        return x @ self.weight.T + self.bias


def fit_ridge(features: Floats, targets: Floats, strengths: Sequence[float]) -> Iterator[LinearHead]:
    """Fit a ridge regression head for each strength, with a single eigendecomposition for all strengths."""
    z, mean, scale = _standardized(features)
    centre = targets.mean(axis=0)
    # If there are fewer images than features, use (Z'Z/n + s I)^-1 Z' = Z'(ZZ'/n + s I)^-1 to decompose the smaller
    # matrix.
    wide = z.shape[1] > len(z)
    values, vectors = np.linalg.eigh((z @ z.T if wide else z.T @ z) / len(z))
    rotated = vectors.T @ (targets - centre if wide else z.T @ (targets - centre)) / len(z)
    for strength in strengths:
        solution = vectors @ (rotated / (np.maximum(values, 0) + strength)[:, None])
        yield _unstandardized(z.T @ solution if wide else solution, centre, mean, scale)


def fit_logistic(features: Floats, targets: Floats, strengths: Sequence[float]) -> Iterator[LinearHead]:
    """Fit a multinomial logistic regression head for each strength, each initialized with the previous one."""
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    z, mean, scale = _standardized(features)
    shape = (z.shape[1] + 1, targets.shape[1])

    def loss(flat: Floats, strength: float) -> tuple[float, Floats]:
        weight, bias = np.split(flat.reshape(shape), [-1])
        logarithms = log_softmax(z @ weight + bias, axis=1)
        error = (np.exp(logarithms) - targets) / len(z)
        gradient = np.vstack([z.T @ error + strength * weight, error.sum(axis=0)])
        value = -(targets * logarithms).sum() / len(z) + strength * (weight**2).sum() / 2
        return float(value), gradient.ravel()

    # Start with zero weights and the log frequency of each class as bias. The added 1/n avoids the logarithm of 0.
    flat = np.vstack([np.zeros((z.shape[1], shape[1])), np.log(targets.mean(axis=0) + 1 / len(z))]).ravel()
    for strength in strengths:
        flat = minimize(loss, flat, (strength,), method="L-BFGS-B", jac=True, options={"maxiter": 1000}).x
        weight, bias = np.split(flat.reshape(shape), [-1])
        yield _unstandardized(weight, bias[0], mean, scale)


def _standardized(features: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the standardized features, their means, and the scales by which they were divided."""
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    # Because of rounding, a constant feature can have a small nonzero standard deviation.
    scale = np.where(deviation > 1e-6 * np.abs(mean), deviation, np.inf)
    return (features - mean) / scale, mean, scale


def _unstandardized(weight: Floats, bias: Floats, mean: Floats, scale: Floats) -> LinearHead:
    weight = (weight / scale[:, None]).T
    return LinearHead(weight, bias - weight @ mean)


def _cross_entropy(outputs: NDArray[np.floating], targets: Floats) -> float:
    from scipy.special import log_softmax

    return -float((targets * log_softmax(outputs, axis=1)).sum())


class FitMethod(NamedTuple):
    """Method for fitting a linear head."""

    fit: Callable[[Floats, Floats, Sequence[float]], Iterator[LinearHead]]
    """Function of features, targets and strengths (in descending order) that yields one head per strength."""
    loss: Callable[[NDArray[np.floating], Floats], float]
    """Loss of outputs given targets, summed over images, by which the strength is selected."""


METHODS = {
    "ridge": FitMethod(fit_ridge, lambda outputs, targets: float(((outputs - targets) ** 2).sum())),
    "logistic": FitMethod(fit_logistic, _cross_entropy),
}


def strength_in_words(strength: float) -> str:
    """Format a strength, and note if it is the largest or smallest one tried, because a better one may lie beyond."""
    ends = {STRENGTHS[0]: ", the largest that is tried", STRENGTHS[-1]: ", the smallest that is tried"}
    return f"{strength:g}{ends.get(strength, '')}"


class FittedHead(NamedTuple):
    """A fitted head with its regularization strength and its accuracy."""

    head: LinearHead
    strength: float
    accuracy: float
    """Cross-validated accuracy at this strength, as a proportion of images."""


def fit_head(
    features: NDArray[np.floating], labels: NDArray[np.int32], clusters: NDArray[np.int32], method: str, seed: int
) -> FittedHead:
    """Fit a linear head, and select its regularization strength by cross-validation.

    All images of a cluster are in the same fold.

    Args:
        features: (n, d) finite features.
        labels: (n,) class indices from 0. Each class must occur.
        clusters: (n,) cluster indices, at least two distinct ones.
        method: Name of a method in `METHODS`.
        seed: Random seed for the assignment of clusters to folds.

    Returns:
        The head, fitted on all images at the selected strength, and its cross-validated accuracy.
    """
    way, x = METHODS[method], np.asarray(features, np.float64)
    targets = np.eye(labels.max() + 1)[labels]
    folds = make_folds(labels, clusters, seed)
    held_out = np.empty((len(STRENGTHS), *targets.shape), np.float32)
    for fold in np.unique(folds):
        rows = folds == fold
        for number, head in enumerate(way.fit(x[~rows], targets[~rows], STRENGTHS)):
            held_out[number, rows] = head.logits(x[rows])
    choice = int(np.argmin([way.loss(outputs, targets) for outputs in held_out]))
    strength, outputs = STRENGTHS[choice], held_out[choice].astype(np.float64)
    accuracy = float((outputs.argmax(axis=1) == labels).mean())
    (head,) = way.fit(x, targets, [strength])
    if method == "ridge":
        factor = _best_factor(outputs, targets)
        head = replace(head, weight=factor * head.weight, bias=factor * head.bias)
    return FittedHead(head, strength, accuracy)


def make_folds(labels: NDArray[np.int32], clusters: NDArray[np.int32], seed: int) -> NDArray[np.int64]:
    """Assign images to folds.

    Whole clusters are assigned at random, so that each fold has about the same number of clusters of each class. The
    class of a cluster is that of its first image.

    Args:
        labels: (n,) class indices.
        clusters: (n,) cluster indices.
        seed: Random seed.

    Returns:
        (n,) fold indices from 0 to `FOLDS` - 1.
    """
    _, first, places = np.unique(clusters, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(labels[first][order], kind="stable")]
    folds = np.empty(len(first), np.int64)
    folds[order] = np.arange(len(first)) % FOLDS
    return folds[places]


def _best_factor(outputs: Floats, targets: Floats) -> float:
    from scipy.optimize import minimize_scalar

    def loss(logarithm: float) -> float:
        return _cross_entropy(np.exp(logarithm) * outputs, targets)

    return float(np.exp(minimize_scalar(loss, bounds=(0, np.log(LARGEST_FACTOR)), method="bounded").x))
