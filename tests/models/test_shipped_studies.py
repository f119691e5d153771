"""The studies of `bandlens init --study`, on EfficientNet-Lite0 and a few pictures (`paper`: test_paper.py)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import copytree

import pytest
from benchmark_sets import make_benchmark
from small import ask
from small import run_here as run

from bandlens.probes.images.image_set import ImageSet, open_image_set

CONDITIONS = {
    "human-probes": 1 + 8 + 8 + 8 + 8 + 7,
    "fourier-map": 1 + (63**2 + 1) // 2,
    "shape-under-filters": 1 + 2 * 11 + 2 * 8,
    "reliance": 1 + 4 + 3 * 2 + 5 + 1,
    "octaves": 2**7,
}
"""Clean, and what the sources of the families list; waves of opposite frequencies are one."""


@dataclass(frozen=True)
class FinishedStudy:
    """A study that was planned, run and reported."""

    name: str
    folder: Path
    plan: dict[str, float]

    @property
    def images(self) -> ImageSet:
        [line] = [line for line in (self.folder / f"{self.name}.toml").read_text().splitlines() if "images = " in line]
        return open_image_set(self.folder / json.loads(line.partition("=")[2])[0])

    def ask(self, sql: str) -> list[tuple[object, ...]]:
        return ask(self.folder / f"{self.name}.duckdb", sql)


@pytest.fixture(scope="module")
def folder(lite0: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, and the sets that the studies ask for."""
    folder = tmp_path_factory.mktemp("studies")
    copytree(lite0, folder / "models")
    (folder / "sets").mkdir()
    for name in ("imagenet", "colour", "cue-conflict"):
        miniature = make_benchmark(name, folder / "raw" / name, classes=[0, 5], per_class=2)
        run("benchmarks", "pack", *miniature.words, "--out", folder / "sets" / name)
    return folder


@pytest.fixture(scope="module")
def finish(folder: Path) -> Callable[[str], FinishedStudy]:
    """The function takes a study, by name, from its file to its report."""

    @cache
    def finish_study(name: str) -> FinishedStudy:
        file, db = folder / f"{name}.toml", ("--db", folder / f"{name}.duckdb")
        run("init", file, "--study", name)
        study = file.read_text()
        file.write_text(f'models = "models"\nengine = "onnxruntime"\nbatch = 2\n{study}')
        plan = json.loads(run("plan", file, *db, "--format", "json"))
        if name == "fourier-map":  # the smallest map of its remarks: the whole one takes minutes
            [setting] = re.findall(r"# +(fourier = .*)\n# +61 waves", study)
            file.write_text(file.read_text().replace("\nfourier = {}", f"\n{setting}"))
        run("run", file, *db)
        run("report", *db, "--out", folder / f"{name}.html")
        return FinishedStudy(name, folder, plan)

    return finish_study


@pytest.mark.parametrize("name", CONDITIONS)
def test_plan_tells_the_cost_and_a_run_is_that_much(finish: Callable[[str], FinishedStudy], name: str) -> None:
    result = finish(name)
    images, cells = result.images.info.count, 62 if name == "fourier-map" else CONDITIONS[name]
    assert len(result.plan["missing"]) == CONDITIONS[name]
    assert result.plan["predictions"] == CONDITIONS[name] * images
    assert result.plan["seconds"] > 0
    assert result.ask("SELECT count(*), count(*) FILTER (complete) FROM cell") == [(cells, cells)]
    assert result.ask("SELECT count(*) FROM prediction") == [(cells * images,)]
    assert "nothing to run" in run("run", result.folder / f"{name}.toml", "--db", result.folder / f"{name}.duckdb")
