"""Tuning on the CPU, from the command line to the sessions of a run."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from small import Command, ask, make_images, make_model, make_pictures, make_study

from bandlens.core.errors import EngineError
from bandlens.core.jobs import processors
from bandlens.core.records import Variant
from bandlens.engine import tuning
from bandlens.engine.backends.base import variant_of
from bandlens.engine.device.devices import gpus, processor_name, readiness
from bandlens.engine.device.nvidia import NoGpu

pytestmark = pytest.mark.skipif(not isinstance(gpus(), NoGpu), reason="this machine has a GPU")
BATCHES = (2, 4, 16)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models, images, and a study that names neither engine nor batch; sweeps are short."""
    for seed, name in enumerate(("one", "two")):
        make_model(tmp_path / "models", name, seed=seed)
    make_images(tmp_path / "images.set", make_pictures(20))
    make_study(tmp_path, engine="auto", batch=0, threads=0, probes="lowpass = {cutoff = 0.3}")
    monkeypatch.setattr(tuning, "BATCHES", {"numpy": BATCHES})
    monkeypatch.setattr(tuning, "MEASUREMENT_SECONDS", 0.01)
    return tmp_path


def test_what_export_measures_is_what_a_run_takes(command: Command, place: Path) -> None:
    models, db = place / "models", place / "results.duckdb"
    exported = command("export", "one", "two", "--out", models, "--batch", "tune")
    assert exported.code == 0
    tables = json.loads((models / "plans" / "tuning.json").read_text())
    assert list(tables) == ["fp32"]
    table = tables["fp32"]
    engines = [engine for engine in ("onnxruntime", "openvino") if readiness(engine).ready]
    assert [(rate["engine"], rate["batch"]) for rate in table["rates"]] == [
        (engine, batch) for engine in engines for batch in BATCHES
    ]
    assert table["model"] == "one"
    assert table["device"] == f"{processor_name()}, threads: {processors()}"
    assert table["libraries"] == {engine: readiness(engine).line for engine in engines}
    fastest = max(rate["images_per_second"] for rate in table["rates"])
    choice = next(rate for rate in table["rates"] if rate["images_per_second"] >= 0.97 * fastest)
    assert f"bandlens: fp32 runs fastest with engine {choice['engine']} and batch {choice['batch']}, " in exported.err
    batch = f"batch: {choice['batch']} by the tuning of {table['date']}\n"
    plan = command("plan", place / "study.toml", "--db", db)
    assert batch in plan.err
    ran = command("run", place / "study.toml", "--db", db)
    assert ran.code == 0
    assert batch in ran.err
    assert ask(db, "SELECT DISTINCT engine, batch FROM session") == [(choice["engine"], choice["batch"])]


def test_a_precision_that_no_engine_runs_here_is_said_and_the_rest_is_made(command: Command, place: Path) -> None:
    answer = command("export", "one", "--out", place / "models", "--precision", "fp16,fp32", "--batch", "tune")
    assert answer.code == 0
    assert "bandlens: fp16 is not tuned: none of onnxruntime, openvino runs fp16 here; tune another" in answer.err
    assert list(json.loads((place / "models" / "plans" / "tuning.json").read_text())) == ["fp32"]


def test_another_precision_joins_the_file_and_a_damaged_one_is_replaced(command: Command, place: Path) -> None:
    file = place / "models" / "plans" / "tuning.json"
    file.parent.mkdir()
    file.write_text("[")
    arguments = "--out", place / "models", "--batch", "tune", "--precision"
    assert command("export", "one", *arguments, "fp32").code == 0
    table = json.loads(file.read_text())["fp32"]
    assert command("export", "one", *arguments, "int8", "--calibration", place / "images.set").code == 0
    assert json.loads(file.read_text()).keys() == {"fp32", "int8"}
    assert json.loads(file.read_text())["fp32"] == table


def test_a_folder_that_cannot_be_written_is_found_before_the_sweep(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "measure_rate", lambda *_: pytest.fail("it is measured"))
    (place / "models" / "plans").touch()
    answer = command("export", "one", "--out", place / "models", "--batch", "tune")
    assert answer.code == 2
    assert re.search(r"cannot write .*tuning\.json: .*; make its folder writable$", answer.err)


def test_an_engine_is_measured_up_to_the_batch_that_it_refuses(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, measure = make_model(place / "models", "one"), tuning.measure_rate

    def limited(variant: Variant, batch: int, *further: float) -> float:
        if batch > 2 or variant.engine == "openvino":
            raise EngineError("out of memory")
        return measure(variant, batch, *further)  # type: ignore[arg-type]

    monkeypatch.setattr(tuning, "measure_rate", limited)
    # Warnings are kept whatever commands of other tests, and libraries that they load, have made of the loggers.
    caplog.set_level(logging.WARNING, "bandlens")
    monkeypatch.setattr(logging.getLogger("bandlens"), "propagate", False)
    monkeypatch.setattr(logging.getLogger("bandlens"), "handlers", [caplog.handler])
    rates = tuning.tune(model, "fp32", 1).rates
    assert [(rate.engine, rate.batch) for rate in rates] == [("onnxruntime", 2)]
    assert "one (onnxruntime fp32) at batch 4 is left out: out of memory" in caplog.messages
    monkeypatch.setattr(tuning, "measure_rate", lambda *_: limited(variant_of(model, "openvino", "fp32"), 2))
    with pytest.raises(EngineError, match="no engine runs one at fp32 here; see the lines above"):
        tuning.tune(model, "fp32", 1)


def test_a_rate_is_that_of_as_many_batches_as_fill_the_time(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that takes a second for each batch: the session is asked for 1, 2 and 4 of them, and then for 4 again."""
    variant, clock, batches = variant_of(make_model(place / "models", "one"), "onnxruntime", "fp32"), [0.0], list[int]()
    opening = tuning.open_session

    def open_slowly(*arguments: object) -> object:
        session = opening(*arguments)  # type: ignore[arg-type]
        infer = session.infer

        def slow(images: object) -> object:
            clock[0] += 1
            batches.append(1)
            return infer(images)

        session.infer = slow  # type: ignore[method-assign]
        return session

    monkeypatch.setattr(tuning, "open_session", open_slowly)
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: clock[0])
    assert tuning.measure_rate(variant, 8, 1, seconds=3, repeats=2) == 8
    assert len(batches) == 1 + 1 + 2 + 4 + 4
