"""A study from JPEG files to accuracies: the published procedure, then `images pack` and `run`, in one run.

`published`: for each checkpoint and condition every photograph is decoded, resized and cropped by torchvision in loader
processes, filtered by torch's FFT or mixed with a band of pyrtools' pyramid, and classified by torch in eager mode. One
loader goes through all conditions of a checkpoint: starting one for each costs nothing in a study of 50,000 images.
`fp32`: `bandlens images pack` and `bandlens run` with ONNX Runtime; `bf16`, `int8`: the same with OpenVINO, after which
`gate` compares the predictions with those of fp32. The weights are random and the images few, so its verdict is no
statement about a trained network.

Every variant starts its own processes, with as many threads as there are processors, and pays for their start, which
weighs more on bandlens the fewer images there are. The files of models are made beforehand. Processor time includes
all processes; other work on the machine disturbs it less than the clock.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _common as common
import numpy as np
from _common import BATCH, MODEL, ratio, ratios, run_program

import bandlens
from bandlens.core.errors import EngineError
from bandlens.core.records import Condition
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.export.onnx.precisions import Calibration, make_onnx_file
from bandlens.probes.grid import PUBLISHED, make_grid

Times = dict[tuple[int, str], list[float]]
"""Seconds of each repetition, by number of checkpoints and variant."""
PUBLISHED_PROCEDURE, FULL, FASTER = "published", "fp32", ("bf16", "int8")
ENGINES = {FULL: "onnxruntime", **dict.fromkeys(FASTER, "openvino")}
SOME_PROBES = {"lowpass": {"cutoff": 0.1}, "critical_band": {"noise_sd": 0.16, "frequency": [2, 5]}}
"""The probes of a quick benchmark."""
GOALS = {FULL: ">= 2.5"}
"""Goals of the ratios by precision."""


@dataclass(frozen=True)
class Bench:
    """The folder with the photographs, models, image sets, studies and databases, and what is done with them."""

    folder: Path
    probes: Mapping[str, Any]
    """A study's table [probes]."""
    workers: int
    """Loader processes of the published procedure."""

    @property
    def conditions(self) -> Sequence[Condition]:
        return make_grid(self.probes, self.folder).conditions

    def study(self, precision: str, checkpoints: int) -> Path:
        """The study of the first checkpoints in a precision, on an image set of its own."""
        file = self.folder / f"{precision}-{checkpoints}.toml"
        lines = {
            "name": precision,
            "checkpoints": [f"{MODEL}-{k}" for k in range(checkpoints)],
            "models": "models",
            "images": [f"{precision}.set"],
            "engine": ENGINES[precision],
            "precision": precision,
        }
        tables = []
        for name, parameters in self.probes.items():
            settings = ", ".join(f"{key} = {value}" for key, value in parameters.items())
            tables.append(f"{name} = {{ {settings} }}")
        keys = (f"{key} = {json.dumps(value)}" for key, value in lines.items())
        file.write_text("\n".join((*keys, "[probes]", *tables)), encoding="utf-8")
        return file

    def database(self, checkpoints: int) -> Path:
        return self.folder / f"{checkpoints}.duckdb"

    def run(self, precision: str, checkpoints: int) -> None:
        """Pack the photographs, run the study, and read its accuracies; the run in fp32 begins a new database."""
        packed, database = self.folder / f"{precision}.set", self.database(checkpoints)
        shutil.rmtree(packed, ignore_errors=True)
        if precision == FULL:
            database.unlink(missing_ok=True)
        bandlens_here = partial(run_program, sys.executable, "-P", "-m", "bandlens", cwd=self.folder)
        bandlens_here("images", "pack", "photographs", "--labels", "folders", "--out", packed.name)
        bandlens_here("run", self.study(precision, checkpoints).name, "--no-analyze", "--db", database.name)
        with bandlens.open(database) as results:
            if len(results.accuracy(precision)) != checkpoints * len(self.conditions):
                raise SystemExit(f"{database}: accuracies are missing")

    def predictions(self, checkpoints: int) -> Path:
        """Predictions of the published procedure: (checkpoints, conditions, images)."""
        return self.folder / f"published-{checkpoints}.npy"

    def run_published(self, checkpoints: int) -> None:
        """Run the published procedure in a process of its own."""
        from _published_study import classify

        study = (self.folder, self.conditions, checkpoints, self.workers)
        worker = multiprocessing.get_context("spawn").Process(
            target=classify, args=(*study, self.predictions(checkpoints))
        )
        worker.start()
        worker.join()
        if worker.exitcode:
            raise SystemExit("the published procedure failed")

    def agreement(self, checkpoints: int) -> tuple[int, int]:
        """How many predictions of bandlens in fp32 are the published procedure's, of those without noise."""
        conditions = self.conditions
        order = sorted(
            (k for k, condition in enumerate(conditions) if condition.probe != "critical_band"),
            key=lambda k: (conditions[k].probe, conditions[k].number("cutoff") or 0),
        )
        expected = np.load(self.predictions(checkpoints))[:, order].ravel()
        with bandlens.open(self.database(checkpoints)) as results:
            predicted = results.sql(
                "SELECT predicted FROM study_detail_of(?) AS detail JOIN prediction USING (cell) JOIN image ON "
                "image.image_set = detail.image_set_id AND image.image_index = prediction.image_index "
                "WHERE probe <> 'critical_band' ORDER BY checkpoint, probe, cutoff, path",
                [FULL],
            )["predicted"].to_numpy()
        return int((predicted == expected).sum()), len(expected)

    def gate(self, precision: str, checkpoints: int) -> str:
        """The verdicts of a precision's gate on the predictions that were run."""
        study, reference = self.study(precision, checkpoints), f"{ENGINES[FULL]}:{FULL}"
        gated = bandlens.gate_precision(study, reference=reference, db=self.database(checkpoints), images=0)
        verdicts = Counter(gated.rows["verdict"])
        return ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in ("pass", "undecided", "fail"))


