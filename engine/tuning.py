"""The rates of engines and batches on this device, measured once and kept for studies that name neither.

MODELS/plans/tuning.json holds a `Tuning` for each precision. One of another device, or of another version of its
library, is not taken.
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
"""The file in the folder of the models."""
SWEPT_ENGINES: Mapping[str, tuple[str, ...]] = {"numpy": (CPU_ENGINE, "openvino"), "cupy": ("tensorrt",)}
"""The engines that are measured, by the array module; of two that are as fast, the first is taken."""
BATCHES: Mapping[str, tuple[int, ...]] = {"numpy": (8, 16, 32, 64, 128), "cupy": (64, 128, 256, 512, 1024, 2048)}
"""The batches that each of them is measured at."""
MEASUREMENT_SECONDS = 0.5
"""The least time of a measurement."""
REPEATS = 3
"""Measurements of a rate, of which the fastest counts: whatever else the machine does makes others slower."""
CLOSE = 0.97
"""The share of the highest rate from which another one is as good."""

_log = logging.getLogger("bandlens")


@dataclass(frozen=True, slots=True)
class Rate:
    """The rate of an engine at a batch."""

    engine: str
    batch: int
    images_per_second: float
    settings: str = ""
    """Words of `plan_builder.SETTINGS` with which TensorRT's plans are faster."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """The rates of a model at one precision, and the device that they were measured on."""

    model: str
    """The model's name."""
    date: str
    device: str
    """The GPU and its driver; or the processor and the number of threads."""
    libraries: Mapping[str, str]
    """Engine -> its library and version, as `doctor` has them."""
    rates: Sequence[Rate]
    """In the order of SWEPT_ENGINES and batches, without those that an engine refused or the device has no room for."""

    @property
    def best(self) -> Rate:
        """The first rate that is as good as the highest."""
        threshold = CLOSE * max(rate.images_per_second for rate in self.rates)
        return next(rate for rate in self.rates if rate.images_per_second >= threshold)

    def best_of(self, engine: str) -> Rate | None:
        """The best rate of an engine; None where it has none."""
        rates = [rate for rate in self.rates if rate.engine == engine]
        return replace(self, rates=rates).best if rates else None

    def change(self, engine: str, threads: int) -> str:
        """The change since it was measured that makes the engine's rates void, in words; empty where there is none."""
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
    if arrays == "numpy":
        return f"{processor_name()}, threads: {threads}"
    gpu = usable(gpus())
    return f"{gpu.name} ({gpu.capability}), driver {gpu.driver}"


def read_tuning(models: Path, precision: str) -> Tuning | None:
    """The tuning of a precision in a folder of models; None where there is none, or a damaged one, which is logged."""
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
    """The best rate of an engine by a tuning that holds, else the batch of its kind of device, at 0 images a second.

    `threads` are those of a CPU, with which it was tuned or will run.
    """
    tuning = read_tuning(models, precision)
    if tuning and (rate := tuning.best_of(engine)) and not tuning.change(engine, threads):
        return rate
    return Rate(engine, BATCH[engine_of(engine).arrays], 0.0)


def tune(model: Model, precision: str, threads: int) -> Tuning:
    """Measure the engines of this device on a model, and keep the rates in its folder for studies of that precision.

    Each rate is logged. At TensorRT's best batch, settings of its builder are tried on one plan. Plans that were built
    for all this are removed, unless they are of the best batch and settings.
    Raises EngineError where no engine runs the model at that precision, and UsageError where nothing can be written.
    """
    arrays = ENGINES[choose_engine().engine].arrays
    engines = [engine for engine in SWEPT_ENGINES[arrays] if precision in ENGINES[engine].precisions]
    engines = [engine for engine in engines if readiness(engine).ready]
    if not engines:
        raise EngineError(f"none of {', '.join(SWEPT_ENGINES[arrays])} runs {precision} here; tune another precision")
    file = model.path.parent / FILE
    _add(file, {})  # it shows, before minutes of work, whether the folder can be written
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
    """The rates of a variant's engine up to the first batch that it refuses: a larger one would not fit either.

    TensorRT's plans are plain, whatever else lies there.
    """
    rates = []
    for batch in BATCHES[ENGINES[variant.engine].arrays]:
        speed = _measure(variant, batch, threads, "")
        if speed is None:
            break
        rates.append(Rate(variant.engine, batch, round(speed, 2)))
    if (xp := arrays_of(variant.engine)) is not np:
        xp.get_default_memory_pool().free_all_blocks()  # the next engine has an allocator of its own
    return rates


def _with_settings(variant: Variant, rate: Rate, threads: int) -> Rate:
    """The rate with the settings of TensorRT's builder that make it faster: each is tried beside those taken so far."""
    for word in (word for word in gpu_settings() if word in SETTINGS):
        settings = " ".join(filter(None, (rate.settings, word)))
        speed = _measure(variant, rate.batch, threads, settings)
        if speed is not None and CLOSE * speed > rate.images_per_second:
            rate = replace(rate, images_per_second=round(speed, 2), settings=settings)
    return rate


def _measure(variant: Variant, batch: int, threads: int, settings: str) -> float | None:
    """Images a second, which are logged; None where the engine refuses them, or the device has no room."""
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
    """Add tables to the file, in place of what is damaged."""
    content: Any = {}
    with suppress(OSError, ValueError):
        content = parse_json(read_text(file))
    with writing(file, "make its folder writable"):
        write_bytes(file, json.dumps({**(content if isinstance(content, dict) else {}), **tables}, indent=1).encode())


def sample_images(xp: ModuleType, size: int, batch: int) -> Array:
    """(batch, 3, size, size) photographs in [0, 1], some of them under noise.

    A GPU's clocks depend on the numbers that it computes with: zeros are a tenth faster than images.
    """
    crops = photograph_crops(size)
    noise = np.random.default_rng(0).normal(scale=0.1, size=crops.shape).astype(np.float32)
    images = xp.asarray(np.concatenate([crops, np.clip(crops + noise, 0, 1)]))
    return images[xp.asarray(np.arange(batch) % len(images))]


def measure_rate(
    variant: Variant, batch: int, threads: int, seconds: float = 0.0, repeats: int = 1, **options: Any
) -> float:
    """Images a second of a session, once it works as it will from then on: the fastest of some measurements.

    Each takes so many seconds or more, and one batch at least. On a GPU it ends when its last logits are in the host's
    memory. `options` are those of `open_session`. Raises EngineError, and DeviceError where a batch does not fit.
    """
    size = variant.model.image_size
    # The session comes first: an engine that cannot be used here says so better than its arrays would.
    with gpu_errors(), open_session(variant, batch, threads, **options) as session:
        xp = arrays_of(variant.engine)
        with device_errors(xp, size, batch), network_stream(xp):
            images = sample_images(xp, size, batch)

            def work(count: int) -> None:
                for _ in range(count):
                    logits = session.infer(images)
                to_numpy(logits)

            # Libraries prepare themselves in the first batch. On a GPU the second is captured, and the third a replay.
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
