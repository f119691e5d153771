"""From a conversion to a model on disk: its head, label sets, parity and description. Finished ONNX files are one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from ..core.records import Crop, Model, digest_of
from .class_names import find_class_names, names_for
from .heads.recipes import PromptHead, TrainedHead
from .model_files import FINISHED, LABEL_SETS, ONE_LOGIT, Normalization, check_name, normalization_name, save_model
from .onnx.graph import append_head, append_label_sets
from .onnx.import_file import take_onnx
from .onnx.outputs import Features, Outputs
from .onnx.parity import Conversion, Parity
from .weights.study_checkpoints import OWN, checkpoints

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class HeadRequest:
    """A head for a network of features."""

    head: TrainedHead | PromptHead
    features: Features = field(default_factory=Features)


Request = HeadRequest | Outputs
"""The use of a network's outputs: a head of classes is added, or they are judged as the user states."""
PLAIN = Outputs()
"""Outputs that have to look like logits of classes."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about a model that are known before it is exported."""

    name: str
    category: str
    architecture: str
    source: str
    weights_sha256: str
    normalization: Normalization
    image_size: int
    crop: Crop | None = None
    precision: str = "fp32"
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Values beside the weights that may name the classes: see `class_names.find_class_names`."""


def check_user_name(name: str) -> None:
    """UsageError for a name that is one of the 48 or cannot name a file."""
    if any(name == published.name for published in checkpoints()):
        raise UsageError(f"'{name}' is one of the 48 checkpoints; give your model another name")
    check_name(name)


def import_onnx(
    path: Path,
    name: str,
    normalization: Normalization,
    folder: Path,
    *,
    image_size: int | None = None,
    request: Request = PLAIN,
) -> tuple[Model, Parity]:
    """Take a finished ONNX file as the model `name`, with what a `request` makes of its outputs; see `take_onnx`.

    `normalization` is that of its images, or `none` where the graph normalizes them itself.
    """
    check_user_name(name)
    statement = request.features if isinstance(request, HeadRequest) else request
    file = take_onnx(path, normalization, image_size, statement)
    facts = ModelFacts(
        *(name, OWN, FINISHED, f"file:{path.name}", file.sha256, normalization, file.image_size),
        precision=file.precision,
        notes=file.metadata,
    )
    return save_conversion(facts, file, {}, folder, request)


def save_conversion(
    facts: ModelFacts,
    conversion: Conversion,
    provenance: Mapping[str, Any],
    folder: Path,
    request: Request,
) -> tuple[Model, Parity]:
    """Add what is requested to a network that was converted, compare the two, and write the model."""
    content, adapted = conversion.content, list(conversion.adapted)
    expected: NDArray[np.floating] = conversion.outputs
    head = None
    if isinstance(request, HeadRequest):
        request.head.check_network(facts.name, facts.image_size, facts.crop)
        head = request.head.make(content, expected.shape[1], facts.name)
        content = append_head(content, head.linear.weight, head.linear.bias, head.linear.unit)
        expected = head.linear.logits(conversion.outputs)
    parity = conversion.check(content, expected)
    classes, multilabel = expected.shape[1], isinstance(request, Outputs) and request.multilabel
    if multilabel or classes == 1:
        content = append_label_sets(content, classes)
        adapted.append(LABEL_SETS.format(classes) if multilabel else ONE_LOGIT)
        classes = 2**classes
    model = Model(
        name=facts.name,
        category=facts.category,
        architecture=facts.architecture,
        # A headed network is another one, and no published figures are its own.
        weights_sha256=digest_of(facts.weights_sha256, asdict(head.record)) if head else facts.weights_sha256,
        source=facts.source,
        normalization=normalization_name(facts.normalization),
        path=folder / f"{facts.name}.onnx",
        sha256=hashlib.sha256(content).hexdigest(),
        image_size=facts.image_size,
        classes=classes,
        crop=facts.crop,
        precision=facts.precision,
        head=head.record if head else None,
        multilabel=multilabel,
    )
    names = head.class_names if head else find_class_names(facts.notes, model.named[0])
    if isinstance(request, Outputs) and request.class_names is not None:
        names = names_for(model, request.class_names)
    notes: dict[str, Any] = {"class_names": names} if names else {}
    if head and len(head.keys):
        notes["training_keys"] = head.keys.astype(">u8").tobytes().hex()
    save_model(model, content, {**provenance, **notes, "adapted": adapted, "parity": asdict(parity)})
    return model, parity
