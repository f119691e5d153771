"""Where along a probe a model errs most as people do.

A model sees the stimuli that people judged under a probe, blurred say. For each condition there is the mean kappa of
`statistics.consistency` with each observer on each of the set's own conditions, on the images that this observer saw.
The peak is the tested setting with the highest mean. Intervals are percentiles over 1,000 resamples of the images,
which all observers and conditions share; that of the peak is of the settings that are highest in them.

`people_lose` places a condition by people: their accuracy where it is best, less that at the same setting, between
neighbouring settings in proportion, for the probes of the experiments with people (view stimulus_probe).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from ...core.errors import UnknownName, UsageError
from ..database.store import Store
from ..statistics.arrays import Floats
from ..statistics.consistency import kappa_intervals, kappa_of
from ..statistics.images import count_right

MODELS = """
WITH ran AS (
    SELECT DISTINCT ON (checkpoint, detail.probe, detail.parameters)
           checkpoint, detail.probe, x, image_set_id, cell
    FROM study_detail AS detail
    JOIN condition ON (condition.probe, condition.parameters) = (detail.probe, detail.parameters)
    WHERE benchmark = $1 AND people_saw(benchmark) AND labelled AND (x IS NOT NULL OR detail.probe = 'clean')
    ORDER BY cell DESC
)
SELECT checkpoint, probe, x AS setting, stimulus_of(path).condition AS condition, stimulus_of(path).image AS image,
       label_rank = 0 AS correct
FROM ran JOIN prediction ON prediction.cell = ran.cell
JOIN image ON image.image_set = ran.image_set_id AND image.image_index = prediction.image_index
WHERE $1 <> 'cue-conflict' OR regexp_extract(stimulus_of(path).image, '^([a-z]+)', 1)
      <> regexp_extract(stimulus_of(path).image, '-([a-z]+)', 1)
ORDER BY checkpoint, probe <> 'clean', probe, setting
"""
PEOPLE = "SELECT subject, condition, image, correct FROM judgement WHERE images = ? AND human ORDER BY ALL"
LOSSES = """
SELECT setting, max(avg(top1)) OVER () - avg(top1) AS loss FROM human_probe
WHERE human AND probe = ? GROUP BY setting ORDER BY setting
"""


def consistency_under(store: Store, images: str, probe: str, resamples: int = 1000) -> dict[str, list[dict[str, Any]]]:
    """The mean kappa of each model to people under each condition of a probe, and the setting at which it is highest.

    Args:
        store: a database with trials of people, and with models that ran on their stimuli, perturbed.
        images: the stimulus set.
        probe: the probe; its conditions have one number each, such as the standard deviation of a blur.
        resamples: of the images.

    Returns the tables `conditions` (checkpoint, setting, people_lose, kappa, low, high; setting is None for the
    stimuli as they are) and `peaks` (checkpoint, setting, low, high, kappa). Raises UsageError where there are no
    trials of people, UnknownName for a probe that no model ran on the stimuli.
    """
    people = store.frame(PEOPLE, [images])
    if people.is_empty():
        raise UsageError(f"{store.path} has no people on {images}; get them with `bandlens published import humans`")
    answers = store.frame(MODELS, [images])
    probes = answers.filter(pl.col("probe") != "clean")["probe"].unique().sort().to_list()
    if probe not in probes:
        raise UnknownName(f"probe on {images}", probe, probes, "a study runs a probe on the stimuli of a benchmark")
    answers = answers.filter(pl.col("probe").is_in(["clean", probe]))
    losses = store.frame(LOSSES, [probe])
    conditions, peaks = [], []
    for (checkpoint,), model_answers in answers.group_by("checkpoint", maintain_order=True):
        settings, kappas = _mean_kappas(model_answers, people, resamples)
        low, high = kappa_intervals(kappas)
        for setting, *numbers in zip(settings, kappas[:, 0], low, high, strict=True):
            row = {"checkpoint": checkpoint, "setting": setting, "people_lose": _loss(losses, setting)}
            columns = [None if np.isnan(number) else float(number) for number in numbers]
            conditions.append(row | dict(zip(("kappa", "low", "high"), columns, strict=True)))
        perturbed = np.array([setting is not None for setting in settings])
        defined = np.where(np.isnan(kappas[perturbed]), -np.inf, kappas[perturbed])
        if np.isfinite(defined[:, 0]).any():
            values = np.array([setting for setting in settings if setting is not None])
            highest = values[defined[:, np.isfinite(defined).any(axis=0)].argmax(axis=0)]
            # Settings are discrete, and an end between two of them would be none of those that were tested.
            ends = np.quantile(highest[1:], [0.025, 0.975], method="closest_observation")
            kappa = defined[:, 0].max()
            peak = {"setting": highest[0], "low": ends[0], "high": ends[1], "kappa": kappa}
            peaks.append({"checkpoint": checkpoint} | peak)
    return {"conditions": conditions, "peaks": peaks}


def _mean_kappas(answers: pl.DataFrame, people: pl.DataFrame, resamples: int) -> tuple[list[float | None], Floats]:
    """The settings of one model, and its (settings, 1 + resamples) mean kappas to people, those of the data first."""
    keys = ["condition", "image"]
    wide = answers.pivot("setting", index=keys, values="correct", aggregate_function="first").drop_nulls()
    settings = answers["setting"].unique(maintain_order=True).to_list()
    judgements = people.join(wide, on=keys, maintain_order="left")
    photographs = judgements["image"].rank("dense").to_numpy().astype(np.intp) - 1
    right = judgements.select(wide.columns[2:]).to_numpy().T
    total, count = np.zeros((2, len(settings), 1 + resamples))
    for _, rows in judgements.with_row_index("row").group_by("subject", "condition", maintain_order=True):
        seen = np.zeros(len(judgements), bool)
        seen[rows["row"].to_numpy()] = True
        person = judgements["correct"].to_numpy() & seen
        rows_of_person = np.concatenate([seen[None], person[None], right & seen, right & person])
        counted, _ = count_right(rows_of_person, photographs, resamples, 0)
        n, q, (p, agreed) = counted[0], counted[1], np.split(counted[2:], 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            kappa = kappa_of((n - p - q + 2 * agreed) / n, p / n, q / n)
        total += np.nan_to_num(kappa)
        count += ~np.isnan(kappa)
    return settings, np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _loss(losses: pl.DataFrame, setting: float | None) -> float | None:
    """The loss of people at a setting, or None outside of those that they saw."""
    loss_at = dict(losses.rows())
    if setting is None or setting in loss_at:
        return loss_at.get(setting)
    # The settings of a high-pass go up to infinity, where it filters nothing, and nothing lies halfway there.
    finite = losses.filter(pl.col("setting").is_finite())
    settings = finite["setting"].to_numpy()
    inside = len(settings) > 0 and settings[0] <= setting <= settings[-1]
    return float(np.interp(setting, settings, finite["loss"].to_numpy())) if inside else None
