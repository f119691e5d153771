"""Exports for each name: the fp32 model, its ONNX files at other precisions, and TensorRT plans."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...core.errors import BandlensError, EngineError, UnknownName, UsageError
from ...core.jobs import Progress, processors, silent
from ...core.records import MULTILABEL, SEVERAL, Model
from ...core.untrusted import read_text, words_of
from ...export.model_files import NORMALIZATIONS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from ...export.assembly import HeadRequest
    from ...export.export import ExportOptions
    from ...export.heads.recipes import PromptHead, TrainedHead, TrainingImages
    from ...export.model_files import OnnxFile
    from ...export.onnx.precisions import Calibration

CALIBRATION_IMAGES = 300
"""The number of images that int8 is calibrated on, evenly spaced over the image set."""


Result = TypeVar("Result")
Exports = dict[str, Callable[[], Model]]
"""Names of models -> functions that export their fp32 models, or load them."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network that gives features, and the head that makes a classifier of it."""

    source: str | PathLike[str] | nn.Module
    """The network, as `bandlens.export_model` takes it; its outputs are features."""
    head: str | PathLike[str] | NDArray[np.floating]
    """A packed, labelled image set to train a head on; or class embeddings, (classes, d): a .npy or .safetensors file,
    or an array."""
    method: str = "ridge"
    """The kind of a trained head: `ridge`, or `logistic`, which is slower; one of `heads.linear.METHODS`."""
    pool: str | None = None
    """How features of tokens or positions become vectors: `token` or `mean`; by default as the network does."""
    output: str | None = None
    """The tensor of a finished ONNX file that holds the features; by default its one output."""
    seed: int = 0
    """The seed of the folds of cross-validation."""
    class_names: list[str] | None = None
    """The names of the classes in the order of the logits; by default those of the image set."""
    progress: Progress = silent

    def request(self) -> HeadRequest:
        """The head as an export takes it; UsageError where it is no head of classes."""
        from ...export.assembly import HeadRequest
        from ...export.heads.recipes import TrainedHead, prompts_of_array, read_prompts
        from ...export.onnx.outputs import Features

        head: TrainedHead | PromptHead
        if not isinstance(self.head, (str, PathLike)):
            head = prompts_of_array(self.head, self.class_names)
        elif (path := Path(self.head)).suffix in (".npy", ".safetensors") and not path.is_dir():
            head = read_prompts(path, self.class_names)
        else:
            head = TrainedHead(_training_images(path, self.class_names), self.method, self.seed, self.progress)
        return HeadRequest(head, Features(self.output, self.pool))


def _training_images(path: Path, class_names: list[str] | None) -> TrainingImages:
    from ...export.heads.recipes import TrainingImages
    from ...probes.images.image_set import open_image_set

    images = open_image_set(path)
    info = images.info
    if images.labels is None or info.decision_space == MULTILABEL or SEVERAL in images.schemes:
        kind = "no labels" if images.labels is None else "several labels an image"
        raise UsageError(f"image set {info.name} has {kind}, and a head is trained on one each; pack it with --labels")
    return TrainingImages(
        *(info.name, info.digest, info.size, info.preprocessing, images.labels, images.clusters, images.keys),
        class_names=images.class_names if class_names is None else class_names,
        take=images.take,
    )


@dataclass(frozen=True, slots=True)
class MultiLabel:
    """A network each of whose outputs, logits or those of a last sigmoid, decides a label by itself."""

    source: str | PathLike[str] | nn.Module
    """The network, as `bandlens.export_model` takes it."""


def add_outputs(
    source: str | PathLike[str] | nn.Module | Backbone | MultiLabel, options: ExportOptions
) -> tuple[str | PathLike[str] | nn.Module, ExportOptions]:
    """The network of a source, and the options with what makes a classifier of it; what `export` takes.

    UsageError for a head of no classes, and for options that a head has itself.
    """
    if isinstance(source, MultiLabel):
        return source.source, replace(options, multilabel=True)
    if not isinstance(source, Backbone):
        return source, options
    if (options.outputs, options.class_names) != (None, None):
        raise UsageError("outputs and class_names are for a network without a head, which has its own; leave it out")
    return source.source, replace(options, head=source.request())


