"""Half-accuracy cutoff: the cutoff frequency at which filtering removes half of the chance-corrected accuracy.

With k the cutoff in cycles/image:

    ratio(k) = (accuracy under the filter with cutoff k - chance) / (clean accuracy - chance)

    lowpass_half_cut    k at which ratio(k) crosses 1/2; every low-pass with a higher cutoff leaves half or more
    highpass_half_cut   k at which ratio(k) crosses 1/2; every high-pass with a lower cutoff leaves half or more

For images of n pixels a side, a low-pass filter with parameter c keeps frequencies below int(c n / 2) cycles/image. A
high-pass filter removes frequencies below int((1 - c) n / 2); high-pass filters that remove no frequency are ignored.
Between two tested cutoffs, the ratio is interpolated linearly in log2 k.

With labels, chance is the mean number of correct classes of an image divided by the number of classes. If a model
decides between fewer than 1,000 classes, chance is the chance level of each condition from
`statistics.chance_agreement`. Predictions at their own chance level then count as 0 and do not reach one half. Without
labels, accuracy is replaced by the agreement with the clean predictions, and chance is the agreement of unrelated
predictions with the class frequencies of the clean ones.

If every tested cutoff leaves at least half, or the cutoff that leaves most leaves less than half, the value is the end
of the tested range, and the state is `censored_below` or `censored_above`.

Confidence intervals are percentiles over resamples (`statistics.resampling`). They require at least 20 independent
images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from ...statistics import Floats, Mask
from ...statistics.resampling import FEWEST_CLUSTERS, RESAMPLES, count_right, interval
from ..base import Available, Display, Ends, Estimate, Measure, State, Words, nothing, too_few_images, under
from ..predictions import CellOutcomes, Outcomes, read_hits

PROBES = {"lowpass_half_cut": "lowpass", "highpass_half_cut": "highpass"}
"""Metric -> the filter whose cutoff it is."""
FEWEST_CUTS = 2
"""Minimum number of tested cutoffs."""


def cut_of(probe: str, cutoff: float, size: int) -> int:
    """Return the cutoff in cycles/image of a filter with the parameter `cutoff` in [0, 1], at `size` pixels a side."""
    # Same expression and rounding as in the filter. Because 1 - 0.9 is slightly below 0.1 in floating point, its cutoff
    # at 240 pixels is 11, not 12.
    return int((cutoff if probe == "lowpass" else 1 - cutoff) * (size // 2))


def _lacks(probe: str, available: Available) -> str | None:
    cutoffs = {round(condition.number("cutoff") or 0, 6) for condition in available.conditions_under(probe)}
    return None if len(cutoffs) >= FEWEST_CUTS else f"{probe} has one cutoff, and a cut takes {FEWEST_CUTS}"


def half_cuts(counts: Floats, cuts: Sequence[int], guessed: Floats | float) -> Floats:
    """Interpolate the cutoffs at which half of the chance-corrected number of correct predictions remains.

    Args:
        counts: Numbers of correct predictions, (1 + cutoffs, m). The first row is for the clean images. The other rows
            are in the order in which the filter removes less and less.
        cuts: Cutoffs in cycles/image, in the order of the rows.
        guessed: Numbers of predictions expected to be correct by chance, with the shape of `counts`, or one number.

    Returns:
        Half-accuracy cutoffs, (m,). NaN where the clean predictions are not above chance. If no tested cutoff leaves
        less than half, or the last one does, the value is that end of the tested range.
    """
    above = counts - guessed
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(above[0] > 0, above[1:] / above[0], np.nan)
    octaves = np.log2(np.maximum(cuts, 0.5))
    below = ratios < 0.5
    last = len(cuts) - 1 - np.argmax(below[::-1], axis=0)  # last tested cutoff that leaves less than half
    upper, column = np.minimum(last + 1, len(cuts) - 1), np.arange(ratios.shape[1])
    below_half, above_half = ratios[last, column], ratios[upper, column]
    gain = np.where(above_half > below_half, above_half - below_half, 1)
    step = np.where(upper > last, (0.5 - below_half) / gain, 0)
    crossing = np.exp2(octaves[last] + step * (octaves[upper] - octaves[last]))
    cut = np.where(below.any(axis=0), crossing, cuts[0])
    return np.where(np.isnan(ratios[0]), np.nan, cut)


class Curve(NamedTuple):
    """Correct predictions on the clean images, then under a filter that removes less and less."""

    cells: list[CellOutcomes]
    hits: Mask
    """Whether each prediction is correct, (1 + cutoffs, n)."""
    floors: Floats
    """Chance level of each condition, (1 + cutoffs, 1)."""
    cuts: list[int]

    @property
    def ratios(self) -> Floats:
        """Proportion of the chance-corrected accuracy that each filter leaves, (cutoffs,)."""
        above = self.hits.mean(axis=1, keepdims=True) - self.floors
        return np.asarray(above[1:, 0] / above[0])


def _read_curve(probe: str, outcomes: Outcomes) -> Curve | None:
    """Read the curve of a filter, or return None without clean predictions."""
    if outcomes.clean is None:
        return None
    size = outcomes.subject.size
    by_cutoff = {condition.number("cutoff") or 0: cell for condition, cell in outcomes.cells_under(probe).items()}
    if probe == "highpass":  # a filter that removes nothing is no evidence about where half is lost
        by_cutoff = {cutoff: cell for cutoff, cell in by_cutoff.items() if cut_of(probe, cutoff, size)}
    cells = [outcomes.clean, *(by_cutoff[cutoff] for cutoff in sorted(by_cutoff))]
    hits, floors = read_hits(cells), np.full((len(cells), 1), outcomes.floor)
    cuts = [cut_of(probe, cutoff, size) for cutoff in sorted(by_cutoff)]
    if outcomes.subject.labelled and outcomes.available.has_floor and (answers := outcomes.answers(cells)):
        floors = (answers.hits.mean(axis=1) - answers.above)[:, None]
    return None if hits is None else Curve(cells, hits, floors, cuts)


def half_cut_estimates(name: str, outcomes: Outcomes) -> dict[str, Estimate]:
    """Compute the half-accuracy cutoff with its confidence interval over images."""
    probe, images = PROBES[name], outcomes.images
    curve = _read_curve(probe, outcomes)
    if curve is None:
        return {name: nothing(State.MISSING, "no clean prediction to compare with")}
    if len(curve.cuts) < FEWEST_CUTS:  # one cutoff cannot bracket the point at which half remains
        lack = f"fewer than {FEWEST_CUTS} cutoffs of {probe} remove anything at {outcomes.subject.size} pixels"
        return {name: nothing(State.MISSING, lack)}
    if why := outcomes.guessed or _why_at_floor(probe, curve, outcomes):
        return {name: nothing(State.AT_CHANCE, why)}
    state, note = _state(curve)
    value, *resampled = _resampled(curve, outcomes).tolist()
    if images.independent >= FEWEST_CLUSTERS:
        values = np.array(resampled)
        return {name: Estimate(value, *interval(values[~np.isnan(values)]), state, note)}
    if state == State.OK:
        state, note = State.NO_INTERVAL, too_few_images(images.independent)
    return {name: Estimate(value, state=state, note=note)}


def _resampled(curve: Curve, outcomes: Outcomes) -> Floats:
    """Return the half-accuracy cutoff of the data, followed by that of each resample of the images."""
    counts, sizes = count_right(curve.hits, outcomes.images.cluster_ids, RESAMPLES, 0)
    return half_cuts(counts, curve.cuts, curve.floors * sizes)


def _why_at_floor(probe: str, curve: Curve, outcomes: Outcomes) -> str | None:
    """Return a note if accuracy under the filters that leave half or more is at its chance level, otherwise None."""
    cells = [cell for cell, ratio in zip(curve.cells[1:], curve.ratios, strict=True) if ratio >= 0.5]
    return outcomes.why_at_floor(cells, f"under each {probe} that leaves half") if cells else None


def _state(curve: Curve) -> tuple[State, str | None]:
    """Return the state of the cutoff, with a note if it is at an end of the tested range."""
    ratios, cuts = curve.ratios, curve.cuts
    if (ratios >= 0.5).all():
        side, note = cuts[0] <= cuts[-1], f"half or more is left even at {_in_words(cuts[0])}"
    elif ratios[-1] < 0.5:
        side, note = cuts[0] > cuts[-1], f"less than half is left even at {_in_words(cuts[-1])}"
    else:
        return State.OK, None
    return State.CENSORED_BELOW if side else State.CENSORED_ABOVE, note


def _in_words(cut: int) -> str:
    return f"{cut} cycle{'' if cut == 1 else 's'} per image"


def half_cut_differences(name: str, a: Outcomes, b: Outcomes) -> dict[str, Ends]:
    """Compute the paired interval of the difference of two cutoffs, if both have a value."""
    curves = [(_read_curve(PROBES[name], outcomes), outcomes) for outcomes in (a, b)]
    values = [_resampled(curve, outcomes)[1:] for curve, outcomes in curves if curve and len(curve.cuts) >= FEWEST_CUTS]
    if a.images.independent < FEWEST_CLUSTERS or len(values) < 2:
        return {}
    differences = values[1] - values[0]
    return {name: interval(differences[~np.isnan(differences)])} if not np.isnan(differences).all() else {}


def _measure(name: str, title: str, change: tuple[str, str], verdict: Mapping[State, str]) -> Measure[Outcomes]:
    probe = PROBES[name]
    lower, higher = ("smaller", "larger") if probe == "lowpass" else ("larger", "smaller")
    remedies = {
        state: f"add a {probe} that cuts {where}: a {cutoff} cutoff in the line {probe} of the study file"
        for state, where, cutoff in ((State.CENSORED_BELOW, "lower", lower), (State.CENSORED_ABOVE, "higher", higher))
    }
    agreement = change[0], change[1].replace("accuracy", "agreement")
    words = Words(verdict, change, remedies=remedies, floor=1, agreement=agreement)
    return Measure(
        name,
        Display(title, "cycles per image", quantity=name, words=words, cut_of=probe),
        applies=under(probe),
        needs=partial(_lacks, probe),
        estimates=partial(half_cut_estimates, name),
        differences=partial(half_cut_differences, name),
    )


MEASURES = (
    _measure(
        "lowpass_half_cut",
        "cut of low-passes that leaves half",
        ("needs", "of the high frequencies to keep half of its accuracy"),
        {
            State.OK: "keeps half of its {accuracy} on frequencies below {value} cycles per image",
            State.CENSORED_BELOW: "keeps half of its {accuracy} even on frequencies below {value} cycles per image",
            State.CENSORED_ABOVE: "keeps half of its {accuracy} only with frequencies beyond {value} cycles per image",
        },
    ),
    _measure(
        "highpass_half_cut",
        "cut of high-passes that leaves half",
        ("can lose", "of the low frequencies and keep half of its accuracy"),
        {
            State.OK: "keeps half of its {accuracy} on frequencies above {value} cycles per image",
            State.CENSORED_BELOW: "loses more than half of its {accuracy} without frequencies below {value} cycles per "
            "image",
            State.CENSORED_ABOVE: "keeps half of its {accuracy} even on frequencies beyond {value} cycles per image",
        },
    ),
)
