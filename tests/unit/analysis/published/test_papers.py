"""Printed numbers follow from the files of their authors; what differs differs for the reason that is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest
from required import miss
from small import Command

from bandlens.analysis.published import imports
from bandlens.analysis.published.papers import READERS, find_papers, papers, recompute
from bandlens.core.errors import StoreError, UnknownName

PUBLISHED = Path(__file__).parents[5] / "shared" / "published"
needs_published = pytest.mark.skipif(
    not (PUBLISHED / "atlas").is_dir(), reason="no figures at ../shared/published/atlas"
)
FOLDERS = {
    "study": "",
    "study-correlations": "",
    "study-channels": "",
    "timm": "atlas/timm",
    "open-clip": "atlas",
    "cue-conflict": "cue_conflict_decisions",
    "humans": "atlas/humans",
    "critical-band": "atlas/critical_band",
}
"""Paper -> where its authors' files lie beside the checkout."""
COUNTS = {
    "study": (260, 260),
    "study-correlations": (72, 72),
    "study-channels": (288, 261),
    "timm": (15558, 13259),
    "robustbench": (24, 24),
    "open-clip": (121, 121),
    "cue-conflict": (2, 2),
    "humans": (1, 1),
    "critical-band": (1, 0),
    "human-channel": (3, 3),
    "error-consistency": (5, 5),
    "negative-flips": (2, 1),
}
"""Paper -> its printed numbers, and how many of these are equal."""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(imports, "RESAMPLES", 100)  # the intervals of the critical bands are not asked for
    for name, folder in FOLDERS.items():
        (tmp_path / name).symlink_to(PUBLISHED / folder)
    return tmp_path


@needs_published
def test_more_than_500_printed_numbers_are_recomputed(files: Path) -> None:
    frames = {paper.name: recompute(paper, files / paper.name) for paper in find_papers(None)}
    drawn = {"critical-band-fits", "cue-decisions", "vlm-shape-biases", "open-clip-lines", "testbed-robustness"}
    # The annotations of imagenet-x do not lie beside the checkout, and what is drawn is in no file.
    assert {name for name, rows in frames.items() if rows is None} == {"imagenet-x", *drawn}
    counts = {name: (len(rows), rows["equal"].sum()) for name, rows in frames.items() if rows is not None}
    assert counts == COUNTS
    rows = pl.concat([rows for rows in frames.values() if rows is not None])
    assert rows.filter("equal")["why"].is_null().all()
    assert not rows.filter(~pl.col("equal"))["why"].str.contains("not known").any()
    assert rows.select("paper", "figure").is_unique().all()


@needs_published
def test_timms_other_top5_are_those_of_models_of_the_same_top1(files: Path) -> None:
    """Each published difference that is not the model's own is that of a model with its top-1 on the same classes."""
    rows = recompute(papers()["timm"], files / "timm")
    assert rows is not None
    other = rows.filter(~pl.col("equal"))
    assert set(other["figure"].str.extract(r", (\w+), ")) == {"top5_diff"}
    explained = 0
    for file in other["figure"].str.extract(r"^(\S+), ").unique():
        base = PUBLISHED / "atlas/timm" / file.replace(".csv", "-clean.csv")
        base = base if base.exists() else base.with_name("results-imagenet.csv")
        table, clean = (pl.read_csv(path, infer_schema_length=None) for path in (base.with_name(file), base))
        both = table.join(clean, on=["model", "img_size"], suffix="_clean").join(
            clean.select("top1", tied="top5"), left_on="top1_clean", right_on="top1"
        )
        subtracted = (pl.col("top5") - pl.col("tied") - pl.col("top5_diff").cast(pl.Float64)).abs() < 0.0016
        name = pl.format("{}, top5_diff, {} at {} pixels", pl.lit(file), "model", "img_size")
        explained += both.filter(subtracted).select(figure=name).unique().join(other, on="figure").height
    assert explained == len(other)


def test_factors_of_imagenet_x_are_shares_over_their_images(tmp_path: Path) -> None:
    labels = {"a": 1, "b": 1, "c": 2, "d": 2, "prototype": 1}
    predicted = {"a": 1, "b": 2, "c": 2, "d": 2, "prototype": 7}
    pose, color = {"a": 1, "b": 1, "c": 1, "d": 0, "prototype": 1}, {"a": 0, "b": 1, "c": 0, "d": 1, "prototype": 1}
    pl.DataFrame(
        {"file_name": list(labels), "predicted_class": list(predicted.values()), "model": "net"}
    ).write_parquet(tmp_path / "predictions.parquet")
    pl.DataFrame({"file_name": ["prototype"]}).write_csv(tmp_path / "prototypical_paths.csv")
    annotations = pl.DataFrame(
        {"file_name": list(labels), "class": list(labels.values()), "pose": list(pose.values())}
        | {"color": list(color.values())}
    )
    printed = {"pose": 2 / 3, "color": 0.5, "worst_factor": 0.5, "average": 0.8, "worst_100_classes": 0.75}
    for kind in ("multi", "top"):
        annotations.write_ndjson(tmp_path / f"imagenet_x_val_{kind}_factor.jsonl")
        pl.DataFrame({"model": "net"} | printed).write_csv(tmp_path / f"accuracies_per_factor_{kind}.csv")
    rows = recompute(papers()["imagenet-x"], tmp_path)
    assert rows is not None
    assert len(rows) == 10
    [wrong, _] = rows.filter(~pl.col("equal")).to_dicts()
    assert (wrong["figure"], wrong["printed"], wrong["recomputed"]) == ("multi net average", 0.8, 0.75)


