"""A library that is not installed is one line that names an extra, and the extra brings it."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from bandlens.core.errors import EngineError, UsageError
from bandlens.core.extras import EXTRAS, naming_extras

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = {
    "cupy": "cupy-cuda13x",
    "onnxruntime": "onnxruntime",
    "skimage": "scikit-image",
    "tensorrt": "tensorrt-cu13",
}
"""Module -> the package that an extra names, where that is not called so."""


def packages_of(requirements: list[str]) -> set[str]:
    """The names of packages, with those of the extras that are named."""
    names = set()
    for requirement in requirements:
        if own := re.fullmatch(r"bandlens\[(.*)\]", requirement):
            for extra in own[1].split(","):
                names |= packages_of(PROJECT["optional-dependencies"][extra])
        names.add(re.split(r"[\[<>=~ ]", requirement)[0])
    return names


def test_there_are_few_hard_dependencies() -> None:
    assert len(PROJECT["dependencies"]) <= 15


@pytest.mark.parametrize(("module", "extra"), EXTRAS.items())
def test_the_extra_brings_the_library(module: str, extra: str) -> None:
    package = PACKAGES.get(module, module)
    names = packages_of(PROJECT["optional-dependencies"][extra])
    assert names & {package, package.replace("_", "-"), f"{package.replace('_', '-')}-python"}


def test_the_extra_gpu_has_all_that_runs_there() -> None:
    names = packages_of(PROJECT["optional-dependencies"]["gpu"] + PROJECT["dependencies"])
    libraries = "onnx onnxruntime-gpu tensorrt-cu13 torch torchvision numpy cupy-cuda13x duckdb polars"
    assert names >= {*libraries.split()}


def test_a_library_that_lacks_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    line = r"^a download needs gdown, which is not installed; run: pip install 'bandlens\[downloads\]'$"
    with pytest.raises(EngineError, match=line), naming_extras("a download", EngineError):
        import gdown  # noqa: F401


def test_any_other_module_that_lacks_is_a_fault() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), naming_extras("a test", UsageError):
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
