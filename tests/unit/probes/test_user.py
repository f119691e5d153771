"""A user's own probe: a function in a file, identified by its source."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Sequence
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


def run(
    folder: Path,
    table: dict[str, Any],
    pixels: NDArray[np.uint8],
    keys: Sequence[int] = (5, 6, 2**64 - 1),
    positions: Sequence[int] = (0, 1, 2),
    seed: int = 0,
) -> dict[str, NDArray[np.float32]]:
    grid = make_grid({"mirror": {"file": "mine.py"} | table}, folder)
    ((_, conditions),) = grid.groups([c for c in grid.conditions if c.probe == "mirror"])
    perturb = grid.families["mirror"].perturb
    assert perturb is not None
    batch = Batch(pixels, np.array(keys, np.uint64), np.array(positions), seed)
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


READERS = {
    "as it is loaded": "mask = np.load(HERE / 'masks/0.npy')\ndef mirror(images):\n    return images * mask\n",
    "as it runs": "def mirror(images):\n    return images * np.load(HERE / 'masks/0.npy')\n",
    "below Python's open": (
        "def mirror(images):\n    os.close(os.open(HERE / 'masks/0.npy', os.O_RDONLY))\n    return images\n"
    ),
    "by a link": "def mirror(images):\n    return images * np.load(HERE.with_name('link') / 'masks/0.npy')\n",
    "from where it is": ("def mirror(images):\n    os.chdir(HERE / 'masks')\n    return images * np.load('0.npy')\n"),
    "a module by name, as it is loaded": (
        "part = importlib.import_module('masks.' + 'part')\ndef mirror(images):\n    return images * part.X\n"
    ),
    "a module by name, as it runs": (
        "def mirror(images):\n    return images * importlib.import_module('masks.' + 'part').X\n"
    ),
}


@pytest.mark.parametrize("body", READERS.values(), ids=READERS)
def test_what_it_reads_beside_it_is_part_of_its_identity_or_refused(tmp_path: Path, write: Write, body: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "here")
    folder = tmp_path / "here"
    module = "module" if "import_module" in body else ""
    read = "masks/part.py" if module else "masks/0.npy"
    write(
        f"import importlib, os\nimport numpy as np\nfrom pathlib import Path\nHERE = Path(__file__).parent\n{body}",
        "here/mine.py",
    )
    write("X = 0.5\n", "here/masks/part.py")
    np.save(folder / "masks/0.npy", 0.5)
    with pytest.raises((ProbeError, UsageError)) as caught:
        run(folder, {}, PIXELS)
    assert str(caught.value) == (
        f"probe mirror reads {read}, and nothing says that its results depend on that; add to its table in the study: "
        f'uses = ["{read}"]'
    )
    table = {"file": "mine.py", "uses": [read]}
    before = run(folder, table, PIXELS)
    assert before.keys() == {"mirror"}
    digest = make_grid({"mirror": table}, folder).conditions[1].digest
    write("X = 1.0\n", "here/masks/part.py")
    np.save(folder / "masks/0.npy", 1.0)
    assert make_grid({"mirror": table}, folder).conditions[1].digest != digest
    if "os.open" not in body:
        np.testing.assert_allclose(run(folder, table, PIXELS)["mirror"], before["mirror"] * 2, atol=1e-6)


def test_a_pattern_names_many_and_modules_bring_theirs(tmp_path: Path, write: Write) -> None:
    write(FLIP)
    write("", "masks/0.npy")
    write("", "masks/1.npy")
    write("import other\n", "named.py")
    write("", "other.py")
    table = {"file": "mine.py", "uses": ["masks/*.npy", "named.py"], "strength": 1}
    files = make_grid({"mirror": table}, tmp_path).families["mirror"].files
    assert files == ("masks/0.npy", "masks/1.npy", "mine.py", "named.py", "other.py")


def test_files_that_it_writes_and_those_of_python_and_its_libraries_are_none_of_its_identity(
    tmp_path: Path, write: Write
) -> None:
    """A hidden folder beside it, such as an environment, is Python's."""
    write("", ".venv/lib/big.py")
    write(
        "import email.mime.text, sys\n"
        "from pathlib import Path\n"
        "HERE = Path(__file__).parent\n"
        "sys.path.append(str(HERE / '.venv/lib'))\n"
        "import big\n"
        "def mirror(images):\n"
        "    (HERE / 'log').write_text('x')\n"
        "    (HERE / '.venv/lib/big.py').read_text()\n"
        "    try:\n"
        "        open(HERE / 'no such file')\n"
        "    except OSError:\n"
        "        return images * (big is sys.modules['big'])\n"
    )
    np.testing.assert_allclose(run(tmp_path, {}, PIXELS)["mirror"], PIXELS / 255, atol=1e-7)


