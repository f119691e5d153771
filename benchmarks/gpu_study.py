"""How fast a machine runs the study's grid: ResNet-50, 52 conditions, one checkpoint and many.

`bare loop`: each session's infer in turn on batches that lie ready on the device, and nothing else.
`run`: what `bandlens run` does, with reading, perturbing, reducing and storing; the same number of inferences.
`perturb`: the grid's batches without a model.

For NVIDIA hosts: --engine tensorrt, onnxruntime-cuda, …; it runs on a CPU engine too. The checkpoints are one
ResNet-50 of random weights under many names, each with a bias of its own, so that every one is a file, a plan and a
session by itself; weights do not change the speed. The share of the peak is that of dense FP16 tensor operations at the
card's top clock, for 8.18 GFLOP an image. Everything is printed, and written as JSON with the versions of what ran.
"""

from __future__ import annotations

import hashlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from _common import MODEL, SIZE, arguments, folder, image_set, machine, ratio, ratios, resnet50, table
from onnx import numpy_helper

from bandlens.analysis.database.open import open_store
from bandlens.engine.backends.base import Session, arrays_of, open_session, variant_of
from bandlens.engine.device.streams import finish
from bandlens.engine.run import run
from bandlens.export.models import load_model, save_model
from bandlens.probes.arrays import processors
from bandlens.probes.family import Batch
from bandlens.probes.grid import PUBLISHED, Grid, make_grid
from bandlens.probes.images.image_set import ImageSet, open_image_set
from bandlens.records import Cell, Model, Variant

GRID = 48 * 52 * 50_000
GFLOP = 8.18
"""Operations of an image: 4.09 G multiplications, each with an addition."""
FLOP_PER_CLOCK = {"8.0": 2048, "8.6": 1024, "8.9": 1024, "9.0": 4096, "10.0": 8192, "12.0": 1024}
"""Dense FP16 tensor operations of a multiprocessor in a clock, by compute capability (NVIDIA's architecture papers)."""
PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt-cu13", "cupy-cuda13x", "duckdb")


def checkpoints(models: Path, count: int) -> list[Model]:
    """ResNet-50 `count` times, each with another bias."""
    first = load_model(models, MODEL)
    graph = onnx.load(first.path)
    bias = next(tensor for tensor in graph.graph.initializer if list(tensor.dims) == [first.classes])
    values = numpy_helper.to_array(bias)
    made = []
    for k in range(count):
        bias.CopyFrom(numpy_helper.from_array(values + np.float32(k) / 1000, bias.name))
        content = graph.SerializeToString(deterministic=True)
        name, sha256 = f"{MODEL}-{k}", hashlib.sha256(content).hexdigest()
        model = replace(first, name=name, path=models / f"{name}.onnx", sha256=sha256, weights_sha256=sha256)
        save_model(model, content, {})
        made.append(model)
    return made


def prepare(model: Model, precision: str, images: ImageSet) -> None:
    """The graph of another precision than fp32."""
    if precision in ("fp16", "int8"):
        from bandlens.export.precisions import Calibration, make_onnx_file

        pixels = images.take(np.arange(min(images.info.count, 300))).astype(np.float32) / np.float32(255)
        calibration = Calibration(images.info.name, images.info.digest, pixels) if precision == "int8" else None
        make_onnx_file(model, precision, calibration)


def bare_seconds(sessions: Sequence[Session], xp: ModuleType, batch: int, rounds: int) -> float:
    """Seconds of an inference, over all sessions in turn."""
    ready = [xp.asarray(np.random.default_rng(k).random((batch, 3, SIZE, SIZE), np.float32)) for k in range(2)]
    for _ in range(3):  # CUDA graphs are made on the way
        infer_all(sessions, ready, 1)
    finish(xp)
    started = time.perf_counter()
    infer_all(sessions, ready, rounds)
    finish(xp)
    return (time.perf_counter() - started) / (rounds * len(sessions))


def infer_all(sessions: Sequence[Session], ready: Sequence[Any], rounds: int) -> None:
    for k in range(rounds):
        for session in sessions:
            session.infer(ready[k % len(ready)])


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
        for outcomes in run([(cell, 0) for cell in cells], images, grid, sessions, xp):
            store.commit(outcomes, infos)
        return time.perf_counter() - started


def perturb_seconds(images: ImageSet, grid: Grid, xp: ModuleType, batch: int) -> dict[str, float]:
    """Seconds of the grid's perturbations of one batch, by group of conditions; the second of two."""
    pixels = xp.asarray(images.take(np.arange(batch) % images.info.count))
    buffers = [xp.empty(pixels.shape, dtype=xp.float32) for _ in range(4)]
    found = {}
    for perturb, conditions in grid.groups(grid.conditions):
        name = " + ".join(dict.fromkeys(condition.probe for condition in conditions))
        for _ in range(2):
            finish(xp)
            started = time.perf_counter()
            taken = Batch(pixels, xp.arange(batch, dtype=xp.uint64), np.arange(batch), 0)
            for _ in perturb(xp, taken, conditions, cycle(buffers).__next__):
                pass
            finish(xp)
            found[name] = time.perf_counter() - started
    return found


def cycle(buffers: Sequence[Any]) -> Iterator[Any]:
    while True:
        yield from buffers


