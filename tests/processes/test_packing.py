"""A pack that is killed leaves no image set."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from made_up_results import python
from small import make_images, make_pictures

from bandlens.errors import ImageSetError, UsageError
from bandlens.probes.images.image_set import check_image_set, open_image_set

UNFINISHED = """
import sys
from pathlib import Path
import numpy as np
from bandlens.probes.images.pack import pack_arrays
from bandlens.records import Crop
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
    assert [file.name for file in tmp_path.iterdir()] == [".set.partial"]
    with pytest.raises(UsageError, match="not an image set"):
        open_image_set(out)
    check_image_set(make_images(out, pictures).folder)
    assert [file.name for file in tmp_path.iterdir()] == ["set"]
