"""Image sets that grow and shrink: what stays is not decoded again, and nothing is half there after an error."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import make_pictures

from bandlens.core import files
from bandlens.core.errors import ImageSetError, UnknownName, UsageError
from bandlens.core.records import Crop
from bandlens.probes.images.edit import add_images, remove_images
from bandlens.probes.images.image_set import check_image_set, earlier_sets, open_image_set
from bandlens.probes.images.labels import write_attributes
from bandlens.probes.images.pack import pack, pack_arrays
from bandlens.probes.images.pack_options import Contents, How
from bandlens.probes.images.storage import changed_folder

CROP = Crop(32, 36)
NAMES = ["ant/0.png", "ant/1.png", "bee/0.png", "cat/0.png", "cat/1.png"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of five pictures of three classes."""
    for name, picture in zip(NAMES, make_pictures(len(NAMES), 64), strict=True):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def some(photos: Path, *names: str) -> Path:
    """A folder with some of the pictures."""
    folder = photos.with_name("-".join(name.replace("/", "") for name in names))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photos / name, folder / name)
    return folder


@pytest.mark.parametrize("crop", [CROP, Crop(32, 40, interpolation="bicubic", squash=True)])
@pytest.mark.parametrize("stream", [False, True])
def test_a_grown_set_is_the_set_of_all_images(photos: Path, crop: Crop, stream: bool) -> None:
    """Images that sort after those that were there give the set that packing all of them at once gives."""
    folder, out = some(photos, *NAMES[:3]), photos.with_name("grown.set")
    original = pack(folder, out, crop=crop, how=How(stream=stream))
    shutil.copytree(photos, folder, dirs_exist_ok=True)
    superset = add_images(out, folder)
    full_set = pack(photos, photos.with_name("whole.set"), crop=crop)
    assert (superset.paths, superset.info.digest) == (full_set.paths, full_set.info.digest)
    np.testing.assert_array_equal(superset.take(np.arange(5)), full_set.take(np.arange(5)))
    assert check_image_set(out).info.name == "grown.set"
    assert original.crop == superset.crop == crop
    (ancestor,) = earlier_sets(superset)
    assert (ancestor.digest, ancestor.places.tolist()) == (original.info.digest, [0, 1, 2])
    assert sorted(path.name for path in out.iterdir()) == [
        "index-1.parquet", "index.parquet", *([] if stream else ["pixels.npy"]), "set.json",
    ]  # fmt: skip


def test_a_shrunk_set_is_the_set_of_the_images_that_are_left(photos: Path) -> None:
    out = photos.with_name("shrunk.set")
    labelled = {"labels": Path("folders"), "contents": Contents(clusters="folder"), "crop": CROP}
    original = pack(photos, out, **labelled)
    write_attributes(out, {("site", "here"): np.array([0, 1, 4]), ("site", "there"): np.array([2])})
    subset = remove_images(out, [NAMES[1], NAMES[2]])
    fresh_set = pack_arrays(
        ((name, np.array(Image.open(photos / name))) for name in (NAMES[0], *NAMES[3:])),
        photos.with_name("alone.set"), crop=CROP, labels=[0, 2, 2], contents=Contents(clusters="folder"),
    )  # fmt: skip
    assert (subset.info.digest, subset.class_names) == (fresh_set.info.digest, ["ant", "bee", "cat"])
    np.testing.assert_array_equal(subset.take(np.arange(3)), fresh_set.take(np.arange(3)))
    (ancestor,) = earlier_sets(subset)
    assert (ancestor.digest, ancestor.places.tolist()) == (original.info.digest, [0, 3, 4])
    superset = add_images(out, photos, Path("folders"))
    for images in (subset, superset):
        assert {name: rows.tolist() for name, rows in images.attributes.items()} == {("site", "here"): [0, 2]}
    assert superset.paths == [NAMES[0], *NAMES[3:], NAMES[1], NAMES[2]]
    assert superset.clusters.tolist() == [0, 1, 1, 0, 2]
    assert [ancestor.places.tolist() for ancestor in earlier_sets(superset)] == [[0, 3, 4], [0, 1, 2]]