def device(xp: ModuleType) -> dict[str, Any]:
    """The card and what is used of it; empty on a CPU."""
    if xp is np:
        return {}
    card, (free, total) = xp.cuda.Device(), xp.cuda.runtime.memGetInfo()
    capability = f"{card.compute_capability[:-1]}.{card.compute_capability[-1]}"
    clock, processors_ = card.attributes["ClockRate"] * 1e3, card.attributes["MultiProcessorCount"]
    per_clock = FLOP_PER_CLOCK.get(capability)
    return {
        "name": xp.cuda.runtime.getDeviceProperties(card.id)["name"].decode(),
        "capability": capability,
        "memory_used_gib": (total - free) / 2**30,
        "memory_gib": total / 2**30,
        "fp16_peak_tflops": per_clock * clock * processors_ / 1e12 if per_clock else None,
    }


def plans(models: Path) -> dict[str, list[float]]:
    """Seconds of the plans that were built, in order; the first filled the timing cache."""
    found: dict[str, list[float]] = {}
    for file in sorted((models / "plans").glob("*.json"), key=lambda file: file.stat().st_mtime):
        about = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault("refit" if about["refit"] else "build", []).append(about["seconds"])
    return found


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    given = arguments(
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
    if given.quick:
        given.batch, given.checkpoints, given.images = 8, 2, 8
    probes = (
        {"lowpass": {"cutoff": 0.1}, "critical_band": {"noise_sd": 0.16, "grey": False}} if given.quick else PUBLISHED
    )
    grid, xp = make_grid(probes, Path()), arrays_of(given.engine)
    with folder(given.keep) as prepared, ExitStack() as stack:
        resnet50(prepared / "models")
        images = open_image_set(image_set(prepared / f"{given.images}.set", given.images))
        models = checkpoints(prepared / "models", given.checkpoints)
        sessions: dict[Variant, Session] = {}
        opening = []
        for model in models:
            prepare(model, given.precision, images)
            variant = variant_of(model, given.engine, given.precision)
            started = time.perf_counter()
            sessions[variant] = stack.enter_context(open_session(variant, given.batch, processors()))
            opening.append(time.perf_counter() - started)
        machine("numpy", "duckdb")
        results = measure(given, grid, xp, images, sessions, prepared)
        results |= {"opening_seconds": opening, "plan_seconds": plans(prepared / "models"), "device": device(xp)}
    report(given, results | {"versions": versions(), "conditions": len(grid.conditions)})


def measure(
    given: Any, grid: Grid, xp: ModuleType, images: ImageSet, sessions: dict[Variant, Session], scratch: Path
) -> dict[str, Any]:
    """Seconds of an inference, bare and in a run, for one checkpoint and for all, in turn."""
    one = dict(list(sessions.items())[:1])
    batches = len(grid.conditions) * -(-images.info.count // given.batch)
    found: dict[str, Any] = {}
    for few in dict.fromkeys([len(one), len(sessions)]):
        chosen = one if few == 1 else sessions
        bare, whole = [], []
        for _ in range(given.repeats):
            bare.append(bare_seconds(list(chosen.values()), xp, given.batch, max(batches // 4, 1)))
            whole.append(run_seconds(chosen, images, grid, xp, scratch) / (batches * few))
        found[str(few)] = {"bare_seconds": bare, "run_seconds": whole}
    perturbing = perturb_seconds(images, grid, xp, given.batch)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"checkpoints": found, "perturb_seconds": perturbing, "resident_gib": memory}


def report(given: Any, results: dict[str, Any]) -> None:
    """Print the figures, and write all of them."""
    card = results["device"]
    print(f"{given.engine} {given.precision}, batch {given.batch}, {card.get('name', 'a CPU')}")
    rows = []
    for few, seconds in results["checkpoints"].items():
        bare, whole = (given.batch / statistics.median(seconds[kind]) for kind in ("bare_seconds", "run_seconds"))
        peak = card.get("fp16_peak_tflops")
        share = f"{whole * GFLOP / 1e3 / peak:.1%}" if peak else "-"
        rows.append([few, f"{bare:,.0f}", f"{whole:,.0f}", share, f"{GRID / whole / 3600:.2f} h"])
    table(["checkpoints", "bare images/s", "run images/s", "of FP16 peak", "the grid takes"], rows)
    milliseconds = [[name, f"{seconds * 1e3:.1f}"] for name, seconds in results["perturb_seconds"].items()]
    table(["perturbing a batch", "ms"], milliseconds)
    for few, seconds in results["checkpoints"].items():
        ratio(
            f"run over bare loop, {few} checkpoints", ratios(seconds["bare_seconds"], seconds["run_seconds"]), ">= 0.95"
        )
    for kind, seconds in results["plan_seconds"].items():
        print(f"plans ({kind}): first {seconds[0]:.1f} s, then {statistics.median(seconds[1:] or seconds):.1f} s")
    print(f"opening a session: {statistics.median(results['opening_seconds']):.2f} s")
    used = f", {card['memory_used_gib']:.1f} of {card['memory_gib']:.1f} GiB on the card" if card else ""
    print(f"memory: {results['resident_gib']:.1f} GiB resident{used}")
    chosen = {name: getattr(given, name) for name in ("engine", "precision", "batch", "images")}
    Path(given.json).write_text(json.dumps(chosen | results | {"command": sys.argv}, indent=1), encoding="utf-8")
    print(f"written: {given.json}")


if __name__ == "__main__":
    main()
