"""Labels from folders and CSV files; clusters."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from bandlens.core.errors import ImageSetError, UnknownName, UsageError
from bandlens.probes.images.labels import labels_of_csv, labels_of_folders, labels_of_names, spread

PATHS = ["a/x.jpg", "b/y.jpg", "b/z, 2.jpg"]


def test_folders_named_by_wordnet_ids_are_classes() -> None:
    labels = labels_of_folders(Path("val"), ["n01440764/a.jpg", "deep/n15075141/b.jpg", "n01443537/c.jpg"])
    assert labels is not None
    assert labels.tolist() == [0, 999, 1]
    assert labels_of_folders(Path("val"), PATHS) is None


@pytest.mark.parametrize("source", ["n01443537", "n01443537.tar.gz"])
def test_the_packed_folder_itself_may_be_a_class(source: str) -> None:
    labels = labels_of_folders(Path(source), ["a.jpg", "b.jpg"])
    assert labels is not None
    assert labels.tolist() == [1, 1]


def test_mixed_folders_name_one_of_each() -> None:
    with pytest.raises(ImageSetError, match=r"'n01440764/a\.jpg' lies in a folder named by a class and 'b/x\.jpg'"):
        labels_of_folders(Path("val"), ["n01440764/a.jpg", "b/x.jpg"])


def test_unknown_ids_name_near_ones() -> None:
    with pytest.raises(UnknownName, match="'n01440765'; did you mean n01440764") as error:
        labels_of_folders(Path("val"), ["n01440765/a.jpg"])
    assert "n01440765/a.jpg" in str(error.value)


def csv(folder: Path, text: str) -> Path:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return folder / "labels.csv"


def test_csv_in_any_order(tmp_path: Path) -> None:
    text = '\ufeffclass,note,path\n7,hm,b/y.jpg\n65535,,"b/z, 2.jpg"\n0,,a/x.jpg\n'
    assert labels_of_csv(csv(tmp_path, text), PATHS)[0].tolist() == [0, 7, 65535]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class\na/x.jpg,1\nb/y.jpg,2\n", r"it lacks 1 image, such as 'b/z, 2\.jpg'"),
        ("path,class\na/x.jpg,1\na/x.jpg,1\n", r"row 3: 'a/x\.jpg' is listed twice; keep one of .* multilabel"),
        ("path,class\na/w.jpg,1\n", r"row 2: no image 'a/w\.jpg'"),
        ("path,class\na/x.jpg,-1\n", "row 2: class '-1' must be an integer from 0 to 65535"),
        ("path,class\na/x.jpg\n", "row 2: the class is missing; write its name"),
        ("path,class\na/x.jpg,3;\n", "row 2: the class is missing; write its name"),
        ("path,class\na/x.jpg,3;-1\n", "row 2: class '-1' must be an integer from 0 to 65535"),
        ("file,label\na/x.jpg,1\n", "needs the columns path and class, found"),
        ("path,class\na/x.jpg,tench, Tinca tinca\n", "row 2: it has more fields than the header; put text with commas"),
    ],
)
def test_csv_errors_name_the_row(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match=message) as error:
        labels_of_csv(csv(tmp_path, text), PATHS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cells", "labels", "lists", "names"),
    [
        (("7", "3 ; 7", "0;00"), [7, 3, 0], [[7], [3, 7], [0]], None),
        (("tench", "9;10", "10"), [2, 1, 0], [[2], [1, 0], [0]], ["10", "9", "tench"]),
        (("tench", "eel;10;eel", "10;10"), [2, 1, 0], [[2], [1, 0], [0]], ["10", "eel", "tench"]),
        (("7", "3", "0"), [7, 3, 0], None, None),
    ],
)
def test_a_cell_may_name_several_classes_of_which_the_first_is_the_label(
    cells: tuple[str, ...], labels: list[int], lists: list[list[int]] | None, names: list[str] | None, tmp_path: Path
) -> None:
    text = "".join(f'"{path}",{classes}\n' for path, classes in zip(PATHS, cells, strict=True))
    classes = labels_of_csv(csv(tmp_path, "path,class\n" + text), PATHS)
    assert (classes[0].tolist(), classes[1:]) == (labels, (names, lists))


@pytest.mark.parametrize(
    ("text", "labels", "names"),
    [
        ("a/x.jpg,0\na/x.jpg,3\nb/y.jpg,\n'b/z, 2.jpg',14\n", [9, 0, 1 << 14], None),
        ("a/x.jpg,d\na/x.jpg,cat\nb/y.jpg,\n'b/z, 2.jpg',d\n", [0, 2, 1], ["cat + d", "d", "no label"]),
    ],
)
def test_images_with_several_labels_are_of_the_class_of_their_set(
    text: str, labels: list[int], names: list[str] | None, tmp_path: Path
) -> None:
    file = csv(tmp_path, "path,class\n" + text.replace("'", '"'))
    numbers, classes, _ = labels_of_csv(file, PATHS, multilabel=True)
    assert (numbers.tolist(), classes) == (labels, names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/x.jpg,1\na/x.jpg,1\n", r"row 3: 'a/x\.jpg' is listed twice; keep one of the rows$"),
        ("a/x.jpg,15\n", "row 2: class '15' must be an integer from 0 to 14, or all must be names"),
    ],
)
def test_rows_of_several_labels_that_cannot_be_read_are_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match=message):
        labels_of_csv(csv(tmp_path, "path,class\n" + text), PATHS, multilabel=True)


def test_folders_at_the_top_are_classes_as_image_folder_has_them(tmp_path: Path) -> None:
    paths = ["cat/1.jpg", "cat/deep/2.jpg", "Dog/1.jpg", "10/a.jpg", "9/a.jpg", "ä b/c.jpg"]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / path)
    folder = ImageFolder(str(tmp_path))
    labels, names = labels_of_names(tmp_path, sorted(paths))
    assert names == folder.classes
    expected = {str(Path(path).relative_to(tmp_path)): label for path, label in folder.samples}
    assert dict(zip(sorted(paths), labels.tolist(), strict=True)) == expected


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["cat/1.jpg", "2.jpg"], "'2.jpg' lies in no folder, so --labels folders has no class for it; move"),
        (["photos/cat/1.jpg", "photos/dog/2.jpg"], "all images lie in 'photos', and one class is none"),
    ],
)
def test_folders_that_are_no_classes(paths: list[str], message: str) -> None:
    with pytest.raises(ImageSetError) as error:
        labels_of_names(Path("photos"), paths)
    assert message in str(error.value)


@example(classes=[0] * 20 + [1] * 2, limit=4, seed=0, order=Random(0))
@given(
    classes=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    limit=st.integers(1, 60),
    seed=st.integers(0, 5),
    order=st.randoms(use_true_random=False),
)
def test_a_limit_draws_evenly_whatever_the_order(classes: list[int], limit: int, seed: int, order: Random) -> None:
    paths = [f"{place}.jpg" for place in range(len(classes))]
    rows = spread(np.array(classes, np.int32), paths, limit, seed).tolist()
    assert len(set(rows)) == len(rows) == min(limit, len(paths))
    counts, totals = Counter(classes[row] for row in rows), Counter(classes)
    maximum = max(counts.values())
    assert all(counts[label] in (maximum, maximum - 1) or counts[label] == totals[label] for label in totals)
    fewer = spread(np.array(classes, np.int32), paths, max(1, limit - 1), seed).tolist()
    assert fewer == rows[: len(fewer)]
    permutation = list(range(len(paths)))
    order.shuffle(permutation)
    permuted_rows = spread(np.array(classes, np.int32)[permutation], [paths[at] for at in permutation], limit, seed)
    assert [permutation[row] for row in permuted_rows] == rows


def test_of_images_with_equal_places_those_of_the_least_digests_are_drawn() -> None:
    """So every machine draws the same: of 100 classes of two images, the first of each, and 50 of the second ones."""
    paths = [f"{row}.jpg" for row in range(200)]
    digests = [hashlib.sha256(f"7 {path}".encode()).digest() for path in paths]
    pairs = [sorted((row, row + 100), key=digests.__getitem__) for row in range(100)]
    firsts, seconds = (sorted(members, key=digests.__getitem__) for members in zip(*pairs, strict=True))
    rows = spread(np.tile(np.arange(100, dtype=np.int32), 2), paths, 150, 7)
    assert rows.tolist() == [*firsts, *seconds[:50]]


def test_unreadable_csv(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the labels .*; give --labels a CSV file, or `folders`"):
        labels_of_csv(tmp_path / "nowhere.csv", PATHS)
    (tmp_path / "labels.csv").write_bytes(b"path,class\n\xff.jpg,1\n")
    with pytest.raises(ImageSetError, match="not a CSV file in UTF-8"):
        labels_of_csv(tmp_path / "labels.csv", PATHS)
