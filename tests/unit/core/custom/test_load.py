"""A user's code: what its identity covers, what it reads beside that, and whose modules it gets."""

from __future__ import annotations

import functools
import inspect
import linecache
import os
import py_compile
import site
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from own_probes import PIXELS, Write, run

from bandlens.core.custom.call import user_function
from bandlens.core.custom.load import UserObject, is_of_python
from bandlens.core.errors import ProbeError, UsageError
from bandlens.probes.family import Batch
from bandlens.probes.grid import Grid, make_grid

READERS = {
    "as it is loaded": "mask = np.load(HERE / 'masks/0.npy')\ndef mirror(images):\n    return images * mask\n",
    "as it runs": "def mirror(images):\n    return images * np.load(HERE / 'masks/0.npy')\n",
    "below Python's open": (
        "def mirror(images):\n    os.close(os.open(HERE / 'masks/0.npy', os.O_RDONLY))\n    return images\n"
    ),
    "from where it is": ("def mirror(images):\n    os.chdir(HERE / 'masks')\n    return images * np.load('0.npy')\n"),
    "a module by name, as it runs": (
        "def mirror(images):\n    return images * importlib.import_module('.masks.' + 'part', __package__).X\n"
    ),
}


def perturb(grid: Grid, place: int = 1) -> NDArray[np.float32]:
    """`PIXELS` under the condition of `mirror` at this place of the grid."""
    batch = Batch(PIXELS, np.arange(3, dtype=np.uint64), np.arange(3), 0)
    [(_, images)] = grid.families["mirror"].perturb(
        np, batch, [grid.conditions[place]], lambda: np.empty(PIXELS.shape, np.float32)
    )
    return images


