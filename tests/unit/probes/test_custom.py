"""A user's own probe: a function in a file, identified by its source."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from own_probes import PIXELS, Write, run

from bandlens.core.errors import ProbeError, UsageError
from bandlens.core.records import Condition, Facts, digest_of
from bandlens.probes.arrays import to_numpy
from bandlens.probes.custom import UserProbe, user_family
from bandlens.probes.family import Batch
from bandlens.probes.grid import make_grid

FLIP = '''
def mirror(images, strength, sideways="yes"):
    """Mix an image with its mirror image."""
    other = images[..., ::-1] if sideways == "yes" else images[..., ::-1, :]
    return (1 - strength) * images + strength * other
'''

DIGESTS = [
    "1b7badab9af222c555143b5cb392c44053bc75cdeac60ef2c238335f51662f2d",
    "506ca6d844bac319eb2013cbae7a1cec3347cf34aea0cf2482f90ad5c83842fd",
    "3d3939b830ce3a61f47e11cf530f00b3b13ee7ea41b8ddf2b5d4f2fe7ac7117b",
    "553ff0677547660d994d37be0ce8a0fd444debe6bc1aecbce7a95c8b29ca0ad9",
]


def digests(folder: Path, **table: Any) -> list[str]:
    grid = make_grid({"mirror": {"file": "mine.py", "strength": 0.5} | table}, folder)
    return [condition.digest for condition in grid.conditions[1:]]


def test_the_function_gets_float_images_and_each_combination_of_parameters(tmp_path: Path, write: Write) -> None:
    write(FLIP)
    results = run(tmp_path, {"strength": [0, 1.0], "sideways": ["yes", "no"]}, PIXELS)
    assert len(results) == 4
    images = PIXELS / np.float32(255)
    np.testing.assert_allclose(results["mirror strength=0, sideways=no"], images, atol=1e-7)
    np.testing.assert_allclose(results["mirror strength=1, sideways=yes"], images[..., ::-1], atol=1e-7)
    np.testing.assert_allclose(results["mirror strength=1, sideways=no"], images[..., ::-1, :], atol=1e-7)


def test_defaults_of_the_function_are_the_probes_and_others_are_required(tmp_path: Path, write: Write) -> None:
    write(FLIP)
    grid = make_grid({"mirror": {"file": "mine.py", "strength": 1}}, tmp_path)
    assert str(grid.conditions[1]) == "mirror strength=1, sideways=yes"
    assert grid.families["mirror"].summary == "Mix an image with its mirror image."
    with pytest.raises(UsageError, match="probe mirror: strength has no default; give a value or a list of values"):
        make_grid({"mirror": {"file": "mine.py"}}, tmp_path)


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
    latest = digests(tmp_path)
    write("unrelated = 2\n", "other.py")
    assert digests(tmp_path) == latest
    for name, source in {
        "helper.py": "import deeper, pack.sub.leaf\nX = 2\n",
        "deeper.py": "Y = 2\n",
        "pack/__init__.py": "Q = 2\n",
        "pack/part.py": "Z = 2\n",
        "pack/sub/__init__.py": "R = 2\n",
        "pack/sub/twig.py": "W = 2\n",
    }.items():
        write(source, name)
        predecessor, latest = latest, digests(tmp_path)
        assert latest != predecessor, name
    write("import helper\nfrom pack import part\n" + FLIP + "\n# a remark\n")
    assert digests(tmp_path) != latest


TAKES_SIZE = "def mirror(images, size=3):\n    return images\n"
TAKES_REST = "def mirror(images, *rest):\n    return images\n"


@pytest.mark.parametrize(
    ("source", "table", "message"),
    [
        (None, {}, "probe mirror: no file .*mine.py; `file` is relative to the study's folder"),
        ("x = 1\n", {}, r"mine.py has no function mirror\(images, …\); rename one, or name it: function = "),
        ("def mirror(:\n", {}, "mine.py is not Python: "),
        ("import no_such_module\n", {}, "mine.py does not load: ModuleNotFoundError"),
        ("def mirror():\n    return 1\n", {}, r"mirror in .*mine.py takes no images"),
        ("mirror = max\n", {}, "cannot be used: ValueError: no signature"),
        (TAKES_REST, {}, "mirror in .*mine.py takes \\*rest; name each parameter, if need be in a function of yours"),
        (TAKES_SIZE, {}, "takes size with a default, and is given the images' side in pixels; leave the default out"),
        (FLIP, {"rng": 3}, "probe mirror: rng is a NumPy generator that belongs to the seed, the image and the cond"),
        (FLIP, {"strenght": 1}, r"unknown parameter of probe mirror 'strenght'; did you mean strength\?"),
        (FLIP, {"strength": float("inf")}, "must be a finite number or a string, not inf"),
        (
            FLIP,
            {"files": "none.npy"},
            r"mine.py declares 'none.npy', and its folder has no such file; files = \[…\] names ",
        ),
        (FLIP, {"files": "../here/mine.py"}, "its folder has no such file"),
        (FLIP, {"files": [3]}, "probe mirror: files must be a list of files beside its file, not "),
    ],
)
def test_bad_files_and_parameters(
    tmp_path: Path, write: Write, source: str | None, table: dict[str, Any], message: str
) -> None:
    if source is not None:
        write(source)
    with pytest.raises(UsageError, match=message) as error:
        make_grid({"mirror": {"file": "mine.py"} | table}, tmp_path)
    assert "\n" not in str(error.value)


SALT_AND_PEPPER = """
def mirror(images, share, rng):
    dice = rng.random(images.shape[2:])
    images[:, :, dice < share / 2] = 0
    images[:, :, dice > 1 - share / 2] = 1
    return images
