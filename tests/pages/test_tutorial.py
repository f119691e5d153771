"""docs/guide/tutorial.md is followed from its first block to its last; the explorer is opened, looked at, and ended."""

from __future__ import annotations

import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest
from pages import FENCE, ROOT, commands, compare, environment, printed_by
from PIL import Image
from waiting import LIMIT_SECONDS

__all__ = ["environment"]  # a fixture

PAGE = ROOT / "docs" / "guide" / "tutorial.md"


def looked_at(command: str, folder: Path, environment: dict[str, str]) -> str:
    """The page that the explorer serves; Ctrl-C ends it."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {command}"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as explorer:
        assert explorer.stdout is not None
        address = explorer.stdout.readline().strip()
        sets = explorer.stdout.readline()
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with browser.open(address) as page:
            page_text = page.read().decode()
        explorer.send_signal(signal.SIGINT)
        assert explorer.wait(LIMIT_SECONDS) in (0, 130)
    assert sets.startswith("1 image set found")
    return str(page_text)


@pytest.mark.timeout(1200)
def test_every_block_of_the_tutorial_does_what_it_shows(tmp_path: Path, environment: dict[str, str]) -> None:
    verbs = set()
    for language, file, body in FENCE.findall(PAGE.read_text(encoding="utf-8")):
        if language == "text":
            continue  # tests/models/test_demo.py compares what the demo prints
        assert file or language == "console", "a block that is not run"
        if file:
            (tmp_path / file).write_text(body, encoding="utf-8")
            continue
        for command, output in commands(body):
            if command.startswith("bandlens explore"):
                assert "<title>" in looked_at(command, tmp_path, environment)
            else:
                compare(output, printed_by(command, tmp_path, environment))
            verbs.add(command.split()[1])
    assert {"export", "images", "plan", "run", "compare", "explore"} <= verbs
    with Image.open(tmp_path / "wall.png") as wall:
        assert wall.width > 3 * 64
