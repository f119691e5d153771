"""Error consistency of models with themselves, with other models and with human observers.

    clean_error_consistency   Cohen's kappa between the errors of a model under a condition and on the clean images
    model_error_consistency   mean kappa between the errors of a model and of each other model in the study, under the
                              same condition

Under an adversarial attack, each model sees different images. For cue-conflict images, a prediction counts as correct
if it is the class of the first cue. `statistics.consistency` contains formulas, sources and intervals.
clean_error_consistency has no difference from the clean images.

Models are also compared with human observers. Every two observers or models that judged the same images (view
`judgement`) are compared, separately for each condition of a stimulus set. Pooling conditions would increase the
consistency, because any two observers agree on which conditions are hard. The confidence interval of the mean kappa
with humans is computed over images or clusters.

A convention determines which conditions of a stimulus set are included. `model-vs-human`, which brain-score follows,
excludes control conditions and conditions with a human accuracy below 0.2, and includes all 1,280 cue-conflict images.
`all` includes every condition, and only the 1,200 cue-conflict images whose two cues belong to different classes. Means
are taken over conditions and pairs. Sources: Geirhos et al. 2021; Schrimpf et al. 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ....core.errors import UnknownName
from ....core.jobs import Progress, in_parallel, silent
from ....core.protocol import MODEL_VS_HUMAN, STIMULI
from ...database.store import Store
from ...statistics import Ints, Mask
from ...statistics.consistency import consistency_with_others, error_consistencies
from ...statistics.proportions import Share, mean_interval, mean_of, share_of
from ...statistics.resampling import FEWEST_CLUSTERS, RESAMPLES
from ..base import Display, Estimate, Measure, State, estimate_of, has_labels, nothing, too_few_images
from ..predictions import CellOutcomes

CLEAN_NAME, MODEL_NAME = "clean_error_consistency", "model_error_consistency"


def _clean_estimates(cell: CellOutcomes) -> dict[str, Estimate]:
    if cell.clean_pairs is None or cell.is_clean:
        return {}
    numbers = cell.clean_pairs.consistency(cell.decisions)
    kappa, low, high, n = (numbers[name] for name in ("kappa", "low", "high", "n"))
    if np.isnan(kappa):
        estimate = nothing(State.UNDETERMINED, "all is right, or all wrong, under one of the two", n)
    elif np.isnan(low):
        count, note = cell.images.independent, "too few images are right, or wrong, for an interval"
        note = too_few_images(count) if count < FEWEST_CLUSTERS else note
        estimate = Estimate(kappa, state=State.NO_INTERVAL, note=note, n=n)
    else:
        estimate = Estimate(kappa, low, high, n=n)
    return {CLEAN_NAME: estimate}


def model_estimates(kappas: tuple[Share, Share | None]) -> dict[str, Estimate]:
    """Estimate the mean kappa of a model with the other models under one condition, or NaN if it is undefined.

    Args:
        kappas: The mean kappa under the condition, and the mean kappa with the same models on the clean images. The
            second is None for the clean images themselves and if the models differ.
    """
    mean, clean = kappas
    if np.isnan(mean.value):
        note = "all is right, or all wrong, for a model"
        return {MODEL_NAME: nothing(State.UNDETERMINED, note, mean.images)}
    reference = None if clean is None or np.isnan(clean.value) else clean
    return {MODEL_NAME: estimate_of(mean, reference, mean_interval)}


MEASURES = (
    Measure(
        CLEAN_NAME,
        Display("error consistency with clean", "kappa", folded=False),
        applies=has_labels,
        estimates=_clean_estimates,
    ),
)
MODEL_MEASURES: Sequence[Measure[tuple[Share, Share | None]]] = (
    Measure(
        MODEL_NAME,
        Display("error consistency with other models", "kappa", folded=False),
        applies=lambda available: available.labelled and available.checkpoints > 1,
        estimates=model_estimates,
    ),
)


# Pairs of observers and models that judged the same images

PAIR_KEYS = ("images", "condition", "convention", "first_subject", "second_subject", "humans")
SCHEMA = {
    **dict.fromkeys(PAIR_KEYS[:5], pl.String),
    "humans": pl.Int32,
    "n": pl.Int64,
    **dict.fromkeys(("first_accuracy", "second_accuracy", "observed", "kappa", "low", "high"), pl.Float64),
    **dict.fromkeys(("least", "most", "p_copy", "needed"), pl.Float64),
}
UNSEEN = -1
PAIRS_AT_ONCE = 256
"""Number of pairs that are compared at once: large enough to amortize array overhead, small enough for CPU caches."""


def judged_images(store: Store, study: str = "*") -> list[str]:
    """Return the names, in the view `judgement`, of labeled images that a study ran without perturbation.

    Corrupted images are excluded. For a version of a study that is not the newest, only the images that the newest
    version also contains are returned.
    """
    names = store.frame(
        "SELECT DISTINCT images FROM judged_cell('*') "
        "SEMI JOIN (FROM study_detail_of(?) WHERE corruption IS NULL) AS mine USING (study, image_set_id) ORDER BY 1",
        [study],
    )
    return names["images"].to_list()


def consistencies(
    store: Store, images: str, convention: str = MODEL_VS_HUMAN, progress: Progress = silent
) -> pl.DataFrame:
    """Compute the error consistency of every two observers or models that judged the same images.

    Args:
        store: Open database.
        images: Name of a stimulus set with human judgements, or of an image set.
        convention: Convention that determines which conditions of a stimulus set are included.
        progress: Progress display.

    Returns:
        One row per pair and condition with the columns of SCHEMA, with humans before models. NaN is stored as null.

    Raises:
        UnknownName: If there are no judgements of `images`.
    """
    conditions = _read_answers(store, images, convention)
    named_convention = convention if images in STIMULI else None

    def compare(pairs_of: tuple[_Answers, int]) -> pl.DataFrame:
        answers, first = pairs_of
        rows, numbers = answers.compare(first)
        if not rows:
            return pl.DataFrame(schema=SCHEMA)
        humans = [answers.humans[first] + answers.humans[row] for row in rows]
        seconds = [answers.subjects[row] for row in rows]
        # Polars takes six times as long to build the frame if it repeats the scalars itself.
        values = (images, answers.condition, named_convention, answers.subjects[first])
        repeated = ([value] * len(rows) for value in values)
        return pl.DataFrame(dict(zip(PAIR_KEYS, (*repeated, seconds, humans), strict=True)) | numbers, SCHEMA)

    pairs = [(answers, first) for answers in conditions for first in range(len(answers.subjects))]
    frames = [pl.DataFrame(schema=SCHEMA)]
    # NumPy releases the GIL for matrix products and sorting, and the thread pool continues with the next subject before
    # the last pairs of one are done. The pool already uses all processors. Additional BLAS threads would wait for one
    # another and take five times the processor time.
    with progress("comparing errors", len(pairs), "subjects") as advance, threadpool_limits(1, "blas"):
        for frame in in_parallel(compare, pairs):
            frames.append(frame)
            advance(1)
    return pl.concat(frames).with_columns(pl.col(pl.Float64).fill_nan(None))


def _read_answers(store: Store, images: str, convention: str) -> list[_Answers]:
    """Read the judgements under each included condition. Raises UnknownName if there are none."""
    judgements = store.frame(
        "SELECT condition, image, cluster, subject, human, correct, convention FROM judgement WHERE images = ? "
        "ORDER BY condition, NOT human, subject, image",
        [images],
    )
    if judgements.is_empty():
        names = store.frame(
            "SELECT DISTINCT images FROM judgement UNION SELECT stimulus_set FROM human_trial ORDER BY 1"
        )
        hint = (
            f"{store.path} gets people by `bandlens published import humans`, and models by a run over labelled images "
            "without perturbation"
        )
        raise UnknownName("image set", images, names.to_series().to_list(), hint)
    judgements = judgements.filter(pl.col("convention").fill_null(convention) == convention)
    # Models may have seen the images in several image sets, whose clusters have different numbers. The maximum below
    # takes the clusters of the model that judged most images, because its place is the highest.
    models = judgements.filter(~pl.col("human"))["subject"].value_counts().sort("count", "subject")["subject"]
    places = {subject: place for place, subject in enumerate(models)}
    place = pl.col("subject").replace_strict(places, default=0, return_dtype=pl.Int64)
    judgements = judgements.with_columns(cluster=(place * 2**32) + pl.col("cluster").cast(pl.Int64))
    cluster = pl.col("cluster").max().over("image")
    # An image that no model saw under any condition has no cluster. It becomes a cluster of its own.
    judgements = judgements.with_columns(photograph=pl.coalesce(cluster, -pl.col("image").rank("dense").cast(pl.Int64)))
    by_condition = judgements.group_by("condition", maintain_order=True)
    return [_arrange(str(condition), answers) for (condition,), answers in by_condition]


@dataclass(frozen=True, slots=True)
class _Answers:
    """Correctness of the judgements of all observers and models under one condition, humans first."""

    condition: str
    subjects: Sequence[str]
    humans: Sequence[bool]
    outcomes: NDArray[np.int8]
    """1 if correct, 0 if wrong, or UNSEEN, (subjects, images)."""
    clusters: Ints | None
    """Clusters of the images, (images,). None if all images of the condition are independent."""
    photographs: Ints
    """Clusters numbered identically across conditions, (images,)."""

    def judged_by_both(self, first: int) -> Mask:
        """Return which images both the subject `first` and each other subject judged, (subjects, images)."""
        return np.asarray((self.outcomes != UNSEEN) & (self.outcomes[first] != UNSEEN))

    def compare(self, first: int) -> tuple[list[int], dict[str, NDArray[Any]]]:
        """Compare the subject `first` with all later subjects that judged some of the same images.

        Returns:
            The m later subjects, and arrays (m,) of the results of `error_consistencies` by name.
        """
        images_of_both = self.judged_by_both(first)
        # Neighboring subjects that judged the same images are compared in one call, because arrays need equal lengths.
        keys = [(row.tobytes(), place // PAIRS_AT_ONCE) for place, row in enumerate(images_of_both)]
        rows, blocks = list[int](), list[dict[str, NDArray[Any]]]()
        for _, places in groupby(range(first + 1, len(images_of_both)), keys.__getitem__):
            seconds = list(places)
            if (images := images_of_both[seconds[0]]).any():
                first_right, seconds_right = (self.outcomes[row][..., images] == 1 for row in (first, seconds))
                clusters = None if self.clusters is None else self.clusters[images]
                blocks.append(error_consistencies(first_right, seconds_right, clusters, RESAMPLES))
                rows += seconds
        return rows, {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]} if blocks else {}


def _arrange(condition: str, judgements: pl.DataFrame) -> _Answers:
    """Arrange the judgements under one condition into an array by subject and image."""
    subjects = judgements.select("subject", "human").unique(maintain_order=True).with_row_index("row")
    images = (
        judgements.group_by("image", maintain_order=True)
        .agg(pl.col("cluster").max(), pl.col("photograph").first())
        .with_row_index("column")
    )
    positions = judgements.join(subjects, on=["subject", "human"], maintain_order="left")
    positions = positions.join(images.select("image", "column"), on="image", maintain_order="left")
    outcomes = np.full((len(subjects), len(images)), UNSEEN, np.int8)
    outcomes[positions["row"].to_numpy(), positions["column"].to_numpy()] = positions["correct"].to_numpy()
    # An image that no model saw has no cluster. It becomes a cluster of its own.
    clusters = images.select(pl.coalesce("cluster", -1 - pl.col("column").cast(pl.Int64))).to_series().to_numpy()
    return _Answers(
        condition,
        subjects["subject"].to_list(),
        subjects["human"].to_list(),
        outcomes,
        None if len(np.unique(clusters)) == len(clusters) else clusters,
        images["photograph"].to_numpy(),
    )


def write_consistencies(store: Store, images: list[str], progress: Progress = silent) -> None:
    """Compute the error consistency on each of `images` and store it in the table error_consistency."""
    for name in images:
        frame = consistencies(store, name, progress=progress)
        store.replace("error_consistency", frame, "images = ?", [name])


MEAN_COLUMNS = ("kappa to humans", "low", "high", "lowest", "highest")


def mean_consistencies(
    store: Store, images: str, convention: str = MODEL_VS_HUMAN, progress: Progress = silent
) -> list[dict[str, Any]]:
    """Compute the mean kappa between humans, and of each model with humans, over pairs and included conditions.

    Args:
        store: Open database.
        images: Name of a stimulus set or image set.
        convention: Convention that determines which conditions are included.
        progress: Progress display.

    Returns:
        Rows with subject, convention, pairs, kappa to humans, its 95% confidence interval over images (low, high), and
        the lowest and highest kappa of a pair under one condition. Undefined numbers are None. The list is empty if no
        human judged the images.

    Raises:
        UnknownName: If there are no judgements of `images`.
    """
    kinds = store.frame("SELECT DISTINCT human FROM judgement WHERE images = ?", [images])["human"].to_list()
    if kinds == [False]:
        return []  # avoids reading the judgements of possibly a thousand models, which takes seconds
    conditions = _read_answers(store, images, convention)
    shares: dict[str, list[Share]] = {"humans": []}
    pairs: dict[str, set[tuple[str, str]]] = {"humans": set()}
    humans = [(answers, first) for answers in conditions for first in range(sum(answers.humans))]
    with progress("comparing errors with humans", len(humans), "humans") as advance:
        for answers, first in humans:
            masks = answers.judged_by_both(first)
            for second in range(first + 1, len(masks)):
                if not (images_of_both := masks[second]).any():
                    continue
                subject = "humans" if answers.humans[second] else answers.subjects[second]
                pairs.setdefault(subject, set()).add((answers.subjects[first], answers.subjects[second]))
                # If kappa is defined, it is the mean of these contributions over images.
                hits = answers.outcomes[[first, second]][:, images_of_both] == 1
                contributions = consistency_with_others(hits)[0]
                if not np.isnan(contributions).any():
                    shares.setdefault(subject, []).append(share_of(contributions, answers.photographs[images_of_both]))
            advance(1)
    return [
        {"subject": subject, "convention": convention, "pairs": len(pairs_of_subject)}
        | _mean_kappa(shares.get(subject, []))
        for subject, pairs_of_subject in pairs.items()
        if any(pairs.values())
    ]


def _mean_kappa(shares: list[Share]) -> dict[str, float | None]:
    """Return the numeric columns of `mean_consistencies` from the kappas of the pairs for which it is defined."""
    if not shares:
        return dict.fromkeys(MEAN_COLUMNS)
    mean, kappas = mean_of(shares), [share.value for share in shares]
    # A single photograph gives no interval.
    low, high = mean_interval(mean) if len(mean.clusters) > 1 else (None, None)
    return dict(zip(MEAN_COLUMNS, (mean.value, low, high, min(kappas), max(kappas)), strict=True))
