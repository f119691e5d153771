"""Checkpoint files of someone else's: weights or one line, no code run, nothing written, no false number."""

from __future__ import annotations

import io
import pickletools
import re
import struct
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from fuzzing import damaged, fuzz, refusal
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from small import failure, invoke

from bandlens.export.weights.read import load_strictly, read_weights


def save_to_bytes(content: object, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def in_zip(program: bytes, compression: int = zipfile.ZIP_STORED, count: int = 10) -> bytes:
    """A file of torch.save with another pickle in it, and a storage of so many numbers."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(save_to_bytes({"a": torch.zeros(count)}))) as archive,
        zipfile.ZipFile(out, "w", compression) as copy,
    ):
        for name in archive.namelist():
            copy.writestr(name, program if program and name.endswith("data.pkl") else archive.read(name))
    return out.getvalue()


def in_legacy(program: bytes) -> bytes:
    """The older format with another pickle in it."""
    empty, content = b"\x80\x02}q\x00.", save_to_bytes({}, legacy=True)
    assert empty in content
    return content.replace(empty, program, 1)


STATE = {"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2, dtype=torch.float16)}
CHECKPOINTS = {
    "zip": save_to_bytes({"state_dict": STATE, "epoch": 3, "opt": [(1, {2, "x"}), torch.Size([2])]}),
    "legacy": save_to_bytes({"state_dict": STATE, "args": None}, legacy=True),
    "safetensors": save(STATE),
}


def load_file(file: Path) -> None:
    """Read a checkpoint as `bandlens export --file` does."""
    network = torch.nn.Sequential()
    network.add_module("fc", torch.nn.Linear(2, 2))
    load_strictly(network, read_weights([(file, "own")]), str(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.mark.parametrize("kind", CHECKPOINTS)
@fuzz(33)
@given(data=st.data())
def test_damaged_files_load_or_are_one_line(kind: str, folder: Path, data: st.DataObject) -> None:
    file = folder / "weights.pth"
    file.write_bytes(data.draw(damaged(CHECKPOINTS[kind])))
    if refusal(lambda: load_file(file)) is None and kind == "zip":  # the other formats have no checksums
        tensors = read_weights([(file, "own")]).tensors
        assert all(torch.equal(tensors[name], value) for name, value in STATE.items())


# Programs

MARKER = "@MARKER@"
CALLS = ["os mkdir", "posix mkdir", "posix system", "builtins exec", "__builtin__ eval", "subprocess call"]
INNOCENT = [
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch FloatStorage", "torch.nn Linear",
    "torch float32", "torch Size", "collections OrderedDict", "collections Counter", "collections defaultdict",
    "__builtin__ set", "builtins frozenset", "builtins bytearray", "builtins getattr", "_codecs encode",
    "copyreg _reconstructor", "numpy.core.multiarray scalar", "numpy dtype", "argparse Namespace", "functools partial",
    "odd Thing",
]  # fmt: skip
GLOBALS = [f"c{name.replace(' ', chr(10))}\n".encode() for name in CALLS + INNOCENT]
ARGUMENTS = [
    *(b"\x01", b"\x02ab", b"1\n", b"'x'\n", b"os\nmkdir\n", b"\xff\xff\xff\x7f", b"\x7f\xf8" + bytes(6)),
    *(b"\xff\xff\xff\xff\xff\x00\x00\x00", b"\x01\x00\x00\x00a", struct.pack("<I", len(MARKER)) + MARKER.encode()),
]
OPERATIONS = [
    opcode.code.encode("latin-1") + argument
    for opcode in pickletools.opcodes
    for argument in (ARGUMENTS if opcode.arg else [b""])
]
BARE = [operation for operation in OPERATIONS if len(operation) == 1]
operations = st.sampled_from(GLOBALS) | st.sampled_from(BARE) | st.sampled_from(OPERATIONS)


@fuzz(100)
@given(program=st.lists(operations, max_size=25), legacy=st.booleans())
def test_no_program_is_run(program: Sequence[bytes], legacy: bool, folder: Path) -> None:
    marker = folder / "ran"
    path = str(marker).encode()
    text = b"".join(program).replace(
        struct.pack("<I", len(MARKER)) + MARKER.encode(), struct.pack("<I", len(path)) + path
    )
    content = b"\x80\x02" + text + b"."
    (folder / "weights.pth").write_bytes(in_legacy(content) if legacy else in_zip(content))
    refusal(lambda: load_file(folder / "weights.pth"))
    assert not marker.exists()


def test_an_archive_of_the_oldest_format_is_not_unpacked(folder: Path) -> None:
    with tarfile.open(folder / "weights.pth", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    assert "is a tar archive" in str(refusal(lambda: load_file(folder / "weights.pth")))


def test_a_tensor_does_not_reach_beyond_its_storage(folder: Path) -> None:
    """A tensor of 2 x 2 is said to be one of two billion x 2."""
    with zipfile.ZipFile(io.BytesIO(save_to_bytes({"fc.weight": torch.ones(2, 2)}))) as archive:
        program = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    program, count = re.subn(rb"K\x02K\x02\x86", b"J\xff\xff\xff\x7fK\x02\x86", program)
    assert count == 1
    (folder / "weights.pth").write_bytes(in_zip(program, count=4))
    assert "reaches beyond its storage" in str(refusal(lambda: load_file(folder / "weights.pth")))


def test_pickles_set_no_attributes_of_types_and_replace_no_methods_of_containers(folder: Path) -> None:
    # GLOBAL set, (None, {"__call__": True, "mark": 1}), BUILD
    (folder / "weights.pth").write_bytes(in_zip(b"\x80\x02c__builtin__\nset\nN}X\x04\x00\x00\x00markK\x01s\x86b."))
    refusal(lambda: load_file(folder / "weights.pth"))
    assert not hasattr(set, "mark")
    # GLOBAL OrderedDict, EMPTY_TUPLE, REDUCE, {"items": 1}, BUILD
    program = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb."
    (folder / "weights.pth").write_bytes(in_zip(program))
    assert "holds no tensors, only" in str(refusal(lambda: load_file(folder / "weights.pth")))


# Files that would hang, fill or crash their parser

LEVELS = 100_000
COLLIDING = b"".join(b"\x8a\x0a" + (count * (2**61 - 1)).to_bytes(10, "little") + b"N" for count in range(300_000))
"""Keys of one hash, each of which is compared with all before it, and their values."""
PROGRAMS = {
    # A key that is a tuple which holds the next one twice: its hash would be computed of 2 to the power of 60 parts.
    "key of nested tuples": (b"}K\x01\x85" + b"2\x86" * 60 + b"K\x01s", "nested tuples"),
    # OrderedDict([(1, OrderedDict([(1, …)]))]), each made of the one inside it.
    "nested calls": (
        b"ccollections\nOrderedDict\nq\x00" + b"h\x00]K\x01" * LEVELS + b"K\x02" + b"\x86a\x85R" * LEVELS,
        "nested more than 100 levels deep",
    ),
    "nested lists": (b"]" * LEVELS + b"a" * (LEVELS - 1), "nested more than 100 levels deep"),
    "nested stand-ins": (b"codd\nThing\nq\x000" + b"h\x00)\x81" * LEVELS + b"b" * (LEVELS - 1), "holds one odd.Thing"),
    # A list that holds the next one twice, and is no key.
    "doubling lists": (b"]" + b"q\x000](h\x00h\x00e" * 60, "holds one list"),
    "list in itself": (b"]2a", "holds one list"),
    "keys of one hash": (b"}(" + COLLIDING + b"u", "its parser takes more than 4 s"),
    "array of 16 GiB": (b"\x96" + struct.pack("<Q", 1 << 34), "more than 2.15 GB of memory"),
    "number of many digits": (b"\x8b" + struct.pack("<i", 1 << 20) + bytes((1 << 20) - 1) + b"\x01", "cannot read"),
    "much text": (b"]q\x00(" + b"X\x40\x42\x0f\x00" + bytes(1_000_000) + b"q\x01" + b"h\x01" * 80 + b"e", "67.1 MB"),
}
"""Name -> a pickle, and a part of the line that refuses it."""


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_pickles_that_would_hang_or_crash_are_one_line(
    name: str, compression: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, message = PROGRAMS[name]
    (folder / "weights.pth").write_bytes(in_zip(b"\x80\x05" + program + b".", compression))
    monkeypatch.setattr("bandlens.export.weights.parsed_content.MIN_TIMEOUT_S", 4.0 if "hash" in name else 240.0)
    assert message in str(refusal(lambda: load_file(folder / "weights.pth")))


def test_an_archive_that_says_to_grow_far_is_not_unpacked(folder: Path) -> None:
    with zipfile.ZipFile(folder / "weights.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/version", "3")
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(1 << 16))
        archive.infolist()[-1].file_size = 3 << 29
    assert "unpacked to 1,610,612,7" in str(refusal(lambda: load_file(folder / "weights.pth")))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_storage_that_says_to_be_huge_takes_no_memory(legacy: bool, folder: Path) -> None:
    content = save_to_bytes({"fc.weight": torch.zeros(7)}, legacy)
    count = b"\x8a\x06" + (1 << 40).to_bytes(6, "little")
    if legacy:
        huge = content.replace(b"K\x07", count).replace(struct.pack("<q", 7), struct.pack("<q", 1 << 40))
    else:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            huge = in_zip(archive.read("archive/data.pkl").replace(b"K\x07", count), count=7)
    (folder / "weights.pth").write_bytes(huge)
    assert "storage" in str(refusal(lambda: load_file(folder / "weights.pth")))


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_key_in_a_million_wrappers_is_refused(kind: str, folder: Path) -> None:
    state = {"module." * 1_000_000 + "fc.weight": torch.ones(2)}
    content = save(state) if kind == "safetensors" else save_to_bytes(state, legacy=kind == "legacy")
    (folder / "weights.pth").write_bytes(content)
    assert "has a key of 7,000,009 characters" in str(refusal(lambda: load_file(folder / "weights.pth")))


def test_compressed_weights_are_unpacked(folder: Path) -> None:
    (folder / "weights.pth").write_bytes(in_zip(b"", zipfile.ZIP_DEFLATED, count=1000))
    assert torch.equal(read_weights([(folder / "weights.pth", "own")]).tensors["a"], torch.zeros(1000))


def test_a_command_ends_with_one_line_where_the_parser_hangs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "weights.pth").write_bytes(in_zip(b"\x80\x05}(" + COLLIDING + b"u."))
    monkeypatch.setattr("bandlens.export.weights.parsed_content.MIN_TIMEOUT_S", 4.0)
    words = ("--architecture", "resnet18", "--normalization", "none", "--out", folder / "models")
    error = failure(invoke("export", folder / "weights.pth", *words))
    assert error.exit_code == 1
    assert re.fullmatch(r"cannot read weights from .*: its parser takes more than 4 s; .*--trust", str(error))
    assert not list(folder.glob("models/*"))
