"""One's own numbers stand beside the published ones; NumPy and SciPy give the right ones of made-up results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_up_results import Images, cell, condition, image_set, model, part, store_study
from scipy.stats import bootstrap
from small import Command
from statsmodels.stats.proportion import proportion_confint

from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.measures.base import Options
from bandlens.analysis.measures.compute import compute_measures
from bandlens.analysis.published.check import FAULTS, FIGURES, check_published, published_figures
from bandlens.analysis.published.figures import BIASES, PUBLISHED_GROUPS, SOURCE, read_benchmark, shipped_figures
from bandlens.analysis.published.sources import VALUES
from bandlens.core.errors import UsageError
from bandlens.core.protocol import EPS, STEP, STEPS
from bandlens.core.records import Finished
from bandlens.probes.spectral import CUTOFFS

COUNT = 400
NAME = "tv_resnet50"
FILTERS = [condition(probe, cutoff=cutoff) for probe in ("lowpass", "highpass") for cutoff in CUTOFFS]
Numbers = dict[str, dict[str, Any]]


def made(benchmark: str, **about: Any) -> Images:
    name = "-".join([benchmark, *map(str, (about.get("corruption", ""), about.get("severity", "")))])
    return image_set(COUNT, name=name, benchmark=benchmark, labels=np.arange(COUNT) % 16, **about)


SETS = {
    "imagenet": made("imagenet"),
    "imagenet-v2": made("imagenet-v2"),
    "fog": made("imagenet-c", corruption="fog", severity=3),
    "own": made("imagenet-c", corruption="my_own", severity=3),
    "cue-conflict": made(
        "cue-conflict", schemes={"texture": [[(3 * k + 1) % 16] for k in range(COUNT)]}, decision_space="sixteen"
    ),
}


def outcomes(seed: int) -> dict[Any, np.ndarray]:
    """Right or wrong, by image set or condition of imagenet; harder images are wrong under more of them."""
    rng = np.random.default_rng(seed)
    ease = rng.uniform(size=COUNT)
    correct: dict[Any, np.ndarray] = {name: rng.uniform(size=COUNT) < 0.7 for name in SETS}
    correct |= {"imagenet": ease < 0.8, "pgd": ease < 0.3}
    for setting in FILTERS:
        correct[setting.digest] = ease + rng.uniform(-0.1, 0.1, COUNT) < 0.05 + 0.7 * float(setting["cutoff"])
    return correct


def fill(store: Store, *names: str, metrics: bool = True, study: str = "s") -> None:
    """A study of models, the first of which has `outcomes(0)`."""
    parts = [outcome for seed, name in enumerate(names or [NAME]) for outcome in results(name, outcomes(seed))]
    store_study(store, study, list(SETS.values()), parts)
    if metrics:
        compute_measures(store, study, Options(200))


def results(name: str, correct: dict[Any, np.ndarray]) -> list[Finished]:
    by = model(name, classes=1000)

    def judged(images: Images, right: np.ndarray, **how: Any) -> Any:
        labels = np.asarray(images.labels)
        return part(cell(images, by=by, **how), np.where(right, labels, (labels + 1) % 16), ~right * 1)

    parts = [judged(images, correct[key]) for key, images in SETS.items()]
    parts += [judged(SETS["imagenet"], correct[setting.digest], of=setting) for setting in FILTERS]
    return [*parts, judged(SETS["imagenet"], correct["pgd"], of=condition("pgd_linf", eps=EPS, step=STEP, steps=STEPS))]


def published(seed: int = 5) -> pl.DataFrame:
    """Made-up figures of every published model, of all that the check knows."""
    rng = np.random.default_rng(seed)
    columns = {column for figures in (PUBLISHED_GROUPS | BIASES).values() for column in figures}
    columns |= {figure for figure in FIGURES.values() if "/" in figure} | {"top1_acc/fog_3", "top1_acc/cue-conflict"}
    columns |= {f"metric/bandpass/{side}/{cutoff}" for side in ("LFC", "HFC") for cutoff in CUTOFFS}
    rows = [(name, column, rng.uniform(0.1, 90)) for name in shipped_figures()["model"] for column in sorted(columns)]
    return pl.DataFrame(rows, ["model", "metric", "value"], orient="row").with_columns(source=pl.lit(SOURCE))


def compared(store: Store, model_name: str = NAME) -> Numbers:
    """`metric figure` -> its row."""
    rows = check_published(store, "s@1").rows.filter(model=model_name).to_dicts()
    numbers = {f"{row['metric']} {row['figure']}": row for row in rows}
    assert len(numbers) == len(rows)
    return numbers


def value_of(figures: pl.DataFrame, figure: str, name: str = NAME) -> float:
    return float(figures.filter(model=name, metric=figure)["value"].item())


def test_every_top1_is_beside_the_published_one_with_its_difference(store: Store) -> None:
    fill(store)
    figures = published()
    store.write_published(figures)
    numbers, right = compared(store), outcomes(0)
    expected = {
        "top1_imagenet top1_acc/imagenet": right["imagenet"],
        "top1_imagenet-v2 top1_acc/imagenet-v2": right["imagenet-v2"],
        "top1_pgd_linf top1_acc/PGD-40/low": right["pgd"],
        "Adversarial Adversarial": right["pgd"],
        "top1 top1_acc/fog_3": right["fog"],
        "top1 top1_acc/cue-conflict": right["cue-conflict"],
    }
    for key, correct in expected.items():
        published_value = value_of(figures, key.split()[1].replace("Adversarial", "top1_acc/PGD-40/low"))
        low, high = proportion_confint(correct.sum(), COUNT, method="wilson")
        row = numbers[key]
        assert row["own"] == pytest.approx(100 * correct.mean())
        assert row["difference"] == pytest.approx(100 * correct.mean() - published_value)
        ends = (row["difference_low"], row["difference_high"])
        assert ends == pytest.approx((100 * low - published_value, 100 * high - published_value), abs=1e-4)
        assert row["outside"] == (not 100 * low <= published_value <= 100 * high)
    assert "400 of 50,000 images" in numbers["top1 top1_acc/fog_3"]["note"]
    assert not any("my_own" in key for key in numbers)


def test_the_22_ratios_are_beside_the_published_ones_with_intervals(store: Store) -> None:
    fill(store)
    figures = published()
    store.write_published(figures)
    numbers, right = compared(store), outcomes(0)
    sides = {"lowpass": "LFC", "highpass": "HFC"}
    names = {setting.digest: f"metric/bandpass/{sides[setting.probe]}/{setting['cutoff']}" for setting in FILTERS}
    assert {key for key in numbers if key.startswith("ratio")} == {f"ratio {name}" for name in names.values()}
    for digest, name in names.items():
        row, clean, filtered = numbers[f"ratio {name}"], right["imagenet"], right[digest]
        assert row["own"] == pytest.approx(filtered.mean() / clean.mean())
        assert row["difference"] == pytest.approx(row["own"] - value_of(figures, name))
        drawn = bootstrap(
            (filtered, clean),
            lambda x, y, axis: x.mean(axis=axis) / y.mean(axis=axis),
            paired=True,
            vectorized=True,
            n_resamples=4000,
            method="basic",
            rng=1,
        )
        interval = drawn.confidence_interval
        assert (row["low"], row["high"]) == pytest.approx(
            (interval.low, interval.high), abs=0.15 * (interval.high - interval.low)
        )


def test_biases_and_groups_are_beside_the_published_figures(store: Store) -> None:
    """The figures are the shipped ones where the study's file is not imported."""
    fill(store)
    shipped = shipped_figures().filter(model=NAME).row(0, named=True)
    right, numbers = outcomes(0), compared(store)
    ratios = [
        np.mean(
            [
                right[setting.digest].mean() / right["imagenet"].mean()
                for setting in FILTERS
                if setting.probe == probe and 0.1 <= float(setting["cutoff"]) <= 0.5
            ]
        )
        for probe in ("lowpass", "highpass")
    ]
    shape = np.arange(COUNT) % 16
    texture, named = (3 * np.arange(COUNT) + 1) % 16, np.where(right["cue-conflict"], shape, (shape + 1) % 16)
    apart = shape != texture
    of_shape, of_texture = (named == shape)[apart].sum(), (named == texture)[apart].sum()
    expected = dict(zip(("low_frequency_bias", "high_frequency_bias"), ratios, strict=True))
    expected |= {"shape_bias": of_shape / (of_shape + of_texture), "Adversarial": 100 * right["pgd"].mean()}
    for name, value in expected.items():
        row = numbers[f"{name} {name}"]
        assert (row["own"], row["published"]) == (pytest.approx(value), shipped[name])
        assert row["difference"] == pytest.approx(value - shipped[name])
    for name in ("ID", "ID_as_published", "Robustness"):
        row = numbers[f"{name} {name.removesuffix('_as_published')}"]
        assert (row["own"], row["difference"], row["outside"]) == (None, None, None)
        assert row["note"].startswith("incomplete: ")
    [line] = check_published(store, "s@1").left_out
    assert "clean top-1 and the spectral ratios need the study's whole file: `bandlens published import" in line


