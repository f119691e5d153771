"""Make the figures that the package ships, analysis/published/*.parquet, from the sources' own files:

.venv/bin/python tests/golden/atlas.py ../shared/published

Run it by hand after a change of sources.toml or of the files; test_sources.py compares what it gives with what ships.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

from bandlens.analysis.published.sources import VALUES, read_source, sources

FOLDERS = {
    "study": "",
    "timm": "atlas/timm",
    "timm-2022": "atlas/timm/2022-07-27",
    "testbed": "atlas",
    "robustbench": "atlas/robustbench",
}
"""Source -> the folder of its files, below the one that is given."""


def shipped(folder: Path, name: str) -> pl.DataFrame:
    """The rows of VALUES of a source, as they ship: four decimals, sorted."""
    values = read_source(sources()[name], folder / FOLDERS[name])
    return values.with_columns(pl.col("value").round(4)).sort("benchmark", "metric", "condition", "model", "input_size")


def main(folder: Path) -> None:
    for name in FOLDERS:
        file = sources()[name].shipped
        shipped(folder, name).select(VALUES.names()).write_parquet(
            file, compression="zstd", compression_level=19, statistics=False
        )
        print(f"{file.name}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
