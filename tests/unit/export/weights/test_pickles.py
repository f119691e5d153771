from __future__ import annotations

import builtins
import io
import os
import re
import struct
import sys
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bandlens.core.errors import CheckpointError
from bandlens.export.weights.pickles import DTYPES, INERT_CALLS
from bandlens.export.weights.read import read


def save(content: object) -> bytes:
    """The file of it: equal for equal values of equal types and layouts that share memory in the same way."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def test_the_page_says_whose_calls_are_answered() -> None:
    page = (Path(__file__).parents[4] / "docs" / "guide" / "models.md").read_text(encoding="utf-8")
    sentence = page.partition("Only calls of ")[2].partition(", which make")[0]
    assert tuple(re.findall(r"`(\w+)`", sentence)) == INERT_CALLS


class Wants:
    """An object that pickles to a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


TWICE = b"\x85" + b"2\x86" * 60
"""Pickle operations that make a tuple of what is on the stack, and sixty times a tuple that holds the last one twice.

Its hash would be computed of 2 to the power of 60 parts.
"""
LEVELS = b"\x85" * 300_000
"""Pickle operations that put what is on the stack into so many tuples, whose hash would overflow the stack."""
SETS = b"q\x010" + b"(h\x01K\x01\x86h\x01K\x02\x86\x91q\x010" * 60 + b"h\x01"
"""Pickle operations that make sixty times a set of two tuples that hold the last set, whose text has no end."""


