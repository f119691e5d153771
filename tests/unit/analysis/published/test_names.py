"""One model has several names, its sources are apart, and a checkpoint is one by its weights or name alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import atlas
import polars as pl
import pytest
from made_up_results import cell, database_of, image_set, model, part
from small import Command

from bandlens.analysis.database.open import open_store
from bandlens.analysis.published.sources import (
    WEIGHTS,
    add_models,
    aliases,
    join_checkpoints,
    models,
    shipped_values,
    sources,
    values_of_model,
)
from bandlens.core.errors import UnknownName
from bandlens.export.weights.study_checkpoints import checkpoints

TV_RESNET50 = "0676ba61"
"""The beginning of the sha256 of torchvision's first resnet50, resnet50-0676ba61.pth."""


def test_every_alias_is_a_name_of_its_source_and_leads_to_a_known_model() -> None:
    table, values = aliases(), shipped_values()
    assert table.select("source", "name").is_unique().all()
    assert set(table["same"]) == {"checkpoint", "architecture"}
    originals = values.select("source", name="model").unique()
    shipped = table.filter(pl.col("source").is_in([name for name, source in sources().items() if source.ships]))
    assert shipped.join(originals, on=["source", "name"], how="anti").is_empty()
    names = {f"{source}:{name}" for source, name in originals.rows()} | set(originals["name"])
    # timm has this model, and no results of it.
    assert set(table["model"]) - names <= {"resnext101_32x48d.fb_wsl_ig1b_ft_in1k"}


def test_one_name_may_be_two_models() -> None:
    rows = values_of_model(shipped_values(), "resnet50")
    assert set(rows["model"]) == {"resnet50.a1_in1k", "resnet50.tv_in1k"}
    tv = rows.filter(model="resnet50.tv_in1k", benchmark="imagenet", condition="", metric="top1")
    assert set(tv["source"]) == {"study", "timm", "timm-2022", "testbed"}
    assert tv["range"].unique().to_list() == [pytest.approx(0.026, abs=1e-3)]
    with pytest.raises(UnknownName, match="did you mean"):
        values_of_model(shipped_values(), "resnet50.tv_in1")
    for name, advice in (("testbed", "it is a source"), ("tesbed", "did you mean testbed.*--db finds")):
        with pytest.raises(UnknownName, match=f"unknown model or source '{name}'.*{advice}"):
            values_of_model(shipped_values(), name)


def test_intervals_and_notes_of_a_model_are_shown(command: Command, tmp_path: Path) -> None:
    accuracy = shipped_values(["timm"]).filter(model="tf_efficientnet_lite0.in1k", benchmark="imagenet")
    doubtful = accuracy.with_columns(
        source=pl.lit("elsewhere"), value=pl.lit(1.2), low=pl.lit(0.7), high=pl.lit(1.6), note=pl.lit("is narrow")
    )
    with open_store(tmp_path / "r.duckdb") as store:
        store.write_source("elsewhere", doubtful, None)
    arguments = ("published", "show", "tf_efficientnet_lite0.in1k")
    database = ("--db", tmp_path / "r.duckdb")
    figures = json.loads(command(*arguments, *database, "--format", "json").out)["figures"]
    [row] = [row for row in figures if row["source"] == "elsewhere"]
    assert (row["value"], row["low"], row["high"], row["note"]) == (1.2, 0.7, 1.6, "is narrow")


def join_study(benchmark: str, condition: str, source: str, source_condition: str) -> pl.DataFrame:
    """Accuracies of the study beside those that another source has of the same checkpoints."""
    rows = add_models(shipped_values()).filter(benchmark=benchmark, metric="top1", same="checkpoint")
    study = rows.filter(source="study", condition=condition).select("model", study="value")
    other_rows = rows.filter(source=source, condition=source_condition).select("model", other="value")
    return study.join(other_rows, on="model").with_columns(difference=pl.col("study") - pl.col("other"))


def test_accuracies_of_one_checkpoint_agree_and_differ_where_the_testbed_crops_again() -> None:
    for benchmark in ("imagenet", "imagenet-v2", "imagenet-a", "imagenet-r", "imagenet-sketch"):
        rows = join_study(benchmark, "", "testbed", "")
        assert len(rows) == 11
        assert rows["difference"].abs().max() < 0.4  # type: ignore[operator]
    rows = join_study("imagenet-c", "15 x 5", "robustbench", "15 x 5")
    assert rows["difference"].abs().max() < 0.4  # type: ignore[operator]
    assert {"resnet50.tv_in1k", "resnet50_trained_on_SIN", "resnet50_augmix_180ep"} <= set(rows["model"])
    testbed = join_study("imagenet-c", "15 x 5", "testbed", "15 x 5")["difference"]
    assert (round(testbed.min(), 1), round(testbed.max(), 1)) == (1.3, 2.9)  # type: ignore[arg-type]


