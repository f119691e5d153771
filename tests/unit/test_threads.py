"""Threads take items a few ahead, and give their results in order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from bandlens.threads import in_parallel


def test_results_come_in_order_of_items_that_are_taken_a_few_ahead() -> None:
    taken = list[int]()

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    results = in_parallel(lambda item: item**2, items(), 2)
    assert list(islice(results, 20)) == [item**2 for item in range(20)]
    assert len(taken) < 40
    results.close()
    assert list(in_parallel(str, range(100), 3)) == list(map(str, range(100)))
