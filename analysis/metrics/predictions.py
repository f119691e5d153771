"""Read predictions and labels from the database, for all metrics.

    ImageTruth   correct classes of the images of a set, by every label scheme; shared by all models
    Decisions    predictions of one cell, image by image
    CellOutcomes predictions and correct classes of one condition
    Outcomes     the same for all conditions of one model on one image set

Predictions of a cell are read only once, even if several metrics use them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...core.errors import StoreError, UsageError, quoted
from ...core.protocol import CUES, SHAPE_CUES
from ...core.records import MULTILABEL, PREDICTION_COLUMNS, SEVERAL, UNKNOWN_RANK, Condition
from ..database.store import Store
from ..database.study_versions import ORDER
from ..statistics import Floats, Index, Ints, Mask
from ..statistics.chance_agreement import MatchedAnswers
from ..statistics.consistency import error_consistencies
from ..statistics.proportions import AT_FLOOR
from ..statistics.resampling import RESAMPLES
from .base import Available

CELLS = f"""
SELECT checkpoint_id, image_set_id, cell, condition_id, probe, parameters::VARCHAR AS parameters, digest, clean_cell
FROM study_cell JOIN cell_detail USING (cell)
JOIN (SELECT id AS cell, condition AS condition_id FROM cell) USING (cell)
JOIN (SELECT id AS condition_id, digest FROM condition) USING (condition_id)
WHERE study = ?
ORDER BY {ORDER}
"""  # noqa: S608 - made of constants
"""Complete cells of a study, in the order of conditions."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One checkpoint on one image set in one version of a study."""

    study_id: int
    study: str
    checkpoint_id: int
    checkpoint: str
    image_set_id: int
    image_set: str
    classes: int
    """Number of classes in the decision space."""
    size: int
    """Pixels a side of the images."""
    labelled: bool
    decision_space: str = "all"
    right_classes: float = 1.0
    """Mean number of correct classes of an image."""

    @property
    def floor(self) -> float:
        """Accuracy of random guessing. 0 without labels, where agreement is measured."""
        return self.right_classes / self.classes if self.labelled else 0.0


SUBJECT_KEYS = ("study_id", "study", "checkpoint_id", "checkpoint", "image_set_id", "image_set")


def subjects(store: Store, study: str) -> list[Subject]:
    """List the checkpoints and image sets of a study that have complete cells.

    Args:
        store: Open database.
        study: Name, name@version, or `*` for the newest version of all studies.

    Raises:
        UsageError: If there is no such study or none of its cells is complete.
    """
    rows = store.frame(
        "SELECT DISTINCT study_id, version AS study, checkpoint_id, checkpoint, image_set_id, image_set, "
        "classes_decided(images.decision_space, classes) AS classes, images.decision_space, images.size, "
        "detail.labelled, images.right_classes "
        "FROM study_detail_of(?) AS detail JOIN checkpoint AS c ON c.id = checkpoint_id "
        "JOIN (SELECT id, size, decision_space, right_classes(id) AS right_classes FROM image_set) AS images "
        "ON images.id = image_set_id ORDER BY ALL",
        [study],
    )
    if not len(rows):
        raise UsageError(f"{store.path} has no complete cell to analyze; `bandlens run` the study first")
    return [Subject(**row) for row in rows.to_dicts()]


Slices = Mapping[tuple[str, str], Ints]
"""Name and value of an attribute -> indices of the images that have it, (k,) ascending. Sorted by name and value."""
MOST_VALUES = 100
"""Maximum number of values of an attribute. Attributes with more values, such as patient names, define no slices."""


