"""The correlation table of the published figures: 6 biases x 4 groups x 3 subsets, 10,000 resamples and permutations.

`bandlens`: analysis.correlate.correlate: intervals, permutation tests, correction, partial, leave-one-category-out.
`bootstrap`: analysis.resampling.bootstrap, the resampled coefficients of the 24 pairs of all 48 models alone.
`loop`: the same resamples, one call of scipy.stats.spearmanr, pearsonr or kendalltau for each and each pair.

The loop does a part of the resamples, and its time is scaled to all of them.
"""

from __future__ import annotations

import numpy as np
import scipy.stats
from _common import arguments, in_turn, machine, ratio, ratios, table, timed
from threadpoolctl import threadpool_limits

from bandlens.analysis.correlations.models import SUBSET_FILTERS, values_of
from bandlens.analysis.correlations.table import correlate
from bandlens.analysis.published.figures import BIASES, PUBLISHED_GROUPS, shipped_figures
from bandlens.analysis.statistics.arrays import Floats
from bandlens.analysis.statistics.coefficients import METHODS, Method
from bandlens.analysis.statistics.resampling import bootstrap

RESAMPLES = 10_000
SCIPY = {"spearman": scipy.stats.spearmanr, "pearson": scipy.stats.pearsonr, "kendall": scipy.stats.kendalltau}


def loop(method: Method, x: Floats, y: Floats, resamples: int) -> Floats:
    """The resampled coefficients, one pair at a time, of shape (resamples, a, b)."""
    n = x.shape[-1]
    drawn = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))[:resamples]
    return np.array([[[SCIPY[method](a[i], b[i]).statistic for b in y] for a in x] for i in drawn])


def main() -> None:
    options = arguments(__doc__, repeats=7, quick=1, part=(50, "resamples that the loop does"))
    figures = shipped_figures()
    x, y = values_of(figures, list(BIASES)), values_of(figures, list(PUBLISHED_GROUPS))
    rows, speedups = [], {}
    with threadpool_limits(1, "blas"):
        machine("numpy", "scipy", "polars")
        for method in METHODS:
            seconds = in_turn(
                {
                    "table": timed(
                        lambda m=method: correlate(
                            figures, list(BIASES), list(PUBLISHED_GROUPS), SUBSET_FILTERS, m, "ID"
                        )
                    ),
                    "bootstrap": timed(lambda m=method: bootstrap(m, x, y, RESAMPLES, 0)),
                    "loop": timed(lambda m=method: loop(m, x, y, options.part)),
                },
                options.repeats,
            )
            scaled = [s * RESAMPLES / options.part for s in seconds["loop"]]
            speedups[method] = ratios(scaled, seconds["bootstrap"])
            resampled = bootstrap(method, x, y, RESAMPLES, 0)[: options.part]
            worst = np.abs(resampled - loop(method, x, y, options.part)).max()
            rows.append([method, seconds["table"], seconds["bootstrap"], scaled, f"{worst:.0e}"])
    table(["", "whole table, s", "bootstrap, s", "loop, scaled, s", "largest difference"], rows)
    for method, values in speedups.items():
        goal = ">= 100" if method == "spearman" else "none"
        ratio(f"{method}: loop over scipy over bootstrap", values, goal)


if __name__ == "__main__":
    main()
