"""Report sections about the study itself: verdict, changes, release gates, conditions and provenance."""

from __future__ import annotations

import base64
import io
import json
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from ...analysis.charts.grammar import vega_lite_version, words
from ...analysis.charts.maps import difference_map
from ...analysis.comparison.cell_pairs import DIFFERS, Compared, Run
from ...analysis.comparison.gates import VERDICTS, count_verdicts
from ...analysis.comparison.runs import compare_runs
from ...analysis.comparison.verdict import Verdict
from ...analysis.database.open import open_store, split_against
from ...analysis.database.study_versions import earlier_label, with_facts
from ...core.errors import BandlensError, plural
from ...core.records import Condition, Missing
from ...export.reference_images import PHOTOGRAPH_FOLDER
from ...probes.contact_sheet import labelled_rows, perturbed, read_photograph, stretched
from ...probes.grid import FAMILIES, PROBES, Grid, make_grid
from ..study.set_lookup import find_sets
from .data import ReportData, add_before
from .metric_sections import filter_figures
from .page import Figure, Section, Table, Tile, cell

TITLE_LETTERS = 240
"""Maximum length of a title in characters.

A longer finding is shortened to its first clauses, but at least two, and the section shows all of it."""
AGREEMENT = (
    "Images without labels: what is drawn is agreement of each model with its own prediction for the unperturbed "
    "image, which is 1 without perturbation."
)
SIDE, QUALITY = 132, 70
"""Size in pixels and JPEG quality of a tile. 52 tiles of noise need 300 KB."""
CAT = "chelsea.jpg"
RELEASE_COLUMNS = (
    *("against", "checkpoint", "image_set", "probe", "parameters", "cycles", "slice", "measure", "n", "before", "now"),
    *("loss", "loss_low", "loss_high", "margin", "p_pass", "p_fail", "verdict"),
    *("needed", "flips", "relative_flips", "decided"),
)
HALF_PAGE_MODELS = 5
"""Maximum number of models whose numbers fit on half of the page width."""
CHANGES_CAPTION = (
    "Percentage points of top-1, this study minus the other, over the same images; orange fell, purple rose. Bold with "
    "a star: p < 0.05 (McNemar) after Holm's correction over all cells. Hover, or open the table, for the 95 % "
    "interval of the difference."
)


def page_title(results: ReportData, verdict: Verdict) -> str:
    """Return the title of the page, which is the first finding if there is one."""
    findings = verdict.findings
    return _title_of(findings[0]) if findings else f"Frequency bias and generalization: {results.label}"


def _title_of(finding: str) -> str:
    title = finding.removesuffix(".")
    while len(title) > TITLE_LETTERS and title.count(";") > 1:
        title = title.rpartition(";")[0]
    return title


def verdict_section(results: ReportData, verdict: Verdict) -> Section:
    """Return the section with the findings below the title, warnings and the first figure of half-accuracy cutoffs.

    If the study is compared with another one, `verdict` starts with the sentences about the comparison.
    """
    findings, undetermined = verdict.findings, [*verdict.undetermined]
    if isinstance(results.correlated, Missing) and results.cells["checkpoint"].n_unique() > 1:
        why = results.correlated.reason
        undetermined.append(f"Not determined: whether biases explain generalization, since {why}.")
    if findings and findings[0] == f"{_title_of(findings[0])}.":
        findings = findings[1:]
    text = [*findings, *undetermined, *(f"Warning: {doubt}." for doubt in results.doubts)]
    complete_count = int(results.cells["complete"].sum())
    if complete_count < len(results.cells):
        text.append(
            f"{complete_count:,} of {plural(len(results.cells), 'cell')} are complete, and only these are shown; "
            "`bandlens run` goes on where it stopped."
        )
    if not results.image_sets["labelled"].all():
        text.append(AGREEMENT)
    return results.section("verdict", "Verdict", filter_figures(results)[:1], text)


