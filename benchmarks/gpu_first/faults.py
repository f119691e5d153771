"""Faults that end a run on a card: an illegal access, and a batch for which there is no memory. Each is one line."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from bandlens.core.errors import DeviceError
from bandlens.engine.device.pixels import free_memory
from bandlens.engine.run import make_resources, run

from .bench import Bench, LeftOut
from .networks import cells_of, open_networks, variant_named

WRITE_NOWHERE = 'extern "C" __global__ void write_nowhere(int *place) { *place = 1; }'


def sanitize(bench: Bench) -> Iterator[tuple[str, float]]:
    """The stage `kernels` under compute-sanitizer."""
    bench.require_card()
    program = shutil.which("compute-sanitizer")
    if program is None:
        raise LeftOut("compute-sanitizer is not installed")
    command = [program, sys.executable, str(Path(__file__).parent), "--stage", "kernels"]
    result = subprocess.run([*command, "--out", bench.folder / "sanitized"], capture_output=True, text=True)
    print(result.stdout + result.stderr)
    summary = re.search(r"ERROR SUMMARY: (\d+) error", result.stdout)
    if summary is None:
        raise RuntimeError("compute-sanitizer did not end with a summary")
    yield "errors", int(summary[1])


def break_card(xp: Any) -> None:
    """An illegal access, after which every call of CUDA in this process fails."""
    xp.RawKernel(WRITE_NOWHERE, "write_nowhere")((1,), (1,), (np.uint64(8),))


def lose_card(bench: Bench) -> Iterator[tuple[str, float]]:
    """Break the card under a run's third batch: the first error must come as one line, and no other in its place."""
    bench.require_card()
    batches = count(1)

    def take(rows: Any) -> Any:
        if next(batches) == min(3, bench.sizes.images // bench.sizes.batch):
            break_card(bench.xp)
        return place.take(rows)

    try:
        with ExitStack() as stack:
            sessions = open_networks(bench, stack, 1)
            place = make_resources(bench.xp, bench.images, sessions)
            cells = cells_of(bench, sessions, bench.grid.conditions[:1])
            list(run(cells, bench.grid, replace(place, take=take), last=bench.sizes.images))
    except DeviceError as error:
        print(f"  {error}")
        yield "line", int(str(error).startswith("the GPU failed: ") and "\n" not in str(error))
    else:
        raise RuntimeError("a run whose card was lost ended without an error")


def fill_card(bench: Bench) -> Iterator[tuple[str, float]]:
    """Ask for a batch of which one copy takes twice the free memory: the line must name one that fits."""
    bench.require_card()
    batch = 2 * free_memory(bench.xp) // (3 * bench.sizes.side**2 * np.dtype(np.float32).itemsize)
    # The run's own arrays are what has no room.
    session: Any = SimpleNamespace(info=SimpleNamespace(batch=batch))
    try:
        make_resources(bench.xp, bench.images, {variant_named(bench, "network", bench.sizes.precision): session})
    except DeviceError as error:
        print(f"  {error}")
        yield (
            "line",
            int(re.fullmatch(r"out of memory on the GPU .*batch = [1-9]\d* would fit", str(error)) is not None),
        )
    else:
        raise RuntimeError(f"a batch of {batch} found memory that the card has not")
