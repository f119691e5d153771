"""A command or an import loads no library that it does not need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from imports_of_folders import PACKAGE
from made_up_results import python
from small import make_images, make_pictures, make_study

HEAVY = ("torch", "cupy", "tensorrt", "onnxruntime", "duckdb", "polars", "numpy", "pyarrow", "PIL", "altair", "scipy")


def loaded_by(code: str, libraries: tuple[str, ...], *arguments: object) -> set[str]:
    """The libraries among these that a new process has loaded once it has run the code."""
    report = f"\nimport sys; print('LOADED', *({set(libraries)!r} & sys.modules.keys()), file=sys.stderr)"
    command = python(code + report, *arguments)
    result = subprocess.run(command, capture_output=True, check=True)
    return set(result.stderr.decode().splitlines()[-1].split()[1:])


COMMAND = """
import sys
sys.argv[0] = "bandlens"
from bandlens.app.cli.main import main
try: main()
except SystemExit as end: assert not end.code
"""


@pytest.mark.parametrize("words", [["run", "--help"], ["--version"]])
def test_help_loads_no_heavy_library(words: list[str]) -> None:
    assert loaded_by(COMMAND, HEAVY, *words) == set()


ENGINES = ("torch", "cupy", "tensorrt", "onnxruntime", "openvino", "onnx")


@pytest.mark.parametrize(
    ("code", "libraries"),
    [
        ("import bandlens, bandlens.core.records; bandlens.UsageError; dir(bandlens)", HEAVY),
        ("import bandlens.app.study.runner, bandlens.app.study.plan", ("torch", "onnxruntime")),
        ("import bandlens.engine.device.devices", ENGINES),
        ("import bandlens.app.cli.commands.models, bandlens.app.cli.commands.export", (*HEAVY, "torchvision", "onnx")),
        ("import bandlens.export.weights.parse_process", (*HEAVY, "onnx", "safetensors")),
        (
            "from bandlens.probes.images.decision_spaces import decision_space; decision_space('sixteen')",
            ("torch", "torchvision", "PIL", "pyarrow", "duckdb"),
        ),
    ],
    ids=lambda value: value.split(";")[0] if isinstance(value, str) else "",
)
def test_an_import_loads_no_library_that_it_does_not_need(code: str, libraries: tuple[str, ...]) -> None:
    assert loaded_by(code, libraries) == set()


OBEYED = """
import os, sys
from importlib.util import module_from_spec, spec_from_file_location
folder = sys.argv[1]
spec = spec_from_file_location("bandlens", f"{folder}/__init__.py", submodule_search_locations=[folder])
sys.modules["bandlens"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["bandlens"])
from bandlens.__main__ import main
from bandlens.app.cli import signals
def obey():
    print(*sys.modules, flush=True)
    os._exit(0)
signals.obey = obey
main()
"""


def test_hardly_anything_is_imported_before_signals_are_obeyed() -> None:
    """Python has no site here, which may import some of it."""
    command = [sys.executable, "-I", "-S", "-c", OBEYED, str(PACKAGE)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = set(result.stdout.split())
    ours = {"bandlens", "bandlens.__main__", "bandlens.app", "bandlens.app.cli", "bandlens.app.cli.signals"}
    assert {name for name in modules if name.startswith("bandlens")} == ours
    assert not modules & {"typing", "re", "json", "pathlib", "dataclasses", "difflib", "urllib"}


def test_a_command_is_loaded_without_the_others() -> None:
    commands = tuple(f"bandlens.app.cli.commands.{name}" for name in ("images", "published", "studies", "sql"))
    assert loaded_by(COMMAND, commands, "run", "--help") == {"bandlens.app.cli.commands.studies"}


def test_a_run_that_says_which_metrics_it_lacks_and_a_query_load_little(workplace: Path) -> None:
    """Other libraries load some of them: Arrow's constructors load pandas wherever it is installed."""
    study, database = make_study(workplace, probes="lowpass = {cutoff = 0.3}"), workplace / "results.duckdb"
    unneeded = ("torch", "onnx", "pandas", "scipy.stats", "PIL", "altair")
    assert loaded_by(COMMAND, unneeded, "run", study, "--no-analyze", "--db", database) == set()
    # A run takes the quantiles of intervals from scipy.special.
    assert loaded_by(COMMAND, (*unneeded, "scipy.special"), "sql", "FROM accuracy", "--db", database) == set()


def test_opening_imports_neither_pillow_nor_torch(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images.set", make_pictures(4, 32))
    code = "from bandlens.probes.images.image_set import open_image_set"
    heavy = ("PIL", "torch", "torchvision", "polars", "pyarrow")
    assert loaded_by(code, heavy) == set()
    opening = f"import sys; from pathlib import Path; {code}; open_image_set(Path(sys.argv[1]))"
    assert loaded_by(opening, heavy, images.folder) <= {"pyarrow"}
