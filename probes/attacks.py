"""Attacks: condition families that need the network, so that each checkpoint gets images of its own.

    x_0     = clip(x + eps u, 0, 1),  u uniform in (-1, 1)
    x_(k+1) = x_k + step sign(gradient of the label's cross entropy at x_k), cut to [x - eps, x + eps] and [0, 1]

`pgd_linf` is judged by the last iterate, `pgd_any` by the first that fools the network, the start among them;
`engine.backends.pgd` computes both. Published budget, which the study calls low: eps 0.5/255, step 2/255, 40 steps. The
step is larger than eps, so each one ends on the surface of the ball, and the iterate oscillates.

A band [low, high], shares of the highest frequency, keeps the search to what `lowpass` keeps at the cutoff high and not
at low: u and every step are filtered before they are added. Cutting to the ball brings a little of other frequencies
back. All of them, [0, 1], is the default and no part of a condition. Source: Gavrikov and Keuper 2024, after Madry et
al. 2018 ("Towards deep learning models resistant to adversarial attacks").

Gradients, of which the sign alone is used, may be computed in bfloat16; what is judged are logits in float32 all the
same. That finds other images, so `gradients = "bf16"` is part of a condition, and the default, "fp32", is none.
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
"""Fourth word of the counter. Noise has 0 for its fields and counts up from 1 when it draws again: it never comes here.
The draw is 0, so that a start belongs to the seed and the image alone, and all checkpoints, budgets and attacks begin
at the same place of their balls."""


def _share(value: Any) -> float:
    """A number in [0, 1], or a fraction such as "0.5/255": steps of 8-bit images have no short decimals."""
    try:
        if isinstance(value, str):
            numerator, denominator = value.split("/")
            value = float(numerator) / float(denominator)
        if isinstance(value, bool) or not 0 <= value <= 1:  # NaN is in no range
            raise ValueError
    except (ValueError, TypeError, ZeroDivisionError):
        raise ValueError(f'must be a number in [0, 1], or a fraction such as "0.5/255", not {value!r}') from None
    return float(value) + 0.0  # no negative zero


FULL_BAND = "0.0 to 1.0"
GRADIENTS = ("fp32", "bf16")
"""Precisions of gradients, the usual one first."""


def band_of(condition: Condition) -> tuple[float, float]:
    """The band of an attack, low and high as shares of the highest frequency."""
    low, high = str(dict(condition.parameters).get("band", FULL_BAND)).split(" to ")
    return float(low), float(high)


def gradients_of(condition: Condition) -> str:
    """The precision of an attack's gradients, one of GRADIENTS."""
    return str(dict(condition.parameters).get("gradients", GRADIENTS[0]))


def _canonical(setting: dict[str, Value]) -> dict[str, Value]:
    defaults = {"band": FULL_BAND, "gradients": GRADIENTS[0]}
    return {name: value for name, value in setting.items() if defaults.get(name) != value}


def check_size(condition: Condition, size: int) -> None:
    """ProbeError where a band has no frequency at this size, or the filters do not take it."""
    low, high = band_of(condition)
    if (low, high) == (0, 1):
        return
    even_size(condition, size)
    if int(low * (size // 2)) == int(high * (size // 2)):
        raise ProbeError(f"{condition}: the band has no frequency of images of {size} pixels; widen it")


def start_attack(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Give the starts of attacks: the places in the ball around each image at which a network begins.

    Arrays are (n, 3, size, size) float32, uniform in (-1, 1), in units of eps; a `family.Perturb` but for that range.
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
    """(n, 3, size, size), uniform in (-1, 1) in units of eps: a function of the seed and of n images' keys."""
    words = random_words(np, seed, keys, 0, 3 * size * size, START_STREAM)
    start: NDArray[np.float32] = uniform(np, words).reshape(-1, 3, size, size)
    return start
