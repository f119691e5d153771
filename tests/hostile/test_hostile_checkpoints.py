"""Checkpoint files of someone else's: weights or one line, no code run, nothing written, little time and memory."""

from __future__ import annotations

import io
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from fuzzing import TIMES, assert_refused, damaged, fuzz, limited, refusal
from hypothesis import given
from hypothesis import strategies as st
from odd_archives import Archive, Entry, campaign, entries_of, load, script, written
from safetensors.torch import save

from bandlens.export.weights.read import Weights, load_strictly, read_weights


def saved(content: object, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def in_zip(program: bytes, compression: int = zipfile.ZIP_STORED, count: int = 10) -> bytes:
    """A file of torch.save with another pickle in it, and a storage of so many numbers."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(count)}))) as archive,
        zipfile.ZipFile(out, "w", compression) as changed,
    ):
        for name in archive.namelist():
            changed.writestr(name, program if program and name.endswith("data.pkl") else archive.read(name))
    return out.getvalue()


def in_legacy(program: bytes) -> bytes:
    """The older format with another pickle in it."""
    empty, whole = b"\x80\x02}q\x00.", saved({}, legacy=True)
    assert empty in whole
    return whole.replace(empty, program, 1)


STATE = {"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2, dtype=torch.float16)}
WHOLE = {
    "zip": saved({"state_dict": STATE, "epoch": 3, "opt": [(1, {2, "x"}), torch.Size([2])]}),
    "legacy": saved({"state_dict": STATE, "args": None}, legacy=True),
    "safetensors": save(STATE),
}


def loaded(file: Path) -> None:
    """Read a checkpoint as `bandlens export --file` does."""
    network = torch.nn.Sequential()
    network.add_module("fc", torch.nn.Linear(2, 2))
    load_strictly(network, read_weights([(file, "own")]), str(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.mark.parametrize("kind", WHOLE)
def test_the_whole_files_load(kind: str, folder: Path) -> None:
    (folder / "weights.pth").write_bytes(WHOLE[kind])
    loaded(folder / "weights.pth")


@pytest.mark.parametrize("kind", WHOLE)
@fuzz(100)
@given(data=st.data())
def test_damaged_files_load_or_are_one_line(kind: str, folder: Path, data: st.DataObject) -> None:
    (folder / "weights.pth").write_bytes(data.draw(damaged(WHOLE[kind])))
    refusal(lambda: loaded(folder / "weights.pth"))


# Programs

MARKER = "@MARKER@"
CALLS = [
    "os mkdir",
    "posix mkdir",
    "posix system",
    "builtins exec",
    "__builtin__ eval",
    "subprocess call",
    "shutil rmtree",
]
INNOCENT = [
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch FloatStorage", "torch.nn Linear",
    "torch float32", "torch Size", "collections OrderedDict", "collections Counter", "collections defaultdict",
    "__builtin__ set", "builtins frozenset", "builtins bytearray", "builtins getattr", "_codecs encode",
    "copyreg _reconstructor", "numpy.core.multiarray scalar", "numpy dtype", "argparse Namespace", "functools partial",
    "odd Thing",
]  # fmt: skip
GLOBALS = [f"c{name.replace(' ', chr(10))}\n".encode() for name in CALLS + INNOCENT]
PUSHES = [
    b"N", b"\x88", b"K\x01", b"K\x00", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"G\x7f\xf8" + b"\0" * 6,
    b")", b"]", b"}", b"(", b"\x8f", b"C\x02ab", b"X\x01\x00\x00\x00a", b"\x8a\x05\xff\xff\xff\xff\x01", b"2", b"0",
    b"1", b"I99999999999\n", b"L5L\n", b"V\\u0041\n", b"S'x'\n",
    b"X" + struct.pack("<I", len(MARKER)) + MARKER.encode(),
]  # fmt: skip
HUGE = b"\xff\xff\xff\xff\xff\x00\x00\x00"
ACTIONS = [
    b"R", b"\x81", b"\x92", b"b", b"s", b"u", b"a", b"e", b"\x90", b"\x91", b"t", b"\x85", b"\x86", b"\x87", b"l", b"d",
    b"o", b"q\x01", b"h\x01", b"r\xff\xff\xff\x0f", b"Q", b"\x93", b"\x94", b"ios\nmkdir\n", b"P1\n", b"\x82\x01",
    b"\x96" + HUGE, b"\x8e" + HUGE, b"\x95\x10" + bytes(7),
]  # fmt: skip
operations = st.sampled_from(GLOBALS) | st.sampled_from(PUSHES) | st.sampled_from(ACTIONS)


@fuzz(300)
@given(program=st.lists(operations, max_size=25), legacy=st.booleans())
def test_no_program_is_run(program: Sequence[bytes], legacy: bool, folder: Path) -> None:
    marker = folder / "ran"
    path = str(marker).encode()
    text = b"".join(program).replace(
        struct.pack("<I", len(MARKER)) + MARKER.encode(), struct.pack("<I", len(path)) + path
    )
    content = b"\x80\x02" + text + b"."
    (folder / "weights.pth").write_bytes(in_legacy(content) if legacy else in_zip(content))
    refusal(lambda: loaded(folder / "weights.pth"))
    assert not marker.exists()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_calls_are_named(name: str, legacy: bool, folder: Path) -> None:
    program = b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n(X\x01\x00\x00\x00atR."
    (folder / "weights.pth").write_bytes(in_legacy(program) if legacy else in_zip(program))
    assert f"wants to call {name.replace(' ', '.')}" in str(refusal(lambda: loaded(folder / "weights.pth")))


# Archives that readers read differently


def with_decoys(program: list[Entry]) -> Archive:
    """An archive with a second directory behind the first one, which names nothing that tells a program."""
    return Archive(program, hidden=[(entry, entry.name.replace(b"constants", b"constantz")) for entry in program])


def two_directories(program: list[Entry]) -> bytes:
    """Python takes the directory that lies before the end record, torch the one that the record points to."""
    archive = with_decoys(program)
    archive.zip64 = False
    return written(archive)


def two_zip64_records(program: list[Entry]) -> bytes:
    """Python takes the zip64 record that lies before its locator, torch the one that the locator points to."""
    archive = with_decoys(program)
    archive.strayed, archive.pointer = True, 0b10
    return written(archive)


def followed(size: int, program: list[Entry]) -> bytes:
    """Python looks for the end record in fewer bytes at the end of the file than torch."""
    return written(Archive(program, suffix=bytes(size)))


HIDING = {
    **{f"{size} bytes after the end": partial(followed, size) for size in (66_000, 67_000, 68_000, 69_000)},
    "two directories": two_directories,
    "two zip64 records": two_zip64_records,
}


@pytest.mark.parametrize("way", HIDING)
def test_no_archive_hides_a_program(way: str, tmp_path: Path) -> None:
    marker, file = tmp_path / "ran", tmp_path / "weights.pth"
    file.write_bytes(HIDING[way](entries_of(script(marker))))
    assert load(file) == []
    assert not marker.exists()


def test_archives_on_which_readers_disagree_run_no_code(folder: Path) -> None:
    results = campaign(TIMES * 300, 0, folder)
    assert results["other readers disagree"] > 50
    assert results["loaded"] > 0


def test_an_archive_of_the_oldest_format_is_not_unpacked(folder: Path) -> None:
    with tarfile.open(folder / "weights.pth", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    assert "is a tar archive" in str(refusal(lambda: loaded(folder / "weights.pth")))


# Bombs

UNKNOWN = b"codd\nThing\n0"


def of_itself(times: int) -> bytes:
    """A tuple of a tuple of … twice each, as the key of a mapping."""
    return b"}" + b")q\x01" + b"0h\x01h\x01\x86q\x01" * times + b"K\x01s"


def overlapping() -> bytes:
    """A zip of one million zeros under two thousand names."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(10**6))
        entry = archive.infolist()[-1]
        for number in range(1, 2000):
            copy = zipfile.ZipInfo(f"archive/data/{number}")
            copy.header_offset, copy.CRC, copy.file_size = entry.header_offset, entry.CRC, entry.file_size
            copy.compress_size = entry.compress_size
            archive.filelist.append(copy)
    return out.getvalue()


def in_members(count: int) -> bytes:
    """A zip of so many members beside its pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        for number in range(count):
            archive.writestr(f"archive/data/{number}", b"")
    return out.getvalue()


def nested(start: bytes, times: int, around: bytes) -> bytes:
    """A pickled dictionary whose key is what `start` pushes, within so many containers, each made by `around`."""
    return b"\x80\x02}" + start + around * times + b"K\x01s."


def with_huge_tensor(before: bytes, after: bytes) -> bytes:
    """A program with a tensor of a trillion elements, of which there is one, on top of what lies before it."""
    body = pickle_of(saved(torch.zeros(1).expand(1 << 20, 1 << 20)))[2:-1]
    return in_zip(b"\x80\x02" + before + body + after + b".", count=1)


def huge_storage(program: bytes) -> bytes:
    """The same tensor, said to have as many elements as fit into 31 bits."""
    changed, times = re.subn(rb"(?<=cpuq.)K\x04", b"J\xff\xff\xff\x7f", program, flags=re.DOTALL)
    assert times == 1
    return changed


def beyond_the_end(program: bytes) -> bytes:
    """The same tensor of 2 x 2, made two billion x 2."""
    changed, times = re.subn(rb"K\x02K\x02\x86", b"J\xff\xff\xff\x7fK\x02\x86", program)
    assert times == 1
    return changed


def pickle_of(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def bombs() -> dict[str, bytes]:
    """Small files by what is wrong with them. Making them takes seconds, and so no worker does that to collect."""
    return {
        "an index of a quarter of a billion": in_legacy(b"\x80\x02" + UNKNOWN + b"]r\xff\xff\xff\x0f."),
        "the same in a zip": in_zip(b"\x80\x02" + UNKNOWN + b"]r\xff\xff\xff\x0f."),
        "ten gigabytes of nothing": in_zip(b"\x80\x02c__builtin__\nbytearray\n(\x8a\x05\x00\xe4\x0bT\x02tR."),
        "ten gigabytes of bytearray": in_zip(b"\x80\x05\x96" + struct.pack("<Q", 10**10) + b"."),
        "a terabyte of bytes": in_legacy(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x."),
        "a frame of a terabyte": in_legacy(b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"]."),
        "a tuple of itself": in_legacy(b"\x80\x02" + of_itself(60) + b"."),
        "a tuple of itself in a zip": in_zip(b"\x80\x02" + of_itself(60) + b"."),
        "a tuple in a tuple": in_zip(nested(b")", 300_000, b"\x85")),
        "a tuple in a tuple in the older format": in_legacy(nested(b")", 300_000, b"\x85")),
        "a mapping in a mapping": in_zip(
            b"\x80\x02" + b"ccollections\ndefaultdict\n)RK\x01" * 300_000 + b"N" + b"s" * 300_000 + b"."
        ),
        "a tuple as a key a million times": in_zip(
            b"\x80\x02}(" + b"N" * 10**6 + b"tq\x010" + b"h\x01Ns" * 10**6 + b"."
        ),
        "a set a hundred thousand times": in_zip(
            b"\x80\x02](" + b"K\x01" * 10**6 + b"e\x85q\x01c__builtin__\nset\nq\x020" + b"h\x02h\x01R0" * 10**5 + b"N."
        ),
        "a tensor beyond its storage": in_zip(
            beyond_the_end(pickle_of(saved({"fc.weight": torch.ones(2, 2)}))), count=4
        ),
        "a sum with a tensor": with_huge_tensor(b"", b"(K\x01\x90"),
        "an assignment to a tensor": with_huge_tensor(b"", b"\x88K\x01s"),
        "arguments of a tensor": with_huge_tensor(b"c__builtin__\nset\n", b"R"),
        "an object of a tensor": with_huge_tensor(b"codd\nThing\n", b"\x81"),
        "pairs of a tensor": with_huge_tensor(b"ccollections\nOrderedDict\n]", b"a\x85R"),
        "a number of ten million digits": in_zip(b"\x80\x02}I0x" + b"f" * 10**7 + b"\nK\x01s."),
        "a million wrappers around a name": saved({"module." * 10**6: torch.zeros(1)}),
        "a key that cannot be written out": in_zip(nested(b")", 990, b"\x85")),
        "half a gigabyte compressed": in_zip(b"", zipfile.ZIP_DEFLATED, 125_000_000),
        "members that overlap": overlapping(),
        "a tensor of one element many times": saved(
            {"fc.weight": torch.zeros(1).expand(1 << 20, 1 << 20), "fc.bias": torch.zeros(2)}
        ),
        "a set of such a tensor": with_huge_tensor(b"c__builtin__\nset\n", b"\x85R"),
        "a storage of eight gigabytes": in_zip(huge_storage(pickle_of(saved({"fc.weight": torch.ones(2, 2)})))),
        "the same in the older format": huge_storage(saved({"fc.weight": torch.ones(2, 2)}, legacy=True)),
        "lists in lists": in_legacy(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
        "the start of a million lists": in_legacy(b"\x80\x02" + b"(" * 1_000_000 + b"."),
        "a header of safetensors": struct.pack("<Q", 1 << 40) + b"{" + b" " * 1000,
        "titles of a web page": b"<html" + b"<title" * 20_000,
    }  # fmt: skip


def test_small_files_do_not_become_large(folder: Path) -> None:
    files = {}
    for number, (name, content) in enumerate(bombs().items()):
        files[name] = folder / f"bomb{number}.pth"
        files[name].write_bytes(content)
    code = """
import torch
from pathlib import Path
from bandlens.export.weights.read import load_strictly, read_weights
network = torch.nn.Sequential()
network.add_module("fc", torch.nn.Linear(2, 2))
limit(20_000)  # as much as a machine has: a refusal is no failure to find room
for file in sys.argv[1:]:
    attempt(file, lambda: load_strictly(network, read_weights([(Path(file), "own")]), file))
"""
    attempts = limited(code, *files.values())
    for name, file in files.items():
        assert_refused({"name": name} | attempts[str(file)])


NUMBERS = b"K\x01" * 10**5
FRAME = b"\x95" + struct.pack("<Q", len(NUMBERS))
MANY = {
    "numbers": (lambda: in_zip(b"\x80\x02](" + NUMBERS * 100 + b"e."), "millions of values beside its tensors"),
    "numbers in the older format": (lambda: in_legacy(b"\x80\x02](" + NUMBERS * 100 + b"e."), "millions of values"),
    "numbers in frames": (lambda: in_zip(b"\x80\x04](" + (FRAME + NUMBERS) * 100 + b"e."), "millions of values"),
    "members": (lambda: in_members(100_000), "100,001 tensors, and at most 50,000 are read"),
    "tensors in safetensors": (lambda: save({f"fc.{k}": torch.zeros(1) for k in range(60_000)}), "60,000 tensors"),
}
"""Calls that make files of very many values, each with what is said to be in its file."""


@pytest.mark.parametrize("kind", MANY)
def test_files_of_very_many_values_are_refused_before_they_are_built(kind: str, folder: Path) -> None:
    make, content = MANY[kind]
    (folder / "weights.pth").write_bytes(make())
    assert f"holds {content}" in str(refusal(lambda: loaded(folder / "weights.pth")))


def test_pickles_hold_no_attributes_of_what_they_are_given(folder: Path) -> None:
    # GLOBAL set, (None, {"__call__": True, "mark": 1}), BUILD
    program = b"\x80\x02c__builtin__\nset\nN}X\x04\x00\x00\x00markK\x01s\x86b."
    (folder / "weights.pth").write_bytes(in_zip(program))
    refusal(lambda: loaded(folder / "weights.pth"))
    assert not hasattr(set, "mark")
    assert pickle.loads(pickle.dumps({1})) == {1}


def test_pickles_replace_no_methods_of_their_containers(folder: Path) -> None:
    # GLOBAL OrderedDict, EMPTY_TUPLE, REDUCE, {"items": 1}, BUILD
    program = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb."
    (folder / "weights.pth").write_bytes(in_zip(program))
    assert "holds no tensors, only" in str(refusal(lambda: loaded(folder / "weights.pth")))


def test_a_tensor_of_another_shape_is_not_looked_into() -> None:
    network = torch.nn.Linear(2, 2)
    tensors = {"weight": torch.full((1,), torch.nan).expand(1 << 20, 1 << 20), "bias": torch.zeros(2)}
    message = refusal(lambda: load_strictly(network, Weights(tensors), "x"))
    assert message == (
        "x does not fit the architecture: 1 misshapen (weight (1048576, 1048576) instead of (2, 2)); "
        "check architecture and key rule"
    )
