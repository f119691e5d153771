"""What a metric's number is worth, as a value: charts, reports and queries read it, and the note is for people."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The column `state` of the table metric_value and of the view `metric`."""

    OK = "ok"
    """The value is sound. It has an interval, if its metric has one at all."""
    DOUBTFUL = "doubtful"
    """The value stands, and its note says what to mind: a peak or an end of an interval lies at a bound of its fit, an
    interval spans all that was tested, a benchmark is not whole."""
    NO_INTERVAL = "no_interval"
    """The value stands without an interval: too few independent images, or resamples that show no spread."""
    CENSORED_BELOW = "censored_below"
    """A threshold that lies below the tested noise; its value is the weakest noise."""
    CENSORED_ABOVE = "censored_above"
    """A threshold that lies above the tested noise; its value is the strongest noise."""
    DEGENERATE = "degenerate"
    """A number of a fit that means nothing; where the fit gave one, it is kept as it was found."""
    UNDETERMINED = "undetermined"
    """No value: what was measured does not determine it."""
    AT_CHANCE = "at_chance"
    """No value: without noise, accuracy is not far enough above that of a blind guess."""
    MISSING = "missing"
    """No value: a condition, a prediction or a benchmark that it needs is not there."""


MEANINGLESS = (State.DEGENERATE, State.UNDETERMINED, State.AT_CHANCE, State.MISSING)
"""States of rows that have no number, or none that means anything."""
