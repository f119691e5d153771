"""`bandlens doctor`, `checkpoints` and `sensitivity`: models, and what this machine does with them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....core.errors import CheckpointError
from ....core.log import log
from ...api import models
from ..command_factory import command
from ..tables import Format, Rows, TableFormat, print_rows, print_table, print_tables

if TYPE_CHECKING:
    from ...api.spectrum import Spectrum


def print_checkpoints(rows: Rows, table_format: TableFormat = Format.table) -> None:
    """With --verify, exit 1 unless all are there and unchanged.

    Examples: bandlens checkpoints list category:contrastive, bandlens checkpoints list --verify
    """
    print_rows(rows, table_format)
    if bad := list(dict.fromkeys(row["name"] for row in rows if row.get("status", "ok") != "ok")):
        raise CheckpointError(f"{len(bad)} not verified: {', '.join(bad)}; `bandlens checkpoints fetch` fetches them")


def print_paths(paths: Iterable[Path]) -> None:
    """Examples: bandlens checkpoints fetch tv_resnet50, bandlens checkpoints fetch category:stylized"""
    for path in paths:
        print(path)


def print_spectrum(result: Spectrum, table_format: TableFormat = Format.table) -> None:
    """Print the tables of image sets or of a model, and a note on stderr."""
    print_tables(result.tables, table_format, titles=("image_set",))
    if result.note:
        log.info(result.note)


COMMANDS: dict[str, Any] = {
    "doctor": command(
        models.doctor,
        print_table,
        "Example, once before a long job or as a container starts: bandlens doctor --engine tensorrt",
    ),
    "checkpoints": {
        "list": command(models.list_checkpoints, print_checkpoints),
        "fetch": command(models.fetch_weights, print_paths),
    },
    "sensitivity": command(models.sensitivity, print_spectrum, "Example: bandlens sensitivity resnet50 sets/imagenet"),
}
