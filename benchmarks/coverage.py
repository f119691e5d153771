"""How often 95 % intervals hold the true number, on simulated images of which it is known.

`share`: statistics.wilson, as in the view `accuracy`, for flips of gates and shape bias. With an intraclass
correlation (ICC), the right answers of a cluster are beta-binomial; or some clusters are right or wrong as a whole
(`whole`), or right as a whole (`right`), and the images of all others are independent.
Clusters have 8 images, 200, 1 to 40 (evenly, or as a geometric series), or 40 in every second or fifth and else 1.
`normal`: Wilson's with the normal quantile, and no clusters that are not seen.
`mean`: statistics.shares, the mean of the accuracies on two sets that show the same photographs.
`ratio`: statistics.shares, accuracy under a filter over clean accuracy, of independent images.
`bias`: measures.spectral_bias, high-frequency bias and spectral bias.
`difference`: statistics.paired and statistics.shares, the difference of two accuracies on the same images.
`metric`: measures.spectral_bias and statistics.shares, the difference of a metric of two runs on the same images.
`channel`: measures.psychometric, the numbers of a channel, and their difference of two runs on the same images.
`correlation`: statistics.resampling, Spearman's of a bias with accuracies of models that saw the same images.

A row gives the coverage for each true number, its standard error is at most 0.005 at 2,000 draws and 0.95.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from _common import arguments, table
from threadpoolctl import threadpool_limits

from bandlens.analysis.metrics.families.critical_band import CHANNEL, channel_numbers
from bandlens.analysis.metrics.families.likelihood import LEVELS, accuracy_at, fit_channels, fit_thresholds, noise_of
from bandlens.analysis.metrics.families.psychometric import PUBLISHED, estimate_band, paired_band_intervals
from bandlens.analysis.metrics.families.spectral_bias import Quotient, quotients
from bandlens.analysis.statistics import Floats, Ints, Mask
from bandlens.analysis.statistics.chance_agreement import MatchedAnswers
from bandlens.analysis.statistics.paired import paired
from bandlens.analysis.statistics.proportions import difference_interval, mean_of, share_interval, share_of
from bandlens.analysis.statistics.resampling import Spread, bca_intervals, bootstrap, crossed_bootstrap, shared_factors
from bandlens.analysis.statistics.wilson import SampledShare, counted_share
from bandlens.core.protocol import SIZE as IMAGE_SIZE

SHARES = (0.01, 0.05, 0.1, 0.5, 0.9, 0.95, 0.99)
CLUSTERS = (10, 20, 50, 100, 1000)
SIZE = 8
KINDS = {"beta-binomial": (0.0, 0.1, 0.3, 0.6, 1.0), "whole": (0.1, 0.3, 0.6), "right": (0.1, 0.3, 0.6)}
"""Kind of clusters -> its intraclass correlations."""
SEED = 0


def cluster_sizes(clusters: int) -> dict[str, Ints]:
    """Name -> images of each cluster, (clusters,)."""
    place = np.arange(clusters)
    return {
        str(SIZE): np.full(clusters, SIZE),
        "200": np.full(clusters, 200),
        "1 to 40": np.rint(np.linspace(1, 40, clusters)).astype(np.int64),
        "1 to 40, geometric": np.rint(np.geomspace(1, 40, clusters)).astype(np.int64),
        "40, 1, …": np.where(place % 2, 1, 40),
        "40, 1, 1, 1, 1, …": np.where(place % 5, 1, 40),
    }


def answers(rng: np.random.Generator, p: float, kind: str, icc: float, draws: int, sizes: Ints) -> Floats:
    """Right answers of clusters (draws, clusters) of `sizes` (clusters,)."""
    shape = (draws, len(sizes))
    if kind == "whole":
        chance = np.where(rng.random(shape) < icc, rng.random(shape) < p, p)
    elif kind == "right":
        alike = icc * p / (1 - p + icc * p)
        chance = np.where(rng.random(shape) < alike, 1, (p - alike) / (1 - alike))
    elif icc == 0:
        chance = np.full(shape, p)
    elif icc == 1:
        chance = (rng.random(shape) < p).astype(np.float64)
    else:
        scale = 1 / icc - 1
        chance = rng.beta(p * scale, (1 - p) * scale, shape)
    return rng.binomial(sizes, chance).astype(np.float64)


def held(low: Floats, high: Floats, truth: float) -> float:
    return float(np.mean((low <= truth) & (truth <= high)))


def shares(draws: int) -> Iterator[tuple[list[object], list[float], list[float]]]:
    """The numbers that head a row, and its coverages now and with the normal quantile."""
    for clusters in CLUSTERS:
        designs = [("1", np.ones(clusters, np.int64), "beta-binomial", 0.0)]
        designs += [
            (name, sizes, kind, icc)
            for name, sizes in cluster_sizes(clusters).items()
            for kind, iccs in KINDS.items()
            for icc in iccs
        ]
        for name, sizes, kind, icc in designs:
            coverages, normal = [], []
            for p in SHARES:
                hits = answers(np.random.default_rng([SEED, clusters, len(name)]), p, kind, icc, draws, sizes)
                sampled = counted_share(hits, sizes)
                coverages.append(held(*sampled.ends(), p))
                normal.append(held(*SampledShare(sampled.share, sampled.effective).ends(), p))
            yield [clusters, name, kind, icc], coverages, normal


def draw_fates(rng: np.random.Generator, sizes: Ints, alike: float, whole: bool) -> Floats:
    """Uniform draws (images,); a share `alike` of whole clusters, or else of each one's images, have a single draw."""
    ids = np.repeat(np.arange(len(sizes)), sizes)
    share = rng.random(len(sizes))[ids] if whole else rng.random(len(ids))
    return np.where(share < alike, rng.random(len(sizes))[ids], rng.random(len(ids)))


