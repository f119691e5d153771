"""docs/guide/results.md: every query of the cookbook runs and answers what its heading asks."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_results import cell, condition, image_set, model, part, store_study, store_values

from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics.compute import compute_measures

DOCS = Path(__file__).parents[2] / "docs"
QUERIES = re.findall(r"```sql\n(.*?);?\n```", (DOCS / "guide" / "results.md").read_text(encoding="utf-8"), re.DOTALL)
COUNT = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Five checkpoints on labelled images: the stronger the filter, the more are wrong. One more on other images."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, COUNT)
    accepted = [[int(label), int(label + 1) % 10] if k % 3 else [] for k, label in enumerate(labels)]
    images = image_set(COUNT, labels=labels, schemes={"real": accepted})
    conflict = image_set(4, labels=[0, 1, 2, 3], schemes={"texture": [[1], [2], [3], [0]]}, name="conflict")
    settings = [
        condition(),
        *(condition("lowpass", cutoff=c) for c in (0.1, 0.3, 0.5)),
        condition("highpass", cutoff=0.9),
    ]
    settings += [condition("critical_band", noise_sd=sd, frequency=f) for sd in (0.02, 0.16) for f in (2, 3)]
    path = tmp_path_factory.mktemp("docs") / "results.duckdb"
    with open_store(path) as store:
        parts = []
        for number in range(5):
            net = model(f"net{number}", category="adversarial_training" if number < 2 else "baseline")
            for setting in settings:
                strength = 0.1 if setting.probe == "clean" else 0.3 + 0.1 * rng.random()
                rank = np.where(rng.random(COUNT) < strength, rng.integers(1, 9, COUNT), 0)
                rank[:3] = 0 if net.category == "adversarial_training" else 1
                rank[3:6] = 0
                predicted = (np.asarray(images.labels) + rank) % 10
                parts.append(part(cell(images, setting, by=net), predicted, rank))
        names = {"all": {k: f"class {k}" for k in range(10)}}
        store_study(store, "mine", images, parts[:-1], names)
        store_study(store, "mine", images, parts, names)
        compute_measures(store, "mine")
        store_study(store, "cues", conflict, [part(cell(conflict, by=model("other")), [0, 2, 2, 2], [0, 1, 0, 1])])
        ids = store.frame(
            "SELECT study_id, checkpoint_id, image_set_id FROM study_version, "
            "(SELECT DISTINCT checkpoint_id, image_set_id FROM study_detail WHERE image_set = 'set') "
            "WHERE newest AND study = 'mine'"
        )
        value = pl.lit(pl.Series(rng.random(len(ids))))
        rows = ids.with_columns(metric=pl.lit("low_frequency_bias"), value=value)
        groups = ids.with_columns(metric=pl.lit("ID"), value=100 * value, image_set_id=pl.lit(None, pl.Int32))
        store_values(store, pl.concat([rows, groups]))
    with open_store(path, read_only=True) as store:
        yield store


def test_the_shares_of_classes_are_of_the_images_that_the_models_saw(sample: Path, tmp_path: Path) -> None:
    """Another set of the same name, as `images add` leaves one, has other labels."""
    path = shutil.copy(sample, tmp_path)
    [query] = re.findall(r"```sql\n(.*?)\n```", (DOCS / "guide" / "measures.md").read_text(encoding="utf-8"), re.DOTALL)
    namesake = image_set(30, name="photographs", labels=[7] * 30)
    with open_store(Path(path)) as store:
        expected = store.frame(
            "SELECT checkpoint, octave, class, avg(share) AS share FROM octave_share "
            "JOIN (SELECT label.* FROM label JOIN study_image_set USING (image_set) JOIN study ON study.id = study "
            "WHERE study.name = 'octaves') USING (image_index) GROUP BY ALL ORDER BY ALL"
        )
        store_study(store, "other", namesake, [part(cell(namesake), [7] * 30, [0] * 30)])
        shares = store.frame(query)
    assert shares.rows() == [pytest.approx(row) for row in expected.rows()]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: " ".join(query.split())[:60])
def test_every_query_of_the_cookbook_runs_and_answers(store: Store, query: str) -> None:
    frame = store.frame(query)
    assert len(frame) > 0 or "cell.error IS NOT NULL" in query  # no cell of this database failed


def test_a_query_answers_what_its_heading_asks(store: Store) -> None:
    (query,) = [query for query in QUERIES if "adversarial_training" in query]
    assert {"0.png", "1.png", "2.png"} <= set(store.frame(query)["path"])
