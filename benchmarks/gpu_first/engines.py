"""TensorRT's plans and rates, and runs beside the bare loop on the same photographs."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandlens.core.records import Condition, Finished, Variant
from bandlens.engine.backends.base import Session, open_session, variant_of
from bandlens.engine.device.streams import network_stream, point
from bandlens.engine.run import CellBatch, CellProgress, flush, make_resources, run
from bandlens.engine.tuning import MEASUREMENT_SECONDS, REPEATS, measure_rate
from bandlens.probes.family import Batch
from bandlens.probes.grid import Grid

from .bench import Bench
from .checks import Figures
from .networks import cells_of, exported_model, open_files, open_networks, resnet50

GRID = 48 * 52 * 50_000
"""Inferences of the whole study."""
TIE = 1e-4
"""Logits that differ by less, relative to the largest, are equal to float32 arithmetic on another device."""


def build_plans(bench: Bench) -> Figures:
    """Build one plan without and with timings, and open it for all networks."""
    bench.require("tensorrt")
    from bandlens.engine.backends.tensorrt import make_plan

    sizes = bench.sizes
    variant = variant_of(exported_model(bench), "tensorrt", sizes.precisions[0])
    shutil.rmtree(bench.folder / "models/plans", ignore_errors=True)
    for name in ("first", "again"):
        start = time.perf_counter()
        plan = make_plan(variant, sizes.batch, "")
        yield name, time.perf_counter() - start
        if name == "first":  # the plan's description goes, and the timings stay
            plan.with_suffix(".json").unlink()
    with ExitStack() as stack:
        start = time.perf_counter()
        open_files(bench, stack)
        yield "open", time.perf_counter() - start


def measure_rates(bench: Bench) -> Figures:
    """Images a second of sessions at each batch and precision, beside NVIDIA's own program."""
    bench.require("tensorrt")
    from bandlens.engine.backends.tensorrt import make_plan

    sizes, model, rates = bench.sizes, exported_model(bench), dict[str, float]()
    for batch in sizes.batches:
        for precision in sizes.precisions:
            if bench.late(120):
                continue
            variant = variant_of(model, "tensorrt", precision)
            rate = measure_rate(variant, batch, 0, MEASUREMENT_SECONDS, REPEATS)
            yield f"{precision}.{batch}", rate
            rates[precision] = max(rate, rates.get(precision, 0))
            if (fastest := trtexec_rate(make_plan(variant, batch, ""), batch)) is not None:
                yield f"{precision}.{batch}.trtexec", rate / fastest
    for precision, rate in rates.items():
        yield f"{precision}.grid", GRID / rate / 60


def trtexec_rate(trt_plan: Path, batch: int) -> float | None:
    """Images a second by trtexec, on random numbers; None where it is not installed, or does not say."""
    program = shutil.which("trtexec")
    if program is None:
        print("  trtexec is not installed")
        return None
    options = ["--useCudaGraph", "--noDataTransfers", "--useSpinWait", "--duration=3"]
    result = subprocess.run([program, f"--loadEngine={trt_plan}", *options], capture_output=True, text=True, timeout=60)
    match = re.search(r"Throughput: ([\d.]+) qps", result.stdout)
    return float(match[1]) * batch if match else None


def try_settings(bench: Bench) -> Figures:
    """Seconds that plans take to build with settings of the builder, and images a second of them."""
    bench.require("tensorrt")
    from bandlens.export.plans.plan_builder import setting_choices

    variant = variant_of(exported_model(bench), "tensorrt", bench.sizes.precisions[0])
    for settings in reversed(setting_choices()):
        name, start = settings.replace(" ", "_") or "plain", time.perf_counter()
        with open_session(variant, bench.sizes.batch, 0, settings=settings):
            yield f"{name}.seconds", time.perf_counter() - start
        yield name, measure_rate(variant, bench.sizes.batch, 0, MEASUREMENT_SECONDS, REPEATS, settings=settings)


# Runs


def run_tensorrt(bench: Bench) -> Figures:
    bench.require("tensorrt")
    with ExitStack() as stack:
        yield from run_over_bare(bench, open_files(bench, stack))


def run_torch(bench: Bench) -> Figures:
    with ExitStack() as stack:
        yield "differ", rows_that_differ(bench)
        sessions = open_networks(bench, stack, bench.sizes.networks)
        yield "flush", flush_seconds(bench, sessions)
        yield from run_over_bare(bench, sessions)


def finish(xp: ModuleType) -> None:
    """Wait until all work that this thread has asked for is done."""
    if xp is not np:
        xp.cuda.get_current_stream().synchronize()


def bare_seconds(sessions: Sequence[Session], xp: ModuleType, ready: Sequence[Any], rounds: int) -> float:
    """Seconds of an inference, over all sessions in turn, on batches that lie ready on the device."""
    for batch in (*ready, *ready):  # CUDA graphs are captured on the way
        for session in sessions:
            session.infer(batch)
    finish(xp)
    start = time.perf_counter()
    for _, batch in zip(range(rounds), cycle(ready), strict=False):
        for session in sessions:
            session.infer(batch)
    finish(xp)
    return (time.perf_counter() - start) / (rounds * len(sessions))