@dataclass(frozen=True)
class ImageTruth:
    """Correct classes of the n images of a set, by label scheme."""

    digest: str
    clusters: Ints
    """Cluster of each image, (n,). Images of one cluster are not independent."""
    photographs: Ints
    """Cluster ids that are the same in every image set that shows the same photograph, (n,).

    ImageNet validation images, and corrupted versions of them, are identified by the number in their file names. Any
    other image or cluster has an id that is derived from the digest of its image set and is therefore unique across
    databases."""
    labelled: bool
    label: Ints
    """Class whose rank is stored with the predictions, (n,). -1 without labels."""
    several: Ints
    """Images and their correct classes, if some images have several, as image * 65536 + class, ascending."""
    accepted: Ints
    """Images and the classes that ReaL accepts, in the same encoding."""
    first_cue: Ints
    """Class of the first cue, such as shape, (n,). -1 for none."""
    second_cue: Ints
    schemes: frozenset[str]
    """Label schemes other than the main labels."""
    slices: Slices = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clusters)

    @cached_property
    def cluster_ids(self) -> Index:
        """Clusters numbered from 0, (n,)."""
        return np.unique(self.clusters, return_inverse=True)[1]

    @cached_property
    def independent(self) -> int:
        """Number of clusters."""
        return int(self.cluster_ids.max(initial=-1)) + 1

    @cached_property
    def listed_by_real(self) -> Ints:
        """Indices of the images with ReaL labels, (m,), ascending."""
        return np.unique(self.accepted >> 16)

    @cached_property
    def conflicting(self) -> Mask:
        """Whether the two cues of an image belong to different classes, (n,)."""
        return np.asarray((self.first_cue >= 0) & (self.second_cue >= 0) & (self.first_cue != self.second_cue))

    @cached_property
    def judged(self) -> Mask:
        """Images on which errors are compared, (n,): the cue-conflict images if there are any, otherwise all."""
        return self.conflicting if self.conflicting.any() else np.ones(len(self), bool)

    def has_same_labels(self, images: ImageTruth) -> bool:
        """Return whether the labels of other schemes are the same. They can be added after an image set was packed."""
        names = ("several", "accepted", "first_cue", "second_cue")
        return all(np.array_equal(getattr(self, name), getattr(images, name)) for name in names)


@dataclass(frozen=True, slots=True)
class Decisions:
    """Predictions of one cell for the n images of a set, (n,) each."""

    predicted: NDArray[np.uint16]
    rank: NDArray[np.uint16] | None
    """Rank of the label. 0 means that the label is predicted. None without labels."""
    stored_confidence: NDArray[np.float32]
    cell: int = -1
    """Its cell.id in the database that it was read from."""
    best_rank: NDArray[np.uint16] | None = None
    """Highest rank among several correct classes. UNKNOWN_RANK if an image has none. None if it is not stored."""
    label_probability: NDArray[np.float32] | None = None
    """Probability of the label. None without labels, or if it is unknown for some image."""

    @property
    def known_rank(self) -> NDArray[np.uint16] | None:
        """Rank of the label. None without labels, or if it is unknown for some image."""
        return None if self.rank is None or (self.rank == UNKNOWN_RANK).any() else self.rank

    @property
    def confidence(self) -> Floats | None:
        """Probability of the predicted class in [0, 1]. None if it is unknown for some image."""
        if np.isnan(self.stored_confidence).any():
            return None
        return np.minimum(self.stored_confidence.astype(np.float64), 1)  # rounding to float32 may exceed 1


@dataclass(frozen=True, eq=False)
class CleanPairs:
    """All conditions of one model on a labeled image set, paired with its clean images."""

    images: ImageTruth
    clean: Decisions
    conditions: Sequence[Decisions]

    def consistency(self, decisions: Decisions) -> dict[str, Any]:
        """Return the error consistency of one condition with the clean images. See `error_consistencies`."""
        # Compare by identity, because == would compare the arrays of the dataclasses.
        place = next(place for place, condition in enumerate(self.conditions) if condition is decisions)
        return {name: column[place].item() for name, column in self._consistencies.items()}

    @cached_property
    def _consistencies(self) -> dict[str, NDArray[Any]]:
        """Error consistencies of all conditions.

        They are computed in one call because all conditions use the same resamples of images. Reading the resamples
        takes longer than counting errors in them.
        """
        mask = self.images.judged
        clean_right, *condition_rights = (
            decisions.rank[mask] == 0 for decisions in (self.clean, *self.conditions) if decisions.rank is not None
        )
        clusters = self.images.clusters[mask] if self.images.independent < len(self.images) else None
        return error_consistencies(clean_right, np.stack(condition_rights), clusters, RESAMPLES)


@dataclass(frozen=True)
class CellOutcomes:
    """Predictions of one model under one condition, with the correct classes."""

    images: ImageTruth
    decisions: Decisions
    clean: Decisions | None
    """Predictions on the unperturbed images. None if these were not run."""
    class_names: Mapping[int, str]
    floor: float
    """Accuracy of random guessing. 0 without labels, where agreement is measured."""
    clean_pairs: CleanPairs | None = None
    """All conditions of the model, paired with the clean images. None without labels or clean images."""

    @property
    def is_clean(self) -> bool:
        return self.decisions is self.clean

    @cached_property
    def hits(self) -> Mask | None:
        """Whether each label, or without labels each clean prediction, is predicted, (n,). None if neither exists."""
        if self.decisions.rank is not None:
            return np.asarray(self.decisions.rank == 0)
        return None if self.clean is None else np.asarray(self.decisions.predicted == self.clean.predicted)

    def unperturbed(self) -> CellOutcomes | None:
        """Return the predictions on the clean images."""
        if self.clean is None:
            return None
        return CellOutcomes(self.images, self.clean, self.clean, self.class_names, self.floor)


