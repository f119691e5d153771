"""Runs in one process: what they need is known before anything is recorded, and torch is an engine like others."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from local_workers import TWO, work_here
from polars.testing import assert_frame_equal
from small import Command, ask, rows_of, study_in

from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.app.study.file import Study
from bandlens.app.study.plan import plan_study
from bandlens.app.study.resolve import Work, resolve
from bandlens.app.study.study_run import run_study
from bandlens.app.study.workers import Workers
from bandlens.core.errors import EngineError, StoreError, UsageError
from bandlens.engine.backends.base import attack_variant
from bandlens.engine.device.devices import gpus
from bandlens.engine.device.nvidia import NoGpu
from bandlens.engine.tasks import by_attack
from bandlens.export.model_files import load_model, save_model

PROBES = "lowpass = {cutoff = 0.3}\npgd_linf = {steps = 2}"
COUNT = 20


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return resolve(Study.read(study_in(tmp_path_factory.mktemp("run"), COUNT, PROBES)))


@pytest.fixture(scope="module")
def direct(work: Work) -> Path:
    """The database of the study on ONNX Runtime."""
    database = work.study.folder / "onnxruntime.duckdb"
    assert run_study(work, database).failed == []
    return database


SAME = """SELECT checkpoint, probe, image_index, predicted, confidence FROM prediction
JOIN cell ON cell.id = prediction.cell JOIN condition ON condition.id = cell.condition ORDER BY 1, 2, 3"""


def test_a_study_on_torch_gives_what_onnxruntime_gives_and_is_attacked_itself(
    work: Work, direct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_work = resolve(replace(work.study, engine="torch"))
    assert {cell.variant.engine for cell in torch_work.cells} == {"torch"}
    attacked = [{cell.key for cell in by_attack(study_work.cells)[1]} for study_work in (torch_work, work)]
    assert attacked[0] == attacked[1] != set()
    database = tmp_path / "torch.duckdb"
    summary = run_study(torch_work, database)
    assert (summary.predictions, summary.failed) == (COUNT * len(torch_work.cells), [])
    rows, expected = ask(database, SAME), ask(direct, SAME)
    assert [row[1:4] for row in rows] == [row[1:4] for row in expected]
    np.testing.assert_allclose([row[4] for row in rows], [row[4] for row in expected], rtol=1e-3)
    work_here(monkeypatch)
    run_study(torch_work, tmp_path / "workers.duckdb", workers=TWO)
    assert_frame_equal(rows_of(tmp_path / "workers.duckdb"), rows_of(database))


def test_what_an_attack_takes_is_no_rate_of_an_engine(work: Work, tmp_path: Path) -> None:
    torch_work = resolve(replace(work.study, engine="torch"))
    run_study(torch_work, tmp_path / "torch.duckdb")
    variant = torch_work.cells[0].variant
    with open_store(tmp_path / "torch.duckdb") as store:
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
    assert ask(database, "SELECT count(*) FROM study") == [(0,)]


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


@pytest.mark.parametrize(("engine", "workers"), [("onnxruntime", None), ("torch", TWO)])
def test_a_model_that_its_engine_refuses_fails_its_own_cells_alone(
    refused_work: Work, engine: str, workers: Workers | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_here(monkeypatch)
    work = resolve(replace(refused_work.study, engine=engine))
    database = tmp_path / "results.duckdb"
    planned = plan_study(work, database)
    assert "sound" in planned.estimate
    for ran in (len(work.cells) // 2, 0):  # the second run tries the refused ones again
        summary = run_study(work, database, workers=workers)
        assert (summary.ran, len(summary.failed)) == (ran, len(work.cells) // 2)
        assert {failure.cell.model.name for failure in summary.failed} == {"a_refused"}
        assert all("Unheard" in failure.error for failure in summary.failed)
    counts = "SELECT checkpoint, count(*) FROM study_detail JOIN prediction USING (cell) GROUP BY ALL"
    assert ask(database, counts) == [("sound", COUNT * len(work.cells) // 2)]
    errors = {(failure.cell.key, failure.error) for failure in summary.failed}
    assert set(ask(database, "SELECT key, error FROM cell WHERE error IS NOT NULL")) == errors


@pytest.mark.parametrize("workers", [None, TWO])
def test_an_engine_that_opens_no_model_begins_no_study(
    refused_work: Work, workers: Workers | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_here(monkeypatch)
    work = resolve(replace(refused_work.study, checkpoints=["a_refused"]))
    database = tmp_path / "results.duckdb"
    with pytest.raises(EngineError, match="Unheard"):
        run_study(work, database, workers=workers)
    assert ask(database, "SELECT count(*) FROM study") == [(0,)]


def test_torch_has_no_int8(command: Command, work: Work, tmp_path: Path) -> None:
    study = work.study.folder / "int8.toml"
    study.write_text((work.study.folder / "study.toml").read_text().replace("[probes]", 'precision = "int8"\n[probes]'))
    answer = command("run", study, "--engine", "torch", "--db", tmp_path / "r.duckdb")
    assert (answer.code, answer.err) == (
        1,
        "bandlens: engine torch runs fp32, fp16, bf16, not int8; set precision to one of them, or engine to "
        "onnxruntime or openvino for int8\n",
    )


def test_a_commit_that_fails_ends_a_run_with_its_line_and_the_next_run_completes_it(
    work: Work, direct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, commit, count = tmp_path / "r.duckdb", Store.commit, 0

    def fails_once(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise StoreError("no space left on the device")
        commit(*arguments)

    monkeypatch.setattr(Store, "commit", fails_once)
    with pytest.raises(StoreError, match=r"^no space left on the device$"):
        run_study(work, database, range_seconds=0)
    assert count == 2
    run_study(work, database, range_seconds=0)
    assert_frame_equal(rows_of(database), rows_of(direct))


def test_a_function_in_memory_is_not_for_workers(work: Work, tmp_path: Path) -> None:
    study = replace(work.study, probes={"blur": {"function": print}})
    with pytest.raises(UsageError, match="probe blur is a function in memory, which workers lack; put it into a file"):
        run_study(replace(work, study=study), tmp_path / "r.duckdb", workers=Workers(("cpu",)))
