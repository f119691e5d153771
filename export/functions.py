"""Export Python functions from images to logits as models, for example of JAX, TensorFlow or a web service.

Whether two functions compute the same cannot be determined, so a function is identified by a name and a version. They
are stored in models/NAME.function, with a description next to it as for an ONNX file. If the user specifies no version,
a random one is used, so that no other function has the same version. The function itself exists only in the process
that exported it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.custom.call import private_copy
from ..core.custom.load import parse_version, private_version, register
from ..core.errors import EngineError, UsageError, plural
from ..core.records import Model
from ..core.untrusted import words_of
from .model_files import FUNCTION, MOST_CLASSES, MOST_PIXELS, OWN_NORMALIZATION, check_name, save_model

Function = Callable[[NDArray[np.float32]], Any]
"""Function from float32 RGB images in [0, 1] to (n, classes) logits.

The logits are a NumPy array or an object that converts to one.
"""
Layout = Literal["nhwc", "nchw"]
"""Axis order of a function's images: (n, height, width, 3) or (n, 3, height, width)."""

SUMS_TO_ONE = 1e-3
"""Maximum deviation from 1 at which the sum of probabilities, or the length of an embedding, counts as 1."""
TOLERANCE = 0.01
"""Maximum difference between two calls on the same images, as a proportion of the largest absolute logit."""

_functions: dict[str, tuple[Function, Layout]] = {}
"""SHA-256 of the model -> function exported in this process."""


def export_function(
    function: Function, name: str, version: str | None, folder: Path, layout: Layout, image_size: int
) -> Model:
    """Export a function as a model, and register it for runs in this process.

    The function is called twice with the same two random images, to determine its number of classes and to check that
    it is deterministic.

    Args:
        function: Function from images to logits.
        name: Name of the model.
        version: Version of the function; None for a random one.
        folder: Folder of the models.
        layout: Axis order of the images.
        image_size: Width and height of the images in pixels.

    Returns:
        The model.

    Raises:
        UsageError: The function does not return deterministic logits of at least two classes, or another function in
            this process has the same name and version.
    """
    version = private_version() if version is None else parse_version(f"function {name}", {"version": version})
    if not 1 <= image_size <= MOST_PIXELS:
        raise UsageError(f"image_size {image_size} must be from 1 to {MOST_PIXELS:,} pixels")
    images = np.random.default_rng(0).random((2, 3, image_size, image_size), np.float32)
    try:
        logits = logits_of(function, images, layout, check_name(name))
        classes = logits.shape[1]
        again = logits_of(function, images, layout, name, classes)
    except EngineError as error:
        raise UsageError(str(error)) from error.__cause__
    if not 2 <= classes <= MOST_CLASSES:
        raise UsageError(f"function {name} gives {plural(classes, 'class')}; a classifier has 2 to {MOST_CLASSES:,}")
    if are_probabilities(logits):
        raise UsageError(f"function {name} gives probabilities, not logits; return logits, or np.log(p + 1e-9)")
    largest = np.abs(logits[np.isfinite(logits)]).max(initial=0)
    if not np.allclose(again, logits, rtol=0, atol=TOLERANCE * largest):
        raise UsageError(
            f"function {name} gives other logits when it is asked again for the same images; leave out what is random "
            "in it, such as dropout, which network.eval() switches off"
        )
    identity = {"name": name, "version": version, "layout": layout, "image_size": image_size, "classes": classes}
    content = json.dumps(identity).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    register(f"function {name}", sha256, version, function)
    model = Model(
        name=name,
        category="own",
        architecture=FUNCTION,
        weights_sha256=sha256,
        source=f"function {name}, version {version}",
        normalization=OWN_NORMALIZATION,
        path=folder / f"{name}.{FUNCTION}",
        sha256=sha256,
        image_size=image_size,
        classes=classes,
    )
    save_model(model, content, {})
    _functions[sha256] = function, layout
    return model


def function_of(model: Model) -> tuple[Function, Layout]:
    """Return the function of a model and its layout.

    Raises:
        EngineError: The function was not exported in this process.
    """
    try:
        return _functions[model.sha256]
    except KeyError:
        raise EngineError(
            f"{model.name} is a function, which lives in the Python that gave it; give it to bandlens.export_function "
            "there, and run the study there with bandlens.run"
        ) from None


def logits_of(
    function: Function, images: NDArray[np.float32], layout: Layout, name: str, classes: int | None = None
) -> NDArray[np.float32]:
    """Call a function and check its output.

    Args:
        function: Function from images to logits.
        images: (n, 3, size, size) images in [0, 1].
        layout: Axis order that the function expects.
        name: Name of the model, for error messages.
        classes: Expected number of classes; None to accept any.

    Returns:
        (n, classes) logits.

    Raises:
        EngineError: The function raised an exception, or returned an array of another shape or NaN.
    """
    shape = (len(images), "classes" if classes is None else classes)
    wanted = f"it must give {shape[0]} x {shape[1]} logits"
    given = private_copy(images.transpose(0, 2, 3, 1) if layout == "nhwc" else images)
    try:
        answer = function(given)
        logits = np.asarray(answer.detach().cpu() if hasattr(answer, "detach") else answer).astype(np.float32)
    except Exception as error:  # user code can raise anything
        raise EngineError(f"function {name} raised {type(error).__name__}: {words_of(error)}; {wanted}") from error
    if logits.ndim != 2 or len(logits) != len(images) or classes not in (None, logits.shape[1]):
        advice = "; of two classes that d tells apart, np.stack([-d / 2, d / 2], 1)" if logits.ndim == 1 else ""
        raise EngineError(
            f"function {name} gave shape {logits.shape} for images of shape {given.shape}; {wanted}{advice}"
        )
    if np.isnan(logits).any():
        raise EngineError(f"function {name} gave logits that are no numbers; {wanted}")
    return logits


def are_probabilities(outputs: NDArray[np.float32]) -> bool:
    """Return whether (n, classes) outputs look like those of a softmax.

    This means that no value is negative, and that the values of each image sum to 1.
    """
    return bool(outputs.min() >= 0 and np.abs(outputs.sum(axis=1) - 1).max() < SUMS_TO_ONE)