@pytest.mark.parametrize("uses", ["none.npy", "/etc/passwd", "../here/mine.py", "", ".", "a\0b", "**x**/"])
def test_uses_names_files_in_the_folder_of_the_probe(tmp_path: Path, write: Write, uses: str) -> None:
    write(FLIP)
    with pytest.raises(
        UsageError, match=r"mine.py uses '.*', and its folder has no such file; uses = \[…\] names files"
    ):
        make_grid({"mirror": {"file": "mine.py", "uses": uses, "strength": 1}}, tmp_path)


@pytest.mark.parametrize("uses", [3, [3], {}, True])
def test_uses_is_a_list_of_names(tmp_path: Path, write: Write, uses: object) -> None:
    write(FLIP)
    with pytest.raises(UsageError, match="probe mirror: uses must be a list of files beside the probe's, not "):
        make_grid({"mirror": {"file": "mine.py", "uses": uses, "strength": 1}}, tmp_path)


def test_it_runs_as_its_digest_says_whatever_bytecode_lies_there(tmp_path: Path, write: Write) -> None:
    """Bytecode is found by a source's time and length, and these are the same after each of the edits."""
    code = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
folder, made = Path(sys.argv[2]), []
import numpy as np, py_compile
from test_user import PIXELS, run
for value in (2, 4, 8):
    for name, text in {
        "mine.py": f"import part as a, pack.leaf as b\\ndef mirror(x):\\n    return x / {value} / a.X / b.Y\\n",
        "part.py": f"X = {value}\\n",
        "pack/leaf.py": f"Y = {value}\\n",
    }.items():
        (folder / name).write_text(text)
        os.utime(folder / name, (1, 1))
        if value == 2:
            py_compile.compile(folder / name)
    (images,) = run(folder, {}, PIXELS).values()
    made.append(round(float(PIXELS.max() / 255 / images.max())))