class ConditionKey(NamedTuple):
    """Columns that identify the condition of an estimate."""

    condition_id: int
    probe: str
    parameters: str
    """Parameters as JSON."""

    @property
    def is_clean(self) -> bool:
        return self.probe == "clean"


@dataclass(frozen=True)
class Outcomes:
    """Predictions of one model on one image set under every condition of a study, in the order of conditions."""

    subject: Subject
    available: Available
    cells: Mapping[ConditionKey, CellOutcomes]
    """Cells in the order of `available.conditions`."""

    @cached_property
    def clean(self) -> CellOutcomes | None:
        return next((cell.unperturbed() for cell in self.cells.values()), None)

    @property
    def images(self) -> ImageTruth:
        return next(iter(self.cells.values())).images

    @cached_property
    def reference(self) -> Ints | None:
        """Class that the prediction for each image is compared with, (n,): the label, or else the clean prediction.

        None if all labels are of one class or images have several correct classes. See `statistics.chance_agreement`.
        """
        images = self.images
        if not images.labelled:
            return None if self.clean is None else self.clean.decisions.predicted.astype(np.int64)
        return None if len(images.several) or (images.label == images.label[0]).all() else images.label

    def answers(self, cells: Iterable[CellOutcomes]) -> MatchedAnswers | None:
        """Return predictions under several conditions for comparison with chance, or None if none can be correct."""
        cells = list(cells)
        if (hits := read_hits(cells)) is None:
            return None
        classes = np.stack([cell.decisions.predicted for cell in cells]).astype(np.int64)
        return MatchedAnswers(hits, classes, self.reference, self.subject.floor, self.images.cluster_ids)

    def why_at_floor(self, cells: Iterable[CellOutcomes], where: str) -> str | None:
        """Return a note if accuracy under some conditions is not above chance, otherwise None.

        `where` describes the conditions in the note.
        """
        answers = self.answers(cells)
        if answers is None or answers.p <= AT_FLOOR:
            return None
        return self._at(max(float(answers.expected.mean()), self.subject.floor), where)

    def _at(self, floor: float, where: str) -> str:
        right, guess = ("accuracy", "a blind guess") if self.subject.labelled else ("agreement", "unrelated answers")
        reason = ": all images have the same answer" if floor == 1 else ""
        return f"{right} {where} is not told from that of {guess}, {floor:.3g}{reason}"

    @cached_property
    def guessed(self) -> str | None:
        """Note if the clean accuracy is not above the chance level, otherwise None."""
        if self.clean is None or self.clean.hits is None:
            return None
        where = "without perturbation"
        if why := self.why_at_floor([self.clean], where):
            return why
        return None if self.clean.hits.mean() > self.subject.floor else self._at(self.subject.floor, where)

    @cached_property
    def floor(self) -> float:
        """Chance level: accuracy of random guessing or, without labels, agreement of unrelated predictions.

        Unrelated predictions are assumed to have the class frequencies of the clean predictions. 0 if there are
        neither labels nor clean predictions.
        """
        if self.subject.labelled or self.clean is None:
            return self.subject.floor
        return _agreement_by_chance(self.images, self.clean.decisions)

    def cells_under(self, probe: str) -> dict[Condition, CellOutcomes]:
        """Return the cells of a probe by condition."""
        cells = zip(self.available.conditions, self.cells.values(), strict=True)
        return {condition: cell for condition, cell in cells if condition.probe == probe}


def _agreement_by_chance(images: ImageTruth, clean: Decisions) -> float:
    """Return the agreement of unrelated predictions that have the class frequencies of the clean ones."""
    classes = clean.predicted[None].astype(np.int64)
    answers = MatchedAnswers(np.ones(classes.shape, bool), classes, classes[0], 0.0, images.cluster_ids)
    return 1 - float(answers.above[0])


