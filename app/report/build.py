"""Build a report from a results database: read the data, assemble the sections, write the files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from altair.utils.schemapi import debug_mode

from ...analysis.charts.grammar import begin_libraries
from ...analysis.database.open import split_against
from ...core.errors import UsageError, writing
from ...core.files import write_bytes
from .correlations import atlas_section, correlations_section
from .data import ReportData, read_data
from .figures import ALL_FIGURES, choose_figures, distinct_name, write_figures
from .metric_sections import consistency_section, measured_sections
from .page import Section, render
from .study import changes_section, contact_sheet, page_title, provenance, releases_section, verdict_section


@dataclass(frozen=True, slots=True)
class Written:
    """Files of a report that was written, and their sizes."""

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
    published: bool = False,
    figures: Sequence[str] = (),
    folder: Path = Path("figures"),
    advance: Callable[[float], None] = lambda _: None,
) -> Written:
    """Write the report of a study as one HTML file, and its figures, as described in `api.results.report`.

    `advance` is called with 1 for each chart that is written. Raises UnknownName, UsageError or StoreError if something
    does not exist or cannot be written.
    """
    begin_libraries()
    if out.suffix.lower() not in ("", ".htm", ".html"):
        page_name = out.with_suffix(".html")
        raise UsageError(f"{out}: a report is HTML; name it {page_name}, and --figures {ALL_FIGURES} for charts as PDF")
    results = read_data(db, study)
    # Altair would validate each part of a chart when it is created. See `spec_of`.
    with debug_mode(False):
        if against is None:
            verdict, head = results.verdict, [verdict_section(results, results.verdict)]
        else:
            results, verdict, changes = changes_section(results, against)
            head = [verdict_section(results, verdict), changes]
        sections = [
            section
            for section in _sections(results, published)
            if section.figures or section.tables or section.tiles or section.facts
        ]
    parts = list(_with_names_apart([*head, *sections]))
    every_figure = [figure for part in parts for figure in part.figures]
    selection = choose_figures(every_figure, figures)
    if figures:
        with writing(folder, "name another folder with --folder"):
            folder.mkdir(parents=True, exist_ok=True)
    page = render(page_title(results, verdict), parts).encode()
    other_database = split_against(against)[0] if against else None
    sources = [db, *([other_database] if other_database else [])]
    with writing(out, "name another file with --out"):
        write_bytes(out, page, sources)
    files = write_figures(selection, folder, advance, sources) if figures else []
    return Written(out, len(parts), sum(len(figure.panels) for figure in every_figure), len(page), files)


def _sections(results: ReportData, published: bool) -> Iterator[Section]:
    """Yield the sections after the verdict, in the order of the page."""
    yield releases_section(results)
    yield from measured_sections(results)
    yield consistency_section(results)
    yield correlations_section(results)
    yield contact_sheet(results)
    if published:
        yield atlas_section(results)
    yield provenance(results)


def _with_names_apart(sections: Sequence[Section]) -> Iterator[Section]:
    """Yield the sections with unique figure names. Custom probes `Blur` and `blur`, for example, would collide."""
    names = {section.name for section in sections}
    for section in sections:
        figures = []
        for figure in section.figures:
            figures.append(replace(figure, name=distinct_name(figure.name, names)))
            names.add(figures[-1].name)
        yield replace(section, figures=figures)