print(made)
"""
    (tmp_path / "pack").mkdir()
    command = [sys.executable, "-P", "-c", code, str(Path(__file__).parent), str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[8, 64, 512]\n"


def test_two_probes_of_one_name_have_their_own_modules(tmp_path: Path, write: Write) -> None:
    """Also where the function imports them as it runs, and where a package has no __init__."""
    for name, value in {"one": 0.25, "two": 0.5}.items():
        write(
            "def mirror(images):\n    import part_of_mine.leaf\n    return images * part_of_mine.leaf.X\n",
            f"{name}/mine.py",
        )
        write(f"X = {value}\n", f"{name}/part_of_mine/leaf.py")
    for name, value in {"one": 0.25, "two": 0.5}.items():
        np.testing.assert_allclose(run(tmp_path / name, {}, PIXELS)["mirror"], PIXELS / 255 * value, atol=1e-6)


def test_the_file_is_a_module_as_it_loads_and_as_it_runs(tmp_path: Path, write: Write) -> None:
    write(
        "from __future__ import annotations\nimport pickle\nfrom dataclasses import dataclass\n\n\n"
        "@dataclass\nclass Mixed:\n    strength: float\n\n\n"
        "def mirror(images):\n"
        "    return images * pickle.loads(pickle.dumps(Mixed(0.5))).strength\n"
    )
    (images,) = run(tmp_path, {}, PIXELS).values()
    np.testing.assert_array_equal(images, PIXELS / np.float32(255) * np.float32(0.5))
    assert "bandlens_probe_mine" not in sys.modules


def test_a_module_imported_as_it_runs_is_loaded_once(tmp_path: Path, write: Write) -> None:
    write("import numpy as np\nRANDOM = np.random.rand()\n", "helper_once.py")
    write("def mirror(images):\n    import helper_once\n    return images * helper_once.RANDOM\n")
    assert run(tmp_path, {}, PIXELS)["mirror"].max() <= 1
    assert "helper_once" not in sys.modules


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
    together = run(tmp_path, table, PIXELS, seed=9)
    order = [2, 0]
    moved = run(tmp_path, table, PIXELS[order], (2**64 - 1, 5), (40, 41), seed=9)
    for name, images in together.items():
        np.testing.assert_array_equal(moved[name], images[order])
        alone = run(tmp_path, table, PIXELS[1:2], (6,), (7,), seed=9)[name]
        np.testing.assert_array_equal(alone, images[1:2])
    few, many = ((images != PIXELS / np.float32(255)).any(1) for images in together.values())
    assert few.mean() == pytest.approx(0.1, abs=0.03)
    assert many.mean() == pytest.approx(0.3, abs=0.05)
    assert not (few <= many).all(), "each condition draws anew"
    assert len({mask.tobytes() for mask in many}) == 3, "and each image"
    for name, images in run(tmp_path, table, PIXELS, seed=10).items():
        assert not np.array_equal(images, together[name])


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "probes.md").read_text(encoding="utf-8")
    for name, body in re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(body, encoding="utf-8")
    grid = make_grid(tomllib.loads((tmp_path / "probes.toml").read_text())["probes"], tmp_path)
    perturb = grid.families["salt_and_pepper"].perturb
    assert perturb is not None
    batch = Batch(np.full((2, 3, 64, 64), 99, np.uint8), np.arange(2, dtype=np.uint64), np.arange(2), 0)
    made = perturb(np, batch, grid.conditions[1:], lambda: np.empty((2, 3, 64, 64), np.float32))
    changed = {condition["share"]: (images != np.float32(99 / 255)).mean() for condition, images in made}
    assert changed == {share: pytest.approx(share, rel=0.1) for share in (0.02, 0.1, 0.3)}


def test_what_rng_gives_does_not_change_with_the_program(tmp_path: Path, write: Write) -> None:
    """Bits of the generator itself, which NumPy keeps, unlike those of distributions."""
    write("def mirror(images, rng):\n    return 0 * images + rng.bit_generator.random_raw() % 1000 / 1000\n")
    found = run(tmp_path, {}, PIXELS, seed=3)["mirror"][:, 0, 0, 0]
    np.testing.assert_allclose(found, [0.062, 0.061, 0.213], atol=1e-6)


def test_index_seed_and_size_are_given(tmp_path: Path, write: Write) -> None:
    write(
        "def mirror(images, level, index, size, seed):\n    return 0 * images + (level + index + size + seed) / 1000\n"
    )
    made = run(tmp_path, {"level": 500}, PIXELS, positions=(7, 3, 11), seed=40)["mirror level=500"]
    np.testing.assert_allclose(made[:, 0, 0, 0], [0.563, 0.559, 0.567], atol=1e-6)
    write(
        "import numpy as np\n"
        "turned = None\n"
        "def mirror(images, size):\n"
        "    global turned\n"
        "    turned = images[:1, :, ::-1, ::-1] if turned is None else turned\n"
        "    assert len(images) == 3 or np.array_equal(images, turned), 'all but one picture at once'\n"
        "    return images * (size == 16)\n"
    )
    np.testing.assert_allclose(run(tmp_path, {}, PIXELS)["mirror"], PIXELS / 255, atol=1e-7)


@pytest.mark.parametrize(
    ("parameters", "random"),
    [("rng", True), ("seed", True), ("rng, seed", True), ("index", False), ("size", False), ("level=1", False)],
)
def test_a_probe_is_random_where_it_takes_rng_or_seed(
    tmp_path: Path, write: Write, parameters: str, random: bool
) -> None:
    """Its cells then belong to the study's seed."""
    write(f"def mirror(images, {parameters}):\n    return images\n")
    family = make_grid({"mirror": {"file": "mine.py"}}, tmp_path).families["mirror"]
    assert family.random == random
    assert [one.name for one in family.parameters] == (["level"] if "level" in parameters else [])


