"""`bandlens images spectrum`: planted octaves, two sets, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small import invoke, make_images

from bandlens.core.errors import UsageError

COUNT, SIZE = 60, 32


def pictures(labels: NDArray[np.int64], octave: int, seed: int = 0) -> NDArray[np.uint8]:
    """(n, 32, 32, 3): noise in which one octave of images of label 1 is four times as strong."""
    noise = np.random.default_rng(seed).normal(size=(len(labels), SIZE, SIZE))
    cycles = abs(np.fft.fftfreq(SIZE, 1 / SIZE))
    ring = np.maximum(cycles[:, None], cycles)
    low, high = SIZE // 2 >> (7 - octave), SIZE // 2 >> (6 - octave)
    gain = np.where((low < ring) & (ring <= high), 1.0, 0)[None] * 3 * labels[:, None, None] + 1
    field = np.fft.ifft2(np.fft.fft2(noise) * gain).real
    return np.rint((128 + 12 * field).clip(0, 255))[..., None].repeat(3, axis=3).astype(np.uint8)


def test_two_sets_differ_in_the_octave_that_one_has_more_of(tmp_path: Path) -> None:
    make_images(tmp_path / "a.set", pictures(np.arange(COUNT) % 2, 4))
    make_images(tmp_path / "b.set", pictures(np.zeros(COUNT, np.int64), 4, 1))
    result = invoke("images", "spectrum", tmp_path / "a.set", tmp_path / "b.set", "--format", "json")
    assert result.exit_code == 0, result.exception
    tables = json.loads(result.stdout)
    unlike = {row["octave"] for row in tables["ratio"] if row["direction"] == "all" and row["ratio_high"] < 0.5}
    assert unlike == {4}
    assert abs(next(row for row in tables["exponent"] if row["image_set"] == "b.set")["exponent"]) < 0.1
    power = sum(row["share"] for row in tables["power"] if row["image_set"] == "a.set")
    assert power == pytest.approx(1)


def test_what_has_no_spectrum_is_one_line(tmp_path: Path) -> None:
    noise = pictures(np.zeros(4, np.int64), 4)
    make_images(tmp_path / "one.set", noise[:1])
    make_images(tmp_path / "cluster.set", noise, folders=4)
    make_images(tmp_path / "other.set", noise[:, :16, :16].copy())
    make_images(tmp_path / "flat.set", np.full((4, SIZE, SIZE, 3), 90, np.uint8))
    make_images(tmp_path / "some.set", noise)
    for names, message in (
        (["one.set"], "needs images of two clusters, not 1 of one"),
        (["cluster.set"], "needs images of two clusters, not 4 of one"),
        (["some.set", "other.set"], "pack both at one size"),
        (["flat.set"], "pack photographs that are not flat"),
    ):
        error = invoke("images", "spectrum", *(tmp_path / name for name in names)).exception
        assert isinstance(error, UsageError)
        assert message in str(error)
