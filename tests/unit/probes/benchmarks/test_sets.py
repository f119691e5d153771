"""Benchmarks: what is whole packs, what is missing or surplus is named, and parts say that they are parts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from benchmark_sets import WNIDS, Miniature, make_benchmark, number_of, write_real
from scipy.io import savemat

from bandlens.core.errors import BandlensError, ImageSetError, UnknownName, UsageError
from bandlens.core.protocol import BENCHMARKS, IMAGENET_C, IMAGENET_CBAR, STIMULI
from bandlens.core.records import Crop
from bandlens.probes.benchmarks.layouts import FIELD, LAYOUTS, Labels, classes_of, find_benchmark
from bandlens.probes.benchmarks.sets import Subset, pack_benchmark
from bandlens.probes.images.image_set import ImageSet, Scheme, check_image_set, open_image_set
from bandlens.probes.images.pack import pack
from bandlens.probes.images.pack_options import Contents, Draw, How

SIDE = 16
PARTIAL = Subset(partial=True)


def lists(scheme: Scheme, count: int) -> list[list[int]]:
    """A scheme as a list of classes for each image."""
    classes: list[list[int]] = [[] for _ in range(count)]
    for image, label in zip(scheme.image_index.tolist(), scheme.classes.tolist(), strict=True):
        classes[image].append(label)
    return classes


def one_line(error: pytest.ExceptionInfo[BandlensError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


def test_the_table() -> None:
    assert (len(IMAGENET_C), len(set(IMAGENET_C)), len(IMAGENET_CBAR), len(set(IMAGENET_CBAR))) == (19, 19, 10, 10)
    classes = {name: len(classes_of(benchmark, LAYOUTS[name])) for name, benchmark in BENCHMARKS.items()}
    class_counts = {"imagenet-a": 200, "imagenet-r": 200} | dict.fromkeys(STIMULI, 16)
    assert classes == dict.fromkeys(BENCHMARKS, 1000) | class_counts
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.per_class is None or benchmark.per_class * classes[name] == benchmark.count
    assert len(STIMULI) == 17
    with pytest.raises(UnknownName, match="unknown benchmark 'imagenet-v'; did you mean imagenet"):
        find_benchmark("imagenet-v")


def test_stimulus_sets_are_those_that_people_saw(shared: Path) -> None:
    """Images and classes as one observer had them, and files named as theirs, but for the observer."""
    trials = pl.read_parquet(shared / "published/atlas/humans/trials.parquet").filter(subj="subject-01")
    rows = trials.group_by("set").agg(pl.len(), pl.col("category").value_counts().struct.field("count").unique())
    assert {name: (count, per_class) for name, count, per_class in rows.rows()} == {
        name: (BENCHMARKS[name].count, [per_class]) for name, per_class in STIMULI.items()
    }
    for name, set_trials in trials.group_by("set"):
        layout = LAYOUTS[str(name[0])]
        if layout is FIELD:
            paths = [path.replace("_s01_", "_dnn_") for path in set_trials["imagename"]]
            assert [layout.class_of(f"dnn/session-1/{path}") for path in paths] == set_trials["category"].to_list()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_packs_with_its_labels(name: str, tmp_path: Path) -> None:
    classes = [2, 10, 999] if name == "imagenet-v2" else None  # its folders are numbers
    miniature = make_benchmark(name, tmp_path / "in", classes=classes, per_class=3, size=SIDE)
    benchmark = miniature.benchmark
    sets = miniature.pack(tmp_path / "out")
    assert len(sets) == (4 if benchmark.corruptions else 1)
    for images in sets:
        info = images.info
        prefix = f"{info.corruption}/{info.severity}/" if benchmark.corruptions else ""
        assert info.name == f"out/{prefix}".rstrip("/")
        assert images.folder == tmp_path / info.name
        assert (info.benchmark, info.decision_space, info.count) == (name, benchmark.decision_space, 9)
        assert info.preprocessing.endswith(f"; 9 of {benchmark.count} images")
        assert images.labels is not None
        assert images.labels.tolist() == [miniature.labels[prefix + path] for path in images.paths]
        assert images.labels.tolist() == sorted(images.labels.tolist())
        assert sorted(images.schemes) == sorted(miniature.schemes)
        for scheme, classes in miniature.schemes.items():
            assert lists(images.schemes[scheme], 9) == [classes[path] for path in images.paths]
        check_image_set(images.folder)
    assert sum(len(images.paths) for images in sets) == len(miniature.labels)
    assert len({images.info.digest for images in sets}) == len(sets)


# Missing and surplus files


def hollow(folder: Path, paths: Sequence[str]) -> Path:
    """A folder whose images are all links to one file that is no image: whatever is decoded fails."""
    folder.mkdir()
    (folder / "file.txt").write_text("not an image")
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / "file.txt", folder / path)
    return folder


TWO_EACH = replace(find_benchmark("imagenet-a"), per_class=2, count=400)
WNIDS_A = list(classes_of(TWO_EACH, LAYOUTS["imagenet-a"]))
ALL_OF_A = [f"{wnid}/{k}.jpg" for wnid in WNIDS_A for k in range(2)]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            [path for path in ALL_OF_A if path.split("/")[0] not in WNIDS_A[1:6]],
            rf"in is not all of imagenet-a: 5 of 200 classes have no image \({', '.join(WNIDS_A[1:4])} and 2 more\); ",
        ),
        (ALL_OF_A[1:], rf"not all of imagenet-a: 1 classes have fewer than 2 images \({WNIDS_A[0]} 1\)"),
        ([*ALL_OF_A, f"{WNIDS_A[3]}/9.jpg"], rf"not imagenet-a: 1 classes have more than 2 images \({WNIDS_A[3]} 3\)"),
        (
            [*ALL_OF_A, "n01440764/a.jpg", "n01440764/b.jpg", "top.jpg"],
            r"is not imagenet-a: 3 images are of none of its 200 classes \('top\.jpg', 'n01440764/a\.jpg'\): "
            "images lie in folders named by WordNet ids, such as n01440764",
        ),
    ],
)
def test_structure_is_checked_before_anything_is_decoded(paths: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match=message) as error:
        pack_benchmark(TWO_EACH, hollow(tmp_path / "in", paths), tmp_path / "out")
    one_line(error)
    assert not (tmp_path / "out").exists()


def test_totals_are_checked_where_classes_differ(tmp_path: Path) -> None:
    benchmark = replace(find_benchmark("imagenet-a"), count=401)
    with pytest.raises(ImageSetError, match="not all of imagenet-a: there are 400 images instead of 401"):
        pack_benchmark(benchmark, hollow(tmp_path / "in", ALL_OF_A), tmp_path / "out")
    with pytest.raises(ImageSetError, match="is not imagenet-a: there are 400 images instead of 399"):
        pack_benchmark(replace(benchmark, count=399), tmp_path / "in", tmp_path / "out", subset=PARTIAL)


def test_a_whole_benchmark_needs_no_option(tmp_path: Path) -> None:
    benchmark = find_benchmark("stylized")
    assert benchmark.per_class is not None
    miniature = make_benchmark("stylized", tmp_path / "in", classes=range(16), per_class=benchmark.per_class, size=4)
    [images] = pack_benchmark(benchmark, miniature.source, tmp_path / "out", crop=Crop(4))
    assert images.info.count == benchmark.count
    assert images.info.preprocessing == "RGB, 4 x 4 pixels as they are"


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("imagenet-v2", "0007/a.jpeg", r"'0007/a\.jpeg'\): images lie in folders named 0 to 999, without leading zero"),
        ("imagenet-r", "n01440764x/a.jpg", r"of none of its 200 classes \('n01440764x/a\.jpg'\)"),
        ("stylized", "dnn/session-1/0001_sty_dnn_0_plane_00_x.png", "one of the 16 classes in the fifth field"),
        ("cue-conflict", "wood/wood1-cat2.png", r"'wood/wood1-cat2\.png'"),
    ],
)
def test_wrong_names_are_named(name: str, path: str, message: str, tmp_path: Path) -> None:
    miniature = make_benchmark(name, tmp_path / "in", per_class=1, size=SIDE)
    (miniature.source / path).parent.mkdir(parents=True, exist_ok=True)
    (miniature.source / path).write_bytes(b"")
    with pytest.raises(ImageSetError, match=message) as error:
        miniature.pack(tmp_path / "out")
    assert f"is not {name}: 1 images are of none" in one_line(error)


def test_folders_of_numbers_are_not_packed_as_plain_ones(tmp_path: Path) -> None:
    source = hollow(tmp_path / "in", [f"{k}/a.jpg" for k in range(1000)])
    with pytest.raises(ImageSetError, match="as those of ImageNet-V2; pack it with `bandlens benchmarks pack"):
        pack(source, tmp_path / "out")
    for order, message in (
        (sorted, "sorted as text, where 10 comes before 2; pack it with `bandlens benchmarks"),
        (list, "broken"),
    ):
        names = order(str(k) for k in range(1000))
        lines = [f"{name}/a.jpg,{label}" for label, name in enumerate(names)]
        (tmp_path / "labels.csv").write_text("\n".join(["path,class", *lines]))
        with pytest.raises(ImageSetError, match=message) as error:
            pack(source, tmp_path / "out", labels=tmp_path / "labels.csv")
        one_line(error)


# Corruptions


FOUR = Subset(partial=True, corruptions=("fog", "snow"), severities=(2, 4))


@pytest.fixture
def corrupted(tmp_path: Path) -> Miniature:
    return make_benchmark("imagenet-c", tmp_path / "in", per_class=1, size=SIDE, corruptions=FOUR)


def test_missing_and_surplus_corruptions(corrupted: Miniature, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack_corrupted = partial(pack_benchmark, corrupted.benchmark, corrupted.source, out)
    with pytest.raises(ImageSetError) as error:
        pack_corrupted()
    assert (
        "in is not all of imagenet-c: 17 of 19 corruptions are missing (gaussian_noise, shot_noise, impulse_noise "
        "and 14 more); 6 severities are missing (snow/1, snow/3, snow/5 and 3 more); complete it" in one_line(error)
    )
    with pytest.raises(ImageSetError, match=r"1 severities are missing \(fog/3\)"):
        pack_corrupted(subset=Subset(corruptions=("fog",), severities=(2, 3)))
    with pytest.raises(ImageSetError, match=r"fog/2: 997 of 1000 classes have no image .*; fog/4: 997 of 1000"):
        pack_corrupted(subset=Subset(corruptions=("fog",), severities=(2, 4)))
    (corrupted.source / "fogs" / "1").mkdir(parents=True)
    with pytest.raises(ImageSetError, match=r"in is not imagenet-c: 1 folders are none of its corruptions \(fogs\)"):
        corrupted.pack(out)
    assert len(corrupted.pack(out, FOUR)) == 4
    with pytest.raises(ImageSetError, match="holds nothing of imagenet-c"):
        pack_benchmark(corrupted.benchmark, corrupted.source / "fogs" / "1", out, subset=PARTIAL)


def test_an_interrupted_pack_goes_on(corrupted: Miniature, tmp_path: Path) -> None:
    out = tmp_path / "out"
    broken = corrupted.source / "fog" / "4" / WNIDS[0] / "ILSVRC2012_val_00000001.JPEG"
    content = broken.read_bytes()
    broken.write_bytes(content[:-300])
    with pytest.raises(ImageSetError, match=r"fog/4: 'n01440764/ILSVRC2012_val_00000001\.JPEG' is broken"):
        corrupted.pack(out)
    result = sorted(out.glob("*/*"))
    assert result == [out / "fog" / "2", out / "snow" / "2", out / "snow" / "4"]
    times = [(folder / "set.json").stat().st_mtime_ns for folder in result]
    broken.write_bytes(content)
    sets = corrupted.pack(out)
    assert sorted(images.info.name for images in sets) == ["out/fog/2", "out/fog/4", "out/snow/2", "out/snow/4"]
    assert [(folder / "set.json").stat().st_mtime_ns for folder in result] == times


def test_sets_without_their_broken_images_are_left_as_they_are(corrupted: Miniature, tmp_path: Path) -> None:
    photograph = corrupted.source / "fog" / "4" / WNIDS[0] / "ILSVRC2012_val_00000001.JPEG"
    photograph.write_bytes(photograph.read_bytes()[:-300])
    first, second = (corrupted.pack(tmp_path / "out", how=How(skip_broken=True)) for _ in range(2))
    assert [images.info for images in second] == [images.info for images in first]
    assert sorted(len(images.skipped) for images in second) == [0, 0, 0, 1]


def test_sets_that_are_there_must_be_the_same(corrupted: Miniature, tmp_path: Path) -> None:
    out = tmp_path / "out"
    corrupted.pack(out)
    message = "snow/2: is another set, or was packed otherwise; remove it or choose another folder"
    with pytest.raises(UsageError, match=message):
        corrupted.pack(out, replace(FOUR, limit=2))
    with pytest.raises(UsageError, match="snow/2: is another set, or was packed otherwise"):
        corrupted.pack(out, how=How(stream=True))
    (out / "snow" / "2").rename(tmp_path / "snow")
    (out / "fog" / "2").rename(out / "snow" / "2")
    with pytest.raises(UsageError, match=message):
        corrupted.pack(out)


# Subsets


def test_subsets_are_chosen_and_recorded(tmp_path: Path) -> None:
    miniature = make_benchmark("imagenet-r", tmp_path / "in", per_class=4, size=SIDE)
    sampled, first, spread = (
        miniature.pack(tmp_path / name, subset)[0]
        for name, subset in {
            "whole": PARTIAL,
            "first": Subset(limit=6, partial=True),
            "spread": Subset(limit=4, partial=True),
        }.items()
    )
    assert first.paths == [path for at, path in enumerate(sampled.paths) if at % 4 < 2]
    assert first.info.preprocessing.endswith("crop 16; 6 of 30000 images")
    assert spread.paths == [sampled.paths[at] for at in (0, 1, 4, 8)]
    assert spread.info.preprocessing.endswith("crop 16; 4 of 30000 images")
    assert len({images.info.digest for images in (sampled, first, spread)}) == 3
    assert np.array_equal(first.pixels[2], sampled.pixels[4])


def test_subsets_need_their_images(tmp_path: Path) -> None:
    source = hollow(tmp_path / "in", ALL_OF_A)
    with pytest.raises(ImageSetError, match="there are 400 images, fewer than the 401 wanted"):
        pack_benchmark(TWO_EACH, source, tmp_path / "out", subset=Subset(limit=401))
    with pytest.raises(ImageSetError, match="800 of 1000 classes have no image"):
        pack_benchmark(find_benchmark("imagenet"), source, tmp_path / "out", subset=Subset(limit=10))
    with pytest.raises(UsageError, match="at least 1 image"):
        Subset(limit=0)


# Labels from files


def devkit(folder: Path) -> Callable[[int], int]:
    """meta.mat as the development kit has it, with inner nodes; gives class index -> ILSVRC2012 id."""
    numbers = {index: 1 + index * 37 % 1000 for index in range(1000)}
    rows = [(numbers[index], wnid, "words", 0) for index, wnid in enumerate(WNIDS)] + [
        (1001, "n00001740", "entity", 1000)
    ]
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    synsets = np.array(sorted(rows), dtype=fields).reshape(-1, 1)
    savemat(folder / "meta.mat", {"synsets": synsets})
    return lambda label: numbers[label]


def whole_list(labels: dict[int, int], write: Callable[[int], object]) -> str:
    return "".join(f"{write(labels.get(number, 0))}\n" for number in range(1, 50_001))


@pytest.fixture
def flat(tmp_path: Path) -> tuple[Path, dict[int, int]]:
    """The validation images without folders, and their classes by file number."""
    miniature = make_benchmark("imagenet", tmp_path / "in", classes=[7, 993, 2], size=SIDE)
    (tmp_path / "flat").mkdir()
    for path in miniature.labels:
        os.link(miniature.source / path, tmp_path / "flat" / Path(path).name)
    return tmp_path / "flat", {number_of(path): label for path, label in miniature.labels.items()}


def pack_flat(source: Path, truth: str) -> ImageSet:
    """Pack the images without folders by a list of their classes, which is written beside them."""
    file, out = source.with_name("truth.txt"), source.with_name("out")
    file.write_text(truth)
    labels, crop = Labels(ground_truth=file), Crop(SIDE, SIDE)
    [images] = pack_benchmark(find_benchmark("imagenet"), source, out, crop=crop, labels=labels, subset=PARTIAL)
    return images


FORMATS: dict[str, Callable[[dict[int, int], Path], str]] = {
    "names and indices": lambda labels, _: "".join(
        f"ILSVRC2012_val_{number:08d}.JPEG {label}\n" for number, label in labels.items()
    ),
    "names and ids": lambda labels, _: "".join(
        f"val/ILSVRC2012_val_{number:08d}.JPEG\t{WNIDS[label]}\n" for number, label in labels.items()
    ),
    "a CSV of names, ids and boxes": lambda labels, _: (
        "ImageId,PredictionString\n"
        + "".join(f"ILSVRC2012_val_{number:08d},{WNIDS[label]} 85 1 499 272 \n" for number, label in labels.items())
    ),
    "ids in order": lambda labels, _: whole_list(labels, WNIDS.__getitem__),
    "the development kit": lambda labels, folder: whole_list(labels, devkit(folder)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_ground_truth_in_every_usual_format(name: str, flat: tuple[Path, dict[int, int]], tmp_path: Path) -> None:
    source, labels = flat
    images = pack_flat(source, FORMATS[name](labels, tmp_path))
    assert images.labels is not None
    assert images.labels.tolist() == [2, 2, 7, 7, 993, 993]
    assert images.labels.tolist() == [labels[number_of(path)] for path in images.paths]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("ILSVRC2012_val_00000001.JPEG 65\n", ImageSetError, r"5 images are of none of its .*txt lists them"),
        ("ILSVRC2012_val_00000001.JPEG 1000\n", ImageSetError, "line 1: '1000' is no class index from 0 to 999"),
        ("ILSVRC2012_val_00000001.JPEG n01440765\n", ImageSetError, "line 1: 'n01440765' is none of ImageNet's 1000"),
        ("ILSVRC2012_val_00000001.JPEG 1\n" * 2, ImageSetError, "'ILSVRC2012_val_00000001.JPEG' is listed twice"),
        ("n01440764\n" * 49_999, ImageSetError, "49999 lines without file names, and not one for each of 50000 images"),
        ("1\n" * 50_000, UsageError, "lists ILSVRC2012 ids, which only the development kit's meta.mat explains"),
    ],
)  # fmt: skip
def test_wrong_ground_truth(
    text: str, error: type[BandlensError], message: str, flat: tuple[Path, dict[int, int]]
) -> None:
    with pytest.raises(error, match=message) as raised:
        pack_flat(flat[0], text)
    one_line(raised)


def test_a_wrong_development_kit(flat: tuple[Path, dict[int, int]], tmp_path: Path) -> None:
    truth = "1001\n" * 50_000
    devkit(tmp_path)
    with pytest.raises(ImageSetError, match=r"line 1: '1001' is no ILSVRC2012 id of meta\.mat"):
        pack_flat(flat[0], truth)
    metadata = (tmp_path / "meta.mat").read_bytes()
    for content in (metadata[:-5000], metadata.replace(b"WNID", b"WNED")):
        (tmp_path / "meta.mat").write_bytes(content)
        with pytest.raises(ImageSetError, match=r"not the meta\.mat of the ILSVRC2012 development kit") as error:
            pack_flat(flat[0], truth)
        one_line(error)


def test_flat_images_ask_for_their_labels(flat: tuple[Path, dict[int, int]], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'ILSVRC2012_val_\d+\.JPEG' lies in no class folder; list the labels with"):
        pack_benchmark(find_benchmark("imagenet"), flat[0], tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([[1]] * 49_999, "49999 entries, not labels for each of the 50000 validation images"),
        ({"a": 1}, "a JSON dict, not labels for each"),
        ([[1], [1000]] + [[]] * 49_998, "entry 2 is no list of classes"),
    ],
)
def test_wrong_real_labels(content: object, message: str, tmp_path: Path) -> None:
    miniature = make_benchmark("imagenet-real", tmp_path / "in", size=SIDE)
    assert miniature.files.real is not None
    miniature.files.real.write_text(json.dumps(content))
    with pytest.raises(ImageSetError, match=message) as error:
        miniature.pack(tmp_path / "out")
    one_line(error)


def test_real_labels_go_with_file_numbers(tmp_path: Path) -> None:
    miniature = make_benchmark("imagenet-real", tmp_path / "in", per_class=4, size=SIDE)
    [images] = miniature.pack(tmp_path / "out", Subset(limit=5, partial=True))
    assert lists(images.schemes["real"], 5) == [miniature.schemes["real"][path] for path in images.paths]
    sample = open_image_set(images.folder, Draw(3))
    assert lists(sample.schemes["real"], 3) == [miniature.schemes["real"][path] for path in sample.paths]
    imagenet_set = replace(miniature, benchmark=find_benchmark("imagenet"), files=Labels()).pack(
        tmp_path / "plain", Subset(limit=5, partial=True)
    )[0]
    assert np.array_equal(imagenet_set.pixels, images.pixels)
    assert imagenet_set.info.digest != images.info.digest
    assert imagenet_set.schemes == {}
    write_real(miniature.files.real or Path(), {path: [3] for path in miniature.schemes["real"]})
    assert miniature.pack(tmp_path / "others", Subset(limit=5, partial=True))[0].info.digest != images.info.digest
    (miniature.source / WNIDS[0] / "other.JPEG").write_bytes((miniature.source / images.paths[0]).read_bytes())
    with pytest.raises(ImageSetError, match=r"'n01440764/other\.JPEG' has no number from 1 to 50000, as"):
        miniature.pack(tmp_path / "named")


# Wrong use


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("imagenet", {"subset": Subset(corruptions=("fog",))}, "imagenet has neither corruptions nor severities"),
        ("imagenet-c", {"subset": Subset(corruptions=("fogs",))}, "corruption of imagenet-c 'fogs'; did you mean fog"),
        ("imagenet-cbar", {"subset": Subset(severities=(6,))}, "severity 6 must be from 1 to 5"),
        ("imagenet-real", {}, "imagenet-real needs ReaL's labels; give --real real.json"),
        ("imagenet", {"labels": Labels(real=Path("real.json"))}, "imagenet has no ReaL labels; leave --real out"),
        ("imagenet", {"labels": Labels(ground_truth=Path("nowhere.txt"))}, "nowhere.txt: cannot be read"),
    ],
)
def test_options_that_do_not_belong(name: str, options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as error:
        pack_benchmark(find_benchmark(name), tmp_path / "nowhere", tmp_path / "out", **options)  # type: ignore[arg-type]
    one_line(error)


def test_room_for_all_sets_is_asked_for_first(
    corrupted: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    for _ in range(2):  # nothing is asked for where all sets are there
        corrupted.pack(tmp_path / "said", how=How(say=messages.append))
    corrupted.pack(tmp_path / "streamed", how=How(stream=True, say=messages.append))
    assert [text.partition(": ")[2].partition(" on disk")[0] for text in messages] == [
        "12 images need 11.6 kB", "12 images need 2.4 kB",
    ]  # fmt: skip
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=5000))
    with pytest.raises(ImageSetError, match=r"out: 12 images need 11\.6 kB and 5 kB are free"):
        corrupted.pack(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_outside_the_space(tmp_path: Path) -> None:
    miniature = make_benchmark("stylized", tmp_path / "in", size=SIDE)
    label_file = tmp_path / "labels.csv"
    label_file.write_text("path,class\n" + "".join(f"{path},{14 + at}\n" for at, path in enumerate(miniature.labels)))
    with pytest.raises(ImageSetError, match=r"labels\.csv: '.*' is labelled 16, which is none of the 16 classes .*"):
        pack(miniature.source, tmp_path / "out", labels=label_file, contents=Contents(decision_space="sixteen"))
    with pytest.raises(UnknownName, match="decision space"):
        pack(miniature.source, tmp_path / "out", contents=Contents(decision_space="seventeen"))
    wnids = make_benchmark("imagenet", tmp_path / "wnids", size=SIDE)
    with pytest.raises(UnknownName, match=r"the folder of 'n01440764/.*' is none of the 200 of imagenet-a"):
        pack(wnids.source, tmp_path / "out", contents=Contents(decision_space="imagenet-a"))
