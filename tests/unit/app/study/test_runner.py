"""Runs in one process: what they need is known before anything is recorded, and torch is an engine like others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from file_openings import count_openings
from local_workers import TWO, work_here
from small import ask, make_model, make_study, pack_folders, study_in

from bandlens.analysis.database.open import open_store
from bandlens.app.study.file import Study
from bandlens.app.study.gate import gate_study_precision
from bandlens.app.study.plan import plan_study
from bandlens.app.study.resolve import Work, resolve
from bandlens.app.study.runner import run_study
from bandlens.app.study.workers import Workers
from bandlens.core.errors import EngineError, StoreError, UsageError
from bandlens.core.jobs import Advance, savers
from bandlens.engine.backends.base import attack_variant
from bandlens.engine.device.devices import gpus
from bandlens.engine.device.nvidia import NoGpu
from bandlens.engine.tasks import by_attack
from bandlens.export.class_names import name_classes
from bandlens.export.model_files import load_model, save_model

PROBES = "lowpass = {cutoff = 0.3}\npgd_linf = {steps = 2}"
COUNT = 20


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return resolve(Study.read(study_in(tmp_path_factory.mktemp("run"), COUNT, PROBES)))


ROWS = """SELECT checkpoint, probe, image_index, predicted, confidence FROM prediction
JOIN cell ON cell.id = prediction.cell JOIN condition ON condition.id = cell.condition ORDER BY 1, 2, 3"""


def test_a_study_on_torch_gives_what_onnxruntime_gives_and_its_attacks_are_no_part_of_its_rate(
    work: Work, reference: Path, tmp_path: Path
) -> None:
    torch_work = resolve(replace(work.study, engine="torch"))
    assert {cell.variant.engine for cell in torch_work.cells} == {"torch"}
    attacked = [{cell.key for cell in by_attack(study_work.cells)[1]} for study_work in (torch_work, work)]
    assert attacked[0] == attacked[1] != set()
    database = tmp_path / "torch.duckdb"
    summary = run_study(torch_work, database)
    assert (summary.predictions, summary.failed) == (COUNT * len(torch_work.cells), [])
    rows, expected = ask(database, ROWS), ask(reference, ROWS)
    assert [row[1:4] for row in rows] == [row[1:4] for row in expected]
    np.testing.assert_allclose([row[4] for row in rows], [row[4] for row in expected], rtol=1e-3)
    variant = torch_work.cells[0].variant
    with open_store(database) as store:  # an attack tells no rate of an engine
        with_attacks = store.frame("SELECT sum(count) / sum(seconds) FROM part WHERE seconds > 0").item()
        assert with_attacks < store.rates([variant])[variant]
        attacks = "SELECT cell.id FROM cell JOIN condition ON condition.id = cell.condition WHERE attack"
        store.execute(f"DELETE FROM part WHERE cell NOT IN ({attacks})")
        assert store.rates([variant]) == {}


@pytest.mark.skipif(not isinstance(gpus(), NoGpu), reason="this machine has a GPU")
def test_a_study_that_cannot_attack_is_not_begun(work: Work, tmp_path: Path) -> None:
    perturbed, attacked = by_attack(work.cells)
    on_gpu = [replace(cell, variant=attack_variant(cell.model, "tensorrt")) for cell in attacked]
    database = tmp_path / "results.duckdb"
    with pytest.raises(EngineError, match="GPU"):
        run_study(replace(work, cells=[*perturbed, *on_gpu]), database)
    assert not database.exists()


@pytest.fixture
def refused_work(tmp_path: Path) -> Work:
    """A study of a model with an operator that no engine knows, and of one that is sound; the refused comes first."""
    study = study_in(tmp_path, COUNT, PROBES, ("a_refused", "sound"))
    network = onnx.load(tmp_path / "models" / "a_refused.onnx")
    network.graph.node[1].op_type = "Unheard"
    content = network.SerializeToString()
    model = replace(load_model(tmp_path / "models", "a_refused"), sha256=hashlib.sha256(content).hexdigest())
    save_model(model, content, {})
    return resolve(Study.read(study))


def test_a_model_that_its_engine_refuses_fails_its_own_cells_alone(
    refused_work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run, on workers, tries the refused cells again."""
    work_here(monkeypatch)
    work = refused_work
    database = tmp_path / "results.duckdb"
    plan = plan_study(work, database)
    assert "sound" in plan.estimate
    for ran, workers in ((len(work.cells) // 2, None), (0, TWO)):
        summary = run_study(work, database, workers=workers)
        assert (summary.ran, len(summary.failed)) == (ran, len(work.cells) // 2)
        assert {failure.cell.model.name for failure in summary.failed} == {"a_refused"}
        assert all("Unheard" in failure.error for failure in summary.failed)
    counts = "SELECT checkpoint, count(*) FROM study_detail JOIN prediction USING (cell) GROUP BY ALL"
    assert ask(database, counts) == [("sound", COUNT * len(work.cells) // 2)]
    errors = {(failure.cell.key, failure.error) for failure in summary.failed}
    assert set(ask(database, "SELECT key, error FROM cell WHERE error IS NOT NULL")) == errors
    single_work = resolve(replace(work.study, checkpoints=["a_refused"]))
    with pytest.raises(EngineError, match="Unheard"):
        run_study(single_work, tmp_path / "none.duckdb")
    assert not (tmp_path / "none.duckdb").exists(), "no model opens: nothing is begun"


def test_a_function_in_memory_is_not_for_workers(work: Work, tmp_path: Path) -> None:
    study = replace(work.study, probes={"blur": {"function": print}})
    with pytest.raises(UsageError, match="probe blur is a function in memory, which workers lack; put it into a file"):
        run_study(replace(work, study=study), tmp_path / "r.duckdb", workers=Workers(("cpu",)))


def test_an_option_that_is_refused_leaves_no_database(work: Work, tmp_path: Path) -> None:
    database = tmp_path / "r.duckdb"
    with pytest.raises(UsageError, match="runs on the CPU"):
        run_study(work, database, workers=Workers(("gpu",)))
    no_place = tmp_path / "none" / "s.duckdb"
    for snapshot, words in ((no_place, "no folder"), (tmp_path, "is a folder"), (database, "cannot take the place")):
        with pytest.raises(UsageError, match=words):
            run_study(work, database, snapshot=snapshot)
    lacking = replace(work, study=replace(work.study, measures={"mine": {"file": "no.py"}}))
    with pytest.raises(UsageError, match=r"no file .*no\.py"):
        run_study(lacking, database)
    assert not list(tmp_path.iterdir())
    with pytest.raises(StoreError, match="is a folder"):
        run_study(work, Path())  # so is an empty --db


@pytest.mark.parametrize("count", [1, 45])
def test_what_is_computed_when_a_run_is_interrupted_is_stored(
    work: Work, reference: Path, tmp_path: Path, count: int
) -> None:
    """And the next run computes the rest, once."""
    done, database = 0, tmp_path / "results.duckdb"

    @contextmanager
    def interrupt(activity: str, _total: float | None, _unit: str) -> Iterator[Advance]:
        def advance(amount: float = 1, /) -> None:
            nonlocal done
            if activity in ("running", "attacking"):
                done += int(amount)
                if done >= count:
                    raise KeyboardInterrupt

        yield advance

    with pytest.raises(KeyboardInterrupt):
        run_study(work, database, progress=interrupt)
    assert ask(database, "SELECT count(*) FROM prediction") == [(done,)]
    assert run_study(work, database).predictions == COUNT * len(work.cells) - done
    assert ask(database, ROWS) == ask(reference, ROWS)
    assert savers == []


def test_a_run_opens_the_files_of_an_image_set_once(tmp_path: Path) -> None:
    """Labels are matched by name, and images drawn of the set include those of earlier draws."""
    names = ["ant", "bee", "crow"]
    images = pack_folders(tmp_path, names).folder
    name_classes(make_model(tmp_path / "models"), [*reversed(names), *map(str, range(9))])
    database = tmp_path / "results.duckdb"
    for limit in (3, 4, 5):
        study = Study.read(make_study(tmp_path, probes="", limit=limit))
        with count_openings(images) as openings:
            summary = run_study(resolve(study, database), database)
        assert summary.predictions == (3 if limit == 3 else 1), "the first images are reused"
        assert openings == {"set.json": 1, "index.parquet": 1, "pixels.npy": 1}


def test_a_gate_of_two_precisions_opens_the_files_of_an_image_set_once(tmp_path: Path) -> None:
    study = Study.read(study_in(tmp_path, 4, ""))
    with count_openings(tmp_path / "images.set") as openings:
        gate_study_precision(study, tmp_path / "results.duckdb", "onnxruntime:fp32", "openvino:fp32")
    assert openings == {"set.json": 1, "index.parquet": 1, "pixels.npy": 1}
