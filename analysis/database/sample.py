"""Results that come along: real networks on real photographs, as a Parquet file of each table that has rows.

`docs/sample.py` makes the files of a results database, and docs/findings.md says what they are results of.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ...core.files import put_beside
from .merge import new_file
from .open import open_store

FILES = Path(__file__).parents[1] / "sample"


def write_sample(out: Path) -> None:
    """Write the sample into the new database `out`; UsageError where something is there, or its folder is not."""
    with new_file(out) as draft:
        with open_store(draft) as store, store.transaction():
            for file in sorted(FILES.glob("*.parquet")):
                store.insert(file.stem, pl.read_parquet(file))
            ((last,),) = store.execute("SELECT max(id) FROM (FROM cell SELECT id UNION ALL FROM study SELECT id)")
            store.execute(f"SELECT max(nextval('id')) FROM range({last})")
        put_beside(draft, out)
