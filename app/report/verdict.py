"""The head of the report: the finding, what it rests on, and what is not determined yet."""

from __future__ import annotations

from ...analysis.comparison.verdict import Verdict
from ...core.errors import plural
from .accuracy import AGREEMENT, filter_figures
from .data import ReportData
from .sections import Section

LONGEST_TITLE = 240
"""Letters of a title: of a longer finding the title has the first clause, and the section the whole."""


def page_title(results: ReportData | None, against: Verdict | None) -> str:
    """The title of the page: the finding where there is one."""
    findings = _findings(results, against)
    if findings:
        return _title_of(findings[0])
    return f"Frequency bias and generalization: {results.label}" if results else "Frequency bias and generalization"


def verdict_section(results: ReportData, against: Verdict | None) -> Section:
    """The sentences below the title, warnings, and the first picture of half cuts.

    `against` is the verdict on the study that this one is compared with.
    """
    undetermined = [*(against.undetermined if against else []), *results.verdict.undetermined]
    if isinstance(results.correlated, str):
        undetermined.append(f"Not determined: whether biases explain generalization, since {results.correlated}.")
    findings = _findings(results, against)
    if findings and findings[0] == f"{_title_of(findings[0])}.":
        findings = findings[1:]
    text = [*findings, *undetermined, *(f"Warning: {doubt}." for doubt in results.doubts)]
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


def _title_of(finding: str) -> str:
    title = finding.removesuffix(".")
    return title if len(title) <= LONGEST_TITLE else title.partition(";")[0]


def _findings(results: ReportData | None, against: Verdict | None) -> list[str]:
    return [*(against.findings if against else []), *(results.verdict.findings if results else [])]
