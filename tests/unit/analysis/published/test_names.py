"""One model has several names, and its sources are apart."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl
import pytest
from small import Command

from bandlens.analysis.database.open import open_store
from bandlens.analysis.published.names import agreement, aliases, family_of, models, training_of, values_of_model
from bandlens.analysis.published.relate import baseline_lines, place
from bandlens.analysis.published.sources import shipped_values, sources
from bandlens.core.errors import UnknownName, UsageError

STUDY = {  # model -> (study's ImageNet-C over 15 x 5, RobustBench's)
    "resnet50.tv_in1k": (39.43, 39.48),
    "resnet50_trained_on_SIN": (39.79, 39.92),
    "resnet50_trained_on_SIN_and_IN": (45.43, 45.76),
    "resnet50_augmix_180ep": (49.39, 49.33),
}


def test_every_alias_is_a_name_of_its_source_and_leads_to_a_known_model() -> None:
    table, values = aliases(), shipped_values()
    assert table.select("source", "name").is_unique().all()
    assert set(table["same"]) == {"checkpoint", "architecture"}
    known = values.select("source", name="model").unique()
    shipped = table.filter(pl.col("source").is_in([name for name, source in sources().items() if source.ships]))
    assert shipped.join(known, on=["source", "name"], how="anti").is_empty()
    names = {f"{source}:{name}" for source, name in known.rows()} | set(known["name"])
    # timm has this model, and no results of it.
    assert set(table["model"]) - names <= {"resnext101_32x48d.fb_wsl_ig1b_ft_in1k"}


def test_every_shipped_model_has_a_family() -> None:
    table = models(shipped_values())
    assert table.filter(pl.col("family").is_null())["name"].to_list() == []
    assert len(table) == 70 + 1267 + 668 + 338 + 41 + 121 + 35


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("resnet50.a1_in1k", "ResNet"),
        ("robust_resnet50_l2_eps0.5", "ResNet"),
        ("resnext50_32x4d.tv_in1k", "ResNeXt"),
        ("seresnext50_32x4d.gluon_in1k", "ResNeXt"),
        ("legacy_seresnet50.in1k", "SE-ResNet"),
        ("tf_efficientnet_lite0.in1k", "EfficientNet"),
        ("efficientvit_b1.r224_in1k", "EfficientViT"),
        ("testbed:BiT-M-R50x1-ILSVRC2012", "BiT"),
        ("resnetv2_50x1_bit.goog_distilled_in1k", "BiT"),
        ("robustbench:Liu2023Comprehensive_Swin-B", "Swin"),
        ("nothing_known", None),
    ],
)
def test_families(name: str, family: str | None) -> None:
    assert family_of(name) == family


@pytest.mark.parametrize(
    ("name", "training"),
    [
        ("resnet50.tv_in1k", "supervised"),
        ("resnet50.fb_swsl_ig1b_ft_in1k", "supervised"),
        ("tf_efficientnet_b0.ap_in1k", "supervised"),
        ("robust_resnet50_l2_eps0", "supervised"),
        ("robust_resnet50_l2_eps0.01", "adversarial"),
        ("robustbench:Salman2020Do_R50", "adversarial"),
        ("robustbench:Standard_R50", "supervised"),
        ("beit_base_patch16_224.in22k_ft_in22k_in1k", "self-supervised"),
        ("convnextv2_atto.fcmae_ft_in1k", "self-supervised"),
        ("resnet50_moco_v3_100ep", "self-supervised"),
        ("vit_base_patch16_clip_224.laion2b_ft_in1k", "fine-tuned from zero-shot"),
        ("vit_so400m_patch14_siglip_378.webli_ft_in1k", "fine-tuned from zero-shot"),
        ("eva_giant_patch14_224.clip_ft_in1k", "fine-tuned from zero-shot"),
        ("critical-band:resnet50_clip_hard_labels", "supervised"),
        ("testbed:resnet50_clip_zeroshot", "zero-shot"),
        ("open-clip:ViT-L-14.openai", "zero-shot"),
        ("vlm-shape-bias:BAAI_EVA_CLIP_8B_448", "zero-shot"),
        ("vlm-shape-bias:gemini_pro_vision", "chat"),
        ("humans:subject-01", None),
        ("resnet50_untrained", None),
    ],
)
def test_each_model_has_its_way_of_training(name: str, training: str | None) -> None:
    assert training_of(name) == training


def test_the_four_duplicates_of_open_clip_are_names_of_one_model() -> None:
    values = shipped_values(["open-clip"])
    named = models(values).filter(pl.len().over("model") > 1).sort("model").select("model", "name")
    assert named["name"].n_unique() == 2 * named["model"].n_unique() == 8
    wide = values.pivot("benchmark", index="model", values="value", aggregate_function="first")
    figures = wide.drop("model").is_duplicated()
    assert set(wide.filter(figures)["model"]) == set(named["name"])


def test_one_name_may_be_two_models() -> None:
    rows = values_of_model(shipped_values(), "resnet50")
    assert set(rows["model"]) == {"resnet50.a1_in1k", "resnet50.tv_in1k"}
    tv = rows.filter(model="resnet50.tv_in1k", benchmark="imagenet", condition="", metric="top1")
    assert set(tv["source"]) == {"study", "timm", "timm-2022", "testbed"}
    assert tv["range"].unique().to_list() == [pytest.approx(0.026, abs=1e-3)]
    with pytest.raises(UnknownName, match="did you mean"):
        values_of_model(shipped_values(), "resnet50.tv_in1")


def test_an_architecture_in_another_source_is_nothing_to_be_apart_from() -> None:
    rows = values_of_model(shipped_values(), "convnext_base.fb_in22k_ft_in1k_384").filter(benchmark="imagenet")
    assert rows.select("source", "same", "range").rows() == [
        ("timm", "checkpoint", None),
        ("timm-2022", "architecture", None),
    ]


def test_intervals_and_notes_of_a_model_are_shown(command: Command, tmp_path: Path) -> None:
    """The import of the critical bands writes both; the accuracies that ship have neither."""
    known = shipped_values(["timm"]).filter(model="tf_efficientnet_lite0.in1k", benchmark="imagenet")
    doubtful = known.with_columns(
        source=pl.lit("critical-band"), value=pl.lit(1.2), low=pl.lit(0.7), high=pl.lit(1.6), note=pl.lit("is narrow")
    )
    with open_store(tmp_path / "r.duckdb") as store:
        store.write_source("critical-band", doubtful, None)
    arguments = ("published", "show", "tf_efficientnet_lite0.in1k")
    [row] = [
        row
        for row in json.loads(command(*arguments, "--db", str(tmp_path / "r.duckdb"), "--format", "json").out)
        if row["source"] == "critical-band"
    ]
    assert (row["value"], row["low"], row["high"], row["note"]) == (1.2, 0.7, 1.6, "is narrow")
    head = command(*arguments, "--db", str(tmp_path / "r.duckdb")).out.split("\n")[0].split()
    assert head[-6:] == ["value", "low", "high", "unit", "range", "note"]
    assert command(*arguments).out.split("\n")[0].split()[-3:] == ["value", "unit", "range"]


def test_data_parameters_and_size_of_a_timm_model() -> None:
    table = models(shipped_values(["timm"]))
    row = table.row(by_predicate=pl.col("name") == "tf_efficientnet_lite0.in1k", named=True)
    assert (row["family"], row["parameters"], row["input_size"], row["training_data"]) == (
        "EfficientNet",
        4.65,
        224,
        "ImageNet-1k",
    )
    weak = table.row(by_predicate=pl.col("name") == "resnet50.fb_swsl_ig1b_ft_in1k", named=True)
    assert weak["training_data"] == "IG-1B + ImageNet-1k"


def test_five_benchmarks_agree_within_four_tenths() -> None:
    means, each = agreement(shipped_values())
    five = means.filter(against="testbed").filter(~pl.col("benchmark").is_in(["imagenet-c", "pgd_linf"]))
    assert len(five) == 5
    assert five["n"].to_list() == [11] * 5
    assert five["low"].min() > -0.4  # type: ignore[operator]
    assert five["high"].max() < 0.4  # type: ignore[operator]
    c = each.filter(benchmark="imagenet-c", against="robustbench", same="checkpoint")
    assert c["difference"].abs().max() < 0.4  # type: ignore[operator]
    pairs = {model: (study, reference) for model, study, reference in c.select("model", "study", "other").rows()}
    assert {model: pytest.approx(pair, abs=0.006) for model, pair in STUDY.items()}.items() <= pairs.items()


def test_what_differs_differs_as_described() -> None:
    means, each = agreement(shipped_values())
    ends = {
        (row["benchmark"], row["against"]): (round(row["low"], 1), round(row["high"], 1)) for row in means.to_dicts()
    }
    assert ends["imagenet-c", "testbed"] == (1.3, 2.9)
    pgd = {
        model: (study, reference)
        for model, study, reference in each.filter(benchmark="pgd_linf").select("model", "study", "other").rows()
    }
    assert pgd["resnet50.tv_in1k"] == pytest.approx((18.4, 11.4), abs=0.05)
    assert pgd["resnet50_deepaugment_augmix"] == pytest.approx((40.4, 31.7), abs=0.05)
    assert pgd["resnet50_trained_on_SIN"] == pytest.approx((12.3, 12.8), abs=0.05)
    more = [
        study - reference
        for model, (study, reference) in pgd.items()
        if model.split("_eps")[0] not in ("robust_resnet50_l2", "robust_resnet50_linf")
    ]
    assert sorted(round(difference) for difference in more)[1:] == [7, 7, 8, 9, 9, 9, 11, 12]
    real = each.filter(pl.col("model").str.starts_with("resnet50"), benchmark="imagenet-real")["difference"]
    assert (round(real.min(), 2), round(real.max(), 2)) == (0.75, 4.68)  # type: ignore[arg-type, call-overload]


def test_what_shares_only_an_architecture_is_not_compared() -> None:
    means, each = agreement(shipped_values())
    many = each.filter(benchmark="imagenet-c", against="robustbench", model="resnet50_deepaugment_augmix")
    assert many.select("same", "study", "other").row(0) == ("architecture", pytest.approx(58.5, abs=0.05), 52.9)
    assert means.filter(benchmark="imagenet-c", against="robustbench")["n"].item() == 5
    robust = each.filter(pl.col("model").str.starts_with("robust_"), benchmark="imagenet")
    assert set(robust["same"]) == {"architecture"}
    assert robust["difference"].max() > 6  # type: ignore[operator]


def test_commands(command: Command) -> None:
    rows = json.loads(command("published", "show", "tf_efficientnet_lite0.in1k", "--format", "json").out)
    assert {row["value"] for row in rows if row["benchmark"] == "imagenet" and row["source"] == "timm"} == {74.846}
    assert (
        "resnet50 is the name of 2 models: resnet50.a1_in1k, resnet50.tv_in1k"
        in command("published", "show", "resnet50").out
    )
    unknown = command("published", "show", "resnet5")
    assert (unknown.code, unknown.err.count("\n")) == (2, 1)
    assert "5,000 of the 50,000" in command("published", "show", "agree").out
    wrong = command("published", "show", "agree", "--by", "training")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert len(json.loads(command("published", "show", "agree", "--by", "model", "--format", "json").out)) > 100


def test_a_narrow_terminal_shows_the_metric_and_unit_of_each_figure(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    out = command("published", "show", "resnet50").out
    assert "resnet50.tv_in1k, shape_bias, share" in out
    [left_out] = [line for line in out.splitlines() if line.startswith("left out for width")]
    assert "metric" not in left_out
    assert "unit" not in left_out


@pytest.mark.parametrize("view", ["fits", "agree"])
def test_tables_of_shipped_sources_refuse_a_database(command: Command, tmp_path: Path, view: str) -> None:
    refused = command("published", "show", view, "--db", str(tmp_path / "r.duckdb"))
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "leave it out" in refused.err


def test_corruptions_in_memory_are_easier_than_on_disk() -> None:
    c = shipped_values(["testbed"]).filter(benchmark="imagenet-c").filter(pl.col("condition") != "15 x 5")
    c = c.with_columns(pl.col("condition").str.split_exact(", ", 1).struct.rename_fields(["kind", "place"])).unnest(
        "condition"
    )
    both = c.pivot("place", index=["model", "kind"], values="value").drop_nulls()
    apart = both.group_by("kind").agg((pl.col("in-memory") - pl.col("on-disk")).mean(), pl.len())
    assert set(apart["len"]) == {200}
    means = {kind: round(mean, 1) for kind, mean, _ in apart.rows()}
    assert means["contrast"] == pytest.approx(10.9, abs=0.11)
    assert means["fog"] == 10.9
    assert means["pixelate"] == 0
    assert all(5 <= means[f"{blur}_blur"] <= 7 for blur in ("defocus", "motion", "zoom", "gaussian"))
    assert all(3.9 <= means[f"{noise}_noise"] <= 4.7 for noise in ("gaussian", "shot", "impulse", "speckle"))


@pytest.mark.parametrize(("name", "problem"), [("resnet50", "is the name of resnet50.a1_in1k, resnet50.tv_in1k")])
def test_only_one_model_can_be_placed(name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        place(shipped_values(), name)


def test_efficientnet_lite0_in_the_atlas() -> None:
    rows = {row["benchmark"]: row for row in place(shipped_values(), "tf_efficientnet_lite0.in1k").to_dicts()}
    imagenet = rows["imagenet"]
    assert (imagenet["top1"], imagenet["of"], imagenet["expected"]) == (74.846, 1266, None)
    worse = shipped_values(["timm"]).filter(benchmark="imagenet", metric="top1").filter(pl.col("input_size") >= 224)
    least = worse.sort("input_size").unique("model", keep="first")
    assert imagenet["rank"] == pytest.approx(
        1 + (least["value"] > 74.846).sum(), abs=12
    )  # a few have smaller sizes alone
    line = baseline_lines(shipped_values(), "timm")["imagenet-r"]
    assert rows["imagenet-r"]["effective"] == pytest.approx(rows["imagenet-r"]["top1"] - line.expected([74.846])[0])


def test_a_model_of_the_study_alone_is_placed_by_its_own_figures() -> None:
    rows = place(shipped_values(), "resnet50_dino").to_dicts()
    assert {row["source"] for row in rows} == {"study"}
    assert [row["benchmark"] for row in rows] == [
        "imagenet",
        "imagenet-v2",
        "imagenet-sketch",
        "imagenet-a",
        "imagenet-r",
    ]
    assert {row["of"] for row in rows} == {1267}
