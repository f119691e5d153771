"""A checkpoint is a published model by the sha256 of its weights or by name, and by nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
from made_up_results import cell, image_set, model, part, store_study
from small import Command

from bandlens.analysis.database.open import open_store
from bandlens.analysis.published.joined import WEIGHTS, join
from bandlens.analysis.published.names import models
from bandlens.analysis.published.sources import shipped_values
from bandlens.core.records import Model
from bandlens.export.weights.registry import checkpoints

ROOT = Path(__file__).parents[4]
TV_RESNET50 = "0676ba61"
"""The beginning of the sha256 of torchvision's first resnet50, resnet50-0676ba61.pth."""


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "support" / "golden"))
    import atlas

    return atlas


def joined(name: str, category: str = "own", sha256: str = "f" * 64) -> tuple[str | None, str | None, str | None]:
    rows = join(pl.DataFrame({"name": [name], "category": [category], "weights_sha256": [sha256]}), shipped_values())
    [(_, model_of, by, note)] = rows.rows()
    return model_of, by, note


def test_weights_are_those_that_timm_and_torchvision_name(maker: ModuleType) -> None:
    shipped = pl.read_csv(WEIGHTS, comment_prefix="#", infer_schema=False)
    assert shipped["sha256"].is_unique().all()
    assert shipped["sha256"].str.len_chars().min() >= 8  # type: ignore[operator]
    # Another release of timm may have moved files; what both have is the same.
    known = maker.weights()
    both = [(digits, name) for digits, name, _ in shipped.rows() if digits in known]
    assert len(both) > 300
    assert both == [(digits, known[digits][0]) for digits, _ in both]
    assert set(shipped["model"]) <= set(models(shipped_values())["model"])
    assert TV_RESNET50 in shipped["sha256"]


def test_weights_name_a_model_whatever_it_is_called() -> None:
    assert joined("mine", sha256=TV_RESNET50 + "0" * 56) == ("resnet50.tv_in1k", "weights", None)
    assert joined("resnet50.a1_in1k", sha256=TV_RESNET50 + "0" * 56) == ("resnet50.tv_in1k", "weights", None)
    assert joined("mine", sha256=TV_RESNET50[:7] + "f" + "0" * 56) == (None, None, None)


@pytest.mark.parametrize(("name", "category"), [(checkpoint.name, checkpoint.category) for checkpoint in checkpoints()])
def test_each_of_the_48_is_the_studys(name: str, category: str) -> None:
    answer = joined(name, category)
    assert answer[1:] == ("study", None)
    table = models(shipped_values())
    assert table.filter(source="study", name=name)["model"].to_list() == [answer[0]]


def test_names_join_only_where_they_are_one_model() -> None:
    assert joined("resnet50.a1_in1k") == ("resnet50.a1_in1k", "name", None)
    assert joined("resnet18.tv_in1k", "timm") == ("resnet18.tv_in1k", "name", None)
    assert joined("vgg16") == ("vgg16.tv_in1k", "name", None)
    assert joined("resnet50") == (None, None, "the name of 2 models: resnet50.a1_in1k, resnet50.tv_in1k")
    assert joined("resnet50_of_mine") == (None, None, None)
    assert joined("resnet50.a1") == (None, None, None)


def test_a_checkpoint_is_placed_by_what_it_is(command: Command, tmp_path: Path) -> None:
    db, images = tmp_path / "results.duckdb", image_set(2)
    weights = TV_RESNET50 + "0" * 56
    named = [model("mine"), model("resnet50"), model("other")]
    own_model = Model(**{slot: getattr(named[0], slot) for slot in Model.__slots__} | {"weights_sha256": weights})
    with open_store(db) as store:
        store_study(store, "s", images, [part(cell(images, by=by), [0, 0]) for by in (own_model, *named[1:])])
    tables = json.loads(command("published", "show", "--db", db, "--format", "json").out)
    rows = {row["checkpoint"]: row for row in tables["checkpoints"]}
    assert {name: (row["model"], row["by"]) for name, row in rows.items()} == {
        "mine": ("resnet50.tv_in1k", "weights"),
        "resnet50": (None, None),
        "other": (None, None),
    }
    placed = command("published", "show", "mine", "--db", db)
    assert "resnet50.tv_in1k (expected: by the line of all timm models" in placed.out
    assert "imagenet-r" in placed.out
    for name, why in {"resnet50": "the name of 2 models", "other": "unknown published model 'other'"}.items():
        refused = command("published", "show", name, "--db", db)
        assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
        assert why in refused.err
    assert command("published", "show", "alexnet", "--db", db).code == 0
