"""Small models, image sets and study files: what runs go through in milliseconds."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from PIL import Image
from typer.testing import CliRunner, Result
from waiting import LIMIT_SECONDS

from bandlens.analysis.database.open import open_store
from bandlens.core.errors import BandlensError, UsageError
from bandlens.core.records import Crop, Model
from bandlens.engine.device.devices import processor_name, readiness
from bandlens.engine.tuning import FILE
from bandlens.export.model_files import save_model
from bandlens.probes.images.image_set import ImageSet
from bandlens.probes.images.pack import pack, pack_arrays
from bandlens.probes.images.pack_options import Contents

CLASSES = 12
PROBES = """
lowpass = {cutoff = [0.1, 0.3]}
critical_band = {noise_sd = [0.0, 0.1], frequency = [1, 4]}
"""
"""Probes of a study that `study_in` writes, unless a test names others: 1 + 2 + 4 conditions."""
NETWORK = """
<ir_version: 8, opset_import: ["": 17]>
small (float[batch, 3, {size}, {size}] images) => (float[batch, {classes}] logits) {{
  c = Conv <strides = [4, 4], pads = [2, 2, 2, 2]> (images, kernel, bias)
  r = Relu (c)
  p = AveragePool <kernel_shape = [{pool}, {pool}], strides = [{pool}, {pool}]> (r)
  f = Flatten (p)
  g = Gemm (f, matrix, offset)
  colour = GlobalAveragePool (images)
  flat = Flatten (colour)
  mean = ReduceMean <axes = [1], keepdims = 1> (flat)
  above = Sub (mean, darkest)
  root = Sqrt (above)
  nothing = Mul (root, zero)
  logits = Add (g, nothing)
}}"""
"""The network of `make_model` without its weights, in the text form of ONNX."""


@dataclass(frozen=True)
class Answer:
    """The output and the exit status of a command."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]
"""The fixture `command`."""


def replace_content(model: Model, content: bytes) -> Model:
    """Save the model with this ONNX file in place of its own."""
    model = replace(model, sha256=hashlib.sha256(content).hexdigest())
    save_model(model, content, {})
    return model


def make_model(
    folder: Path,
    name: str = "one",
    *,
    size: int = 128,
    classes: int = CLASSES,
    seed: int = 0,
    category: str = "own",
    darkest: float = 0.0,
) -> Model:
    """A convolution and a linear layer with random weights.

    The logits of an image whose mean is below `darkest` are not finite.
    """
    rng = np.random.default_rng(seed)
    weights = {
        "kernel": rng.normal(size=(8, 3, 5, 5)) / 5,
        "bias": rng.normal(size=8) / 4,
        "matrix": rng.normal(size=(8 * 16, classes)),
        "offset": rng.normal(size=classes) / 10,
        "darkest": np.array([darkest]),
        "zero": np.zeros(1),
    }
    network = parser.parse_model(NETWORK.format(size=size, classes=classes, pool=size // 16))
    arrays = [numpy_helper.from_array(array.astype(np.float32), key) for key, array in weights.items()]
    network.graph.initializer.extend(arrays)
    onnx.checker.check_model(network)
    model = Model(
        name=name,
        category=category,
        architecture="small",
        weights_sha256=hashlib.sha256(str(seed).encode()).hexdigest(),
        source=f"random:{seed}",
        normalization="none",
        path=folder / f"{name}.onnx",
        sha256="",
        image_size=size,
        classes=classes,
    )
    return replace_content(model, network.SerializeToString())


def tune_by_hand(
    models: Path,
    rates: Mapping[tuple[str, int], float] | None = None,
    threads: int = 2,
    **fields: Any,
) -> Path:
    """The tuning of this machine with images a second by engine and batch, written as `export --batch tune` does."""
    rates = {("onnxruntime", 64): 20.0, ("openvino", 16): 40.0} if rates is None else rates
    tuning: dict[str, Any] = {"model": "m0", "date": "2026-11-28"}
    tuning["device"] = f"{processor_name()}, threads: {threads}"
    tuning |= {"libraries": {engine: readiness(engine).line for engine, _ in rates}}
    tuning["rates"] = [
        {"engine": engine, "batch": batch, "images_per_second": rate} for (engine, batch), rate in rates.items()
    ]
    file = models / FILE
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"fp32": tuning | fields}))
    return file


def make_pictures(count: int, size: int = 128, seed: int = 0) -> NDArray[np.uint8]:
    """(count, size, size, 3): patches of colour at three scales, dark and light."""
    rng = np.random.default_rng(seed)
    pictures = rng.uniform(40, 180, size=(count, 1, 1, 3)) * np.ones((1, size, size, 1))
    for cells in (4, 16, size):
        coarse = rng.normal(scale=35, size=(count, cells, cells, 3))
        pictures += coarse.repeat(size // cells, axis=1).repeat(size // cells, axis=2)
    return pictures.clip(0, 255).astype(np.uint8)


def make_batch(count: int, size: int = 128, seed: int = 5) -> NDArray[np.float32]:
    """Pictures as engines take them: (count, 3, size, size) in [0, 1]."""
    pictures = make_pictures(count, size, seed).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pictures, np.float32) / np.float32(255)


