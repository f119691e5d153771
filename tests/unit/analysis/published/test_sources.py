"""Sources are described, ship in part, and are refused where a file is not as described."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from scipy.stats import norm
from small import Command
from statsmodels.stats.proportion import proportion_confint

from bandlens.analysis.published.imports import read_import
from bandlens.analysis.published.relate import baseline_lines
from bandlens.analysis.published.sources import VALUES, Column, File, Source, read_source, shipped_values, sources
from bandlens.core.errors import StoreError, UsageError

ROOT = Path(__file__).parents[4]
PUBLISHED = ROOT.parent / "shared" / "published"
needs_published = pytest.mark.skipif(
    not (PUBLISHED / "atlas").is_dir(), reason="no figures at ../shared/published/atlas"
)
SHIPPED = [name for name, source in sources().items() if source.ships]


def test_what_ships_is_small_and_attributed() -> None:
    files = sorted(ROOT.glob("analysis/published/*.parquet"))
    assert sorted(file.stem for file in files) == sorted(SHIPPED)
    assert sum(file.stat().st_size for file in files) < 1_000_000
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert all(f"analysis/published/{name}.parquet" in notice for name in SHIPPED)


@needs_published
@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_follows_from_the_files_of_its_source(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "support" / "golden"))
    import atlas

    made = atlas.shipped(PUBLISHED, name).select(VALUES.names())
    assert made.equals(pl.read_parquet(sources()[name].shipped).cast(VALUES))
    sys.modules.pop("atlas")


def test_a_thousand_models_ship() -> None:
    values = shipped_values()
    assert values.schema == VALUES
    top1 = values.filter(metric="top1", condition="")
    counted = dict(top1.filter(benchmark="imagenet").group_by("source").agg(pl.col("model").n_unique()).rows())
    assert counted == {"study": 70, "timm": 1266, "timm-2022": 668, "testbed": 335, "open-clip": 121}
    assert values.filter(source="testbed")["model"].n_unique() == 338
    assert values.filter(pl.col("unit") == "percent")["value"].is_between(0, 100).all()
    lite0 = top1.filter(source="timm", model="tf_efficientnet_lite0.in1k", benchmark="imagenet")
    assert lite0["value"].to_list() == [74.846]


def test_robustbench_is_in_percent_and_its_mean_is_that_of_its_parts() -> None:
    c = shipped_values(["robustbench"]).filter(benchmark="imagenet-c")
    means = dict(c.filter(condition="15 x 5").select("model", "value").rows())
    parts = c.filter(pl.col("condition") != "15 x 5").group_by("model").agg(pl.col("value").mean(), pl.len())
    assert parts["len"].to_list() == [15] * 12
    assert {model: pytest.approx(value, abs=0.006) for model, value, _ in parts.rows()} == means


def test_shape_biases_of_58_logs_are_those_of_their_answers() -> None:
    """Shape decisions of 1,200 conflicts, and texture decisions, as counted from the logs."""
    rows = shipped_values(["vlm-shape-bias"])
    assert (len(rows), set(rows["metric"])) == (2 * 58, {"shape_bias", "cue_accuracy"})
    decisions = {
        ("tv_resnet50", ""): (180, 628),
        ("resnet152", ""): (226, 564),
        ("vit_base_patch16_224.orig_in21k_ft_in1k", ""): (347, 417),
        ("clip_RN50_openai", "prompt a photo of a CLS."): (183, 690),
        ("clip_RN101_openai", "prompt a photo of a CLS."): (215, 637),
        ("ViT_L_14_openai", "prompt a photo of a CLS."): (608, 402),
        ("gemini_pro_vision", "vqa"): (633, 355),
        ("openai_vision", "vqa"): (401, 436),
    }
    for (name, condition), (shape, texture) in decisions.items():
        of_log = rows.filter(model=name, condition=condition)
        bias = of_log.filter(metric="shape_bias").row(0, named=True)
        low, high = proportion_confint(shape, shape + texture, method="wilson")
        assert (bias["value"], bias["n"]) == (round(shape / (shape + texture), 4), shape + texture)
        assert (bias["low"], bias["high"]) == pytest.approx((low, high), abs=1e-4)
        accuracy = of_log.filter(metric="cue_accuracy").row(0, named=True)
        assert (accuracy["value"], accuracy["n"]) == (round((shape + texture) / 1200, 4), 1200)


ANSWERS = {"log": ["vlm/vqa/net"] * 2, "image": ["cat1-dog2", "cat1-cat2"], "pred_label": ["dog", "None"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": ["cat1-dog2", "cat1"]}, "row 2, column image: cat1 does not name a shape and a texture"),
        ({"image": ["cat1-dog2"] * 2}, "row 2, column image: cat1-dog2 is there more than once"),
        ({"log": ["net"] * 2}, "column log: net is no log of a classifier"),
        ({"pred_label": ["dog", None]}, "row 2, column pred_label: empty"),
        ({"pred_label": [1, 2]}, "column pred_label: Int64 and not String"),
    ],
)
def test_other_answers_to_cue_conflicts_are_refused(
    tmp_path: Path, change: dict[str, list[object]], message: str
) -> None:
    pl.DataFrame(ANSWERS | change).write_parquet(tmp_path / "vlm_shapebias.parquet")
    with pytest.raises(StoreError, match=message):
        read_import(sources()["vlm-shape-bias"], tmp_path)


def test_an_image_of_one_class_is_no_conflict_and_without_decisions_there_is_no_bias(tmp_path: Path) -> None:
    pl.DataFrame(ANSWERS | {"pred_label": ["car", "cat"]}).write_parquet(tmp_path / "vlm_shapebias.parquet")
    rows, _ = read_import(sources()["vlm-shape-bias"], tmp_path)
    assert rows.select("model", "condition", "metric", "value", "n").rows() == [
        ("net", "vqa", "shape_bias", None, 0),
        ("net", "vqa", "cue_accuracy", 0.0, 1),
    ]


def made_up(folder: Path, text: str, gaps: bool = False) -> Source:
    (folder / "a.csv").write_text(text)
    columns = (Column("imagenet", "top1", n=10), Column("c", pattern="c_."))
    return Source("made-up", "Made up", "a/b", "1", "MIT", True, (File("a.csv", columns, gaps=gaps),))


RIGHT = "model,top1,c_1,c_2,rank\none,70,10,20,1\ntwo,60,30,40,2\n"


def test_columns_of_one_benchmark_are_averaged(tmp_path: Path) -> None:
    values = read_source(made_up(tmp_path, RIGHT), tmp_path)
    means = {
        (model, benchmark): value for model, benchmark, value in values.select("model", "benchmark", "value").rows()
    }
    assert means == {("one", "imagenet"): 70, ("two", "imagenet"): 60, ("one", "c"): 15, ("two", "c"): 35}


def test_a_mean_of_which_a_part_is_missing_is_missing(tmp_path: Path) -> None:
    values = read_source(made_up(tmp_path, RIGHT.replace("10,20", "10,"), gaps=True), tmp_path)
    assert values.filter(benchmark="c")["model"].to_list() == ["two"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("top1", "top2"), "line 1: no column top1"),
        (lambda text: text.replace("rank", "top1"), "line 1, column top1: there more than once"),
        (lambda text: text.replace("two", "one"), "line 3, column model: one is there more than once"),
        (lambda text: text.replace("two", ""), "line 3, column model: empty"),
        (lambda text: text.replace("60", ""), "line 3, column top1: empty"),
        (lambda text: text.replace("60", "n/a"), "line 3, column top1: 'n/a' is not a number"),
        (lambda text: text.replace("60", "nan"), "line 3, column top1: 'nan' is not a number"),
        (lambda text: text.replace("60", "inf"), "line 3, column top1: 'inf' is not a number"),
        (lambda text: text.replace("60", "160"), "line 3, column top1: 160 is not a percent"),
        (lambda text: text.replace("70", "0.7").replace("60", "0.6"), "column top1: no value is above 1, so these are"),
        (lambda text: text + "x,1,2,3,4,5,6\n", "not a CSV file"),
    ],
)
def test_another_release_is_refused_with_file_row_and_column(
    tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    source = made_up(tmp_path, change(RIGHT))
    with pytest.raises(StoreError) as raised:
        read_source(source, tmp_path)
    assert message in str(raised.value)
    assert str(tmp_path / "a.csv") in str(raised.value)
    assert "\n" not in str(raised.value)


@needs_published
@pytest.mark.parametrize("size", ["1_0", "224.5", "nan", "-5", "٣", "0"])
def test_an_input_size_is_a_number_of_pixels(command: Command, tmp_path: Path, size: str) -> None:
    folder = tmp_path / "timm"
    shutil.copytree(PUBLISHED / "atlas/timm", folder)
    file = folder / "results-imagenet-a.csv"
    file.chmod(0o644)
    table = pl.read_csv(file, infer_schema=False)
    table.with_columns(
        img_size=pl.when(pl.int_range(pl.len()) == 2).then(pl.lit(size)).otherwise("img_size")
    ).write_csv(file)
    result = command("published", "import", "timm", folder, "--db", tmp_path / "results.duckdb")
    assert result.code == 1
    assert result.err == f"bandlens: {file}, line 4, column img_size: {size!a} is not a number of pixels\n"


def test_a_folder_without_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no results-imagenet"):
        read_source(sources()["timm"], tmp_path)


def test_list_says_what_is_here(command: Command) -> None:
    rows = {row["source"]: row for row in json.loads(command("published", "show", "--format", "json").out)["sources"]}
    assert list(rows) == list(sources())
    assert (rows["timm"]["licence"], rows["timm"]["commit"]) == ("Apache-2.0", "aa4b5850")
    assert rows["critical-band"]["models"] is None
    assert (rows["timm"]["here"], rows["critical-band"]["here"]) == ("shipped", None)
    lines = command("published", "show").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].startswith("not here: critical-band, humans, imagenet-x ")


@needs_published
@pytest.mark.parametrize("scale", [0.01, 100])
def test_a_row_in_another_unit_is_told_by_its_error(command: Command, tmp_path: Path, scale: float) -> None:
    folder = tmp_path / "timm"
    shutil.copytree(PUBLISHED / "atlas/timm", folder)
    file = folder / "results-imagenet-a.csv"
    file.chmod(0o644)
    table = pl.read_csv(file)
    row = int((table["top1"] < 1).arg_true()[0]) if scale > 1 else 4
    changed = pl.when(pl.int_range(pl.len()) == row).then(pl.col("top1") * scale).otherwise("top1").round(3)
    table.with_columns(top1=changed).write_csv(file)
    result = command("published", "import", "timm", folder, "--db", tmp_path / "results.duckdb")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"results-imagenet-a.csv, line {row + 2}, column top1: " in result.err
    assert "do not make 100 percent" in result.err
    assert not (tmp_path / "results.duckdb").exists()


@needs_published
def test_a_newer_release_takes_the_place_of_the_shipped_one(command: Command, tmp_path: Path) -> None:
    db = tmp_path / "results.duckdb"
    result = command("published", "import", "timm", PUBLISHED / "atlas/timm/2022-07-27", "--db", db)
    assert (result.code, result.err.count("\n")) == (2, 1)  # it lacks two files
    assert not db.exists()
    result = command("published", "import", "timm", PUBLISHED / "atlas/timm", "--db", db)
    assert result.code == 0, result.err
    tables = json.loads(command("published", "show", "--db", db, "--format", "json").out)
    rows = {row["source"]: row for row in tables["sources"]}
    # They include the effective robustness on V2, Sketch, A and R by two definitions, less the one row without A.
    assert (rows["timm"]["models"], rows["timm"]["values"]) == (1267, 14004 + 2 * (4 * 1556 - 1))


def test_what_ships_can_be_imported_for_sql(command: Command, tmp_path: Path) -> None:
    db = tmp_path / "results.duckdb"
    result = command("published", "import", "testbed", "--db", db)
    assert (result.code, "licence: MIT" in result.out) == (0, True), result.err
    query = (
        "SELECT value, unit, note FROM published_value WHERE metric = 'effective_robustness_1000_classes' "
        "AND benchmark = 'imagenet-r' AND model = 'resnet50_trained_on_SIN'"
    )
    (row,) = json.loads(command("sql", query, "--db", db, "--format", "json").out)
    top1 = shipped_values(["testbed"]).filter(model="resnet50_trained_on_SIN", metric="top1", condition="")
    x, y = (top1.filter(benchmark=name)["value"].item() for name in ("imagenet", "imagenet-r"))
    line = baseline_lines(shipped_values(), "standard")["imagenet-r"].lines[0]
    expected = 100 * norm.cdf(line.slope * norm.ppf(x / 100) + line.intercept)
    assert row["value"] == pytest.approx(y - expected)
    assert row["value"] > 10
    assert (row["unit"], row["note"]) == (
        "points",
        "baseline standard: probit lines of the testbed's 87 standard models, over 1,000 classes",
    )


def test_a_source_without_its_folder_is_told(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = command("published", "import", "humans")
    assert (result.code, result.out) == (2, "")
    assert "bandlens published import humans DIR" in result.err
