"""Parts that all benchmarks share: real photographs, a ResNet-50, variants timed in turn, and tables with ratios.

Every program compares variants in one run, A B A B …, so that whatever else the machine does hits all of them alike,
and takes ratios within a repetition before it takes medians. None of them asserts a time.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bandlens.core.records import Condition, Model
    from bandlens.probes.family import Perturb

SIZE = 224
BATCH = 32
MODEL = "resnet50"
SOME_PROBES = {"lowpass": {"cutoff": 0.1}, "critical_band": {"noise_sd": 0.16, "grey": False}}
"""The table [probes] of a quick benchmark."""

Variant = Callable[[], float]
"""A function that does its work once and gives the seconds that it took."""


def arguments(doc: str | None, repeats: int, quick: int, **flags: tuple[Any, str]) -> argparse.Namespace:
    """Parse --quick, --repeats (each variant runs `quick` times with --quick), --keep, and the program's own flags.

    Each of its own has a default and its help.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything: does it work, not how fast is it")
    parser.add_argument("--repeats", type=int, help=f"times each variant runs (default {repeats}, quick {quick})")
    parser.add_argument("--keep", type=Path, help="folder for what is prepared, kept for the next time")
    for name, (default, text) in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true", help=text)
        else:
            parser.add_argument(flag, type=type(default), default=default, help=f"{text} (default {default})")
    options = parser.parse_args()
    options.repeats = options.repeats or (quick if options.quick else repeats)
    return options


def machine(*packages: str) -> None:
    """Print what the figures depend on; call it after the libraries are loaded, and with their thread limits set."""
    from threadpoolctl import threadpool_info  # imported here, since not every host of gpu_first has it

    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        processors = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    print(f"machine: {processors[0] if processors else platform.machine()}, {len(os.sched_getaffinity(0))} cores")
    print(f"python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in packages))
    for pool in threadpool_info():
        kernel = f" {pool['architecture']} kernel," if "architecture" in pool else ""
        print(f"{pool['prefix']} {pool['version'] or ''}:{kernel} {pool['num_threads']} threads")
    print()


@contextlib.contextmanager
def folder(keep: Path | None) -> Iterator[Path]:
    """Give the folder in which a program prepares its files: `keep`, or a temporary one."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="bandlens-benchmark-") as temporary:
        yield Path(temporary)


# Timing


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Variant:
    """A variant whose seconds are those of all of the work, by a clock."""

    def variant() -> float:
        start = clock()
        work()
        return clock() - start

    return variant


def processor_seconds() -> float:
    """Processor time of this process and of those that it waited for: other work on the machine disturbs it less."""
    usages = [resource.getrusage(process) for process in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def with_processor(variant: Variant, processor: list[float]) -> Variant:
    """The variant; the processor time that it takes, in seconds, is appended to a list."""

    def measured() -> float:
        start = processor_seconds()
        seconds = variant()
        processor.append(processor_seconds() - start)
        return seconds

    return measured


def in_turn(variants: Mapping[str, Variant], repeats: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of each variant, A B A B …, after one run of each that does not count.

    With a single repetition nothing is measured, and nothing is warmed up.
    """
    if warm_up and repeats > 1:
        for variant in variants.values():
            variant()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, variant in variants.items():
            seconds[name].append(variant())
    return seconds


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """The ratio of each repetition."""
    return [a / b for a, b in zip(numerator, denominator, strict=True)]


# Programs

BANDLENS = str(Path(sys.executable).with_name("bandlens"))


@dataclass(frozen=True, slots=True)
class Usage:
    """Time and memory of one process."""

    seconds: float
    processor: float
    """Seconds of processor time, of user and system, all threads and children together."""
    resident: float
    """The most memory that was resident, in MB; it holds pages of mapped files and of shared libraries."""


def run_program(
    *command: object, says: str = "", watch: Callable[[int], None] = lambda _: None, **options: Any
) -> tuple[str, Usage]:
    """Run a command, which must print the text `says`; gives what it printed, and what it took.

    `watch` is called with the number of its process in a thread, and returns when that has ended. `options` are those
    of Popen. SystemExit where it fails.
    """
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | options.pop("env", {})
    words, start = list(map(str, command)), time.perf_counter()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, env=environment, **pipes, **options) as child:
        watcher = threading.Thread(target=watch, args=(child.pid,))
        watcher.start()
        output = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        watcher.join()
    if child.returncode or says not in output:
        raise SystemExit(f"{' '.join(words)} ended with {child.returncode} and said: {output}")
    return output, Usage(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)


def process(*command: object, says: str = "") -> Variant:
    """Seconds of a command from start to end; its output must have the text `says`."""
    return lambda: run_program(*command, says=says)[1].seconds


# Printing


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """The median, and the range in brackets."""
    low, middle, high = min(values), statistics.median(values), max(values)
    if len(values) == 1:
        return f"{middle:{form}}"
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


