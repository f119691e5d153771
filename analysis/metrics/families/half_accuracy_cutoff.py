"""The cut at which a filter leaves half of the above-chance accuracy.

With ratio(k) = (top-1 under the filter at the cut k - chance) / (clean top-1 - chance), k in cycles per image,

    lowpass_half_cut    k up to which frequencies leave half of the accuracy: above it, each low-pass leaves more
    highpass_half_cut   k from which on frequencies leave half of it: below it, each high-pass leaves more

At images of n pixels a side, a low-pass of cutoff c keeps frequencies below int(c n / 2) cycles per image, and a
high-pass removes those below int((1 - c) n / 2); one that removes none is left out. Between two tested cuts the ratio
is taken as linear in log2 k. chance is the mean number of right classes of an image / classes. Below 1,000 classes it
is the floor of each accuracy, and where agreement is measured that of the clean answers (`statistics.floor`): answers
at a floor of their own never reach half. Where no tested cut leaves less than half, or none leaves more, the value is
the end of the tested cuts, `censored_below` or `censored_above`.

Intervals are percentiles over resamples (`statistics.resampling`), from 20 independent images on.
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
"""Measure -> the filter that it is a cut of."""
FEWEST_CUTS = 2
"""Cutoffs that a cut is sought between at least."""


def cut_of(probe: str, cutoff: float, size: int) -> int:
    """Cycles per image of a filter's cut, at images of `size` pixels a side; `cutoff` is its own, in [0, 1]."""
    # To the last bit as the filter rounds it down: 1 - 0.9 is below a tenth, and its cut at 240 pixels 11.
    return int((cutoff if probe == "lowpass" else 1 - cutoff) * (size // 2))


def _lacks(probe: str, available: Available) -> str | None:
    cutoffs = {round(condition.number("cutoff") or 0, 6) for condition in available.conditions_under(probe)}
    return None if len(cutoffs) >= FEWEST_CUTS else f"{probe} has one cutoff, and a cut takes {FEWEST_CUTS}"


def half_cuts(counts: Floats, cuts: Sequence[int], guessed: Floats | float) -> Floats:
    """Cut (m,) that leaves half of what is right of clean images, from right answers (1 + cuts, m): clean ones first.

    The rows are in the order in which a filter leaves more and more; `guessed` is how many blind guesses give, of
    that shape or one number. NaN where no more than those are right when clean.
    """
    above = counts - guessed
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(above[0] > 0, above[1:] / above[0], np.nan)
    octaves = np.log2(np.maximum(cuts, 0.5))
    below = ratios < 0.5
    last = len(cuts) - 1 - np.argmax(below[::-1], axis=0)  # the last cut that leaves less than half
    upper, column = np.minimum(last + 1, len(cuts) - 1), np.arange(ratios.shape[1])
    below_half, above_half = ratios[last, column], ratios[upper, column]
    gain = np.where(above_half > below_half, above_half - below_half, 1)
    step = np.where(upper > last, (0.5 - below_half) / gain, 0)
    crossing = np.exp2(octaves[last] + step * (octaves[upper] - octaves[last]))
    cut = np.where(below.any(axis=0), crossing, cuts[0])
    return np.where(np.isnan(ratios[0]), np.nan, cut)


class Curve(NamedTuple):
    """The answers that are right when clean, then as a filter leaves more and more."""

    cells: list[CellOutcomes]
    hits: Mask
    """(1 + cuts, n)."""
    floors: Floats
    """(1 + cuts, 1): chance in each."""
    cuts: list[int]

    @property
    def ratios(self) -> Floats:
        """(cuts,): the share of the above-chance accuracy that each filter leaves."""
        above = self.hits.mean(axis=1, keepdims=True) - self.floors
        return np.asarray(above[1:, 0] / above[0])


def _read_curve(probe: str, outcomes: Outcomes) -> Curve | None:
    """The curve of a filter; None without a clean prediction."""
    if outcomes.clean is None:
        return None
    size = outcomes.subject.size
    by_cutoff = {condition.number("cutoff") or 0: cell for condition, cell in outcomes.cells_under(probe).items()}
    if probe == "highpass":  # one that removes nothing leaves everything, and says nothing of where half is lost
        by_cutoff = {cutoff: cell for cutoff, cell in by_cutoff.items() if cut_of(probe, cutoff, size)}
    cells = [outcomes.clean, *(by_cutoff[cutoff] for cutoff in sorted(by_cutoff))]
    hits, floors = read_hits(cells), np.full((len(cells), 1), outcomes.floor)
    cuts = [cut_of(probe, cutoff, size) for cutoff in sorted(by_cutoff)]
    if outcomes.subject.labelled and outcomes.available.has_floor and (answers := outcomes.answers(cells)):
        floors = (answers.hits.mean(axis=1) - answers.above)[:, None]
    return None if hits is None else Curve(cells, hits, floors, cuts)


def half_cut_estimates(name: str, outcomes: Outcomes) -> dict[str, Estimate]:
    """The cut with its interval over images."""
    probe, images = PROBES[name], outcomes.images
    curve = _read_curve(probe, outcomes)
    if curve is None:
        return {name: nothing(State.MISSING, "no clean prediction to compare with")}
    if len(curve.cuts) < FEWEST_CUTS:  # one cut does not say on which side of it half lies
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
    """The cut, and that of each resample of the images."""
    counts, sizes = count_right(curve.hits, outcomes.images.cluster_ids, RESAMPLES, 0)
    return half_cuts(counts, curve.cuts, curve.floors * sizes)


def _why_at_floor(probe: str, curve: Curve, outcomes: Outcomes) -> str | None:
    """Why what a filter leaves is no recognition: where half or more is left, it is at its floor."""
    cells = [cell for cell, ratio in zip(curve.cells[1:], curve.ratios, strict=True) if ratio >= 0.5]
    return outcomes.why_at_floor(cells, f"under each {probe} that leaves half") if cells else None


def _state(curve: Curve) -> tuple[State, str | None]:
    """The state of a cut, and a note where it lies at an end of the tested cuts."""
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
    """The paired interval of the difference of two cuts, where both have a value."""
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