"""


def test_a_function_that_takes_rng_depends_on_seed_image_and_condition_alone(tmp_path: Path, write: Write) -> None:
    write(SALT_AND_PEPPER)
    table = {"share": [0.1, 0.3]}
    images_by_name = run(tmp_path, table, PIXELS, seed=9)
    order = [2, 0]
    permutation = run(tmp_path, table, PIXELS[order], (2**64 - 1, 5), (40, 41), seed=9)
    for name, images in images_by_name.items():
        np.testing.assert_array_equal(permutation[name], images[order])
        single_image = run(tmp_path, table, PIXELS[1:2], (6,), (7,), seed=9)[name]
        np.testing.assert_array_equal(single_image, images[1:2])
    low_share, high_share = ((images != PIXELS / np.float32(255)).any(1) for images in images_by_name.values())
    assert low_share.mean() == pytest.approx(0.1, abs=0.03)
    assert high_share.mean() == pytest.approx(0.3, abs=0.05)
    assert not (low_share <= high_share).all(), "each condition draws anew"
    assert len({mask.tobytes() for mask in high_share}) == 3, "and each image"
    for name, images in run(tmp_path, table, PIXELS, seed=10).items():
        assert not np.array_equal(images, images_by_name[name])


def test_index_seed_and_size_are_given(tmp_path: Path, write: Write) -> None:
    write(
        "def mirror(images, level, index, size, seed):\n    return 0 * images + (level + index + size + seed) / 1000\n"
    )
    images = run(tmp_path, {"level": 500}, PIXELS, positions=(7, 3, 11), seed=40)["mirror level=500"]
    np.testing.assert_allclose(images[:, 0, 0, 0], [0.563, 0.559, 0.567], atol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "random"),
    [("rng", True), ("seed", True), ("index", False), ("size", False), ("level=1", False)],
)
def test_a_probe_is_random_where_it_takes_rng_or_seed(
    tmp_path: Path, write: Write, parameters: str, random: bool
) -> None:
    """Its cells then belong to the study's seed."""
    write(f"def mirror(images, {parameters}):\n    return images\n")
    family = make_grid({"mirror": {"file": "mine.py"}}, tmp_path).families["mirror"]
    assert family.random == random
    assert [parameter.name for parameter in family.parameters] == (["level"] if "level" in parameters else [])


