"""`bandlens migrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def migrate(
    db: Annotated[Path, typer.Argument(metavar="DB", help="The results database.", show_default=False)],
) -> None:
    """Bring a results database of an earlier version of bandlens to this one's. The old file is kept beside it.

    Example: bandlens migrate results.duckdb
    """
    from ...analysis.migrate import migrate as bring

    kept = bring(db)
    print(f"{db} is up to date" if kept is None else f"{db} is up to date now; the old file is {kept}")
