"""A Ray cluster of this machine for tests, and small studies for it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from small import make_images, make_model, make_pictures, make_study

MEMORY = 80 * 2**20
"""Bytes of the object store: the least that Ray takes."""
PROBES = """
lowpass = {cutoff = [0.1, 0.3]}
critical_band = {noise_sd = [0.0, 0.1], frequency = [1, 4]}
"""


@contextmanager
def ray_cluster(cpus: int = 2) -> Iterator[None]:
    """Ray is connected to a cluster of its own while the block lasts."""
    from bandlens.engine.distributed.cluster import import_ray

    ray = import_ray()
    folder = tempfile.mkdtemp(prefix="ray")  # Ray's sockets lie in it, and their paths must be short
    try:
        ray.init(
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=MEMORY,
            _temp_dir=folder,
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def study_in(folder: Path, count: int = 100, probes: str = PROBES, models: tuple[str, ...] = ("one", "two")) -> Path:
    """A study of small models and labelled images."""
    for seed, name in enumerate(models):
        make_model(folder / "models", name, seed=seed)
    make_images(folder / "images.set", make_pictures(count), labels=[k % 12 for k in range(count)])
    return make_study(folder, probes=probes)