@pytest.mark.parametrize(
    ("source", "table", "message"),
    [
        (
            "def mirror(images, size=3):\n    return images\n",
            {},
            r"mirror in .*mine.py takes size with a default, and is given the images' side in pixels; leave the "
            "default out, or call the parameter something else",
        ),
        (
            "def mirror(images, rng):\n    return images\n",
            {"rng": 3},
            "probe mirror: rng is a NumPy generator that belongs to the seed, the image and the condition, which its "
            "function is given; call the function's own parameter something else",
        ),
    ],
)
def test_reserved_names_are_no_parameters(
    tmp_path: Path, write: Write, source: str, table: dict[str, Any], message: str
) -> None:
    write(source)
    with pytest.raises(UsageError, match=message):
        make_grid({"mirror": {"file": "mine.py"} | table}, tmp_path)


DEPENDENT = {
    "a global generator": "return np.where(np.random.rand(*images.shape) < level, 0, images)",
    "one mask a call": "return np.where(np.random.rand(*images.shape[2:]) < level, 0, images)",
    "one pixel": "images[:, :, np.random.randint(16), np.random.randint(16)] = np.random.rand()\n    return images",
    "Python's generator": "return images * random.random()",
    "a generator of the batch": "return images * np.random.default_rng(0).random((len(images), 1, 1, 1))",
    "a generator seeded by place": (
        "return np.stack([one * np.random.default_rng(k).random() for k, one in enumerate(images)])"
    ),
    "a mean over the batch": "return np.clip(images - images.mean() + 0.5, 0, 1)",
    "neighbours": "return (images + images[::-1]) / 2",
    "its calls": "calls.append(0)\n    return images / len(calls)",
    "its calls, in an array that it keeps": (
        "calls.append(0)\n    kept[: len(images)] = images / len(calls)\n    return kept[: len(images)]"
    ),
}


KEPT = "calls, kept = [], np.zeros((9, 3, 16, 16), np.float32)"


@pytest.mark.parametrize("body", DEPENDENT.values(), ids=DEPENDENT)
@pytest.mark.parametrize("count", [2, 3])
def test_what_depends_on_more_than_the_image_is_refused(tmp_path: Path, write: Write, body: str, count: int) -> None:
    write(f"import random\nimport numpy as np\n{KEPT}\ndef mirror(images, level=0.5):\n    {body}\n")
    with pytest.raises(ProbeError) as caught:
        run(tmp_path, {}, PIXELS[:count], range(count), range(count))
    assert str(caught.value) == (
        "probe mirror gives an image other values when it is called again or with other images; treat each image by "
        "itself, and draw random numbers from rng alone: def mirror(images, level, rng)"
    )


