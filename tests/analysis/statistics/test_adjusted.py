import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from bandlens.analysis.statistics.coefficients import benjamini_hochberg, holm


@settings(max_examples=15)  # theirs takes its time
@given(seed=st.integers(0, 2**32 - 1), tests=st.integers(1, 90), decimals=st.integers(1, 6))
def test_adjusted_p_values_are_those_of_statsmodels(seed: int, tests: int, decimals: int) -> None:
    p = np.round(np.random.default_rng(seed).random(tests) ** 3, decimals)
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1], abs=1e-12)


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_a_test_that_was_not_made_does_not_count(adjust) -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03])
    assert adjust(p)[[0, 2, 3]].tolist() == adjust(p[[0, 2, 3]]).tolist()
    assert np.isnan(adjust(p)[1])
    assert np.isnan(adjust(np.full(3, np.nan))).all()
    assert adjust(np.array([])).shape == (0,)
