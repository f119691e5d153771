"""Workers, nodes and drivers that are killed or stopped on a Ray cluster: what is stored stays, and the run ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import SLOWLY, Bench, Nodes, bench, nodes, strike_for_good, strike_ray


@pytest.fixture(scope="module")
def ray_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tmp_path_factory.mktemp("ray") / "bench", SLOWLY)


@pytest.fixture(scope="module")
def cluster_nodes() -> Iterator[Nodes]:
    with nodes() as ray_nodes:
        yield ray_nodes


@pytest.mark.parametrize("fault", ["worker killed", "node killed", "driver killed"])
def test_whatever_is_killed_on_a_cluster_no_row_is_lost_or_there_twice(
    ray_bench: Bench, cluster_nodes: Nodes, tmp_path: Path, fault: str
) -> None:
    counts: Counter[str] = Counter()
    # The moment of a fault is drawn; a fast machine may have finished the run by then, which shows nothing.
    for seed in range(6):
        folder = tmp_path / str(seed)
        folder.mkdir()
        strike_ray(ray_bench, folder, seed, cluster_nodes, counts, kinds=(fault,))
        if counts.total():
            break
    assert counts.total(), "a run was disturbed"


def test_a_run_whose_cluster_answers_no_more_ends_and_loses_nothing(ray_bench: Bench, tmp_path: Path) -> None:
    strike_for_good(ray_bench, tmp_path, 0, "gcs_server", Counter())
