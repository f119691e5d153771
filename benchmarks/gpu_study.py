"""How fast a machine runs the study's grid: ResNet-50, 52 conditions, one checkpoint and many.

`bare loop`: each session's infer in turn on batches that lie ready on the device, and nothing else.
`run`: what `bandlens run` does, with reading, perturbing, reducing and storing; the same number of inferences.

For NVIDIA hosts: --engine tensorrt, onnxruntime-cuda, …; it runs on a CPU engine too. The checkpoints are one
ResNet-50 of random weights under many names, each with a bias of its own, so that every one is a file, a plan and a
session by itself; weights do not change the speed. What perturbing takes, and what share of the card is used,
gpu_first measures. Everything is printed, and written as JSON with the versions of what ran.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.metadata import distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

import _common as common
import numpy as np
from _common import SIZE

from bandlens.analysis.database.open import open_store
from bandlens.core.jobs import processors
from bandlens.core.records import Cell, Model, Variant
from bandlens.engine.backends.base import Session, arrays_of, open_session, variant_of
from bandlens.engine.run import make_resources, run
from bandlens.probes.family import Batch
from bandlens.probes.grid import PUBLISHED, Grid, make_grid
from bandlens.probes.images.image_set import ImageSet, open_image_set

GRID = 48 * 52 * 50_000
PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt-cu13", "cupy-cuda13x", "duckdb")


def prepare(model: Model, precision: str, images: ImageSet) -> None:
    """The graph of another precision than fp32."""
    if precision in ("fp16", "int8"):
        from bandlens.export.onnx.precisions import Calibration, make_onnx_file

        pixels = images.take(np.arange(min(images.info.count, 300))).astype(np.float32) / np.float32(255)
        calibration = Calibration(images.info.name, images.info.digest, pixels) if precision == "int8" else None
        make_onnx_file(model, precision, calibration)


def run_seconds(
    sessions: Mapping[Variant, Session], images: ImageSet, grid: Grid, xp: ModuleType, scratch: Path
) -> float:
    """Seconds of all cells of the grid, stored as they come."""
    cells = [Cell(variant, images.info, condition, 0) for condition in grid.conditions for variant in sessions]
    infos = {variant: session.info for variant, session in sessions.items()}
    database = scratch / f"{len(sessions)}.duckdb"
    database.unlink(missing_ok=True)
    with open_store(database) as store:
        store.begin_study("benchmark", "", cells, [images])
        started = time.perf_counter()
        for outcomes in run([(cell, 0) for cell in cells], grid, make_resources(xp, images, sessions)):
            store.commit(outcomes, infos)
        return time.perf_counter() - started


def device(xp: ModuleType) -> dict[str, Any]:
    """The card and what is used of it; empty on a CPU."""
    if xp is np:
        return {}
    card, (free, total) = xp.cuda.Device(), xp.cuda.runtime.memGetInfo()
    return {
        "name": xp.cuda.runtime.getDeviceProperties(card.id)["name"].decode(),
        "memory_used_gib": (total - free) / 2**30,
        "memory_gib": total / 2**30,
    }


def plans(models: Path) -> list[float]:
    """Seconds of the plans that were built, in order; the first filled the timing cache."""
    files = sorted((models / "plans").glob("*.b*.json"), key=lambda file: file.stat().st_mtime)
    return [json.loads(file.read_text(encoding="utf-8"))["seconds"] for file in files]


def main() -> None:
    options = common.arguments(
        __doc__,
        repeats=3,
        quick=1,
        engine=("onnxruntime", "what infers"),
        precision=("fp32", "of the engine"),
        batch=(256, "images a batch"),
        checkpoints=(48, "models that are resident together"),
        images=(2048, "images, a multiple of the batch"),
        json=("gpu_study.json", "file for the figures"),
    )
    if options.quick:
        options.batch, options.checkpoints, options.images = 8, 2, 8
    grid, xp = make_grid(common.SOME_PROBES if options.quick else PUBLISHED, Path()), arrays_of(options.engine)
    with common.folder(options.keep) as prepared, ExitStack() as stack:
        images = open_image_set(common.image_set(prepared / f"{options.images}.set", options.images))
        models = common.resnet50_with_biases(prepared / "models", options.checkpoints)
        sessions: dict[Variant, Session] = {}
        opening = []
        for model in models:
            prepare(model, options.precision, images)
            variant = variant_of(model, options.engine, options.precision)
            started = time.perf_counter()
            sessions[variant] = stack.enter_context(open_session(variant, options.batch, processors()))
            opening.append(time.perf_counter() - started)
        common.machine("numpy", "duckdb")
        results = measure(options, grid, xp, images, sessions, prepared)
        results |= {"opening_seconds": opening, "plan_seconds": plans(prepared / "models"), "device": device(xp)}
    installed = {package: version(package) for package in PACKAGES if any(distributions(name=package))}
    report(options, results | {"versions": installed, "conditions": len(grid.conditions)})


def measure(
    options: Any, grid: Grid, xp: ModuleType, images: ImageSet, sessions: dict[Variant, Session], scratch: Path
) -> dict[str, Any]:
    """Seconds of an inference, bare and in a run, for one checkpoint and for all, in turn."""
    single = dict(list(sessions.items())[:1])
    batches = len(grid.conditions) * -(-images.info.count // options.batch)
    seconds, rows = dict[str, Any](), np.arange(options.batch) % images.info.count
    # The bare loop has the photographs of the run: a card's clocks depend on the numbers that it computes with.
    ready = [xp.empty((options.batch, 3, SIZE, SIZE), dtype=xp.float32) for _ in range(2)]
    batch = Batch(xp.asarray(images.take(rows)), xp.asarray(images.keys[rows]), rows, 0)
    common.perturbed_batches(xp, batch, grid, ready)
    for few in dict.fromkeys([len(single), len(sessions)]):
        chosen = single if few == 1 else sessions
        bare, whole = [], []
        for _ in range(options.repeats):
            bare.append(common.bare_seconds(list(chosen.values()), xp, ready, max(batches // 4, 1)))
            whole.append(run_seconds(chosen, images, grid, xp, scratch) / (batches * few))
        seconds[str(few)] = {"bare_seconds": bare, "run_seconds": whole}
    return {"checkpoints": seconds, "resident_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def report(options: Any, results: dict[str, Any]) -> None:
    """Print the figures, and write all of them."""
    card = results["device"]
    print(f"{options.engine} {options.precision}, batch {options.batch}, {card.get('name', 'a CPU')}")
    rows = []
    for few, seconds in results["checkpoints"].items():
        bare, whole = (options.batch / statistics.median(seconds[kind]) for kind in ("bare_seconds", "run_seconds"))
        rows.append([few, f"{bare:,.0f}", f"{whole:,.0f}", f"{GRID / whole / 3600:.2f} h"])
    common.table(["checkpoints", "bare images/s", "run images/s", "the grid takes"], rows)
    for few, seconds in results["checkpoints"].items():
        common.ratio(
            f"run over bare loop, {few} checkpoints",
            common.ratios(seconds["bare_seconds"], seconds["run_seconds"]),
            ">= 0.95",
        )
    if seconds := results["plan_seconds"]:
        print(f"plans: first {seconds[0]:.1f} s, then {statistics.median(seconds[1:] or seconds):.1f} s")
    print(f"opening a session: {statistics.median(results['opening_seconds']):.2f} s")
    used = f", {card['memory_used_gib']:.1f} of {card['memory_gib']:.1f} GiB on the card" if card else ""
    print(f"memory: {results['resident_gib']:.1f} GiB resident{used}")
    chosen = {name: getattr(options, name) for name in ("engine", "precision", "batch", "images")}
    Path(options.json).write_text(json.dumps(chosen | results | {"command": sys.argv}, indent=1), encoding="utf-8")
    print(f"written: {options.json}")


if __name__ == "__main__":
    main()
