"""A Ray cluster of this machine for tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

MEMORY = 80 * 2**20
"""Bytes of the object store: the least that Ray takes."""


@contextmanager
def ray_cluster(cpus: int = 2) -> Iterator[None]:
    """Ray is connected to a cluster of its own while the block lasts."""
    from bandlens.engine.cluster import import_ray

    ray = import_ray()
    folder = tempfile.mkdtemp(prefix="ray")  # Ray's sockets lie in it, and their paths must be short
    try:
        ray.init(
            address="local",
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
