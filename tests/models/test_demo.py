"""The demo, end to end: what README's first command promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import FENCE, ROOT, compare, environment_in, printed_by
from small import ask

from bandlens.app.cli.commands.look import MODEL

TUTORIAL = (ROOT / "docs" / "guide" / "tutorial.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that the demo made, and what it printed."""
    folder = tmp_path_factory.mktemp("first-command")
    return folder / "demo", printed_by("bandlens demo --out demo", folder, environment_in(folder))


def test_it_prints_what_the_tutorial_shows(demo: tuple[Path, str]) -> None:
    (screen,) = (body for language, _, body in FENCE.findall(TUTORIAL) if language == "text")
    compare(screen, demo[1])


def test_its_report_is_one_file(demo: tuple[Path, str]) -> None:
    assert 500_000 < (demo[0] / "report.html").stat().st_size < 5_000_000


def test_the_network_is_known_among_a_thousand(demo: tuple[Path, str]) -> None:
    environment = environment_in(demo[0])
    sources = printed_by("bandlens published show --db results.duckdb", demo[0], environment)
    assert re.search(rf"{MODEL} +tf_efficientnet_lite0\.in1k +weights", sources)
    table = printed_by(f"bandlens published show {MODEL} --db results.duckdb", demo[0], environment)
    assert re.search(r"timm +tf_efficientnet_lite0\.in1k +checkpoint +imagenet +top1 +224 +74\.85", table)


def test_the_page_on_python_runs_on_it(demo: tuple[Path, str]) -> None:
    page = (ROOT / "docs" / "guide" / "python.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    subprocess.run([sys.executable, "-P", "-W", "error", "-c", code], check=True, cwd=demo[0])
    assert ask(demo[0] / "training.duckdb", "SELECT DISTINCT checkpoint FROM accuracy ORDER BY 1") == [
        ("epoch10",),
        ("epoch20",),
    ]
    assert "<svg" in (demo[0] / "lowpass.svg").read_text(encoding="utf-8")
