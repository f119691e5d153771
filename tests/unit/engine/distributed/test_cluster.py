"""The resources of a worker, as Ray takes them."""

from __future__ import annotations

import pytest

from bandlens.core.errors import UsageError
from bandlens.engine.distributed.cluster import RayOptions, place_of


@pytest.mark.parametrize("share", [0.25, 1, 1.0, 2])
def test_a_worker_takes_a_part_of_a_gpu_or_whole_ones(share: float) -> None:
    assert RayOptions(gpus_per_worker=share).gpus_per_worker == share


def test_one_gpu_and_a_half_is_refused() -> None:
    with pytest.raises(UsageError, match=r"1\.5 GPUs for a worker: give a part of one, or whole ones"):
        RayOptions(gpus_per_worker=1.5)


@pytest.mark.parametrize(
    ("address", "place"),
    [("10.0.0.1:6379", ("10.0.0.1", 6379)), ("ray://[::1]:1", ("::1", 1)), ("auto", None), ("host:²", None)],
)
def test_an_address_has_a_place_where_it_names_a_port(address: str, place: tuple[str, int] | None) -> None:
    assert place_of(address) == place


def test_a_port_of_any_number_of_digits_is_a_number() -> None:
    assert place_of(f"host:{'9' * 5000}") == ("host", 999_999_999)
