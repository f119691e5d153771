"""Sources that are imported and not shipped, as rows of `sources.VALUES`: everything of a source, or an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import polars as pl

from ...errors import UsageError
from .sources import Source, read_source

Read: TypeAlias = tuple[pl.DataFrame, pl.DataFrame | None]
"""Rows of VALUES, and human trials, the columns of the table human_trial, where the source has any."""
READERS: Mapping[str, Callable[[Source, Path], Read]] = {}


def read_import(source: Source, folder: Path) -> Read:
    """What is to be imported of a source.

    Raises UsageError where `folder` lacks one of its files, and StoreError where one is not as described.
    """
    if source.reader is None:
        return read_source(source, folder), None
    absent = [path for path in source.paths if not (folder / path).is_file()]
    if absent:
        raise UsageError(f"{folder} has no {absent[0]}; {source.name} is {', '.join(source.paths)} in one folder")
    return READERS[source.reader](source, folder)
