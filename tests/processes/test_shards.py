"""Shards on a disk without room, and those of a worker that was killed."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest
from made_up_parts import KEY
from made_up_results import python

from bandlens.engine.distributed.shards import Folder, open_folder, shard_keys

WRITE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1] / "support")!r})
from made_up_parts import INFO, KEY, VARIANT, parts
from bandlens.engine.distributed.shards import open_folder, write_shard
from bandlens.core.errors import ShardError
try:
    write_shard(open_folder(sys.argv[1]), KEY, parts(cells=40, count=4000), {{VARIANT: INFO}})
except ShardError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path / "shards"))


def test_a_disk_without_room_leaves_no_shard(folder: Folder) -> None:
    result = subprocess.run(
        python(WRITE, folder.path),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr == (
        f"{folder.path}/{KEY}.parquet: {os.strerror(errno.EFBIG)}; make room, or name another folder with --shards\n"
    )
    assert shard_keys(folder) == []
    assert [path.name for path in Path(folder.path).iterdir()] == [f"{KEY}.json"], "a temporary file is left"


def test_what_a_killed_worker_left_is_gone_when_the_next_one_opens_the_folder(folder: Folder) -> None:
    dying = "import os, signal\nos.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
    killed = subprocess.run(python(dying + WRITE, folder.path))
    assert killed.returncode == -signal.SIGKILL
    assert [path.name[: len(KEY) + 1] for path in Path(folder.path).iterdir()] == [f".{KEY}"]
    open_folder(folder.path, make=False)
    assert len(list(Path(folder.path).iterdir())) == 1, "a reader removes nothing"
    open_folder(folder.path)
    assert not list(Path(folder.path).iterdir())
