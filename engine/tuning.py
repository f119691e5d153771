"""Measure the throughput of each engine and batch size on this device, and save it as the default for studies.

MODELS/plans/tuning.json contains one `Tuning` per precision. It is used by studies that specify no engine or no batch
size. A tuning is ignored if it was measured on another device or with another version of the library.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from glob import escape
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..core.errors import BandlensError, EngineError, writing
from ..core.files import write_bytes
from ..core.records import Model, Variant
from ..core.untrusted import as_record, parse_json, read_text
from ..export.plans.plan_builder import SETTINGS, gpu_settings
from ..export.plans.plans import is_trt_plan_of
from ..export.reference_images import photograph_crops
from ..probes.arrays import Array, to_numpy
from .backends.base import BATCH, ENGINES, arrays_of, engine_of, open_session, variant_of
from .device.devices import CPU_ENGINE, choose_engine, gpus, processor_name, readiness
from .device.gpu_errors import device_errors, gpu_errors
from .device.requirements import usable
from .device.streams import network_stream

FILE = Path("plans", "tuning.json")
"""Path of the tuning file inside the folder of models."""
SWEPT_ENGINES: Mapping[str, tuple[str, ...]] = {"numpy": (CPU_ENGINE, "openvino"), "cupy": ("tensorrt",)}
"""Engines to measure, by array module. If two are equally fast, the first is preferred."""
BATCHES: Mapping[str, tuple[int, ...]] = {"numpy": (8, 16, 32, 64, 128), "cupy": (64, 128, 256, 512, 1024, 2048)}
"""Batch sizes to measure, by array module."""
MEASUREMENT_SECONDS = 0.5
"""Minimum duration of one measurement, in seconds."""
REPEATS = 3
"""Measurements per rate.

