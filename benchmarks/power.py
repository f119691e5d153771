"""How many of 4,000 simulated studies find a difference of the size that 80 % of them should.

`accuracy`: statistics.paired on the images that two models saw, by the interval or by McNemar's test, with the smallest
differences of statistics.power for a discordance; in clusters, the images of each are all alike.
`shape bias`, `ratio`: the intervals of two runs, of statistics.shares and measures.spectral_bias. Studies without a
difference tell the width of the interval, and that the smallest difference, as the column `detectable` of `compare`.
`kappa`: statistics.consistency, two models with the smallest kappa that is told from 0.
`correlation`: Spearman's over models, of the smallest size that is found.

A row gives the share of studies that find it, in its direction; the standard error is 0.006 at 4,000 draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import pi, sin, sqrt

import numpy as np
from _common import arguments, table
from threadpoolctl import threadpool_limits

from bandlens.analysis.metrics.families.spectral_bias import quotients
from bandlens.analysis.statistics import ALPHA
from bandlens.analysis.statistics.chance_agreement import MatchedAnswers
from bandlens.analysis.statistics.coefficients import coefficients, t_test
from bandlens.analysis.statistics.consistency import error_consistencies
from bandlens.analysis.statistics.paired import paired
from bandlens.analysis.statistics.power import (
    detected_widths,
    smallest_correlation,
    smallest_difference,
    smallest_kappa,
    smallest_tested_difference,
)
from bandlens.analysis.statistics.proportions import difference_interval, share_of

SEED, BIAS = 0, "low_frequency_bias"
Row = tuple[str, int, float, float]
"""The quantity, the number of images or models, the smallest difference, and the share of studies that find it."""
Ends = Callable[[np.random.Generator, float], tuple[float, float]]
"""The interval of a study in which two models differ by so much."""


def accuracies(draws: int, images: int, discordance: float, cluster: int) -> Iterator[Row]:
    """A study's images are lost, gained or neither, those of a cluster alike."""
    rng, ids = np.random.default_rng([SEED, images, cluster]), np.repeat(np.arange(images // cluster), cluster)
    for name, find_difference in (("interval", smallest_difference), ("test", smallest_tested_difference)):
        difference, detections = find_difference(images, discordance, effect=cluster), 0
        for _ in range(draws):
            fate = np.repeat(rng.random(images // cluster), cluster)
            gains, losses = fate < (discordance + difference) / 2, fate > 1 - (discordance - difference) / 2
            compared = paired((losses | (fate > 0.5) & ~gains)[None], (gains | (fate > 0.5) & ~losses)[None], ids)
            detections += bool(
                compared.low[0] > 0 if name == "interval" else compared.p[0] < ALPHA and compared.difference[0] > 0
            )
        clusters = f" in clusters of {cluster}" if cluster > 1 else ""
        yield f"accuracy by {name}, discordance {discordance:g}{clusters}", images, difference, detections / draws


def by_width(name: str, images: int, draws: int, ends: Ends) -> Row:
    """The difference is as large as the width of intervals without one makes it."""
    rng = np.random.default_rng([SEED, images])
    widths = [high - low for low, high in (ends(rng, 0.0) for _ in range(max(20, draws // 10)))]
    difference = detected_widths() * float(np.mean(widths))
    return name, images, difference, float(np.mean([ends(rng, difference)[0] > 0 for _ in range(draws)]))


def shape_bias(images: int) -> Ends:
    """Two models decide on three quarters of the images, half by shape; half of their answers are alike."""

    def ends(rng: np.random.Generator, difference: float) -> tuple[float, float]:
        answers, alike = rng.random((2, images)), rng.random(images) < 0.5
        shares = []
        for own_answers, side in zip(answers, (-1, 1), strict=True):
            decided = np.where(alike, answers[0], own_answers) < 0.75
            is_shape = np.where(alike, answers[0] < 0.375, own_answers < 0.375 + side * 0.75 * difference)
            shares.append(share_of(is_shape[decided], np.flatnonzero(decided)))
        return difference_interval(*shares) or (-1, 1)

    return ends


def ratio(images: int) -> Ends:
    """Two models have 80 % right, and half of these under each of five low-passes; half of their answers are alike."""

    def ends(rng: np.random.Generator, difference: float) -> tuple[float, float]:
        clean, answers, alike = rng.random(images) < 0.8, rng.random((3, 5, images)), rng.random((5, images)) < 0.5
        filtered = [
            clean & np.where(alike, answers[2] < 0.5, own_answers < 0.5 + side * difference)
            for own_answers, side in zip(answers, (-1, 1), strict=False)
        ]
        runs = (np.concatenate([clean[None], hits]) for hits in filtered)
        answers = (MatchedAnswers(hits, hits.astype(int), None, 0.0, np.arange(images)) for hits in runs)
        bias_a, bias_b = (quotients(answer, [BIAS])[BIAS] for answer in answers)
        return (bias_b - bias_a).ends() or (-1, 1)

    return ends


def kappa(draws: int, images: int) -> Row:
    """Two models have 75 % right, and the second answers as the first on a share kappa of the images."""
    rng, value = np.random.default_rng([SEED, images]), smallest_kappa(images)
    detections = 0
    for _ in range(draws):
        first, second = rng.random((2, images)) < 0.75
        second = np.where(rng.random(images) < value, first, second)
        detections += error_consistencies(first, second[None], resamples=500)["low"].item() > 0
    return "kappa", images, value, detections / draws


def correlation(draws: int, models: int) -> Row:
    """Two normal variables whose Spearman coefficient is the smallest that is found."""
    rng, rho = np.random.default_rng([SEED, models]), smallest_correlation(models, method="spearman")
    pearson = 2 * sin(pi * rho / 6)
    x = rng.standard_normal((draws, 1, models))
    y = pearson * x + sqrt(1 - pearson**2) * rng.standard_normal(x.shape)
    r = coefficients("spearman", x, y, np.ones((draws, models)))[:, 0]
    detected = (t_test(r, x.shape[-1] - 2) < ALPHA) & (r > 0)
    return "correlation", models, rho, float(detected.mean())


def rows(draws: int) -> Iterator[Row]:
    for images, cluster in ((1000, 1), (5000, 1), (4000, 4)):
        for discordance in (0.05, 0.1, 0.2):
            yield from accuracies(draws, images, discordance, cluster)
    for images in (300, 1200):
        yield by_width("shape bias", images, draws, shape_bias(images))
        yield by_width("ratio", images, draws, ratio(images))
        yield kappa(draws, images)
    for models in (24, 48, 100):
        yield correlation(draws, models)


def main() -> None:
    options = arguments(__doc__, repeats=1, quick=1, draws=(4000, "simulated studies for each number"))
    draws = 100 if options.quick else options.draws
    print(f"seed {SEED}, {draws} draws\n")
    computed = list(rows(draws))
    head = ["what", "images or models", "smallest difference", "studies that find it"]
    table(head, [[name, str(count), f"{size:.4f}", f"{power:.3f}"] for name, count, size, power in computed])
    powers = [power for *_, power in computed]
    print(f"power: from {min(powers):.3f} to {max(powers):.3f}")


if __name__ == "__main__":
    with threadpool_limits(1, "blas"):  # the products are small: threads would wait for each other
        main()
