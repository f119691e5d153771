"""Runs on workers: their rows are those of a run in one process, and what fails does so alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from local_workers import TWO, work_here
from polars.testing import assert_frame_equal
from small import ask, make_images, make_model, make_pictures, make_study, rows_of, study_in

from bandlens.analysis.database.store import Store
from bandlens.app.api import studies as api
from bandlens.app.study import workers as study_workers
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import Work, resolve
from bandlens.app.study.runner import run_study
from bandlens.app.study.workers import Reply, Request, StudyComputer, computer_of
from bandlens.core.errors import DeviceError, EngineError, StoreError, UsageError
from bandlens.export.model_files import load_model

PROBES = "lowpass = {cutoff = [0.1, 0.3]}\ncritical_band = {noise_sd = [0.0, 0.1]}\npgd_linf = {steps = 1}"
COUNT = 40


@pytest.fixture(autouse=True)
def _workers_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    work_here(monkeypatch)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return resolve(Study.read(study_in(tmp_path_factory.mktemp("workers"), COUNT, PROBES)))


def test_a_run_goes_on_where_one_of_the_other_kind_was_interrupted(
    work: Work, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, commit, remaining = tmp_path / "results.duckdb", Store.commit, 5

    def fails_in_the_end(*arguments: Any) -> None:
        nonlocal remaining
        remaining -= 1
        if remaining < 0:
            raise StoreError("no space left on the device")
        commit(*arguments)

    monkeypatch.setattr(Store, "commit", fails_in_the_end)
    total = 0
    for workers in (None, TWO):
        remaining = 5
        with pytest.raises(StoreError, match="no space left"):
            run_study(work, database, 0.0, workers=workers)
        [(count,)] = ask(database, "SELECT count(*) FROM prediction")
        assert count > total
        total = count
    monkeypatch.setattr(Store, "commit", commit)
    assert run_study(work, database, workers=TWO).predictions == COUNT * len(work.cells) - total
    assert_frame_equal(rows_of(database), rows_of(reference))


def test_cells_that_fail_are_those_of_one_process(tmp_path: Path) -> None:
    make_model(tmp_path / "models", "fragile", darkest=0.05)
    make_model(tmp_path / "models", "robust", seed=1)
    make_images(tmp_path / "images.set", make_pictures(36))
    (tmp_path / "wild.py").write_text("def wild(images, level):\n    return images * level\n")
    probes = "lowpass = {cutoff = [0.0, 0.5]}\nwild = {file = 'wild.py', level = [1, 9]}"
    failing = resolve(Study.read(make_study(tmp_path, probes=probes)))
    failures = [
        {(str(failure.cell), failure.error) for failure in run_study(failing, tmp_path / name, workers=workers).failed}
        for name, workers in (("direct.duckdb", None), ("workers.duckdb", TWO))
    ]
    assert failures[0] == failures[1]
    assert len(failures[0]) == 3
    assert_frame_equal(rows_of(tmp_path / "direct.duckdb"), rows_of(tmp_path / "workers.duckdb"))


def test_a_cell_that_ends_its_workers_says_how_often_it_was_tried(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, compute = work.cells[0], StudyComputer.compute

    def dies(computer: StudyComputer, request: Request) -> Reply:
        if lost.key in request:
            raise DeviceError("its card is gone")
        return compute(computer, request)

    monkeypatch.setattr(StudyComputer, "compute", dies)
    summary = run_study(work, tmp_path / "results.duckdb", workers=TWO)
    assert str(lost) in {str(failure.cell) for failure in summary.failed}
    assert {failure.error for failure in summary.failed} == {"its card is gone (tried 3 times)"}


def test_a_file_that_is_another_on_a_worker_is_named_and_the_study_not_begun(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tmp_path / "models", "one", seed=9)
    make_model(tmp_path / "models", "two", seed=1)
    elsewhere = replace(computer_of(work, work.cells, 1, 60), study=replace(work.study, models=str(model.path.parent)))
    monkeypatch.setattr(study_workers, "computer_of", lambda *_: elsewhere)
    database = tmp_path / "results.duckdb"
    with pytest.raises(EngineError, match=r"^no worker can run the study: the ONNX file of one .* is another than"):
        run_study(work, database, workers=TWO)
    assert not database.exists()


def test_paths_do_not_depend_on_the_current_folder_nor_on_the_environment(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work.study.folder.parent)
    monkeypatch.setenv("BANDLENS_HOME", str(work.study.folder))
    relative = resolve(replace(work.study, folder=Path(work.study.folder.name), models=""))
    computer = computer_of(relative, relative.cells, 1, 60)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BANDLENS_HOME", str(tmp_path))
    computer.open()
    assert computer.cells.keys() == {cell.key for cell in work.cells}
    assert load_model(Path(computer.study.models), "one").sha256 == work.models[0].sha256


def test_a_worker_answers_early_at_first(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of seconds advances, though a worker may take a minute for an answer."""
    monkeypatch.setattr(study_workers, "FIRST_SECONDS", 0.0)
    computer = computer_of(work, work.cells, 1, 60)
    computer.open()
    cells = [cell for cell in work.cells if not cell.condition.facts.attack]
    reply = computer.compute(dict.fromkeys((cell.key for cell in cells), 0))
    predictions = sum(len(outcome.predictions.predicted) for outcomes in reply.ranges for outcome in outcomes)
    assert 0 < predictions < COUNT * len(cells)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"executor": "rya"}, "unknown executor 'rya'; did you mean ray?"),
        ({"address": "auto"}, "--address is for --executor ray; the local executor is this process, or --devices"),
        ({"devices": ["0", "1"]}, "--devices 0,1: engine onnxruntime runs on the CPU; give cpu,cpu, or --engine"),
    ],
)
def test_options_that_make_no_sense_are_one_line(
    work: Work, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError) as error:
        api.run(work, tmp_path / "results.duckdb", **options)
    assert str(error.value).startswith(words)
