"""A tuning is taken where the device, its libraries and the way of running are those that it was measured with."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bandlens.engine.backends.base import BATCH
from bandlens.engine.device.devices import processor_name, readiness
from bandlens.engine.tuning import FILE, WAY, Rate, Tuning, read_tuning, usual_batch


def write_tuning(models: Path, **fields: Any) -> None:
    """Write a tuning of this machine's processor that prefers batch 64, but for `fields`; None takes one away."""
    measured = Tuning(
        model="net",
        date="2026-01-01",
        device=f"{processor_name()}, threads: 2",
        libraries={"onnxruntime": readiness("onnxruntime").line},
        card=None,
        rates=[Rate("onnxruntime", 64, 10.0)],
        way=WAY,
    )
    table = {name: value for name, value in (asdict(measured) | fields).items() if value is not None or name == "card"}
    (models / FILE).parent.mkdir(exist_ok=True)
    (models / FILE).write_text(json.dumps({"fp32": table}))


@pytest.mark.parametrize(
    ("fields", "change"),
    [
        ({}, ""),
        ({"way": WAY - 1}, "engines run batches in another way now"),
        ({"way": None}, "engines run batches in another way now"),
        ({"device": "an abacus"}, "it is of an abacus, and this is "),
        ({"libraries": {"onnxruntime": "onnxruntime 0.1"}}, "it is of onnxruntime 0.1, and this is "),
    ],
)
def test_a_tuning_is_void_once_what_it_measured_has_changed(
    tmp_path: Path, fields: dict[str, Any], change: str
) -> None:
    write_tuning(tmp_path, **fields)
    stored = read_tuning(tmp_path, "fp32")
    assert stored is not None
    assert stored.change("onnxruntime", 2).startswith(change)
    assert bool(change) == bool(stored.change("onnxruntime", 2))
    assert usual_batch("onnxruntime", "fp32", tmp_path, 2) == (BATCH["numpy"] if change else 64)
