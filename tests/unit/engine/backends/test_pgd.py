"""Projected gradient descent: each step by hand, where the iterates may lie, and which of them is judged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bandlens.engine.backends.pgd import Attacked, Budget, fooled, pgd, pgd_any, within
from bandlens.probes.attacks import START_STREAM, uniform_start
from bandlens.probes.noise import philox4x32
from bandlens.probes.spectral import lowpass, spectrum

SIZE, CLASSES = 8, 5
Attack = Callable[..., Attacked]


class Linear(nn.Module):
    """logits = W images + b: the gradient of the cross entropy is W' (p - onehot)."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("matrix", torch.randn(CLASSES, 3 * SIZE * SIZE, generator=generator))
        self.register_buffer("offset", torch.randn(CLASSES, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.get_buffer("matrix").T + self.get_buffer("offset")

    def gradient(self, images: Tensor, labels: Tensor) -> Tensor:
        shares = self(images).softmax(1)
        return ((shares - nn.functional.one_hot(labels, CLASSES)) @ self.get_buffer("matrix")).reshape(images.shape)


class CurvedNetwork(Linear):
    """A network whose gradient turns from iterate to iterate."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.sin(9 * images))


def batch(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Images, some of whose values are 0 and 1; labels; and starts."""
    generator = torch.Generator().manual_seed(seed)
    images = (1.2 * torch.rand(count, 3, SIZE, SIZE, generator=generator) - 0.1).clamp(0, 1)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return images, labels, 2 * torch.rand(images.shape, generator=generator) - 1


def predict(network: nn.Module, images: Tensor) -> Tensor:
    """The network's own answers, so that all of them are right."""
    return network(images).argmax(1)


def test_one_step_from_the_image_follows_the_sign_of_the_gradient() -> None:
    network, (images, labels, start) = Linear(), batch()
    outcome = pgd(network, images, labels, torch.zeros_like(start), Budget(0.1, 0.03, 1))
    expected = (images + 0.03 * network.gradient(images, labels).sign()).clamp(0, 1)
    assert torch.allclose(outcome.images, expected, atol=1e-7)
    assert torch.equal(outcome.logits, network(outcome.images))


def test_it_begins_at_the_start() -> None:
    """With steps of no length, the last iterate is the first one."""
    images, labels, start = batch()
    iterates = pgd(Linear(), images, labels, start, Budget(0.1, 0.0, 2)).images
    assert torch.allclose(iterates, (images + 0.1 * start).clamp(0, 1), atol=1e-7)


@pytest.mark.parametrize("attack", [pgd, pgd_any])
@fuzz(20)
@given(
    eps=st.floats(0, 1),
    step=st.floats(0, 1),
    steps=st.integers(1, 6),
    band=st.sampled_from([(0.0, 1.0), (0.0, 0.5), (0.5, 1.0)]),
    seed=st.integers(0, 1000),
)
def test_iterates_stay_in_the_ball_and_in_the_range(
    attack: Attack, eps: float, step: float, steps: int, band: tuple[float, float], seed: int
) -> None:
    images, labels, start = batch(seed=seed)
    original = images.clone()
    iterates = attack(CurvedNetwork(), images, labels, start, Budget(eps, step, steps, band)).images
    assert (iterates - images).abs().max() <= eps + 1e-6
    assert iterates.min() >= 0
    assert iterates.max() <= 1
    assert torch.equal(images, original), "the images themselves are not touched"


@pytest.mark.parametrize("band", [(0.25, 0.75), (0.0, 0.99)])
def test_a_band_is_what_the_lowpass_keeps_at_high_and_not_at_low(band: tuple[float, float]) -> None:
    change = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    low, high = (lowpass(np, change, spectrum(np, change), int(cutoff * 16)) for cutoff in band)
    np.testing.assert_allclose(within(torch.from_numpy(change), band).numpy(), high - low, rtol=0, atol=2e-6)


def test_steps_of_a_band_stay_in_it_where_nothing_is_cut() -> None:
    """In a ball of radius 1 around grey images, small steps reach no border."""
    images, labels, start = torch.full((2, 3, SIZE, SIZE), 0.5), torch.tensor([0, 1]), torch.zeros(2, 3, SIZE, SIZE)
    perturbation = pgd(CurvedNetwork(), images, labels, start, Budget(1.0, 0.001, 5, (0.0, 0.5))).images - images
    assert perturbation.abs().max() > 1e-3
    spectrum = torch.fft.fftshift(torch.fft.fft2(perturbation), dim=(-2, -1)).abs()
    outside = torch.ones(SIZE, SIZE, dtype=torch.bool)
    outside[2:7, 2:7] = False  # these are the block and its mirror image
    assert spectrum[..., outside].max() < 1e-5
    assert spectrum[..., ~outside].max() > 1e-2


def test_more_steps_go_on_from_fewer() -> None:
    network, (images, labels, start) = CurvedNetwork(), batch()
    for steps in range(1, 5):
        adversaries = pgd(network, images, labels, start, Budget(0.05, 0.02, steps)).images
        onward = pgd(network, images, labels, start, Budget(0.05, 0.02, steps + 1)).images
        gradient = torch.autograd.grad(
            nn.functional.cross_entropy(network(adversaries.requires_grad_()), labels, reduction="sum"), adversaries
        )[0]
        low, high = (images - 0.05).clamp(min=0), (images + 0.05).clamp(max=1)
        assert torch.allclose(onward, (adversaries + 0.02 * gradient.sign()).clamp(low, high), atol=1e-6)


def test_the_first_iterate_that_fools_is_taken() -> None:
    """The test finds it by trying every number of steps; the start has none."""
    network, (images, _, start) = CurvedNetwork(), batch(12, seed=4)
    labels, steps, budget = predict(network, images), 8, Budget(0.04, 0.005, steps=8)
    outcome = pgd_any(network, images, labels, start, budget)
    beginning = (images + budget.eps * start).clamp(0, 1)
    shorter = [budget._replace(steps=k) for k in range(1, steps + 1)]
    iterates = [beginning, *(pgd(network, images, labels, start, trial).images for trial in shorter)]
    lengths = set()
    for row in range(len(images)):
        fools = [k for k, iterate in enumerate(iterates) if network(iterate)[row].argmax() != labels[row]]
        length = fools[0] if fools else steps
        assert torch.allclose(outcome.images[row], iterates[length][row], atol=1e-6)
        assert torch.allclose(outcome.logits[row], network(iterates[length])[row], atol=1e-4)
        lengths.add(length)
    assert len(lengths) > 3, "some are fooled early, some late, some not at all"


def test_fooled_counts_as_the_stored_rank_does() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0], [2.0, 2.0, 1.0], [0.0, 3.0, 1.0], [float("nan"), 1.0, 0.0]])
    assert fooled(logits, torch.tensor([2, 0, 1, 1])).tolist() == [True, False, False, False]


# Starts


@pytest.mark.parametrize("size", [8, 7])
def test_a_start_is_philox_under_a_stream_of_its_own(size: int) -> None:
    count, key, seed = 3 * size * size, 7 << 32 | 9, 2**40 + 3
    blocks = -(-count // 4)
    counter = (np.arange(blocks, dtype=np.uint32), np.uint32(7), np.uint32(9), np.uint32(START_STREAM))
    words = np.concatenate(philox4x32(np, counter, seed))[:count].astype(np.float64)
    start = uniform_start(seed, np.array([key], np.uint64), size).ravel()
    np.testing.assert_allclose(start, 2 * words / 2**32 - 1, atol=2**-23)
    assert np.abs(start).max() < 1
