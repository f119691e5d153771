"""The answer of one look at a model: as text for a terminal, as HTML for a notebook, and as what lies behind it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ...analysis.charts.grammar import ENLARGED, svg_of, two_a_row
from ...analysis.comparison.verdict import verdict
from ...analysis.database.open import open_store
from ...analysis.database.study_versions import read_conditions, study_label, with_facts
from ...analysis.results import Results
from ...core.untrusted import printable
from ...probes.grid import condition_in_words, make_grid
from ...probes.images.image_set import ImageSet
from ..report.build import write_report
from ..report.metric_sections import CHANCE_CAPTIONS, CURVE_CAPTION
from ..study.file import Study
from ..study.set_lookup import Conditions
from .image_grid import draw_wall

if TYPE_CHECKING:
    from ..report.build import Written

FLIPS = """
SELECT path, probe, parameters, cycles,
       coalesce(clean_class, 'class ' || clean_predicted) AS before, coalesce(class, 'class ' || predicted) AS after
FROM flip_of(?) ANTI JOIN (FROM condition WHERE attack) USING (probe, parameters)
WHERE image_set = ?
QUALIFY row_number() OVER (PARTITION BY path ORDER BY clean_confidence * confidence DESC, probe, parameters) = 1
ORDER BY row_number() OVER (PARTITION BY probe ORDER BY clean_confidence * confidence DESC, path), probe
LIMIT 4
"""
"""The images whose answers changed with the most confidence before and after, from several probes."""
CURVE = ("probe", "cutoff", "cycles", "top1", "measure", "parameters", "low", "high", "chance", "n")
"""The columns of a look's curve; of more than eight, a notebook shows the first four and the last four."""
BAR = 20
"""Characters of a bar that stands for 1."""


@dataclass(frozen=True, repr=False)
class Look:
    """The answer of one call of `bandlens.look`: what a model lives on. A notebook shows it."""

    file: Path
    """The study's file, beside all that the look made: models, images, flips.png, report.html."""
    database: Path
    label: str
    """The study's name@version in the database."""
    images: ImageSet
    sentences: Sequence[str]
    """The verdict: what is determined, with intervals, and then what is not."""
    curve: pl.DataFrame
    """Rows of the view `curve` of filters, and with labels of `clean`: `top1` with `low` and `high`, and more."""
    flips: pl.DataFrame
    """Images whose answers changed: `path`, the condition, and the answer `before` and `after`."""
    notes: Sequence[str]
    """How many images and conditions it rests on, and what more there would be."""
    commands: Sequence[str]
    """The commands that do the same by hand."""

    @property
    def study(self) -> Study:
        """The study as its file has it now, which `bandlens.run(look.study, look.database)` runs."""
        return Study.read(self.file)

    @property
    def results(self) -> Results:
        """The database, for reading, as `bandlens.open` gives it."""
        return Results(self.database)

    def report(self) -> Written:
        """Write report.html into the folder: every chart, with what it was made of."""
        return write_report(self.database, self.file.with_name("report.html"), self.label)

    @property
    def curve_lines(self) -> list[str]:
        """A line for `clean`, and each filter at every other tenth and above 0.9: a bar of its share, the interval."""
        cutoff = pl.col("cutoff")
        curve = self.curve.filter(((cutoff * 10).round(3) % 2 == 1) | (cutoff > 0.9) | cutoff.is_null())
        curve = curve.unique(["probe", "cycles"], keep="first", maintain_order=True)  # small images have fewer cuts
        rows = [(condition_in_words(row), row) for row in curve.to_dicts()]
        width = max((len(words) for words, _ in rows), default=0)
        return [
            f"{words:<{width}}  {'█' * round(BAR * row['top1']):<{BAR}} {row['top1']:.2f} {_interval(row)}".rstrip()
            for words, row in rows
        ]

    @property
    def flip_lines(self) -> list[str]:
        rows = self.flips.to_dicts()
        return [f"{row['path']}: {row['before']} → {row['after']} under {condition_in_words(row)}" for row in rows]

    def __repr__(self) -> str:
        return "\n".join([*self.sentences, *self.curve_lines, *self.flip_lines, *self.notes])

    def _repr_html_(self) -> str:
        """A notebook's view. Names come from files, and are escaped."""
        first, *more = [escape(printable(sentence)) for sentence in self.sentences]
        paragraphs = [f"<p><b>{first}</b></p>", *(f"<p>{sentence}</p>" for sentence in more)]
        flips, picture = escape(printable("; ".join(self.flip_lines))), ""
        if flips:
            data = base64.b64encode(self.file.with_name("flips.png").read_bytes()).decode()
            picture = f'<img alt="{flips}" style="max-width: 100%" src="data:image/png;base64,{data}">'
        return "".join([*paragraphs, self._curve_html(), picture, f"<p>{escape(printable('; '.join(self.notes)))}</p>"])

    def _curve_html(self) -> str:
        """The curve of both filters side by side, with what its lines are; empty where there is none."""
        if self.curve.is_empty():
            return ""
        with self.results as results:
            probes = self.curve.drop_nulls("cutoff")["probe"].unique(maintain_order=True)
            chart = two_a_row(results.plot_curves(probe, study=self.label) for probe in probes)
        caption = [CURVE_CAPTION, CHANCE_CAPTIONS[self.curve["measure"][0]], *[ENLARGED] * bool(self.images.own_cycles)]
        return f"{svg_of(chart.to_dict())}<p><small>{' '.join(caption)}</small></p>"


def read_look(file: Path, database: Path, images: ImageSet, notes: Sequence[str], commands: Sequence[str]) -> Look:
    """The look that the database of a study file has, with flips.png drawn anew."""
    study = Study.read(file)
    with open_store(database, read_only=True) as store:
        label = study_label(store, study.name)
        flips = store.frame(FLIPS, [label, images.info.name])
        if len(flips):
            grid = make_grid(study.probes, study.folder)
            draw_wall(store, flips, images, Conditions(grid), file.with_name("flips.png"))
        curve = with_facts(store.frame("FROM curve_of(?)", [label]), read_conditions(store, label))
        curve = curve.filter(pl.col("cuts") | ((pl.col("probe") == "clean") & (pl.col("measure") == "accuracy")))
        curve = curve.drop_nulls("top1").sort("place").select(CURVE)
        sentences = verdict(store, label).sentences
    return Look(file, database, label, images, sentences, curve, flips, notes, commands)


def _interval(row: dict[str, Any]) -> str:
    return "" if row["low"] is None else f"[{row['low']:.2f}, {row['high']:.2f}]"
