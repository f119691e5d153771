"""Attributes of images as files: read again as they were written, and refused where they are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandlens.core.errors import ImageSetError
from bandlens.probes.images.labels import make_slices, read_attributes, select_images, write_attributes
from bandlens.probes.images.storage import ATTRIBUTES

PATHS = [f"{k}.png" for k in range(6)]
VALUES = st.dictionaries(
    st.tuples(st.sampled_from(PATHS), st.sampled_from(["site", "scanner"])), st.sampled_from("ABC"), max_size=12
)


@given(values=VALUES, rows=st.permutations(range(6)).flatmap(lambda order: st.integers(1, 6).map(lambda k: order[:k])))
def test_slices_of_some_images_are_those_of_packing_them_alone(
    values: dict[tuple[str, str], str], rows: list[int]
) -> None:
    selection = select_images(make_slices(values, PATHS), np.array(rows), len(PATHS))
    slices = make_slices(values, [PATHS[row] for row in rows])
    assert {key: images.tolist() for key, images in selection.items()} == {
        key: images.tolist() for key, images in slices.items()
    }


def test_attributes_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_attributes(tmp_path, 6) == {}
    slices = make_slices({("1.png", "site"): "B", ("0.png", "site"): "A", ("4.png", "site"): "B"}, PATHS)
    write_attributes(tmp_path, slices)
    attributes = read_attributes(tmp_path, 6)
    assert list(attributes) == [("site", "A"), ("site", "B")]
    assert [images.tolist() for images in attributes.values()] == [[0], [1, 4]]
    assert [file.name for file in tmp_path.iterdir()] == [ATTRIBUTES]


@pytest.mark.parametrize(
    "table",
    [
        pl.DataFrame({"image_index": [6], "name": ["site"], "value": ["A"]}),
        pl.DataFrame({"image_index": [0], "name": [None], "value": ["A"]}),
        pl.DataFrame({"image_index": [0], "name": ["site"]}),
    ],
)
def test_damaged_attributes_are_refused(tmp_path: Path, table: pl.DataFrame) -> None:
    table.write_parquet(tmp_path / ATTRIBUTES)
    with pytest.raises(ImageSetError, match=r"attributes\.parquet: damaged or missing"):
        read_attributes(tmp_path, 6)
