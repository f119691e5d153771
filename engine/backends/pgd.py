"""Projected gradient descent on a batch of images, with the formulas of `probes.attacks`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Network = Callable[[Tensor], Tensor]
"""Maps (n, 3, S, S) float32 images in [0, 1] to (n, classes) float32 logits. Images must not influence each other."""


class Attacked(NamedTuple):
    """The adversarial images and their logits."""

    images: Tensor
    """(n, 3, S, S) float32 adversarial images."""
    logits: Tensor
    """(n, classes) float32 logits of these images."""


Band = tuple[float, float]
"""A frequency band: two cutoffs, 0 <= low < high <= 1, as fractions of the highest frequency."""
ALL_PASS: Band = (0.0, 1.0)
"""The band of all frequencies."""


class Budget(NamedTuple):
    """The size of the perturbation and the length of the search."""

    eps: float
    """Radius of the L-infinity ball, in units of the image range."""
    step: float
    """Step size, in units of the image range."""
    steps: int
    """Number of steps."""
    band: Band = ALL_PASS
    """Frequencies to which the starting point and the steps are restricted."""


def pgd(
    network: Network,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    budget: Budget,
    until_fooled: bool = False,
    searched: Network | None = None,
) -> Attacked:
    """Attack images with projected gradient descent.

    Args:
        network: The model to attack. Its parameters must not require gradients.
        images: (n, 3, S, S) float32 in [0, 1].
        labels: (n,) int64, the classes whose cross-entropy the attack maximizes.
        start: (n, 3, S, S) float32 in [-1, 1]. Starting point inside the ball, in units of eps.
        budget: The size of the perturbation and the length of the search.
        until_fooled: Whether to stop early, at the first iterate that is misclassified (which may be the starting
            point). Misclassified images leave the batch, so that they cost no further computation.
        searched: The model whose gradients are followed, for example one at a lower precision. By default `network`.
            The returned logits, and the decision whether an image is misclassified, always come from `network`.

    Returns:
        The last iterate of each image, or with `until_fooled` the first misclassified one if there is one, and its
        logits.
    """
    low, high = (images - budget.eps).clamp_(min=0), (images + budget.eps).clamp_(max=1)
    iterate = torch.add(images, within(start, budget.band), alpha=budget.eps).clamp_(low, high)
    rows = torch.arange(len(images), device=images.device)  # indices of the images that are still attacked
    results: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(budget.steps):
        logits, gradient = loss_gradient(searched or network, iterate, labels)
        if until_fooled and searched is not None:
            with torch.no_grad():
                logits = network(iterate)
        if until_fooled and (out := fooled(logits, labels)).any():
            results.append((rows[out], iterate.detach()[out], logits[out]))
            rows, labels, gradient, low, high, iterate = (
                tensor.detach()[~out] for tensor in (rows, labels, gradient, low, high, iterate)
            )
            if not len(rows):
                break
        # The clean image lies inside both the ball and the image range, so clamping to the intersection of the two
        # projects and clips at once.
        with torch.no_grad():
            iterate.add_(within(gradient.sign_(), budget.band), alpha=budget.step).clamp_(low, high)
    if len(rows):
        with torch.no_grad():
            results.append((rows, iterate.detach(), network(iterate)))
    positions, iterates, scores = (torch.cat(column) for column in zip(*results, strict=True))
    order = positions.argsort()
    return Attacked(iterates.index_select(0, order), scores.index_select(0, order))


pgd_any = partial(pgd, until_fooled=True)
"""PGD that stops each image at its first misclassified iterate."""


def fooled(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (n,) bool: whether the predicted class differs from the label. Ties go to the lowest class."""
    score = logits.gather(1, labels[:, None])
    lower = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return ((logits > score) | ((logits == score) & lower)).any(1)


def loss_gradient(network: Network, iterate: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of the iterate and the gradient of its cross-entropy.

    The loss is summed, not averaged, so that the gradient of an image does not depend on the batch size.
    """
    iterate.requires_grad_()
    logits = network(iterate)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, labels, reduction="sum"), iterate)
    return logits.detach(), gradient


def within(change: Tensor, band: Band) -> Tensor:
    """Restrict (n, 3, S, S) to a frequency band: the low-pass filter at `high` minus the one at `low`.

    S must be even.
    """
    if band == ALL_PASS:
        return change
    half = change.shape[-1] // 2
    mask = torch.zeros(change.shape[-2:], device=change.device)
    for cutoff, weight in (band[1], 1), (band[0], 0):
        r = int(cutoff * half)
        mask[half - r : half + r, half - r : half + r] = weight
    filtered: Tensor = torch.fft.ifft2(torch.fft.fft2(change) * torch.fft.ifftshift(mask)).real
    return filtered
