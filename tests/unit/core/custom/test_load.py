"""Custom functions: what their identity covers, and whose modules a file gets."""

from __future__ import annotations

import functools
import linecache
import os
import py_compile
import string
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from own_probes import PIXELS, Write, run

from bandlens.core.custom.call import user_function
from bandlens.core.errors import ProbeError, UsageError
from bandlens.probes.family import Batch
from bandlens.probes.grid import Grid, make_grid


def perturb(grid: Grid, place: int = 1) -> NDArray[np.float32]:
    """`PIXELS` under the condition of `mirror` at this place of the grid."""
    batch = Batch(PIXELS, np.arange(3, dtype=np.uint64), np.arange(3), 0)
    [(_, images)] = grid.families["mirror"].perturb(
        np, batch, [grid.conditions[place]], lambda: np.empty(PIXELS.shape, np.float32)
    )
    return images


def test_declared_files_are_part_of_its_identity(tmp_path: Path, write: Write) -> None:
    write(
        "import importlib\nimport numpy as np\nfrom pathlib import Path\nHERE = Path(__file__).parent\n"
        "def mirror(images):\n"
        "    part = importlib.import_module('.masks.' + 'part', __package__)\n"
        "    return images * np.load(HERE / 'masks/0.npy') * part.X\n"
    )
    table = {"file": "mine.py", "files": ["masks/part.py", "masks/0.npy"]}
    digests = set()
    for mask, factor in ((0.5, 0.5), (1.0, 0.5), (1.0, 1.0)):
        write(f"X = {factor}\n", "masks/part.py")
        np.save(tmp_path / "masks/0.npy", mask)
        grid = make_grid({"mirror": table}, tmp_path)
        digests.add(grid.conditions[1].digest)
        np.testing.assert_allclose(perturb(grid), PIXELS / 255 * mask * factor, atol=1e-6)
    assert len(digests) == 3


def test_a_module_that_is_not_declared_is_not_found(tmp_path: Path, write: Write) -> None:
    """An import by a name that is made as it runs, which nobody can see in the source."""
    write("X = 1\n", "masks/part.py")
    write(
        "import importlib\ndef mirror(images):\n"
        "    return images * importlib.import_module('.masks.' + 'part', __package__).X\n"
    )
    line = r'ModuleNotFoundError: masks/part.py is not declared; add it to .*: files = \["masks/part.py"\] \(mine.py, l'
    with pytest.raises(ProbeError, match=line):
        run(tmp_path, {}, PIXELS)
    assert run(tmp_path, {"files": "masks/part.py"}, PIXELS)


def test_a_version_is_part_of_the_identity_of_a_file(tmp_path: Path, write: Write) -> None:
    write("def mirror(images):\n    return images\n")
    tables: list[dict[str, Any]] = [{}, {"version": "1"}, {"version": "2"}, {"version": "1"}]
    grids = [make_grid({"mirror": {"file": "mine.py", **table}}, tmp_path) for table in tables]
    digests = [grid.conditions[1].digest for grid in grids]
    assert digests[1] == digests[3]
    assert len(set(digests)) == 3
    for version in ("", 2):
        with pytest.raises(UsageError, match='probe mirror: version must be text, such as version = "1", not '):
            make_grid({"mirror": {"file": "mine.py", "version": version}}, tmp_path)


@pytest.mark.parametrize("key", ["files", "version"])
def test_a_parameter_that_is_called_as_a_key_is_refused(tmp_path: Path, write: Write, key: str) -> None:
    write(f"def mirror(images, {key}='1'):\n    return images\n")
    with pytest.raises(UsageError, match=f"takes {key}, which is a key of its table in the study; call the parameter"):
        make_grid({"mirror": {"file": "mine.py"}}, tmp_path)


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


def cell(source: str) -> ModuleType:
    """Run the text of a notebook's cell, whose source Python knows as it knows that of a cell."""
    module = ModuleType("__main__")
    module.__file__ = f"<cell {len(linecache.cache)}>"
    linecache.cache[module.__file__] = (len(source), None, source.splitlines(keepends=True), module.__file__)
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    return module