@pytest.mark.parametrize("body", READERS.values(), ids=READERS)
def test_what_it_reads_beside_it_is_part_of_its_identity_or_refused(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.chdir(tmp_path)  # since a function goes elsewhere
    folder = tmp_path / "here"
    module = "module" if "import_module" in body else ""
    read = "masks/part.py" if module else "masks/0.npy"
    write(
        f"import importlib, os\nimport numpy as np\nfrom pathlib import Path\nHERE = Path(__file__).parent\n{body}",
        "here/mine.py",
    )
    write("X = 0.5\n", "here/masks/part.py")
    np.save(folder / "masks/0.npy", 0.5)
    with pytest.raises((ProbeError, UsageError)) as error:
        run(folder, {}, PIXELS)
    assert str(error.value) == (
        f"probe mirror reads {read}, and nothing says that its results depend on that; add to its table in the study: "
        f'uses = ["{read}"]'
    )
    table = {"file": "mine.py", "uses": [read]}
    images = run(folder, table, PIXELS)["mirror"]
    digest = make_grid({"mirror": table}, folder).conditions[1].digest
    write("X = 1.0\n", "here/masks/part.py")
    np.save(folder / "masks/0.npy", 1.0)
    assert make_grid({"mirror": table}, folder).conditions[1].digest != digest
    if "os.open" not in body:
        np.testing.assert_allclose(run(folder, table, PIXELS)["mirror"], images * 2, atol=1e-6)


def test_files_that_it_writes_and_those_of_python_and_its_libraries_are_none_of_its_identity(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hidden folder beside it, such as an environment, is Python's, and so is the environment that runs it."""
    assert is_of_python(f"{site.getusersitepackages()}/library/__init__.py")
    assert not is_of_python(f"{sys.prefix}/src/app/probes.py")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    write("", ".venv/lib/big.py")
    write("", "env/share/zones")
    write(
        "import email.mime.text, sys\n"
        "from pathlib import Path\n"
        "HERE = Path(__file__).parent\n"
        "sys.path.append(str(HERE / '.venv/lib'))\n"
        "import big\n"
        "def mirror(images):\n"
        "    (HERE / 'log').write_text('x')\n"
        "    (HERE / '.venv/lib/big.py').read_text() + (HERE / 'env/share/zones').read_text()\n"
        "    try:\n"
        "        open(HERE / 'no such file')\n"
        "    except OSError:\n"
        "        return images * (big is sys.modules['big'])\n"
    )
    np.testing.assert_allclose(run(tmp_path, {}, PIXELS)["mirror"], PIXELS / 255, atol=1e-7)


def test_it_runs_as_its_digest_says_whatever_bytecode_lies_there(tmp_path: Path, write: Write) -> None:
    """Bytecode is found by a source's time and length, and these are the same after each of the edits."""
    quotients = []
    for value in (2, 4, 8):
        for name, text in {
            "mine.py": f"import part as a, pack.leaf as b\ndef mirror(x):\n    return x / {value} / a.X / b.Y\n",
            "part.py": f"X = {value}\n",
            "pack/leaf.py": f"Y = {value}\n",
        }.items():
            os.utime(write(text, name), (1, 1))
            if value == 2:
                py_compile.compile(str(tmp_path / name))
        (images,) = run(tmp_path, {}, PIXELS).values()
        quotients.append(round(float(PIXELS.max() / 255 / images.max())))
    assert quotients == [8, 64, 512]


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


def test_names_of_other_modules_and_sys_path_stay_what_they_are(tmp_path: Path, write: Write) -> None:
    """A module beside the file hides one of Python's from its own imports alone, and modules may need each other."""
    write("VALUE = 0.5\n", "random.py")
    write("import mine\ndef half(images):\n    return images * mine.random.VALUE\n", "helper.py")
    write(
        "import random, secrets, sys\nfrom helper import *\nfrom pathlib import Path\n"
        "def mirror(images):\n    return half(images) * (secrets.choice([1]) == 1)\n"
    )
    path, names = list(sys.path), set(sys.modules)
    assert np.allclose(run(tmp_path, {}, PIXELS)["mirror"], PIXELS / 255 * 0.5, atol=1e-6)
    assert sys.path == path
    assert not hasattr(sys.modules["random"], "VALUE")
    assert {name.partition("_user_")[0] for name in set(sys.modules) - names} <= {"bandlens", "secrets"}


def test_a_function_that_was_loaded_stays_what_it_was_as_its_file_changes(tmp_path: Path, write: Write) -> None:
    """Its modules are its own also where it imports them as it runs, and where a package has no __init__."""
    grids = []
    for value in (0.25, 0.5):
        write(f"VALUE = {value}\n", "part.py")
        write(f"VALUE = {value}\n", "pack_of_mine/leaf.py")
        write(
            "import part\ndef mirror(images):\n    import part as later, pack_of_mine.leaf\n"
            "    return images * later.VALUE * pack_of_mine.leaf.VALUE\n"
        )
        grids.append(make_grid({"mirror": {"file": "mine.py"}}, tmp_path))
    for grid, value in zip(grids, (0.25, 0.5), strict=True):
        np.testing.assert_allclose(perturb(grid), PIXELS / 255 * value**2, atol=1e-6)


def test_versions_of_a_file_leave_neither_finders_nor_modules(tmp_path: Path, write: Write) -> None:
    write("", "part.py")
    states = []
    for value in range(10):
        write(f"import part\ndef mirror(images):\n    return images * {value / 10}\n")
        (images,) = run(tmp_path, {}, PIXELS).values()
        np.testing.assert_allclose(images, PIXELS / 255 * (value / 10), atol=1e-6)
        states.append((len(sys.meta_path), len(sys.modules)))
    assert len(set(states)) == 1


def test_what_it_read_at_any_time_spoils_what_comes_after(tmp_path: Path, write: Write) -> None:
    """It may have kept what it read."""
    write("0.5", "mask.txt")
    write(
        "from pathlib import Path\nmasks = []\n"
        "def mirror(images, strength):\n"
        "    masks[:] = masks or [float(Path(__file__).with_name('mask.txt').read_text())]\n"
        "    return images * masks[0]\n"
    )
    grid = make_grid({"mirror": {"file": "mine.py", "strength": [1, 2]}}, tmp_path)
    for place in (1, 2):
        with pytest.raises(ProbeError, match=r"^probe mirror reads mask.txt, and nothing says that"):
            perturb(grid, place)


CELL = """
import itertools
import numpy as np
from scipy.ndimage import gaussian_filter

MASK = np.linspace(0, 1, 16)
NAMES = {"a", "b", "c"}

class Strength:
    def __init__(self, value):
        self.value = value
    def half(self):
        return FACTOR * self.value

FACTOR = 0.5
STRENGTH = Strength(2)

def helper(images):
    return images * MASK if len(images) else blur(images)

def blur(images, sigma=1):
    return [helper(gaussian_filter(image, sigma)) * STRENGTH.half() for image in itertools.chain(images) if NAMES]

UNUSED = 3
"""
CHANGES = [
    ("np.linspace(0, 1, 16)", "np.linspace(0, 2, 16)"),
    ('"c"', '"d"'),
    ("FACTOR * self.value", "self.value * FACTOR"),
    ("FACTOR = 0.5", "FACTOR = 0.25"),
    ("Strength(2)", "Strength(3)"),
    ("images * MASK", "MASK * images"),
    ("sigma=1", "sigma=2"),
    ("import gaussian_filter", "import uniform_filter as gaussian_filter"),
]


def cell(source: str) -> ModuleType:
    """Run the text of a notebook's cell, whose source Python knows as it knows that of a cell."""
    module = ModuleType("__main__")
    module.__file__ = f"<cell {len(linecache.cache)}>"
    linecache.cache[module.__file__] = (len(source), None, source.splitlines(keepends=True), module.__file__)
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    return module


@pytest.fixture(autouse=True)
def sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes of a cell are looked for in its text, since these modules are not in `sys.modules`."""
    getsource = inspect.getsource

    def cell_source(value: Any) -> str:
        if isinstance(value, type) and value.__module__ == "__main__":
            return "".join(getsource(member) for member in vars(value).values() if isinstance(member, FunctionType))
        return getsource(value)

    monkeypatch.setattr(inspect, "getsource", cell_source)


def digest(function: Callable[..., Any], folder: Path = Path(), *uses: str) -> str:
    return UserObject("probe blur", function, folder, uses).digest


def test_whatever_its_results_depend_on_is_its_identity() -> None:
    identity = digest(cell(CELL).blur)
    assert digest(cell(CELL.replace("UNUSED = 3", "UNUSED = 4")).blur) == identity
    digests = {digest(cell(CELL.replace(*change)).blur) for change in CHANGES}
    assert len(digests | {identity}) == len(CHANGES) + 1


def test_modules_of_the_users_count_by_their_source(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    digests = set()
    for value in (1, 2):
        write("import deeper_of_mine\n", "helper_of_mine.py")
        write(f"X = {value}\n", "deeper_of_mine.py")
        monkeypatch.delitem(sys.modules, "helper_of_mine", raising=False)
        imports = "import helper_of_mine, pydoc_data.topics"
        inside = cell(f"def blur(images):\n    {imports}\n    return helper_of_mine.X\n").blur
        above = "import helper_of_mine\ndef blur(images):\n    return helper_of_mine.X\n"
        digests |= {digest(inside), digest(cell(above).blur), digest(inside)}
    assert (len(digests), "pydoc_data" in sys.modules) == (4, False), "of libraries the names alone count"


def scaler(level: float) -> Callable[..., Any]:
    return lambda images: images * level


NO_IDENTITY = {
    "a closure": (scaler(0.5), "probe blur: <lambda> takes level from the function that made it, and a closure has no"),
    "no source": (cell("exec('def blur(images): pass')").blur, "probe blur: the source of blur is not known; put it"),
    "a file": (
        cell("import os\nNULL = open(os.devnull)\ndef blur(images):\n    return NULL\n").blur,
        "probe blur: its function uses a value that cannot be pickled (cannot pickle '",
    ),
}


@pytest.mark.parametrize(("function", "line"), NO_IDENTITY.values(), ids=NO_IDENTITY)
def test_what_has_no_identity_is_refused(function: Callable[..., Any], line: str) -> None:
    with pytest.raises(UsageError) as error:
        digest(function)
    assert str(error.value).startswith(line)


def test_wrapped_and_partial_functions_count_by_what_they_call() -> None:
    blur, blur_2 = (cell(f"def blur(images):\n    return images * {value}\n").blur for value in (1, 2))
    wrappers: list[Callable[[Any], Any]] = [lambda f: functools.partial(f, 3), functools.cache]
    for wrap in wrappers:
        assert digest(wrap(blur)) == digest(wrap(blur)) != digest(wrap(blur_2))


def test_its_errors_name_the_line_of_its_cell(tmp_path: Path) -> None:
    blur = cell("\n\ndef blur(images):\n    raise ValueError('no')\n").blur
    function = user_function("probe blur", "blur", {"function": blur}, tmp_path, "images", ProbeError)
    line = r"^probe blur failed: ValueError: no \(line 4 of its cell\)$"
    with pytest.raises(ProbeError, match=line), function.at_work():
        function(PIXELS)
