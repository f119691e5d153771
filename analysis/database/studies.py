"""Which version of a study a word asks for: a name, name@version, `*`, or nothing. SQL has it as `version_of`."""

from __future__ import annotations

import polars as pl

from ...errors import UnknownName, UsageError
from .store import Store


def study_versions(store: Store, wanted: str) -> pl.DataFrame:
    """study_id and label (name@version) of the versions that `wanted` asks for, the oldest study first.

    Args:
        wanted: a name stands for its newest version, a label for itself, `*` for the newest version of every study.

    Raises UnknownName where there is no such study. `*` has no rows in a database without studies.
    """
    known = store.frame("SELECT study, label FROM study_version ORDER BY study_id")
    if wanted != "*" and wanted not in known["label"] and wanted not in known["study"]:
        raise UnknownName("study", wanted, dict.fromkeys([*known["study"], *known["label"]]))
    return store.frame("SELECT study_id, label FROM version_of(?) ORDER BY study_id", [wanted])


def study_label(store: Store, wanted: str | None) -> str:
    """The label of the one version that `wanted` asks for; None and `*` ask for the only study there is.

    Raises UnknownName where there is no such study, UsageError where there is none at all, or several to choose from.
    """
    found = study_versions(store, "*" if wanted is None else wanted)["label"].to_list()
    if not found:
        raise UsageError(f"{store.path} holds no study; `bandlens run STUDY.toml --db {store.path}` adds one")
    if len(found) > 1:
        names = ", ".join(label.rpartition("@")[0] for label in found)
        raise UsageError(f"{store.path} holds the studies {names}; name one of them with --study")
    return str(found[0])


def last_run(store: Store) -> str | None:
    """The label of the version that ran last, or None in a database without studies."""
    found = store.frame(
        "SELECT label FROM study_version JOIN study ON study.id = study_id ORDER BY last_run DESC, id DESC LIMIT 1"
    )
    return None if found.is_empty() else str(found.item())
