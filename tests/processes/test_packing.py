"""A pack that is killed leaves no image set, and a set that changes is the old one or the new one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from made_up_results import python
from PIL import Image
from small import make_images, make_pictures
from waiting import wait_until

from bandlens.core.errors import ImageSetError, UsageError
from bandlens.core.records import Crop
from bandlens.probes.images.edit import add_images, remove_images
from bandlens.probes.images.image_set import check_image_set, open_image_set
from bandlens.probes.images.pack import pack

UNFINISHED = """
import sys
from pathlib import Path
import numpy as np
from bandlens.probes.images.pack import pack_arrays
from bandlens.core.records import Crop
def items():
    for i in range(1000):
        yield str(i), np.zeros((8, 8, 3), np.uint8)
        if i == 30:
            print("packing", flush=True)
            sys.stdin.read()
pack_arrays(items(), Path(sys.argv[1]), crop=Crop(8, 8))
"""


def test_a_killed_pack_leaves_no_set_and_the_next_one_clears_up(tmp_path: Path) -> None:
    out, pictures = tmp_path / "set", make_pictures(4, 32)
    with subprocess.Popen(python(UNFINISHED, out), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as packer:
        assert packer.stdout is not None
        assert packer.stdout.readline() == b"packing\n"
        with pytest.raises(ImageSetError, match="is being packed by another process"):
            make_images(out, pictures)
        packer.kill()
    (partial,) = tmp_path.iterdir()
    assert partial.name.startswith(".set.")
    with pytest.raises(UsageError, match="not an image set"):
        open_image_set(out)
    check_image_set(make_images(out, pictures).folder)
    assert [file.name for file in tmp_path.iterdir()] == ["set"]


ADD = """
import sys
from pathlib import Path
from bandlens.probes.images.edit import add_images
add_images(*map(Path, sys.argv[1:]))
"""


def test_killed_while_images_are_added_the_set_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    out, photos = tmp_path / "photos.set", tmp_path / "photos"
    photos.mkdir()
    for number, picture in enumerate(make_pictures(60, 32)):
        Image.fromarray(picture.repeat(8, 0).repeat(8, 1)).save(photos / f"{number:02}.png")
        if number == 19:
            pack(photos, out, crop=Crop(32, 32))
    with subprocess.Popen(python(ADD, out, photos), text=True) as adding:
        wait_until(lambda: [*tmp_path.glob(".photos.set.*/pixels.npy")], adding)
        adding.kill()
    assert check_image_set(out).info.count in (20, 60)
    if open_image_set(out).info.count == 20:
        assert add_images(out, photos).info.count == 60
    assert sorted(file.name for file in tmp_path.iterdir() if not file.name.startswith(".")) == [
        "photos", "photos.set",
    ]  # fmt: skip
    assert remove_images(out, ["00.png"]).info.count == 59
    assert sorted(file.name for file in tmp_path.iterdir()) == ["photos", "photos.set"]
