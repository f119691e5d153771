"""Projected gradient descent for a batch of images at once, by the formulas of `probes.attacks`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Network = Callable[[Tensor], Tensor]
"""(n, 3, S, S) float32 in [0, 1] to (n, classes) float32 logits, each image by itself."""


class Attacked(NamedTuple):
    images: Tensor
    """(n, 3, S, S) float32: the images that are judged."""
    logits: Tensor
    """(n, classes) float32: the logits of these images."""


Band = tuple[float, float]
"""Two cutoffs, 0 <= low < high <= 1, as shares of the highest frequency: the band lies between their filters."""
ALL_PASS: Band = (0.0, 1.0)


class Budget(NamedTuple):
    """The reach and the length of an attack's search."""

    eps: float
    """The radius of the ball, in units of the image range."""
    step: float
    """The length of a step, in units of the image range."""
    steps: int
    band: Band = ALL_PASS
    """The frequencies of the start and of the steps."""


def pgd(
    network: Network,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    budget: Budget,
    until_fooled: bool = False,
    searched: Network | None = None,
) -> Attacked:
    """The last iterate; or the first one, the start among them, that fools the network, if one does.

    Args:
        network: without parameters that need a gradient.
        images: (n, 3, S, S) float32 in [0, 1].
        labels: (n,) int64, what the network is to be led away from.
        start: (n, 3, S, S) float32 in [-1, 1], in units of eps: where in the ball to begin.
        budget: how far and how long to search.
        until_fooled: an image that fools leaves the batch, so that it costs nothing more.
        searched: the network whose gradients are followed, such as one in less precision; by default `network`, which
            is the one that is judged in any case.
    """
    low, high = (images - budget.eps).clamp_(min=0), (images + budget.eps).clamp_(max=1)
    iterate = torch.add(images, within(start, budget.band), alpha=budget.eps).clamp_(low, high)
    rows = torch.arange(len(images), device=images.device)  # those that are still attacked
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
        # The bounds do projection and clipping at once, since the image lies within both.
        with torch.no_grad():
            iterate.add_(within(gradient.sign_(), budget.band), alpha=budget.step).clamp_(low, high)
    if len(rows):
        with torch.no_grad():
            results.append((rows, iterate.detach(), network(iterate)))
    positions, iterates, scores = (torch.cat(column) for column in zip(*results, strict=True))
    order = positions.argsort()
    return Attacked(iterates.index_select(0, order), scores.index_select(0, order))


pgd_any = partial(pgd, until_fooled=True)


def fooled(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) bool: whether the class of the largest logit, the lowest index first, is not the label."""
    score = logits.gather(1, labels[:, None])
    lower = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return ((logits > score) | ((logits == score) & lower)).any(1)


def loss_gradient(network: Network, iterate: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of the iterate, and the gradient of its cross entropy: a sum, so that each image's is its own."""
    iterate.requires_grad_()
    logits = network(iterate)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, labels, reduction="sum"), iterate)
    return logits.detach(), gradient


def within(change: Tensor, band: Band) -> Tensor:
    """The part of (n, 3, S, S) with frequencies of the band: the low-pass at `high` less that at `low`; S is even."""
    if band == ALL_PASS:
        return change
    half = change.shape[-1] // 2
    mask = torch.zeros(change.shape[-2:], device=change.device)
    for cutoff, weight in (band[1], 1), (band[0], 0):
        r = int(cutoff * half)
        mask[half - r : half + r, half - r : half + r] = weight
    filtered: Tensor = torch.fft.ifft2(torch.fft.fft2(change) * torch.fft.ifftshift(mask)).real
    return filtered
