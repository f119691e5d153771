"""Linear heads on features: ridge regression in closed form, and multinomial logistic regression.

Features x, (n, d), are standardized to z, with the mean and standard deviation of the images that a head is fitted to;
a feature that does not vary becomes 0. With targets Y, (n, classes), 1 where an image is of a class and else 0, and a
strength s, a head W, b minimizes

    ridge       |Z W + b - Y|^2 / n + s |W|^2         so W = (Z'Z / n + s I)^-1 Z'Y / n, and b is the mean of Y
    logistic    mean cross entropy of Z W + b, + s |W|^2 / 2        by L-BFGS

The strength of STRENGTHS with the least loss on images that were held out is taken, and the larger of two equal ones.
The outputs of ridge are no logits: they are multiplied by the factor that makes the cross entropy on the same images
smallest, which changes no decision. Source: Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 3.4 and
4.4.
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
"""The strengths that are tried, in units of the mean loss of an image; the largest comes first."""
FOLDS = 5
"""The number of parts of the training set that are held out in turn."""
LARGEST_FACTOR = 100.0
"""The largest factor of the outputs of ridge; where no held-out image is wrong, any larger one would do better."""


@dataclass(frozen=True)
class LinearHead:
    """Logits that are linear in features, or in features of length 1."""

    weight: Floats
    """(classes, d)."""
    bias: Floats
    """(classes,)."""
    unit: bool = False
    """Whether features are divided by their L2 norm first."""

    def logits(self, features: NDArray[np.floating]) -> Floats:
        """(n, classes) logits of (n, d) features."""
        x = np.asarray(features, np.float64)
        if self.unit:
            x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), SMALLEST_NORM)
        return x @ self.weight.T + self.bias


def fit_ridge(features: Floats, targets: Floats, strengths: Sequence[float]) -> Iterator[LinearHead]:
    """A ridge head of each strength, with one decomposition for all of them."""
    z, mean, scale = _standardized(features)
    centre = targets.mean(axis=0)
    # With fewer images than features Z'(ZZ'/n + s I)^-1 is the same, and a smaller matrix is decomposed.
    wide = z.shape[1] > len(z)
    values, vectors = np.linalg.eigh((z @ z.T if wide else z.T @ z) / len(z))
    rotated = vectors.T @ (targets - centre if wide else z.T @ (targets - centre)) / len(z)
    for strength in strengths:
        solution = vectors @ (rotated / (np.maximum(values, 0) + strength)[:, None])
        yield _unstandardized(z.T @ solution if wide else solution, centre, mean, scale)


def fit_logistic(features: Floats, targets: Floats, strengths: Sequence[float]) -> Iterator[LinearHead]:
    """A multinomial logistic head of each strength; each search begins where the one before it ended."""
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

    flat = np.vstack([np.zeros((z.shape[1], shape[1])), np.log(targets.mean(axis=0) + 1 / len(z))]).ravel()
    for strength in strengths:
        flat = minimize(loss, flat, (strength,), method="L-BFGS-B", jac=True, options={"maxiter": 1000}).x
        weight, bias = np.split(flat.reshape(shape), [-1])
        yield _unstandardized(weight, bias[0], mean, scale)


def _standardized(features: Floats) -> tuple[Floats, Floats, Floats]:
    """The standardized features, their means, and what they were divided by."""
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    # Rounding leaves a small deviation of a feature that does not vary.
    scale = np.where(deviation > 1e-6 * np.abs(mean), deviation, np.inf)
    return (features - mean) / scale, mean, scale


def _unstandardized(weight: Floats, bias: Floats, mean: Floats, scale: Floats) -> LinearHead:
    weight = (weight / scale[:, None]).T
    return LinearHead(weight, bias - weight @ mean)


def _cross_entropy(outputs: NDArray[np.floating], targets: Floats) -> float:
    from scipy.special import log_softmax

    return -float((targets * log_softmax(outputs, axis=1)).sum())


class FitMethod(NamedTuple):
    """A way to fit a head."""

    fit: Callable[[Floats, Floats, Sequence[float]], Iterator[LinearHead]]
    """A function of features, targets and strengths, the largest first, that gives a head of each strength."""
    loss: Callable[[NDArray[np.floating], Floats], float]
    """The loss of outputs, summed over images, by which the strength is chosen."""


METHODS = {
    "ridge": FitMethod(fit_ridge, lambda outputs, targets: float(((outputs - targets) ** 2).sum())),
    "logistic": FitMethod(fit_logistic, _cross_entropy),
}


def strength_in_words(strength: float) -> str:
    """A strength, and whether it is an end of those that are tried, beyond which a better one may lie."""
    ends = {STRENGTHS[0]: ", the largest that is tried", STRENGTHS[-1]: ", the smallest that is tried"}
    return f"{strength:g}{ends.get(strength, '')}"


class FittedHead(NamedTuple):
    """A head with its strength and its accuracy."""

    head: LinearHead
    strength: float
    accuracy: float
    """The share of images that heads fitted to the other folds classify rightly, at this strength."""


def fit_head(
    features: NDArray[np.floating], labels: NDArray[np.int32], clusters: NDArray[np.int32], method: str, seed: int
) -> FittedHead:
    """Fit a head, with its strength by cross-validation in which no cluster lies in two folds.

    Args:
        features: (n, d), finite.
        labels: (n,) classes from 0, each of which some image has.
        clusters: (n,) of which there are at least two.
        method: one of METHODS.
        seed: of the folds.
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
    """(n,) the fold of each image: whole clusters, drawn so that each fold has about as many of each class."""
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
