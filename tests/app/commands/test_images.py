"""`bandlens images pack` and `check`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from bandlens.app.commands.images import app
from bandlens.errors import ImageSetError, UsageError


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, path in enumerate(["n01440764/a.jpg", "n01443537/b.png"]):
        (tmp_path / "photos" / path).parent.mkdir(parents=True)
        array = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / "photos" / path)
    (tmp_path / "photos" / "n01440764" / "c.jpg").write_text("not an image")
    return tmp_path / "photos"


def test_pack_and_check(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert isinstance(run("pack", photos, "--out", out).exception, ImageSetError)
    result = run("pack", photos, "--out", out, "--skip-broken", "--workers", 2, "--size", 32, "--resize", 32, "--json")
    assert result.exit_code == 0, result.output
    [row] = json.loads(result.stdout)
    assert (row["images"], row["labelled"], row["classes"], row["bytes"]) == (2, True, 2, 2 * 3 * 32 * 32)
    assert row["skipped"] == [{"path": "n01440764/c.jpg", "reason": "not a JPEG, PNG, WEBP file"}]
    assert row["images_per_second"] > 0

    checked = run("check", out)
    assert checked.exit_code == 0
    assert row["digest"] in checked.stdout
    assert "left out n01440764/c.jpg: not a JPEG" in checked.stderr
    [again] = json.loads(run("check", out, "--json").stdout)
    assert again["digest"] == row["digest"]


def test_errors_reach_the_command_line(photos: Path, tmp_path: Path) -> None:
    assert isinstance(run("check", photos).exception, UsageError)
    assert isinstance(run("pack", tmp_path / "nowhere", "--out", tmp_path / "set").exception, UsageError)
    assert run("pack", photos).exit_code == 2