def test_digests_stay_what_they_were(tmp_path: Path, write: Write) -> None:
    """Results of earlier programs are found by their digests."""
    write(FLIP)
    write("import helper\n" + FLIP, "two.py")
    write("X = 1\n", "helper.py")
    write("1, 2\n", "curve.csv")
    probes = {
        "mirror": {"file": "mine.py", "strength": [0, 0.5, 1.0]},
        "swap": {"file": "two.py", "function": "mirror", "files": ["*.csv"], "strength": 1},
    }
    grid = make_grid(probes, tmp_path)
    assert [condition.digest for condition in grid.conditions[1:]] == DIGESTS


DEPENDENT: dict[str, Callable[[NDArray[np.float32], int], NDArray[np.float32]]] = {
    "the clock": lambda images, hours: images * (0.5 if hours > 2 else 1),
    "the images beside it": lambda images, _: images * images.max(axis=(1, 2, 3)).mean(),
}
"""Functions of images and the hours since the run began; tests/processes/dependent_probes.py has those of calls."""


class WatchedRun:
    """A run in which the clock goes on by an hour a batch; the key of an image is its position in the set."""

    def __init__(self, name: str, function: Callable[[NDArray[np.float32], int], NDArray[np.float32]]) -> None:
        self.function, self.images, self.hours = function, 0, 0
        self.probe = UserProbe(self.call, "probe odd", frozenset(), "def odd(images, rng)")
        self.condition = Condition(name, (), digest_of(name), Facts())

    def call(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.images += len(images)
        return self.function(images, self.hours)

    def run(self, count: int, batches: int = 40) -> None:
        """Perturb so many batches of `count` images; ProbeError where the function is refused."""
        for self.hours in range(batches):
            positions = np.arange(count) + self.hours * count
            pixels = np.random.default_rng(self.hours).integers(50, 250, (count, 3, 8, 8), np.uint8)
            pixels[:, 0, 0, 0] = positions % 200
            batch = Batch(pixels, positions.astype(np.uint64), positions, 0)
            self.probe.perturb_batch(np, batch, self.condition, np.empty(pixels.shape, np.float32))


@pytest.mark.parametrize("name", DEPENDENT)
@pytest.mark.parametrize("count", [2, 33])
def test_what_an_image_depends_on_beside_itself_is_found_in_a_run(name: str, count: int) -> None:
    watched = WatchedRun(f"{name}, {count}", DEPENDENT[name])
    line = (
        r"^probe odd gives image (\d+) of the set, counted from 0, other values [a-z ]+; treat each image by itself, "
        r"and draw random numbers from rng alone: def odd\(images, rng\)$"
    )
    with pytest.raises(ProbeError, match=line) as error:
        watched.run(count)
    assert 0 <= int(re.findall(line, str(error.value))[0]) < 40 * count
    with pytest.raises(ProbeError, match=line) as second_error:  # a run goes on with its conditions one by one
        watched.run(count, 1)
    assert str(second_error.value) == str(error.value)


def test_a_watch_computes_less_than_a_hundredth_of_the_images_again() -> None:
    watched = WatchedRun("sound", lambda images, _: images)
    watched.run(32, 320)
    assert 0 < watched.images - 32 * 320 < 32 * 320 / 100


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return images[:, :2]", r"returned shape \(3, 2, 16, 16\); expected an array of shape \(3, 3, 16, 16\)"),
        ("return images.tolist()", "returned list; expected an array"),
        ("return images * 255", r"returned values in \[0, 255\]; expected finite .*, so divide them by 255"),
        ("return images + np.float32(2**-23)", r"returned values in \[.*, 1.00000012\]; expected .*, so clip them"),
        ("return np.ma.masked_invalid(images * np.nan)", r"returned NaN or infinity; expected finite values"),
        ("raise ValueError('no such\\nfilter')", r"failed: ValueError: no such filter \(mine.py, line 4\)"),
        ("return images.astype(object)", "returned object values; expected numbers"),
    ],
)
def test_what_is_no_batch_of_images_is_named(tmp_path: Path, write: Write, body: str, message: str) -> None:
    write(f"import numpy as np\n\ndef mirror(images):\n    {body}\n")
    pixels = PIXELS.copy()
    pixels[0, 0, 0, 0], pixels[0, 0, 0, 1] = 0, 255
    with pytest.raises(ProbeError, match=f"probe mirror {message}") as error:
        run(tmp_path, {}, pixels)
    assert "\n" not in str(error.value)


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "guide" / "probes.md").read_text(encoding="utf-8")
    for name, body in re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(body, encoding="utf-8")
    grid = make_grid(tomllib.loads((tmp_path / "probes.toml").read_text())["probes"], tmp_path)
    perturb = grid.families["salt_and_pepper"].perturb
    assert perturb is not None
    batch = Batch(np.full((2, 3, 64, 64), 99, np.uint8), np.arange(2, dtype=np.uint64), np.arange(2), 0)
    results = perturb(np, batch, grid.conditions[1:], lambda: np.empty((2, 3, 64, 64), np.float32))
    changes = {condition["share"]: (images != np.float32(99 / 255)).mean() for condition, images in results}
    assert changes == {share: pytest.approx(share, rel=0.1) for share in (0.02, 0.1, 0.3)}


