"""Batches are cut into parts for the threads of a CPU."""

from __future__ import annotations

import pytest

from bandlens.engine.backends.base import PART, part_of


@pytest.mark.parametrize(("batch", "threads", "part"), [(32, 1, 4), (32, 16, 2), (32, 100, 1), (30, 2, 3), (7, 2, 1)])
def test_a_part_divides_the_batch_and_leaves_no_thread_out(batch: int, threads: int, part: int) -> None:
    assert part_of(b"", batch, threads) == part <= PART
