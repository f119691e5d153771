"""Joins checkpoints of one's own with published models: by their weights, as the study's, or by their names.

Nothing is guessed. weights.csv has the first digits of the sha256 of published weights, as their publishers write them
into the names of the files; a checkpoint whose weights begin so is that model, whatever it is called. What `bandlens
export NAME` made is the study's of that name. Any other is the one model that sources call by its very name, if it is
one: `resnet50` is two, and joins with neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from ...core.errors import UnknownName, quoted
from ...core.protocol import CATEGORIES
from ..database.store import Store
from .names import models

WEIGHTS = Path(__file__).with_name("weights.csv")
JOINED = dict.fromkeys(("checkpoint", "model", "by", "note"), pl.String)


@cache
def _weights() -> tuple[tuple[str, str], ...]:
    """Pairs of the first digits of a sha256, and the model."""
    return tuple(pl.read_csv(WEIGHTS, comment_prefix="#", infer_schema=False).select("sha256", "model").rows())


def join(checkpoints: pl.DataFrame, values: pl.DataFrame) -> pl.DataFrame:
    """The columns of JOINED, a row a checkpoint: model and `by` are null where it is no published one.

    Args:
        checkpoints: name, category and weights_sha256 of each.
        values: rows of VALUES, of the sources that are looked through.

    `by` is weights, study or name; note says why a name does not do.
    """
    # Each checkpoint looks through the names that are its own: the table is long.
    called: dict[str, list[dict[str, Any]]] = {}
    for row in models(values).select("source", "name", "model", "same").to_dicts():
        for name in {row["name"], row["model"]}:
            called.setdefault(name, []).append(row)
    rows = [_joined(checkpoint, called.get(checkpoint["name"], [])) for checkpoint in checkpoints.to_dicts()]
    return pl.DataFrame(rows, JOINED, orient="row")


def _joined(
    checkpoint: dict[str, Any], called: Sequence[dict[str, Any]]
) -> tuple[str, str | None, str | None, str | None]:
    """The row of a checkpoint, from the published models that some source calls by its name."""
    name, sha256 = checkpoint["name"], checkpoint["weights_sha256"]
    for digits, model in _weights():
        if sha256.startswith(digits):
            return name, model, "weights", None
    if checkpoint["category"] in CATEGORIES:
        study_models = [row["model"] for row in called if (row["source"], row["name"]) == ("study", name)]
        return (name, study_models[0], "study", None) if study_models else (name, None, None, None)
    candidates = sorted({row["model"] for row in called})
    if len(candidates) == 1 and any(row["same"] == "checkpoint" for row in called):
        return name, candidates[0], "name", None
    note = f"the name of {len(candidates)} models: {', '.join(candidates)}" if candidates[1:] else None
    return name, None, None, note


def joined(store: Store, study: str, values: pl.DataFrame) -> pl.DataFrame:
    """`join` of the checkpoints of a study (name, name@version, or `*`)."""
    checkpoints = store.frame(
        "SELECT DISTINCT named.name, named.category, weights_sha256 FROM version_of(?) "
        "JOIN study_checkpoint AS named ON named.study = study_id JOIN checkpoint ON checkpoint.id = named.checkpoint "
        "ORDER BY ALL",
        [study],
    )
    return join(checkpoints, values)


def published_name(store: Store, study: str, name: str, values: pl.DataFrame) -> str:
    """The published model that a checkpoint of a study is; the name itself where no checkpoint has it.

    Raises UnknownName where a checkpoint of that name is no published model.
    """
    rows = joined(store, study, values).filter(checkpoint=name)
    if rows.is_empty():
        return name
    names = rows["model"].drop_nulls().unique().to_list()
    if len(names) != 1:
        names = sorted({*models(values)["name"]})
        advice = rows["note"][0] or f"`bandlens published show --db {quoted(store.path)}` says what each checkpoint is"
        raise UnknownName("published model", name, names, advice)
    return str(names[0])
