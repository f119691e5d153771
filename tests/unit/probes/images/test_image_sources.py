"""Folders and archives: what is listed, what is ignored, what is refused."""

from __future__ import annotations

import io
import os
import random
import tarfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from bandlens.core.errors import ImageSetError
from bandlens.core.records import Crop
from bandlens.probes.images.image_sources import open_source
from bandlens.probes.images.pack import pack
from bandlens.probes.images.pack_options import How

Mode = Literal["w", "w:gz", "w:xz"]
pack_small = partial(pack, crop=Crop(8, 8))


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


FILES = {f"{folder}/{name}": jpeg(seed) for seed, (folder, name) in enumerate(zip("bbaac", "zyxwv", strict=True))}
FILES = {f"{path}.jpg": data for path, data in FILES.items()} | {"top.PNG": jpeg(9), "deep/er/x.jpeg": jpeg(10)}
OTHER_FILES = {"readme.txt": b"-", "a/.hidden.jpg": b"-", "a/list.csv": b"-", "a/.ipynb_checkpoints/1.jpg": jpeg(11)}


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def write_tar(file: Path, members: Mapping[str, bytes], mode: Mode = "w", **links: str) -> Path:
    with tarfile.open(file, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in links.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return file


def test_folder_and_archives_give_the_same_set(tmp_path: Path) -> None:
    names = [*FILES, *OTHER_FILES]
    random.Random(1).shuffle(names)
    members = {f"./{name}": (FILES | OTHER_FILES)[name] for name in names}
    sources = [
        write_folder(tmp_path / "photos", FILES | OTHER_FILES),
        write_folder(tmp_path / "again", dict(reversed(FILES.items()))),
        write_tar(tmp_path / "photos.tar", members),
        write_tar(tmp_path / "photos.tar.xz", dict(sorted(members.items())), "w:xz"),
    ]
    sets = [pack_small(source, tmp_path / f"{k}", how=How(workers=1 + k)) for k, source in enumerate(sources)]
    assert {images.info.digest for images in sets} == {sets[0].info.digest}
    assert all(images.paths == sorted(FILES) for images in sets)
    assert all(np.array_equal(images.pixels, sets[0].pixels) for images in sets)
    assert [images.ignored for images in sets] == [4, 0, 4, 4]


def test_pictures_of_other_formats_are_named(tmp_path: Path) -> None:
    lines: list[str] = []
    files = {"a.jpg": jpeg(1), "b.HEIC": b"", "c/d.bmp": b"", "notes.txt": b""}
    images = pack_small(write_folder(tmp_path / "p", files), tmp_path / "s", how=How(say=lines.append))
    assert (images.info.count, images.ignored) == (1, 3)
    assert f"{tmp_path}/p: files in .bmp, .heic are left out; convert them to PNG" in lines


def test_links_in_folders_are_followed_but_not_for_ever(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", {"a/x.jpg": jpeg(1)})
    elsewhere = write_folder(tmp_path / "elsewhere", {"y.jpg": jpeg(2)})
    (photos / "linked").symlink_to(elsewhere)
    (photos / "a" / "loop").symlink_to(photos)
    (photos / "a" / "across").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(photos / "a")
    paths = ["a/across/y.jpg", "a/x.jpg", "linked/back/x.jpg", "linked/y.jpg"]
    assert open_source(photos).paths == paths


def test_broken_links_and_pipes_are_named(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", {"a.jpg": jpeg(1)})
    (photos / "b.jpg").symlink_to("nowhere")
    with pytest.raises(ImageSetError, match=r"b\.jpg: neither a file nor a link to one"):
        pack_small(photos, tmp_path / "set", how=How(skip_broken=True))
    (photos / "b.jpg").unlink()
    os.mkfifo(photos / "b.jpg")
    with pytest.raises(ImageSetError, match=r"b\.jpg: neither a file"):
        pack_small(photos, tmp_path / "set")


def test_nothing_to_pack(tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match=r"no image among 4 files; images end in \.dcm, \.jpg"):
        open_source(write_folder(tmp_path / "texts", OTHER_FILES))


def test_undecodable_file_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.jpg")).write_bytes(jpeg(1))
    with pytest.raises(ImageSetError, match="rename it"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["/evil.jpg", "a/../../evil.jpg"])
def test_members_outside_the_archive_are_refused(name: str, tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "x.tar", {"good.jpg": jpeg(1), name: jpeg(2)})
    with pytest.raises(ImageSetError, match="lies outside the archive"):
        pack_small(archive, tmp_path / "sub")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar"]


def test_linked_double_and_endless_members_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match=r"'link\.jpg' is a link"):
        open_source(write_tar(tmp_path / "link.tar", {"good.jpg": jpeg(1)}, link_jpg="/etc/passwd"))
    with pytest.raises(ImageSetError, match=r"'a\.jpg' is there 2 times"):
        open_source(write_tar(tmp_path / "double.tar", {"a.jpg": jpeg(1), "./a.jpg": jpeg(2)}))
    info = tarfile.TarInfo("big.jpg")
    info.size = 1 << 40
    (tmp_path / "endless.tar").write_bytes(info.tobuf())
    with pytest.raises(ImageSetError, match="too many for an image"):
        open_source(tmp_path / "endless.tar")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_truncated_archives_are_named(mode: Mode, tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "photos.tar", FILES, mode)
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 4 + 100])
    with pytest.raises(ImageSetError, match=r"photos\.tar: not a whole tar archive"):
        pack_small(archive, tmp_path / "set")
    archive.write_bytes(b"no archive at all")
    with pytest.raises(ImageSetError, match=r"archive \(file could not be opened[^\n:]*\); give a folder .unpack"):
        open_source(archive)