def test_published_figures_compared_with_themselves_do_not_differ(shared: Path, store: Store) -> None:
    """The study's own file has the same figures by name, in the same units."""
    store.write_published(read_benchmark(shared / "published" / "benchmark.csv"))
    figures, imported = published_figures(store)
    assert imported
    named = set(figures["figure"])
    expected = {figure for figure in FIGURES.values() if not figure.startswith("critical-band/")}
    assert expected <= named | {"top1_acc/imagenet-real"}
    assert {f"metric/bandpass/{side}/{cutoff:g}" for side in ("LFC", "HFC") for cutoff in CUTOFFS} <= named
    rows = figures.filter(model=NAME)
    both = shipped_figures().filter(model=NAME).drop("model", "category").row(0, named=True)
    for name, value in both.items():
        assert rows.filter(figure=name)["published"].item() == pytest.approx(value, abs=1e-6)


def test_columns_with_known_faults_are_marked(store: Store) -> None:
    fill(store)
    store.write_published(published())
    numbers = compared(store)
    marked = {row["figure"] for row in numbers.values() if row["fault"]}
    assert {"ID", "top1_acc/PGD-40/low", "Adversarial", "metric/bandpass/LFC/0.1"} <= marked
    assert not marked & {"top1_acc/imagenet", "Robustness", "Concepts", "shape_bias", "low_frequency_bias"}
    assert len(FAULTS) == len(set(FAULTS.values()))
    assert "326 images" in numbers["ID ID"]["fault"]
    assert "48 padded images" in numbers["Adversarial Adversarial"]["fault"]