def test_folders_stay_clusters_though_each_has_one_image_for_a_while(photos: Path) -> None:
    out = photos.with_name("changed.set")
    pack(photos, out, crop=CROP, contents=Contents(clusters="folder"))
    subset = remove_images(out, ["ant/1.png", "cat/1.png"])
    assert subset.clusters.tolist() == [0, 1, 2]
    superset = add_images(out, photos)
    assert superset.paths == ["ant/0.png", "bee/0.png", "cat/0.png", "ant/1.png", "cat/1.png"]
    assert superset.clusters.tolist() == [0, 1, 2, 0, 2]


def test_new_images_and_classes_follow_those_that_were_there_and_are_not_decoded_again(photos: Path) -> None:
    """A picture under a path that the set has is no new image, and is not left out in silence."""
    out, lines = photos.with_name("grown.set"), list[str]()
    original = pack(some(photos, *NAMES[2:]), out, crop=CROP, labels=Path("folders"))
    (photos / NAMES[2]).write_bytes(b"another file by now")
    superset = add_images(out, photos, Path("folders"), How(say=lines.append))
    assert f"{out} has 3 of the 5 paths of {photos} already, and keeps its images" in lines
    assert superset.paths == [*NAMES[2:], *NAMES[:2]]
    assert superset.keys[:3].tolist() == original.keys.tolist()
    assert superset.class_names == ["bee", "cat", "ant"]
    assert superset.labels is not None
    assert superset.labels.tolist() == [0, 1, 1, 2, 2]
    assert earlier_sets(superset)[0].digest == original.info.digest
    numbers = (5, 4, 3)
    renumbered = earlier_sets(open_image_set(out).renumber(numbers))[0]
    assert renumbered.places.tolist() == [0, 1, 2]
    assert renumbered.digest != original.info.digest


def test_new_images_may_all_be_of_one_class_and_a_new_class_is_told(photos: Path) -> None:
    out, lines = photos.with_name("grown.set"), list[str]()
    pack(some(photos, *NAMES[:3]), out, crop=CROP, labels=Path("folders"))
    superset = add_images(out, some(photos, "cat/1.png"), Path("folders"), How(say=lines.append))
    assert superset.class_names == ["ant", "bee", "cat"]
    assert superset.labels is not None
    assert superset.labels.tolist() == [0, 0, 1, 2]
    assert lines[0] == f"{out}: new classes: cat"


def test_labels_may_be_those_of_the_new_images_alone(photos: Path) -> None:
    out, labels = photos.with_name("grown.set"), photos.with_name("new.csv")
    pack(some(photos, *NAMES[:3]), out, crop=CROP, labels=Path("folders"))
    labels.write_text("path,class\ncat/0.png,bee\n")
    with pytest.raises(ImageSetError, match=r"it lacks 1 image, such as 'cat/1.png'; add a row for each"):
        add_images(out, photos, labels)
    labels.write_text("path,class\ncat/0.png,bee\ncat/1.png,fly\n")
    superset = add_images(out, photos, labels)
    assert superset.class_names == ["ant", "bee", "fly"]
    assert superset.labels is not None
    assert superset.labels.tolist() == [0, 0, 1, 1, 2]


def test_an_image_with_another_label_is_another_image(photos: Path) -> None:
    out = photos.with_name("changed.set")
    pack(photos, out, crop=CROP, labels=Path("folders"))
    remove_images(out, ["cat/1.png"])
    (photos / "cat" / "1.png").rename(photos / "bee" / "1.png")
    assert [places.tolist() for _, places in earlier_sets(add_images(out, photos, Path("folders")))] == [
        [0, 1, 2, 3], [0, 1, 2, 3],
    ]  # fmt: skip


