"""Files of torch.save, changed and compared."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

STORAGE = torch.arange(24, dtype=torch.float32)
WEIGHTS: dict[str, Any] = {
    "state_dict": {
        "fc.weight": torch.ones(2, 2),
        "view": STORAGE[4:16].view(3, 4).t(),
        "shared": STORAGE,
        "half": torch.ones(2, dtype=torch.float16),
        "brain": torch.arange(3, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "none": torch.zeros(0),
    },
    "epoch": 3,
}


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def repacked(content: bytes, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive whose members are changed, each given by its name in the archive's folder and its data."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(out, "w", compression) as changed:
        for name in archive.namelist():
            changed.writestr(name, change(name.partition("/")[2], archive.read(name)))
    return out.getvalue()


def assert_equal(actual: Any, expected: Any, case: str) -> None:
    """Equal to the bit: types, layout in memory, and which tensors share it."""
    storages: dict[int, int] = {}

    def compare(value: Any, reference: Any) -> None:
        assert type(value) is type(reference), case
        if isinstance(reference, dict):
            assert list(value) == list(reference), case
            for key in reference:
                compare(value[key], reference[key])
        elif isinstance(reference, (list, tuple)):
            for members in zip(value, reference, strict=True):
                compare(*members)
        elif isinstance(reference, Tensor):
            layouts = [(x.dtype, x.shape, x.stride(), x.storage_offset()) for x in (value, reference)]
            assert layouts[0] == layouts[1], case
            memory, reference_memory = value.untyped_storage(), reference.untyped_storage()
            assert memory.tolist() == reference_memory.tolist(), case
            if reference_memory.nbytes():
                address = storages.setdefault(reference_memory.data_ptr(), memory.data_ptr())
                assert address == memory.data_ptr(), case
        else:
            assert value == reference, case

    compare(actual, expected)
    assert len(set(storages.values())) == len(storages), case