def means(draws: int, sizes: Ints, icc: float, p: float) -> float:
    """The mean over two sets of the same photographs, accuracies p and p / 2, of clusters that are `whole`."""
    rng, holds, ids = np.random.default_rng([SEED, 1, len(sizes)]), [], np.repeat(np.arange(len(sizes)), sizes)
    for _ in range(draws):
        fate = draw_fates(rng, sizes, icc, whole=True)
        low, high = share_interval(mean_of([share_of(fate < share, ids) for share in (p, p / 2)]))
        holds.append(low <= 0.75 * p <= high)
    return float(np.mean(holds))


def quotients_of(correct: Mask, ids: Ints) -> dict[str, Quotient]:
    """Published biases of right answers (11, images)."""
    return quotients(MatchedAnswers(correct, correct.astype(np.int64), None, 0.0, ids))


def biases(draws: int, sizes: Ints, clean_share: float, ratio: float) -> tuple[float, float]:
    """High-frequency bias and spectral bias, where low-passes leave a half and 0.6 of the clusters are `whole`."""
    rng, ids = np.random.default_rng([SEED, 3, len(sizes)]), np.repeat(np.arange(len(sizes)), sizes)
    truth, count = {"high_frequency_bias": ratio, "spectral_bias": ratio / (0.5 + ratio)}, Counter[str]()
    for _ in range(draws):
        clean, low_pass, high_pass = (draw_fates(rng, sizes, 0.6, whole=True) < p for p in (clean_share, 0.5, ratio))
        numbers = quotients_of(np.array([clean, *[clean & low_pass] * 5, *[clean & high_pass] * 5]), ids)
        for name, value in truth.items():
            low, high = numbers[name].ends() or (0, 0)
            count[name] += low <= value <= high
    return count["high_frequency_bias"] / draws, count["spectral_bias"] / draws


def differences(
    draws: int, sizes: Ints, alike: float, whole: bool, p: float, changed_share: float
) -> tuple[float, float]:
    """Coverage for cells, as in `compare`, and for means of accuracies, where answers are alike by `draw_fates`.

    B is right with probability p. A is right in half of these; or, with changed_share > 0, wherever B is, but for that
    share of clusters, which have other answers, half as often right.
    """
    clusters = len(sizes)
    rng = np.random.default_rng([SEED, 4, clusters])
    ids, truth, count = np.repeat(np.arange(clusters), sizes), p / 2 * (changed_share or 1), [0.0, 0.0]
    for _ in range(draws):
        fate = draw_fates(rng, sizes, alike, whole)
        a, b = fate < p / 2, fate < p
        if changed_share:
            redraw, chance = np.repeat(rng.random((2, clusters)), sizes, axis=1)
            a = np.where(chance < changed_share, redraw < p / 2, b)
        intervals = paired(a[None], b[None], ids)
        count[0] += held(intervals.low, intervals.high, truth)
        low, high = difference_interval(share_of(a, ids), share_of(b, ids)) or (-1, 1)
        count[1] += low <= truth <= high
    return count[0] / draws, count[1] / draws


