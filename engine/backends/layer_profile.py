"""The layers of a network as an engine runs them, and their time."""

from __future__ import annotations

from dataclasses import dataclass

RUNS = 10
"""Batches whose median a profile gives, after as many that warm up."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that an engine runs, which may be several nodes of the ONNX file."""

    name: str
    operator: str
    seconds: float
    """Seconds for a batch."""
