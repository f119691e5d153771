"""Files that a machine fetches from the driver."""

from __future__ import annotations

import fcntl
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_results import python
from small import make_images, make_model, make_pictures
from waiting import LIMIT_SECONDS

from bandlens.core.records import Variant
from bandlens.engine.distributed import files
from bandlens.engine.distributed.files import DriverFiles, NodeFiles, PackedSet, kept_files
from bandlens.export.files import sha256_of
from bandlens.probes.images.image_set import ImageSet


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder in which this machine keeps what it fetches."""
    monkeypatch.setenv("BANDLENS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "fetched"


@pytest.fixture
def packed(tmp_path: Path) -> ImageSet:
    return make_images(tmp_path / "images.set", make_pictures(4))


def away(variant: Variant) -> Variant:
    """The variant as a machine sees it that has none of the driver's folders."""
    model = replace(variant.model, path=Path(f"/nowhere{variant.model.path}"))
    return replace(variant, model=model, path=Path(f"/nowhere{variant.path}"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_same_onnx_file_under_another_name_is_found(tmp_path: Path, precision: str) -> None:
    folder = tmp_path / "models" if precision == "fp32" else tmp_path / "models" / precision
    models = [make_model(folder, name) for name in ("one", "two")]
    variants = [Variant(model, "onnxruntime-cuda", precision, model.path, model.sha256) for model in models]
    assert variants[0].sha256 == variants[1].sha256
    for variant in variants:
        local_variant = NodeFiles(DriverFiles(kept_files([], [variant], []))).variant(away(variant))
        assert sha256_of(local_variant.path) == variant.sha256
        assert local_variant.model.name == variant.model.name


def test_waiting_for_another_process_that_fetches_is_progress(
    packed: ImageSet, fetched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "WAIT_SECONDS", 0.01)
    fetched.mkdir(parents=True)
    with (fetched / f"{packed.packed}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        steps = list[int]()

        def step() -> None:
            steps.append(1)
            if len(steps) == 3:
                fcntl.flock(lock, fcntl.LOCK_UN)

        node = NodeFiles(DriverFiles(kept_files([packed], [], [])), step)
        assert node.images(PackedSet(Path("/nowhere"), packed.packed, None)).info == packed.info
    assert len(steps) == 3 + 3, "three files of one piece each"


KILLED = """
import os, signal
from pathlib import Path
from bandlens.engine.distributed.files import DriverFiles, NodeFiles, PackedSet
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
class Dies(DriverFiles):
    def read(self, *which):
        return die() if {here!r} == "on the way" and which[1] == "pixels.npy" else super().read(*which)
os.fsync = die
folder = Path({folder!r})
kept = {{{digest!r}: {{name: folder / name for name in ("set.json", "index.parquet", "pixels.npy")}}}}
NodeFiles(Dies(kept)).images(PackedSet(Path("/nowhere"), {digest!r}, None))
"""


@pytest.mark.parametrize("here", ["on the way", "before it is on the disk"])
def test_what_a_killed_process_had_fetched_has_no_name_and_is_gone_after_the_next_fetch(
    packed: ImageSet, fetched: Path, here: str
) -> None:
    killed = python(KILLED.format(folder=str(packed.folder), digest=packed.packed, here=here))
    assert subprocess.run(killed, check=False, timeout=LIMIT_SECONDS).returncode == -signal.SIGKILL
    names = {path.name for path in fetched.iterdir()} - {f"{packed.packed}.lock"}
    assert names not in (set(), {packed.packed})
    NodeFiles(DriverFiles(kept_files([packed], [], []))).images(PackedSet(Path("/nowhere"), packed.packed, None))
    assert {path.name for path in fetched.iterdir()} == {packed.packed, f"{packed.packed}.lock"}
