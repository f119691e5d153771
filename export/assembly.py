"""Assemble an exported model from a converted network.

This step appends a classification head or the encoding of label sets, checks that the ONNX model reproduces the outputs
of the original network, and writes the model with its description. Imported ONNX files take this step too.
"""

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
    """Request to append a classification head to a feature extractor."""

    head: TrainedHead | PromptHead
    features: Features = field(default_factory=Features)


Request = HeadRequest | Outputs
"""How to use a network's outputs: append a classification head, or interpret the outputs as the user specifies."""
PLAIN = Outputs()
"""No user specification: the outputs must look like logits of classes."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Properties of a model that are known before its export."""

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
    """Metadata stored with the weights that may contain class names; see `class_names.find_class_names`."""


def check_user_name(name: str) -> None:
    """Check that a name can be used for a user's model.

    Raises:
        UsageError: The name belongs to one of the 48 checkpoints, or is not a valid file name.
    """
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
    """Import an existing ONNX file as a model; see `take_onnx` for the requirements.

    Args:
        path: The ONNX file.
        name: Name of the new model.
        normalization: Mean and standard deviation with which images are normalized, or `none` if the graph normalizes
            images itself.
        folder: Folder of the models.
        image_size: Width and height of the images in pixels, if the file does not specify them.
        request: How to use the outputs.

    Returns:
        The model, and the comparison of its outputs with those of the original file.
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
    """Apply a request to a converted network, compare the outputs, and write the model.

    Args:
        facts: Properties of the model.
        conversion: The converted network, its outputs on sample images, and the function that compares outputs.
        provenance: Further entries of the description, such as the versions of libraries.
        folder: Folder of the models.
        request: How to use the outputs.

    Returns:
        The model, and the comparison of its outputs with those of the original network.
    """
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
        # A network with another head is a different model, to which published results do not apply.
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