class Shape:
    sigma = 1


class Pickled:
    """An object whose pickle says nothing of its state."""

    def __init__(self) -> None:
        self.sigma = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return Pickled, ()


SHAPE, PICKLED, LEVELS = Shape(), Pickled(), [1]


def by_class(images: Any) -> Any:
    return images * SHAPE.sigma


def by_pickled(images: Any) -> Any:
    return images * PICKLED.sigma


def by_attribute(images: Any) -> Any:
    return images * getattr(by_attribute, "sigma", 1)


def by_globals(images: Any) -> Any:
    return images * globals()["LEVELS"][0]


def by_module(images: Any) -> Any:
    return images * getattr(string, "sigma", 1)


@functools.wraps(by_class)
def wrapped(images: Any) -> Any:
    return by_class(images)


@functools.wraps(by_class)
def halved(images: Any) -> Any:
    return by_class(images) * 0.5


PAIR = [lambda images: images, lambda images: images * 0.5]  # two on one line

CHANGES: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[[pytest.MonkeyPatch], None]]] = {
    "a class attribute": (by_class, by_class, lambda patch: patch.setattr(Shape, "sigma", 2)),
    "the state of a module": (by_module, by_module, lambda patch: patch.setattr(string, "sigma", 2, raising=False)),
    "a function's attribute": (
        by_attribute,
        by_attribute,
        lambda patch: patch.setattr(by_attribute, "sigma", 2, False),
    ),
    "another wrapper of a function": (wrapped, halved, lambda _: None),
    "another function on the line": (PAIR[0], PAIR[1], lambda _: None),
    "what its pickle leaves out": (by_pickled, by_pickled, lambda patch: patch.setattr(PICKLED, "sigma", 2)),
    "globals by name": (by_globals, by_globals, lambda patch: patch.setitem(globals(), "LEVELS", [2])),
}


def digest(function: Callable[..., Any], **table: Any) -> str:
    table = {"function": function, **table}
    return user_function("probe blur", "blur", table, Path(), "images", ProbeError).code.digest


@pytest.mark.parametrize(("before", "after", "change"), CHANGES.values(), ids=CHANGES)
def test_a_function_in_memory_is_never_taken_for_what_it_was(
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[..., Any],
    after: Callable[..., Any],
    change: Callable[[pytest.MonkeyPatch], None],
) -> None:
    earlier = digest(before)
    change(monkeypatch)
    assert digest(after) != earlier


def test_a_version_identifies_a_function_in_memory_and_stands_for_one_alone() -> None:
    shape = cell("class Shape:\n    def blur(self, images):\n        return images\n").Shape
    first, second = shape(), shape()
    assert digest(first.blur, version="of one shape") == digest(first.blur, version="of one shape")
    assert digest(second.blur, version="of another shape") != digest(first.blur, version="of one shape")
    line = "^probe blur: version 'of one shape' is another function in this process; give this one a version of its own"
    for other in (second.blur, PAIR[0]):
        with pytest.raises(UsageError, match=line):
            digest(other, version="of one shape")


def test_declared_files_of_a_function_in_memory_are_part_of_its_identity(tmp_path: Path, write: Write) -> None:
    def blur(images: Any) -> Any:
        return images

    table = {"function": blur, "files": "mask.txt", "version": "1"}
    digests = set()
    for text in ("1", "2"):
        write(text, "mask.txt")
        digests.add(user_function("probe masked", "masked", table, tmp_path, "images", ProbeError).code.digest)
    assert len(digests) == 2


def test_its_errors_name_the_line_of_its_cell(tmp_path: Path) -> None:
    blur = cell("\n\ndef blur(images):\n    raise ValueError('no')\n").blur
    function = user_function("probe blur", "blur", {"function": blur}, tmp_path, "images", ProbeError)
    line = r"^probe blur failed: ValueError: no \(line 4 of its cell\)$"
    with pytest.raises(ProbeError, match=line), function.at_work():
        function(PIXELS)
