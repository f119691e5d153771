"""A user's own probe: a function in a file, identified by its source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bandlens.errors import ProbeError, UsageError
from bandlens.probes.family import Batch
from bandlens.probes.grid import make_grid

FLIP = '''
def mirror(images, strength, sideways="yes"):
    """Mix an image with its mirror image."""
    other = images[..., ::-1] if sideways == "yes" else images[..., ::-1, :]
    return (1 - strength) * images + strength * other
'''

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(source: str, name: str = "mine.py") -> Path:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(source, encoding="utf-8")
        return file

    return write


def run(folder: Path, table: dict[str, Any], pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    grid = make_grid({"mirror": {"file": "mine.py"} | table}, folder)
    ((_, conditions),) = grid.groups([c for c in grid.conditions if c.probe == "mirror"])
    perturb = grid.families["mirror"].perturb
    batch = Batch(pixels, np.arange(len(pixels), dtype=np.uint64), np.arange(len(pixels)), 0)
    made = perturb(np, batch, conditions, lambda: np.empty(pixels.shape, np.float32))
    return {str(condition): images.copy() for condition, images in made}


def digests(folder: Path, **table: Any) -> list[str]:
    grid = make_grid({"mirror": {"file": "mine.py", "strength": 0.5} | table}, folder)
    return [condition.digest for condition in grid.conditions[1:]]


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), dtype=np.uint8)


def test_the_function_gets_float_images_and_each_combination_of_parameters(tmp_path: Path, write: Write) -> None:
    write(FLIP)
    made = run(tmp_path, {"strength": [0, 1.0], "sideways": ["yes", "no"]}, PIXELS)
    assert len(made) == 4
    images = PIXELS / np.float32(255)
    np.testing.assert_allclose(made["mirror strength=0 sideways=no"], images, atol=1e-7)
    np.testing.assert_allclose(made["mirror strength=1.0 sideways=yes"], images[..., ::-1], atol=1e-7)
    np.testing.assert_allclose(made["mirror strength=1.0 sideways=no"], images[..., ::-1, :], atol=1e-7)


def test_defaults_of_the_function_are_the_probes_and_others_are_required(tmp_path: Path, write: Write) -> None:
    write(FLIP)
    grid = make_grid({"mirror": {"file": "mine.py", "strength": 1}}, tmp_path)
    assert str(grid.conditions[1]) == "mirror strength=1 sideways=yes"
    assert grid.families["mirror"].summary == "Mix an image with its mirror image."
    with pytest.raises(UsageError, match="probe mirror: strength has no default; give a value or a list of values"):
        make_grid({"mirror": {"file": "mine.py"}}, tmp_path)


def test_another_name_for_the_function(tmp_path: Path, write: Write) -> None:
    write(FLIP)
    grid = make_grid({"swap": {"file": "mine.py", "function": "mirror", "strength": 1}}, tmp_path)
    assert grid.conditions[1].probe == "swap"


def test_the_digest_follows_the_source_and_the_local_modules_that_it_imports(tmp_path: Path, write: Write) -> None:
    write("import helper\nfrom pack import part\n" + FLIP)
    write("import deeper, pack.sub.leaf\nX = 1\n", "helper.py")
    write("", "pack/sub/__init__.py")
    write("from .. import part\nfrom . import twig\n", "pack/sub/leaf.py")
    write("W = 1\n", "pack/sub/twig.py")
    write("Y = 1\n", "deeper.py")
    write("", "pack/__init__.py")
    write("Z = 1\n", "pack/part.py")
    write("unrelated = 1\n", "other.py")
    before = digests(tmp_path)
    write("unrelated = 2\n", "other.py")
    assert digests(tmp_path) == before
    for name, changed in {
        "helper.py": "import deeper, pack.sub.leaf\nX = 2\n",
        "deeper.py": "Y = 2\n",
        "pack/__init__.py": "Q = 2\n",
        "pack/part.py": "Z = 2\n",
        "pack/sub/__init__.py": "R = 2\n",
        "pack/sub/twig.py": "W = 2\n",
    }.items():
        write(changed, name)
        after = digests(tmp_path)
        assert after != before, name
        before = after
    write("import helper\nfrom pack import part\n" + FLIP + "\n# a remark\n")
    assert digests(tmp_path) != before


def test_the_file_runs_with_the_modules_beside_it_as_they_are_now(tmp_path: Path, write: Write) -> None:
    write("import helper_now\ndef mirror(images):\n    return images * helper_now.FACTOR\n")
    for factor in (0.5, 0.25):
        write(f"FACTOR = {factor}\n", "helper_now.py")
        made = run(tmp_path, {}, PIXELS)
        np.testing.assert_allclose(made["mirror"], PIXELS / 255 * factor, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return images[:, :2]",
            r"probe mirror returned shape \(3, 2, 16, 16\); expected an array of shape \(3, 3, 16, 16\)",
        ),
        ("return None", "probe mirror returned NoneType; expected an array of shape"),
        ("return images * 2", r"returned values in \[0, 2\]; expected finite values in \[0, 1\], so clip them"),
        ("return images * float('nan')", r"returned values in \[nan, nan\]"),
        ("raise ValueError('no such\\nfilter')", "probe mirror failed: ValueError: no such filter"),
        ("return images.astype(object)", "probe mirror returned object values; expected numbers"),
    ],
)
def test_what_is_no_batch_of_images_is_named(tmp_path: Path, write: Write, body: str, message: str) -> None:
    write(f"def mirror(images):\n    {body}\n")
    pixels = PIXELS.copy()
    pixels[0, 0, 0, 0], pixels[0, 0, 0, 1] = 0, 255
    with pytest.raises(ProbeError, match=message) as caught:
        run(tmp_path, {}, pixels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "table", "message"),
    [
        (None, {}, "probe mirror: no file .*mine.py; `file` is relative to the study's folder"),
        ("x = 1\n", {}, r"mine.py has no function mirror\(images, …\)"),
        ("def mirror(:\n", {}, "mine.py is not Python: "),
        ("import no_such_module\n", {}, "mine.py does not load: ModuleNotFoundError"),
        ("def mirror():\n    return 1\n", {}, r"mirror in .*mine.py takes no images"),
        (FLIP, {"strenght": 1}, r"unknown parameter of probe mirror 'strenght'; did you mean strength\?"),
        (FLIP, {"strength": float("inf")}, "must be a finite number or a string, not inf"),
        (FLIP, {"strength": [[1]]}, r"strength must be a finite number or a string, not \[1\]"),
        (
            "def mirror(images, *rest):\n    return images\n",
            {},
            "mirror in .*mine.py takes \\*rest; name each parameter",
        ),
    ],
)
def test_bad_files_and_parameters(
    tmp_path: Path, write: Write, source: str | None, table: dict[str, Any], message: str
) -> None:
    if source is not None:
        write(source)
    with pytest.raises(UsageError, match=message) as caught:
        make_grid({"mirror": {"file": "mine.py"} | table}, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_built_in_name_is_refused(tmp_path: Path, write: Write) -> None:
    write(FLIP)
    with pytest.raises(UsageError, match="probe lowpass: a built-in probe has that name, so give yours another"):
        make_grid({"lowpass": {"file": "mine.py"}}, tmp_path)
