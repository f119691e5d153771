"""Simulated releases: how often a gate raises a false alarm, and how often it catches a loss in one condition.

A release answers 30 % of the images anew under each of 52 conditions, and has as many of them right as the release
before, or, in one condition of every second release, 5 points less. Images are as hard under one condition as under the
others, so that the rows of a table are correlated. Accuracy without perturbation is equal.

Then how often a single row passes whose true loss is the margin, and fails whose true loss is 0, where images or whole
clusters of images are lost; 2.5 % are meant.

Then the time of `bandlens.gate` on stored predictions of two releases, and its verdicts.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import polars as pl
from _common import arguments, folder, machine, ratio, table, timed
from coverage import answers, cluster_sizes
from numpy.typing import NDArray
from store import CONDITIONS, SESSION, all_cells, images

import bandlens
from bandlens.analysis.comparison.gates import Limits
from bandlens.analysis.comparison.release_gate import LEVEL, ReleasePair, decide
from bandlens.analysis.database.open import open_store
from bandlens.analysis.statistics import Ints
from bandlens.analysis.statistics.paired import PairedDifference, paired_difference
from bandlens.core.records import Finished, Predictions

ANEW = 0.3
"""The share of images that a release answers anew."""
LOSS = 0.05
SINGLE_ROWS = {"200 images": (np.ones(200, np.int64), (0.0,))} | {
    f"100 clusters of {name}": (cluster_sizes(100)[name], (0.0, 0.3, 0.6)) for name in ("8", "1 to 40")
}
"""Name -> images of each cluster, and intraclass correlations of losses, by clusters that are lost as a whole."""


def outcomes(
    random: np.random.Generator, conditions: int, count: int, loss: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(conditions, count): what the two releases have right; the last condition has the loss."""
    ease = random.random(count, np.float32)
    level = np.linspace(0.2, 0.9, conditions, dtype=np.float32)[:, None]

    def answers(points: NDArray[np.float32]) -> NDArray[np.bool_]:
        noise = random.random((conditions, count), np.float32)
        # Half of a condition's images depend on their ease alone.
        return np.where(noise < 0.5, ease, 2 * noise - 1) < points

    hits_a = answers(level)
    lower = level.copy()
    lower[-1] -= loss / ANEW
    hits_b = np.where(random.random((conditions, count), np.float32) < ANEW, answers(lower), hits_a)
    return hits_a, hits_b


def judge(hits_a: NDArray[np.bool_], hits_b: NDArray[np.bool_]) -> pl.Series:
    """The verdict of each condition."""
    conditions = pl.DataFrame({"probe": [str(k) for k in range(len(hits_a))]})
    values = {"accuracy": (hits_a.astype(np.float64), hits_b.astype(np.float64))}
    pair = ReleasePair(conditions, (hits_a, hits_b), values, np.arange(hits_a.shape[1]))
    return decide(pair.judge([("", np.arange(hits_a.shape[1]))], Limits())[0])["verdict"]


def judge_single_rows(releases: int, sizes: Ints, icc: float, lost: float, gained: float) -> PairedDifference:
    """The losses of releases with a single row, that lose and gain shares of the images."""
    random = np.random.default_rng(2)
    lost_images = answers(random, lost, "right", icc, releases, sizes)
    gained_images = random.binomial((sizes - lost_images).astype(np.int64), gained / (1 - lost))
    loss, changes = lost_images - gained_images, lost_images + gained_images
    return paired_difference(loss.sum(axis=1), changes.sum(axis=1), loss, sizes)


def store_releases(db: Path, count: int) -> None:
    """Store two releases, as studies v1 and v2, under the published grid."""
    random, image_set = np.random.default_rng(1), images(count)
    outcome_pairs = outcomes(random, CONDITIONS, count, LOSS)
    with open_store(db) as store:
        for name, cells, hits in zip(("v1", "v2"), all_cells(image_set.info, 2), outcome_pairs, strict=True):
            rank = np.where(hits, 0, 7).astype(np.uint16)
            predicted = np.where(hits, image_set.labels, (image_set.labels + 1) % 1000).astype(np.uint16)
            confidence = np.full(count, 0.5, np.float32)
            store.begin_study(name, "", cells, [image_set])
            parts = [
                Finished(cell, 0, Predictions(predicted[k], rank[k], confidence), 1.0) for k, cell in enumerate(cells)
            ]
            store.commit(parts, {cells[0].variant: SESSION})


def main() -> None:
    options = arguments(__doc__, repeats=5, quick=1, releases=(1000, "simulated releases of each kind"))
    releases, count = (20, 500) if options.quick else (options.releases, 5000)
    machine("numpy", "polars", "duckdb")
    random, alarms, detections, start = np.random.default_rng(0), 0, 0, time.perf_counter()
    for _ in range(releases):
        alarms += "fail" in judge(*outcomes(random, CONDITIONS, count, 0))
        detections += judge(*outcomes(random, CONDITIONS, count, LOSS))[-1] == "fail"
    seconds = time.perf_counter() - start
    print(f"{2 * releases:,} releases of {CONDITIONS} conditions x {count:,} images in {seconds:.0f} s")
    print(f"tables without a loss in which a row fails: {alarms / releases:.1%}; goal at most 5 %")
    print(f"losses of {LOSS:.0%} in one condition that fail: {detections / releases:.1%}; goal at least 90 %")
    rows = []
    for name, (sizes, correlations) in SINGLE_ROWS.items():
        for icc, margin, gained in itertools.product(correlations, (0.01, 0.03), (0.0, 0.02)):
            passes = judge_single_rows(4 * releases, sizes, icc, margin + gained, gained).p_below(margin) <= LEVEL
            fails = judge_single_rows(4 * releases, sizes, icc, gained, gained).p_above(0) <= LEVEL
            rows.append([name, icc, f"{margin:.0%}", f"{gained:.0%}", f"{passes.mean():.3f}", f"{fails.mean():.3f}"])
    table(["a single row", "ICC", "margin", "gained", "wrong passes", "wrong failures"], rows)
    with folder(options.keep) as place:
        db = place / "releases.duckdb"
        if not db.exists():
            store_releases(db, count)
        variants = {
            "seconds for a table": {},
            "seconds for a table with 1,000 classes": {"slices": ["class"]},
        }
        for title, thresholds in variants.items():
            gate = timed(lambda thresholds=thresholds: bandlens.gate("v2", "v1", db, **thresholds))
            ratio(title, [gate() for _ in range(options.repeats)], "5 s" if not thresholds else "none")


if __name__ == "__main__":
    main()