def ratio(title: str, values: Sequence[float], goal: str) -> None:
    """Print the line that a program is about."""
    print(f"ratio: {title}: {spread(values)} of {len(values)} repetitions; goal {goal}")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; lists of numbers are shown by their `spread`."""
    texts = [[spread(cell) if isinstance(cell, list) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in (head, *texts)) for column in range(len(head))]
    for row in (head, ["-" * width for width in widths], *texts):
        cells = [
            text.ljust(width) if k == 0 else text.rjust(width)
            for k, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    print()


# Images and networks


class Perturbations:
    """Photographs of a batch, and how long conditions of one image take: buffers go round, as in a run."""

    def __init__(self) -> None:
        from bandlens.engine.prefetch import COUNT, Buffers
        from bandlens.probes.family import Batch

        self.pixels = photographs(BATCH)
        self.batch = Batch(self.pixels, np.arange(BATCH, dtype=np.uint64), np.arange(BATCH), 0)
        self._buffers = Buffers(np, [np.empty(self.pixels.shape, np.float32) for _ in range(COUNT)])

    def variant(self, perturb: Perturb, conditions: Sequence[Condition]) -> Variant:
        """Make the images of each condition."""

        def work() -> None:
            for _, out in perturb(np, self.batch, conditions, self._buffers.take):
                self._buffers.give(out)

        return timed(work)


def print_rates(
    head: Sequence[str], seconds: Mapping[str, list[float]], counts: Mapping[str, int], base: str
) -> dict[str, list[float]]:
    """Print milliseconds of each of `counts`, and how many times those of `base` they are; gives these ratios."""
    times_ms = {name: [s * 1e3 / counts[name] for s in values] for name, values in seconds.items()}
    times = {name: ratios(values, times_ms[base]) for name, values in times_ms.items()}
    table(head, [[name, times_ms[name], times[name]] for name in times_ms])
    return times


def photographs(count: int, size: int = SIZE) -> NDArray[np.uint8]:
    """Crops of the photographs that come along, over and over, of shape (count, 3, size, size)."""
    from bandlens.export.reference_images import photograph_crops

    crops = np.rint(photograph_crops(size) * 255).astype(np.uint8)
    return crops[np.arange(count) % len(crops)]


def image_set(path: Path, count: int) -> Path:
    """A packed, labelled set of `count` different crops of the photographs; one that is there already is taken."""
    from bandlens.probes.images.pack import pack_arrays

    if not path.exists():
        labels = np.random.default_rng(0).integers(0, 1000, count).tolist()
        pack_arrays(_windows(count), path, labels=labels)
    return path


def _windows(count: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    from PIL import Image

    from bandlens.export.reference_images import PHOTOGRAPH_FOLDER, PHOTOGRAPHS

    random = np.random.default_rng(0)
    pictures = [np.asarray(Image.open(PHOTOGRAPH_FOLDER / name).convert("RGB")) for name in PHOTOGRAPHS]
    for number in range(count):
        photograph = pictures[number % len(pictures)]
        side = int(min(photograph.shape[:2]) * random.uniform(0.5, 1))
        row, column = (int(random.integers(0, length - side + 1)) for length in photograph.shape[:2])
        yield f"{number}.png", photograph[row : row + side, column : column + side]


def resnet50(models: Path) -> None:
    """Export a ResNet-50 of random weights as the model `resnet50`, unless it is there; its speed is that of any other.

    Its weights lie beside it, in `resnet50.pth`. The export has a process of its own: torch would add to the memory and
    the threads of the one that measures.
    """
    if all((models / f"{MODEL}{suffix}").exists() for suffix in (".json", ".pth")):
        return
    worker = multiprocessing.get_context("spawn").Process(target=_export, args=(models,))
    worker.start()
    worker.join()
    if worker.exitcode:
        raise SystemExit(f"the export of {MODEL} failed")


def _export(models: Path) -> None:
    import torch
    import torchvision

    from bandlens.export.model_files import NORMALIZATIONS
    from bandlens.export.pipeline import export_user_checkpoint
    from bandlens.export.reference_images import photograph_crops

    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # Scales that differ, and statistics of photographs, keep the logits apart from each other.
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.from_numpy(photograph_crops(SIZE)))
    models.mkdir(parents=True, exist_ok=True)
    weights = models / f"{MODEL}.pth"
    torch.save(network.state_dict(), weights)
    export_user_checkpoint(weights, MODEL, "resnet50", NORMALIZATIONS["imagenet"], models)


def resnet50_with_biases(models: Path, count: int) -> list[Model]:
    """The ResNet-50 `count` times, each with a bias, and so a file, a plan and a session, of its own."""
    import onnx
    from onnx import numpy_helper

    from bandlens.export.model_files import load_model, save_model

    resnet50(models)
    first = load_model(models, MODEL)
    graph = onnx.load(first.path)
    bias = next(tensor for tensor in graph.graph.initializer if list(tensor.dims) == [first.classes])
    values = numpy_helper.to_array(bias)
    copies = []
    for k in range(count):
        bias.CopyFrom(numpy_helper.from_array(values + np.float32(k) / 1000, bias.name))
        content = graph.SerializeToString(deterministic=True)
        name, sha256 = f"{MODEL}-{k}", hashlib.sha256(content).hexdigest()
        model = replace(first, name=name, path=models / f"{name}.onnx", sha256=sha256, weights_sha256=sha256)
        save_model(model, content, {})
        copies.append(model)
    return copies
