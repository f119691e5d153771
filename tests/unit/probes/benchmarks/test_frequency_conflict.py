"""Frequency conflicts: NumPy's transform as the oracle of pixels, and any labels for the pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from small import make_images, make_pictures

from bandlens.core.errors import ImageSetError, UsageError
from bandlens.probes.benchmarks.frequency_conflict import draw_partners, pack_frequency_conflict
from bandlens.probes.images.image_set import ImageSet, check_image_set
from bandlens.probes.images.pack_options import How

LABELS = [0, 0, 1, 2, 1, 3, 0, 2]


def pack_labelled(folder: Path, labels: list[int] | None = LABELS, size: int = 32) -> ImageSet:
    return make_images(folder / "images.set", make_pictures(len(LABELS), size), labels=labels, folders=4)


def low(image: NDArray[np.float64], r: int) -> NDArray[np.float64]:
    """The published low-pass: a block of the shifted spectrum, without the frequency +r."""
    middle = image.shape[-1] // 2
    mask = np.zeros(image.shape)
    mask[..., middle - r : middle + r, middle - r : middle + r] = 1
    return np.fft.ifft2(np.fft.ifftshift(np.fft.fftshift(np.fft.fft2(image), axes=(-2, -1)) * mask, axes=(-2, -1))).real


@pytest.mark.parametrize(("cutoff", "r"), [(0.3, 4), (0.95, 15)])
def test_low_frequencies_are_of_one_image_and_high_ones_of_its_partner(tmp_path: Path, cutoff: float, r: int) -> None:
    images = pack_labelled(tmp_path)
    conflicts = pack_frequency_conflict(images, tmp_path / "conflicts", cutoff=cutoff, seed=5)
    assert conflicts.labels is not None
    pixels = images.pixels / 255
    for row, path in enumerate(conflicts.paths):
        first, partner = (images.paths.index(name) for name in path.split("+"))
        assert first == row
        expected = np.clip(low(pixels[row], r) + pixels[partner] - low(pixels[partner], r), 0, 1) * 255
        np.testing.assert_allclose(conflicts.pixels[row], expected, rtol=0, atol=0.5 + 1e-3)
        assert conflicts.labels[row] == LABELS[row] != LABELS[partner]
        assert conflicts.schemes["hf_label"].classes[row] == LABELS[partner]
    assert conflicts.clusters.tolist() == images.clusters.tolist()
    assert conflicts.info.benchmark == "frequency-conflict"
    assert (conflicts.info.count, list(conflicts.schemes)) == (8, ["hf_label"])
    assert conflicts.info.preprocessing.partition(";")[0] == images.info.preprocessing
    assert check_image_set(tmp_path / "conflicts").info.digest == conflicts.info.digest


def test_the_seed_draws_the_pairs_and_nothing_else_matters(tmp_path: Path) -> None:
    images = pack_labelled(tmp_path)
    sets = [
        pack_frequency_conflict(images, tmp_path / str(at), cutoff=0.3, seed=seed, how=How(workers=workers))
        for at, (seed, workers) in enumerate([(0, 1), (0, 2), (1, 2)])
    ]
    assert sets[0].info.digest == sets[1].info.digest != sets[2].info.digest
    assert sets[0].paths != sets[2].paths


@given(st.lists(st.integers(0, 4), min_size=2, max_size=40), st.integers(0, 2**31))
def test_partners_are_of_another_class_and_each_is_taken_once(labels: list[int], seed: int) -> None:
    array = np.array(labels, np.int32)
    if 2 * max(map(labels.count, labels)) > len(labels):
        with pytest.raises(ValueError, match="too many"):
            draw_partners(array, seed)
        return
    partners = draw_partners(array, seed)
    assert sorted(partners) == list(range(len(labels)))
    assert (array[partners] != array).all()
    assert partners.tolist() == draw_partners(array, seed).tolist()


@pytest.mark.parametrize(
    ("labels", "size", "cutoff", "error", "words"),
    [
        (None, 32, 0.3, ImageSetError, "has no labels"),
        ([0, 0, 0, 0, 0, 1, 2, 3], 32, 0.3, ImageSetError, "5 of 8 images are of class 0, too many; pack a set of mo"),
        (LABELS, 32, 0.01, UsageError, "--cutoff 0.01 leaves no low frequencies of 32 pixels; choose from 0.062 up to"),
        (LABELS, 32, 1.0, UsageError, "--cutoff 1 leaves no high frequencies"),
    ],
)
def test_what_cannot_conflict_is_refused(
    tmp_path: Path, labels: list[int] | None, size: int, cutoff: float, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        pack_frequency_conflict(pack_labelled(tmp_path, labels, size), tmp_path / "conflicts", cutoff=cutoff)
    assert [path.name for path in tmp_path.iterdir()] == ["images.set"]
