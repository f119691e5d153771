"""Sources are described, ship in part, and are refused where a file is not as described."""

from __future__ import annotations

import json
from pathlib import Path

import atlas
import polars as pl
import pytest
from small import Command

from bandlens.analysis.published.imports import read_import
from bandlens.analysis.published.sources import VALUES, shipped_values, sources
from bandlens.core.errors import UsageError

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
def test_what_ships_follows_from_the_files_of_its_source(name: str) -> None:
    rows = atlas.shipped(PUBLISHED, name).select(VALUES.names())
    assert rows.equals(pl.read_parquet(sources()[name].shipped).cast(VALUES))


def test_a_thousand_models_ship() -> None:
    values = shipped_values()
    assert values.schema == VALUES
    top1 = values.filter(metric="top1", condition="")
    counts = dict(top1.filter(benchmark="imagenet").group_by("source").agg(pl.col("model").n_unique()).rows())
    assert counts == {"study": 70, "timm": 1266, "timm-2022": 668, "testbed": 335, "open-clip": 121}
    assert values.filter(source="testbed")["model"].n_unique() == 338
    assert values.filter(pl.col("unit") == "percent")["value"].is_between(0, 100).all()
    lite0 = top1.filter(source="timm", model="tf_efficientnet_lite0.in1k", benchmark="imagenet")
    assert lite0["value"].to_list() == [74.846]


def test_a_folder_without_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no trials\.parquet"):
        read_import(sources()["humans"], tmp_path)


def test_list_says_what_is_here(command: Command) -> None:
    rows = {row["source"]: row for row in json.loads(command("published", "show", "--format", "json").out)["sources"]}
    assert list(rows) == list(sources())
    assert (rows["timm"]["licence"], rows["timm"]["commit"]) == ("Apache-2.0", "aa4b5850")
    assert rows["humans"]["models"] is None
    assert (rows["timm"]["here"], rows["humans"]["here"]) == ("shipped", None)
    assert command("published", "show").out.splitlines()[-1].startswith("not here: humans ")


def test_what_ships_can_be_imported_for_sql(command: Command, tmp_path: Path) -> None:
    db = tmp_path / "results.duckdb"
    result = command("published", "import", "testbed", "--db", db)
    assert (result.code, "licence: MIT" in result.out) == (0, True), result.err
    query = (
        "SELECT benchmark, condition, value FROM published_value WHERE model = 'resnet50_trained_on_SIN' "
        "AND metric = 'top1' ORDER BY ALL"
    )
    rows = json.loads(command("sql", query, "--db", db, "--format", "json").out)
    shipped = shipped_values(["testbed"]).filter(model="resnet50_trained_on_SIN", metric="top1")
    assert rows == shipped.select("benchmark", "condition", "value").sort(pl.all()).to_dicts()
    assert len(rows) > 10
