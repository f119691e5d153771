"""Every name and argument that goes to TensorRT, checked by mypy against stubs made of the real bindings.

The bindings of TensorRT 10.16 are installed without its libraries, and those of 11.4 lie in a folder of their own,
since an environment has one of them: three empty libraries let them be imported, which is enough to read their names
and signatures. Nothing of TensorRT runs here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from required import miss

ROOT = Path(__file__).parent.parent.parent
PLAN = "export/plans/plan_builder.py"
SESSION = "engine/backends/tensorrt.py"

LIBRARIES = {
    "nvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
        "getInferLibVersion",
    ),
    "nvonnxparser": ("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getNvOnnxParserVersion"),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
}
"""Functions that the bindings look up in libraries of TensorRT."""
FOLDERS = {"10": None, "11": Path(sys.prefix) / "tensorrt-11"}
"""The folder of the bindings of each major version; None for those that are installed."""


def stub_libraries(folder: Path, major: str) -> Path:
    """Libraries whose every function returns null."""
    if shutil.which("gcc") is None:
        miss("gcc", "no gcc to compile stub libraries with")
    folder.mkdir()
    for library, functions in LIBRARIES.items():
        name = f"lib{library}.so.{major}"
        source = "".join(f"void *{function}(void) {{ return 0; }}\n" for function in functions)
        command = ["gcc", "-x", "c", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), "-"]
        subprocess.run(command, input=source, text=True, check=True)
    return folder


def type_stubs(module: str, folder: Path, **environment: str) -> Path:
    """Type stubs of the module, as the package `tensorrt` in the folder."""
    command = [sys.executable, "-m", "pybind11_stubgen", module, "--ignore-all-errors", "--output-dir", str(folder)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | environment)
    (folder / module).rename(folder / "tensorrt")
    for path in (folder / "tensorrt").glob("*.pyi"):
        path.write_text(mend(path.read_text().replace(module, "tensorrt")))
    return folder


def mend(stubs: str) -> str:
    """The stubs as Python: the generator copies what pybind11 wrote into docstrings."""
    for pattern, replacement in (
        (r"\bin: ", "in_: "),  # a parameter
        (r"channel_axis: typing.SupportsInt\)", "channel_axis: typing.SupportsInt = ...)"),  # after one with a default
        (r"-> \.\.\.:", "-> typing.Any:"),  # types of C++ that it could not translate
        (r": \.\.\.(?=[,)\n])", ": typing.Any"),
        (r"(?<=[ \[])bool\b(?=[^:]|:$)", "builtins.bool"),  # the module has a `bool` of its own
        (r"^import typing$", "import builtins\nimport typing"),
        (
            r"^class Dims:$",
            "class Dims:\n    def __iter__(self) -> typing.Iterator[int]: ...",
        ),  # it has a length, and [k]
        (r"^__all__: list\[str\] = \[", "__all__: list[str] = ['__version__', "),
    ):
        stubs = re.sub(pattern, replacement, stubs, flags=re.MULTILINE)
    return stubs


@pytest.fixture(scope="module", params=FOLDERS)
def tensorrt(
    request: pytest.FixtureRequest, gpu_checks: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Stubs of TensorRT, of each major version."""
    for package in ("tensorrt_bindings", "pybind11_stubgen", "mypy"):
        gpu_checks(package)
    bindings, folder = FOLDERS[request.param], tmp_path_factory.mktemp("tensorrt")
    environment = {"LD_LIBRARY_PATH": str(stub_libraries(folder / "libraries", request.param))}
    if bindings is not None:
        if not bindings.is_dir():
            miss("tensorrt-rtx", f"no bindings of TensorRT 11 in {bindings}; run: make setup")
        environment["PYTHONPATH"] = str(bindings)
    return type_stubs("tensorrt_bindings", folder / "stubs", **environment)


def test_no_other_versions_are_allowed_than_those_that_are_checked(gpu_checks: Callable[[str], None]) -> None:
    """A range would admit versions that nobody looked at. Version 10 is what `gpu` brings."""
    gpu_checks("tensorrt_bindings")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    versions = {}
    for extra in ("gpu", "gpu-tensorrt11"):
        [versions[extra]] = [need for need in map(Requirement, extras[extra]) if need.name == "tensorrt-cu13"]
        assert {*extras[extra]} - {str(versions[extra])} == {*extras["gpu"]} - {str(versions["gpu"])}
    assert str(versions["gpu"].specifier) == f"=={version('tensorrt-cu13-bindings')}"
    pinned = str(versions["gpu-tensorrt11"].specifier)
    assert f"tensorrt-cu13-bindings{pinned}" in (ROOT / "Makefile").read_text()


def mypy(stubs: Path, *files: Path) -> list[str]:
    """Errors of mypy in the files with these stubs. Other modules are skipped, since `make lint` has checked them."""
    options = ["--strict", "--follow-imports=skip", "--no-warn-unused-ignores"]
    options += ["--allow-subclassing-any", "--no-warn-return-any"]  # A skipped module is Any.
    command = [sys.executable, "-m", "mypy", *options, f"--cache-dir={stubs / 'cache'}", *map(str, files)]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | {"MYPYPATH": str(stubs)}, capture_output=True, text=True)
    assert not ran.stderr, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[-1].startswith(("Found", "Success"))
    return [line for line in lines[:-1] if not line.startswith(f"{stubs / 'tensorrt'}")]


def ours(*names: str) -> list[Path]:
    return [ROOT / ".venv" / "sources" / "bandlens" / name for name in names]


def module_check(folder: Path) -> Path:
    """A file that is wrong if the module `tensorrt` is not what `TensorRT` says of it."""
    file = folder / "module_check.py"
    file.write_text(
        "import tensorrt\nfrom bandlens.export.plans.plan_builder import TensorRT\nmodule: TensorRT = tensorrt\n"
    )
    return file


PROGRAM = """
from bandlens.export.plans.plan_builder import TensorRT

def build(trt: TensorRT) -> None:
    trt.Parser
    config = trt.Builder(trt.ILogger()).create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF23)
    config.set_timing_cache(False, None)
"""
"""A name of the module, a flag, and arguments that are exchanged."""


def test_what_is_used_of_tensorrt_is_there_and_mistakes_are_found(tensorrt: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(PROGRAM)
    messages = mypy(tensorrt, *ours(PLAN, SESSION), module_check(tensorrt), tmp_path / "wrong.py")
    places = {(Path(file).name, int(line)) for file, line, *_ in (message.split(":") for message in messages)}
    assert places == {("wrong.py", 5), ("wrong.py", 7), ("wrong.py", 8)}


def test_what_is_used_of_tensorrt_rtx_is_there(rtx: object, tmp_path: Path) -> None:
    stubs = type_stubs("tensorrt_rtx_bindings", tmp_path)
    assert mypy(stubs, *ours(PLAN, SESSION), module_check(stubs)) == []
