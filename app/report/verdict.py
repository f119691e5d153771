"""The head of the report: the finding, what it rests on, and what is not determined yet."""

from __future__ import annotations

from ...analysis.charts.style import plural
from ...analysis.comparison.verdict import Verdict
from .accuracy import AGREEMENT, filter_figures
from .data import ReportData
from .sections import Section


def page_title(results: ReportData | None, against: Verdict | None) -> str:
    """The title of the page: the finding where there is one."""
    findings = _findings(results, against)
    if findings:
        return findings[0].removesuffix(".")
    return f"Frequency bias and generalization: {results.label}" if results else "Frequency bias and generalization"


def verdict_section(results: ReportData, against: Verdict | None) -> Section:
    """The sentences below the title, warnings, and the first picture of half cuts.

    `against` is the verdict on the study that this one is compared with.
    """
    undetermined = [*(against.undetermined if against else []), *results.verdict.undetermined]
    if isinstance(results.correlated, str):
        undetermined.append(f"Not determined: whether biases explain generalization, since {results.correlated}.")
    text = [*_findings(results, against)[1:], *undetermined, *(f"Warning: {doubt}." for doubt in results.doubts)]
    complete = int(results.cells["complete"].sum())
    if complete < len(results.cells):
        text.append(
            f"{complete:,} of {plural(len(results.cells), 'cell')} are complete, and only these are shown; `bandlens "
            "run` goes on where it stopped."
        )
    if not results.image_sets["labelled"].all():
        text.append(AGREEMENT)
    figures = filter_figures(results, slice(1))
    return Section("verdict", "Verdict", [*text, *(results.choice if figures else [])], figures)


def _findings(results: ReportData | None, against: Verdict | None) -> list[str]:
    return [*(against.findings if against else []), *(results.verdict.findings if results else [])]
