"""`bandlens demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ...errors import amount
from .. import api
from ..console import duration, print_rows, progress
from .published import place, table
from .sql import sql

EXAMPLES = (
    """SELECT path, clean_predicted, predicted, round(clean_confidence, 2) AS confidence
FROM flip WHERE probe = 'lowpass' AND cutoff = 0.5 ORDER BY clean_confidence DESC LIMIT 5""",
    """SELECT frequency, round(max(top1) FILTER (noise_sd = 0.02), 2) AS weak_noise,
  round(max(top1) FILTER (noise_sd = 0.16), 2) AS strong_noise
FROM accuracy WHERE probe = 'critical_band' AND frequency IS NOT NULL GROUP BY frequency ORDER BY frequency""",
)
CURVE = """SELECT probe, cutoff, noise_sd, frequency, n, top1 AS agreement, low, high, ratio FROM curve
WHERE study = 'demo' ORDER BY probe, cutoff, noise_sd, frequency"""


def demo(
    out: Annotated[Path, typer.Option("--out", help="The folder for everything it makes.")] = Path("demo"),
) -> None:
    """Do the main job on a real classifier and real photographs: no GPU, no account, about two minutes.

    EfficientNet-Lite0 goes through all 52 conditions on 64 crops of photographs, into OUT/results.duckdb.

    Example: bandlens demo --out demo
    """
    from .. import demo as steps

    started = time.monotonic()
    database = out / "results.duckdb"
    out.mkdir(parents=True, exist_ok=True)
    _step("EfficientNet-Lite0 to ONNX, compared with torch on photographs")
    model, parity = steps.export_model(out / "models")
    print(parity or f"{model.path} is there already")
    _step("64 crops of 8 photographs")
    images = steps.pack_photographs(out / "photographs.set")
    print(f"{images.info.count} images, unlabelled: what is measured is agreement with the clean prediction")
    _step("52 conditions: clean, 22 spectral, 29 critical band")
    summary = api.studies.run(steps.write_study(out), database, raise_failures=False, progress=progress)
    print(f"{summary.label}: {summary.predictions:,} predictions in {duration(summary.seconds)}, into {database}")
    _step("Curves and metrics; intervals take the crops of a photograph as one")
    metrics = api.results.analyze(database, "demo")
    with api.results.open(database) as results:
        print_rows(results.sql(CURVE).to_dicts())
    print_rows(metrics.select("metric", "value", "low", "high", "state", "note").to_dicts())
    _step("Pictures")
    sheet, curves = steps.draw_pictures(out)
    print(f"{sheet}: a photograph under every condition\n{curves}: the curves")
    _step("A report to look at")
    written = api.results.report(database, out / "report.html", "demo")
    print(f"{written.out}: {written.charts} charts in one file, {amount(written.bytes)}; open it in a browser")
    _step("The published study: Spearman's correlation of biases with generalization, 48 models (0: p >= 0.05)")
    table()
    _step("Where EfficientNet-Lite0 stands among timm's models, by their published accuracies")
    place(steps.MODEL, database)
    for query in EXAMPLES:
        _step(f'bandlens sql "{query}" --db {database}')
        sql(query, db=database)
    print(
        f"\nDone in {duration(time.monotonic() - started)}. Everything is in {out}: change {out / 'study.toml'} and run"
    )
    print(f"  bandlens run {out / 'study.toml'} --db {database}")


def _step(title: str) -> None:
    print(f"\n== {title}", flush=True)
