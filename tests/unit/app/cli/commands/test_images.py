"""`bandlens images pack` and `check`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small import invoke, write_pictures

from bandlens.core.errors import ImageSetError, UsageError
from bandlens.probes.images.image_set import open_image_set, read_image_set


def noise(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_pictures(
        tmp_path / "photos", {path: noise(seed) for seed, path in enumerate(["n01440764/a.jpg", "n01443537/b.png"])}
    )
    (tmp_path / "photos" / "n01440764" / "c.jpg").write_text("not an image")
    return tmp_path / "photos"


def test_pack_and_check(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert isinstance(invoke("images", "pack", photos, "--out", out).exception, ImageSetError)
    result = invoke(
        "images", "pack", photos, "--out", out, "--skip-broken", "--size", 32, "--resize", 32, "--format", "json"
    )
    assert result.exit_code == 0, result.output
    [row] = json.loads(result.stdout)
    assert (row["images"], row["labelled"], row["classes"], row["bytes"]) == (2, True, 2, 2 * 3 * 32 * 32)
    assert row["skipped"] == [{"path": "n01440764/c.jpg", "reason": "not a JPEG, PNG, TIFF, WEBP file"}]

    checked = invoke("images", "check", out)
    assert checked.exit_code == 0
    assert row["digest"] in checked.stdout
    assert "left out n01440764/c.jpg: not a JPEG" in checked.stderr
    [check_row] = json.loads(invoke("images", "check", out, "--format", "json").stdout)
    assert check_row["digest"] == row["digest"]


def test_own_classes_keep_their_names(tmp_path: Path) -> None:
    paths = ["zebra/1.png", "ant/1.png", "ant/2.png", "bee/1.png", "bee/2.png", "cow/1.png"]
    write_pictures(tmp_path / "photos", {path: noise(place) for place, path in enumerate(paths)})
    common = ("pack", tmp_path / "photos", "--size", 32, "--resize", "32x32", "--interpolation", "bicubic")
    result = invoke("images", *common, "--out", tmp_path / "set", "--labels", "folders")
    assert "class_names" in result.stdout
    assert "ant, bee, cow and 1 more\n" in result.stdout
    [row] = json.loads(invoke("images", "check", tmp_path / "set", "--format", "json").stdout)
    assert row["class_names"] == "ant, bee, cow, zebra"
    packed = open_image_set(tmp_path / "set")
    assert packed.labels is not None
    assert (packed.class_names, packed.labels.tolist()) == (["ant", "bee", "cow", "zebra"], [0, 0, 1, 1, 2, 3])
    assert packed.info.preprocessing == "RGB, both sides to 32 (bicubic, antialiased), centre crop 32"
    unlabelled = invoke("images", *common, "--out", tmp_path / "none")
    assert "its 4 folders can be: --labels folders" in unlabelled.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resize", "32x33"), "cannot read --resize 32x33; write 256 for the shorter side, or 256x256, up to 99,999"),
        (("--limit", 3), "--limit 3 must be from 1 to 2, the number of images"),
    ],
)
def test_options_that_cannot_be(options: tuple[str, ...], message: str, photos: Path, tmp_path: Path) -> None:
    (photos / "n01440764" / "c.jpg").unlink()
    failed = invoke("images", "pack", photos, "--out", tmp_path / "set", *options).exception
    assert isinstance(failed, UsageError)
    assert message in str(failed)
    assert not (tmp_path / "set").exists()


def test_attributes_are_packed_or_added_later_and_the_digest_stays(photos: Path, tmp_path: Path) -> None:
    sites, scanners = tmp_path / "sites.csv", tmp_path / "more.csv"
    sites.write_text("path,name,value\nn01440764/a.jpg,site,A\nn01440764/c.jpg,site,B\nn01443537/b.png,site,B\n")
    scanners.write_text("name,value,path\nscanner,old,n01443537/b.png\n")
    common = ("--skip-broken", "--size", 32, "--resize", 32)
    assert invoke("images", "pack", photos, "--out", tmp_path / "set", "--attributes", sites, *common).exit_code == 0
    assert invoke("images", "pack", photos, "--out", tmp_path / "plain", *common).exit_code == 0
    packed, plain = open_image_set(tmp_path / "set"), open_image_set(tmp_path / "plain")
    assert packed.info.digest == plain.info.digest
    assert {key: rows.tolist() for key, rows in packed.attributes.items()} == {("site", "A"): [0], ("site", "B"): [1]}
    sites.write_text("path,name,value\na.jpg,site,A\n")
    error = invoke("images", "pack", photos, "--out", tmp_path / "none", "--attributes", sites, *common).exception
    assert isinstance(error, ImageSetError)
    assert "row 2: no image 'a.jpg'; paths are relative to the packed folder" in str(error)
    assert not (tmp_path / "none").exists()
    result = invoke("images", "attributes", tmp_path / "set", scanners, "--format", "json")
    assert json.loads(result.stdout) == [
        {"name": "scanner", "value": "old", "images": 1},
        {"name": "site", "value": "A", "images": 1},
        {"name": "site", "value": "B", "images": 1},
    ]
    assert invoke("images", "check", tmp_path / "set").exit_code == 0


@pytest.mark.parametrize(("small_count", "own_cycles"), [(3, 40 / 2 * 64 / 80), (2, None)])
def test_a_check_says_where_more_than_a_tenth_were_enlarged(
    tmp_path: Path, small_count: int, own_cycles: float | None
) -> None:
    heights = {number: 40 if number < small_count else 100 for number in range(20)}
    pictures = {f"{number:02}.png": np.full((heights[number], 90, 3), number, np.uint8) for number in heights}
    write_pictures(tmp_path / "photos", pictures)
    common = ("--size", 64, "--resize", 80, "--format", "json")
    for name, stream in (("set", ()), ("stream", ("--stream",))):
        assert invoke("images", "pack", tmp_path / "photos", "--out", tmp_path / name, *common, *stream).exit_code == 0
        images = open_image_set(tmp_path / name)
        assert images.own_cycles == own_cycles
    result = invoke("images", "check", tmp_path / "set")
    assert ("nothing of their own above 16 cycles per image" in result.stderr) == (own_cycles is not None)
    assert "shorter side to 80 (bilinear, antialiased), centre crop 64" in result.stdout
    packed = read_image_set(tmp_path / "set")
    assert packed.select(packed.find_rows(["00.png", "19.png"])).own_cycles == 40 / 2 * 64 / 80
    assert packed.select(packed.find_rows(["18.png", "19.png"])).own_cycles is None
    write_pictures(tmp_path / "photos", {"20.png": np.full((100, 90, 3), 20, np.uint8)})
    addition = invoke("images", "add", tmp_path / "set", tmp_path / "photos", "--format", "json")
    assert [row["images"] for row in json.loads(addition.stdout)] == [21]
    removal = invoke("images", "remove", tmp_path / "set", "20.png", "--format", "json")
    assert [row["images"] for row in json.loads(removal.stdout)] == [20]
