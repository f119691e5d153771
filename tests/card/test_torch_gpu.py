"""torch on a card that is none: CuPy's memory is the host's, and torch computes there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pretend_cupy import CardArray, PretendCupy
from small import make_batches, make_images, make_model, make_pictures

from bandlens.core.errors import DeviceError, EngineError
from bandlens.core.records import Cell
from bandlens.engine.backends import torch as torch_session
from bandlens.engine.backends.base import attack_variant, open_session, variant_of
from bandlens.engine.task_context import Workbench
from bandlens.engine.tasks import Task
from bandlens.export.model_files import load_onnx_file
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.onnx.precisions import make_onnx_file, read_for_cpu
from bandlens.export.torch import network
from bandlens.export.torch.network import OnnxNetwork
from bandlens.probes.arrays import to_numpy
from bandlens.probes.grid import make_grid

BATCH = 8


def test_half_precision_runs_the_file_of_that_precision(card: PretendCupy, tmp_path: Path) -> None:
    model, [content] = make_model(tmp_path), make_batches(1, BATCH)
    make_onnx_file(model, "fp16")
    expected = onnx_logits(read_for_cpu(load_onnx_file(model, "fp16")), content)
    with open_session(variant_of(model, "torch-cuda", "fp16"), BATCH, 1) as session:
        on_card = session.infer(card.asarray(content))
        assert isinstance(on_card, CardArray)
        logits = to_numpy(on_card)
        assert {buffer.dtype for buffer in session.network.buffers()} == {torch.float16}
    assert logits.dtype == np.float32
    assert np.abs(logits - expected).max() <= torch_session.CLOSE["fp16"] * np.abs(expected).max()


def test_arrays_that_torch_would_copy_are_refused(
    card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_as_tensor = torch.as_tensor
    monkeypatch.setattr(torch, "as_tensor", lambda array, **options: torch_as_tensor(array, **options).clone())
    with pytest.raises(EngineError, match="torch copies CuPy's arrays, where it should read them"):
        open_session(variant_of(make_model(tmp_path), "torch-cuda", "fp32"), BATCH, 1)


def test_no_room_for_a_batch_is_said_while_opening(
    card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(OnnxNetwork):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) == 64:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee documentation")
            return super().forward(images)

    monkeypatch.setattr(network, "OnnxNetwork", Full)
    with pytest.raises(DeviceError, match=r"Tried to allocate 2 GiB\.; try a smaller batch$") as error:
        open_session(variant_of(make_model(tmp_path), "torch-cuda", "fp32"), 64, 1)
    assert "\n" not in str(error.value)


def test_what_other_sessions_took_of_a_card_is_free_when_an_attack_opens(
    card: PretendCupy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, room, free_bytes = make_model(tmp_path), card.free, list[int]()
    images = make_images(tmp_path / "images.set", make_pictures(BATCH), labels=list(range(BATCH)))
    grid = make_grid({"pgd_linf": {"eps": "1/255", "step": "2/255", "steps": 3}}, tmp_path)

    def open_attacker(*_: object) -> None:
        free_bytes.append(card.free)
        raise EngineError("this is all")

    monkeypatch.setattr("bandlens.engine.task_context.open_attacker", open_attacker)
    clean = Cell(variant_of(model, "tensorrt", "fp32"), images.info, grid.clean[0], 0)
    attacked = Cell(attack_variant(model, "tensorrt"), images.info, grid.attacks[0], 0)
    with Workbench(grid, 4, 1, lambda _: images) as place:
        list(place.compute(Task((clean,))))
        assert card.free < room
        list(place.compute(Task((attacked,))))
    assert free_bytes == [room]
