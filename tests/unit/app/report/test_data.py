"""Which models are drawn: no more than there is room for, of every category, from the least accurate to the most."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from made_up_results import cell, condition, image_set, model, part, store_study, store_trials, store_values, trials_of
from reported import measured_section

from bandlens.analysis.database.open import open_store
from bandlens.analysis.metrics.compute import compute_measures
from bandlens.app.report import data
from bandlens.app.report.correlations import atlas_section
from bandlens.app.report.data import DRAWN_MODELS, ReportData, choose, read_data
from bandlens.app.report.metric_sections import consistency_section, measured_sections

MODELS, PLACES, UNSEEN = 9, 8, 4
"""Models of a study, the places that charts have for them here, and the one by accuracy that the choice leaves out."""


def models(*sizes: int) -> pl.DataFrame:
    """So many models of each category, whose accuracies are in no order."""
    category = np.repeat([f"category {k}" for k in range(len(sizes))], sizes)
    accuracy = np.random.default_rng(0).permutation(len(category)) / len(category)
    return pl.DataFrame(
        {"checkpoint": [f"net{k}" for k in range(len(category))], "category": category, "accuracy": accuracy}
    )


def test_few_are_all_drawn() -> None:
    assert choose(models(20, 28)) == sorted(f"net{k}" for k in range(DRAWN_MODELS))


def test_of_many_each_category_has_its_share_from_its_least_accurate_on() -> None:
    every = models(600, 300, 99, 1)
    selection = every.filter(pl.col("checkpoint").is_in(choose(every)))
    assert len(selection) == DRAWN_MODELS
    assert selection.group_by("category").len().sort("category")["len"].to_list() == [29, 14, 4, 1]
    for name in ("category 0", "category 1"):
        population, sample = (rows.filter(category=name)["accuracy"] for rows in (every, selection))
        assert sample.min() < population.quantile(0.06)
        assert sample.max() > population.quantile(0.94)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """Models under two probes, one of them on images of its own; people saw the others, and one of the probes."""
    path, random, n = tmp_path_factory.mktemp("many") / "results.duckdb", np.random.default_rng(0), 45
    contrasts = [("c05", "c30")[k % 2] for k in range(n)]
    paths = [f"dnn/session-1/{k:04d}_cop_dnn_{contrast}_bear_10_n0_{k}.png" for k, contrast in enumerate(contrasts)]
    about = {"labels": [1] * n, "decision_space": "sixteen"}
    common, separate = (
        image_set(n, name="common", paths=paths, benchmark="contrast", **about),
        image_set(n, name="own", **about),
    )
    parts = []
    for k in range(MODELS):
        for setting in (condition(), condition("lowpass", cutoff=0.5), condition("contrast", contrast=0.3)):
            rank = random.permutation(np.arange(n) < 5 * k).astype(int)
            parts.append(part(cell(separate if k == UNSEEN else common, setting, by=model(f"net{k}")), 1 + rank, rank))
    with open_store(path) as store:
        store_study(store, "s", [common, separate], parts)
        store_trials(store, trials_of("contrast", contrasts, "subject-01", np.ones(n, bool)))
        compute_measures(store, "s")
        bias = {"metric": "shape_bias", "value": 0.5, "low": 0.4, "high": 0.6, "state": "ok", "note": None}
        ids = "SELECT DISTINCT study_id, checkpoint_id, image_set_id FROM study_detail"
        store_values(store, store.frame(ids).with_columns(pl.lit(value).alias(name) for name, value in bias.items()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "DRAWN_MODELS", PLACES)
        report_data = read_data(path)
    assert len(report_data.choice) == PLACES
    assert f"net{UNSEEN}" not in report_data.choice
    return report_data


@pytest.mark.parametrize("name", ["other-probes", "numbers", "measures", "consistency", "atlas"])
def test_charts_are_of_the_choice_and_their_tables_of_all(results: ReportData, name: str) -> None:
    sections = [*measured_sections(results), consistency_section(results), atlas_section(results)]
    [page_section] = [section for section in sections if section.name == name]
    models = set(results.checkpoints["name"])
    assert page_section.text[-1].startswith(f"Drawn are {PLACES} of {MODELS} models")
    assert page_section.figures
    panels = [panel.to_dict() for figure in page_section.figures for panel in figure.panels.values()]
    rows = [row for panel in panels for dataset in panel["datasets"].values() for row in dataset]
    assert {row[name] for row in rows for name in ("model", "subject") if name in row} & models == set(results.choice)
    tables = [*(figure.table for figure in page_section.figures), *(table.frame for table in page_section.tables)]
    columns = [table[name] for table in tables for name in ("checkpoint", "subject") if name in table.columns]
    absent = {f"net{UNSEEN}"} if name == "consistency" else set()
    assert set(pl.concat(columns)) >= models - absent, "people did not see the images of that model"


def test_images_of_models_that_are_not_drawn_have_their_table(results: ReportData) -> None:
    for name in ("other-probes", "measures", "numbers"):
        section = measured_section(results, name)
        assert not [figure for figure in section.figures if figure.title.endswith(" on own")]
        tables = [table for table in section.tables if table.title.endswith(" on own")]
        assert {*pl.concat(table.frame["checkpoint"] for table in tables)} == {f"net{UNSEEN}"}
        assert ("only the one that is picked" in section.caption) == (name != "numbers"), "lines of many have no bands"
