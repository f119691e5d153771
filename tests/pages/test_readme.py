"""README is run as it stands: its blocks of commands, each with the output that follows, compared but for the times.

Its text before the first of them is what `make demo` prints, whose folder the others use.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from pages import FENCE, README, ROOT, compare, environment, printed_by

from bandlens.app.report.page import CITATION
from bandlens.core import __version__

__all__ = ["environment"]  # a fixture


def test_every_block_of_the_readme_does_what_it_shows(tmp_path: Path, environment: dict[str, str]) -> None:
    scripts, blocks = 0, FENCE.findall(README)
    sentence = next(body for language, _, body in blocks if language == "text")
    compare(sentence, printed_by("bandlens demo --out demo", tmp_path, environment))
    for (language, _, script), (following, _, output) in pairwise(blocks):
        if language == "bash":
            assert following == "text", "a block that is run is followed by its output"
            compare(output, printed_by(f"set -e\n{script}", tmp_path, environment))
            scripts += 1
    assert scripts >= 4


@pytest.mark.parametrize(
    ("page", "output"),
    [
        ("a 0.12", "a 0.15"),
        ("a\nb", "a"),
        ("a\n…\nc", "a\nb"),
        ("one two…", "one three"),
    ],
)
def test_what_drifts_is_found(page: str, output: str) -> None:
    with pytest.raises(AssertionError):
        compare(page, output)


def test_times_and_what_is_left_out_do_not_matter() -> None:
    page = "ran 7 cells in 1.5 s (120 a second)\n…\nthe end…"
    compare(page, "ran 7 cells in 22 s (8 a second)\nx\ny\nthe ending of it")


def test_its_sections_stand_in_the_order_of_a_first_day() -> None:
    titles = re.findall(r"^## (.*)$", README, re.MULTILINE)
    assert titles[:7] == ["Two commands", "Your model, your answer", "Run", "Compare", "SQL", "Explore", "On a GPU"]


def test_it_is_short_and_leaves_long_outputs_to_the_tutorial() -> None:
    assert len(README.splitlines()) <= 150
    assert max(len(body.splitlines()) for language, _, body in FENCE.findall(README) if language == "text") <= 12


def test_the_site_begins_as_it_does() -> None:
    screen = README.partition("## Your model, your answer")[0].replace("](docs/", "](")
    assert (ROOT / "docs" / "README.md").read_text(encoding="utf-8").startswith(screen)


def test_the_readme_a_report_and_the_citation_file_cite_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert "".join(CITATION.split()) in "".join(README.split())
    assert citation["version"] == __version__
    for words in (citation["title"], citation["authors"][0]["name"], __version__):
        assert f"{{{words}}}" in CITATION
