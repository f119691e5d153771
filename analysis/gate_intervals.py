"""How sure a precision gate can be: the interval of a share of flips, and how many images would narrow it enough."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from .paired import Floats, Mask, Whole

Z = float(ndtri(0.975))


def flip_interval(flipped: Mask, clusters: Whole) -> tuple[Floats, Floats, Floats]:
    """Wilson's 95 % interval (low, high) of the share of images that are flipped, (cells, n), and what n counts as.

    Dependent images count as fewer, as in the view `cell_accuracy`: as many as would have the variance that the
    clusters have (Kish 1965); a cluster counts as one image where all or none are flipped.
    """
    count, n = len(np.unique(clusters)), flipped.shape[1]
    share = flipped.mean(axis=1)
    effective = np.full(len(share), float(count))
    mixed = (share > 0) & (share < 1)
    if 1 < count < n and mixed.any():
        order = np.argsort(clusters, kind="stable")
        _, first, sizes = np.unique(clusters[order], return_index=True, return_counts=True)
        sums = np.add.reduceat(flipped[mixed][:, order], first, axis=1, dtype=np.int64)
        part = share[mixed]
        between = ((sums - sizes * part[:, None]) ** 2).sum(axis=1) * count / (count - 1)
        with np.errstate(divide="ignore"):  # clusters that are all alike say as much as their images
            effective[mixed] = np.minimum(n, part * (1 - part) * n**2 / between)
    z2 = Z**2 / effective
    centre, half = (share + z2 / 2) / (1 + z2), np.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    return np.minimum(share, centre - half).clip(0), np.maximum(share, centre + half).clip(max=1), effective


def images_needed(
    flips: Floats, difference: Floats, discordant: Floats, max_flips: float, max_difference: float
) -> Floats:
    """About how many independent images would decide, if the shares stayed as they are; infinite on a limit.

    Args:
        flips: share of flipped images.
        difference: of the accuracies; NaN where there is none.
        discordant: share of the images that one of the two has right.
        max_flips: the limit L of flips.
        max_difference: the limit M of the difference, in either direction.

    Wilson's interval ends at L with z^2 L (1 - L) / (flips - L)^2 images. That of the difference d (Bonett & Price
    2012) has the half width m = ||d| - M| where m^2 n^2 = z^2 ((discordant - d^2) n + 2), and of n images.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        of_flips = Z**2 * max_flips * (1 - max_flips) / (flips - max_flips) ** 2
        margin, spread = (np.abs(difference) - max_difference) ** 2, Z**2 * (discordant - difference**2)
        of_difference = (spread + np.sqrt(spread**2 + 8 * margin * Z**2)) / (2 * margin)
    too_many, too_far = flips > max_flips, np.abs(difference) > max_difference
    # To pass, both have to fit; to fail, the first that does not is enough.
    to_fail = np.fmin(np.where(too_many, of_flips, np.inf), np.where(too_far, of_difference, np.inf))
    return np.where(too_many | too_far, to_fail, np.fmax(of_flips, of_difference))