def channels(draws: int, images: int, change: float) -> list[float]:
    """Bandwidth, centre frequency and height of one run; then their differences from another.

    Sensitivities are 2.2 exp(-(f - 3.5)^2 / (2 1.5^2)). The other run has new answers on the share `change`, by a
    channel at f = 3.9 of sensitivity 1.9, whose own numbers stand in for the truth where all is new, and those of
    a million images elsewhere.
    """
    octaves = np.arange(7)
    curves = [a * np.exp(-((octaves - mu) ** 2) / (2 * 1.5**2)) for a, mu in ((2.2, 3.5), (1.9, 3.9))]
    chance, new = (
        np.concatenate([[0.75], *(accuracy_at(LEVELS, s, 2.0, 0.75, 0.0) for s in curve)])[:, None] for curve in curves
    )
    truth = []
    for mixed in (chance, (1 - change) * chance + change * new):
        correct = np.rint(1e6 * mixed)
        levels, clean = correct[1:].reshape(7, 4).T, np.repeat(correct[0] / 1e6, 7)
        sensitivity, _ = fit_thresholds(levels, np.full(7, 1e6), clean)
        channel = fit_channels(sensitivity[:, None], noise_of(PUBLISHED))
        truth.append([float(number[0]) for number in channel_numbers(channel, IMAGE_SIZE)])
    rng, count = np.random.default_rng([SEED, 7, images]), np.zeros((2, 3))
    for run in range(draws):
        a = rng.random((29, images)) < chance
        b = np.where(rng.random(a.shape) < change, rng.random(a.shape) < new, a)
        band = estimate_band(a, resamples=300, seed=run)
        intervals = paired_band_intervals(a, b, resamples=300, seed=run)
        for k, name in enumerate(CHANNEL):
            estimate = band[name]
            low, high = intervals.get(name, (-np.inf, np.inf))
            count[0, k] += estimate.low <= truth[0][k] <= estimate.high
            count[1, k] += low <= truth[1][k] - truth[0][k] <= high
    return (count / draws).ravel().tolist()


def metrics(draws: int, images: int, change: float) -> tuple[float, float, float]:
    """High-frequency bias and accuracy, B against A: B's answers under a filter are A's but for the share `change`.

    The last is how wide the interval of the accuracy's difference is, over that of two independent ones (MOVER).
    """
    rng = np.random.default_rng([SEED, 5, images])
    ids, count, narrower = np.arange(images), [0, 0], []
    rate_a, rate_b = 0.3, 0.3 * (1 - change) + 0.5 * change
    for _ in range(draws):
        clean = rng.random(images) < 0.8
        a = np.array([clean, *(clean & (rng.random(images) < r) for r in [0.5] * 5 + [rate_a] * 5)])
        b = np.where(rng.random(a.shape) < change, clean & (rng.random(a.shape) < 0.5), a)
        b[:6] = a[:6]
        bias_a, bias_b = (quotients_of(correct, ids)["high_frequency_bias"] for correct in (a, b))
        low, high = (bias_b - bias_a).ends() or (0, 0)
        count[0] += low <= rate_b - rate_a <= high
        share_a, share_b = share_of(a[6], ids), share_of(b[6], ids)
        (low_a, high_a), (low_b, high_b) = share_interval(share_a), share_interval(share_b)
        estimate = share_b.value - share_a.value
        down, up = (
            np.hypot(share_b.value - low_b, high_a - share_a.value),
            np.hypot(high_b - share_b.value, share_a.value - low_a),
        )
        low, high = difference_interval(share_a, share_b) or (estimate - down, estimate + up)
        count[1] += low <= 0.8 * (rate_b - rate_a) <= high
        narrower.append((high - low) / (down + up))
    return count[0] / draws, count[1] / draws, float(np.mean(narrower))


def correlations(draws: int, images: int, rho: float) -> tuple[float, float, float]:
    """Coverage over models; over models and images, drawn model by model; and with the errors drawn together.

    Whether a model is right on an image depends on the image more than on the model, so that errors are alike.
    """
    rng, models = np.random.default_rng([SEED, 6, images]), 30
    truth, count = 6 / np.pi * np.arcsin(rho / 2), [0, 0, 0]
    for run in range(draws):
        skill = rng.standard_normal((2, models))
        skill[1] = rho * skill[0] + np.sqrt(1 - rho**2) * skill[1]
        hard, luck = 1.5 * rng.standard_normal(images), rng.standard_normal((models, images))
        hits = 0.4 * skill[1][:, None] + luck > hard
        shares = [share_of(row, np.arange(images)) for row in hits]
        x, y = skill[:1], np.array([[share.value for share in shares]])
        low, high = np.array([share_interval(share) for share in shares]).T[:, None]
        spread, zero_spread = Spread(y - low, high - y), Spread(np.zeros_like(x), np.zeros_like(x))
        shared = shared_factors([*[None] * models, *shares]).reshape(2, models, -1)
        resampled = [bootstrap("spearman", x, y, 500, run)]
        resampled += [
            crossed_bootstrap("spearman", x, y, zero_spread, spread, 500, run, factors) for factors in (None, shared)
        ]
        for k, resamples in enumerate(resampled):
            [interval] = bca_intervals("spearman", x, y, resamples)
            count[k] += bool(interval.low[0, 0] <= truth <= interval.high[0, 0])
    return count[0] / draws, count[1] / draws, count[2] / draws