def test_what_is_refused_leaves_the_set_as_it_was(photos: Path) -> None:
    unlabelled = photos.with_name("plain.set")
    pack(some(photos, *NAMES[:3]), unlabelled, crop=CROP)
    labelled = photos.with_name("labelled.set")
    pack(some(photos, *NAMES[:4]), labelled, crop=CROP, labels=Path("folders"))
    streamed = photos.with_name("streamed.set")
    pack(some(photos, *NAMES[:3]), streamed, crop=CROP, how=How(stream=True))
    (photos / "dog").mkdir()
    (photos / "dog" / "0.png").write_text("no image")
    sets = (unlabelled, labelled, streamed)
    contents = {path: {file.name: file.read_bytes() for file in path.iterdir()} for path in sets}
    for error, words, change in (
        (ImageSetError, "'dog/0.png' is broken", lambda: add_images(unlabelled, photos)),
        (UsageError, "has all 3 images of .* already", lambda: add_images(unlabelled, some(photos, *NAMES[:3]))),
        (UsageError, "has no labels; leave --labels out", lambda: add_images(unlabelled, photos, Path("folders"))),
        (UsageError, "has labels; name with --labels", lambda: add_images(labelled, photos)),
        (UsageError, "is decoded from", lambda: add_images(streamed, photos)),
        (UnknownName, "unknown image 'ant/9.png'; did you mean ant/", lambda: remove_images(unlabelled, ["ant/9.png"])),
        (UsageError, "would have no image left", lambda: remove_images(unlabelled, NAMES[:3])),
    ):
        with pytest.raises(error, match=words):
            change()
    with pytest.raises(ImageSetError, match="by another process"), changed_folder(unlabelled):
        remove_images(unlabelled, NAMES[:1])
    assert {path: {file.name: file.read_bytes() for file in path.iterdir()} for path in sets} == contents
    assert not list(photos.parent.glob(".*"))
    superset = add_images(unlabelled, photos, how=How(skip_broken=True))
    assert (len(superset.paths), list(superset.skipped)) == (5, ["dog/0.png"])


def test_an_index_of_another_set_leads_to_no_set_that_was_run(photos: Path) -> None:
    out, strange = photos.with_name("grown.set"), photos.with_name("strange.set")
    original = pack(some(photos, *NAMES[:3]), out, crop=CROP)
    pack(some(photos, *NAMES[1:]), strange, crop=CROP)
    add_images(out, photos)
    shutil.copyfile(strange / "index.parquet", out / "index-1.parquet")
    (ancestor,) = earlier_sets(open_image_set(out))
    assert (ancestor.digest == original.info.digest, ancestor.places.tolist()) == (False, [])
    (out / "index-1.parquet").write_bytes(b"damaged")
    with pytest.raises(ImageSetError, match=r"index-1\.parquet: damaged or missing"):
        earlier_sets(open_image_set(out))


@pytest.mark.parametrize("crop", [Crop(32, 36, range=(100.5, 4e4)), Crop(64, 64, fixed=True, range="percentiles")])
def test_pictures_of_many_levels_keep_their_range(tmp_path: Path, crop: Crop) -> None:
    folder, out, random = tmp_path / "scans", tmp_path / "grown.set", np.random.default_rng(0)
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(random.integers(0, 50_000, (64, 64), np.uint16)).save(folder / name)
        superset = add_images(out, folder) if out.exists() else pack(folder, out, crop=crop)
    assert superset.info.digest == pack(folder, tmp_path / "whole.set", crop=crop).info.digest
    assert superset.crop == crop


def test_no_folder_of_a_strangers_is_filled_or_emptied(photos: Path) -> None:
    """A hidden folder or link that lies where drafts are made is left alone, and so is what lies behind it."""
    out, private = photos.with_name("mine.set"), photos.with_name("private")
    private.mkdir()
    (private / "letter.txt").write_text("dear")
    for name in (".mine.set.partial", ".mine.set.replaced"):
        photos.with_name(name).symlink_to(private)
    pack(some(photos, *NAMES[:3]), out, crop=CROP)
    add_images(out, photos)
    remove_images(out, NAMES[:1])
    assert check_image_set(out).info.count == 4
    assert {file.name: file.read_text() for file in private.iterdir()} == {"letter.txt": "dear"}
    assert sorted(path.name for path in photos.parent.glob(".*")) == [".mine.set.partial", ".mine.set.replaced"]


