"""The two likelihoods of the psychometric critical band, as array functions over many fits.

x = log2(noise_sd / 0.16) counts octaves of noise down from the strongest, so the four levels lie at -3, -2, -1, 0.
The sensitivity S = log2(0.16 / threshold) is 0 where accuracy is halved at 0.16, and 3 where it is halved at 0.02.
Rounded up, it is the published integer threshold on accuracies relative to noise_sd 0.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.special import expit, log_ndtr

from .critical_band import FREQUENCIES, NOISE_SDS, gaussian
from .maximum_likelihood import Floats, best_start, maximize

LEVELS = np.log2(np.array(NOISE_SDS[1:]) / NOISE_SDS[-1])
"""x of the four noise levels, weakest first."""
SENSITIVITY_RANGE = (0.0, float(-LEVELS[0]))
"""Sensitivities that the tested noise can tell apart; a threshold outside is known to lie outside, no more."""

SLOPE_BOUNDS = np.array([0.25, 32.0])
"""Log-odds per octave."""
THRESHOLD_LOW, THRESHOLD_HIGH = np.stack([[-3.0, 6.0], np.log2(SLOPE_BOUNDS)], axis=1)
"""Bounds of (S, log2 slope): three octaves beyond the tested noise."""
CHANNEL_LOW, CHANNEL_HIGH = np.array([0.01, -3.0, 0.25]), np.array([6.0, 9.0, 7.0])
"""Bounds of (A, mu, sigma): sensitivities to 6, centres to three octaves outside, widths of 1/4 to 7 octaves."""
SCATTER = 0.05
"""Octaves by which sensitivities scatter about the Gaussian. It cancels where no threshold is censored, and elsewhere
sets how sharply the Gaussian keeps to the censored side: a large one pushes a peak that lies just beyond the tested
noise away from it (0.25 overstates A = 3.6 by 0.2, 0.05 by less than 0.01)."""


def fit_thresholds(right: Floats, images: Floats, reference: Floats, floor: float = 0.0) -> tuple[Floats, Floats]:
    """(sensitivity, slope in log-odds per octave), each (R,), by binomial maximum likelihood.

    right (4, R): right answers at the four levels, weakest noise first; images (R,): answers in all;
    reference (R,): the accuracy at noise_sd 0, above 2 * floor.
    """
    data = (right, images, reference, np.full_like(images, floor))
    start = best_start(_binomial, product(np.arange(-1.0, 5.0, 0.5), (-1.0, 0.0, 1.0, 2.0, 3.0)), data)
    sensitivity, log_slope = maximize(_binomial, start, THRESHOLD_LOW, THRESHOLD_HIGH, data)
    return sensitivity, np.exp2(log_slope)


def accuracy_at(x: Floats, sensitivity: Floats, slope: Floats, reference: Floats, floor: Floats) -> Floats:
    """Accuracy = floor + (reference - floor) / (1 + exp(slope (x + S) - logit q)), `reference` / 2 at x = -S.

    q = (reference / 2 - floor) / (reference - floor) is the share of the curve's height that lies below the half.
    """
    log_odds_at_half = np.log((reference / 2 - floor) / (reference / 2))
    accuracy: Floats = floor + (reference - floor) * expit(log_odds_at_half - slope * (x + sensitivity))
    return accuracy


def _binomial(
    theta: Floats, right: Floats, images: Floats, reference: Floats, floor: Floats
) -> tuple[Floats, Floats, Floats]:
    sensitivity, slope = theta[0], np.exp2(theta[1])
    offset = LEVELS[:, None] + sensitivity
    p = np.clip(accuracy_at(LEVELS[:, None], sensitivity, slope, reference, floor), 1e-12, 1 - 1e-12)
    value = (right * np.log(p) + (images - right) * np.log1p(-p)).sum(axis=0)
    share = (p - floor) / (reference - floor)
    rise = (reference - floor) * share * (1 - share)  # dp / dlog-odds
    score = rise * (right - images * p) / (p * (1 - p))
    weight = rise**2 * images / (p * (1 - p))
    jacobian = np.stack([np.broadcast_to(-slope, offset.shape), -np.log(2) * slope * offset])
    return value, np.einsum("plr,lr->rp", jacobian, score), np.einsum("plr,qlr,lr->rpq", jacobian, jacobian, weight)


def fit_channels(sensitivity: Floats) -> Floats:
    """(A, mu, sigma), (3, R), of the Gaussians through sensitivities (7, R), those outside the range as censored.

    Log-likelihood of a sensitivity S against m = A exp(-(f - mu)^2 / (2 sigma^2)), with scatter s: -(S - m)^2 / (2 s^2)
    within the tested range [0, 3]; log Phi((m - 3) / s) above it; log Phi((0 - m) / s) below it (Tobin 1958).
    """
    starts = product((1.0, 2.0, 3.0, 4.0), (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0), (0.5, 1.0, 2.0, 4.0))
    start = best_start(_tobit, starts, (sensitivity,))
    return maximize(_tobit, start, CHANNEL_LOW, CHANNEL_HIGH, (sensitivity,))


def _tobit(theta: Floats, sensitivity: Floats) -> tuple[Floats, Floats, Floats]:
    amplitude, mu, sigma = theta
    low, high = SENSITIVITY_RANGE
    distance = (np.array(FREQUENCIES, dtype=np.float64)[:, None] - mu) / sigma
    model = gaussian(distance, amplitude, 0.0, 1.0)
    above, below = sensitivity > high, sensitivity < low
    # In units of the scatter: the residual where it is known, the distance to the censored side's edge elsewhere.
    sign = np.where(below, -1.0, 1.0)
    z = np.where(above, model - high, np.where(below, low - model, sensitivity - model)) / SCATTER
    log_side = log_ndtr(z)
    hazard = np.exp(-(z**2) / 2 - log_side) / np.sqrt(2 * np.pi)
    censored = above | below
    value = np.where(censored, log_side, -(z**2) / 2).sum(axis=0)
    score = np.where(censored, sign * hazard, z) / SCATTER
    weight = np.where(censored, hazard * (hazard + z), 1.0) / SCATTER**2
    jacobian = np.stack([model / amplitude, model * distance / sigma, model * distance**2 / sigma])
    return value, np.einsum("pfr,fr->rp", jacobian, score), np.einsum("pfr,qfr,fr->rpq", jacobian, jacobian, weight)