@dataclass(frozen=True)
class Lowering:
    """The precisions and TensorRT plans that are made of each model."""

    precisions: Sequence[str] = ("fp32",)
    calibration: str | PathLike[str] | None = None
    """A packed image set, which int8 is calibrated on."""
    batch: int | None = None
    """The number of images that a TensorRT plan takes at once; by default the tuned one, or else 256."""
    tune: bool = False
    """Measure engines and batches on the first model, before plans are built; see `engine.tuning`."""
    tuned: set[str] = field(default_factory=set, init=False)
    """The precisions that have been tuned."""

    def __post_init__(self) -> None:
        """UnknownName for a precision that does not exist."""
        from ...export.model_files import check_precision

        if isinstance(self.precisions, str):
            object.__setattr__(self, "precisions", (self.precisions,))
        for precision in self.precisions:
            check_precision(precision)

    @cached_property
    def build(self) -> Callable[[Model, str], Path] | None:
        """Makes the TensorRT plan of a model at a precision, or finds it, and compares it with ONNX Runtime.

        None where this machine cannot, which stderr explains where plans may be expected.
        """
        from ...engine.device.devices import gpus, readiness
        from ...engine.device.nvidia import NoGpu

        state = readiness("tensorrt")
        if not state.ready:
            if not isinstance(gpus(), NoGpu):  # else it is an ordinary machine
                logging.getLogger("bandlens").info(f"bandlens: no TensorRT plans are built here: {state.line}")
            return None
        from ...engine.backends.base import variant_of
        from ...engine.backends.tensorrt import make_plan
        from ...engine.tuning import usual_rate

        def build(model: Model, precision: str) -> Path:
            variant = variant_of(model, "tensorrt", precision)
            if self.batch:
                return make_plan(variant, self.batch, "")
            rate = usual_rate("tensorrt", variant.precision, model.path.parent)
            return make_plan(variant, rate.batch, rate.settings)

        return build

    def tune_once(self, model: Model, precision: str) -> None:
        """Tune the precision on the model, if that is asked for and no model has been measured at it yet."""
        if not self.tune or precision in self.tuned:
            return
        from ...engine.tuning import FILE, tune

        self.tuned.add(precision)
        log = logging.getLogger("bandlens")
        try:
            rate = tune(model, precision, processors()).best
        except EngineError as error:
            log.warning(f"bandlens: {precision} is not tuned: {error}")
            return
        log.info(
            f"bandlens: {precision} runs fastest with engine {rate.engine} and batch {rate.batch}"
            f"{' and ' + rate.settings if rate.settings else ''}, "
            f"{rate.images_per_second:.4g} images/s of {model.name}; all rates: {model.path.parent / FILE}"
        )


def attempt(jobs: Mapping[str, Callable[[], Result]], failed: list[str]) -> Iterator[Result | None]:
    """Do a job for each of several models, by their names; the result of one that fails is None.

    Its name is added to `failed`, and a line in the log says why. A single one fails with its own error.
    """
    for name, job in jobs.items():
        result: Result | None = None
        try:
            result = job()
        except BandlensError as error:
            if len(jobs) == 1:
                raise
            logging.getLogger("bandlens").error(f"bandlens: {name}: {error}")
            failed.append(name)
        yield result


def read_head(
    word: str, class_names: list[str] | None, progress: Progress
) -> Callable[[str | PathLike[str]], Backbone | MultiLabel]:
    """Give what makes a classifier of a network, as --head names it.

    Args:
        word: `multilabel`; a set or prompts; or a TOML file, whose keys are those of `Backbone`: `head`, relative to
            the file, `method`, `pool`, `output` and `seed`.
        class_names: of the head, in the order of the logits.
        progress: shows how far the training is.
    """
    if word == MULTILABEL:
        return MultiLabel
    keys: dict[str, Any] = {"head": word}
    if (file := Path(word)).suffix == ".toml":
        try:
            keys = tomllib.loads(read_text(file))
        except FileNotFoundError:
            raise UsageError(f"no file {file}; the TOML file of a head has the keys {', '.join(HEAD_KEYS)}") from None
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{file} cannot be read as TOML: {words_of(error)}; it has the keys {', '.join(HEAD_KEYS)}"
            ) from None
        for key, value in keys.items():
            if key not in HEAD_KEYS:
                raise UnknownName(f"key in {file}", key, HEAD_KEYS)
            if not isinstance(value, HEAD_KEYS[key]):
                raise UsageError(f"{file}: {key} must be a {'number' if key == 'seed' else 'text'}, not {value!r}")
        if "head" not in keys:
            raise UsageError(f"{file}: head is missing; it is a packed, labelled image set, or a file of prompts")
        keys["head"] = file.parent / keys["head"]
    elif not (file.suffix or file.exists()):
        raise UnknownName("head", word, [MULTILABEL], "name a packed image set, or a file of class embeddings")
    return partial(Backbone, class_names=class_names, progress=progress, **keys)


