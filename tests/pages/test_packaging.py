"""Two things can be installed: this checkout, and a wheel that adds one top-level name with its data files."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import bandlens

ROOT = Path(__file__).parents[2]


def test_the_package_under_test_is_this_checkout() -> None:
    assert Path(bandlens.__file__).parent.samefile(ROOT)


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("1.26.0", False),  # built for CUDA 12
        ("1.27.0", False),  # placeholder packages
        ("1.28.0", True),
        ("1.31.1", True),
        ("1.32.0", False),  # nobody has looked at it
    ],
)
def test_onnxruntime_for_gpus_is_of_cuda_13(version: str, fits: bool) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    [requirement] = [need for need in map(Requirement, extras["gpu"]) if need.name == "onnxruntime-gpu"]
    assert requirement.specifier.contains(version) == fits
    assert requirement.extras == {"cuda", "cudnn"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of the wheel."""
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", out, ROOT], check=True, cwd=out)
    (file,) = out.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def test_the_wheel_adds_exactly_one_name(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"bandlens"}


def test_the_wheel_holds_every_module_and_data_file(wheel: set[str]) -> None:
    folders = ("core", "export", "engine", "probes", "analysis", "app")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()]
    expected = {file.relative_to(ROOT).as_posix() for file in files if "__pycache__" not in file.parts}
    expected |= {file.name for file in ROOT.glob("*.py")} | {"py.typed", "__init__.pyi"}
    assert expected == {name.removeprefix("bandlens/") for name in wheel if name.startswith("bandlens/")}


def test_licences_travel(wheel: set[str]) -> None:
    names = {Path(name).name for name in wheel if ".dist-info/licenses/" in name}
    assert {"LICENSE", "NOTICE", "CC-BY-SA-4.0.txt", "MIT.txt"} <= names