def test_a_function_that_stays_in_range_with_the_images_of_the_set_may_leave_it_with_others(
    tmp_path: Path, write: Write
) -> None:
    write("def mirror(images):\n    return images + 0.5\n")
    assert run(tmp_path, {}, PIXELS // 2)["mirror"].max() <= 1


def test_it_is_looked_for_in_functions_that_take_rng_too(tmp_path: Path, write: Write) -> None:
    write("import numpy as np\ndef mirror(images, rng):\n    return images * np.random.rand() * rng.random()\n")
    with pytest.raises(ProbeError, match=r"from rng alone: def mirror\(images, rng\)$"):
        run(tmp_path, {}, PIXELS)


def test_a_function_may_fill_the_same_array_each_time(tmp_path: Path, write: Write) -> None:
    write(
        f"import numpy as np\n{KEPT}\n"
        "def mirror(images):\n    kept[: len(images)] = images[..., ::-1]\n    return kept[: len(images)]\n"
    )
    np.testing.assert_allclose(run(tmp_path, {}, PIXELS)["mirror"], PIXELS[..., ::-1] / 255, atol=1e-7)


def test_what_a_function_keeps_does_not_matter_if_images_come_out_the_same(tmp_path: Path, write: Write) -> None:
    write(
        "import numpy as np\n"
        "kept = {}\n"
        "def mirror(images):\n"
        "    mask = kept.setdefault('mask', np.random.default_rng(0).random(images.shape[2:]) < 0.2)\n"
        "    return np.round(np.where(mask, 0, images) * 255) / 255\n"
    )
    assert (run(tmp_path, {}, PIXELS)["mirror"] == 0).any()


@pytest.mark.parametrize(
    "body",
    [
        "return torch.from_numpy(images)",
        "return torch.from_numpy(images).double().requires_grad_()",
        "return torch.from_numpy(images.round()).to(torch.uint8)",
        "return torch.from_numpy(images.round()).to(torch.bfloat16)",
    ],
)
def test_tensors_of_torch_may_come_back(tmp_path: Path, write: Write, body: str) -> None:
    write(f"import torch\ndef mirror(images):\n    {body}\n")
    images = PIXELS / np.float32(255)
    expected = images.round() if "round" in body else images
    np.testing.assert_array_equal(run(tmp_path, {}, PIXELS)["mirror"], expected)


RAISED = {
    "GeneratorExit": "GeneratorExit: enough",
    "SystemExit": "SystemExit: enough",
    "KeyboardInterrupt": "KeyboardInterrupt: enough",
    "StopIteration": "StopIteration: enough",
    "Own": "Own: enough",
    "Shy": "Shy",
}
CLASSES = """
class Own(BaseException):
    pass
class Shy(Exception):
    def __str__(self):
        raise ValueError
"""


@pytest.mark.parametrize(("error", "said"), RAISED.items())
def test_whatever_it_raises_is_one_line(tmp_path: Path, write: Write, error: str, said: str) -> None:
    """In the thread that perturbs, where an interrupt cannot be the user's."""
    raised: list[BaseException] = []

    def attempt(source: str) -> None:
        write(source)
        try:
            run(tmp_path, {}, PIXELS)
        except BaseException as found:  # noqa: BLE001
            raised.append(found)

    for source in (
        f"{CLASSES}def mirror(images):\n    raise {error}('enough')\n",
        f"{CLASSES}raise {error}('enough')\n",
    ):
        thread = threading.Thread(target=attempt, args=(source,))
        thread.start()
        thread.join()
    assert [type(one) for one in raised] == [ProbeError, UsageError]
    assert str(raised[0]) == f"probe mirror failed: {said}"
    assert str(raised[1]) == f"probe mirror: {tmp_path / 'mine.py'} does not load: {said}"


def test_the_users_interrupt_is_no_error_of_the_probe(tmp_path: Path, write: Write) -> None:
    write("import signal\nsignal.raise_signal(signal.SIGINT)\ndef mirror(images):\n    return images\n")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, {}, PIXELS)


@pytest.mark.parametrize(
    ("doc", "summary"),
    [
        ("   ", "mirror of mine.py"),
        ("", "mirror of mine.py"),
        (3, "mirror of mine.py"),
        ("\n    Turns it.\n    More.", "Turns it."),
        ("Turns \x1b[31mit.", "Turns \\x1b[31mit."),
    ],
)
def test_any_docstring_will_do(tmp_path: Path, write: Write, doc: object, summary: str) -> None:
    write(f"def mirror(images):\n    return images\nmirror.__doc__ = {doc!r}\n")
    assert make_grid({"mirror": {"file": "mine.py"}}, tmp_path).families["mirror"].summary == summary


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class A:\n    def __getattr__(self, name):\n        raise OSError('no')\nmirror = A()\n", r"no function"),
        ("mirror = max\n", "cannot be used: ValueError: no signature"),
        ("def __getattr__(name):\n    raise ValueError('no')\n", "cannot be used: ValueError: no$"),
        ("def mirror(images):\n    pass\nmirror.__signature__ = 3\n", "cannot be used: TypeError"),
    ],
)
def test_what_is_no_function_is_named(tmp_path: Path, write: Write, source: str, message: str) -> None:
    write(source)
    with pytest.raises(UsageError, match=message) as caught:
        make_grid({"mirror": {"file": "mine.py"}}, tmp_path)
    assert "\n" not in str(caught.value)


