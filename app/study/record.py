"""Record a study in the database: its version, its cells, its class names and the predictions that it reuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...core.errors import plural, some_of
from ...core.log import log
from ...core.protocol import CLASSES, SPACE_CLASSES
from ...probes.images.decision_spaces import decision_space

if TYPE_CHECKING:
    from ...analysis.database.store import ClassNames, Store
    from .resolve import Work
    from .reuse import Reusable

TRAITS = {
    "cell.condition": "concat_ws(' ', probe, setting)",
    "cell.checkpoint": "study_checkpoint.name",
    "onnx_sha256": "study_checkpoint.name",
    "cell.image_set": "concat(study_image_set.name, ' (', count, ' images)')",
    "engine": "concat('engine ', engine)",
    "precision": "precision",
    "seed": "concat('seed ', seed)",
}
"""SQL expressions of the properties in which versions of a study can differ -> their text for messages, also in SQL."""


def record_study(work: Work, store: Store, reusable: Sequence[Reusable]) -> str:
    """Record a study, its cells and the predictions that it reuses. Return its label, name@version."""
    study = work.study
    labels = store.frame("SELECT label FROM study_version WHERE study = ? ORDER BY study_id", [study.name])["label"]
    label = store.begin_study(study.name, study.toml, work.cells, work.image_sets, class_names(work))
    if len(labels) and label not in labels:
        log.info(f"bandlens: {label} is a new version of {labels[-1]}: {_describe_changes(store, labels[-1], label)}")
    for places, pairs in reusable:
        store.reuse(places, pairs)
    return label


def record_cells(work: Work, store: Store, reusable: Sequence[Reusable]) -> None:
    """Record the cells of a study and the predictions that they reuse, without recording the study itself."""
    with store.transaction():
        store.add_cells(work.cells, work.image_sets, class_names(work))
    for places, pairs in reusable:
        store.reuse(places, pairs)


def class_names(work: Work) -> ClassNames:
    """Return the class names of each decision space.

    The space `all` is included if a model has as many classes as ImageNet.
    """
    names = [*SPACE_CLASSES, *(["all"] if any(model.classes == CLASSES for model in work.models) else [])]
    spaces = [decision_space(name) for name in names]
    return {space.name: dict(zip(space.ids, space.names, strict=True)) for space in spaces}


def _describe_changes(store: Store, earlier_label: str, label: str) -> str:
    """Describe in which conditions, models, images and engines a version of a study differs from an earlier one."""
    query = (
        "SELECT DISTINCT {} AS identity, {} AS text FROM study_version "
        "JOIN study_cell ON study_cell.study = study_id JOIN cell ON cell.id = study_cell.cell "
        "JOIN condition ON condition.id = cell.condition JOIN image_set ON image_set.id = cell.image_set "
        "JOIN study_checkpoint ON (study_checkpoint.study, study_checkpoint.checkpoint) = (study_id, cell.checkpoint) "
        "JOIN study_image_set ON (study_image_set.study, study_image_set.image_set) = (study_id, cell.image_set) "
        "WHERE label = ? ORDER BY text"
    )
    changes = []
    for trait in TRAITS.items():
        values_a, values_b = (dict(store.frame(query.format(*trait), [name]).rows()) for name in (earlier_label, label))
        format_values = _format_conditions if trait[0] == "cell.condition" else some_of
        new = format_values([text for identity, text in values_b.items() if identity not in values_a])
        gone = format_values([text for identity, text in values_a.items() if identity not in values_b])
        if new and gone:
            changes.append(f"{new}, made anew" if new == gone else f"{new} instead of {gone}")
        elif new or gone:
            changes.append(f"also {new}" if new else f"without {gone}")
    return "; ".join(dict.fromkeys(changes)) or "other combinations of these"


def _format_conditions(conditions: Sequence[str]) -> str:
    """Format a few simple conditions as a list. For many or complex conditions, format their number per probe."""
    if len(conditions) <= 3 and not any(", " in condition for condition in conditions):
        return some_of(conditions)
    counts = Counter(condition.partition(" ")[0] for condition in conditions)
    return some_of(f"{plural(count, 'condition')} of {probe}" for probe, count in counts.items())