HEAD_KEYS = {"head": str, "method": str, "pool": str, "output": str, "seed": int}
"""The keys of a file of a head, and their types."""


def read_normalization(text: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation: of a name, or MEAN:STD, each a number or three. UsageError for anything else."""
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    mean, colon, std = text.partition(":")
    if not colon:
        raise UnknownName("normalization", text, NORMALIZATIONS, "or give MEAN:STD")
    return _read_numbers(mean), _read_numbers(std)


def _read_numbers(text: str) -> list[float]:
    """Decimals, or one decimal over another, such as 127/255 or 123.68/255."""
    try:
        parts = [number.partition("/") for number in text.split(",")]
        return [float(over) / float(under) if slash else float(over) for over, slash, under in parts]
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"cannot read {text}; write three numbers such as 0.485,0.456,0.406, or 127/255") from None


def name_sources(sources: Sequence[Path], name: str | None = None) -> dict[str, Path]:
    """The weights, ONNX files or folders by the names of their models: `name`, or else what each of them is called.

    Endings such as `.pth` and `.pth.tar` are no part of a name. UsageError for a name of several sources, and where
    two of them would have the same.
    """
    if name is not None and len(sources) > 1:
        raise UsageError(
            f"--name {name} is for one model, and {len(sources)} were given; leave it out, and each is called like its "
            "file"
        )
    source_of: dict[str, Path] = {}
    for source in sources:
        file_name = source.resolve().name if source.is_dir() else Path(source.name.removesuffix(".tar")).stem
        model_name = file_name if name is None else name
        if model_name in source_of:
            raise UsageError(
                f"{source_of[model_name]} and {source} would both be called {model_name}; export each alone, with a "
                "--name"
            )
        source_of[model_name] = source
    return source_of


def lower(model: Model, lowering: Lowering | None = None) -> list[dict[str, Any]]:
    """Make the ONNX files of a model at some precisions, and TensorRT plans where there is a GPU: a row for each.

    A row tells how far fp32 lies from torch, and the others from fp32.
    """
    lowering, rows = lowering or Lowering(), []
    for precision in lowering.precisions:
        onnx_file, parity = _onnx_file(model, precision, lowering.calibration)
        lowering.tune_once(model, precision)
        row = {
            "name": model.name,
            "precision": onnx_file.precision,
            "sha256": onnx_file.sha256[:16],
            "classes": model.classes,
            "images": parity.get("images"),
            "relative_difference": parity.get("relative_difference"),
            "top1_disagreements": parity.get("top1_disagreements"),
            "file": str(onnx_file.path),
        }
        rows.append(row if lowering.build is None else row | {"trt_plan": str(lowering.build(model, precision))})
    return rows


def _onnx_file(
    model: Model, precision: str, calibration: str | PathLike[str] | None
) -> tuple[OnnxFile, dict[str, Any]]:
    """The ONNX file and its recorded parity. An int8 file that exists is taken as it is unless there are images."""
    from ...export.model_files import describe_model, describe_onnx_file, load_onnx_file

    if precision != model.precision and (precision == "fp16" or (precision == "int8" and calibration is not None)):
        from ...export.onnx.precisions import make_onnx_file

        images = None if calibration is None else _calibration(Path(calibration), model.image_size)
        make_onnx_file(model, precision, images)
    onnx_file = load_onnx_file(model, precision)
    record = describe_model(onnx_file.models, model.name) if onnx_file.itself else describe_onnx_file(model, precision)
    return onnx_file, record.get("parity", {})


def _calibration(path: Path, size: int) -> Calibration:
    import numpy as np

    from ...export.onnx.precisions import Calibration
    from ...probes.images.image_set import open_image_set

    images = open_image_set(path)
    if images.info.size != size:
        raise UsageError(
            f"{path} has images of {images.info.size} pixels, and the model takes {size}; pack it with --size {size}"
        )
    count = min(images.info.count, CALIBRATION_IMAGES)
    rows = np.linspace(0, images.info.count - 1, count).round().astype(np.int64)
    return Calibration(images.info.name, images.info.digest, images.take(rows).astype(np.float32) / np.float32(255))
