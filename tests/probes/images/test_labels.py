"""Labels from folders and CSV files; clusters."""

from __future__ import annotations

from pathlib import Path

import pytest

from bandlens.errors import ImageSetError, UnknownName, UsageError
from bandlens.probes.images.decision_spaces import imagenet_classes
from bandlens.probes.images.labels import CLUSTERINGS, labels_of_csv, labels_of_folders

PATHS = ["a/x.jpg", "b/y.jpg", "b/z, 2.jpg"]


def test_the_thousand_classes() -> None:
    classes = imagenet_classes()
    assert list(classes.values()) == list(range(1000))
    assert list(classes) == sorted(classes)
    assert (classes["n01440764"], classes["n15075141"]) == (0, 999)


def test_folders_named_by_wordnet_ids_are_classes() -> None:
    labels = labels_of_folders(Path("val"), ["n01440764/a.jpg", "deep/n15075141/b.jpg", "n01443537/c.jpg"])
    assert labels is not None
    assert labels.tolist() == [0, 999, 1]
    assert labels_of_folders(Path("val"), PATHS) is None


@pytest.mark.parametrize("source", ["n01443537", "n01443537.tar", "n01443537.tar.gz"])
def test_the_packed_folder_itself_may_be_a_class(source: str) -> None:
    labels = labels_of_folders(Path(source), ["a.jpg", "b.jpg"])
    assert labels is not None
    assert labels.tolist() == [1, 1]


def test_mixed_folders_name_one_of_each() -> None:
    with pytest.raises(
        ImageSetError, match=r"'n01440764/a\.jpg' lies in a folder named by a class and 'b/x\.jpg' does not"
    ):
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
    assert labels_of_csv(csv(tmp_path, text), PATHS).tolist() == [0, 7, 65535]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class\na/x.jpg,1\nb/y.jpg,2\n", r"1 images are not listed, the first 'b/z, 2\.jpg'"),
        ("path,class\na/x.jpg,1\na/x.jpg,1\n", r"row 3: 'a/x\.jpg' is listed twice"),
        ("path,class\na/w.jpg,1\n", r"row 2: no image 'a/w\.jpg'"),
        ("path,class\na/x.jpg,-1\n", "row 2: class '-1' must be an integer from 0 to 65535"),
        ("path,class\na/x.jpg,1.0\n", "row 2: class '1.0'"),
        ("path,class\na/x.jpg,65536\n", "row 2: class '65536'"),
        ("path,class\na/x.jpg,٣\n", "row 2: class"),
        ("path,class\na/x.jpg\n", "row 2: class ''"),
        ("file,label\na/x.jpg,1\n", "needs the columns path and class, found"),
        ("", "needs the columns path and class, found none"),
        ("x" * 1000, "needs the columns path and class, found x{60}$"),
        ('path,class\n"a/x.jpg,1\n', "not a CSV file"),
    ],
)
def test_csv_errors_name_the_row(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match=message) as error:
        labels_of_csv(csv(tmp_path, text), PATHS)
    assert "\n" not in str(error.value)


def test_unreadable_csv(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the labels"):
        labels_of_csv(tmp_path / "nowhere.csv", PATHS)
    (tmp_path / "labels.csv").write_bytes(b"path,class\n\xff.jpg,1\n")
    with pytest.raises(ImageSetError, match="not a CSV file in UTF-8"):
        labels_of_csv(tmp_path / "labels.csv", PATHS)


def test_clusters() -> None:
    assert CLUSTERINGS["none"](PATHS).tolist() == [0, 1, 2]
    assert CLUSTERINGS["folder"](PATHS).tolist() == [0, 1, 1]