def perturbed_batches(xp: ModuleType, batch: Batch, grid: Grid, arrays: Sequence[Any]) -> None:
    """Fill each array with the batch under another condition, as a run would."""
    conditions = grid.conditions[:: -(-len(grid.conditions) // len(arrays))]
    for array, condition in zip(arrays, cycle(conditions), strict=False):
        [(perturb, members)] = grid.groups([condition])
        for _, images in perturb(xp, batch, members, lambda: xp.empty(batch.pixels.shape, dtype=xp.float32)):
            array[...] = images
    finish(xp)


def run_over_bare(bench: Bench, sessions: Mapping[Variant, Session]) -> Figures:
    """The bare loop's images a second, and what the run reaches of it, for one session and for all of them.

    Both see the same photographs, since a card's clocks depend on the numbers that it computes with.
    """
    sizes, xp = bench.sizes, bench.xp
    for label, count, last in (("1", 1, sizes.images), ("48", len(sessions), sizes.shared_images)):
        if bench.late(4 * sizes.seconds):
            continue
        subset = dict(list(sessions.items())[:count])
        place = make_resources(xp, bench.images, subset)
        perturbed_batches(xp, bench.batch(xp, sizes.batch), bench.grid, place.arrays)
        bare = bare_seconds(list(subset.values()), xp, place.arrays, max(sizes.rounds // count, 1))
        yield f"{label}.bare", sizes.batch / bare
        stride = bare * count * len(bench.grid.conditions) * last / sizes.batch / sizes.seconds
        conditions = bench.grid.conditions[:: math.ceil(stride)]
        first = cells_of(bench, dict(list(subset.items())[:1]), conditions)
        list(run(first, bench.grid, place, last=sizes.batch))  # kernels are compiled
        cells = cells_of(bench, subset, conditions)
        start, inferring = time.perf_counter(), 0.0
        for outcomes in run(cells, bench.grid, place, last=last):
            inferring += sum(outcome.seconds for outcome in outcomes if isinstance(outcome, Finished))
        duration = time.perf_counter() - start
        yield f"{label}.run", bare * len(cells) * last / sizes.batch / duration
        yield f"{label}.busy", inferring / duration


def rows_that_differ(bench: Bench) -> int:
    """The number of rows in fp32, of images under some conditions, that no rounding explains."""
    import torch

    sizes = bench.sizes
    conditions = bench.grid.conditions[:: sizes.stride]
    with ExitStack() as stack:
        sessions = open_networks(bench, stack, 1, "fp32")
        cells = cells_of(bench, sessions, conditions)
        predictions: dict[Condition, list[Any]] = {condition: [] for condition in conditions}
        for outcomes in run(cells, bench.grid, make_resources(bench.xp, bench.images, sessions), last=sizes.compared):
            for outcome in outcomes:
                assert isinstance(outcome, Finished), outcome
                predictions[outcome.cell.condition].append(outcome.predictions)
    host = bench.batch(np, sizes.compared)
    labels = bench.images.labels[: sizes.compared]  # type: ignore[index]
    network, differ = resnet50(sizes.width, host.pixels), 0
    for perturb, members in bench.grid.groups(conditions):
        for condition, images in perturb(np, host, members, lambda: np.empty(host.pixels.shape, np.float32)):
            with torch.no_grad():
                logits = network(torch.from_numpy(images)).numpy()
            predicted, ranks = (
                np.concatenate([getattr(part, column) for part in predictions[condition]])
                for column in ("predicted", "label_rank")
            )
            differ += int((~possible(logits, labels, predicted, ranks)).sum())
    return differ


def possible(
    logits: NDArray[np.float32], labels: NDArray[np.int32], predicted: NDArray[Any], ranks: NDArray[Any]
) -> NDArray[np.bool_]:
    """Whether logits that differ from these by TIE of the largest can give each row's class and rank."""
    near, rows = TIE * np.abs(logits).max(), np.arange(len(logits))
    scores = logits[rows, labels][:, None]
    low_ranks, high_ranks = (logits > scores + near).sum(1), (logits >= scores - near).sum(1) - 1
    return (logits[rows, predicted] >= logits.max(1) - near) & (low_ranks <= ranks) & (ranks <= high_ranks)


def flush_seconds(bench: Bench, sessions: Mapping[Variant, Session]) -> float:
    """How long the card idles while a minute's columns of all networks are fetched, 7 batches of 29 conditions."""
    xp, sizes, works = bench.xp, bench.sizes, list[CellProgress]()
    with network_stream(xp):
        for cell, _ in cells_of(bench, sessions, bench.grid.conditions[-29:]):
            work = CellProgress(cell, 0)
            for number in range(1, 8):
                columns = [xp.zeros(sizes.batch, dtype=kind) for kind in (xp.uint16, xp.uint16, xp.float32)]
                columns_of_batch = (columns[0], columns[1], columns[2], None)
                work.batches.append(CellBatch(columns_of_batch, point(xp), point(xp), number * sizes.batch))
            works.append(work)
        finish(xp)
        start = time.perf_counter()
        flush(xp, works)
        return time.perf_counter() - start
