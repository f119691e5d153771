from __future__ import annotations

import builtins
import functools
import io
import os
import re
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from bandlens.errors import CheckpointError
from bandlens.export.pickles import INERT_CALLS, read_tensors_only
from bandlens.export.weights import read


def test_the_page_says_whose_calls_are_answered() -> None:
    page = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    listed = page.partition("Only calls of ")[2].partition(", which make")[0]
    assert tuple(re.findall(r"`(\w+)`", listed)) == INERT_CALLS


class Wants:
    """Pickles to a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def nested_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save(torch.zeros(1), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, f"{os.name}.system"), (builtins.exec, "__builtin__.exec"), (os.mkdir, f"{os.name}.mkdir")],
)
def test_a_file_that_wants_to_run_code_is_refused(function: Any, name: str, legacy: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    argument = {"system": f"mkdir {marker}", "exec": f"import os; os.mkdir({str(marker)!r})"}.get(
        function.__name__, str(marker)
    )
    path = tmp_path / "weights.pth"
    content = {"state_dict": {"a": torch.ones(2)}, "epoch": [Wants(function, argument)]}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)

    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert f"the file wants to call {name}" in str(caught.value)
    assert "--trust" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not marker.exists()

    read(path, trust=True)
    assert marker.exists()


@pytest.mark.parametrize(
    "wants",
    [
        Wants(functools.partial, print, 1),
        Wants(torch.storage._load_from_bytes, nested_bytes()),
        Wants(getattr, "text", "upper"),
        Wants(torch.load, "other.pth"),
    ],
)
def test_indirect_calls_are_refused(wants: Wants, tmp_path: Path) -> None:
    torch.save([wants], tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="wants to call"):
        read(tmp_path / "weights.pth")


def test_nothing_is_imported_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text("class Schedule:\n    pass\n\nclass Table(dict):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import stranger

    schedule, table = stranger.Schedule(), stranger.Table(lr=0.1)
    schedule.steps = [1, 2]
    content = {"a": torch.arange(3), "schedule": schedule, "table": table, "type": stranger.Schedule}
    torch.save(content, tmp_path / "weights.pth")
    del sys.modules["stranger"]

    found = read(tmp_path / "weights.pth")
    assert "stranger" not in sys.modules
    assert torch.equal(found["a"], content["a"])
    assert type(found["schedule"]).__name__ == "stranger.Schedule"
    assert not hasattr(found["schedule"], "steps")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_and_plain_containers_are_read_whole(protocol: int, tmp_path: Path) -> None:
    shared = torch.arange(12.0)
    content = OrderedDict(
        parameter=torch.nn.Parameter(torch.ones(2, 3)),
        view=shared[2:6].view(2, 2),
        half=torch.ones(2, dtype=torch.float16),
        shared=shared,
        list=[1, 2.5, "text", None, True, b"bytes", {1, 2}, (3, complex(1, 2))],
        size=torch.Size([1, 2]),
        dtype=torch.float32,
        count=defaultdict(int, a=1),
        unicode="ü",
    )
    torch.save(content, tmp_path / "weights.pth", pickle_protocol=protocol)
    found = read_tensors_only(tmp_path / "weights.pth")
    assert list(found) == list(content)
    for key, value in content.items():
        assert torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value
    assert found["view"].untyped_storage().data_ptr() == found["shared"].untyped_storage().data_ptr()


def test_a_whole_pickled_module_is_explained(tmp_path: Path) -> None:
    from bandlens.export.weights import read_weights

    torch.save(torch.nn.Sequential(torch.nn.Linear(1, 1)), tmp_path / "module.pth")
    with pytest.raises(CheckpointError, match=r"holds one torch.nn.modules.container.Sequential .* state_dict\(\)"):
        read_weights([(tmp_path / "module.pth", "own")])


def test_what_a_pickle_does_to_the_functions_it_is_given_stays_with_it(tmp_path: Path) -> None:
    # GLOBAL function, (None, {'__defaults__': ...}), BUILD: attributes of the function itself would be set.
    program = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x04\x00\x00\x00markK\x01s\x86b."
    torch.save({}, tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    legacy = (tmp_path / "weights.pth").read_bytes()
    empty = b"\x80\x02}q\x00."
    assert empty in legacy
    (tmp_path / "weights.pth").write_bytes(legacy.replace(empty, program, 1))
    with pytest.raises(CheckpointError):
        read(tmp_path / "weights.pth")
    assert not hasattr(torch._utils._rebuild_tensor_v2, "mark")