def join_model(name: str, category: str = "own", sha256: str = "f" * 64) -> tuple[str | None, str | None, str | None]:
    checkpoints = pl.DataFrame({"name": [name], "category": [category], "weights_sha256": [sha256]})
    rows = join_checkpoints(checkpoints, shipped_values())
    [(_, model_of, by, note)] = rows.rows()
    return model_of, by, note


def test_weights_are_those_that_timm_and_torchvision_name() -> None:
    shipped = pl.read_csv(WEIGHTS, comment_prefix="#", infer_schema=False)
    assert shipped["sha256"].is_unique().all()
    assert shipped["sha256"].str.len_chars().min() >= 8  # type: ignore[operator]
    # Another release of timm may have moved files; what both have is the same.
    weights = atlas.weights()
    names = [(digits, name) for digits, name, _ in shipped.rows() if digits in weights]
    assert len(names) > 300
    assert names == [(digits, weights[digits][0]) for digits, _ in names]
    assert set(shipped["model"]) <= set(models(shipped_values())["model"])
    assert TV_RESNET50 in shipped["sha256"]


def test_weights_name_a_model_whatever_it_is_called() -> None:
    assert join_model("mine", sha256=TV_RESNET50 + "0" * 56) == ("resnet50.tv_in1k", "weights", None)
    assert join_model("resnet50.a1_in1k", sha256=TV_RESNET50 + "0" * 56) == ("resnet50.tv_in1k", "weights", None)
    assert join_model("mine", sha256=TV_RESNET50[:7] + "f" + "0" * 56) == (None, None, None)


def test_each_of_the_48_is_the_studys() -> None:
    names = [(checkpoint.name, checkpoint.category, "f" * 64) for checkpoint in checkpoints()]
    frame = pl.DataFrame(names, ["name", "category", "weights_sha256"], orient="row")
    rows = join_checkpoints(frame, shipped_values()).rows()
    study = dict(models(shipped_values()).filter(source="study").select("name", "model").rows())
    assert rows == [(name, study[name], "study", None) for name, _, _ in names]


def test_names_join_only_where_they_are_one_model() -> None:
    assert join_model("resnet50.a1_in1k") == ("resnet50.a1_in1k", "name", None)
    assert join_model("resnet18.tv_in1k", "timm") == ("resnet18.tv_in1k", "name", None)
    assert join_model("vgg16") == ("vgg16.tv_in1k", "name", None)
    assert join_model("resnet50") == (None, None, "the name of 2 models: resnet50.a1_in1k, resnet50.tv_in1k")
    assert join_model("resnet50_of_mine") == (None, None, None)
    assert join_model("resnet50.a1") == (None, None, None)
    assert join_model("convnext_base_384_in22ft1k") == (None, None, None), "of which the architecture alone is the same"


def test_a_checkpoint_has_the_figures_of_what_it_is(command: Command, tmp_path: Path) -> None:
    images = image_set(2)
    own_model = replace(model("mine"), weights_sha256=TV_RESNET50 + "0" * 56)
    networks = (own_model, model("resnet50"), model("other"))
    db = database_of(tmp_path, images, [part(cell(images, by=by), [0, 0]) for by in networks])
    tables = json.loads(command("published", "show", "--db", db, "--format", "json").out)
    rows = {row["checkpoint"]: row for row in tables["checkpoints"]}
    assert {name: (row["model"], row["by"]) for name, row in rows.items()} == {
        "mine": ("resnet50.tv_in1k", "weights"),
        "resnet50": (None, None),
        "other": (None, None),
    }
    figures = json.loads(command("published", "show", "mine", "--db", db, "--format", "json").out)["figures"]
    assert {row["model"] for row in figures} == {"resnet50.tv_in1k"}
    assert "imagenet-r" in {row["benchmark"] for row in figures}
    for name, why in {"resnet50": "the name of 2 models", "other": "unknown published model 'other'"}.items():
        refusal = command("published", "show", name, "--db", db)
        assert (refusal.code, refusal.out, refusal.err.count("\n")) == (2, "", 1)
        assert why in refusal.err
    assert command("published", "show", "alexnet", "--db", db).code == 0
