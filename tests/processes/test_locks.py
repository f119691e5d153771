"""A file system without flock: what locks a file there ends in one line."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from made_up_results import python
from required import miss
from small import bandlens, make_pictures, write_pictures

STAND_IN = """
#include <errno.h>
#include <stdlib.h>
int flock(int file, int operation) { (void)file; (void)operation; errno = atoi(getenv("FLOCK_ERRNO")); return -1; }
"""
WEIGHTS = """
from pathlib import Path
from bandlens.export.weights.fetch import fetch_files
fetch_files([(None, Path("weights.pth").absolute())])
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        miss("gcc", "no gcc, which makes the stand-in for flock")
    folder = tmp_path_factory.mktemp("flock")
    (folder / "flock.c").write_text(STAND_IN)
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-o", folder / "flock.so", folder / "flock.c"], check=True)
    return folder / "flock.so"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "photos", dict(zip(("0.png", "1.png"), make_pictures(2, 64), strict=True)))


def test_image_sets_say_that_their_file_system_has_no_locks(library: Path, photos: Path, tmp_path: Path) -> None:
    environment = os.environ | {"LD_PRELOAD": str(library), "FLOCK_ERRNO": str(errno.ENOTSUP)}
    packed = tmp_path / "photos.set"
    assert bandlens("images", "pack", photos, "--out", packed, "--size", "32").returncode == 0
    shutil.copyfile(photos / "0.png", photos / "2.png")
    for words in (("pack", photos, "--out", tmp_path / "new.set", "--size", "32"), ("add", packed, photos)):
        answer = bandlens("-q", "images", *words, env=environment)
        assert (answer.returncode, answer.stderr.count("\n")) == (1, 1), answer.stderr
        assert f"cannot be written ({os.strerror(errno.ENOTSUP)}); make room or choose another folder" in answer.stderr
    assert bandlens("images", "check", packed).returncode == 0


def test_downloads_say_that_their_file_system_has_no_locks(library: Path, tmp_path: Path) -> None:
    environment = os.environ | {"LD_PRELOAD": str(library), "FLOCK_ERRNO": str(errno.ENOLCK)}
    environment |= {"BANDLENS_HOME": str(tmp_path)}
    answer = subprocess.run(python(WEIGHTS), env=environment, cwd=tmp_path, capture_output=True, text=True)
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("bandlens.core.errors.CheckpointError: "), answer.stderr
    assert f"{os.strerror(errno.ENOLCK)}; make room or set BANDLENS_HOME" in last
