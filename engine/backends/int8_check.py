"""Whether an engine multiplies int8 as its ONNX file says.

Without VNNI, x86 processors multiply uint8 by int8 in pairs whose sum is cut to 16 bits, and a library that lets them
do so computes something else: with OpenVINO, one in twelve predictions of EfficientNet-Lite0 changed. Sums that are not
cut are the same integers everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_ACTIVATION, LARGEST_WEIGHT = 255, 127
SHAPE = (1, 64, 4, 4)
"""The shape of `images`: as many channels as the kernels for real networks are made for."""

Run = Callable[[bytes, NDArray[np.float32]], NDArray[np.float32]]
"""The `logits` of an ONNX file for `images`."""


def multiplies_exactly(run: Run) -> bool:
    """Whether a quantized convolution whose activations and weights are all as large as can be gives the right sums."""
    logits = run(_largest_products(), np.full(SHAPE, LARGEST_ACTIVATION, np.float32))
    return bool((logits == SHAPE[1] * LARGEST_ACTIVATION * LARGEST_WEIGHT).all())


def _largest_products() -> bytes:
    """A convolution of 1 x 1 pixels between uint8 images and int8 weights, each with scale 1.

    Its sums are quantized, with the largest that uint8 has for their own: ONNX Runtime leaves others in float32.
    """
    import onnx.parser
    from onnx import numpy_helper

    channels = SHAPE[1]
    constants: dict[str, NDArray[Any]] = {
        "one": np.ones((), np.float32),
        "zero": np.zeros((), np.uint8),
        "weights": np.full((channels, channels, 1, 1), LARGEST_WEIGHT, np.int8),
        "ones": np.ones(channels, np.float32),
        "zeros": np.zeros(channels, np.int8),
        "step": np.array(channels * LARGEST_WEIGHT, np.float32),
    }
    shape = f"float{list(SHAPE)}"
    text = f"""<ir_version: 8, opset_import: ["": 17]> largest_products ({shape} images) => ({shape} logits) {{
        quantized = QuantizeLinear (images, one, zero)
        activations = DequantizeLinear (quantized, one, zero)
        kernel = DequantizeLinear <axis = 0> (weights, ones, zeros)
        sums = Conv (activations, kernel)
        steps = QuantizeLinear (sums, step, zero)
        logits = DequantizeLinear (steps, step, zero)
    }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return bytes(model.SerializeToString())
