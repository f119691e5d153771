"""Write the bundled sample database: results of real networks on real photographs.

The package contains one Parquet file for each database table that has rows. `docs/sample.py` generates these files, and
docs/findings.md describes the results in them.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ...core.files import put_beside
from .merge import new_file
from .open import open_store

FILES = Path(__file__).parents[1] / "sample"


def write_sample(out: Path) -> None:
    """Write the sample results to the new database `out`.

    Args:
        out: Path of the new file. Its folder must exist.

    Raises:
        UsageError: `out` already exists, or its folder does not exist.
    """
    with new_file(out) as draft:
        with open_store(draft) as store, store.transaction():
            for file in sorted(FILES.glob("*.parquet")):
                store.insert(file.stem, pl.read_parquet(file))
            # The rows were inserted with explicit ids. Advance the sequence past them, so that new rows get unused ids.
            ((last,),) = store.execute("SELECT max(id) FROM (FROM cell SELECT id UNION ALL FROM study SELECT id)")
            store.execute(f"SELECT max(nextval('id')) FROM range({last})")
        put_beside(draft, out)