def changes_section(results: ReportData, against: str) -> tuple[ReportData, Verdict, Section]:
    """Compare the study with another one.

    Args:
        results: Data of the study.
        against: Another results database, or the name or name@version of a study in the same database. From another
            database, the study after a colon is used, otherwise the one with the same name, otherwise the last one run.

    Returns:
        The data extended by the curves of the other study; the verdict on both, followed by that on this study; and a
        section with a figure for each image set and a panel for each probe.

    Raises:
        UsageError: If there is nothing to compare with.
    """
    file, word = split_against(against)
    with ExitStack() as stack:
        store = stack.enter_context(open_store(results.path, read_only=True))
        store_a = stack.enter_context(open_store(file, read_only=True)) if file else store
        label = earlier_label(store_a, word, str(results.study["name"]))
        runs = Run(store_a, label), Run(store, results.label)
        comparison, name = compare_runs(*runs), runs[0].name_beside(runs[1])
        rows = changes(comparison, results)
        results = add_before(results, runs[0], name, comparison.cells)
    text = (
        f"{plural(comparison.same, 'cell')} of one and the same predictions, {plural(len(rows), 'other')} to compare; "
        f"{len(comparison.only_b):,} only in this study, {len(comparison.only_a):,} only in the other."
    )
    columns, figures = 2 if len(results.choice) <= HALF_PAGE_MODELS else 1, []
    for number, image_set in enumerate(rows["image_set"].unique().sort(), 1):
        on_set = rows.filter(image_set=image_set).drop("image_set")
        reach = max(1.0, *on_set["difference"].abs())
        panels = {
            probe: difference_map(part.rename({"checkpoint": "model"}).drop("probe"), words(probe), reach)
            for (probe,), part in results.select_choice(on_set).group_by("probe", maintain_order=True)
        }
        table = on_set.drop("differs")
        figures.append(Figure(f"changes-{number}", f"Top-1 on {image_set}", [CHANGES_CAPTION], panels, columns, table))
    section = results.section("changes", f"What changed against {name}", figures, [text])
    return results, comparison.verdict + results.verdict, section


def changes(comparison: Compared, results: ReportData) -> pl.DataFrame:
    """Return the cells that can be compared, sorted as in a figure, with `condition` as text and `differs`.

    before, after, difference and its 95% confidence interval (low, high) are in percentage points.
    """
    keys = ["image_set", "probe", "parameters"]
    cells = comparison.cells.filter(pl.col("difference").is_not_null()).join(
        results.curve.select(*keys, "cycles").unique(), on=keys, how="left", maintain_order="left"
    )
    rows = with_facts(cells.rename({"top1_a": "before", "top1_b": "after"}), results.conditions)
    return rows.sort("image_set", "place", "checkpoint").select(
        *("checkpoint", "image_set", "probe"),
        pl.col("setting").replace("", "no parameters").alias("condition"),
        "n",
        pl.col("before", "after", "difference", "low", "high") * 100,
        *("lost", "gained", "p_holm"),
        differs=DIFFERS,
    )


def releases_section(results: ReportData) -> Section:
    """Return the verdicts against each earlier release: their numbers, the rows that do not pass, and all rows."""
    rows = results.releases.select(RELEASE_COLUMNS)
    text = [
        f"Against {against}: {', '.join(f'{len(part.filter(verdict=name)):,} {name}' for name in VERDICTS)}."
        for (against,), part in rows.group_by("against", maintain_order=True)
    ]
    tables = [
        Table("Verdicts by checkpoint", count_verdicts(rows, "loss")),
        Table("Rows that do not pass", rows.filter(pl.col("verdict") != "pass"), folded=True),
        Table("All rows", rows, folded=True),
    ]
    title = "Does it answer no worse than the release before it?"
    return Section("releases", title, text, tables=tables if len(rows) else [])


def contact_sheet(results: ReportData) -> Section:
    """Return a row of tiles for each series of conditions of a built-in probe, which does not depend on a model."""
    settings = [row for row in results.conditions.select("probe", "parameters").rows() if row[0] in FAMILIES]
    grids = [make_grid({probe: json.loads(parameters)}, Path()) for probe, parameters in settings]
    grid = Grid(FAMILIES, tuple(dict.fromkeys(chain.from_iterable(grid.conditions for grid in grids))))
    pixels, name = _photograph(results)
    pictures = perturbed(pixels, grid, 0)
    rows = {
        title: [_tile(condition, label or title, pictures[condition]) for condition, label in labels.items()]
        for title, labels in labelled_rows(pictures, pixels.shape[-1])
    }
    text = [
        f"The conditions of this study, on {name}. Noise is drawn with seed 0. A picture that would be nearly black "
        "is brightened, and its caption says by how much."
    ]
    if len(pictures) < len(grid.conditions):
        text.append(f"{len(pictures):,} of {len(grid.conditions):,} conditions are shown.")
    if own_probes := set(results.conditions["probe"]) - set(PROBES):
        text.append(f"Not shown, since the database keeps no code: your own {', '.join(sorted(own_probes))}.")
    if results.conditions["attack"].any():
        text.append("Not shown, since each model has images of its own: attacks.")
    return Section("conditions", "What the models saw", text, tiles=rows)