def numbers(values: Sequence[float]) -> list[str]:
    return [f"{value:.3f}" for value in values]


def main() -> None:
    options = arguments(__doc__, repeats=1, quick=1, draws=(2000, "simulated sets of images for each number"))
    draws = 200 if options.quick else options.draws

    def share_of_draws(divisor: int) -> int:
        """Draws of what takes longer; two show that it works."""
        return 2 if options.quick else max(20, draws // divisor)

    print(f"seed {SEED}, {draws} draws\n")
    rows, minima = [], dict.fromkeys(("independent", *KINDS), (1.0, 1.0))
    for names, coverages, normal in shares(draws):
        rows.append([*map(str, names), *numbers(coverages), f"{min(normal):.3f}"])
        kind = "independent" if names[1] == "1" else str(names[2])
        minima[kind] = min(minima[kind][0], *coverages), min(minima[kind][1], *normal)
    table(["clusters", "images each", "kind", "ICC", *(f"p = {p}" for p in SHARES), "worst, normal"], rows)
    for kind, (minimum, minimum_normal) in minima.items():
        print(f"share, {kind}: worst {minimum:.3f}; with the normal quantile {minimum_normal:.3f}")
    designs = [(f"{n} photographs", np.ones(n, np.int64), 0.0) for n in (30, 100, 1000)]
    for name, icc in itertools.product(("8", "1 to 40"), (0.3, 0.6)):
        designs.append((f"50 of {name}, ICC {icc}", cluster_sizes(50)[name], icc))
    table(
        ["mean of two sets", *(f"p = {p}" for p in SHARES)],
        [[name, *numbers([means(share_of_draws(1), *design, p) for p in SHARES])] for name, *design in designs],
    )
    rows, near = [], (0.0005, 0.002, 0.01, 0.1, 0.5, 0.99, 0.999)
    bias_designs = [(30, "1", 0.8), (300, "1", 0.8), (300, "1", 0.1), (50, "8", 0.8), (20, "40, 1, 1, 1, 1, …", 0.8)]
    for n, each, clean in bias_designs:
        sizes = cluster_sizes(n).get(each, np.ones(n, np.int64))
        held_biases = zip(*(biases(share_of_draws(2), sizes, clean, ratio) for ratio in near), strict=True)
        for bias, values in zip(("high_frequency_bias", "spectral_bias"), held_biases, strict=True):
            rows.append([str(n), each, f"{clean:g}", bias, *numbers(values)])
    table(["clusters", "images each", "clean accuracy", "bias", *map(str, near)], rows)
    rows, minima = [], np.ones(2)
    pairs = ((10, 8), (30, 8), (60, 20), (100, 1), (100, 8))
    equal = [(f"{n} clusters of {size}", np.full(n, size), 0.5, False) for n, size in pairs]
    unequal = [
        (f"{n} of {name}, {alike:g} of {'clusters' if whole else 'images'} alike", sizes, alike, whole)
        for n in (20, 60)
        for name, sizes in cluster_sizes(n).items()
        for alike, whole in ((0.5, False), (0.3, True), (0.6, True), (1.0, True))
    ]
    for name, *design in equal + unequal:
        for changed_share in (0.0, 0.03):
            held_shares = np.array([differences(share_of_draws(2), *design, p, changed_share) for p in SHARES]).T
            labels = [name, "half" if not changed_share else "3 % anew"]
            rows += [
                [*labels, quantity, *numbers(shares_held)]
                for quantity, shares_held in zip(("cell", "mean"), held_shares, strict=True)
            ]
            minima = np.minimum(minima, held_shares.min(axis=1))
    table(["difference of two accuracies", "A", "of a", *(f"p = {p}" for p in SHARES)], rows)
    print(f"difference: worst {minima[0]:.3f} of a cell, {minima[1]:.3f} of a mean\n")
    names = ("bandwidth", "centre", "height")
    differing = ["answers drawn anew", *names, *(f"{name}, difference" for name in names)]
    paired = ["answers drawn anew", "high_frequency_bias", "accuracy", "width / unpaired"]
    over = ["correlation of 30 models", "over models", "each model's images", "the same images"]
    for head, simulate, fewer, cases in (
        (differing, channels, 10, ((100, 0.05), (100, 0.2), (100, 1.0), (300, 0.05))),
        (paired, metrics, 5, itertools.product((100, 300, 1000), (0.05, 0.2, 0.5))),
        (over, correlations, 5, itertools.product((100, 1000), (0.0, 0.5, 0.8))),
    ):
        rows = [[n, case, *numbers(simulate(share_of_draws(fewer), n, case))] for n, case in cases]
        table(["images", *head], rows)


if __name__ == "__main__":
    with threadpool_limits(1, "blas"):  # the products are small: threads would wait for each other
        main()
