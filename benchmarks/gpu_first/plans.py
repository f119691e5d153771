"""TensorRT: plans built, opened and timed, and `bandlens plan` twice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from _common import bare_seconds

from bandlens.core.errors import BandlensError
from bandlens.core.records import Crop
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.engine.device.streams import finish, new_stream
from bandlens.engine.tuning import measure_rate

from .bench import Bench
from .networks import exported_models, open_files

GRID = 48 * 52 * 50_000
"""Inferences of the whole study."""


def build_plans(bench: Bench) -> Iterator[tuple[str, float]]:
    """Build one plan without and with timings and open it for all networks."""
    bench.require("tensorrt")
    from bandlens.engine.backends.tensorrt import shared_device
    from bandlens.export.onnx.files import load_onnx_file
    from bandlens.export.plans.plans import ensure_trt_plan

    sizes, device = bench.sizes, shared_device()
    model = exported_models(bench)[0]
    onnx_file, target = load_onnx_file(model, sizes.precision), device.target(sizes.batch)
    shutil.rmtree(bench.folder / "models/plans", ignore_errors=True)
    for name in ("first", "again"):
        started = time.perf_counter()
        trt_plan = ensure_trt_plan(device.trt, onnx_file, target)
        yield name, time.perf_counter() - started
        if name == "first":  # the plan's description goes, and the timings stay
            trt_plan.path.with_suffix(".json").unlink()
    with ExitStack() as stack:
        started = time.perf_counter()
        open_files(bench, stack, "tensorrt")
        finish(bench.xp)
        yield "open", time.perf_counter() - started


def plan_twice(bench: Bench) -> Iterator[tuple[str, float]]:
    """Plan a study twice in a process: what is timed must be a replay, so that both estimates are the same."""
    bench.require("tensorrt")
    from bandlens.app import api
    from bandlens.app.study.file import Study
    from bandlens.probes.images.pack import pack_arrays

    images, sizes = bench.folder / "images.set", bench.sizes
    if not images.exists():
        pictures = bench.images.take(np.arange(sizes.batch)).transpose(0, 2, 3, 1)
        crop = Crop(sizes.side, sizes.side * 8 // 7)
        pack_arrays([(f"{k}.png", picture) for k, picture in enumerate(pictures)], images, crop=crop)
    study = Study(
        name="plan",
        models=str(bench.folder / "models"),
        checkpoints=[exported_models(bench)[0].name],
        images=[str(images)],
        engine="tensorrt",
        precision=sizes.precision,
        batch=sizes.batch,
    )
    rates = []
    for name in ("first", "again"):
        plan = api.studies.plan(study, bench.folder / "none.duckdb")
        rates.append(plan.predictions / plan.seconds)
        yield name, rates[-1]
    yield "ratio", rates[1] / rates[0]


def leave_settings_out(bench: Bench) -> Iterator[tuple[str, float]]:
    """Images a second with all settings of the builder, and without each of them; one that fails is named."""
    bench.require("tensorrt")
    from bandlens.export.plans.build import SETTINGS, WITHOUT

    sizes, failures = bench.sizes, list[str]()
    variant = variant_of(exported_models(bench)[0], "tensorrt", sizes.precision)
    for word in ("", *SETTINGS):
        os.environ[WITHOUT] = word
        name = f"without_{word}" if word else "all"
        try:
            yield name, measure_rate(variant, sizes.batch, 0, 0.5, 3)
        except BandlensError as error:
            failures.append(f"{name}: {error}")
    del os.environ[WITHOUT]
    if failures:
        raise RuntimeError("; ".join(failures))


def measure_rates(bench: Bench) -> Iterator[tuple[str, float]]:
    """Images a second of sessions at every batch and precision, beside what is as fast as can be."""
    bench.require("tensorrt")
    from bandlens.engine.backends.tensorrt import TensorRTSession, shared_device
    from bandlens.export.onnx.files import load_onnx_file
    from bandlens.export.plans.plans import ensure_trt_plan

    sizes, xp, device, model = bench.sizes, bench.xp, shared_device(), exported_models(bench)[0]
    for batch in sizes.batches:
        for precision in sizes.precisions:
            if bench.late(120):
                return
            with open_session(variant_of(model, "tensorrt", precision), batch, 0) as session, new_stream(xp):
                assert isinstance(session, TensorRTSession)
                ready = [xp.zeros((batch, *bench.images.shape[1:]), dtype=np.float32) for _ in range(2)]
                rate = batch / bare_seconds([session], xp, ready, sizes.rounds)
                yield f"{precision}.{batch}", rate
                launch, stream = session.capture(ready[0]), device.stream
                launch()
                stream.synchronize()
                started = time.perf_counter()
                for _ in range(sizes.rounds):
                    launch()
                stream.synchronize()
                yield f"{precision}.{batch}.graphs", rate * (time.perf_counter() - started) / sizes.rounds / batch
                trt_plan = ensure_trt_plan(device.trt, load_onnx_file(model, precision), device.target(batch))
                if (best := trtexec_rate(trt_plan.path, batch)) is not None:
                    yield f"{precision}.{batch}.trtexec", rate / best
            if (precision, batch) == (sizes.precision, sizes.batch):
                yield "grid", GRID / rate / 60


def trtexec_rate(trt_plan: Path, batch: int) -> float | None:
    """Images a second by NVIDIA's own program; None where it is not installed, or does not say."""
    program = shutil.which("trtexec")
    if program is None:
        print("  trtexec is not installed")
        return None
    options = ["--useCudaGraph", "--noDataTransfers", "--useSpinWait", "--duration=3"]
    result = subprocess.run([program, f"--loadEngine={trt_plan}", *options], capture_output=True, text=True, timeout=60)
    match = re.search(r"Throughput: ([\d.]+) qps", result.stdout)
    return float(match[1]) * batch if match else None