def _photograph(results: ReportData) -> tuple[NDArray[np.uint8], str]:
    """Return the first image of the study (3, size, size) uint8, or that of a cat, and its name.

    Image sets are searched beside the database. They are matched by name and preprocessing rather than by digest,
    because a study with a limit uses only some of the images of a set.
    """
    names = set(results.image_sets.select("name", "preprocessing").rows())
    for images in find_sets([results.path.parent]).values():
        if (images.info.name, images.info.preprocessing) not in names:
            continue
        try:
            return images.take(np.zeros(1, np.int64))[0], f"{images.paths[0]} of {images.info.name}"
        except BandlensError:  # the image files that an index refers to may have been moved
            continue
    name = "a cat by Stéfan van der Walt (CC0), since its own images do not lie beside the database"
    return read_photograph(PHOTOGRAPH_FOLDER / CAT), name


def _tile(condition: Condition, caption: str, pixels: NDArray[np.uint8]) -> Tile:
    picture = io.BytesIO()
    pixels, stretch = stretched(pixels)
    caption = ", ".join(filter(None, (caption, stretch)))
    tile = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    tile.save(picture, "JPEG", quality=QUALITY, optimize=True)
    source = "data:image/jpeg;base64," + base64.b64encode(picture.getvalue()).decode()
    return Tile(source, caption, f"The photograph under {condition}")


def provenance(results: ReportData) -> Section:
    """Return the size of the study, versions, digests, machines, seeds, numbers of images, and the study file."""
    study, cells = results.study, results.cells
    facts = {
        "Study": results.label,
        "Models": cell(len(results.checkpoints)),
        "Image sets": cell(len(results.image_sets)),
        "Images": cell(int(results.image_sets["count"].sum())),
        "Conditions": cell(len(results.conditions)),
        "Predictions": cell(study["predictions"]),
        "bandlens": str(study["bandlens"]),
        "Host": str(study["host"]),
        "First run": cell(study["first_run"]),
        "Last run": cell(study["last_run"]),
        "Precision": _join_values(cells["precision"]),
        "Seeds": _join_values(cells["seed"]),
        "Decision space": _join_values(cells["decision_space"]),
        "Charts": f"Vega-Lite {vega_lite_version()}",
    }
    failed_cells = cells.filter(pl.col("error").is_not_null())
    causes = failed_cells.group_by("error", maintain_order=True).agg(cells=pl.len())
    empty_columns = [] if results.checkpoints["head"].count() else ["head"]
    versions = pl.col("versions").map_elements(
        lambda text: ", ".join(f"{name} {version}" for name, version in json.loads(text).items()), pl.String
    )
    tables = [
        *([Table("Precision gates", count_verdicts(results.gates))] if len(results.gates) else []),
        *([Table("Cells that failed", causes)] if len(failed_cells) else []),
        Table("Models", results.checkpoints.drop("id", *empty_columns)),
        Table("Image sets", results.image_sets.drop("id", "corruption", "severity")),
        Table("Sessions: engine, device, library versions", results.sessions.with_columns(versions)),
        Table("Conditions", results.conditions.select("probe", "parameters", "digest"), folded=True),
    ]
    text = [f"Digest of the study's cells: {study['digest']}. The study file, as it was last run, is at the end."]
    if results.other_studies:
        text.append(f"Also in this database: {', '.join(results.other_studies)}; `--study NAME` chooses.")
    return Section("provenance", "Provenance", text, tables=tables, facts=facts, listing=str(study["toml"]))


def _join_values(values: pl.Series) -> str:
    return ", ".join(str(value) for value in values.unique().sort()) or "–"