def make_models(folder: Path, checkpoints: int) -> list[str]:
    """Make the models with the files of each precision; gives the faster precisions that this processor runs."""
    calibration = Calibration("crops of photographs", "", common.photographs(BATCH) / np.float32(255))
    models = common.resnet50_with_biases(folder, checkpoints)
    for model in models:
        if not (folder / "int8" / f"{model.name}.onnx").exists():
            make_onnx_file(model, "int8", calibration)
    runnable = []
    for precision in FASTER:
        try:
            with open_session(variant_of(models[0], ENGINES[precision], precision), BATCH, 1):
                runnable.append(precision)
        except EngineError as error:
            print(f"left out: {error}")
    return runnable


def main() -> None:
    options = common.arguments(
        __doc__,
        repeats=1,
        quick=1,
        images=(32, "photographs"),
        checkpoints=(4, "checkpoints, beside one alone"),
        workers=(2, "loader processes of the published procedure"),
    )
    from packing import write_photographs  # torch, which it needs, takes seconds, and --help none of them

    images, checkpoints = (4, 1) if options.quick else (options.images, options.checkpoints)
    common.machine("torch", "torchvision", "pyrtools", "onnxruntime", "openvino")
    with common.folder(options.keep) as scratch:
        bench = Bench(scratch.absolute(), SOME_PROBES if options.quick else PUBLISHED, options.workers)
        shutil.rmtree(bench.folder / "photographs", ignore_errors=True)
        write_photographs(bench.folder / "photographs", images)
        precisions = (FULL, *make_models(bench.folder / "models", checkpoints))
        counts = sorted({1, checkpoints})
        works: dict[tuple[int, str], Callable[[], None]] = {}
        for count in counts:
            works[count, PUBLISHED_PROCEDURE] = partial(bench.run_published, count)
            works |= {(count, precision): partial(bench.run, precision, count) for precision in precisions}
        cpu: dict[tuple[int, str], list[float]] = {key: [] for key in works}
        variants = {key: common.with_processor(common.timed(work), cpu[key]) for key, work in works.items()}
        seconds = common.in_turn(variants, options.repeats, warm_up=False)
        report(images * len(bench.conditions), seconds, cpu)
        for count in counts:
            equal, total = bench.agreement(count)
            print(f"checkpoints: {count}; without noise, {equal:,} of {total:,} predictions are as published")
            for precision in precisions[1:]:
                print(f"checkpoints: {count}; gate of {precision}: {bench.gate(precision, count)}")


def report(predictions: int, seconds: Times, cpu: Times) -> None:
    """Print times and ratios; `predictions` are those of one checkpoint."""
    head = ["checkpoints", "variant", "predictions", "seconds", "processor seconds"]
    rows = []
    for (count, name), values in seconds.items():
        rows.append([str(count), name, f"{predictions * count:,}", values, cpu[count, name]])
    common.table(head, rows)
    for count, name in seconds:
        if name != PUBLISHED_PROCEDURE:
            for clock, times in (("clock", seconds), ("processors", cpu)):
                values = ratios(times[count, PUBLISHED_PROCEDURE], times[count, name])
                ratio(f"published over {name}, checkpoints: {count}, {clock}", values, GOALS.get(name, "none"))


if __name__ == "__main__":
    main()
