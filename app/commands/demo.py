"""`bandlens demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ...errors import amount
from ..console import duration, print_rows
from .published import place, table
from .sql import sql

EXAMPLES = (
    """SELECT path, clean_predicted, predicted, round(clean_confidence, 2) AS confidence
FROM flip WHERE probe = 'lowpass' AND cutoff = 0.5 ORDER BY clean_confidence DESC LIMIT 5""",
    """SELECT frequency, round(max(top1) FILTER (noise_sd = 0.02), 2) AS weak_noise,
  round(max(top1) FILTER (noise_sd = 0.16), 2) AS strong_noise
FROM accuracy WHERE probe = 'critical_band' AND frequency IS NOT NULL GROUP BY frequency ORDER BY frequency""",
)


def demo(
    out: Annotated[Path, typer.Option("--out", help="The folder for everything it makes.")] = Path("demo"),
) -> None:
    """Do the main job on a real classifier and real photographs: no GPU, no account, about two minutes.

    EfficientNet-Lite0 goes through all 52 conditions on 64 crops of photographs, into OUT/results.duckdb.

    Example: bandlens demo --out demo
    """
    from ..demo import MODEL

    started = time.monotonic()
    database = out / "results.duckdb"
    out.mkdir(parents=True, exist_ok=True)
    _run(out)
    _pictures(out)
    _report(out)
    _step("The published study: Spearman's correlation of biases with generalization, 48 models (0: p >= 0.05)")
    table()
    _step("Where EfficientNet-Lite0 stands among timm's models, by their published accuracies")
    place(MODEL, database)
    for query in EXAMPLES:
        _step(f'bandlens sql "{query}" --db {database}')
        sql(query, db=database)
    print(
        f"\nDone in {duration(time.monotonic() - started)}. Everything is in {out}: change {out / 'study.toml'} and run"
    )
    print(f"  bandlens run {out / 'study.toml'} --db {database}")


def _step(title: str) -> None:
    print(f"\n== {title}", flush=True)


def _run(out: Path) -> None:
    from ...analysis.database.open import open_store
    from ...analysis.measures.compute import compute_measures, metrics_of
    from ..demo import export_model, pack_photographs, write_study
    from ..study.file import Study
    from ..study.resolve import resolve
    from ..study.run import run_study

    _step("EfficientNet-Lite0 to ONNX, compared with torch on photographs")
    model, parity = export_model(out / "models")
    print(parity or f"{model.path} is there already")
    _step("64 crops of 8 photographs")
    images = pack_photographs(out / "photographs.set")
    print(f"{images.info.count} images, unlabelled: what is measured is agreement with the clean prediction")
    _step("52 conditions: clean, 22 spectral, 29 critical band")
    database = out / "results.duckdb"
    summary = run_study(resolve(Study.read(write_study(out))), database)
    print(f"{summary.label}: {summary.predictions:,} predictions in {duration(summary.seconds)}, into {database}")
    _step("Curves and metrics; intervals take the crops of a photograph as one")
    with open_store(database) as store:
        metrics = metrics_of(compute_measures(store, "demo"))
        curve = store.frame(
            "SELECT probe, cutoff, noise_sd, frequency, n, top1 AS agreement, low, high, ratio FROM curve "
            "WHERE study = 'demo' ORDER BY probe, cutoff, noise_sd, frequency"
        )
    print_rows(curve.to_dicts())
    print_rows(metrics.select("metric", "value", "low", "high", "state", "note").to_dicts())


def _pictures(out: Path) -> None:
    from ...probes.grid import PUBLISHED, make_grid
    from ...probes.images.image_set import open_image_set
    from ..pictures.sheet import draw_sheet
    from ..report.accuracy import curves_section
    from ..report.band import band_section
    from ..report.data import read_data
    from ..report.figures import write_png

    _step("Pictures")
    images = open_image_set(out / "photographs.set")
    draw_sheet(images.pixels[images.paths.index("chelsea/0.png")], make_grid(PUBLISHED, out), 0, out / "sheet.png")
    if results := read_data(out / "results.duckdb", "demo"):
        write_png([*curves_section(results).figures, *band_section(results).figures], out / "curves.png")
    print(f"{out / 'sheet.png'}: a photograph under every condition\n{out / 'curves.png'}: the curves")


def _report(out: Path) -> None:
    from ..report.build import write_report

    _step("A report to look at")
    written = write_report(out / "results.duckdb", out / "report.html", study="demo")
    print(f"{written.out}: {written.charts} charts in one file, {amount(written.bytes)}; open it in a browser")
