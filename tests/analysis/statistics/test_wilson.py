"""Wilson's interval, in Python and in SQL."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.statistics.wilson import wilson


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with open_store(tmp_path_factory.mktemp("wilson") / "results.duckdb") as opened:
        yield opened


def ends(store: Store, share: np.ndarray, n: np.ndarray) -> np.ndarray:
    """(2, cases) by the macros of the database."""
    query = (
        "SELECT wilson_low(share, n) AS low, wilson_high(share, n) AS high "
        "FROM (SELECT unnest(?::DOUBLE[]) AS share, unnest(?::DOUBLE[]) AS n)"
    )
    return store.frame(query, [share.tolist(), n.tolist()]).to_numpy().T


@given(right=st.integers(0, 5000), wrong=st.integers(0, 5000))
def test_it_is_that_of_statsmodels(right: int, wrong: int) -> None:
    n = max(1, right + wrong)
    assert wilson(right / n, n) == pytest.approx(proportion_confint(right, n, method="wilson"), abs=1e-12)


def test_sql_and_python_agree(store: Store) -> None:
    rng = np.random.default_rng(0)
    n = np.concatenate([rng.integers(1, 60_000, 3000), np.exp(rng.uniform(0, 11, 3000))]).astype(float)
    share = np.where(rng.random(len(n)) < 0.1, rng.integers(0, 2, len(n)), rng.random(len(n)))
    assert ends(store, share, n) == pytest.approx(np.array(wilson(share, n)), abs=1e-12)