def test_tensors_of_torch_may_come_back(tmp_path: Path, write: Write) -> None:
    for body in ("images).double().mul(1 + 2**-52).requires_grad_()", "images.round()).to(torch.bfloat16)"):
        write(f"import torch\ndef mirror(images):\n    return torch.from_numpy({body}\n")
        images = PIXELS / np.float32(255)
        expected = images.round() if "round" in body else images
        np.testing.assert_array_equal(run(tmp_path, {}, PIXELS)["mirror"], expected)


@pytest.mark.parametrize("takes_xp", [True, False])
def test_a_function_that_takes_xp_gets_the_arrays_of_the_run(
    xp: ModuleType, tmp_path: Path, write: Write, takes_xp: bool
) -> None:
    write(
        f"import numpy\ndef mirror(images{', xp' if takes_xp else ', xp_name=0'}):\n"
        f"    module = {'xp' if takes_xp else 'numpy'}\n"
        "    assert isinstance(images, module.ndarray)\n"
        "    return module.flip(images, 3)\n"
    )
    family = user_family("mirror", {"file": "mine.py"}, tmp_path)
    keys, positions = np.arange(3, dtype=np.uint64), np.arange(3)
    batch = Batch(xp.asarray(PIXELS), xp.asarray(keys), positions, 0)
    [(_, images)] = family.perturb(xp, batch, family.conditions({}), lambda: xp.empty(PIXELS.shape, xp.float32))
    np.testing.assert_array_equal(to_numpy(images), (PIXELS / np.float32(255))[..., ::-1])
    assert [parameter.name for parameter in family.parameters] == ([] if takes_xp else ["xp_name"])


def test_a_pattern_names_many_and_modules_bring_theirs(tmp_path: Path, write: Write) -> None:
    write(FLIP)
    write("", "masks/0.npy")
    write("", "masks/1.npy")
    write("import other\n", "named.py")
    write("", "other.py")
    table = {"file": "mine.py", "files": ["masks/*.npy", "named.py"], "strength": 1}
    files = make_grid({"mirror": table}, tmp_path).families["mirror"].files
    assert files == ("masks/0.npy", "masks/1.npy", "mine.py", "named.py", "other.py")


def test_a_built_in_name_is_refused(tmp_path: Path, write: Write) -> None:
    write(FLIP)
    with pytest.raises(UsageError, match="probe lowpass: a built-in probe has that name, so give yours another"):
        make_grid({"lowpass": {"file": "mine.py"}}, tmp_path)


def test_what_rng_gives_does_not_change_with_the_program(tmp_path: Path, write: Write) -> None:
    """Bits of the generator itself, which NumPy keeps, unlike those of distributions."""
    write("def mirror(images, rng):\n    return 0 * images + rng.bit_generator.random_raw() % 1000 / 1000\n")
    values = run(tmp_path, {}, PIXELS, seed=3)["mirror"][:, 0, 0, 0]
    np.testing.assert_allclose(values, [0.062, 0.061, 0.213], atol=1e-6)
