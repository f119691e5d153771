"""A worker counts each piece of its work as a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small import make_images, make_model, make_pictures

from bandlens.core.records import Cell
from bandlens.engine.backends.base import variant_of
from bandlens.engine.distributed import files
from bandlens.engine.distributed.files import DriverFiles, kept_files
from bandlens.engine.distributed.worker import Worker, job_of
from bandlens.engine.tasks import Task
from bandlens.probes.grid import make_grid


def test_each_piece_of_an_image_set_that_is_fetched_is_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDLENS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(files, "PIECE", 1000)
    variant = variant_of(make_model(tmp_path / "models"), "onnxruntime", "fp32")
    images = make_images(tmp_path / "images.set", make_pictures(4))
    cell = Cell(variant, images.info, make_grid({}, tmp_path).clean[0], 0)
    job = job_of({}, tmp_path, [images], 4, 1, str(tmp_path / "shards"), [cell])
    away = {digest: packed._replace(folder=Path("/nowhere")) for digest, packed in job.image_sets.items()}
    steps = list[int]()

    class Watched(DriverFiles):
        def read(self, digest: str, name: str, offset: int) -> bytes:
            steps.append(worker.steps)
            return super().read(digest, name, offset)

    with Worker(replace(job, image_sets=away), Watched(kept_files([images], [], []))) as worker:
        assert worker.compute(Task((cell,), 0, 4)).failed == ()
    assert len(steps) > 100
    assert steps == list(range(len(steps)))


@pytest.mark.parametrize(("name", "there"), [("out", "{}/out"), ("s3://bucket/out", "s3://bucket/out")])
def test_a_results_folder_is_the_drivers_whatever_the_current_folder_of_a_worker_is(
    name: str, there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert job_of({}, tmp_path, [], 4, 1, name, []).shards == there.format(tmp_path)
