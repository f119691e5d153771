"""Image sets on disk: what is packed is what opens, damage is found, and failures leave nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from small import write_pictures

from bandlens.core.errors import ImageSetError, UnknownName, UsageError
from bandlens.core.records import Crop
from bandlens.probes.images.image_set import ImageSet, check_image_set, open_image_set, read_image_set
from bandlens.probes.images.pack import FOLDERS, pack, pack_arrays
from bandlens.probes.images.pack_options import USUAL, WHOLE_SOURCE, Contents, Draw, How


def picture(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def photographs(folder: Path, paths: list[str]) -> Path:
    return write_pictures(folder, {path: picture(seed) for seed, path in enumerate(paths)})


CROP = Crop(32, 36)
PATHS = ["n01440764/a.jpg", "n01440764/b.png", "n01443537/c.webp", "n15075141/d.jpeg"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photographs(tmp_path / "photos", PATHS)


@pytest.fixture
def packed(photos: Path, tmp_path: Path) -> ImageSet:
    return pack(photos, tmp_path / "set", crop=CROP, contents=Contents(clusters="folder"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_packed_opens(packed: ImageSet) -> None:
    images = open_image_set(packed.folder)
    assert images.info == packed.info
    info = images.info
    assert (info.name, info.benchmark, info.count, info.size, info.labelled) == ("set", "set", 4, 32, True)
    assert info.preprocessing == "RGB, shorter side to 36 (bilinear, antialiased), centre crop 32"
    assert images.paths == PATHS
    assert images.labels is not None
    assert images.labels.tolist() == [0, 0, 1, 999]
    assert images.clusters.tolist() == [0, 0, 1, 2]
    assert images.labels.dtype == images.clusters.dtype == np.int32
    assert images.pixels.shape == (4, 3, 32, 32)
    assert images.pixels.dtype == np.uint8
    assert isinstance(images.pixels, np.memmap)
    assert not images.pixels.flags.writeable
    assert names(packed.folder) == ["index.parquet", "pixels.npy", "set.json"]
    assert len(repr(images)) < 600
    check_image_set(packed.folder)


def test_the_digest_covers_what_matters_and_nothing_else(photos: Path, tmp_path: Path) -> None:
    def digest(
        out: str, source: Path = photos, crop: Crop = CROP, contents: Contents = WHOLE_SOURCE, how: How = USUAL
    ) -> str:
        return pack(source, tmp_path / out, crop=crop, contents=contents, how=how).info.digest

    first = digest("first")
    copy = shutil.copytree(photos, tmp_path / "moved" / "elsewhere")
    assert digest("second", copy, contents=Contents("renamed", "imagenet"), how=How(workers=3)) == first
    unlabelled = photographs(tmp_path / "unlabelled", ["m" + path[1:] for path in PATHS])
    digests = [
        digest("clusters", contents=Contents(clusters="folder")),
        digest("size", crop=Crop(31, 36)),
        digest("resize", crop=Crop(32, 37)),
        digest("labels", unlabelled),
        digest("space", unlabelled, contents=Contents(decision_space="sixteen")),
    ]
    Image.fromarray(picture(99)).save(photos / PATHS[0])
    digests.append(digest("pixels"))
    assert len({first, *digests}) == 7


def test_digests_do_not_change_with_the_program(tmp_path: Path) -> None:
    items = [(f"{k}/{k}.png", picture(k)) for k in range(3)]
    unlabelled = pack_arrays(items, tmp_path / "unlabelled", crop=CROP)
    assert unlabelled.info.digest == "2ba9b24962797c4a8d74a87bfaa696207e8909bf68ad2f4b424930873efc1fea"
    images = pack_arrays(items, tmp_path / "set", crop=CROP, labels=[5, 0, 7], contents=Contents(clusters="folder"))
    assert images.info.digest == "0510e0f160a86388a004c3287f5b746383e212893b0aef555c6ecfdf55df31c4"
    assert json.loads((images.folder / "set.json").read_text())["format"] == 2


def test_a_key_belongs_to_the_pixels(packed: ImageSet, photos: Path, tmp_path: Path) -> None:
    assert packed.keys.dtype == np.uint64
    for key, pixels in zip(packed.keys.tolist(), packed.pixels, strict=True):
        assert key == int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "big")
    keys = dict(zip(packed.paths, packed.keys.tolist(), strict=True))
    (photos / "n01440764").rename(photos / "n13133613")
    images = pack(photos, tmp_path / "moved", crop=CROP)
    assert images.paths != packed.paths
    assert [keys[path.replace("n13133613", "n01440764")] for path in images.paths] == images.keys.tolist()


@pytest.mark.parametrize("stream", [False, True])
def test_images_drawn_of_a_set_are_those_that_a_limit_would_have_packed(
    stream: bool, photos: Path, tmp_path: Path
) -> None:
    contents, how = Contents(clusters="folder"), How(stream=stream)
    full_set = pack(photos, tmp_path / "whole", crop=CROP, contents=contents, how=how)
    for limit, seed in ((1, 0), (3, 1)):
        subset = replace(contents, draw=Draw(limit, seed))
        limit_set = pack(photos, tmp_path / f"{limit}", crop=CROP, contents=subset, how=how)
        sample = open_image_set(tmp_path / "whole", Draw(limit, seed))
        assert sample.info == replace(limit_set.info, name="whole", benchmark="whole")
        assert sample.paths == limit_set.paths
        assert np.array_equal(sample.keys, limit_set.keys)
        every = np.arange(limit)
        assert np.array_equal(sample.take(every), limit_set.take(every))
        assert np.array_equal(sample.take(every[::-1]), limit_set.take(every[::-1]))
        whole = read_image_set(tmp_path / "whole")
        path_set = whole.select(whole.find_rows(limit_set.paths))
        assert path_set.info == sample.info
        assert np.array_equal(path_set.take(every), limit_set.take(every))
    assert open_image_set(tmp_path / "whole", Draw(99)).info == full_set.info
    with pytest.raises(KeyError, match=r"no\.png"):
        read_image_set(tmp_path / "whole").find_rows(["no.png"])


def test_two_names_of_one_class_are_one_class_of_an_image(photos: Path, tmp_path: Path) -> None:
    rows = zip(PATHS, ["crane;crane bird", "ox", "crane bird", "ox;crane"], strict=True)
    (tmp_path / "labels.csv").write_text("path,class\n" + "".join(f"{path},{cell}\n" for path, cell in rows))
    pack(photos, tmp_path / "set", crop=CROP, labels=tmp_path / "labels.csv")
    several = read_image_set(tmp_path / "set").select(numbers=(134, 134, 345)).schemes["several"]
    assert several.image_index.tolist() == [0, 1, 2, 3, 3]
    assert several.classes.tolist() == [134, 345, 134, 345, 134]


def test_a_broken_image_stops_the_pack_or_is_left_out(photos: Path, tmp_path: Path) -> None:
    full_set = pack(photographs(tmp_path / "kept", [PATHS[0], *PATHS[2:]]), tmp_path / "whole", crop=Crop(8, 8))
    broken = photos / PATHS[1]
    broken.write_bytes(broken.read_bytes()[:-500])
    photographs(photos, [PATHS[0], *PATHS[2:]])
    with pytest.raises(ImageSetError, match=r"photos: 'n01440764/b\.png' is broken \(.+\); .* --skip-broken") as error:
        pack(photos, tmp_path / "set", crop=Crop(8, 8))
    assert "\n" not in str(error.value)
    assert names(tmp_path) == ["kept", "photos", "whole"]

    images = pack(photos, tmp_path / "set", crop=Crop(8, 8), how=How(skip_broken=True))
    assert list(images.skipped) == [PATHS[1]]
    assert images.paths == [PATHS[0], *PATHS[2:]]
    assert np.array_equal(images.pixels, full_set.pixels)
    assert images.info.digest == full_set.info.digest
    check_image_set(images.folder)


def test_an_image_that_is_left_out_needs_no_row_of_labels(photos: Path, tmp_path: Path) -> None:
    broken, labels = photos / PATHS[1], tmp_path / "labels.csv"
    broken.write_bytes(broken.read_bytes()[:-500])
    labels.write_text("path,class\n" + "".join(f"{path},{k}\n" for k, path in enumerate(PATHS) if k != 1))
    skipping = How(skip_broken=True)
    images = pack(photos, tmp_path / "set", crop=Crop(8, 8), labels=labels, how=skipping)
    assert list(images.skipped) == [PATHS[1]]
    assert images.labels is not None
    assert images.labels.tolist() == [0, *range(2, len(PATHS))]
    labels.write_text("".join(labels.read_text().splitlines(keepends=True)[:-1]))
    for how, count, path in ((skipping, "2 images", PATHS[-1]), (How(), "2 images", PATHS[1])):
        with pytest.raises(ImageSetError, match=f"it lacks {count}, such as '{path}'; add a row for each"):
            pack(photos, tmp_path / "refused", crop=Crop(8, 8), labels=labels, how=how)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("paths", "warned"),
    [(["a/0.png", "a/1.png", "b/2.png"], True), (["a/0/0.png", "a/0/1.png", "a/1/2.png", "b/2/3.png"], False)],
)
def test_classes_that_are_clusters_are_warned_of_in_one_line(paths: list[str], warned: bool, tmp_path: Path) -> None:
    photos, lines = photographs(tmp_path / "photos", paths), list[str]()
    how = How(say=lines.append)
    images = pack(photos, tmp_path / "set", crop=CROP, labels=FOLDERS, contents=Contents(clusters="folder"), how=how)
    warnings = [line for line in lines if "warning" in line]
    expected = f"{images.folder}: warning: each class is one cluster, so intervals rest on 2 clusters, not on 3 images"
    assert [line.partition("; leave out")[0] for line in warnings] == ([expected] if warned else [])
    pack(photos, tmp_path / "independent", crop=CROP, labels=FOLDERS, how=how)
    assert len([line for line in lines if "warning" in line]) == len(warnings)


def test_wrong_use(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    with pytest.raises(UsageError, match="no such folder; make it first"):
        pack(photos, tmp_path / "no" / "set")
    with pytest.raises(UsageError, match=r"photos/\*\.jpg is a pattern of files; give their folder, .*photos$"):
        pack(photos / "*.jpg", tmp_path / "set")
    with pytest.raises(UsageError, match=r"photo: no such folder or tar archive of images; did you mean photos\?"):
        pack(tmp_path / "photo", out)
    (photos / "sky").mkdir()
    with pytest.raises(UsageError, match=r"photo/sky: no such folder or tar .*; did you mean .*photos/sky\?"):
        pack(tmp_path / "photo" / "sky", out)
    with pytest.raises(UsageError, match="0 workers: at least 1"):
        pack(photos, out, how=How(workers=0))
    with pytest.raises(UsageError, match="must be from 1 to resize"):
        pack(photos, out, crop=Crop(size=300))
    with pytest.raises(UnknownName, match="unknown clusters 'folders'; did you mean folder"):
        pack(photos, out, contents=Contents(clusters="folders"))
    (tmp_path / "there").touch()
    with pytest.raises(UsageError, match="already exists; pictures come first, then a new folder"):
        pack(photos, tmp_path / "there")
    assert names(tmp_path) == ["photos", "there"]


def test_check_names_the_first_damaged_image(packed: ImageSet) -> None:
    file = packed.folder / "pixels.npy"
    data = bytearray(file.read_bytes())
    for image in (3, 2):
        data[-(4 - image) * 3 * 32 * 32 + 17] ^= 1
    file.write_bytes(data)
    open_image_set(packed.folder)
    with pytest.raises(ImageSetError, match=r"image 2 \('n01443537/c\.webp'\) is damaged"):
        check_image_set(packed.folder)


@pytest.mark.parametrize("column", ["label", "cluster"])
def test_check_finds_changed_columns(column: str, packed: ImageSet) -> None:
    file = packed.folder / "index.parquet"
    table = pq.read_table(file)
    place = table.schema.get_field_index(column)
    reverse = pa.array(table[column].to_pylist()[::-1], table.field(place).type)
    pq.write_table(table.set_column(place, table.field(place), reverse), file)
    with pytest.raises(ImageSetError, match=r"is damaged|are not those packed"):
        check_image_set(packed.folder)


def test_a_foreign_column_is_no_label_scheme(packed: ImageSet) -> None:
    file = packed.folder / "index.parquet"
    table = pq.read_table(file)
    for lists, message in (
        ([[1], None, [], [2]], "the column mine is no label scheme"),
        ([[1], [-2], [], [3, 4]], "some classes of the column mine are negative"),
        ([[1], [2], [], [3, 4]], r"index\.parquet: does not fit set\.json"),
    ):
        pq.write_table(table.append_column("mine", pa.array(lists, pa.list_(pa.int32()))), file)
        with pytest.raises(ImageSetError, match=message):
            open_image_set(packed.folder)


@pytest.mark.parametrize("file", ["pixels.npy", "index.parquet"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_files_do_not_open(file: str, damage: str, packed: ImageSet) -> None:
    path = packed.folder / file
    path.write_bytes(path.read_bytes()[:-10])
    if damage == "missing":
        path.unlink()
    with pytest.raises(ImageSetError, match=rf"{file}: damaged or missing \(.*\); pack the images again") as error:
        open_image_set(packed.folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "not format 2"),
        ({"count": 5}, r"index.parquet: damaged or missing \(4 rows, and not 5"),
        ({"labelled": False}, r"index.parquet: does not fit set.json"),
        ({"name": ...}, r"set.json: damaged \(TypeError\(.*name"),
    ],
)
def test_a_changed_description_does_not_open(change: dict[str, object], message: str, packed: ImageSet) -> None:
    file = packed.folder / "set.json"
    description = json.loads(file.read_text()) | change
    file.write_text(json.dumps({name: value for name, value in description.items() if value is not ...}))
    with pytest.raises(ImageSetError, match=message):
        open_image_set(packed.folder)


def test_what_is_no_set(tmp_path: Path, packed: ImageSet) -> None:
    for path in (tmp_path, tmp_path / "nowhere", packed.folder / "set.json"):
        with pytest.raises(UsageError, match="not an image set; make one with"):
            open_image_set(path)
    typo = packed.folder.with_name(f"{packed.folder.name}s")
    with pytest.raises(UsageError, match=f"{typo}: not an image set; did you mean {packed.folder.name}[?]; make one"):
        open_image_set(typo)
    for text in ("{", "[]", "\xff"):
        (packed.folder / "set.json").write_text(text, encoding="latin-1")
        with pytest.raises(ImageSetError, match=r"set\.json"):
            open_image_set(packed.folder)


def test_arrays_are_packed_as_files_are(tmp_path: Path) -> None:
    paths = ["b/2.png", "a/1.png", "b/1.png"]
    contents, crop = Contents(clusters="folder"), Crop(20, 100)
    files = pack(photographs(tmp_path / "photos", paths), tmp_path / "files", crop=crop, contents=contents)
    items = ((path, picture(seed)) for seed, path in sorted(enumerate(paths), key=lambda item: item[1]))
    arrays = pack_arrays(items, tmp_path / "arrays", crop=crop, contents=contents)
    assert arrays.info.digest == files.info.digest
    assert arrays.paths == files.paths
    assert arrays.own_cycles == files.own_cycles is not None
    assert arrays.labels is None
    in_order = pack_arrays(
        [("z", picture(1)), ("a", picture(2))], tmp_path / "order", labels=[5, 3], contents=Contents(name="n")
    )
    assert in_order.paths == ["z", "a"]
    assert in_order.labels is not None
    assert in_order.labels.tolist() == [5, 3]
    assert in_order.info.name == in_order.info.benchmark == "n"


@pytest.mark.parametrize(
    ("items", "labels", "message"),
    [
        ([("a", np.zeros((4, 4), np.uint8))], None, r"'a' must be a \(height, width, 3\) uint8 array, received \(4, 4"),
        ([("a", picture(1)), ("a", picture(2))], None, "2 images have 1 different paths"),
        ([], None, "no image is left"),
        ([("a", picture(1))], [-1], "labels must be 1 integers"),
    ],
)
def test_wrong_arrays(
    items: list[tuple[str, NDArray[np.uint8]]], labels: list[int] | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ImageSetError, match=message):
        pack_arrays(items, tmp_path / "set", labels=labels)
    assert names(tmp_path) == []
