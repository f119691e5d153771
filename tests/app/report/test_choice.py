"""Which models are drawn: no more than there is room for, of every category, from the least accurate to the most."""

from __future__ import annotations

import numpy as np
import polars as pl

from bandlens.app.report.choice import MOST, choose


def models(*sizes: int) -> pl.DataFrame:
    """So many models of each category, whose accuracies are in no order."""
    category = np.repeat([f"category {k}" for k in range(len(sizes))], sizes)
    accuracy = np.random.default_rng(0).permutation(len(category)) / len(category)
    return pl.DataFrame(
        {"checkpoint": [f"net{k}" for k in range(len(category))], "category": category, "accuracy": accuracy}
    )


def test_few_are_all_drawn() -> None:
    assert choose(models(20, 28)) == sorted(f"net{k}" for k in range(MOST))


def test_of_many_each_category_has_its_share_and_its_ends() -> None:
    every = models(600, 300, 99, 1)
    chosen = every.filter(pl.col("checkpoint").is_in(choose(every)))
    assert len(chosen) == MOST
    assert chosen.group_by("category").len().sort("category")["len"].to_list() == [28, 14, 5, 1]
    for name in ("category 0", "category 1", "category 2"):
        both = [rows.filter(category=name)["accuracy"] for rows in (every, chosen)]
        assert (both[0].min(), both[0].max()) == (both[1].min(), both[1].max())


def test_more_categories_than_places() -> None:
    assert len(choose(models(*[2] * 60))) == MOST
