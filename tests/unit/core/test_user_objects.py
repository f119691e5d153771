"""A function in memory: its source, helpers and values are its identity, in every process the same."""

from __future__ import annotations

import functools
import inspect
import linecache
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from own_probes import PIXELS, Write

from bandlens.core.errors import ProbeError, UsageError
from bandlens.core.user_functions import user_function
from bandlens.core.user_objects import UserObject
from bandlens.probes.family import Batch
from bandlens.probes.grid import make_grid

CELL = """
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
    return [helper(gaussian_filter(image, sigma)) * STRENGTH.half() for image in images if "a" in NAMES]

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

    def of_cell(value: Any) -> str:
        if isinstance(value, type) and value.__module__ == "__main__":
            return "".join(getsource(member) for member in vars(value).values() if isinstance(member, FunctionType))
        return getsource(value)

    monkeypatch.setattr(inspect, "getsource", of_cell)


def digest(function: Callable[..., Any], folder: Path = Path(), *uses: str) -> str:
    return UserObject("probe blur", function, folder, uses).digest


def test_whatever_its_results_depend_on_is_its_identity() -> None:
    before = digest(cell(CELL).blur)
    assert digest(cell(CELL).blur) == before
    assert digest(cell(CELL.replace("UNUSED = 3", "UNUSED = 4")).blur) == before
    digests = {digest(cell(CELL.replace(*change)).blur) for change in CHANGES}
    assert len(digests | {before}) == len(CHANGES) + 1


def test_modules_of_the_users_count_by_their_source(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    digests = set()
    for value in (1, 2):
        write("import deeper_of_mine\n", "helper_of_mine.py")
        write(f"X = {value}\n", "deeper_of_mine.py")
        digests.add(digest(cell("import helper_of_mine\ndef blur(images):\n    return helper_of_mine.X\n").blur))
        digests.add(digest(cell("def blur(images):\n    import helper_of_mine\n    return helper_of_mine.X\n").blur))
    assert len(digests) == 4


def test_files_that_it_uses_count_and_others_are_refused(tmp_path: Path, write: Write) -> None:
    file = write("0.5", "mask.txt")
    source = f"import pathlib\ndef mirror(images):\n    return images * float(pathlib.{file!r}.read_text())\n"
    table: dict[str, Any] = {"function": cell(source).mirror}
    batch = Batch(PIXELS, np.arange(3, dtype=np.uint64), np.arange(3), 0)
    grid = make_grid({"mirror": table}, tmp_path)
    with pytest.raises(ProbeError, match=r'mirror reads mask.txt, and .* in the study: uses = \["mask.txt"\]'):
        list(grid.families["mirror"].perturb(np, batch, grid.conditions[1:], lambda: np.empty(PIXELS.shape)))
    digests = set()
    for text in ("0.5", "0.25"):
        write(text, "mask.txt")
        grid = make_grid({"mirror": table | {"uses": "mask.txt"}}, tmp_path)
        digests.add(grid.conditions[1].digest)
        [(_, images)] = grid.families["mirror"].perturb(
            np, batch, grid.conditions[1:], lambda: np.empty(PIXELS.shape, np.float32)
        )
        np.testing.assert_allclose(images, PIXELS / 255 * float(text), atol=1e-6)
    assert len(digests) == 2
    assert grid.families["mirror"].files == ("mask.txt",)


def closed(level: float) -> Callable[..., Any]:
    return lambda images: images * level


NO_IDENTITY = {
    "a closure": (closed(0.5), "probe blur: <lambda> takes level from the function that made it, and a closure has no"),
    "no source": (cell("exec('def blur(images): pass')").blur, "probe blur: the source of blur is not known; put it"),
    "a file": (
        cell("import os\nNULL = open(os.devnull)\ndef blur(images):\n    return NULL\n").blur,
        "probe blur: its function uses a value that cannot be pickled (cannot pickle '_io.TextIOWrapper' object)",
    ),
}


@pytest.mark.parametrize(("function", "line"), NO_IDENTITY.values(), ids=NO_IDENTITY)
def test_what_has_no_identity_is_refused(function: Callable[..., Any], line: str) -> None:
    with pytest.raises(UsageError) as caught:
        digest(function)
    assert str(caught.value).startswith(line)


def test_wrapped_and_partial_functions_count_by_what_they_call() -> None:
    one, two = (cell(f"def blur(images):\n    return images * {value}\n").blur for value in (1, 2))
    wrappers: list[Callable[[Any], Any]] = [lambda f: functools.partial(f, 3), functools.cache]
    for wrap in wrappers:
        assert digest(wrap(one)) == digest(wrap(one)) != digest(wrap(two))


def test_its_errors_name_the_line_of_its_cell(tmp_path: Path) -> None:
    blur = cell("\n\ndef blur(images):\n    raise ValueError('no')\n").blur
    function = user_function("probe blur", "blur", {"function": blur}, tmp_path, "images", ProbeError)
    line = r"^probe blur failed: ValueError: no \(line 4 of its cell\)$"
    with pytest.raises(ProbeError, match=line), function.at_work():
        function(PIXELS)
