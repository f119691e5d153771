"""Class embeddings as heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch.nn import functional

from bandlens.core.errors import UsageError
from bandlens.export.heads.prompts import prompts_of_array, read_prompts

EMBEDDINGS = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)


@pytest.mark.parametrize("scale", [None, 37.0])
def test_logits_are_the_scaled_cosines_of_torch(scale: float | None, tmp_path: Path) -> None:
    file = tmp_path / ("prompts.npy" if scale is None else "prompts.safetensors")
    if scale is None:
        np.save(file, EMBEDDINGS)
    else:
        save_file({"text": EMBEDDINGS, "logit_scale": np.array(scale, np.float32)}, file)
    made = read_prompts(file).make(b"", 16, "tower")
    features = torch.randn(7, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (
        (scale or 100) * functional.normalize(features) @ functional.normalize(torch.tensor(EMBEDDINGS)).double().T
    )
    np.testing.assert_allclose(made.linear.logits(features.numpy()), expected.numpy(), rtol=1e-5, atol=1e-5)
    assert (made.record.method, made.record.source, made.record.accuracy) == ("prompts", file.name, None)
    assert not len(made.keys)


@pytest.mark.parametrize(
    ("array", "names", "message"),
    [
        (EMBEDDINGS[0], None, r"holds \(16,\) float32; class embeddings are \(classes, d\)"),
        (EMBEDDINGS[:1], None, "of 2 to 65,536 classes"),
        (EMBEDDINGS.astype(np.int32), None, "floating-point"),
        (np.where(np.arange(5)[:, None] == 3, np.nan, EMBEDDINGS), None, "embedding of class 3"),
        (np.where(np.arange(5)[:, None] == 2, 0, EMBEDDINGS), None, "embedding of class 2"),
        (EMBEDDINGS, ["a", "b"], "5 classes, and --classes names 2"),
        (EMBEDDINGS, ["crane", "bee", "crane", "ant", "elk"], "several classes of memory are called crane; give each"),
    ],
)
def test_arrays_that_are_no_embeddings_are_refused(array: Any, names: list[str] | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prompts_of_array(array, names)


def test_embeddings_of_another_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tower gives embeddings of 512 numbers, and those of memory have 16; embed"):
        prompts_of_array(EMBEDDINGS).make(b"", 512, "tower")


@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY\x01\x00broken", b"text"])
@pytest.mark.parametrize("ending", ["npy", "safetensors"])
def test_files_of_something_else_are_refused_in_one_line(content: bytes | None, ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"prompts.{ending}"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_prompts(file)
    assert "holds no class embeddings" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickles_and_two_tensors_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], object), allow_pickle=True)
    save_file({"a": EMBEDDINGS, "b": EMBEDDINGS}, tmp_path / "two.safetensors")
    save_file({"a": EMBEDDINGS, "logit_scale": np.array(-2, np.float32)}, tmp_path / "scale.safetensors")
    for name in ("pickle.npy", "two.safetensors"):
        with pytest.raises(UsageError, match="holds no class embeddings"):
            read_prompts(tmp_path / name)
    with pytest.raises(UsageError, match="logit_scale is -2; give the factor of the cosines, above 0"):
        read_prompts(tmp_path / "scale.safetensors")
