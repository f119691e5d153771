"""The whole study in miniature: every kind of image set, the grid, the attack, and the predictions."""

from __future__ import annotations

import json
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from benchmark_sets import make_benchmark
from numpy.typing import NDArray
from small import ask, make_model, run_here

from bandlens.core.protocol import IMAGENET_C, IMAGENET_CBAR, SEVERITIES
from bandlens.probes.benchmarks.sets import Subset
from bandlens.probes.images.decision_spaces import decision_space
from bandlens.probes.images.image_set import ImageSet, open_image_set

SIZE = 128
MODEL = "one"
SETS = {
    "imagenet": {"name": "imagenet-real", "per_class": 4},
    "imagenet-v2": {},
    "imagenet-a": {},
    "imagenet-r": {},
    "imagenet-sketch": {},
    "imagenet-c": {"per_class": 1, "corruptions": Subset(corruptions=IMAGENET_C, severities=SEVERITIES)},
    "imagenet-cbar": {"per_class": 1, "corruptions": Subset(corruptions=IMAGENET_CBAR, severities=SEVERITIES)},
    "cue-conflict": {"per_class": 5},
    "stylized": {},
}
"""Folders in which the paper's study looks for sets -> options of the miniatures that differ from the usual."""
COUNT = 52 + 1 + 8 + 19 * 5 + 10 * 5 - 2
"""Cells of a checkpoint: the grid, the attack, and the other sets, two of which are many."""


@dataclass(frozen=True)
class Paper:
    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "results.duckdb"

    def run(self, *words: str) -> str:
        """The output of the command."""
        with chdir(self.folder):
            return run_here(*words)

    def ask(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return ask(self.database, sql, parameters)

    def sets(self) -> dict[str, ImageSet]:
        """The packed sets by name."""
        folders = [file.parent for file in (self.folder / "sets").rglob("set.json")]
        return {images.info.name: images for images in map(open_image_set, folders)}


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Paper:
    """Packed and run by the command line, as docs/guide/published.md has it."""
    workplace = Paper(tmp_path_factory.mktemp("paper"))
    (workplace.folder / "sets").mkdir()
    for out, options in SETS.items():
        options = {"name": out} | options
        miniature = make_benchmark(folder=workplace.folder / "raw" / out / "images", size=SIZE, **options)  # type: ignore[arg-type]
        workplace.run("benchmarks", "pack", *miniature.words, "--out", f"sets/{out}", "--name", out)
    make_model(workplace.folder / "models", MODEL, size=SIZE, classes=1000)
    workplace.run("init", "paper.toml", "--study", "paper")
    study = (workplace.folder / "paper.toml").read_text()
    (workplace.folder / "paper.toml").write_text(f'models = "models"\nengine = "onnxruntime"\nbatch = 8\n{study}')
    workplace.run("run", "paper.toml")
    return workplace


def test_plan_tells_cells_disk_and_time(paper: Paper) -> None:
    plan = json.loads(paper.run("plan", "paper.toml", "--db", "other.duckdb", "--format", "json"))
    sets = paper.sets()
    assert len(plan["missing"]) == COUNT
    perturbed, unperturbed = sets["imagenet"].info.count, sum(s.info.count for n, s in sets.items() if n != "imagenet")
    assert plan["predictions"] == 53 * perturbed + unperturbed
    assert plan["image_bytes"] == sum(images.nbytes for images in sets.values())
    assert plan["seconds"] > 0
    words = paper.run("plan", "paper.toml", "--db", "other.duckdb")
    assert "one batch of one, measured now; one step of an attack on one, measured now" in words


def test_every_cell_is_complete_and_a_second_run_has_nothing_to_do(paper: Paper) -> None:
    assert paper.ask("SELECT count(*), count(*) FILTER (complete) FROM cell") == [(COUNT, COUNT)]
    assert "nothing to run" in paper.run("run", "paper.toml")
    assert "nothing to run" in paper.run("plan", "paper.toml")


def decide(space: str, logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """The class, by definition, whose members have the largest mean probability."""
    shares = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True)
    members = decision_space(space).members
    means = np.stack([shares[:, list(indices)].mean(axis=1) for indices in members], axis=1)
    return np.array(decision_space(space).ids)[means.argmax(axis=1)]


@dataclass(frozen=True)
class Answers:
    """The answers of ONNX Runtime itself to the clean images of a set."""

    images: ImageSet
    predicted: NDArray[np.int64]


@pytest.fixture(scope="module")
def answers(paper: Paper) -> dict[str, Answers]:
    """Answers by name of the set."""
    session = onnxruntime.InferenceSession(paper.folder / "models" / f"{MODEL}.onnx")
    answers_by_set = {}
    for name, images in paper.sets().items():
        pixels = images.take(np.arange(images.info.count)).astype(np.float32) / np.float32(255)
        answers_by_set[name] = Answers(
            images, decide(images.info.decision_space, session.run(None, {"images": pixels})[0])
        )
    return answers_by_set


def test_clean_predictions_are_those_of_onnx_runtime_in_each_decision_space(
    paper: Paper, answers: dict[str, Answers]
) -> None:
    rows = paper.ask(
        "SELECT image_set, list(predicted ORDER BY image_index), list(label_rank = 0 ORDER BY image_index) "
        "FROM prediction JOIN study_detail USING (cell) WHERE probe = 'clean' GROUP BY image_set"
    )
    assert {name for name, *_ in rows} == answers.keys()
    for name, predicted, hits in rows:
        expected = answers[name]
        assert predicted == expected.predicted.tolist(), name
        assert hits == (expected.predicted == expected.images.labels).tolist(), name
    spaces = {answer.images.info.decision_space for answer in answers.values()}
    assert spaces == {"all", "imagenet-a", "imagenet-r", "sixteen"}