@pytest.mark.parametrize("exchange", [True, False])
def test_what_else_lies_in_the_folder_of_a_set_stays(
    photos: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:  # a file system that cannot exchange two names
        for flag in ("RENAME_EXCHANGE", "RENAME_NOREPLACE"):
            monkeypatch.setattr(files, flag, 1 << 30)
    out = photos.with_name("mine.set")
    pack(some(photos, *NAMES[:3]), out, crop=CROP)
    (out / "notes" / "deep").mkdir(parents=True)
    (out / "notes" / "deep" / "why.txt").write_text("since")
    (out / "results.duckdb").write_bytes(b"rows")
    (out / "link").symlink_to(photos)
    with (out / "results.duckdb").open("ab") as database:  # another program has it open
        add_images(out, photos)
        database.write(b" and more")
    remove_images(out, NAMES[:1])
    assert check_image_set(out).info.count == 4
    assert (out / "results.duckdb").read_bytes() == b"rows and more"
    assert (out / "notes" / "deep" / "why.txt").read_text() == "since"
    assert (out / "link").readlink() == photos
    assert not [path.name for path in photos.parent.iterdir() if path.name.startswith(".")]


@pytest.fixture
def grown(photos: Path) -> Path:
    """A set to which pictures can be added."""
    return pack(some(photos, *NAMES[:3]), photos.with_name("grown.set"), crop=CROP).folder


def test_nothing_in_the_folder_of_a_set_needs_to_be_a_plain_file(photos: Path, grown: Path) -> None:
    """Links that lead nowhere, pipes, and folders that may only be read keep what they are."""
    (grown / "nowhere").symlink_to("absent")
    os.mkfifo(grown / "pipe")
    (grown / "archive").mkdir()
    (grown / "archive" / "why.txt").write_text("since")
    (grown / "archive" / "why.txt").chmod(0o640)
    (grown / "archive").chmod(0o500)
    add_images(grown, photos)
    assert (grown / "nowhere").readlink() == Path("absent")
    assert (grown / "pipe").is_fifo()
    modes = [(grown / name).stat().st_mode & 0o777 for name in ("archive", "archive/why.txt")]
    assert modes == [0o500, 0o640]
    assert not list(photos.parent.glob(".*"))


def test_what_changes_while_the_set_is_written_stays(
    photos: Path, grown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program saves files anew, and in a folder, once the new set is written."""
    (grown / "notes").mkdir()
    for name in ("table.csv", "notes/why.txt"):
        (grown / name).write_text("old")

    names = ["table.csv", "notes/why.txt", "notes/new.txt"]

    def save(descriptor: int) -> None:
        while names:
            name = names.pop()
            photos.with_name("draft").write_text("new")
            photos.with_name("draft").rename(grown / name)
        sync(descriptor)

    sync = os.fsync
    monkeypatch.setattr(os, "fsync", save)
    add_images(grown, photos)
    assert not names
    assert {(grown / name).read_text() for name in ("table.csv", "notes/why.txt", "notes/new.txt")} == {"new"}


def test_a_file_whose_name_is_taken_meanwhile_is_kept_and_named(
    photos: Path, grown: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (grown / "table.csv").write_text("old")
    with changed_folder(grown) as folder:
        shutil.copytree(grown, folder, dirs_exist_ok=True)
        (folder / "table.csv").write_text("new")
    [kept] = photos.parent.glob(".*")
    assert (grown / "table.csv").read_text() == "new"
    assert [(file.name, file.read_text()) for file in kept.iterdir()] == [("table.csv", "old")]
    assert f"table.csv stays in {kept}" in caplog.text


def test_after_a_kill_the_next_change_finishes_the_moving(photos: Path, grown: Path) -> None:
    """A process that has ended left the folder of the earlier set, and a link that leads to somebody's own folder."""
    private = shutil.copytree(grown, photos.with_name("private"))
    replaced = shutil.copytree(grown, grown.with_name(f".{grown.name}.replaced.{files.HOST}.{2**22 + 1}.abc"))
    (replaced / "table.csv").write_text("rows")
    link = grown.with_name(f".{grown.name}.replaced.{files.HOST}.{2**22 + 1}.link")
    link.symlink_to(private)
    add_images(grown, photos)
    assert (grown / "table.csv").read_text() == "rows"
    assert list(photos.parent.glob(".*")) == [link]
    assert check_image_set(private).info.count == 3
    assert check_image_set(grown).info.count == 5
