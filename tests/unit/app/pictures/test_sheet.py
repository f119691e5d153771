"""The contact sheet."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bandlens.app.cli import app
from bandlens.app.pictures.sheet import PROBE_TILES, draw_sheet, grid_of, perturbed, read_photograph
from bandlens.core.errors import ImageSetError
from bandlens.export.photographs import photograph_folder
from bandlens.probes.family import Batch
from bandlens.probes.grid import make_grid
from bandlens.probes.images.pack import pack

CAT = photograph_folder() / "chelsea.png"


def test_preview_draws_every_condition(tmp_path: Path) -> None:
    out = tmp_path / "sheets" / "cat.png"
    result = CliRunner().invoke(app, ["probes", "preview", str(CAT), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "under 52 conditions" in result.output
    with Image.open(out) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    # The clean tile is the photograph itself, seen at the sheet's scale.
    with Image.open(CAT) as photograph:
        expected = photograph.convert("RGB").resize((387, 256), Image.Resampling.BILINEAR).crop((82, 16, 306, 240))
    tile = pixels[30 : 30 + 132, 12 : 12 + 132]
    assert abs(tile - np.asarray(expected.resize((132, 132), Image.Resampling.LANCZOS)).astype(int)).mean() < 8


def test_pictures_are_in_the_grids_order_and_differ() -> None:
    pictures = perturbed(read_photograph(CAT), grid_of(None), seed=0)
    assert list(pictures) == list(grid_of(None).conditions)
    assert len({image.tobytes() for image in pictures.values()}) == 52


def test_the_noise_is_that_of_a_study_with_this_photograph(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("astronaut.png", "chelsea.png", "coffee.png"):
        (photos / name).symlink_to(photograph_folder() / name)
    images = pack(photos, tmp_path / "images.set")
    row, seed = images.paths.index("chelsea.png"), 4
    shown, grid = perturbed(read_photograph(CAT), grid_of(None), seed), grid_of(None)
    condition = next(candidate for candidate in grid.conditions if candidate.number("noise_sd") == 0.16)
    batch = Batch(images.pixels, images.keys, np.arange(3), seed)
    perturb = grid.family(condition).perturb
    assert perturb is not None
    [(_, made)] = perturb(np, batch, [condition], lambda: np.empty(images.shape, np.float32))
    np.testing.assert_array_equal(np.round(made[row].transpose(1, 2, 0) * 255).astype(np.uint8), shown[condition])


def test_of_a_map_of_waves_some_are_drawn(tmp_path: Path) -> None:
    grid = make_grid({"fourier": {}, "contrast": {}}, tmp_path)
    pictures = perturbed(read_photograph(CAT), grid, 0)
    counts = Counter(condition.probe for condition in pictures)
    assert counts == {"clean": 1, "fourier": PROBE_TILES, "contrast": 8}
    waves = [condition for condition in grid.conditions if condition.probe == "fourier"]
    shown = [condition for condition in pictures if condition.probe == "fourier"]
    assert (shown[0], shown[-1]) == (waves[0], waves[-1])
    steps = np.diff([waves.index(condition) for condition in shown])
    assert set(steps) == {32}
    draw_sheet(read_photograph(CAT), grid, 0, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width < 1600


def test_a_studys_own_probes(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text('checkpoints = ["a"]\nimages = ["b"]\n[probes]\nlowpass = { cutoff = 0.2 }\n', encoding="utf-8")
    result = CliRunner().invoke(
        app, ["probes", "preview", str(CAT), "--study", str(study), "--out", str(tmp_path / "sheet.png")]
    )
    assert "under 2 conditions" in result.output


def test_a_file_that_is_no_photograph_is_named(tmp_path: Path) -> None:
    file = tmp_path / "notes.jpg"
    file.write_text("not a picture", encoding="utf-8")
    with pytest.raises(ImageSetError, match=r"notes.jpg: .*; name a JPEG, PNG or WebP file"):
        read_photograph(file)
