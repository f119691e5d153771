"""Define adversarial attacks: probes whose images are computed for each checkpoint with its gradients.

    x_0     = clip(x + eps u, 0, 1),  u uniform in (-1, 1)
    x_(k+1) = x_k + step sign(gradient of the loss at x_k), projected to [x - eps, x + eps] and [0, 1]

These are projected gradient descent attacks (PGD) in the L-infinity norm with a random start. The loss is the cross
entropy with the label. `pgd_linf` evaluates the last iterate. `pgd_any` evaluates the first iterate, including the
start, that is misclassified. `engine.backends.pgd` computes both. The default budget is the published one, which the
study calls low: eps 0.5/255, step 2/255, 40 steps. Because the step is larger than eps, every step ends on the boundary
of the eps ball and the iterate oscillates.

The parameter `band` = [low, high] restricts the attack to a frequency band. Its limits are proportions of the Nyquist
limit. The start u and every step are filtered to the frequencies that `lowpass` keeps at the cutoff `high` but not at
the cutoff `low`. The projection reintroduces small amounts of other frequencies. The default [0, 1] contains all
frequencies and is omitted from the condition. Source: Gavrikov and Keuper 2024, after Madry et al. 2018 ("Towards deep
learning models resistant to adversarial attacks").

The parameter `gradients` is the precision in which gradients are computed. Only the sign of a gradient is used, so
"bf16" (bfloat16) is possible. Predictions are computed from float32 logits in both cases. A lower precision leads to
different adversarial images, so it is part of the condition. The default "fp32" is omitted from the condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ProbeError
from ..core.protocol import EPS, STEP, STEPS
from ..core.records import Condition
from .arrays import to_numpy
from .family import Axis, Batch, Buffer, Family, Parameter, Perturbed, Value, band_to, even_size, integer_in, one_of
from .noise import WORD, random_words, uniform

START_STREAM = WORD
"""Stream (fourth word of the counter) of the random start.

Noise uses stream 0 for its fields and counts upwards from 1 when pixels are drawn again, so it never reaches this
value. The draw of the start is 0. The start therefore depends only on the seed and the image, and is the same for all
checkpoints, budgets and attacks.
"""


def _share(value: Any) -> float:
    """Parse a number in [0, 1], or a fraction such as "0.5/255".

    Fractions are convenient because multiples of 1/255 have no short decimal form.
    """
    try:
        if isinstance(value, str):
            numerator, denominator = value.split("/")
            value = float(numerator) / float(denominator)
        if isinstance(value, bool) or not 0 <= value <= 1:  # also rejects NaN
            raise ValueError
    except (ValueError, TypeError, ZeroDivisionError):
        raise ValueError(f'must be a number in [0, 1], or a fraction such as "0.5/255", not {value!r}') from None
    return float(value) + 0.0  # converts -0.0 to 0.0


FULL_BAND = "0.0 to 1.0"
"""Default of the parameter `band`: all frequencies."""
GRADIENTS = ("fp32", "bf16")
"""Precisions of the gradients. The first is the default."""


def band_of(condition: Condition) -> tuple[float, float]:
    """Return the band (low, high) of an attack, as proportions of the Nyquist limit."""
    low, high = str(dict(condition.parameters).get("band", FULL_BAND)).split(" to ")
    return float(low), float(high)


def gradients_of(condition: Condition) -> str:
    """Return the precision of an attack's gradients, one of `GRADIENTS`."""
    return str(dict(condition.parameters).get("gradients", GRADIENTS[0]))


def _canonical(setting: dict[str, Value]) -> dict[str, Value]:
    """Drop the parameters `band` and `gradients` if they have their default values."""
    defaults = {"band": FULL_BAND, "gradients": GRADIENTS[0]}
    return {name: value for name, value in setting.items() if defaults.get(name) != value}


def check_size(condition: Condition, size: int) -> None:
    """Raise ProbeError if the band contains no frequency at this image size, or the filters do not support the size."""
    low, high = band_of(condition)
    if (low, high) == (0, 1):
        return
    even_size(condition, size)
    if int(low * (size // 2)) == int(high * (size // 2)):
        raise ProbeError(f"{condition}: the band has no frequency of images of {size} pixels; widen it")


def start_attack(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the random starting points of attacks.

    This is a `family.Perturb` function, but its arrays contain uniform numbers in (-1, 1), in units of eps, instead of
    images. A session computes the attack from them.
    """
    start = xp.asarray(uniform_start(batch.seed, to_numpy(batch.keys), batch.pixels.shape[-1]))
    for condition in conditions:
        filled = buffer()
        filled[...] = start
        yield condition, filled


BUDGET = (
    Parameter("eps", _share, (EPS,)),
    Parameter("step", _share, (STEP,)),
    Parameter("steps", integer_in(1, 10_000), (STEPS,)),
    Parameter("band", band_to(1, "", lambda edge: float(edge) + 0.0), (FULL_BAND,), pair=True),
    Parameter("gradients", one_of(*GRADIENTS), (GRADIENTS[0],)),
)
"""Parameters of the attacks."""

PGD_LINF, PGD_ANY = (
    Family(
        name,
        summary,
        2,
        BUDGET,
        start_attack,
        axes=(Axis("eps"),),
        attack=True,
        random=True,
        canonical=_canonical,
        check_size=check_size,
    )
    for name, summary in (
        ("pgd_linf", "projected gradient descent, judged by its last iterate"),
        ("pgd_any", "the same, stopped for an image at the first iterate that fools"),
    )
)

ATTACKS = {family.name: family for family in (PGD_LINF, PGD_ANY)}


def uniform_start(seed: int, keys: NDArray[np.uint64], size: int) -> NDArray[np.float32]:
    """Return starting points uniform in (-1, 1), in units of eps, (n, 3, size, size) float32.

    They depend only on the seed and on the keys of the n images.
    """
    words = random_words(np, seed, keys, 0, 3 * size * size, START_STREAM)
    start: NDArray[np.float32] = uniform(np, words).reshape(-1, 3, size, size)
    return start
