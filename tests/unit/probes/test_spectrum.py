"""Energies of waves whose place is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small import make_images, make_pictures

from bandlens.core.errors import UsageError
from bandlens.probes.spectrum import check_size, energy_shares


@pytest.mark.parametrize(("down", "across", "octave"), [(0, 1, 1), (12, 12, 5), (-20, 21, 6), (32, 0, 6)])
def test_a_wave_lies_in_its_octave_and_ring(down: int, across: int, octave: int) -> None:
    place = 2 * np.pi * np.arange(64) / 64
    field = 0.5 + np.cos(down * place[:, None] + across * place)
    by_octave, by_ring = energy_shares(np.stack([np.stack([field] * 3), np.ones((3, 64, 64))]).astype(np.float32))
    assert by_octave[0, octave] == pytest.approx(1)
    assert by_ring[0, round(np.hypot(down, across)) - 1] == pytest.approx(1)
    assert np.isnan([*by_octave[1], *by_ring[1]]).all(), "a constant image has no energy to share"


def test_small_images_have_no_spectrum(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs 16 pixels a side or more, not 15"):
        check_size(make_images(tmp_path / "set", make_pictures(2, 32)[:, :15, :15].copy()))
