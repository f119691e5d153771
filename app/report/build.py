"""A report from a results database: read, put together, write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from altair.utils.schemapi import debug_mode

from ...analysis.charts.libraries import begin_libraries
from ...analysis.comparison.verdict import Verdict
from ...core.errors import UsageError, unwritable
from ...export.files import write_bytes
from .accuracy import accuracy_section, curves_section
from .atlas import atlas_section
from .band import band_section, numbers_section
from .changes import changes_section
from .conditions import conditions_section
from .consistency import consistency_section
from .contact_sheet import contact_sheet
from .correlations import correlations_section, own_correlations, published_section, scatter_section
from .data import ReportData, read_data
from .figures import choose_figures, make_folder, unlike, write_figures
from .octaves import octaves_section
from .page import render
from .provenance import overview, provenance
from .releases import releases_section
from .sections import Section
from .verdict import page_title, verdict_section


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a report that was written, and how much they hold."""

    out: Path
    sections: int
    charts: int
    bytes: int
    figures: list[Path]


def write_report(
    db: Path,
    out: Path,
    study: str | None = None,
    against: str | None = None,
    figures: Sequence[str] = (),
    folder: Path = Path("figures"),
    photograph: Path | None = None,
    advance: Callable[[float], None] = lambda _: None,
) -> Written:
    """Write the report of a study as one HTML file, and its figures, as `api.results.report` describes it.

    `advance` is called once a chart that is written. Raises UnknownName, UsageError and StoreError where what is asked
    for is not there, or cannot be written.
    """
    begin_libraries()
    if figures:
        make_folder(folder)
    results = read_data(db, study)
    if results is None and against is not None:
        raise UsageError(f"{db} holds no study, so there is nothing to compare with {against}")
    with debug_mode(False):  # Altair would validate each part of a chart as it is made: see `spec_of`
        verdict, changes = changes_section(results, against) if results and against is not None else (None, None)
        every = [overview(None, db.name)] if results is None else list(_own_sections(results, verdict, changes))
        every += _closing_sections(results, photograph)
    parts = list(_with_names_apart([part for part in every if part.is_filled]))
    drawn = [figure for part in parts for figure in part.figures]
    chosen = choose_figures(drawn, figures)
    page = render(page_title(results, verdict), parts).encode()
    try:
        write_bytes(out, page)
    except OSError as error:
        raise unwritable(out, error, "name another file with --out") from None
    files = write_figures(chosen, folder, advance) if figures else []
    return Written(out, len(parts), sum(len(figure.panels) for figure in drawn), len(page), files)


def _with_names_apart(sections: Sequence[Section]) -> Iterator[Section]:
    """Yield the sections, whose figures are told apart by name: two probes of one's own may be `Blur` and `blur`."""
    taken = {section.name for section in sections}
    for section in sections:
        figures = []
        for figure in section.figures:
            figures.append(replace(figure, name=unlike(figure.name, taken)))
            taken.add(figures[-1].name)
        yield replace(section, figures=figures)


def _own_sections(results: ReportData, against: Verdict | None, changes: Section | None) -> Iterator[Section]:
    """The sections of the study, those with the answer first."""
    with ThreadPoolExecutor(1) as executor:
        correlations = executor.submit(own_correlations, results)  # in NumPy, which lets the charts be made meanwhile
        yield from _measured_sections(results, against, changes)
        yield correlations_section(results, correlations.result())


def _measured_sections(results: ReportData, against: Verdict | None, changes: Section | None) -> Iterator[Section]:
    """Yield the verdict, what changed, and the figures of each kind of measure."""
    yield verdict_section(results, against)
    if changes:
        yield changes
    if len(results.releases):
        yield releases_section(results)
    if len(results.curve):
        yield octaves_section(results)
        yield curves_section(results)
        yield band_section(results)
        yield accuracy_section(results)
        yield numbers_section(results)
    if len(results.condition_metrics):
        yield conditions_section(results)
    if len(results.consistency) or len(results.judged) or results.human_probe["human"].any():
        yield consistency_section(results)


def _closing_sections(results: ReportData | None, photograph: Path | None) -> Iterator[Section]:
    """Yield the pictures that the models saw, the published study, and where the numbers come from."""
    yield contact_sheet(results, photograph)
    if results is None or results.is_of_imagenet:
        yield atlas_section(results)
        yield published_section()
        yield scatter_section()
    if results:
        yield overview(results, results.path.name)
        yield provenance(results)