LOOK_ALIKES = {
    "shape alone": ("class A:\n    shape = (3, 3, 16, 16)\n", "A()", "returned A; expected an array"),
    "all of it": (
        "class A:\n"
        "    shape, dtype = (3, 3, 16, 16), np.dtype('f4')\n"
        "    def min(self): raise KeyError\n"
        "    max = min\n",
        "A()",
        "returned A; expected an array",
    ),
    "a list": ("", "images.tolist()", "returned list; expected an array"),
    "a class that lies": (
        "class A:\n    __class__ = property(lambda self: 1 / 0)\n",
        "A()",
        "failed: ZeroDivisionError",
    ),
    "a mask over NaN": ("", "np.ma.masked_invalid(images * np.nan)", r"returned values in \[nan, nan\]"),
    "complex numbers": ("", "images * 1j", "returned complex64 values"),
    "sparse": ("import torch\n", "torch.from_numpy(images).to_sparse()", "failed: TypeError"),
    "meta": ("import torch\n", "torch.empty(images.shape, device='meta')", "failed: "),
}


@pytest.mark.parametrize(("head", "result", "message"), LOOK_ALIKES.values(), ids=LOOK_ALIKES)
def test_what_looks_like_an_array_is_none(tmp_path: Path, write: Write, head: str, result: str, message: str) -> None:
    write(f"import numpy as np\n{head}def mirror(images):\n    return {result}\n")
    with pytest.raises(ProbeError, match=f"probe mirror {message}") as caught:
        run(tmp_path, {}, PIXELS)
    assert "\n" not in str(caught.value)


def test_what_it_prints_goes_to_standard_error(tmp_path: Path, write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    write(
        "import os, subprocess, sys\n"
        "print('loading')\n"
        "def mirror(images):\n"
        "    print('at work')\n"
        "    print('past it', file=sys.__stdout__)\n"
        "    os.write(1, b'below it\\n')\n"
        "    subprocess.run([sys.executable, '-c', 'print(\"a program\")'], check=True)\n"
        "    return images\n"
    )
    run(tmp_path, {}, PIXELS)
    print("result")
    out, err = capfd.readouterr()
    assert out == "result\n"
    assert {"loading", "at work", "past it", "below it", "a program"} <= set(err.splitlines())


def test_what_it_logs_goes_there_too_however_often_it_is_called(
    tmp_path: Path, write: Write, capfd: pytest.CaptureFixture[str]
) -> None:
    """A handler keeps the stream that was standard error when it was made; a stream may be closed."""
    write(
        "import logging, sys\n"
        "logger = logging.getLogger('mirror')\n"
        "logger.propagate = False\n"
        "logger.addHandler(logging.StreamHandler(sys.stderr))\n"
        "def mirror(images):\n    logger.warning('said')\n    return images\n"
    )
    run(tmp_path, {}, PIXELS)
    assert capfd.readouterr() == ("", "said\n" * 4)
    write("import sys\ndef mirror(images):\n    print('said')\n    sys.stdout.close()\n    return images\n")
    run(tmp_path, {}, PIXELS)
    assert capfd.readouterr() == ("", "said\n" * 4)


def test_a_number_that_was_closed_meanwhile_may_be_its_own(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Python collects a file of somebody else's while the function is at work."""
    with (tmp_path / "other").open("w") as other:
        monkeypatch.setattr("builtins.other", other, raising=False)
        write(
            "import os\nnumber = other.fileno()\nother.close()\n"
            "mine, _ = os.pipe()\nassert mine == number\nos.close(mine)\n"
            "def mirror(images):\n    return images\n"
        )
        make_grid({"mirror": {"file": "mine.py"}}, tmp_path)


def test_a_built_in_name_is_refused(tmp_path: Path, write: Write) -> None:
    write(FLIP)
    with pytest.raises(UsageError, match="probe lowpass: a built-in probe has that name, so give yours another"):
        make_grid({"lowpass": {"file": "mine.py"}}, tmp_path)
