"""Arguments of the Python API: what is no path, list or model is named, and what a parameter takes is taken."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bandlens
from bandlens.core.arguments import _kinds_of_parameters


@pytest.mark.parametrize(
    ("name", "arguments", "settings", "message"),
    [
        ("run", (None,), {}, "study is None; give a Study or a Work or text or a path"),
        ("report", ("r.duckdb",), {"published": "timm"}, "published is 'timm'; give True or False"),
        ("pack", (["a.png"], "t.set"), {}, "source is ['a.png']; give text or a path"),
        ("pack", ("a", "t.set"), {"crop": 64}, "crop is 64; give a Crop"),
        ("pack", (np.zeros((2, 3)), "t.set"), {}, "source is a ndarray; give text or a path"),
        ("lower", ("mine",), {}, "model is 'mine'; give a Model"),
        ("export_model", ("a.pth",), {"image_size": 64.5}, "image_size is 64.5; give a whole number or None"),
        ("correlate", (), {"target": "effectiv"}, "target is 'effectiv'; give 'raw' or 'effective'"),
        ("merge", (["a.duckdb", 1], "b.duckdb"), {}, "databases is ['a.duckdb', 1]; give a list of text or a path"),
        ("run", ("a.toml",), {"progress": True}, "progress is True; give a function"),
        ("consistency", ("x",), {"convention": "human"}, "convention is 'human'; give 'model-vs-human' or 'all'"),
        ("gate_precision", ("s.toml",), {"images": -3}, "images is -3; give 0 or more"),
        ("pack_frequency_conflict", ("a", "b"), {"cutoff": 0.3, "seed": -1}, "seed is -1; give 0 or more"),
        ("Contents", (), {"draw": 5}, "draw is 5; give a Draw or None"),
    ],
)
def test_an_argument_of_another_kind_is_named_with_what_is_taken(
    name: str, arguments: tuple[Any, ...], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(bandlens.UsageError) as refusal:
        getattr(bandlens, name)(*arguments, **settings)
    assert str(refusal.value) == message


def test_numbers_of_numpy_lists_of_any_class_and_one_value_alone_are_taken() -> None:
    rows = bandlens.power(images=np.array([300]), models=(), difference=np.float32(0.03), tests=np.int64(1))
    assert rows == bandlens.power(images=300, difference=float(np.float32(0.03)))
    with pytest.raises(bandlens.UsageError, match="no study file"):
        bandlens.plan(Path("absent.toml"))


def test_the_limits_of_a_study_may_be_a_table_as_in_its_file() -> None:
    study = bandlens.Study(name="mine", checkpoints=["a"], images=["b"], gate={"flips": 0.02})
    assert study.gate.flips == 0.02


def test_a_name_that_is_not_imported_is_that_of_a_class() -> None:
    names = {
        kind
        for name in bandlens._modules_by_name()
        if hasattr(function := getattr(getattr(bandlens, name), "__init__", None), "__wrapped__")
        or hasattr(function := getattr(bandlens, name), "__wrapped__")
        for kinds in _kinds_of_parameters(function.__wrapped__).values()
        for kind in kinds
        if isinstance(kind, str)
    }
    assert names == {"Study", "Work", "nn.Module", "NDArray[np.floating]", "Callable[[Deletion], bool]"}


def test_a_function_goes_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(bandlens.pack)) is bandlens.pack
