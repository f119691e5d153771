"""Contact sheets, and walls of images: which tiles they have, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import Command, ask
from typer.testing import CliRunner

from bandlens.app.cli.main import app
from bandlens.app.study.file import grid_of
from bandlens.app.study.set_lookup import Conditions
from bandlens.core.errors import UsageError
from bandlens.export.reference_images import PHOTOGRAPH_FOLDER
from bandlens.probes.contact_sheet import GAP, MARGIN, TILE, draw_tiles, perturbed, read_photograph, stretched
from bandlens.probes.family import Batch
from bandlens.probes.grid import make_grid
from bandlens.probes.images.image_set import open_image_set
from bandlens.probes.images.pack import pack

CAT = PHOTOGRAPH_FOLDER / "chelsea.jpg"


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


def test_the_noise_is_that_of_a_study_with_this_photograph(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("astronaut.jpg", "chelsea.jpg", "coffee.jpg"):
        (photos / name).symlink_to(PHOTOGRAPH_FOLDER / name)
    images = pack(photos, tmp_path / "images.set")
    row, seed = images.paths.index("chelsea.jpg"), 4
    pictures, grid = perturbed(read_photograph(CAT), grid_of(None), seed), grid_of(None)
    condition = next(candidate for candidate in grid.conditions if candidate.number("noise_sd") == 0.16)
    batch = Batch(images.pixels, images.keys, np.arange(3), seed)
    perturb = grid.family(condition).perturb
    assert perturb is not None
    [(_, noisy)] = perturb(np, batch, [condition], lambda: np.empty(images.shape, np.float32))
    np.testing.assert_array_equal(np.round(noisy[row].transpose(1, 2, 0) * 255).astype(np.uint8), pictures[condition])


def wall(command: Command, explored: Path, query: str, *options: str) -> tuple[str, Path]:
    out = explored / "wall.png"
    out.unlink(missing_ok=True)
    place = (explored / "images.set", "--query", query, "--out", out, "--db", explored / "results.duckdb", *options)
    answer = command("images", "show", *place)
    return (answer.out if answer.code == 0 else answer.err), out


def tile(sheet: Path, x: int) -> np.ndarray:
    return np.asarray(Image.open(sheet))[MARGIN : MARGIN + TILE, MARGIN + x : MARGIN + x + TILE]


def tile_of(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.LANCZOS))


def test_each_row_is_a_tile_clean_and_perturbed(command: Command, explored: Path) -> None:
    clause = "WHERE probe = 'critical_band' AND checkpoint = 'net_0' ORDER BY ALL LIMIT 2"
    text, out = wall(command, explored, f"SELECT image_index, probe, parameters, confidence FROM flip {clause}")
    assert text == f"{out}: 2 images\n"
    images = open_image_set(explored / "images.set")
    rows = ask(explored / "results.duckdb", f"SELECT image_index, probe, parameters::VARCHAR FROM flip {clause}")
    digests = dict(ask(explored / "results.duckdb", "SELECT parameters::VARCHAR, digest FROM condition"))
    conditions = Conditions()
    for number, (index, probe, parameters) in enumerate(rows):
        x = number * (2 * TILE + 2 * GAP)
        np.testing.assert_array_equal(tile(out, x), tile_of(images.pixels[index].transpose(1, 2, 0).copy()))
        noisy = conditions.apply(images, index, conditions.find(probe, parameters, digests[parameters]), 3)
        np.testing.assert_array_equal(tile(out, x + TILE), tile_of(noisy))


def test_a_picture_that_is_nearly_black_is_brightened(command: Command, explored: Path) -> None:
    row = "SELECT 0 AS image_index, 'highpass' AS probe, parameters FROM condition WHERE probe = 'highpass'"
    text, out = wall(command, explored, f"{row} AND parameters.cutoff = 0.3")
    assert text == f"{out}: 1 image\n"
    pixels = open_image_set(explored / "images.set").pixels[:1]
    grid = make_grid({"highpass": {"cutoff": [0.3]}}, Path())
    dark = perturbed(pixels[0], grid, 3)[grid.conditions[-1]]
    assert stretched(dark)[1]
    np.testing.assert_array_equal(tile(out, TILE)[20:], tile_of(stretched(dark)[0])[20:])  # a note is above


def test_a_probe_of_ones_own_by_its_study_file(command: Command, explored: Path) -> None:
    query = "SELECT path, probe, parameters FROM image, condition WHERE probe = 'blur' ORDER BY path LIMIT 3"
    text, out = wall(command, explored, query)
    assert text == "bandlens: blur is a probe of one's own; name the study file that has it\n"
    assert not out.exists()
    text, out = wall(command, explored, query, "--study", str(explored / "small.toml"))
    assert text == f"{out}: 3 images\n"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT 1 AS x", "the query has neither image_index nor path, which say what images to show; select one"),
        ("FROM image", "the query has the number of an image set, as tables do; select the set's name instead"),
        ("SELECT 40 AS image_index", "row 1 of the query is of no image of images; show another set"),
        (
            "SELECT '0/1.png ' AS path",
            "row 1 of the query is of no image of images; did you mean 0/1.png or 0/31.png or 0/21.png?; "
            "show another set",
        ),
        (
            "SELECT 0 AS image_index, 'lowpass' AS probe, '{\"cutoff\": 0.77}' AS parameters",
            "there are no results of lowpass {\"cutoff\": 0.77} on images; add WHERE image_set = 'images'",
        ),
    ],
)
def test_what_is_no_wall(command: Command, explored: Path, query: str, message: str) -> None:
    text, out = wall(command, explored, query)
    assert text == f"bandlens: {message}\n"
    assert not out.exists()


@pytest.mark.parametrize("name", ["wall.docx", "wall.jpg"])
def test_a_picture_is_written_under_no_other_ending(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: the picture is PNG; name it .*wall.png"):
        draw_tiles([], 1, tmp_path / name)