@pytest.mark.parametrize("key", [TWICE, LEVELS, SETS], ids=["twice each", "deep", "sets"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"}", b"K\x01s"),
        (b"}(", b"K\x01u"),
        (b"(", b"K\x01d"),
        (b"\x8f(", b"\x90"),
        (b"(", b"\x91"),
        (b"cbuiltins\nset\n](", b"e\x85R"),
        (b"cbuiltins\nfrozenset\n](", b"e\x85R"),
        (b"ccollections\nCounter\n](", b"e\x85R"),
        (b"ccollections\nOrderedDict\n](", b"K\x01\x86e\x85R"),
        (b"ctorch\ndevice\n", b"\x85R"),
    ],
    ids=[
        "SETITEM",
        "SETITEMS",
        "DICT",
        "ADDITEMS",
        "FROZENSET",
        "set",
        "frozenset",
        "Counter",
        "OrderedDict",
        "device",
    ],
)
def test_keys_of_nested_tuples_are_refused(key: bytes, before: bytes, after: bytes, tmp_path: Path) -> None:
    """Where they are not, the process hangs and no signal interrupts it, or it ends by SIGSEGV."""
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/version", "3")
        archive.writestr("archive/data.pkl", b"\x80\x04" + before + b"K\x01" + key + after + b".")
    with pytest.raises(CheckpointError, match=r"cannot read weights from .*(nested tuples|device that cannot be)"):
        read(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(("function", "name"), [(os.system, f"{os.name}.system"), (builtins.exec, "__builtin__.exec")])
def test_a_file_that_wants_to_run_code_is_refused(function: Any, name: str, legacy: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    argument = {"system": f"mkdir {marker}", "exec": f"import os; os.mkdir({str(marker)!r})"}.get(
        function.__name__, str(marker)
    )
    path = tmp_path / "weights.pth"
    content = {"state_dict": {"a": torch.ones(2)}, "epoch": [Wants(function, argument)]}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)

    with pytest.raises(CheckpointError) as error:
        read(path)
    assert f"the file wants to call {name}" in str(error.value)
    assert "--trust" in str(error.value)
    assert "\n" not in str(error.value)
    assert not marker.exists()

    read(path, trust=True)
    assert marker.exists()


def test_nothing_is_imported_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text("class Schedule:\n    pass\n\nclass Table(dict):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import stranger

    schedule, table = stranger.Schedule(), stranger.Table(lr=0.1)
    schedule.steps = [1, 2]
    content = {"a": torch.arange(3), "schedule": schedule, "table": table, "type": stranger.Schedule}
    torch.save(content, tmp_path / "weights.pth")
    del sys.modules["stranger"]

    copy = read(tmp_path / "weights.pth")
    assert "stranger" not in sys.modules
    assert torch.equal(copy["a"], content["a"])
    assert type(copy["schedule"]).__name__ == "stranger.Schedule"
    assert not hasattr(copy["schedule"], "steps")


@pytest.mark.parametrize("protocol", [2, 5])
def test_plain_containers_are_read_whole_and_a_view_shares_its_storage(protocol: int, tmp_path: Path) -> None:
    shared = torch.arange(12.0)
    content = OrderedDict(
        parameter=torch.nn.Parameter(torch.ones(2, 3)),
        view=shared[2:6].view(2, 2),
        shared=shared,
        list=[1, 2.5, "text", None, True, b"bytes", {1, 2}, (3, complex(1, 2))],
        size=torch.Size([1, 2]),
        dtype=torch.float32,
        count=defaultdict(int, a=1),
        unicode="ü",
    )
    torch.save(content, tmp_path / "weights.pth", pickle_protocol=protocol)
    copy = read(tmp_path / "weights.pth")
    assert list(copy) == list(content)
    for key, value in content.items():
        assert torch.equal(copy[key], value) if isinstance(value, torch.Tensor) else copy[key] == value
    assert copy["view"].untyped_storage().data_ptr() == copy["shared"].untyped_storage().data_ptr()


def test_containers_lie_where_they_lay(tmp_path: Path) -> None:
    inner: dict[str, Any] = {"a": torch.ones(2)}
    content: dict[str, Any] = {"first": inner, "second": [inner, (inner,)]}
    content["whole"] = content
    content["second"].append(content["second"])
    torch.save(content, tmp_path / "weights.pth")
    copy = read(tmp_path / "weights.pth")
    assert copy["whole"] is copy
    assert copy["second"][2] is copy["second"]
    assert copy["first"] is copy["second"][0] is copy["second"][1][0]


LAYOUTS: dict[str, Any] = {
    **{dtype.name: torch.arange(-3, 5).to(getattr(torch, dtype.name)) for dtype in DTYPES.values()},
    "no dimension": torch.tensor(2.5),
    "no element": torch.zeros(0, 3),
    "shared": (BASE := torch.arange(24.0)),
    "part of it": BASE[3:9],
    "turned": BASE.view(4, 6).t(),
    "every second": BASE[1::2],
    "expanded": BASE[:2].expand(3, 2),
    "lists": [torch.ones(2), (torch.zeros(1), {"a": BASE[20:]})],
}


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_tensors_are_equal_to_the_bit_to_what_torch_loads(legacy: bool, protocol: int, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(LAYOUTS, file, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    assert save(read(file)) == save(torch.load(file, weights_only=False))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda content: content + b"\0", "something follows its last tensor"),
        (lambda content: content[:-1], "another size than its tensors say"),
        (lambda content: content.replace(b"cpuq\x06K\x02", b"cpuq\x06K\x03"), "than its tensors say"),
        (lambda content: content.replace(b"l\xfc\x9c", b"l\xfc\x9d"), "no file of torch.save"),
    ],
    ids=["longer", "shorter", "another count", "another mark"],
)
def test_files_of_the_older_format_are_whole(change: Callable[[bytes], bytes], why: str, tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    content = change(file.getvalue())
    assert content != file.getvalue()
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=why):
        read(tmp_path / "weights.pth")


def test_a_whole_pickled_module_is_explained(tmp_path: Path) -> None:
    from bandlens.export.weights.read import read_weights

    torch.save(torch.nn.Sequential(torch.nn.Linear(1, 1)), tmp_path / "module.pth")
    with pytest.raises(CheckpointError, match=r"holds one torch.nn.modules.container.Sequential .* state_dict\(\)"):
        read_weights([(tmp_path / "module.pth", "own")])


def test_options_that_name_a_device_are_no_program(tmp_path: Path) -> None:
    options = Namespace(device=torch.device("cuda"), lr=0.1)
    torch.save({"a": torch.ones(2), "device": torch.device("cuda", 1), "args": options}, tmp_path / "weights.pth")
    assert read(tmp_path / "weights.pth")["device"] == "cuda:1"


# Archives


def read_bytes(content: bytes, folder: Path) -> Any:
    (folder / "weights.pth").write_bytes(content)
    return read(folder / "weights.pth")


def test_a_changed_byte_of_a_tensor_is_seen(tmp_path: Path) -> None:
    content = bytearray(save({"a": torch.full((8,), 2.5)}))
    content[content.index(struct.pack("<f", 2.5))] ^= 1
    with pytest.raises(CheckpointError, match="CRC"):
        read_bytes(content, tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(save({"a": torch.ones(2)}))
    with zipfile.ZipFile(tmp_path / "weights.pth", "a") as archive:
        archive.writestr("archive/data/0", b"")
    with pytest.raises(CheckpointError, match="two of its members have one name"):
        read(tmp_path / "weights.pth")


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="is a TorchScript program, not weights"):
        read_bytes(out.getvalue(), tmp_path)