def make_batches(count: int, batch: int) -> list[NDArray[np.float32]]:
    """Batches of different images, each (batch, 3, 128, 128) in [0, 1]."""
    return list(np.split(make_batch(batch * count, seed=0), count))


def make_images(
    out: Path,
    pictures: NDArray[np.uint8],
    *,
    labels: Sequence[int] | None = None,
    folders: int | None = None,
    name: str | None = None,
) -> ImageSet:
    """Pack pictures as they are; with `folders`, each that many neighbours are one cluster."""
    size = pictures.shape[1]
    files = ((f"{k // (folders or len(pictures))}/{k}.png", picture) for k, picture in enumerate(pictures))
    clusters = "folder" if folders else "none"
    return pack_arrays(
        files, out, crop=Crop(size, size), labels=labels, contents=Contents(name=name, clusters=clusters)
    )


def pack_folders(folder: Path, names: Sequence[str], per_class: int = 4) -> ImageSet:
    """Pack images.set of folders of pictures, one a class, as `images pack --labels folders` does."""
    pictures = iter(make_pictures(per_class * len(names)))
    for name in names:
        (folder / "photographs" / name).mkdir(parents=True)
        for number in range(per_class):
            Image.fromarray(next(pictures)).save(folder / "photographs" / name / f"{number}.png")
    return pack(folder / "photographs", folder / "images.set", crop=Crop(128, 128), labels=Path("folders"))


def make_study(folder: Path, **keys: Any) -> Path:
    """A study file of the folder's models and image set; `probes` is TOML text."""
    defaults = {
        "name": "study",
        "checkpoints": ["*"],
        "models": "models",
        "images": ["images.set"],
        "engine": "onnxruntime",
        "batch": 8,
    }
    probes = keys.pop("probes", "")
    # JSON's strings, numbers and lists are TOML's too.
    lines = [f"{key} = {json.dumps(value)}" for key, value in (defaults | {"threads": 1} | keys).items()]
    file = folder / f"{keys.get('name', 'study')}.toml"
    file.write_text("\n".join([*lines, "[probes]", probes]), encoding="utf-8")
    return file


def study_in(
    folder: Path, count: int = 100, probes: str = PROBES, models: tuple[str, ...] = ("one", "two"), size: int = 128
) -> Path:
    """A study of small models and labelled images; noise in bands takes 128 pixels or more."""
    for seed, name in enumerate(models):
        make_model(folder / "models", name, seed=seed, size=size)
    make_images(folder / "images.set", make_pictures(count, size), labels=[k % CLASSES for k in range(count)])
    return make_study(folder, probes=probes)


def rows_of(database: Path) -> pl.DataFrame:
    """Every prediction with the key of its cell, in a fixed order: what two runs must have in common."""
    with open_store(database, read_only=True) as store:
        return store.frame(
            "SELECT key, image_index, predicted, label_rank, confidence "
            "FROM prediction JOIN cell ON cell.id = prediction.cell WHERE complete ORDER BY ALL"
        )


def ask(database: Path, sql: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
    with open_store(database, read_only=True) as store:
        return store.frame(sql, list(parameters)).rows()


def write_pictures(folder: Path, pictures: Mapping[str, NDArray[np.uint8]]) -> Path:
    """Files of these names, which may have folders, with these pictures; gives the folder."""
    for name, picture in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / name)
    return folder


def invoke(*words: object, catch_exceptions: bool = True) -> Result:
    """A command in this process."""
    from bandlens.app.cli.main import app

    return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=catch_exceptions)


def failure(result: Result) -> BandlensError:
    """The error of one line that a command of `invoke` ended with."""
    assert isinstance(result.exception, BandlensError), result.output
    assert "\n" not in str(result.exception)
    return result.exception


def run_here(*words: str | Path) -> str:
    """The output of a command that succeeds, in this process."""
    answer = invoke(*words, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def refused_here(*words: str | Path) -> str:
    """The one line of the error that a command ends with, in this process."""
    return refusal(run_here, *words, kind=BandlensError)


def refusal(act: Callable[..., object], *words: Any, kind: type[BandlensError] = UsageError, **keys: Any) -> str:
    """The one line of the error that a call raises."""
    with pytest.raises(kind) as error:
        act(*words, **keys)
    assert "\n" not in str(error.value)
    return str(error.value)


def bandlens(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-P", "-m", "bandlens", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, **options)