@needs_published
def test_published_factors_of_imagenet_x_are_recomputed_with_the_annotations(tmp_path: Path) -> None:
    if not find_spec("imagenet_x"):
        miss("imagenet_x", "no annotations of ImageNet-X: pip install --no-deps imagenet-x==0.0.7")
    annotations = Path(str(resources.files("imagenet_x"))) / "annotations"
    for folder in (PUBLISHED / "atlas/imagenetx", annotations):
        for file in folder.iterdir():
            (tmp_path / file.name).symlink_to(file)
    rows = recompute(papers()["imagenet-x"], tmp_path)
    assert rows is not None
    assert (len(rows), rows["equal"].all()) == (2 * 4 * (16 + 3), True)


@needs_published
def test_a_number_that_is_changed_is_told(files: Path) -> None:
    table = pl.read_csv(files / "open-clip/openclip_results.csv")
    (files / "open-clip").unlink()
    (files / "open-clip").mkdir()
    average = pl.col("Average perf. on 38 datasets")
    changed = pl.when(pl.int_range(pl.len()) == 3).then(average + 0.001).otherwise(average)
    table.with_columns(changed).write_csv(files / "open-clip/openclip_results.csv")
    rows = recompute(papers()["open-clip"], files / "open-clip")
    assert rows is not None
    [row] = rows.filter(~pl.col("equal")).to_dicts()
    assert (row["figure"], row["why"]) == ("ViT-SO400M-14-SigLIP-384.webli", "not known")
    assert row["printed"] - row["recomputed"] == pytest.approx(0.001, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("open-clip", {"openclip_results.csv": "name,pretrained\na,b\n"}),
        ("study", {"benchmark.csv": "model,top1_acc/imagenet-c\na,1\n"}),
        ("study-correlations", {"correlations.csv": "bias,generalization,subset,spearman\na,b,c,?\n"}),
        ("study-channels", {"critical_band_thresholds.csv": "model,variant,thresholds_f0_to_f6\na,raw,44444x4\n"}),
        ("cue-conflict", {"resnet50.csv": "\n", "resnet50_trained_on_SIN.csv": "a\n1\n"}),
        ("humans", {"trials.parquet": "nothing"}),
        ("critical-band", {"counts.json": "[]", "shape_accuracy.json": "{}"}),
        ("timm", dict.fromkeys(papers()["timm"].files, "model,img_size,top1,top5,top1_diff,top5_diff\na,b,c,d,e,f\n")),
        ("imagenet-x", dict.fromkeys(papers()["imagenet-x"].files, "nothing")),
    ],
)
def test_other_files_are_refused_in_one_line(name: str, contents: Mapping[str, str], tmp_path: Path) -> None:
    for file, text in contents.items():
        (tmp_path / file).write_text(text)
    with pytest.raises(StoreError) as raised:
        recompute(papers()[name], tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


@needs_published
def test_a_file_of_timm_without_differences_is_refused_and_not_passed_over(files: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in papers()["timm"].files:
        (damaged / file).symlink_to(files / "timm" / file)
    (damaged / "results-sketch.csv").unlink()
    (damaged / "results-sketch.csv").write_text("model,img_size,top1,top5\na,224,1,2\n")
    with pytest.raises(StoreError, match=r"damaged/results-sketch\.csv.*no column top1_diff"):
        recompute(papers()["timm"], damaged)


def test_the_files_that_lack_are_named_and_no_others(command: Command, tmp_path: Path) -> None:
    present, *lacking = papers()["imagenet-x"].files
    (tmp_path / "imagenet-x").mkdir()
    (tmp_path / "imagenet-x" / present).touch()
    answer = command("papers", "imagenet-x", "--files", tmp_path)
    assert answer.code == 2
    assert f"put into {tmp_path}/imagenet-x {', '.join(lacking)} (predictions as" in answer.err
    assert present not in answer.err


def test_every_paper_has_a_reader_a_commit_a_licence_and_a_command() -> None:
    for paper in papers().values():
        assert paper.reader in READERS or (paper.get and not paper.files)
        assert all((paper.title, paper.repository, paper.commit, paper.licence, paper.recomputed_by, paper.printed))
    assert set(READERS) == {paper.reader for paper in papers().values()} - {""}
    with pytest.raises(UnknownName, match="did you mean timm"):
        find_papers("tim")


def test_the_command_counts_prints_and_says_what_is_not_here(command: Command, tmp_path: Path) -> None:
    shown = command("papers").out
    assert "33 of 34 numbers are equal to the printed ones" in shown
    assert "jun-fang/PCT" in shown, "a commit says nothing without its repository"
    assert "negative-flips: 1 differs: the printed rates that it follows from are rounded" in shown
    assert "not here: imagenet-x, " in shown
    assert "put into DIR/imagenet-x predictions.parquet" in shown
    assert (
        "not here: open-clip-lines, lines of zero-shot models, docs/effective_robustness.png; the picture has" in shown
    )
    document = json.loads(command("papers", "--format", "json").out)
    rows = {row["paper"]: row for row in document["papers"]}
    assert (rows["robustbench"]["figures"], rows["robustbench"]["equal"], rows["timm"]["figures"]) == (24, 24, None)
    assert len(document["figures"]) == 34
    assert "0011 1100" in command("papers", "error-consistency").out
    for arguments in (
        ("tim",),
        ("timm",),
        ("open-clip-lines",),
        ("--files", tmp_path / "none"),
        ("timm", "--db", tmp_path / "r.duckdb"),
    ):
        wrong = command("papers", *arguments)
        assert (wrong.code, wrong.out, wrong.err.count("\n")) == (2, "", 1)
