"""`bandlens demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ...core.errors import amount, quoted, unwritable
from ..api import results, studies
from ..console import progress
from ..printing import duration, print_rows
from ..terminal import command


def demo(out: Path = Path("demo")) -> None:
    """Do the main job on a real classifier and real pictures: no GPU, no account, less than a minute.

    EfficientNet-Lite0 goes through all 52 conditions on four crops of each of 20 pictures, into OUT/results.duckdb. Of
    the numbers, those are printed that so few pictures determine, with their intervals.

    Example: bandlens demo --out demo

    Args:
        out: the folder for everything it makes.
    """
    import polars as pl

    from ...analysis.measures.base import State
    from .. import demo as steps

    started = time.monotonic()
    database = out / "results.duckdb"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(f"the demo into {out}", error, "name another folder with --out") from error
    model, parity = steps.export_model(out / "models")
    print(f"{model.path}: {parity or 'is there already'}", flush=True)
    images = steps.pack_pictures(out / "pictures.set")
    print(f"{images.folder}: {images.info.count} crops of {len(steps.PICTURES)} pictures, without labels", flush=True)
    summary = studies.run(steps.write_study(out), database, raise_failures=False, progress=progress)
    print(f"{summary.label}: {summary.predictions:,} predictions in {duration(summary.seconds)}, into {database}\n")
    metrics = results.analyze(database, "demo")
    with results.open(database) as opened:
        print(opened.verdict("demo")[0])  # lines below count numbers that are not determined
    sound = metrics.filter(pl.col("low").is_not_null(), state=State.OK.value)
    print_rows(sound.select("metric", "value", "low", "high", "state").to_dicts())
    print(f"{len(metrics) - len(sound)} numbers more have no interval, or are not beyond doubt; with their notes:")
    print(f"  bandlens analyze --db {quoted(database)}")
    written = results.report(database, out / "report.html", "demo")
    print(f"{written.out}: {written.charts} charts in one file, {amount(written.bytes)}; open it in a browser")
    print(f"Done in {duration(time.monotonic() - started)}. Change {out / 'study.toml'} and run")
    print(f"  bandlens run {quoted(out / 'study.toml')} --db {quoted(database)}")


COMMANDS: dict[str, Any] = {"demo": command(demo)}
