"""Make the sample that comes along of results databases: `python -P docs/sample.py DB...`.

The databases have the studies that docs/findings.md describes; the sample itself is one of them where a study is added
to it. Probabilities are rounded to three digits, since all of their digits would take twice the room; measures are
computed anew of that, and names of machines are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bandlens import analyze, merge
from bandlens.analysis.database.catalogue import schema_tables
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.sample import FILES

ROUNDED = [
    f"{name} = round({name}::DOUBLE, 2 - floor(log10(greatest({name}::DOUBLE, 1e-38)))::INTEGER)"
    for name in ("confidence", "label_probability")
]


def make_sample(databases: list[Path]) -> None:
    with TemporaryDirectory() as folder:
        rounded = [Path(folder, f"{number}.duckdb") for number, _ in enumerate(databases)]
        for database, copy in zip(databases, rounded, strict=True):
            merge([database], copy)
            with open_store(copy) as store:
                store.execute("UPDATE study SET host = ''")
                store.execute(f"UPDATE prediction SET {', '.join(ROUNDED)}")
        merge(rounded, whole := Path(folder, "sample.duckdb"))
        analyze(whole)
        with open_store(whole) as store:
            # Explorer and report begin with the study that ran last, as `bandlens run` leaves it when it is run again.
            last_run = "(SELECT max(last_run) FROM study WHERE name <> 'grid') + INTERVAL 1 SECOND"
            store.execute(f"UPDATE study SET last_run = {last_run} WHERE name = 'grid'")
            FILES.mkdir(exist_ok=True)
            for table in set(schema_tables()) - {"meta"}:
                (FILES / f"{table}.parquet").unlink(missing_ok=True)
                rows = store.frame(f"FROM {table} ORDER BY ALL")
                if len(rows):
                    rows.write_parquet(FILES / f"{table}.parquet", compression="zstd", compression_level=22)


if __name__ == "__main__":
    make_sample([Path(word) for word in sys.argv[1:]])
