"""What metrics are computed for, and what they are computed from."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UnknownName, UsageError
from .store import Store


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
    labelled: bool
    cue_conflict: bool
    """Whether images have a label of texture beside that of their shape."""
    families: frozenset[str]
    """Probes of its complete cells."""


def subjects(store: Store, study: str) -> list[Subject]:
    """What the metrics of a study (name, name@version, or `*`) are computed for.

    UnknownName where there is no such study, UsageError where none of its cells is complete.
    """
    found = store.frame(
        "SELECT study_id, version.label AS study, checkpoint_id, checkpoint, image_set_id, image_set, classes, "
        "labelled, image_set_id IN (SELECT image_set FROM label WHERE scheme = 'texture') AS cue_conflict, "
        "list_sort(list(DISTINCT family)) AS families "
        "FROM study_version AS version JOIN study_cell ON study_cell.study = study_id "
        "JOIN cell_detail AS detail USING (cell) JOIN checkpoint AS c ON c.id = checkpoint_id "
        "WHERE version.label = $1 OR (newest AND ($1 = '*' OR version.study = $1)) GROUP BY ALL ORDER BY ALL",
        [study],
    )
    if not len(found):
        known = store.frame("SELECT label FROM study_version ORDER BY study_id")["label"].to_list()
        if study != "*" and study not in known and f"{study}@1" not in known:
            raise UnknownName("study", study, known)
        raise UsageError(f"{store.path} has no complete cell to analyze; `bandlens run` the study first")
    return [Subject(**row | {"families": frozenset(row["families"])}) for row in found.to_dicts()]