The fastest counts, because other processes on the machine can only make a measurement slower.
"""
CLOSE = 0.97
"""Fraction of the highest rate from which another rate counts as equally fast."""

_log = logging.getLogger("bandlens")


@dataclass(frozen=True, slots=True)
class Rate:
    """The throughput of an engine at one batch size."""

    engine: str
    batch: int
    images_per_second: float
    settings: str = ""
    """Space-separated keys of `plan_builder.SETTINGS` that make the TensorRT plan faster."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """The rates of a model at one precision, and the device on which they were measured."""

    model: str
    """Name of the model."""
    date: str
    device: str
    """The GPU and its driver version, or the processor and the number of threads."""
    libraries: Mapping[str, str]
    """Name and version of the library of each engine, as `bandlens doctor` prints them."""
    rates: Sequence[Rate]
    """Rates in the order of SWEPT_ENGINES and batch size.

    Combinations that an engine rejects or that do not fit in memory are missing.
    """

    @property
    def best(self) -> Rate:
        """The first rate that counts as equally fast as the highest."""
        threshold = CLOSE * max(rate.images_per_second for rate in self.rates)
        return next(rate for rate in self.rates if rate.images_per_second >= threshold)

    def best_of(self, engine: str) -> Rate | None:
        """Return the best rate of an engine, or None if it has none."""
        rates = [rate for rate in self.rates if rate.engine == engine]
        return replace(self, rates=rates).best if rates else None

    def change(self, engine: str, threads: int) -> str:
        """Describe what changed since the measurement so that the engine's rates no longer apply.

        Empty if nothing did.
        """
        if not readiness(engine).ready:
            return f"{engine} is not ready"
        if self.device != (device := _device(ENGINES[engine].arrays, threads)):
            return f"it is of {self.device}, and this is {device}"
        if self.libraries[engine] != readiness(engine).line:
            return f"it is of {self.libraries[engine]}, and this is {readiness(engine).line}"
        return ""

    def __str__(self) -> str:
        return f"the tuning of {self.date}"


def _device(arrays: str, threads: int) -> str:
    """Describe the device that is measured."""
    if arrays == "numpy":
        return f"{processor_name()}, threads: {threads}"
    gpu = usable(gpus())
    return f"{gpu.name} ({gpu.capability}), driver {gpu.driver}"


def read_tuning(models: Path, precision: str) -> Tuning | None:
    """Load the tuning of a precision from a folder of models.

    Returns None if there is no tuning, or if the file is damaged; the latter is logged.
    """
    file = models / FILE
    if not file.is_file():
        return None
    try:
        table = parse_json(read_text(file)).get(precision)
        if table is None:
            return None
        rates = [as_record(Rate, rate) for rate in table["rates"]]
        tuning = as_record(Tuning, table | {"rates": rates})
        for rate in rates:
            arrays = ENGINES[rate.engine].arrays
            is_swept = rate.batch in BATCHES[arrays] and rate.engine in tuning.libraries
            if not (is_swept and rate.images_per_second > 0):
                raise ValueError(f"{rate} is no measurement")
        if not rates:
            raise ValueError("it has no rates")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s is damaged and not taken: %s; `bandlens export --batch tune` measures anew", file, error)
        return None
    return tuning


def usual_rate(engine: str, precision: str, models: Path, threads: int = 0) -> Rate:
    """Return the best measured rate of an engine, or a default batch size with a rate of 0 images/s.

    The default applies if there is no tuning, or if it is out of date. `threads` is the number of CPU threads of the
    run.
    """
    tuning = read_tuning(models, precision)
    if tuning and (rate := tuning.best_of(engine)) and not tuning.change(engine, threads):
        return rate
    return Rate(engine, BATCH[engine_of(engine).arrays], 0.0)


def tune(model: Model, precision: str, threads: int) -> Tuning:
    """Measure the engines of this device on a model, and save the rates for studies at that precision.

    Each rate is logged. At the best batch size of TensorRT, the settings of its builder are tried as well. Plans that
    were built only for the measurement are deleted, unless they have the best batch size and settings.

    Args:
        model: The model to measure. The rates are saved in its folder.
        precision: The precision to measure.
        threads: Number of CPU threads.

    Raises:
        EngineError: If no engine runs the model at that precision.
        UsageError: If the file cannot be written.
    """
    arrays = ENGINES[choose_engine().engine].arrays
    engines = [engine for engine in SWEPT_ENGINES[arrays] if precision in ENGINES[engine].precisions]
    engines = [engine for engine in engines if readiness(engine).ready]
    if not engines:
        raise EngineError(f"none of {', '.join(SWEPT_ENGINES[arrays])} runs {precision} here; tune another precision")
    file = model.path.parent / FILE
    _add(file, {})  # check before minutes of work that the folder is writable
    pattern = f"{escape(model.name)}.{precision}.b*.*"
    plans = {*file.parent.glob(pattern)}
    rates = [rate for engine in engines for rate in _sweep(variant_of(model, engine, precision), threads)]
    if not rates:
        raise EngineError(f"no engine runs {model.name} at {precision} here; see the lines above")
    tuning = Tuning(
        model=model.name,
        date=datetime.now(UTC).date().isoformat(),
        device=_device(arrays, threads),
        libraries={engine: readiness(engine).line for engine in engines},
        rates=rates,
    )
    best_rate = tuning.best_of("tensorrt")
    if best_rate is not None:
        faster = _with_settings(variant_of(model, best_rate.engine, precision), best_rate, threads)
        tuning, best_rate = replace(tuning, rates=[faster if rate == best_rate else rate for rate in rates]), faster
    for path in {*file.parent.glob(pattern)} - plans:
        if best_rate is None or not is_trt_plan_of(path, best_rate.batch, best_rate.settings):
            path.unlink()
    _add(file, {precision: asdict(tuning)})
    return tuning


def _sweep(variant: Variant, threads: int) -> list[Rate]:
    """Measure a variant with increasing batch sizes until one is rejected, since larger ones would not fit either.

    TensorRT plans are built without settings for this, even if a plan with settings exists.
    """
    rates = []
    for batch in BATCHES[ENGINES[variant.engine].arrays]:
        speed = _measure(variant, batch, threads, "")
        if speed is None:
            break
        rates.append(Rate(variant.engine, batch, round(speed, 2)))
    if (xp := arrays_of(variant.engine)) is not np:
        # The allocator of the next engine cannot use memory in CuPy's pool.
        xp.get_default_memory_pool().free_all_blocks()
    return rates


def _with_settings(variant: Variant, rate: Rate, threads: int) -> Rate:
    """Return the rate with those settings of TensorRT's builder that make it faster.

    Each setting is tried in addition to those accepted before.
    """
    for word in (word for word in gpu_settings() if word in SETTINGS):
        settings = " ".join(filter(None, (rate.settings, word)))
        speed = _measure(variant, rate.batch, threads, settings)
        if speed is not None and CLOSE * speed > rate.images_per_second:
            rate = replace(rate, images_per_second=round(speed, 2), settings=settings)
    return rate


def _measure(variant: Variant, batch: int, threads: int, settings: str) -> float | None:
    """Measure and log the rate in images/s. Return None if the engine rejects the variant or memory is insufficient."""
    options = {"settings": settings} if variant.engine == "tensorrt" else {}
    words = f"{variant} at batch {batch}{' with ' if settings else ''}{settings}"
    try:
        speed = measure_rate(variant, batch, threads, MEASUREMENT_SECONDS, REPEATS, **options)
    except BandlensError as error:
        _log.warning("%s is left out: %s", words, error)
        return None
    _log.info("%s: %.4g images/s", words, speed)
    return speed


def _add(file: Path, tables: Mapping[str, Any]) -> None:
    """Add tables to the file. If the file is damaged, it is replaced."""
    content: Any = {}
    with suppress(OSError, ValueError):
        content = parse_json(read_text(file))
    with writing(file, "make its folder writable"):
        write_bytes(file, json.dumps({**(content if isinstance(content, dict) else {}), **tables}, indent=1).encode())


def sample_images(xp: ModuleType, size: int, batch: int) -> Array:
    """Return (batch, 3, size, size) natural images in [0, 1]. Half of the distinct ones have added noise.

    Real images are needed because the clock rate of a GPU depends on the data: on zeros it computes a tenth faster.
    """
    crops = photograph_crops(size)
    noise = np.random.default_rng(0).normal(scale=0.1, size=crops.shape).astype(np.float32)
    images = xp.asarray(np.concatenate([crops, np.clip(crops + noise, 0, 1)]))
    return images[xp.asarray(np.arange(batch) % len(images))]


def measure_rate(
    variant: Variant, batch: int, threads: int, seconds: float = 0.0, repeats: int = 1, **options: Any
) -> float:
    """Measure the throughput of a session after warm-up, in images/s. The fastest of several measurements is returned.

    Args:
        variant: The variant to measure.
        batch: Batch size.
        threads: Number of CPU threads.
        seconds: Minimum duration of one measurement. It runs at least one batch. On a GPU it ends when the last logits
            have been copied to the host.
        repeats: Number of measurements.
        options: Passed to `open_session`.

    Raises:
        EngineError: If the engine cannot run the variant.
        DeviceError: If the batch does not fit in memory.
    """
    size = variant.model.image_size
    # Open the session before importing the array module: if the engine is unavailable, its error message is clearer.
    with gpu_errors(), open_session(variant, batch, threads, **options) as session:
        xp = arrays_of(variant.engine)
        with device_errors(xp, size, batch), network_stream(xp):
            images = sample_images(xp, size, batch)

            def work(count: int) -> None:
                """Run the batch `count` times and wait for the result."""
                for _ in range(count):
                    logits = session.infer(images)
                to_numpy(logits)

            # Libraries initialize themselves during the first batch. On a GPU the second batch is captured as a CUDA
            # graph, and the graph is replayed from the third on.
            for _ in range(1 if xp is np else 2):
                work(1)
            rates, count = list[float](), 1
            while len(rates) < repeats:
                start = time.perf_counter()
                work(count)
                duration = time.perf_counter() - start
                if duration >= seconds:
                    rates.append(count * batch / duration)
                else:
                    count *= 2
            return max(rates)