def with_floors(store: Store, label: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Fill in the column chance for unlabeled image sets. `rows` also needs the columns checkpoint and image_set."""
    if not rows["chance"].has_nulls():
        return rows
    reader = PredictionReader(store)
    unlabelled = [subject for subject in subjects(store, label) if not subject.labelled]
    floors = [
        (subject.checkpoint, subject.image_set, _agreement_by_chance(reader.images(subject.image_set_id), clean))
        for subject in unlabelled
        if (clean := reader.clean_decisions(subject))
    ]
    schema = {"checkpoint": pl.String, "image_set": pl.String, "agreement": pl.Float64}
    rows = rows.join(
        pl.DataFrame(floors, schema, orient="row"), on=("checkpoint", "image_set"), how="left", maintain_order="left"
    )
    return rows.with_columns(chance=pl.coalesce("chance", "agreement")).drop("agreement")


def read_hits(cells: Iterable[CellOutcomes | None]) -> Mask | None:
    """Return which images are correct in each cell, (cells, n), or None if this is unknown for any cell."""
    cell_hits = [None if cell is None else cell.hits for cell in cells]
    known_hits = [hits for hits in cell_hits if hits is not None]
    return np.array(known_hits) if len(known_hits) == len(cell_hits) else None


@dataclass
class PredictionReader:
    """Reads predictions and labels of one database and caches them. `forget` clears the cached predictions."""

    store: Store
    _images: dict[int, ImageTruth] = field(default_factory=dict)
    _decisions: dict[int, Decisions] = field(default_factory=dict)
    _cells: dict[int, dict[tuple[Any, ...], pl.DataFrame]] = field(default_factory=dict)
    """study.id -> (checkpoint.id, image_set.id) -> rows of CELLS. One query for all is as fast as a query for one."""
    _names: dict[tuple[int, int], dict[int, str]] = field(default_factory=dict)
    """(image_set.id, number of classes) -> class -> name."""

    def forget(self) -> None:
        self._decisions.clear()

    def images(self, image_set: int) -> ImageTruth:
        """Read the correct classes of the images of a set (image_set.id)."""
        if image_set not in self._images:
            self._images[image_set] = _read_images(self.store, image_set)
        return self._images[image_set]

    def decisions(self, cells: Iterable[int]) -> list[Decisions]:
        """Read the predictions of complete cells (cell.id) of one image set, in the order of `cells`."""
        cells = list(cells)
        if unread := sorted({cell for cell in cells if cell not in self._decisions}):
            self._decisions |= dict(zip(unread, read_decisions(self.store, unread), strict=True))
        return [self._decisions[cell] for cell in cells]

    def outcomes(self, subject: Subject) -> Outcomes:
        """Read the predictions of a subject under every condition."""
        images = self.images(subject.image_set_id)
        rows = self._cells_of(subject)
        decisions, clean = self.decisions(rows["cell"]), self.clean_decisions(subject)
        names = self._class_names(subject)
        pairs = CleanPairs(images, clean, decisions) if clean and images.labelled else None
        cells = {
            ConditionKey(*key): CellOutcomes(images, cell_decisions, clean, names, subject.floor, pairs)
            for key, cell_decisions in zip(rows.select(ConditionKey._fields).rows(), decisions, strict=True)
        }
        conditions = [
            Condition(probe, tuple(json.loads(parameters).items()), digest)
            for probe, parameters, digest in rows.select("probe", "parameters", "digest").rows()
        ]
        available = Available(
            conditions,
            images.schemes,
            images.labelled,
            subject.classes,
            sliced=bool(images.slices),
            multilabel=subject.decision_space == MULTILABEL,
        )
        return Outcomes(subject, available, cells)

    def clean_decisions(self, subject: Subject) -> Decisions | None:
        """Read the predictions of a subject on unperturbed images."""
        clean_cell = next(iter(self._cells_of(subject)["clean_cell"].drop_nulls()), None)
        return None if clean_cell is None else self.decisions([clean_cell])[0]

    def _cells_of(self, subject: Subject) -> pl.DataFrame:
        if subject.study_id not in self._cells:
            rows = self.store.frame(CELLS, [subject.study_id])
            self._cells[subject.study_id] = rows.partition_by("checkpoint_id", "image_set_id", as_dict=True)
        return self._cells[subject.study_id][subject.checkpoint_id, subject.image_set_id]

    def _class_names(self, subject: Subject) -> dict[int, str]:
        key = subject.image_set_id, self._classes[subject.checkpoint_id]
        if key not in self._names:
            query = "SELECT class, name FROM shown_class WHERE image_set = ? AND classes = ?"
            self._names[key] = dict(self.store.frame(query, list(key)).rows())
        return self._names[key]

    @cached_property
    def _classes(self) -> dict[int, int]:
        """checkpoint.id -> number of classes."""
        return dict(self.store.frame("SELECT id, classes FROM checkpoint").rows())


def _read_images(store: Store, image_set: int) -> ImageTruth:
    digest, labelled, own_scheme, count = store.frame(
        "SELECT digest, labelled, scheme, count FROM image_set WHERE id = ?", [image_set]
    ).row(0)
    clusters = store.frame(
        "SELECT cluster, CASE WHEN clusters = count THEN try_cast(regexp_extract(path, 'ILSVRC2012_val_(\\d{8})', 1) "
        "AS BIGINT) END AS number, ((1 + (hash(digest) >> 34))::BIGINT << 32) + cluster AS own "
        "FROM image JOIN image_set AS s ON s.id = image_set WHERE image_set = ? ORDER BY image_index",
        [image_set],
    )
    labels = store.frame(
        "SELECT scheme, image_index::BIGINT AS image_index, class::BIGINT AS class FROM label WHERE image_set = ?",
        [image_set],
    )
    if len(clusters) != count or labels["image_index"].to_numpy().max(initial=0) >= count:
        raise _misfit(store, "an image set has more or fewer images than it states, or labels of others")
    schemes = frozenset(labels["scheme"].unique().to_list())
    cues = next((cues for cues in CUES if cues.second in schemes), SHAPE_CUES)

    def classes(scheme: str) -> Ints:
        column = np.full(len(clusters), -1, np.int64)
        index, image_classes = labels.filter(pl.col("scheme") == scheme).select("image_index", "class").to_numpy().T
        column[index] = image_classes
        return column

    def pairs(scheme: str) -> Ints:
        rows = labels.filter(pl.col("scheme") == scheme).select("image_index", "class").to_numpy()
        return np.sort(rows @ np.array([1 << 16, 1]))

    return ImageTruth(
        digest=digest,
        clusters=clusters["cluster"].to_numpy().astype(np.int64),
        photographs=clusters["number"].fill_null(clusters["own"]).to_numpy(),
        labelled=labelled,
        label=classes(own_scheme or ""),
        several=pairs(SEVERAL),
        accepted=pairs("real"),
        first_cue=classes(cues.first),
        second_cue=classes(cues.second),
        schemes=schemes,
        slices=read_slices(store, image_set),
    )


def read_slices(store: Store, image_set: int) -> Slices:
    """Read which images of a set (image_set.id) have each attribute value. Skip attributes with too many values."""
    rows = store.frame(
        "SELECT name, value, list(image_index::BIGINT ORDER BY image_index) AS images FROM image_attribute "
        "WHERE image_set = ? GROUP BY name, value QUALIFY count(*) OVER (PARTITION BY name) <= ? ORDER BY name, value",
        [image_set, MOST_VALUES],
    )
    return {(name, value): np.array(images, np.int64) for name, value, images in rows.rows()}


def _misfit(store: Store, fault: str) -> StoreError:
    return StoreError(f"{store.path}: {fault}; `bandlens verify --db {quoted(store.path)}` says which")


def read_decisions(store: Store, cells: Sequence[int]) -> list[Decisions]:
    """Read the predictions of complete cells of one image set. `cells` must be in ascending order.

    Raises StoreError if the cells do not have exactly one prediction for each of the same images.
    """
    rows = store.frame(
        f"SELECT cell, image_index, {', '.join(PREDICTION_COLUMNS)} FROM prediction "  # noqa: S608 - made of constants
        "WHERE cell IN (SELECT unnest(?::INTEGER[]))",
        [list(cells)],
    )
    place = np.searchsorted(np.array(cells), rows["cell"].to_numpy()), rows["image_index"].to_numpy()
    # The query returns rows in any order. Writing each to its place is faster than sorting them.
    shape = (len(cells), len(rows) // len(cells))
    # If there are as many rows as places and every place is filled, no prediction is missing or duplicated.
    filled = np.zeros(shape, bool)
    if len(rows) == filled.size and place[1].max(initial=0) < shape[1]:
        filled[place] = True
    if not filled.all():
        raise _misfit(store, "predictions of complete cells are missing, or are there twice")
    predicted, confidence = np.empty(shape, np.uint16), np.empty(shape, np.float32)
    predicted[place] = rows["predicted"].to_numpy()
    confidence[place] = rows["confidence"].fill_null(np.nan).to_numpy()

    def known_columns(name: str) -> Sequence[Any]:
        if rows[name].has_nulls():
            return [None] * len(cells)
        values = rows[name].to_numpy()
        table = np.empty(shape, values.dtype)
        table[place] = values
        return list(table)

    ranks, best_ranks, probabilities = map(known_columns, ("label_rank", "best_rank", "label_probability"))
    columns_of_cells = zip(predicted, ranks, confidence, cells, best_ranks, probabilities, strict=True)
    return [Decisions(*columns) for columns in columns_of_cells]
