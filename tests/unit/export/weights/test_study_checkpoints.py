from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from bandlens.core.errors import UnknownName, UsageError
from bandlens.export.model_files import NORMALIZATIONS, normalization_name
from bandlens.export.weights.fetch import DOWNLOADERS
from bandlens.export.weights.study_checkpoints import by_category, checkpoint, checkpoints, key_rule, select

FACTS = Path(__file__).parents[5] / "shared" / "facts" / "checkpoints.csv"


def test_every_row_is_valid() -> None:
    assert len(checkpoints()) == len({row.name for row in checkpoints()}) == 48
    for row in checkpoints():
        assert 50 < row.published_top1 < 82
        assert row.normalization in NORMALIZATIONS
        assert row.licence
        for part in row.parts:
            assert part.source.kind in DOWNLOADERS
            assert part.source.address.startswith("https://" if part.source.kind == "url" else "")
            rule = key_rule(part.rule)
            for pattern in (*dict(rule.drop), *dict(rule.rename)):
                re.compile(pattern)


@pytest.mark.skipif(not FACTS.exists(), reason="the table of published checkpoints is not beside this checkout")
def test_rows_equal_the_published_table() -> None:
    with FACTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [
        (
            row["name"],
            row["category"],
            f"{row['source_kind']}:{row['source']}" + (f" + url:{row['head_source']}" if row["head_source"] else ""),
            row["normalization"],
            float(row["published_top1"]),
        )
        for row in rows
    ]
    records = [
        (entry.name, entry.category, entry.source, entry.normalization, entry.published_top1) for entry in checkpoints()
    ]
    assert records == expected


def test_licences_are_those_that_timm_records() -> None:
    timm = pytest.importorskip("timm")
    for row in checkpoints():
        repository = row.parts[0].source.address.removeprefix("timm/")
        stated = timm.get_pretrained_cfg(repository).license if row.parts[0].source.kind == "timm" else "unstated"
        assert row.licence == stated, row.name


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean tv_resnet50"):
        checkpoint("tv_resnet5")
    with pytest.raises(UnknownName, match="contrastive"):
        by_category("contrast")
    with pytest.raises(UnknownName, match="robust"):
        key_rule("robusd")


def test_words_select_names_categories_or_all_each_once() -> None:
    assert select(["all", "tv_resnet50"]) == checkpoints()
    names = [row.name for row in select(["tv2_resnet50", "tv_resnet50", "tv2_resnet50"])]
    assert names == ["tv2_resnet50", "tv_resnet50"]
    assert select(["category:stylized"]) == by_category("stylized")
    with pytest.raises(UsageError, match="category:C"):
        select([])


def test_normalizations_have_names_or_numbers() -> None:
    assert normalization_name(NORMALIZATIONS["imagenet"]) == "imagenet"
    assert normalization_name(((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))) == "mean 0.5, 0.5, 0.5; std 0.25, 0.25, 0.25"