def test_checkpoints_that_are_not_published_are_named(store: Store) -> None:
    fill(store, NAME, "mine")
    store.write_published(published())
    check = check_published(store, "s@1")
    assert set(check.rows["model"]) == {NAME}
    assert check.left_out == ["not published: mine"]
    fill(store, "mine", study="other")
    with pytest.raises(
        UsageError, match="other@1: mine: none of the published checkpoints; `bandlens checkpoints list`"
    ):
        check_published(store, "other@1")


def test_nothing_to_compare_is_told_with_what_to_do(store: Store) -> None:
    plain = image_set(10, labels=[0] * 10)
    store_study(store, "s", plain, [part(cell(plain, by=model(NAME)), [0] * 10, [0] * 10)])
    with pytest.raises(UsageError) as error:
        check_published(store, "s@1")
    assert str(error.value) == (
        f"{store.path}, s@1: clean top-1 and the spectral ratios need the study's whole file: "
        f"`bandlens published import benchmark.csv --db {store.path}`; biases, benchmarks and group means are there "
        f"once `bandlens analyze --db {store.path} --study s@1` has found some"
    )


def test_without_metrics_ratios_and_corruptions_are_compared(store: Store) -> None:
    fill(store, metrics=False)
    store.write_published(published())
    check = check_published(store, "s@1")
    assert set(check.rows["metric"]) == {"ratio", "top1"}
    assert [line[:43] for line in check.left_out] == ["biases, benchmarks and group means are ther"]


def test_the_command_prints_a_table_with_faults_below_or_json(command: Command, tmp_path: Path) -> None:
    db = tmp_path / "results.duckdb"
    with open_store(db) as opened:
        fill(opened)
        fill(opened, "mine", study="other")
        opened.write_published(published())
        rows = check_published(opened, "s@1").rows.to_dicts()
    several = command("papers", "--db", db)
    assert (several.code, several.err.count("\n")) == (2, 1)
    assert "name one of them with --study" in several.err
    printed = json.loads(command("papers", "--db", db, "--study", "s", "--format", "json").out)
    assert (printed["study"], printed["left_out"]) == ("s@1", [])
    assert printed["rows"] == rows
    shown = command("papers", "--db", db, "--study", "s").out
    assert "s@1 beside the published study" in shown
    assert "[1] " in shown
    assert f"{sum(row['difference'] is not None for row in rows)} numbers compared; " in shown
    none = command("papers", "--db", tmp_path / "none.duckdb")
    assert (none.code, none.out) == (2, "")
    assert none.err.startswith(f"bandlens: no results database at {tmp_path}/none.duckdb; ")


def test_imported_critical_bands_are_beside_ones_own_of_the_same_checkpoint(store: Store) -> None:
    images = image_set(40, labels=[k % 16 for k in range(40)], benchmark="imagenet", name="imagenet")
    octaves = [condition("critical_band", noise_sd=0.0)]
    octaves += [
        condition("critical_band", noise_sd=sd, frequency=f) for f in range(7) for sd in (0.02, 0.04, 0.08, 0.16)
    ]
    by, labels = model(NAME, classes=1000), np.arange(40) % 16
    parts = []
    for setting in [condition(), *octaves]:
        sd, f = setting.number("noise_sd") or 0, setting.number("frequency") or 0
        wrong = np.arange(40) >= 40 - 300 * sd * np.exp(-((f - 3) ** 2) / 4)
        parts.append(part(cell(images, setting, by=by), np.where(wrong, (labels + 1) % 16, labels), wrong.astype(int)))
    store_study(store, "s", [images], parts)
    compute_measures(store, "s", Options(200))
    rows = [
        {"source": "critical-band", "model": name, "benchmark": "gray16", "metric": "bandwidth", "condition": how}
        | {"value": value, "unit": "octaves", "n": 1050}
        for name, value in (("resnet50", 2.5), ("resnet18", 9.0))
        for how in ("integer thresholds", "psychometric")
    ]
    store.write_source("critical-band", pl.DataFrame(rows, VALUES))
    bands = check_published(store, "s@1").rows.filter(pl.col("figure").str.starts_with("critical-band/"))
    assert bands.select("model", "figure", "metric", "published").rows() == [
        (NAME, "critical-band/integer thresholds/bandwidth", "critical_bandwidth_raw", 2.5),
        (NAME, "critical-band/psychometric/bandwidth", "psychometric_bandwidth", 2.5),
    ]
    assert (bands["own"] - bands["published"]).to_list() == bands["difference"].to_list()
    assert bands["fault"].str.contains("about 30 a condition").all()
